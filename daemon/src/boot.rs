//! What a worker is given when it starts, and how it hears from the supervisor afterwards.
//!
//! A worker process has one thread that owns no ring: it runs [`Control::serve`], reads the
//! supervisor's messages, and passes orders on. Each ring thread holds a [`Seat`]: it says when
//! it is ready, leaves a way to be woken, and asks for the order that holds whenever it was
//! woken. That costs the request path nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ember_affinity::WorkerPlan;
use ember_metrics::{Names, Pages, Words};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};

use crate::config::{Config, LogLevel};
use crate::log;
use crate::supervisor::link::Link;

/// Everything a worker needs to start serving.
#[derive(Debug)]
pub struct Boot {
    /// The config in force.
    pub config: Arc<Config>,
    /// Number of this worker, from 0; the `worker` label of the metrics.
    pub worker: u16,
    /// Number of the generation, from 1; each reload and each upgrade starts one.
    pub generation: u32,
    /// Where it belongs: the node to take memory from.
    pub plan: WorkerPlan,
    /// The counter pages of the whole server.
    pub pages: Arc<Pages>,
    /// What clients have asked for, for the rate limits of the whole server.
    pub limits: Arc<Words>,
    /// The label values that keys in the pages refer to.
    pub names: Arc<Names>,
    /// One entry for each ring thread to start.
    pub threads: Vec<ThreadBoot>,
    /// Where the access log goes, opened while the worker still could.
    pub access_log: Option<AccessSink>,
    /// The way to the supervisor.
    pub control: Control,
}

/// An open destination of the access log.
#[derive(Debug)]
pub struct AccessSink(pub(crate) crate::access_log::Sink);

/// What one ring thread is given.
#[derive(Debug)]
pub struct ThreadBoot {
    /// CPU to pin the thread to; none where threads are not pinned.
    pub cpu: Option<u32>,
    /// The sockets to accept from, each with the index of its `[[listener]]`; the admin
    /// listener's is the number of the others. More than one socket of a listener where a
    /// reload took threads away: their queues must not be lost. They do not block, and are to
    /// be closed when the thread stops accepting.
    pub listeners: Vec<(usize, OwnedFd)>,
    /// The counter page that this thread alone writes.
    pub page: usize,
    /// Its share of `limits.max_connections`.
    pub connections_max: u32,
    /// Its share of `limits.max_in_flight`.
    pub in_flight_max: u32,
}

/// What a ring thread is to do now. Orders only move down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Serve.
    Serve,
    /// Go on serving, but say "not ready" to who asks, so that a balancer looks elsewhere.
    Unready,
    /// Stop accepting (what the kernel has accepted meanwhile is still served), let the next
    /// reply of each connection end it, and leave when none is left.
    Drain {
        /// When to close connections on which no request is under way. A client may be sending
        /// one that very moment, so a reload lets them be for long.
        idle_at: Instant,
        /// When to end the rest.
        deadline: Instant,
    },
    /// Close everything and leave.
    Stop,
}

/// The main thread's end of the connection to the supervisor.
#[derive(Debug)]
pub struct Control {
    link: Link,
    shared: Arc<Shared>,
    on_ready: Option<fn() -> io::Result<()>>,
}

/// One ring thread's place in its worker. Dropping it tells that the thread has ended; while
/// the order is to serve, that fails the whole worker, so that it is started anew.
#[derive(Debug)]
pub struct Seat {
    shared: Arc<Shared>,
    thread: usize,
    seen: u32,
    order: Order,
}

impl Control {
    /// The control of a worker with so many ring threads, over its end of the pair. `on_ready`
    /// is called when the last thread is ready, before the supervisor hears of it.
    pub(crate) fn new(
        link: Link,
        threads: usize,
        on_ready: Option<fn() -> io::Result<()>>,
    ) -> io::Result<Self> {
        let news = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let mut state = State { order: Order::Serve, sitting: Vec::new() };
        state.sitting.resize_with(threads, Sitting::default);
        let shared = Shared { epoch: AtomicU32::new(0), state: Mutex::new(state), news };
        Ok(Self { link, shared: Arc::new(shared), on_ready })
    }

    /// The seat of a thread, to be taken once each before [`Control::serve`].
    pub fn seat(&self, thread: usize) -> Seat {
        Seat { shared: Arc::clone(&self.shared), thread, seen: 0, order: Order::Serve }
    }

