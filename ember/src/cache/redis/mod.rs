//! Replies kept in a Redis server, for several machines.

mod client;
mod stored;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use client::{Redis, Server};
use ember_metrics::CacheResult;

use super::counts::{CacheStats, Counts};
use super::reply::{Judged, Reply, Rules, key_of_path, now_ms};
use super::ttl::ms;
use super::{Found, Landing, Lead, RouteCache, Store, StoreLimits};
use crate::handler::Handler;
use crate::request::Request;
use crate::response::Response;
use crate::time::timeout;

/// How long a request waits for Redis before its handler is called instead.
const PATIENCE: Duration = Duration::from_millis(100);
/// Bytes of a reply at most; larger ones are not kept.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// Keys that a process remembers as not cacheable.
const PASSES_MAX: usize = 10_000;

/// Keeps the good replies of a route in Redis, where all processes and machines with the same
/// prefix find them. What is kept, and for which requests, is as with [`crate::TtlCache`].
///
/// While Redis is away, or takes longer than 100 ms, requests go to their handlers as if nothing
/// had been kept; connecting is tried again with growing pauses of up to two seconds. Each process
/// has one call of the handler under way for each key; two processes may call theirs at the same
/// time.
///
/// ```
/// use std::time::Duration;
/// use ember::{App, RedisCache, Request};
///
/// let cache = RedisCache::new("redis://127.0.0.1:6379/0", Duration::from_secs(5))?
///     .prefix("shop")
///     .vary(["accept"]);
/// let app = App::new().get("/tasks", |_: &Request| "[]").cache(cache);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct RedisCache {
    server: Arc<Server>,
    ttl_ms: u64,
    prefix: String,
    rules: Rules,
    /// Flights, and what is not cacheable; no replies.
    flights: Arc<Store<Reply>>,
    counts: Arc<Counts>,
}

impl RedisCache {
    /// A cache on the server of this URL: `redis://[user:password@]host[:port][/database]`, or
    /// `unix:/path/of/socket`. Nothing is connected to yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] where the URL is none of these, or the time to keep replies
    /// is less than a millisecond.
    pub fn new(url: &str, keep: Duration) -> io::Result<RedisCache> {
        let ttl_ms = ms(keep);
        if ttl_ms == 0 {
            let why = "RedisCache: replies must be kept for a millisecond at least";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(RedisCache {
            server: Arc::new(Server::parse(url)?),
            ttl_ms,
            prefix: "ember".to_owned(),
            rules: Rules::default(),
            flights: Store::new(StoreLimits {
                entries_max: PASSES_MAX,
                bytes_max: usize::MAX,
                value_bytes_max: 0,
            }),
            counts: Arc::default(),
        })
    }

    /// What all keys in Redis begin with, instead of `ember`.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> RedisCache {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Replies differ by these header fields of requests, besides method, path and query.
    #[must_use]
    pub fn vary<T: AsRef<str>>(mut self, names: impl IntoIterator<Item = T>) -> RedisCache {
        let names = names.into_iter().map(|name| name.as_ref().to_ascii_lowercase());
        self.rules.vary.extend(names);
        self
    }

    /// Serves requests with cookies or an `Authorization` too, whosever they are: the replies are
    /// the same for all who may ask.
    #[must_use]
    pub fn shared_between_users(mut self) -> RedisCache {
        self.rules.with_credentials = true;
        self
    }

    /// Forgets the replies to all requests for this path, whatever their query, for all machines.
    ///
    /// # Errors
    /// When Redis is away: it keeps them until their time is over.
    pub async fn invalidate(&self, path: &str) -> io::Result<usize> {
        self.remove_all(&key_of_path(path)).await
    }

    /// The same for all paths that begin so.
    ///
    /// # Errors
    /// When Redis is away: it keeps them until their time is over.
    pub async fn invalidate_prefix(&self, prefix: &str) -> io::Result<usize> {
        self.remove_all(prefix.as_bytes()).await
    }

    /// How look-ups of this process went.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        self.counts.stats()
    }

