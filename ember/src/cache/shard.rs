//! A part of a store behind one lock: entries from the least to the most recently used.

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;

use hashlink::LinkedHashMap;
use hashlink::linked_hash_map::RawEntryMut;

use super::flight::Flight;
use super::{Hit, Previous, Ttl};

/// What an entry is counted with besides its key and value: its place in the map and the value's
/// own head.
const ENTRY_BYTES: usize = 192;

/// What is known of a key.
pub(super) enum Kept<V> {
    Value(Arc<V>),
    /// It is not cacheable.
    Pass,
}

/// What a look at a key came to.
pub(super) enum Seen<V> {
    Fresh(Hit<V>),
    Stale(Hit<V>),
    Pass,
    /// Nothing that may be used as it is.
    Expired(Option<Previous<V>>),
}

struct Entry<V> {
    kept: Kept<V>,
    bytes: usize,
    stored_ms: u64,
    fresh_until_ms: u64,
    stale_until_ms: u64,
    error_until_ms: u64,
}

pub(super) struct Shard<V> {
    // Keys come from clients: the hasher is keyed.
    entries: LinkedHashMap<Box<[u8]>, Entry<V>, RandomState>,
    flights: HashMap<Box<[u8]>, Arc<Flight<V>>>,
    bytes: usize,
    entries_max: usize,
    bytes_max: usize,
}

impl<V> Shard<V> {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Shard<V> {
        Shard {
            entries: LinkedHashMap::with_hasher(RandomState::new()),
            flights: HashMap::new(),
            bytes: 0,
            entries_max,
            bytes_max,
        }
    }

    /// Looks at a key, which makes it the most recently used.
    pub(super) fn see(&mut self, key: &[u8], now_ms: u64) -> Seen<V> {
        let RawEntryMut::Occupied(mut place) = self.entries.raw_entry_mut().from_key(key) else {
            return Seen::Expired(None);
        };
        place.to_back();
        let entry = place.get();
        let fresh_ms = entry.fresh_until_ms.saturating_sub(now_ms);
        let value = match &entry.kept {
            Kept::Value(value) => Arc::clone(value),
            Kept::Pass if fresh_ms > 0 => return Seen::Pass,
            Kept::Pass => return Seen::Expired(None),
        };
        let hit = Hit {
            value,
            age_ms: now_ms.saturating_sub(entry.stored_ms),
            fresh_ms,
            stale_ms: now_ms.saturating_sub(entry.fresh_until_ms),
        };
        if fresh_ms > 0 {
            return Seen::Fresh(hit);
        }
        if now_ms < entry.stale_until_ms {
            return Seen::Stale(hit);
        }
        Seen::Expired(Some(Previous { hit, usable_on_error: now_ms < entry.error_until_ms }))
    }

    /// Begins a fetch, unless one is under way.
    pub(super) fn take_off(&mut self, key: &[u8]) -> Option<Arc<Flight<V>>> {
        if self.flights.contains_key(key) {
            return None;
        }
        let flight = Arc::new(Flight::new());
        self.flights.insert(key.into(), Arc::clone(&flight));
        Some(flight)
    }

    pub(super) fn flight(&self, key: &[u8]) -> Option<Arc<Flight<V>>> {
        self.flights.get(key).cloned()
    }

    /// Ends a fetch; whether its result is still wanted.
    pub(super) fn landed(&mut self, key: &[u8], flight: &Arc<Flight<V>>) -> bool {
        let same = self.flights.get(key).is_some_and(|known| Arc::ptr_eq(known, flight));
        if same {
            self.flights.remove(key);
        }
        same
    }

    pub(super) fn keep(
        &mut self,
        key: Box<[u8]>,
        kept: Kept<V>,
        bytes: usize,
        ttl: Ttl,
        now_ms: u64,
    ) {
        let bytes = bytes + key.len() + ENTRY_BYTES;
        let fresh_until_ms = now_ms.saturating_add(ttl.fresh_ms);
        let entry = Entry {
            kept,
            bytes,
            stored_ms: now_ms,
            fresh_until_ms,
            stale_until_ms: fresh_until_ms.saturating_add(ttl.stale_ms),
            error_until_ms: fresh_until_ms.saturating_add(ttl.error_ms.max(ttl.stale_ms)),
        };
        self.bytes += bytes;
        if let Some(old) = self.entries.insert(key, entry) {
            self.bytes -= old.bytes;
        }
        while self.entries.len() > self.entries_max.max(1) || self.bytes > self.bytes_max {
            let Some((_, old)) = self.entries.pop_front() else { break };
            self.bytes -= old.bytes;
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        // A flight that is not here when it lands is not kept.
        self.flights.remove(key);
        let old = self.entries.remove(key);
        self.bytes -= old.as_ref().map_or(0, |old| old.bytes);
        old.is_some()
    }

    pub(super) fn remove_where(&mut self, mut condition: impl FnMut(&[u8]) -> bool) -> usize {
        self.flights.retain(|key, _| !condition(key));
        let (before, mut freed) = (self.entries.len(), 0);
        self.entries.retain(|key, entry| {
            let removed = condition(key);
            freed += if removed { entry.bytes } else { 0 };
            !removed
        });
        self.bytes -= freed;
        before - self.entries.len()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