    /// Passes the supervisor's orders on until every seat has been left. To be run on the
    /// worker's main thread.
    ///
    /// # Errors
    /// A thread that ended while it was to serve, a deadline that threads let pass, or a failing
    /// connection to the supervisor.
    pub fn serve(mut self) -> io::Result<()> {
        let mut told = false;
        let mut asked = None;
        loop {
            let until = match self.shared.look() {
                Look::Left => return Ok(()),
                Look::Failed(thread) => {
                    let why = format!("thread {thread} ended while it was to serve");
                    return Err(io::Error::other(why));
                }
                Look::Ready(backend) => {
                    if !told {
                        // What it saves is a few megabytes: without it the worker serves as well.
                        let _ = ember_affinity::release_start_up_text();
                    }
                    if let Some(on_ready) = self.on_ready.take() {
                        on_ready()?;
                    }
                    if !std::mem::replace(&mut told, true) {
                        self.say(&Report::Ready { backend })?;
                    }
                    None
                }
                Look::Starting => None,
                Look::Leaving(until) => Some(until),
            };
            if let Some(epoch) = asked
                && self.shared.all_have_seen(epoch)
            {
                asked = None;
                self.say(&Report::Alive)?;
            }
            match self.wait(until)? {
                Heard::News => self.shared.news.read().map(drop).or_else(not_yet)?,
                Heard::TooLate => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "threads were still busy after the deadline",
                    ));
                }
                Heard::Message(Command::Ping) => asked = Some(self.shared.wake(|_| {})),
                Heard::Message(Command::Log(level)) => log::set_level(level),
                Heard::Message(Command::Tell(tell)) => self.shared.obey(tell),
                // The supervisor died without a word. Nobody holds the sockets open for a
                // successor, so what is left is to end decently.
                Heard::Gone => {
                    self.shared.obey(ORPHANED);
                    return self.orphaned();
                }
            }
        }
    }

    fn orphaned(&self) -> io::Result<()> {
        loop {
            let until = match self.shared.look() {
                Look::Left => return Ok(()),
                Look::Leaving(until) => until,
                _ => Instant::now(),
            };
            let mut sources = [PollFd::new(self.shared.news.as_fd(), PollFlags::POLLIN)];
            if wait_for(&mut sources, Some(until))? {
                self.shared.news.read().map(drop).or_else(not_yet)?;
            } else {
                return Err(io::Error::other("the supervisor is gone"));
            }
        }
    }

    fn say(&self, report: &Report) -> io::Result<()> {
        match self.link.send(report, &[]) {
            // Its end shows at the next read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    fn wait(&self, until: Option<Instant>) -> io::Result<Heard> {
        let mut sources = [
            PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shared.news.as_fd(), PollFlags::POLLIN),
        ];
        if !wait_for(&mut sources, until)? {
            return Ok(Heard::TooLate);
        }
        if sources[0].any() != Some(true) {
            return Ok(Heard::News);
        }
        Ok(self.link.receive()?.map_or(Heard::Gone, |(command, _)| Heard::Message(command)))
    }
}

impl Seat {
    /// Says that this thread accepts connections now. `waker` must make the thread's next or
    /// present wait end; `backend` is the text of the start-up line about its driver.
    pub fn ready(&mut self, waker: impl Fn() + Send + 'static, backend: String) {
        let mut state = self.shared.lock();
        // An order that came before there was a way to wake this thread must not wait for the
        // next one.
        if self.shared.epoch.load(Ordering::Acquire) != self.seen {
            waker();
        }
        state.sitting[self.thread].waker = Some(Waker(Box::new(waker)));
        state.sitting[self.thread].backend = Some(backend);
        drop(state);
        self.shared.tell();
    }

    /// The order that holds. To be asked whenever the thread was woken: asking is also how the
    /// thread shows that it is not stuck.
    #[inline]
    pub fn order(&mut self) -> Order {
        let epoch = self.shared.epoch.load(Ordering::Acquire);
        if epoch != self.seen {
            self.catch_up(epoch);
        }
        self.order
    }

    #[cold]
    fn catch_up(&mut self, epoch: u32) {
        let mut state = self.shared.lock();
        self.seen = epoch;
        self.order = state.order;
        state.sitting[self.thread].seen = epoch;
        drop(state);
        self.shared.tell();
    }
}

