//! A generation: the workers that one config started, from their start until the last has left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tracing::debug;

use super::child;
use super::link::Link;
use super::restart::Restarts;
use super::settings::Settings;
use super::sockets::Sockets;
use super::spawn::{self, BootMessage, Ending, Process, ThreadMessage};
use crate::boot::{Command, Tell};
use crate::config::LogLevel;
use crate::log;

/// How long past its deadline a worker that leaves may take before it is killed.
const LEAVE_GRACE: Duration = Duration::from_secs(3);

/// How long a process may outlive its channel to us.
const END_GRACE: Duration = Duration::from_secs(2);

/// The workers of one config.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) number: u32,
    pub(crate) settings: Settings,
    pub(crate) stage: Stage,
    pub(crate) workers: Vec<Worker>,
    /// What its workers said of their driver.
    pub(crate) backend: String,
    /// What its workers said of how they are confined.
    pub(crate) notes: Vec<String>,
}

/// How far a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not all of its workers have been ready yet.
    Starting,
    /// It serves.
    Serving,
    /// It has been told to leave, or has never got as far as to serve.
    Leaving,
}

/// One worker of a generation, through all of its processes.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: u16,
    /// The counter page of each of its threads.
    pub(crate) pages: Vec<usize>,
    pub(crate) restarts: Restarts,
    pub(crate) state: State,
}

/// What there is of a worker now.
#[derive(Debug)]
pub(crate) enum State {
    /// It runs.
    Running(Running),
    /// It died and is started again later.
    Waiting(Instant),
    /// It has left for good.
    Gone,
}

/// A worker's process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) link: Link,
    pub(crate) since: Instant,
    pub(crate) ready: bool,
    /// When it has to answer, be ready or be gone; else it is killed for the reason given.
    pub(crate) deadline: Option<(Instant, Reason)>,
    pub(crate) next_ping: Option<Instant>,
    /// The last words of a worker that failed.
    pub(crate) failed: Option<String>,
    /// Whether the channel still stands.
    pub(crate) linked: bool,
}

/// Why a worker is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It did not get ready.
    NotReady,
    /// Its threads do not answer.
    Stuck,
    /// It did not leave.
    Lingers,
}

impl Reason {
    /// In words, to follow "worker 0".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::NotReady => "was not ready in time",
            Self::Stuck => "was stuck: not all of its threads answered",
            Self::Lingers => "did not leave in time",
        }
    }
}

impl Generation {
    /// A generation of which nothing runs yet; `pages` gives a counter page for each thread.
    pub(crate) fn new(
        number: u32,
        settings: Settings,
        pages: &mut impl Iterator<Item = usize>,
    ) -> Self {
        let workers = settings.workers.iter().zip(0..).map(|(plan, index)| Worker {
            index,
            pages: pages.take(plan.cpus.len()).collect(),
            restarts: Restarts::default(),
            state: State::Gone,
        });
        let workers = workers.collect();
        let (backend, notes) = (String::new(), Vec::new());
        Self { number, settings, stage: Stage::Starting, workers, backend, notes }
    }

