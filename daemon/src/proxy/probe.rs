//! Health checks: requests of the proxy's own, which find out whether an upstream is well.

use std::sync::Arc;

use ember::net::Stream;
use ember::time;
use ember_http::upstream::ReplyHead;
use ember_metrics::Key;
use ember_uring::Payload;

use super::health::Standing;
use super::{Proxy, Upstream, attempt, clock, counted, pool};
use crate::config::{HealthCheck, HostRule};

/// Checks an upstream as long as the thread lives. Without checks in the config, it is only told
/// to be up or left out.
pub(super) fn start(proxy: Arc<Proxy>, at: usize, tells: bool) {
    drop(ember::spawn(async move {
        let upstream = &proxy.upstreams[at];
        let interval = match &proxy.rules.health {
            Some(check) => check.interval,
            None => std::time::Duration::from_secs(1),
        };
        loop {
            if let Some(check) = &proxy.rules.health {
                let well = time::timeout(check.timeout, is_well(&proxy, upstream, check)).await;
                if upstream.health.checked(well.unwrap_or(false)) {
                    let standing = upstream.health.standing(clock::now_ms());
                    let word = if standing == Standing::Down { "down" } else { "up again" };
                    eprintln!(
                        "emberd: upstream {} of {} is {word}",
                        upstream.name, proxy.rules.name
                    );
                    pool::clear(upstream, standing);
                }
            }
            if tells {
                let up = upstream.health.standing(clock::now_ms()) == Standing::Up;
                counted::set(Key::upstream_up(upstream.label), i64::from(up));
            }
            time::sleep(interval).await;
        }
    }));
}

/// Whether the upstream answers a GET with a status from 200 to 399. A connection of its own is
/// part of what is checked.
async fn is_well(proxy: &Proxy, upstream: &Upstream, check: &HealthCheck) -> bool {
    let addresses = upstream.addresses.wait().await;
    let Some(address) = addresses.first() else { return false };
    let Ok(mut stream) = Stream::connect(address).await else { return false };
    let host = match &proxy.rules.host {
        HostRule::Set(host) => host,
        _ if upstream.name.starts_with("unix:") => "localhost",
        _ => &upstream.name,
    };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: emberd-health\r\nConnection: close\r\n\r\n",
        check.path
    );
    let local = attempt::proxied(proxy.rules.proxy_protocol, None);
    let request = [local, request.into_bytes()].concat();
    if stream.send(Payload::Owned(request)).await.is_err() {
        return false;
    }
    let mut head = ReplyHead::default();
    loop {
        let parsed = head.parse(&stream.buffer(), &proxy.limits);
        match parsed {
            Ok(Some(len)) if head.status() < 200 => stream.consume(len),
            Ok(Some(_)) => return (200..400).contains(&head.status()),
            Ok(None) => match stream.fill().await {
                Ok(count) if count > 0 => {}
                _ => return false,
            },
            Err(_) => return false,
        }
    }
}