#[cfg(test)]
impl Seat {
    /// A seat without a worker around it, and a way to give orders.
    pub(crate) fn alone() -> io::Result<(Seat, impl Fn(Order))> {
        let news = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let state = State { order: Order::Serve, sitting: vec![Sitting::default()] };
        let shared = Shared { epoch: AtomicU32::new(0), state: Mutex::new(state), news };
        let shared = Arc::new(shared);
        let seat = Seat { shared: Arc::clone(&shared), thread: 0, seen: 0, order: Order::Serve };
        let give = move |order| {
            shared.wake(|current| *current = order);
        };
        Ok((seat, give))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let serving = matches!(state.order, Order::Serve | Order::Unready);
        let sitting = &mut state.sitting[self.thread];
        sitting.left =
            Some(if serving || std::thread::panicking() { Left::Early } else { Left::Told });
        drop(state);
        self.shared.tell();
    }
}

/// The name of the admin listener in metrics.
pub const ADMIN_LISTENER: &str = "admin";

/// What the supervisor tells a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    /// Answer with [`Report::Alive`] when every thread has shown that it runs.
    Ping,
    /// This is worth a line from now on.
    Log(LogLevel),
    /// Do this from now on.
    Tell(Tell),
}

/// What the supervisor tells a worker to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tell {
    /// See [`Order::Unready`].
    Unready,
    /// See [`Order::Drain`]; both times count from the receipt.
    Drain { idle_ms: u64, deadline_ms: u64 },
    /// See [`Order::Stop`].
    Stop,
}

/// What a worker tells the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// Every thread accepts connections.
    Ready { backend: String },
    /// Every thread has run since the last ping.
    Alive,
    /// Something to be told before the worker is ready: what confines it, what it had to do
    /// without.
    Note { text: String, warning: bool },
    /// Why the worker is about to end.
    Failed { why: String },
}

/// How long a worker goes on when the supervisor was killed.
const ORPHANED: Tell = Tell::Drain { idle_ms: 0, deadline_ms: 1_000 };

/// How long past its deadline a thread may take to leave.
const LEAVE_GRACE: Duration = Duration::from_secs(1);

impl Tell {
    fn order(self, now: Instant) -> Order {
        match self {
            Self::Unready => Order::Unready,
            Self::Drain { idle_ms, deadline_ms } => Order::Drain {
                idle_at: now + Duration::from_millis(idle_ms),
                deadline: now + Duration::from_millis(deadline_ms),
            },
            Self::Stop => Order::Stop,
        }
    }
}

#[derive(Debug)]
struct Shared {
    /// Counts wakings; a seat compares it with the last it saw.
    epoch: AtomicU32,
    state: Mutex<State>,
    /// Wakes the main thread.
    news: EventFd,
}

#[derive(Debug)]
struct State {
    order: Order,
    sitting: Vec<Sitting>,
}

#[derive(Debug, Default)]
struct Sitting {
    waker: Option<Waker>,
    backend: Option<String>,
    seen: u32,
    left: Option<Left>,
}

struct Waker(Box<dyn Fn() + Send>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Told,
    Early,
}

/// The main thread's view of its seats.
enum Look {
    Starting,
    Ready(String),
    Leaving(Instant),
    Left,
    Failed(usize),
}

enum Heard {
    News,
    Message(Command),
    Gone,
    TooLate,
}

impl Shared {
    /// A panic elsewhere leaves this state whole: every change to it is one assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        // Full means told already.
        let _ = self.news.write(1);
    }

    /// Changes the order and wakes every thread; gives the epoch that they then have to see.
    fn wake(&self, change: impl FnOnce(&mut Order)) -> u32 {
        let mut state = self.lock();
        change(&mut state.order);
        let epoch = self.epoch.fetch_add(1, Ordering::Release).wrapping_add(1);
        for waker in state.sitting.iter().filter_map(|sitting| sitting.waker.as_ref()) {
            waker.0();
        }
        epoch
    }

    fn obey(&self, tell: Tell) {
        let order = tell.order(Instant::now());
        self.wake(|current| *current = order);
    }

    fn all_have_seen(&self, epoch: u32) -> bool {
        let state = self.lock();
        let seen = |sitting: &Sitting| sitting.seen.wrapping_sub(epoch).cast_signed() >= 0;
        state.sitting.iter().all(|sitting| sitting.left.is_some() || seen(sitting))
    }

    fn look(&self) -> Look {
        let state = self.lock();
        if let Some(thread) = state.sitting.iter().position(|s| s.left == Some(Left::Early)) {
            return Look::Failed(thread);
        }
        if state.sitting.iter().all(|sitting| sitting.left.is_some()) {
            return Look::Left;
        }
        match state.order {
            Order::Stop => Look::Leaving(Instant::now() + LEAVE_GRACE),
            Order::Drain { deadline, .. } => Look::Leaving(deadline + LEAVE_GRACE),
            Order::Serve | Order::Unready => {
                if state.sitting.iter().any(|sitting| sitting.backend.is_none()) {
                    return Look::Starting;
                }
                Look::Ready(state.sitting[0].backend.clone().unwrap_or_default())
            }
        }
    }
}

