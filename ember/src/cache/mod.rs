//! What caches are made of: values by key with a lifetime, one flight to the source at a time for
//! each key, and bounds on entries and bytes.
//!
//! A [`Store`] is shared by all threads of a process. It has no clock: whoever asks says what time
//! it is, in milliseconds from any beginning that all its users share. A look-up never waits; what
//! it gives says what to do:
//!
//! - [`Found::Fresh`]: use the value.
//! - [`Found::Stale`]: use it too, and fetch a newer one if you were given the [`Lead`].
//! - [`Found::Lead`]: fetch the value and tell what came of it. Everybody else who asks for this
//!   key waits for you, so tell in any case; dropping the lead passes it on to one of them.
//! - [`Found::Wait`]: somebody else fetches it; await the outcome.
//! - [`Found::Pass`]: it was found not to be cacheable lately. Fetch it for yourself, beside all
//!   others who do (a *hit for miss*).

//!
//! [`TtlCache`] keeps the replies of an application's routes in such a store, and with the feature
//! `redis` `RedisCache` keeps them for several machines.

mod counts;
mod flight;
#[cfg(feature = "redis")]
mod redis;
mod reply;
mod shard;
mod ttl;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use counts::{CacheStats, take_counts};
use flight::Flight;
pub use flight::{Landing, Wait};
#[cfg(feature = "redis")]
pub use redis::RedisCache;
use shard::{Kept, Seen, Shard};
pub use ttl::TtlCache;

use crate::handler::Handler;

/// What can answer for a route's handler; see [`crate::App::cache`].
pub trait RouteCache {
    /// The handler, asked only where the cache cannot answer.
    fn wrap(&self, handler: Handler) -> Handler;
}

/// How long a value may be used, counted from when it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ttl {
    /// It is fresh for so long.
    pub fresh_ms: u64,
    /// Behind that, it may be used for so long while a newer one is fetched.
    pub stale_ms: u64,
    /// And for so long, from the end of freshness too, where no newer one can be had.
    pub error_ms: u64,
}

/// The bounds of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Entries at most. The least recently used goes first.
    pub entries_max: usize,
    /// Bytes at most: those that [`Lead::store`] is told, the keys', and some for each entry.
    pub bytes_max: usize,
    /// Bytes of one value at most; a larger one is shared with those who wait but not kept.
    pub value_bytes_max: usize,
}

/// Values by key, shared by the threads of a process.
pub struct Store<V> {
    shards: Box<[Mutex<Shard<V>>]>,
    hasher: RandomState,
    value_bytes_max: usize,
}

/// A value that was found.
#[derive(Debug)]
pub struct Hit<V> {
    /// The value.
    pub value: Arc<V>,
    /// The time since it was stored.
    pub age_ms: u64,
    /// The time that it stays fresh; 0 when it is stale.
    pub fresh_ms: u64,
    /// The time since it was fresh; 0 while it is.
    pub stale_ms: u64,
}

/// What a look-up came to.
#[derive(Debug)]
pub enum Found<V> {
    /// A value that may be used.
    Fresh(Hit<V>),
    /// A value that may be used while a newer one is fetched.
    Stale {
        /// The value.
        hit: Hit<V>,
        /// For the one who is to fetch the newer one.
        refresh: Option<Lead<V>>,
    },
    /// Nothing that may be used: fetch it.
    Lead(Lead<V>),
    /// Nothing that may be used, and somebody fetches it.
    Wait(Wait<V>),
    /// Not cacheable.
    Pass,
}

/// The duty to fetch the value of one key, and to tell those who wait for it.
pub struct Lead<V> {
    store: Arc<Store<V>>,
    key: Box<[u8]>,
    flight: Arc<Flight<V>>,
    previous: Option<Previous<V>>,
    told: bool,
}

/// The value that a lead is to replace.
#[derive(Debug)]
pub struct Previous<V> {
    /// The value, for asking whether it is still the same, whatever its age.
    pub hit: Hit<V>,
    /// Whether it may be used where no newer one can be had.
    pub usable_on_error: bool,
}

/// Shards at most: threads seldom want the same one at the same time.
const SHARDS_MAX: usize = 16;
/// Values of the largest size that a shard must have room for.
const SHARD_VALUES_MIN: usize = 4;
/// Entries that a shard must have room for, so that chance does not fill one long before others.
const SHARD_ENTRIES_MIN: usize = 64;

