//! How look-ups went: for the program, and for the host's metrics.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use ember_metrics::CacheResult;

use crate::request::Request;

/// How look-ups went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Answered by a fresh reply.
    pub hits: u64,
    /// Answered by one that was being refreshed.
    pub stale: u64,
    /// The handler was called.
    pub misses: u64,
    /// Waited for somebody else's call.
    pub coalesced: u64,
    /// Went past the cache.
    pub bypassed: u64,
}

/// The counters of one cache.
#[derive(Default)]
pub(super) struct Counts([AtomicU64; RESULTS.len()]);

const RESULTS: [CacheResult; 5] = [
    CacheResult::Hit,
    CacheResult::Stale,
    CacheResult::Miss,
    CacheResult::Coalesced,
    CacheResult::Bypass,
];

/// What a thread has counted for a route since its host has asked last.
struct Pending {
    route: Box<str>,
    counts: [u64; RESULTS.len()],
}

thread_local! {
    static PENDING: RefCell<Vec<Pending>> = const { RefCell::new(Vec::new()) };
}

/// Hands what this thread's caches have counted to its host: the route's name, what came of
/// look-ups, and how often since the last call.
pub fn take_counts(mut write: impl FnMut(&str, CacheResult, u64)) {
    PENDING.with_borrow_mut(|pending| {
        for route in pending {
            for (result, count) in RESULTS.into_iter().zip(&mut route.counts) {
                match std::mem::take(count) {
                    0 => {}
                    count => write(&route.route, result, count),
                }
            }
        }
    });
}

impl Counts {
    pub(super) fn add(&self, request: &Request, result: CacheResult) {
        let at = RESULTS.iter().position(|known| *known == result).unwrap_or(0);
        self.0[at].fetch_add(1, Ordering::Relaxed);
        let route = request.route();
        PENDING.with_borrow_mut(|pending| {
            // Routes with caches are few.
            let known = pending.iter_mut().find(|pending| &*pending.route == route);
            match known {
                Some(pending) => pending.counts[at] += 1,
                None => {
                    let mut counts = [0; RESULTS.len()];
                    counts[at] = 1;
                    pending.push(Pending { route: route.into(), counts });
                }
            }
        });
    }

    pub(super) fn stats(&self) -> CacheStats {
        let [hits, stale, misses, coalesced, bypassed] =
            std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed));
        CacheStats { hits, stale, misses, coalesced, bypassed }
    }
}
