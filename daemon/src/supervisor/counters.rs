//! What the supervisor keeps for all of its workers, whoever of them lives: the counter pages, who
//! writes which, what it counts itself; and the memory of rate limits.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use ember_metrics::{Board, CAPACITY_DEFAULT, Facts, Family, Key, Names, Page, Pages, Words};
use ember_sysctl::watch::Drift;
use serde::{Deserialize, Serialize};

use super::change::LEAVING_MAX;
use crate::rules::rate;
use tracing::warn;

/// Pages for so many generations: the one that serves, the one that is to, and those that leave.
const GENERATIONS: usize = LEAVING_MAX + 2;

/// The supervisor's own page.
const OWN: usize = 0;

/// How the config was last changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloads {
    /// Whether the last attempt went well; the server's start counts.
    pub(crate) last_ok: bool,
    /// Unix time in seconds of the last one that did.
    last_success_s: u64,
}

/// The pages, and which of them nobody writes.
#[derive(Debug)]
pub(crate) struct Counters {
    pages: Pages,
    limits: Words,
    own: Page,
    /// The last one is taken first: memory that was touched is used again.
    free: Vec<usize>,
    restarts: Vec<u64>,
    /// The label values of all generations.
    pub(crate) names: Names,
    pub(crate) reloads: Reloads,
}

/// What a successor needs to know beside the pages themselves.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    free: Vec<usize>,
    restarts: Vec<u64>,
    names: String,
    reloads: Reloads,
}

impl Counters {
    /// Pages for servers of up to so many ring threads.
    pub(crate) fn new(threads_max: usize) -> io::Result<Self> {
        let count = 1 + threads_max * GENERATIONS;
        let pages = Pages::create(count, CAPACITY_DEFAULT)?;
        let own = pages.page(OWN)?;
        let free = (OWN + 1..count).rev().collect();
        let (restarts, names) = (Vec::new(), Names::new());
        let limits = rate::memory()?;
        Ok(Self { pages, limits, own, free, restarts, names, reloads: Reloads::default() })
    }

    /// Those of a predecessor.
    pub(crate) fn take_over(record: Record, pages: OwnedFd, limits: OwnedFd) -> io::Result<Self> {
        let (pages, limits) = (Pages::from_fd(pages)?, Words::from_fd(limits)?);
        let own = pages.page(OWN)?;
        let names = Names::from_text(&record.names)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let Record { free, restarts, reloads, .. } = record;
        Ok(Self { pages, limits, own, free, restarts, names, reloads })
    }

    /// All but the pages, for a successor.
    pub(crate) fn record(&self) -> Record {
        Record {
            free: self.free.clone(),
            restarts: self.restarts.clone(),
            names: self.names.to_text(),
            reloads: self.reloads,
        }
    }

    /// The memory of the pages and that of rate limits, for workers and successors.
    pub(crate) fn memories(&self) -> [BorrowedFd<'_>; 2] {
        [self.pages.as_fd(), self.limits.as_fd()]
    }

    /// A page for each of so many threads.
    pub(crate) fn take(&mut self, threads: usize) -> Result<Vec<usize>, String> {
        let left = self.free.len().checked_sub(threads).ok_or_else(|| {
            format!(
                "{threads} threads are more than there are counter pages for ({} are free); \
                 restart the server to have so many",
                self.free.len()
            )
        })?;
        Ok(self.free.split_off(left))
    }

    /// Takes pages back. Their counts stay part of every sum.
    pub(crate) fn give_back(&mut self, pages: impl Iterator<Item = usize>) {
        self.free.extend(pages);
    }

    /// The writer of this page has ended: what it had in hand is gone.
    pub(crate) fn reset_gauges(&self, page: usize) {
        self.pages.reset_gauges(page);
    }

    /// Counts that a worker was started again.
    pub(crate) fn count_restart(&mut self, worker: u16) {
        let at = usize::from(worker);
        if self.restarts.len() <= at {
            self.restarts.resize(at + 1, 0);
        }
        self.restarts[at] += 1;
        let counter = self.own.counter(Key::worker_restarts(worker));
        self.own.add(counter, 1);
    }