impl<V> Store<V> {
    /// An empty store.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Arc<Store<V>> {
        let by_entries = limits.entries_max / SHARD_ENTRIES_MIN;
        let by_bytes = limits.bytes_max / (SHARD_VALUES_MIN * limits.value_bytes_max.max(1));
        let count = by_entries.min(by_bytes).clamp(1, SHARDS_MAX);
        let shard = || Mutex::new(Shard::new(limits.entries_max / count, limits.bytes_max / count));
        Arc::new(Store {
            shards: (0..count).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            value_bytes_max: limits.value_bytes_max,
        })
    }

    /// Looks a key up.
    pub fn look_up(self: &Arc<Self>, key: &[u8], now_ms: u64) -> Found<V> {
        let mut shard = self.shard(key);
        let previous = match shard.see(key, now_ms) {
            Seen::Fresh(hit) => return Found::Fresh(hit),
            Seen::Pass => return Found::Pass,
            Seen::Stale(hit) => {
                let refresh = shard.take_off(key).map(|flight| {
                    let again = Hit { value: Arc::clone(&hit.value), ..hit };
                    let previous = Previous { hit: again, usable_on_error: true };
                    self.lead(key, flight, Some(previous))
                });
                return Found::Stale { hit, refresh };
            }
            Seen::Expired(previous) => previous,
        };
        match shard.take_off(key) {
            Some(flight) => Found::Lead(self.lead(key, flight, previous)),
            None => match shard.flight(key) {
                Some(flight) => Found::Wait(Wait::new(flight)),
                None => Found::Pass, // there is one: the shard was locked all along
            },
        }
    }

    /// The value of a key if it is fresh, without any duty.
    pub fn peek(&self, key: &[u8], now_ms: u64) -> Option<Hit<V>> {
        match self.shard(key).see(key, now_ms) {
            Seen::Fresh(hit) => Some(hit),
            _ => None,
        }
    }

    /// Stores a value that nobody was asked to fetch.
    pub fn insert(&self, key: &[u8], value: Arc<V>, bytes: usize, ttl: Ttl, now_ms: u64) {
        if bytes <= self.value_bytes_max {
            self.shard(key).keep(key.into(), Kept::Value(value), bytes, ttl, now_ms);
        }
    }

    /// Forgets a key. What is being fetched for it will not be kept.
    pub fn remove(&self, key: &[u8]) -> bool {
        self.shard(key).remove(key)
    }

    /// Forgets all keys that begin so; how many there were. Every entry is looked at.
    pub fn remove_prefix(&self, prefix: &[u8]) -> usize {
        self.all().map(|mut shard| shard.remove_where(|key| key.starts_with(prefix))).sum()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.remove_prefix(b"");
    }

    /// How many entries there are, whatever their age.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all().map(|shard| shard.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that they are counted with.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.all().map(|shard| shard.bytes()).sum()
    }

    fn lead(
        self: &Arc<Self>,
        key: &[u8],
        flight: Arc<Flight<V>>,
        previous: Option<Previous<V>>,
    ) -> Lead<V> {
        Lead { store: Arc::clone(self), key: key.into(), flight, previous, told: false }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard<V>> {
        let at = match self.shards.len() {
            1 => 0,
            count => self.hasher.hash_one(key) as usize % count,
        };
        lock(&self.shards[at])
    }

    fn all(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<V>>> {
        self.shards.iter().map(lock)
    }
}

/// A panic of another thread leaves no shard half changed: nothing in them calls out.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<V> Lead<V> {
    /// What was stored before.
    #[must_use]
    pub fn previous(&self) -> Option<&Previous<V>> {
        self.previous.as_ref()
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Keeps a value and gives it to those who wait. A value larger than the limit, and one whose
    /// key was forgotten meanwhile, is given to them but not kept.
    pub fn store(mut self, value: Arc<V>, bytes: usize, ttl: Ttl, now_ms: u64) {
        let kept = bytes <= self.store.value_bytes_max;
        let keep = kept.then(|| (Kept::Value(Arc::clone(&value)), bytes, ttl, now_ms));
        self.land(keep, Landing::Value(value));
    }

    /// Gives a value to those who wait, and keeps what was kept before.
    pub fn share(mut self, value: Arc<V>) {
        self.land(None, Landing::Value(value));
    }

    /// It is not cacheable: those who wait, and those who ask within this time, fetch it for
    /// themselves.
    pub fn pass(mut self, for_ms: u64, now_ms: u64) {
        let ttl = Ttl { fresh_ms: for_ms, ..Ttl::default() };
        self.land(Some((Kept::Pass, 0, ttl, now_ms)), Landing::Pass);
    }

    fn land(&mut self, keep: Option<(Kept<V>, usize, Ttl, u64)>, landing: Landing<V>) {
        self.told = true;
        let mut shard = self.store.shard(&self.key);
        let wanted = shard.landed(&self.key, &self.flight);
        if let (true, Some((kept, bytes, ttl, now_ms))) = (wanted, keep) {
            shard.keep(std::mem::take(&mut self.key), kept, bytes, ttl, now_ms);
        }
        drop(shard);
        self.flight.land(landing);
    }
}

impl<V> Drop for Lead<V> {
    fn drop(&mut self) {
        if !self.told {
            self.land(None, Landing::Gone);
        }
    }
}

impl<V> fmt::Debug for Store<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("len", &self.len()).field("bytes", &self.bytes()).finish()
    }
}

impl<V> fmt::Debug for Lead<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").field("key", &self.key.escape_ascii().to_string()).finish()
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod ttl_tests;
