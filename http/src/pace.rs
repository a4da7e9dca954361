//! Time limits of something that should make progress. The clock is an argument: milliseconds from
//! any beginning, of which the low 32 bits are kept, so that spans of up to 24 days are told apart.

/// How a transfer is getting on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    started_ms: u32,
    progressed_ms: u32,
    bytes: u32,
}

/// The limits of a pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceLimits {
    /// Longest time without progress.
    pub stall_ms_max: u32,
    /// Lowest average rate in bytes a second; 0 turns it off.
    pub rate_min: u32,
    /// Time before the rate counts.
    pub grace_ms: u32,
}

impl Pace {
    /// A transfer that begins now.
    #[must_use]
    pub fn new(now_ms: u64) -> Pace {
        Pace { started_ms: now_ms as u32, progressed_ms: now_ms as u32, bytes: 0 }
    }

    /// So many bytes were moved.
    pub fn progress(&mut self, bytes: usize, now_ms: u64) {
        self.progressed_ms = now_ms as u32;
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// The transfer goes on after a pause that was ours: the time of the pause does not count.
    pub fn resume(&mut self, now_ms: u64) {
        let pause = since(self.progressed_ms, now_ms);
        self.started_ms = self.started_ms.wrapping_add(pause);
        self.progressed_ms = now_ms as u32;
    }

    /// Milliseconds until the limits are broken unless there is progress; 0 if they are.
    #[must_use]
    pub fn time_left_ms(&self, limits: &PaceLimits, now_ms: u64) -> u32 {
        let stall = limits.stall_ms_max.saturating_sub(since(self.progressed_ms, now_ms));
        if limits.rate_min == 0 || self.bytes == u32::MAX {
            return stall;
        }
        // The bytes so far pay for this much time at the lowest rate.
        let paid = u64::from(self.bytes) * 1000 / u64::from(limits.rate_min);
        let allowed = u64::from(limits.grace_ms).saturating_add(paid);
        let left = allowed.saturating_sub(u64::from(since(self.started_ms, now_ms)));
        stall.min(u32::try_from(left).unwrap_or(u32::MAX))
    }

    pub(crate) fn started_ms(&self) -> u32 {
        self.started_ms
    }
}

/// Milliseconds since a moment; none if the clock stands before it.
pub(crate) fn since(moment_ms: u32, now_ms: u64) -> u32 {
    let span = (now_ms as u32).wrapping_sub(moment_ms);
    if span > u32::MAX / 2 { 0 } else { span }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits = PaceLimits { stall_ms_max: 1000, rate_min: 100, grace_ms: 5000 };

    #[test]
    fn a_stall_ends_it() {
        let mut pace = Pace::new(0);
        assert_eq!(pace.time_left_ms(&LIMITS, 400), 600);
        pace.progress(1, 900);
        assert_eq!(pace.time_left_ms(&LIMITS, 900), 1000);
        assert_eq!(pace.time_left_ms(&LIMITS, 1900), 0);
    }

    #[test]
    fn a_dripping_peer_ends_when_its_bytes_no_longer_pay() {
        let mut pace = Pace::new(0);
        let mut now = 0;
        while pace.time_left_ms(&LIMITS, now) > 0 {
            now += 500;
            pace.progress(10, now);
        }
        // 20 bytes a second pay for 200 ms of each: the grace of 5 s is used up after 6.25 s.
        assert!((6000..=6500).contains(&now), "{now}");
        let mut fast = Pace::new(0);
        for now in (0..60_000).step_by(500) {
            fast.progress(50, now);
            assert!(fast.time_left_ms(&LIMITS, now) > 0);
        }
    }

    #[test]
    fn our_own_pause_does_not_count() {
        let mut pace = Pace::new(0);
        pace.progress(10, 1000);
        pace.resume(100_000);
        assert_eq!(pace.time_left_ms(&LIMITS, 100_000), 1000);
    }

    #[test]
    fn the_clock_may_wrap_and_may_stand_before_the_beginning() {
        let start = u64::from(u32::MAX) - 10;
        let pace = Pace::new(start);
        assert_eq!(pace.time_left_ms(&LIMITS, start + 100), 900);
        assert_eq!(pace.time_left_ms(&LIMITS, start - 100), 1000);
        let no_rate = PaceLimits { rate_min: 0, ..LIMITS };
        assert_eq!(pace.time_left_ms(&no_rate, start + 1000), 0);
    }
}
