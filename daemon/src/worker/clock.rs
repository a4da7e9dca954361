//! What time it is for a ring thread: the system's, or a simulation's.

#[cfg(test)]
use std::time::Duration;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where a thread's time comes from. Deadlines and durations go by the monotonic clock, which no
/// step of the wall clock moves; the Date of replies goes by the wall clock alone.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    /// The machine's clocks.
    System,
    /// Clocks that a test sets.
    #[cfg(test)]
    Simulated(std::rc::Rc<Simulated>),
}

/// Clocks that stand still until they are set.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Simulated {
    start: Instant,
    passed: std::cell::Cell<Duration>,
    wall: std::cell::Cell<u64>,
}

impl Clock {
    /// The monotonic clock.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::System => Instant::now(),
            #[cfg(test)]
            Clock::Simulated(clock) => clock.start + clock.passed.get(),
        }
    }

    /// The wall clock, in seconds since 1970. A clock before 1970 is wrong anyway; the first
    /// second is as good as any.
    #[inline]
    pub(crate) fn wall_second(&self) -> u64 {
        match self {
            Clock::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
            }
            #[cfg(test)]
            Clock::Simulated(clock) => clock.wall.get(),
        }
    }

    /// Nanoseconds from `since` to now.
    #[inline]
    pub(crate) fn elapsed_ns(&self, since: Instant) -> u64 {
        self.now().saturating_duration_since(since).as_nanos() as u64
    }
}

#[cfg(test)]
impl Simulated {
    pub(crate) fn new(wall: u64) -> std::rc::Rc<Simulated> {
        let passed = std::cell::Cell::new(Duration::ZERO);
        std::rc::Rc::new(Simulated { start: Instant::now(), passed, wall: wall.into() })
    }

    /// So much time has passed since the start. The wall clock is moved along.
    pub(crate) fn set(&self, passed: Duration) {
        let before = self.passed.replace(passed).as_secs();
        self.wall.set(self.wall.get() + passed.as_secs().saturating_sub(before));
    }

    /// Steps the wall clock.
    pub(crate) fn set_wall(&self, second: u64) {
        self.wall.set(second);
    }

    pub(crate) fn wall(&self) -> u64 {
        self.wall.get()
    }
}