    /// Starts the worker at `at` (again).
    pub(crate) fn start_worker(
        &mut self,
        at: usize,
        sockets: &Sockets,
        memories: [BorrowedFd<'_>; 2],
        serve: &child::Serve,
        now: Instant,
    ) -> io::Result<()> {
        let settings = &self.settings;
        let assigned = sockets.assign(&settings.wanted, settings.threads());
        let before: usize = settings.workers[..at].iter().map(|plan| plan.cpus.len()).sum();
        let worker = &mut self.workers[at];
        let plan = &settings.workers[at];
        let mine = &assigned[before..before + plan.cpus.len()];
        let thread = |((cpu, page), sockets): ((&u32, &usize), &Vec<(usize, BorrowedFd<'_>)>)| {
            ThreadMessage {
                cpu: settings.pinned.then_some(*cpu),
                page: *page,
                listeners: sockets.iter().map(|(index, _)| *index).collect(),
            }
        };
        let message = BootMessage {
            worker: worker.index,
            generation: self.number,
            in_process: settings.in_process,
            node: plan.node,
            log_level: log::level(),
            threads: plan.cpus.iter().zip(&worker.pages).zip(mine).map(thread).collect(),
        };
        let sockets: Vec<BorrowedFd<'_>> =
            mine.iter().flatten().map(|(_, socket)| *socket).collect();
        let started = spawn::start(&message, settings.shared.as_fd(), memories, &sockets, serve)?;
        let (index, pid) = (worker.index, started.process.pid());
        debug!(worker = index, pid, generation = self.number, "started worker {index} (pid {pid})");
        worker.state = State::Running(Running {
            process: started.process,
            link: started.link,
            since: now,
            ready: false,
            deadline: Some((now + settings.start_timeout, Reason::NotReady)),
            next_ping: None,
            failed: None,
            linked: true,
        });
        Ok(())
    }

    /// Whether every worker is ready.
    pub(crate) fn is_ready(&self) -> bool {
        let ready = |worker: &Worker| matches!(&worker.state, State::Running(it) if it.ready);
        self.workers.iter().all(ready)
    }

    /// Whether no worker is left, or to come.
    pub(crate) fn is_gone(&self) -> bool {
        self.workers.iter().all(|worker| matches!(worker.state, State::Gone))
    }

    /// Tells every worker; those that are between two processes will not come back for more
    /// than serving.
    pub(crate) fn tell(&mut self, tell: Tell, now: Instant) {
        let leave_in = match tell {
            Tell::Unready => None,
            Tell::Drain { deadline_ms, .. } => Some(Duration::from_millis(deadline_ms)),
            Tell::Stop => Some(Duration::ZERO),
        };
        if leave_in.is_some() {
            self.stage = Stage::Leaving;
        }
        for worker in &mut self.workers {
            let State::Running(running) = &mut worker.state else {
                if leave_in.is_some() {
                    worker.state = State::Gone;
                }
                continue;
            };
            if let Some(leave_in) = leave_in {
                running.leave_by(now + leave_in + LEAVE_GRACE);
            }
            running.say(&Command::Tell(tell));
        }
    }

    /// Lets every worker that runs know what is worth a line.
    pub(crate) fn set_log_level(&self, level: LogLevel) {
        for worker in &self.workers {
            if let State::Running(running) = &worker.state {
                running.say(&Command::Log(level));
            }
        }
    }

    /// The moment at which something is due here.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.workers.iter().filter_map(Worker::next_due).min()
    }
}

impl Worker {
    /// Takes what the process has become of: gives how it ended, if it has.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<Ending>> {
        let State::Running(running) = &mut self.state else { return Ok(None) };
        running.process.try_wait(running.linked)
    }

    /// Its process number, while it has one.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.state {
            State::Running(running) => Some(running.process.pid()),
            _ => None,
        }
    }

    /// The number of its process, while it has one of its own.
    pub(crate) fn child(&self) -> Option<Pid> {
        match &self.state {
            State::Running(running) => running.process.child(),
            _ => None,
        }
    }

    fn next_due(&self) -> Option<Instant> {
        match &self.state {
            State::Running(running) => {
                let deadline = running.deadline.map(|(deadline, _)| deadline);
                deadline.into_iter().chain(running.next_ping).min()
            }
            State::Waiting(until) => Some(*until),
            State::Gone => None,
        }
    }
}

impl Running {
    /// Sends a command. A worker that does not take it shows that otherwise: by its end, or by
    /// not answering.
    pub(crate) fn say(&self, command: &Command) {
        let _ = self.link.send(command, &[]);
    }

    /// It has been told to leave, and is killed if it is still there at that moment.
    pub(crate) fn leave_by(&mut self, deadline: Instant) {
        self.deadline = Some((deadline, Reason::Lingers));
        self.next_ping = None;
    }

    /// It is ready: from now on it is asked whether it still runs.
    pub(crate) fn set_ready(&mut self, now: Instant, stuck_after: Option<Duration>) {
        self.ready = true;
        if !matches!(self.deadline, Some((_, Reason::Lingers))) {
            self.deadline = None;
            self.next_ping = stuck_after.map(|stuck_after| now + stuck_after / 3);
        }
    }

    /// Asks whether it runs.
    pub(crate) fn ping(&mut self, now: Instant, stuck_after: Duration) {
        self.say(&Command::Ping);
        self.next_ping = None;
        self.deadline = Some((now + stuck_after, Reason::Stuck));
    }

    /// It has answered.
    pub(crate) fn answered(&mut self, now: Instant, stuck_after: Option<Duration>) {
        if matches!(self.deadline, Some((_, Reason::Stuck))) {
            self.deadline = None;
            self.next_ping = stuck_after.map(|stuck_after| now + stuck_after / 3);
        }
    }

    /// Its channel has ended; the process has to follow soon.
    pub(crate) fn unlinked(&mut self, now: Instant) {
        self.linked = false;
        self.next_ping = None;
        self.deadline = Some((now + END_GRACE, Reason::Lingers));
    }
}
