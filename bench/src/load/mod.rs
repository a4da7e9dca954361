//! The load generator: HTTP/1.1 over TCP, many connections a thread, one epoll a thread.
//!
//! - Closed loop: every connection keeps `depth` requests in flight; what the server cannot take
//!   is not asked. It finds the highest rate, and the CPU time a request at that rate.
//! - Open loop: requests are due at a fixed rate whether or not the server keeps up, and a reply's
//!   latency counts from the moment at which its request was *due*. A server that stalls is
//!   charged for everyone who would have waited (no coordinated omission).
//! - Churn: a new connection for each request.
//!
//! Each reply is checked; faults are counted by kind and make the run a failed one.

mod engine;
mod idle;
mod reply;
mod request;

pub use idle::{Held, IdleError};
pub use reply::Fault;
pub use request::{Body, Expect, Fields, Request};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::host::cpu::ThreadClock;
use crate::host::pin;

/// When a closed loop sends again on a connection with several requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refill {
    /// When all of them are answered: each write carries `depth` requests.
    Batch,
    /// As many as were answered, at once: the depth stays full.
    Each,
}

/// How requests of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    Even,
    /// As a Poisson process: what many independent clients make.
    Poisson,
}

/// What decides when a request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// The replies do.
    Closed(Refill),
    /// A clock does: so many requests a second over all connections.
    Open(f64, Arrivals),
    /// The replies do, each on a connection of its own.
    Churn,
}

/// What to do to which server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub target: SocketAddr,
    /// The kinds of request, chosen by weight.
    pub requests: Vec<Request>,
    /// Connections, over all threads.
    pub connections: usize,
    /// Requests in flight on a connection.
    pub depth: u32,
    /// Closed loop, open loop or churn.
    pub mode: Mode,
    /// Load before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub window: Duration,
    /// The longest wait for a reply.
    pub timeout: Duration,
    /// So many faults end the run early.
    pub faults_max: u64,
    /// Threads that make the load.
    pub threads: usize,
    /// The CPUs that the threads are pinned to, in turn; none: not pinned.
    pub cpus: Vec<usize>,
}

/// A moment of a run at which the caller may look at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The measured window begins.
    Begin,
    /// The measured window ends; load is still on.
    End,
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Good replies within the window.
    pub replies: u64,
    /// Bytes received within the window.
    pub bytes: u64,
    /// The window's real length.
    pub elapsed: Duration,
    /// Latencies of the requests due within the window, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Open loop: by how much the generator itself was late, in nanoseconds.
    pub lateness: Histogram<u64>,
    /// Open loop: requests that were due and could not be sent for want of a free connection.
    pub unsent: u64,
    /// Connections that the server closed in good order and that were made again.
    pub reconnects: u64,
    /// What went wrong, by kind, from the first connection to the last reply.
    pub faults: BTreeMap<Fault, u64>,
    /// The generator's CPU time in the window, over its threads.
    pub cpu: Duration,
    /// Its threads.
    pub threads: usize,
    /// Whether a clock decided when to send.
    pub open: bool,
}

/// Above this share of its CPUs' time a closed-loop generator is counted as busy all the time.
const BUSY_SHARE: f64 = 0.95;
/// An open-loop generator that is later than this at its 99th percentile falsifies what it reports.
const LATENESS_NS_MAX: u64 = 100_000;

impl Outcome {
    /// Good replies a second.
    pub fn rate(&self) -> f64 {
        self.replies as f64 / self.elapsed.as_secs_f64()
    }

    /// The generator's share of its CPUs.
    pub fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.elapsed.as_secs_f64() / self.threads as f64
    }

    /// Whether the generator had no CPU time left: the server could have done more. (An open
    /// loop spins until the next request is due, so there its lateness tells.)
    pub fn generator_limits(&self) -> bool {
        if self.open {
            self.lateness.value_at_quantile(0.99) > LATENESS_NS_MAX
        } else {
            self.busy() > BUSY_SHARE
        }
    }

    /// All faults.
    pub fn faults_total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// The latency in microseconds at this quantile.
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// A histogram of nanoseconds up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that are known to be valid")
}

