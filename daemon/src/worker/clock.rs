//! What time it is for a ring thread: the system's, or a simulation's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where a thread's time comes from. Deadlines and durations go by the monotonic clock, which no
/// step of the wall clock moves; the Date of replies goes by the wall clock alone.
#[derive(Clone)]
pub(crate) enum Clock {
    /// The machine's clocks.
    System,
    /// Clocks that a test sets.
    #[cfg(test)]
    Simulated(std::rc::Rc<Simulated>),
}

/// The clocks of a simulated network.
#[cfg(test)]
pub(crate) struct Simulated {
    start: Instant,
    net: ember_uring::SimNet,
    wall: std::cell::Cell<u64>,
}

impl Clock {
    /// The monotonic clock.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::System => Instant::now(),
            #[cfg(test)]
            Clock::Simulated(clock) => clock.start + clock.net.now(),
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
            Clock::Simulated(clock) => clock.wall.get() + clock.net.now().as_secs(),
        }
    }

    /// The wall clock, in milliseconds since 1970.
    pub(crate) fn wall_ms(&self) -> u64 {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |since| since.as_millis() as u64)
            }
            #[cfg(test)]
            Clock::Simulated(_) => self.wall_second() * 1000,
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
    pub(crate) fn new(net: ember_uring::SimNet, wall: u64) -> std::rc::Rc<Simulated> {
        std::rc::Rc::new(Simulated { start: Instant::now(), net, wall: wall.into() })
    }

    /// Steps the wall clock to this second of the simulation's beginning.
    pub(crate) fn step(&self, wall: u64) {
        self.wall.set(wall);
    }
}
