//! Connections to upstreams that one thread keeps open while nobody uses them.
//!
//! A kept connection has a receive in flight all the while: its end is noticed when it comes, and
//! the next reply needs no other. What an upstream says unasked ends the connection, so that no
//! reply can be taken for that of another request.

use std::cell::RefCell;
use std::task::{Context, Waker};
use std::time::Duration;

use ember::net::{Address, Stream};
use ember_http::upstream::ReplyHead;

use super::clock;
use super::health::Standing;
use super::watch::Watch;
use super::{Proxy, Upstream};

/// From one look for connections that are over to the next.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A request that must not be sent twice goes out on a connection that was idle for no longer: the
/// longer it was, the likelier the upstream is just about to end it.
const CAUTIOUS_IDLE_MS: u64 = 1000;

/// A connection to an upstream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) head: Box<ReplyHead>,
    /// Bytes of the head that was parsed last, at the front of the stream's buffer.
    pub(super) head_len: usize,
    pub(super) watch: Watch,
    address: Address,
    /// It has carried a request before.
    pub(super) reused: bool,
    idle_since_ms: u64,
}

#[derive(Default)]
struct Pools {
    /// By the places of the upstreams.
    idle: Vec<Vec<Connection>>,
    /// How long those of an upstream are kept.
    kept_ms: Vec<u64>,
    sweeping: bool,
}

thread_local! {
    static POOLS: RefCell<Pools> = RefCell::default();
}

impl Connection {
    /// A connection that was just made.
    pub(super) fn new(stream: Stream, address: Address) -> Connection {
        Connection {
            stream,
            head: Box::default(),
            head_len: 0,
            watch: Watch::default(),
            address,
            reused: false,
            idle_since_ms: 0,
        }
    }
}

/// Takes a connection that is kept for an upstream, the one that was used last. `once` says that
/// what is to be sent must not be sent twice.
pub(super) fn take(upstream: &Upstream, once: bool) -> Option<Connection> {
    POOLS.with_borrow_mut(|pools| {
        let idle = pools.idle.get_mut(upstream.place)?;
        while let Some(connection) = idle.pop() {
            let fits = !once
                || clock::now_ms().saturating_sub(connection.idle_since_ms) < CAUTIOUS_IDLE_MS;
            // Those below it have been idle for longer: they need not be looked at.
            if connection.stream.is_quiet() && fits {
                return Some(connection);
            }
        }
        None
    })
}

/// Keeps a connection for the next request, if there is room.
pub(super) fn put(proxy: &Proxy, upstream: &Upstream, mut connection: Connection) {
    let mut cx = Context::from_waker(Waker::noop());
    if proxy.rules.keepalive == 0 || connection.stream.poll_fill(&mut cx, 0).is_ready() {
        return;
    }
    connection.reused = true;
    connection.idle_since_ms = clock::now_ms();
    let sweep = POOLS.with_borrow_mut(|pools| {
        if pools.idle.len() <= upstream.place {
            pools.idle.resize_with(upstream.place + 1, Vec::new);
            pools.kept_ms.resize(upstream.place + 1, 0);
        }
        pools.kept_ms[upstream.place] = proxy.rules.keepalive_timeout.as_millis() as u64;
        let idle = &mut pools.idle[upstream.place];
        // An address that a name does not have any more may be somebody else's by now.
        if idle.len() < proxy.rules.keepalive && upstream.addresses.has(&connection.address) {
            idle.push(connection);
        }
        !std::mem::replace(&mut pools.sweeping, true)
    });
    if sweep {
        drop(ember::spawn(sweep_up()));
    }
}

/// Lets all connections to an upstream go that is down: they lead to what does not answer.
pub(super) fn clear(upstream: &Upstream, standing: Standing) {
    if standing == Standing::Up {
        return;
    }
    let dropped = POOLS.with_borrow_mut(|pools| {
        pools.idle.get_mut(upstream.place).map(std::mem::take).unwrap_or_default()
    });
    drop(dropped);
}

/// Ends connections that were idle for too long or that upstreams have ended, as long as there are
/// any.
async fn sweep_up() {
    loop {
        ember::time::sleep(SWEEP_EVERY).await;
        let now_ms = clock::now_ms();
        let (over, left) = POOLS.with_borrow_mut(|pools| {
            let mut over = Vec::new();
            let Pools { idle, kept_ms, sweeping } = pools;
            for (idle, kept_ms) in idle.iter_mut().zip(kept_ms) {
                let ended = |connection: &mut Connection| {
                    now_ms.saturating_sub(connection.idle_since_ms) >= *kept_ms
                        || !connection.stream.is_quiet()
                };
                over.extend(idle.extract_if(.., ended));
            }
            *sweeping = idle.iter().any(|idle| !idle.is_empty());
            (over, *sweeping)
        });
        // Their ends tell the runtime, so the pools must not be borrowed.
        drop(over);
        if !left {
            return;
        }
    }
}