/// When a run's parts begin and end.
#[derive(Clone, Copy, Debug)]
struct Times {
    start: Instant,
    window_begin: Instant,
    window_end: Instant,
}

/// What the threads and the thread that leads them share.
struct Shared {
    ready: Barrier,
    times: OnceLock<Times>,
    ended: AtomicUsize,
    lanes: Vec<Lane>,
}

/// One thread's counters, read by the leading thread while it runs.
#[derive(Default)]
struct Lane {
    replies: AtomicU64,
    bytes: AtomicU64,
    clock: OnceLock<ThreadClock>,
}

/// The counters of all lanes at one moment.
struct Reading {
    at: Instant,
    replies: u64,
    bytes: u64,
    cpu: Duration,
}

impl Shared {
    fn read(&self) -> Reading {
        let sum = |of: fn(&Lane) -> &AtomicU64| -> u64 {
            self.lanes.iter().map(|lane| of(lane).load(Ordering::Relaxed)).sum()
        };
        let clocks = self.lanes.iter().filter_map(|lane| lane.clock.get());
        Reading {
            at: Instant::now(),
            replies: sum(|lane| &lane.replies),
            bytes: sum(|lane| &lane.bytes),
            cpu: clocks.map(ThreadClock::elapsed).sum(),
        }
    }

    /// Sleeps until `moment`, or until every thread has given up.
    fn sleep_until(&self, moment: Instant) {
        while self.ended.load(Ordering::Acquire) < self.lanes.len() {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// Runs a load; `probe` is called at the window's two ends, next to the reading of the counters.
///
/// # Panics
/// Without requests, connections, depth or threads, and if a thread cannot be started.
pub fn run(options: &Options, probe: &mut dyn FnMut(Moment)) -> Outcome {
    assert!(!options.requests.is_empty(), "nothing to ask for");
    assert!(options.connections > 0 && options.depth > 0 && options.threads > 0, "no load at all");
    pin::raise_open_files(options.connections as u64 + 256);
    let shared = Shared {
        ready: Barrier::new(options.threads + 1),
        times: OnceLock::new(),
        ended: AtomicUsize::new(0),
        lanes: (0..options.threads).map(|_| Lane::default()).collect(),
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|index| {
                let shared = &shared;
                scope.spawn(move || {
                    let tally = run_thread(options, index, shared);
                    shared.ended.fetch_add(1, Ordering::Release);
                    tally
                })
            })
            .collect();
        let (begin, end) = lead(options, &shared, probe);
        let mut outcome = Outcome {
            replies: end.replies - begin.replies,
            bytes: end.bytes - begin.bytes,
            elapsed: end.at - begin.at,
            latency: histogram(),
            lateness: histogram(),
            unsent: 0,
            reconnects: 0,
            faults: BTreeMap::new(),
            cpu: end.cpu.saturating_sub(begin.cpu),
            threads: options.threads,
            open: matches!(options.mode, Mode::Open(..)),
        };
        for thread in threads {
            let tally = thread.join().expect("a load thread panicked");
            tally.add_to(&mut outcome);
        }
        outcome
    })
}

fn lead(options: &Options, shared: &Shared, probe: &mut dyn FnMut(Moment)) -> (Reading, Reading) {
    shared.ready.wait();
    let start = Instant::now();
    let window_begin = start + options.warmup;
    let times = Times { start, window_begin, window_end: window_begin + options.window };
    shared.times.set(times).expect("set only here");
    shared.sleep_until(times.window_begin);
    let begin = shared.read();
    probe(Moment::Begin);
    shared.sleep_until(times.window_end);
    let end = shared.read();
    probe(Moment::End);
    (begin, end)
}

fn run_thread(options: &Options, index: usize, shared: &Shared) -> engine::Tally {
    if !options.cpus.is_empty() {
        pin::this_thread(options.cpus[index % options.cpus.len()]);
    }
    let lane = &shared.lanes[index];
    let _ = lane.clock.set(ThreadClock::of_this_thread());
    let share = |total: usize| (total + index) / options.threads;
    let mut engine = engine::Engine::new(options, share(options.connections).max(1), index, lane);
    engine.connect();
    shared.ready.wait();
    engine.run(*shared.times.wait());
    engine.into_tally()
}
