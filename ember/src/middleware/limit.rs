//! Limits of rates.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::error::Error;
use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::{IntoResponse, Response};

/// Places of a bucket's table; two atomic words each.
const PLACES: usize = 1 << 14;

/// Places that a key may have.
const PROBES: usize = 8;

/// Token buckets, one for each key, for all threads of a worker: a bucket holds `burst` tokens, and
/// `rate` come back a second. A worker is a process; a server has one for each NUMA node.
///
/// It holds 16,384 keys in 256 KiB and needs no lock. When there are more, those that were quiet
/// the longest are forgotten, which fills their buckets.
///
/// ```
/// use ember::middleware::TokenBucket;
///
/// let bucket = TokenBucket::new(10, 2);
/// assert!(bucket.take(b"a").is_ok());
/// assert!(bucket.take(b"a").is_ok());
/// let wait = bucket.take(b"a").unwrap_err();
/// assert!(wait.as_millis() <= 100);
/// assert!(bucket.take(b"b").is_ok());
/// ```
pub struct TokenBucket {
    /// Nanoseconds in which a token comes back.
    token_ns: u64,
    burst: u64,
    started: Instant,
    hasher: RandomState,
    /// A key's hash, and when its bucket is full again.
    places: Box<[[AtomicU64; 2]]>,
}

/// What is counted together.
#[derive(Clone, Copy)]
pub enum Key {
    /// What comes from one address: one of IPv4, a /64 network of IPv6. Proxies are seen through as
    /// [`ClientAddr`](crate::extract::ClientAddr) does.
    Client,
    /// What has the same value in this header field. What has none is counted together.
    Header(&'static str),
    /// What this function gives the same bytes for; nothing is counted for what it gives `None`.
    Of(fn(&Request) -> Option<Vec<u8>>),
    /// Everything.
    All,
}

/// Answers 429 with `Retry-After` to what goes beyond a rate.
///
/// ```
/// use ember::middleware::{Key, RateLimit};
/// use ember::testing::Client;
/// use ember::{App, Request};
///
/// let limit = RateLimit::new(1, 2).by(Key::Header("x-key"));
/// let client = Client::new(App::new().get("/", async |_: &Request| "x").wrap_all(limit));
/// let ask = |key: &str| client.send("GET", "/", &[("X-Key", key)], "");
/// assert_eq!((ask("a").status(), ask("a").status()), (200, 200));
/// let refused = ask("a");
/// assert_eq!((refused.status(), refused.header("retry-after")), (429, Some("1")));
/// assert_eq!(ask("b").status(), 200);
/// ```
pub struct RateLimit {
    bucket: Buckets,
    key: Key,
}

enum Buckets {
    Worker(TokenBucket),
    /// Each thread has its own share of the rate.
    Thread {
        rate: u32,
        burst: u32,
        id: usize,
    },
}

impl TokenBucket {
    /// `rate` tokens a second, and `burst` at once.
    ///
    /// # Panics
    /// When one of them is zero.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> TokenBucket {
        assert!(rate > 0 && burst > 0, "a rate and a burst of at least one");
        let places = (0..PLACES).map(|_| [const { AtomicU64::new(0) }; 2]);
        TokenBucket {
            token_ns: (1_000_000_000 / u64::from(rate)).max(1),
            burst: u64::from(burst),
            started: Instant::now(),
            hasher: RandomState::new(),
            places: places.collect(),
        }
    }

    /// Takes a token out of this key's bucket.
    ///
    /// # Errors
    /// After which time there will be one.
    pub fn take(&self, key: &[u8]) -> Result<(), std::time::Duration> {
        // Never zero: a zero stands for a free place, and a full bucket.
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX) + 1;
        let hash = self.hasher.hash_one(key) | 1;
        self.take_at(hash, now_ns).map_err(std::time::Duration::from_nanos)
    }

    /// The generic cell rate algorithm: a bucket is told by the time at which it is full.
    fn take_at(&self, hash: u64, now_ns: u64) -> Result<(), u64> {
        let full_at = &self.place(hash, now_ns)[1];
        let mut known = full_at.load(Ordering::Relaxed);
        loop {
            let next = known.max(now_ns) + self.token_ns;
            let too_much = (next - now_ns).saturating_sub(self.burst * self.token_ns);
            if too_much > 0 {
                return Err(too_much);
            }
            match full_at.compare_exchange_weak(known, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(changed) => known = changed,
            }
        }
    }

    /// The key's place: its own, else a free one, else that which was quiet the longest. When two
    /// threads take one place at a time one of the keys starts anew, which costs a burst at most.
    fn place(&self, hash: u64, now_ns: u64) -> &[AtomicU64; 2] {
        let mask = PLACES - 1;
        let probes =
            (0..PROBES).map(|step| &self.places[(hash as usize >> 1).wrapping_add(step) & mask]);
        let mut oldest: Option<(&[AtomicU64; 2], u64)> = None;
        for place in probes {
            if place[0].load(Ordering::Relaxed) == hash {
                return place;
            }
            let full_at = place[1].load(Ordering::Relaxed);
            if oldest.is_none_or(|(_, known)| full_at < known) {
                oldest = Some((place, full_at));
            }
        }
        let (place, _) = oldest.expect("a few places are looked at");
        place[0].store(hash, Ordering::Relaxed);
        place[1].store(now_ns, Ordering::Relaxed);
        place
    }
}