    /// Looks through all keys of the server, some at a time.
    async fn remove_all(&self, begin: &[u8]) -> io::Result<usize> {
        self.flights.remove_prefix(begin);
        let redis = Redis::of(&self.server);
        let mut pattern = Vec::new();
        for byte in self.full_key(begin) {
            if b"*?[]\\".contains(&byte) {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
        pattern.push(b'*');
        let (mut cursor, mut removed) = (b"0".to_vec(), 0);
        loop {
            let scan = [b"SCAN", &cursor[..], b"MATCH", &pattern, b"COUNT", b"500"];
            let (next, keys) = client::page(redis.ask(&scan).await?)?;
            if !keys.is_empty() {
                let mut unlink: Vec<&[u8]> = vec![b"UNLINK"];
                unlink.extend(keys.iter().map(Vec::as_slice));
                removed += client::number(redis.ask(&unlink).await?)?;
            }
            if next == b"0" {
                return Ok(removed);
            }
            cursor = next;
        }
    }

    fn full_key(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), b":", key].concat()
    }

    async fn answer(self: Arc<Self>, handler: Handler, request: Request) -> Response {
        if !self.rules.cover(&request) {
            self.counts.add(&request, CacheResult::Bypass);
            return handler.call(request).await;
        }
        let mut key = Vec::new();
        self.rules.write_key(&request, &mut key);
        loop {
            match self.flights.look_up(&key, now_ms()) {
                Found::Lead(lead) => return self.lead(handler, request, lead).await,
                Found::Wait(wait) => {
                    if let Landing::Value(reply) = wait.await {
                        self.counts.add(&request, CacheResult::Coalesced);
                        return reply.response(0);
                    }
                }
                Found::Fresh(hit) | Found::Stale { hit, .. } => {
                    return hit.value.response(hit.age_ms);
                }
                Found::Pass => {
                    self.counts.add(&request, CacheResult::Bypass);
                    return handler.call(request).await;
                }
            }
        }
    }

    /// Asks Redis, then the handler.
    async fn lead(&self, handler: Handler, request: Request, lead: Lead<Reply>) -> Response {
        let redis = Redis::of(&self.server);
        let key = self.full_key(lead.key());
        if let Ok(Ok(frame)) = timeout(PATIENCE, redis.ask(&[b"GET", &key])).await
            && let Some((reply, age_ms)) = client::text(frame).and_then(|kept| stored::read(&kept))
        {
            self.counts.add(&request, CacheResult::Hit);
            let reply = Arc::new(reply);
            lead.share(Arc::clone(&reply));
            return reply.response(age_ms);
        }
        self.counts.add(&request, CacheResult::Miss);
        match self.rules.judge(handler.call(request).await) {
            Judged::Good(reply) => {
                lead.share(Arc::clone(&reply));
                if reply.bytes() <= REPLY_BYTES_MAX {
                    let (ttl, kept) = (self.ttl_ms.to_string(), stored::write(&reply));
                    // Nobody waits for it, and nobody is told where it fails.
                    redis.tell(&[b"SET", &key, &kept, b"PX", ttl.as_bytes()]);
                }
                reply.response(0)
            }
            Judged::Uncacheable(response) => {
                lead.pass(self.ttl_ms, now_ms());
                response
            }
            Judged::Singular(response) | Judged::Failed(response) => response,
        }
    }
}

impl RouteCache for RedisCache {
    fn wrap(&self, handler: Handler) -> Handler {
        let cache = Arc::new(self.clone());
        Handler::new(move |request: Request| Arc::clone(&cache).answer(handler.clone(), request))
    }
}

impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache")
            .field("server", &self.server)
            .field("prefix", &self.prefix)
            .field("ttl_ms", &self.ttl_ms)
            .finish_non_exhaustive()
    }
}
