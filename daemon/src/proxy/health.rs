//! Whether an upstream may be asked: what its health check said, and what became of the requests
//! that were sent to it. Shared by the threads of a worker; the clock is an argument.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// When an upstream counts as down, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HealthRules {
    /// Requests that fail one after another before it is left out; 0: never.
    pub(crate) fails_max: u32,
    /// How long it is left out.
    pub(crate) out_ms: u64,
    /// Checks that have to go well before an upstream that was down is up.
    pub(crate) rise: u32,
    /// Checks that have to fail before one that was up is down.
    pub(crate) fall: u32,
}

/// What is known of one upstream.
#[derive(Debug)]
pub(crate) struct Health {
    rules: HealthRules,
    /// By the checks.
    checked_down: AtomicBool,
    /// Checks in a row that contradict it.
    contrary: AtomicU32,
    /// Requests in a row that failed.
    failed: AtomicU32,
    /// It is left out before this time; 0 when it is not.
    out_until_ms: AtomicU64,
}

/// Whether to ask an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Yes.
    Up,
    /// Only where there is no other: requests to it failed lately, until that time.
    Doubtful(u64),
    /// No: its checks fail.
    Down,
}

impl Health {
    /// Nothing is known yet, so it is up.
    pub(crate) fn new(rules: HealthRules) -> Health {
        Health {
            rules,
            checked_down: AtomicBool::new(false),
            contrary: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            out_until_ms: AtomicU64::new(0),
        }
    }

    /// Whether to ask it now.
    pub(crate) fn standing(&self, now_ms: u64) -> Standing {
        if self.checked_down.load(Ordering::Relaxed) {
            return Standing::Down;
        }
        match self.out_until_ms.load(Ordering::Relaxed) {
            until if until > now_ms => Standing::Doubtful(until),
            _ => Standing::Up,
        }
    }

    /// A request was answered.
    #[inline]
    pub(crate) fn succeeded(&self) {
        // Written only where something changes: the line stays shared between the threads.
        if self.failed.load(Ordering::Relaxed) > 0 {
            self.failed.store(0, Ordering::Relaxed);
            self.out_until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// A request could not be sent, or was not answered as it should. Behind the time that it is
    /// left out for, one more failure leaves it out again.
    pub(crate) fn failed(&self, now_ms: u64) {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if self.rules.fails_max > 0 && failed >= self.rules.fails_max {
            self.out_until_ms.store(now_ms + self.rules.out_ms, Ordering::Relaxed);
        }
    }

    /// A check has ended; whether that changed anything.
    pub(crate) fn checked(&self, well: bool) -> bool {
        let down = self.checked_down.load(Ordering::Relaxed);
        if well != down {
            self.contrary.store(0, Ordering::Relaxed);
            return false;
        }
        let needed = if down { self.rules.rise } else { self.rules.fall };
        if self.contrary.fetch_add(1, Ordering::Relaxed) + 1 < needed {
            return false;
        }
        self.contrary.store(0, Ordering::Relaxed);
        self.checked_down.store(!down, Ordering::Relaxed);
        if well {
            self.succeeded();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HealthRules = HealthRules { fails_max: 2, out_ms: 100, rise: 2, fall: 3 };

    #[test]
    fn failing_requests_leave_an_upstream_out_for_a_while() {
        let health = Health::new(RULES);
        health.failed(0);
        assert_eq!(health.standing(0), Standing::Up);
        health.succeeded();
        health.failed(10);
        assert_eq!(health.standing(10), Standing::Up, "the one before was made good");
        health.failed(20);
        assert_eq!(health.standing(20), Standing::Doubtful(120));
        assert_eq!(health.standing(119), Standing::Doubtful(120));
        assert_eq!(health.standing(120), Standing::Up);
        health.failed(130);
        assert_eq!(health.standing(130), Standing::Doubtful(230), "one chance, not two");
        health.succeeded();
        assert_eq!(health.standing(131), Standing::Up);
    }

    #[test]
    fn checks_need_several_of_a_kind() {
        let health = Health::new(RULES);
        let steps = [
            (false, Standing::Up),
            (false, Standing::Up),
            (true, Standing::Up),
            (false, Standing::Up),
            (false, Standing::Up),
            (false, Standing::Down),
            (true, Standing::Down),
            (false, Standing::Down),
            (true, Standing::Down),
            (true, Standing::Up),
        ];
        for (at, (well, standing)) in steps.into_iter().enumerate() {
            health.checked(well);
            assert_eq!(health.standing(0), standing, "step {at}");
        }
    }

    #[test]
    fn nothing_is_left_out_where_that_is_turned_off() {
        let health = Health::new(HealthRules { fails_max: 0, ..RULES });
        (0..100).for_each(|now| health.failed(now));
        assert_eq!(health.standing(100), Standing::Up);
    }
}