    /// Shows how the host stands against what was tuned, in words that [`tune::labels`] gave.
    ///
    /// [`tune::labels`]: crate::tune::labels
    pub(crate) fn show_drift(&mut self, drift: &Drift) {
        for (key, moved) in &drift.drifted {
            let gauge = self.own.gauge(Key::tune_drift(self.names.intern(key)));
            self.own.set(gauge, i64::from(*moved));
        }
        for (nic, count) in &drift.misaligned {
            let gauge = self.own.gauge(Key::irq_misaligned(self.names.intern(nic)));
            self.own.set(gauge, i64::from(*count));
        }
    }

    /// How often a worker was started again.
    pub(crate) fn restarts(&self, worker: u16) -> u64 {
        self.restarts.get(usize::from(worker)).copied().unwrap_or(0)
    }

    /// How many connections the writers of these pages have.
    pub(crate) fn connections(&self, pages: &[usize]) -> i64 {
        self.pages.sum(Family::ConnectionsActive, pages.iter().copied())
    }

    /// All there is, in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        ember_metrics::scrape(&self.pages, ember_metrics::Format::Text)
    }

    /// What a family of counters has come to since the server's start, whatever the labels.
    pub(crate) fn total(&self, family: Family) -> i64 {
        self.pages.sum(family, 0..self.pages.threads())
    }

    /// Lets whoever is asked for the metrics know what only the supervisor does.
    pub(crate) fn post(&self, pids: Vec<u32>) {
        let mut facts = Facts::new();
        facts.build(env!("CARGO_PKG_VERSION"));
        let Reloads { last_ok, last_success_s } = self.reloads;
        facts.add(Family::ConfigLastReloadSuccess, &[], f64::from(u8::from(last_ok)));
        facts.add(Family::ConfigLastReloadSuccessTimestamp, &[], last_success_s as f64);
        let board = Board { names: self.names.clone(), pids, facts };
        if let Err(error) = self.pages.post(&board) {
            warn!("the metrics do not show what is new: {error}");
        }
    }

    /// Notes how a change of the config went.
    pub(crate) fn note_change(&mut self, ok: bool) {
        self.reloads.last_ok = ok;
        if ok {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.reloads.last_success_s = now.as_secs();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_round_and_a_successor_goes_on_with_them() {
        let mut counters = Counters::new(2).unwrap();
        let first = counters.take(2).unwrap();
        let mut seen = first.clone();
        for _ in 1..GENERATIONS {
            seen.extend(counters.take(2).unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, (1..=2 * GENERATIONS).collect::<Vec<_>>(), "all but the supervisor's");
        assert!(counters.take(1).unwrap_err().contains("restart the server"));
        counters.give_back(first.iter().copied());
        counters.count_restart(3);
        counters.count_restart(3);
        counters.note_change(true);
        counters.names.intern("web");
        let [pages, limits] =
            counters.memories().map(|memory| memory.try_clone_to_owned().unwrap());
        let record = counters.record();
        let reloads = counters.reloads;
        drop(counters);
        let mut second = Counters::take_over(record, pages, limits).unwrap();
        assert_eq!(second.restarts(3), 2);
        assert_eq!(second.reloads, reloads);
        assert_eq!(second.names.to_text(), {
            let mut names = Names::new();
            names.intern("web");
            names.to_text()
        });
        second.count_restart(3);
        second.post(vec![std::process::id()]);
        let text = ember_metrics::scrape(&second.pages, ember_metrics::Format::Text);
        assert!(text.contains("emberd_config_last_reload_success 1\n"), "{text}");
        assert!(text.contains("emberd_worker_restarts_total{worker=\"3\"} 3\n"), "{text}");
        assert_eq!(second.take(2).unwrap(), first);
    }

    #[test]
    fn connections_are_those_of_the_pages_and_go_with_their_writer() {
        let mut counters = Counters::new(2).unwrap();
        let web = counters.names.intern("web");
        let taken = counters.take(2).unwrap();
        for page in &taken {
            let mut page = counters.pages.page(*page).unwrap();
            let active = page.gauge(Key::connections_active(web, 1));
            page.set(active, 4);
        }
        assert_eq!(counters.connections(&taken), 8);
        counters.reset_gauges(taken[0]);
        assert_eq!(counters.connections(&taken), 4);
    }
}
