//! The timers of one thread, by their deadlines.

use std::collections::BTreeMap;
use std::task::Waker;

/// A timer by its deadline in milliseconds and a number that makes it unique.
pub(crate) type TimerKey = (u64, u64);

/// Timers that have not come up.
#[derive(Default)]
pub(crate) struct Timers {
    waiting: BTreeMap<TimerKey, Waker>,
    next: u64,
}

impl Timers {
    pub(crate) fn set(&mut self, deadline_ms: u64, waker: Waker) -> TimerKey {
        self.next += 1;
        let key = (deadline_ms, self.next);
        self.waiting.insert(key, waker);
        key
    }

    pub(crate) fn update(&mut self, key: TimerKey, waker: &Waker) {
        if let Some(known) = self.waiting.get_mut(&key) {
            known.clone_from(waker);
        }
    }

    pub(crate) fn cancel(&mut self, key: TimerKey) {
        self.waiting.remove(&key);
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|((deadline_ms, _), _)| *deadline_ms)
    }

    /// Takes the waker of one timer whose deadline has come.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<Waker> {
        let due = self.waiting.first_entry().filter(|entry| entry.key().0 <= now_ms)?;
        Some(due.remove())
    }
}