impl RateLimit {
    /// `rate` requests a second of each client address, `burst` of them at once, counted over all
    /// threads of a worker.
    ///
    /// # Panics
    /// When one of them is zero.
    #[must_use]
    pub fn new(rate: u32, burst: u32) -> RateLimit {
        RateLimit { bucket: Buckets::Worker(TokenBucket::new(rate, burst)), key: Key::Client }
    }

    /// The same for each thread by itself: no thread looks at what another one wrote. Clients whose
    /// connections are spread over threads get as many times the rate.
    ///
    /// # Panics
    /// When one of them is zero.
    #[must_use]
    pub fn local(rate: u32, burst: u32) -> RateLimit {
        static IDS: AtomicU64 = AtomicU64::new(0);
        assert!(rate > 0 && burst > 0, "a rate and a burst of at least one");
        let id = IDS.fetch_add(1, Ordering::Relaxed) as usize;
        RateLimit { bucket: Buckets::Thread { rate, burst, id }, key: Key::Client }
    }

    /// Counts by this key.
    #[must_use]
    pub fn by(mut self, key: Key) -> RateLimit {
        self.key = key;
        self
    }

    fn take(&self, key: &[u8]) -> Result<(), std::time::Duration> {
        match &self.bucket {
            Buckets::Worker(bucket) => bucket.take(key),
            Buckets::Thread { rate, burst, id } => of_thread(*rate, *burst, *id).take(key),
        }
    }
}

/// This thread's buckets of a local limit.
fn of_thread(rate: u32, burst: u32, id: usize) -> Rc<TokenBucket> {
    use std::cell::RefCell;
    thread_local! {
        static BUCKETS: RefCell<Vec<Option<Rc<TokenBucket>>>> = const { RefCell::new(Vec::new()) };
    }
    BUCKETS.with_borrow_mut(|buckets| {
        if buckets.len() <= id {
            buckets.resize(id + 1, None);
        }
        let make = || Rc::new(TokenBucket::new(rate, burst));
        Rc::clone(buckets[id].get_or_insert_with(make))
    })
}

impl Middleware for RateLimit {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let taken = match self.key {
            Key::All => self.take(b""),
            Key::Header(name) => self.take(request.header(name).unwrap_or_default()),
            Key::Of(key) => key(&request).map_or(Ok(()), |key| self.take(&key)),
            Key::Client => match request.client_addr().await {
                Ok(Some(std::net::IpAddr::V4(address))) => self.take(&address.octets()),
                // A subscriber has a whole network (RFC 6177).
                Ok(Some(std::net::IpAddr::V6(address))) => self.take(&address.octets()[..8]),
                Ok(None) => self.take(b""),
                Err(error) => return error.into_response(),
            },
        };
        match taken {
            Ok(()) => next.run(request).await,
            Err(wait) => {
                let seconds = wait.as_millis().div_ceil(1000).max(1);
                let error = Error::new(429, "too many requests");
                error.header("Retry-After", seconds.to_string()).into_response()
            }
        }
    }
}

impl fmt::Debug for TokenBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBucket")
            .field("token_ns", &self.token_ns)
            .field("burst", &self.burst)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RateLimit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_empty_and_fill_as_a_count_of_tokens_does() {
        const TOKEN_NS: u64 = 1_000_000_000 / 50;
        let bucket = TokenBucket::new(50, 5);
        // The oracle: tokens in units of nanoseconds, filled as time goes on.
        let (mut tokens_ns, mut last) = (5 * TOKEN_NS, 1);
        let mut now = 1;
        for step in 0..10_000_u64 {
            now += step * 7_919 % 40_000_000;
            tokens_ns = (tokens_ns + (now - last)).min(5 * TOKEN_NS);
            last = now;
            let expected = if tokens_ns >= TOKEN_NS {
                tokens_ns -= TOKEN_NS;
                Ok(())
            } else {
                Err(TOKEN_NS - tokens_ns)
            };
            assert_eq!(bucket.take_at(3, now), expected, "step {step}");
        }
    }

    #[test]
    fn more_keys_than_places_are_let_in() {
        let bucket = TokenBucket::new(1, 1);
        for key in 0..(4 * PLACES as u64) {
            assert_eq!(bucket.take_at(key << 8 | 1, 1 + key), Ok(()));
        }
    }

    #[test]
    fn threads_take_no_token_twice() {
        let bucket = TokenBucket::new(1, 1000);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if bucket.take_at(1, 1).is_ok() {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        // The place may be claimed by two threads at first, each of which starts it anew.
        assert!((1000..=1004).contains(&taken.into_inner()));
    }
}
