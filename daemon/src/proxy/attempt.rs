//! Trying upstreams, one after another, until one replies.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use ember::net::Stream;
use ember::time;
use ember_http::Method;
use ember_http::proxy_protocol::{Proxied, ProxyVersion};
use ember_http::upstream::Fault;
use ember_metrics::{Key, STATUS_UNKNOWN};
use ember_uring::{Payload, PeerAddr};

use super::failure::{Cause, Failure};
use super::fetched::Fetched;
use super::plan::Plan;
use super::pool::{self, Connection};
use super::upload::Broken;
use super::{Loaded, Proxy, clock, counted};
use crate::config::ProxyProtocol;

/// Interim replies that are read and dropped in front of the final one.
const INTERIM_MAX: usize = 32;

/// A try that has failed.
struct Failed {
    cause: Cause,
    /// How far it came.
    stage: Stage,
    /// On a connection that was kept.
    reused: bool,
}

/// How far a try came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was sent.
    Unsent,
    /// Something was sent, nothing came back.
    Sent,
    /// Something came back, or waiting was of no use.
    Over,
}

/// What an exchange can end with besides a reply.
enum Ended {
    Failed(Cause, Stage),
    Client(ember::Error),
}

/// Gets a reply, its body yet to come, from one of the proxy's upstreams.
pub(super) async fn fetch(proxy: &Arc<Proxy>, mut plan: Plan) -> Result<Fetched, Failure> {
    let mut retries = proxy.rules.retries;
    let mut tried = 0u64;
    let mut stale = false;
    loop {
        let loaded = proxy.choose(plan.hash, tried)?;
        let at = loaded.at;
        let failed = match attempt(&loaded, &mut plan, stale).await {
            Ok(connection) => {
                return Fetched::new(loaded, connection, plan).map_err(|cause| {
                    proxy.upstreams[at].health.failed(clock::now_ms());
                    proxy.failed(at, cause)
                });
            }
            Err(Ok(failed)) => failed,
            Err(Err(error)) => return Err(Failure::Client(error)),
        };
        // A connection that was kept may end while a request is on its way to it: that says nothing
        // about the upstream, which gets its chance on a new one.
        let raced = failed.reused && failed.stage == Stage::Sent && !stale;
        if !raced {
            proxy.upstreams[at].health.failed(clock::now_ms());
            pool::clear(&proxy.upstreams[at], proxy.upstreams[at].health.standing(clock::now_ms()));
            tried |= 1 << at.min(63);
        }
        if !may_retry(&plan, &failed) || !raced && retries == 0 {
            return Err(proxy.failed(at, failed.cause));
        }
        stale = raced;
        retries -= u32::from(!raced);
        plan.upload.restart();
    }
}

/// Whether the request may be sent once more.
fn may_retry(plan: &Plan, failed: &Failed) -> bool {
    let idempotent = matches!(
        plan.method,
        Method::Get | Method::Head | Method::Options | Method::Put | Method::Delete
    );
    match failed.stage {
        Stage::Unsent => plan.upload.can_start(),
        // RFC 9110 section 9.2.2.
        Stage::Sent => idempotent && plan.upload.can_start() && !plan.upgrade,
        Stage::Over => false,
    }
}

/// Sends the request to an upstream and waits for the head of its reply. `fresh` asks for a new
/// connection.
async fn attempt(
    loaded: &Loaded,
    plan: &mut Plan,
    fresh: bool,
) -> Result<Connection, Result<Failed, ember::Error>> {
    let mut connection = match connection_for(loaded, plan, fresh).await {
        Ok(connection) => connection,
        Err(cause) => {
            counted::count(Key::upstream_requests(loaded.upstream().label, STATUS_UNKNOWN));
            return Err(Ok(Failed { cause, stage: Stage::Unsent, reused: false }));
        }
    };
    let ended = exchange(loaded, plan, &mut connection).await;
    let status = match &ended {
        Ok(()) => connection.head.status(),
        Err(_) => STATUS_UNKNOWN,
    };
    counted::count(Key::upstream_requests(loaded.upstream().label, status));
    match ended {
        Ok(()) => {
            loaded.upstream().health.succeeded();
            Ok(connection)
        }
        Err(Ended::Failed(cause, stage)) => {
            Err(Ok(Failed { cause, stage, reused: connection.reused }))
        }
        Err(Ended::Client(error)) => Err(Err(error)),
    }
}

async fn connection_for(loaded: &Loaded, plan: &Plan, fresh: bool) -> Result<Connection, Cause> {
    let (rules, upstream) = (&loaded.proxy.rules, loaded.upstream());
    let tells = rules.proxy_protocol != ProxyProtocol::Off;
    let once = !matches!(plan.method, Method::Get | Method::Head | Method::Options);
    if !fresh
        && !tells
        && !plan.upgrade
        && let Some(connection) = pool::take(upstream, once)
    {
        return Ok(connection);
    }
    let mut connection = match time::timeout(rules.connect_timeout, connect(loaded)).await {
        Ok(connected) => connected?,
        Err(_) => return Err(Cause::ConnectTime(rules.connect_timeout)),
    };
    if tells {
        let header = proxied(rules.proxy_protocol, plan.client.as_ref());
        connection.stream.send(header).await.map_err(Cause::Connect)?;
    }
    Ok(connection)
}

