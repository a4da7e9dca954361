//! When a worker that died is started again.

use std::time::{Duration, Instant};

/// Deaths close together that are answered at once.
const FREE_STRIKES: u32 = 3;

/// A worker that has run for so long without dying has one strike less.
const STRIKE_LIFE: Duration = Duration::from_secs(10);

const DELAY_FIRST: Duration = Duration::from_millis(100);

const DELAY_MAX: Duration = Duration::from_secs(10);

/// The memory of one worker's deaths.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restarts {
    strikes: u32,
    last: Option<Instant>,
}

impl Restarts {
    /// Takes note of a death, and says how long to wait before the next start: not at all for
    /// the first few, then twice as long each time.
    pub(crate) fn delay_after_death(&mut self, now: Instant) -> Duration {
        if let Some(last) = self.last {
            let forgiven = now.saturating_duration_since(last).as_secs() / STRIKE_LIFE.as_secs();
            self.strikes = self.strikes.saturating_sub(forgiven.try_into().unwrap_or(u32::MAX));
        }
        self.last = Some(now);
        self.strikes = self.strikes.saturating_add(1);
        match self.strikes.saturating_sub(FREE_STRIKES) {
            0 => Duration::ZERO,
            over => DELAY_MAX.min(DELAY_FIRST * 2_u32.saturating_pow((over - 1).min(10))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_deaths_cost_nothing_and_then_the_delay_doubles_to_its_limit() {
        let start = Instant::now();
        let mut restarts = Restarts::default();
        let delays: Vec<u128> = (0..12)
            .map(|second| restarts.delay_after_death(start + Duration::from_secs(second) / 4))
            .map(|delay| delay.as_millis())
            .collect();
        let doubled = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000];
        assert_eq!(delays[..3], [0, 0, 0]);
        assert_eq!(delays[3..], doubled);
    }

    #[test]
    fn a_worker_that_ran_well_is_forgiven() {
        let start = Instant::now();
        let mut restarts = Restarts::default();
        for _ in 0..6 {
            restarts.delay_after_death(start);
        }
        let later = start + Duration::from_secs(60);
        assert_eq!(restarts.delay_after_death(later), Duration::ZERO);
        // One death in ten seconds goes on for ever without a delay.
        let mut restarts = Restarts::default();
        for death in 0..100 {
            let now = start + STRIKE_LIFE * death;
            assert_eq!(restarts.delay_after_death(now), Duration::ZERO);
        }
    }
}