/// Whether one of the sources has something before `until`.
fn wait_for(sources: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            // Rounded up: waking a little late beats spinning for a part of a millisecond.
            let left = until.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(sources, timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) if until.is_some_and(|until| Instant::now() < until) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

fn not_yet(error: nix::errno::Errno) -> io::Result<()> {
    if error == nix::errno::Errno::EAGAIN { Ok(()) } else { Err(error.into()) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// A worker of two threads which wait for their wakers, and the supervisor's end.
    fn worker() -> (Link, thread::JoinHandle<io::Result<()>>, mpsc::Receiver<(usize, Order)>) {
        let (ours, theirs) = Link::pair().unwrap();
        let (orders, seen) = mpsc::channel();
        let main = thread::spawn(move || {
            let control = Control::new(theirs, 2, None).unwrap();
            for index in 0..2 {
                let (wake, woken) = mpsc::channel::<()>();
                let (mut seat, orders) = (control.seat(index), orders.clone());
                thread::spawn(move || {
                    let wake = move || {
                        let _ = wake.send(());
                    };
                    seat.ready(wake, "test".into());
                    while woken.recv().is_ok() {
                        let order = seat.order();
                        let _ = orders.send((index, order));
                        if !matches!(order, Order::Serve | Order::Unready) {
                            break;
                        }
                    }
                });
            }
            control.serve()
        });
        (ours, main, seen)
    }

    fn heard(link: &Link) -> Option<Report> {
        link.receive().unwrap().map(|(report, _)| report)
    }

    #[test]
    fn a_worker_is_ready_answers_pings_and_leaves_when_told() {
        let (link, main, seen) = worker();
        assert_eq!(heard(&link), Some(Report::Ready { backend: "test".into() }));
        link.send(&Command::Ping, &[]).unwrap();
        assert_eq!(heard(&link), Some(Report::Alive));
        let both = [seen.recv().unwrap().1, seen.recv().unwrap().1];
        assert_eq!(both, [Order::Serve; 2]);
        link.send(&Command::Tell(Tell::Unready), &[]).unwrap();
        let both = [seen.recv().unwrap().1, seen.recv().unwrap().1];
        assert_eq!(both, [Order::Unready; 2]);
        let drain = Tell::Drain { idle_ms: 1, deadline_ms: 60_000 };
        link.send(&Command::Tell(drain), &[]).unwrap();
        assert!(matches!(seen.recv().unwrap().1, Order::Drain { .. }));
        main.join().unwrap().unwrap();
        assert_eq!(heard(&link), None);
    }

    #[test]
    fn a_ping_does_not_take_an_order_back() {
        let (link, main, seen) = worker();
        heard(&link);
        link.send(&Command::Tell(Tell::Unready), &[]).unwrap();
        link.send(&Command::Ping, &[]).unwrap();
        assert_eq!(heard(&link), Some(Report::Alive));
        assert!(seen.try_iter().any(|(_, order)| order == Order::Unready));
        link.send(&Command::Tell(Tell::Stop), &[]).unwrap();
        main.join().unwrap().unwrap();
    }

    #[test]
    fn a_thread_that_ends_unasked_fails_the_worker() {
        let (_ours, theirs) = Link::pair().unwrap();
        let control = Control::new(theirs, 2, None).unwrap();
        let _stays = control.seat(0);
        let goes = control.seat(1);
        thread::spawn(move || {
            let _seat = goes;
        });
        assert!(control.serve().unwrap_err().to_string().contains("thread 1"));
    }

    #[test]
    fn a_worker_whose_supervisor_is_gone_leaves() {
        let (link, main, seen) = worker();
        heard(&link);
        drop(link);
        assert!(matches!(seen.recv().unwrap().1, Order::Drain { .. }));
        main.join().unwrap().unwrap();
    }
}