/// Connects to the first of the upstream's addresses that answers.
async fn connect(loaded: &Loaded) -> Result<Connection, Cause> {
    let addresses = loaded.upstream().addresses.wait().await;
    let mut last = Cause::Name;
    for address in addresses.iter() {
        match Stream::connect(address).await {
            Ok(stream) => return Ok(Connection::new(stream, address.clone())),
            Err(error) => last = Cause::Connect(error),
        }
    }
    Err(last)
}

/// What stands in front of a connection for this client; for none, that it is the proxy's own.
pub(super) fn proxied(version: ProxyProtocol, client: Option<&PeerAddr>) -> Vec<u8> {
    let proxied = match client {
        // Where it connected to is not known here; its own address is of the same family, and
        // port 0 says that nothing else is meant by it.
        Some(PeerAddr::Inet(source)) => Proxied::Client {
            source: *source,
            destination: std::net::SocketAddr::new(unspecified(source.ip()), 0),
        },
        _ => Proxied::Local,
    };
    let mut out = Vec::new();
    match version {
        ProxyProtocol::Off => {}
        ProxyProtocol::V1 => proxied.write(ProxyVersion::V1, &mut out),
        ProxyProtocol::V2 => proxied.write(ProxyVersion::V2, &mut out),
    }
    out
}

fn unspecified(like: std::net::IpAddr) -> std::net::IpAddr {
    match like.to_canonical() {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sends the request and reads until the final reply's head is there, at the front of the
/// connection's buffer.
async fn exchange(loaded: &Loaded, plan: &mut Plan, to: &mut Connection) -> Result<(), Ended> {
    let head = plan.head_for(&loaded.upstream().name);
    let broken = |error: io::Error| Ended::Failed(Cause::Broken(error), Stage::Sent);
    to.stream.send(Payload::Owned(head)).await.map_err(broken)?;
    let mut waiting = Waiting { loaded, plan, interim: 0 };
    waiting.start_watch(to);
    poll_fn(|cx| waiting.poll(cx, to)).await
}

/// A request whose reply is waited for.
struct Waiting<'a> {
    loaded: &'a Loaded,
    plan: &'a mut Plan,
    interim: usize,
}

impl Waiting<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, to: &mut Connection) -> Poll<Result<(), Ended>> {
        loop {
            self.pass_body_on(cx, to)?;
            if self.parse(to)? {
                return Poll::Ready(Ok(()));
            }
            let before = to.stream.buffer().len();
            let stage = if before == 0 { Stage::Sent } else { Stage::Over };
            let cause = match to.stream.poll_fill(cx, before) {
                Poll::Ready(Ok(0)) if before == 0 => Cause::Nothing,
                Poll::Ready(Ok(0)) => Cause::Fault(Fault::Truncated),
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => Cause::Broken(error),
                Poll::Pending => {
                    std::task::ready!(to.watch.poll(cx));
                    return Poll::Ready(Err(Ended::Failed(self.too_late(), Stage::Over)));
                }
            };
            return Poll::Ready(Err(Ended::Failed(cause, stage)));
        }
    }

    /// Goes on sending the body; an upstream may reply before it has all of it.
    fn pass_body_on(&mut self, cx: &mut Context<'_>, to: &mut Connection) -> Result<(), Ended> {
        let upload = &mut self.plan.upload;
        if upload.is_sent() {
            return Ok(());
        }
        let before = upload.progress();
        match upload.poll(cx, &to.stream) {
            Poll::Ready(Err(Broken::Client(error))) => return Err(Ended::Client(error)),
            // What it said before it closed is there already.
            Poll::Ready(Err(Broken::Upstream(error))) if to.stream.buffer().is_empty() => {
                return Err(Ended::Failed(Cause::Broken(error), Stage::Sent));
            }
            _ => {}
        }
        if upload.progress() != before {
            self.start_watch(to);
        }
        Ok(())
    }

    /// Parses heads; whether the final one is there.
    fn parse(&mut self, to: &mut Connection) -> Result<bool, Ended> {
        let fault = |fault: Fault| Ended::Failed(Cause::Fault(fault), Stage::Over);
        loop {
            let Connection { stream, head, .. } = to;
            let found = {
                let buffer = stream.buffer();
                if buffer.is_empty() {
                    return Ok(false);
                }
                head.parse(&buffer, &self.loaded.proxy.limits).map_err(fault)?
            };
            let Some(len) = found else { return Ok(false) };
            match head.status() {
                101 if self.plan.upgrade => {}
                101 => return Err(fault(Fault::Upgrade)),
                // 100 answers nobody: the gateway has asked for the body itself. Others, such as
                // 103, may be dropped (RFC 9110 section 15.2).
                100..=199 if self.interim < INTERIM_MAX => {
                    self.interim += 1;
                    stream.consume(len);
                    continue;
                }
                100..=199 => return Err(fault(Fault::Unexpected)),
                _ => {}
            }
            to.head_len = len;
            return Ok(true);
        }
    }

    fn start_watch(&self, to: &mut Connection) {
        let rules = &self.loaded.proxy.rules;
        to.watch.start(match self.plan.upload.is_sent() {
            true => rules.response_timeout,
            false => rules.stall_timeout,
        });
    }

    fn too_late(&self) -> Cause {
        let rules = &self.loaded.proxy.rules;
        match self.plan.upload.is_sent() {
            true => Cause::ResponseTime(rules.response_timeout),
            false => Cause::Stalled(rules.stall_timeout),
        }
    }
}

impl Proxy {
    fn failed(&self, at: usize, cause: Cause) -> Failure {
        Failure::Upstream { at, count: self.upstreams.len(), cause }
    }
}
