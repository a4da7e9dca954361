//! Replies kept in the memory of the process.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ember_metrics::CacheResult;

use super::counts::{CacheStats, Counts};
use super::reply::{Judged, Reply, Rules, key_of_path, now_ms};
use super::{Found, Hit, Landing, Lead, RouteCache, Store, StoreLimits, Ttl};
use crate::handler::Handler;
use crate::request::Request;
use crate::response::Response;
use crate::time::timeout;

/// How long a refresh behind a stale reply may take before somebody else may try.
const REFRESH_MAX: Duration = Duration::from_secs(30);

/// Keeps the good replies of a route for a while.
///
/// Requests for the same thing while its handler runs wait for that one call; if it fails, or its
/// client goes away, one of them calls it again. Kept are replies with a status that is no error
/// to GET and HEAD, unless they set a cookie or their `Cache-Control` or `Vary` forbid it. Requests
/// with a body, with preconditions, and with cookies or an `Authorization` that the key does not
/// contain go past the cache.
///
/// It is part of the route's handler: whatever stands before the handler, such as a check of
/// credentials, runs before the cache is asked.
///
/// Clones are the same cache. Each worker process has its own.
///
/// ```
/// use std::time::Duration;
/// use ember::{App, Request, TtlCache};
///
/// let tasks = TtlCache::secs(1).stale(Duration::from_secs(10)).vary(["accept"]);
/// let app = App::new()
///     .get("/tasks", |_: &Request| "[]").cache(tasks.clone())
///     .delete("/tasks", move |_: &Request| {
///         tasks.invalidate_prefix("/tasks");
///     });
/// # assert_eq!(app.build().unwrap().routes().len(), 1);
/// ```
#[derive(Clone)]
pub struct TtlCache {
    ttl: Ttl,
    limits: StoreLimits,
    rules: Rules,
    store: Arc<Store<Reply>>,
    counts: Arc<Counts>,
}

thread_local! {
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl TtlCache {
    /// Replies are fresh for so long. Up to 10,000 of them with 64 MiB in all are kept, none larger
    /// than 1 MiB.
    #[must_use]
    pub fn new(fresh: Duration) -> TtlCache {
        let limits =
            StoreLimits { entries_max: 10_000, bytes_max: 64 << 20, value_bytes_max: 1 << 20 };
        TtlCache {
            ttl: Ttl { fresh_ms: ms(fresh), ..Ttl::default() },
            limits,
            rules: Rules::default(),
            store: Store::new(limits),
            counts: Arc::default(),
        }
    }

    /// Replies are fresh for so many seconds.
    #[must_use]
    pub fn secs(fresh: u64) -> TtlCache {
        TtlCache::new(Duration::from_secs(fresh))
    }

    /// For so long behind that, a reply is still used while a newer one is fetched.
    #[must_use]
    pub fn stale(mut self, stale: Duration) -> TtlCache {
        self.ttl.stale_ms = ms(stale);
        self
    }

    /// For so long behind its freshness, a reply is used where the handler fails (5xx).
    #[must_use]
    pub fn stale_if_error(mut self, stale: Duration) -> TtlCache {
        self.ttl.error_ms = ms(stale);
        self
    }

    /// Other bounds. What was kept so far stays with the clones that were made before.
    #[must_use]
    pub fn limits(mut self, limits: StoreLimits) -> TtlCache {
        self.limits = limits;
        self.store = Store::new(limits);
        self
    }

    /// Replies differ by these header fields of requests, besides method, path and query.
    #[must_use]
    pub fn vary<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> TtlCache {
        let names = names.into_iter().map(|name| name.as_ref().to_ascii_lowercase());
        self.rules.vary.extend(names);
        self
    }

    /// Serves requests with cookies or an `Authorization` too, whosever they are: the replies are
    /// the same for all who may ask.
    #[must_use]
    pub fn shared_between_users(mut self) -> TtlCache {
        self.rules.with_credentials = true;
        self
    }

    /// Forgets the replies to all requests for this path, whatever their query. A reply that is
    /// being made will be given to those who wait for it, but not kept.
    pub fn invalidate(&self, path: &str) -> usize {
        self.store.remove_prefix(&key_of_path(path))
    }

    /// The same for all paths that begin so.
    pub fn invalidate_prefix(&self, prefix: &str) -> usize {
        self.store.remove_prefix(prefix.as_bytes())
    }

    /// Replies that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether none are kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// How look-ups went, in this process.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.counts.stats()
    }

    async fn answer(self: Arc<Self>, handler: Handler, request: Request) -> Response {
        if !self.rules.cover(&request) {
            self.counts.add(&request, CacheResult::Bypass);
            return handler.call(request).await;
        }
        let mut waited = false;
        loop {
            let found = KEY.with_borrow_mut(|key| {
                self.rules.write_key(&request, key);
                self.store.look_up(key, now_ms())
            });
            match found {
                Found::Fresh(hit) => {
                    let result = if waited { CacheResult::Coalesced } else { CacheResult::Hit };
                    self.counts.add(&request, result);
                    return told(&hit);
                }
                Found::Stale { hit, refresh } => {
                    self.counts.add(&request, CacheResult::Stale);
                    if let Some(lead) = refresh {
                        let fetch = Arc::clone(&self).lead(handler, request, lead);
                        drop(crate::spawn(timeout(REFRESH_MAX, fetch)));
                    }
                    return told(&hit);
                }
                Found::Lead(lead) => {
                    self.counts.add(&request, CacheResult::Miss);
                    return self.lead(handler, request, lead).await;
                }
                Found::Pass => {
                    self.counts.add(&request, CacheResult::Bypass);
                    return handler.call(request).await;
                }
                Found::Wait(wait) => match wait.await {
                    Landing::Value(reply) => {
                        self.counts.add(&request, CacheResult::Coalesced);
                        return reply.response(0);
                    }
                    // What it was told is known to the next look-up.
                    Landing::Pass | Landing::Gone => waited = true,
                },
            }
        }
    }

    /// Calls the handler for all who wait. Dropped, it drops the lead, which wakes them.
    async fn lead(
        self: Arc<Self>,
        handler: Handler,
        request: Request,
        lead: Lead<Reply>,
    ) -> Response {
        match self.rules.judge(handler.call(request).await) {
            Judged::Good(reply) => {
                let bytes = reply.bytes();
                lead.store(Arc::clone(&reply), bytes, self.ttl, now_ms());
                reply.response(0)
            }
            Judged::Uncacheable(response) => {
                lead.pass(self.ttl.fresh_ms, now_ms());
                response
            }
            Judged::Singular(response) => response,
            Judged::Failed(response) => {
                let previous = lead.previous().filter(|previous| previous.usable_on_error);
                let Some(previous) = previous else { return response };
                let (reply, stale) = (Arc::clone(&previous.hit.value), told(&previous.hit));
                lead.share(reply);
                stale
            }
        }
    }
}

impl RouteCache for TtlCache {
    fn wrap(&self, handler: Handler) -> Handler {
        let cache = Arc::new(self.clone());
        Handler::new(move |request: Request| Arc::clone(&cache).answer(handler.clone(), request))
    }
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn told(hit: &Hit<Reply>) -> Response {
    hit.value.response(hit.age_ms)
}

impl fmt::Debug for TtlCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TtlCache")
            .field("ttl", &self.ttl)
            .field("limits", &self.limits)
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
