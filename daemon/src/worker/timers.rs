//! A coarse timer wheel: one entry a connection, nothing to do per request.
//!
//! A connection's deadline moves with every request, its entry in the wheel does not: when the
//! entry comes up, the caller looks at the deadline that holds now and puts the entry back where
//! that is later (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", scheme 6, with
//! lazy movement). Entries are links in two arrays indexed by the connection's slot, so that
//! setting and removing one neither searches nor allocates.

/// Ticks of 250 ms since the worker started: fine enough for timeouts of seconds.
pub(crate) type Tick = u32;

/// Length of a tick in milliseconds.
pub(crate) const TICK_MS: u64 = 250;

/// Slots in the wheel; a deadline further off than this comes up early and is put back.
const BUCKETS: usize = 512;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    next: u32,
    bucket: u32,
}

const FREE: Link = Link { previous: NONE, next: NONE, bucket: NONE };

/// The deadlines of all connections of one thread.
pub(crate) struct Wheel {
    heads: Vec<u32>,
    links: Vec<Link>,
    now: Tick,
    set: usize,
}

impl Wheel {
    /// A wheel for slots below `slots_max`, standing at tick 0. The links of slots that were
    /// never used are never written, so they take no memory.
    pub(crate) fn new(slots_max: usize) -> Self {
        Self { heads: vec![NONE; BUCKETS], links: Vec::with_capacity(slots_max), now: 0, set: 0 }
    }

    /// How many entries are set.
    pub(crate) fn len(&self) -> usize {
        self.set
    }

    /// Sets the entry of `slot` to come up at `at`, or at the next tick where that has passed.
    pub(crate) fn set(&mut self, slot: u32, at: Tick) {
        self.remove(slot);
        let index = slot as usize;
        if index >= self.links.len() {
            self.links.resize(index + 1, FREE);
        }
        let ahead = at.saturating_sub(self.now).clamp(1, BUCKETS as u32 - 1);
        let bucket = (self.now.wrapping_add(ahead)) as usize % BUCKETS;
        let next = self.heads[bucket];
        self.links[index] = Link { previous: NONE, next, bucket: bucket as u32 };
        if next != NONE {
            self.links[next as usize].previous = slot;
        }
        self.heads[bucket] = slot;
        self.set += 1;
    }

    /// Takes the entry of `slot` out, if it is set.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(&Link { previous, next, bucket }) = self.links.get(slot as usize) else { return };
        if bucket == NONE {
            return;
        }
        if previous == NONE {
            self.heads[bucket as usize] = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.links[slot as usize] = FREE;
        self.set -= 1;
    }

    /// Moves on to `now` and puts into `due` the slots whose entries have come up; these are no
    /// longer set. A clock that stands still or goes back moves nothing.
    pub(crate) fn advance(&mut self, now: Tick, due: &mut Vec<u32>) {
        // A long stop (a suspended machine) goes round once: that visits every bucket.
        let steps = now.saturating_sub(self.now).min(BUCKETS as u32);
        self.now = self.now.max(now);
        for step in 0..steps {
            let bucket = (self.now - step) as usize % BUCKETS;
            while self.heads[bucket] != NONE {
                let slot = self.heads[bucket];
                self.remove(slot);
                due.push(slot);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, now: Tick) -> Vec<u32> {
        let mut slots = Vec::new();
        wheel.advance(now, &mut slots);
        slots.sort_unstable();
        slots
    }

    #[test]
    fn entries_come_up_at_their_tick_and_once() {
        let mut wheel = Wheel::new(8);
        wheel.set(3, 2);
        wheel.set(1, 2);
        wheel.set(2, 4);
        assert_eq!(due(&mut wheel, 1), [0; 0]);
        assert_eq!(due(&mut wheel, 2), [1, 3]);
        assert_eq!(due(&mut wheel, 3), [0; 0]);
        assert_eq!(due(&mut wheel, 9), [2]);
        assert_eq!(wheel.len(), 0);
    }

    #[test]
    fn setting_again_moves_and_removing_takes_out() {
        let mut wheel = Wheel::new(8);
        for slot in 0..5 {
            wheel.set(slot, 2);
        }
        wheel.set(2, 7);
        wheel.remove(0);
        wheel.remove(4);
        wheel.remove(4);
        wheel.remove(99);
        assert_eq!(due(&mut wheel, 2), [1, 3]);
        assert_eq!(due(&mut wheel, 7), [2]);
    }

    #[test]
    fn what_is_past_or_too_far_off_comes_up_early_never_late() {
        let mut wheel = Wheel::new(8);
        assert_eq!(due(&mut wheel, 100), [0; 0]);
        wheel.set(0, 3);
        wheel.set(1, 1_000_000);
        assert_eq!(due(&mut wheel, 101), [0]);
        assert_eq!(due(&mut wheel, 100 + BUCKETS as Tick), [1]);
    }

    #[test]
    fn a_long_stop_visits_every_bucket_and_a_clock_gone_back_none() {
        let mut wheel = Wheel::new(2_000);
        for slot in 0..2_000 {
            wheel.set(slot, slot % 600);
        }
        assert_eq!(due(&mut wheel, 1_000_000).len(), 2_000);
        wheel.set(7, 1_000_001);
        assert_eq!(due(&mut wheel, 5), [0; 0]);
        assert_eq!(due(&mut wheel, 1_000_001), [7]);
    }
}
