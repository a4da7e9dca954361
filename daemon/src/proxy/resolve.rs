//! The addresses of upstreams, and looking up of names.
//!
//! A worker that has upstreams with names has one thread that looks them up, each again when the
//! lifetime of its last answer ends, so that no request waits for a name server once the first
//! answer is there. An answer is used until there is a newer one, however old it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use std::{future, thread};

use ember::net::Address;

use super::name_server;
use crate::config::Upstream;

/// The shortest lifetime of an answer: a name server is asked no more often.
const LIFETIME_MIN: Duration = Duration::from_secs(1);
/// The longest: a mistake in a zone shall be mended within it.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// When a name that could not be looked up is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where an upstream is.
#[derive(Debug)]
pub(super) struct Addresses {
    /// What is looked up.
    name: Option<(String, u16)>,
    known: RwLock<Option<Arc<[Address]>>>,
    /// Those who wait for the first answer.
    waiting: Mutex<Vec<Waker>>,
}

impl Addresses {
    pub(super) fn of(upstream: &Upstream) -> Arc<Addresses> {
        let (name, known) = match upstream {
            Upstream::Tcp(address) => (None, Some([Address::Inet(*address)].into())),
            Upstream::Unix(path) => (None, Some([Address::Unix(path.clone())].into())),
            Upstream::Name(name, port) => (Some((name.clone(), *port)), None),
        };
        Arc::new(Addresses { name, known: RwLock::new(known), waiting: Mutex::default() })
    }

    /// The addresses; waits for the first answer to a name.
    pub(super) async fn wait(&self) -> Arc<[Address]> {
        future::poll_fn(|cx| {
            if let Some(known) = self.known() {
                return Poll::Ready(known);
            }
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // The answer may have come just before the lock did.
            match self.known() {
                Some(known) => Poll::Ready(known),
                None => {
                    waiting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.name.is_none() || self.known().is_some_and(|known| known.contains(address))
    }

    fn known(&self) -> Option<Arc<[Address]>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, addresses: &[IpAddr], port: u16) {
        let known = addresses.iter().map(|ip| Address::Inet(SocketAddr::new(*ip, port)));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known.collect());
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Looks the name up; when to do so again.
    fn refresh(&self) -> Duration {
        let Some((name, port)) = &self.name else { return LIFETIME_MAX };
        match name_server::look_up(name) {
            Ok((addresses, lifetime)) => {
                self.set(&addresses, *port);
                lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX)
            }
            Err(_) => {
                // Requests shall not wait for a name that nobody knows; old answers stay.
                if self.known().is_none() {
                    self.set(&[], *port);
                }
                RETRY
            }
        }
    }
}

/// Keeps the names among these looked up, on a thread of its own, as long as somebody uses them.
pub(super) fn keep_up(all: impl Iterator<Item = Arc<Addresses>>) {
    let names = all.filter(|addresses| addresses.name.is_some());
    let mut due: Vec<_> = names.map(|names| (Instant::now(), Arc::downgrade(&names))).collect();
    if due.is_empty() {
        return;
    }
    let run = move || {
        while !due.is_empty() {
            due.retain_mut(|(at, names)| {
                let Some(names) = names.upgrade() else { return false };
                if *at <= Instant::now() {
                    *at = Instant::now() + names.refresh();
                }
                true
            });
            if let Some(next) = due.iter().map(|(at, _)| *at).min() {
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("emberd-names".to_owned()).spawn(run) {
        eprintln!("emberd: no thread to look upstreams up: {error}");
    }
}
