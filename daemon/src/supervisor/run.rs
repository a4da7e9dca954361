//! The supervisor's loop: one thread, one poll, no timer but the earliest deadline.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::change::Change;
use super::child::Serve;
use super::counters::Counters;
use super::door::{ClientId, Door, Reply, Request};
use super::ending::Ending;
use super::generation::{Generation, Reason, Stage, State, Worker};
use super::settings::Source;
use super::signals::{Asked, Signals};
use super::sockets::Sockets;
use super::spawn;
use super::systemd::Systemd;
use super::upgrade::{Predecessor, Probe, Purpose};
use crate::boot::Report;
use crate::config::LogLevel;
use crate::log;
use crate::tune::watch::Watcher;
use tracing::{debug, error, info, trace, warn};

/// Everything that the supervisor holds.
pub(super) struct Supervisor {
    pub(super) source: Source,
    pub(super) serve: Serve,
    /// Where this program is in the file system, and its successor will be.
    pub(super) program: PathBuf,
    /// The program that this one took over from.
    pub(super) predecessor: Option<Predecessor>,
    pub(super) sockets: Sockets,
    pub(super) counters: Counters,
    /// Oldest first. The last one is the one that serves, or is to serve next.
    pub(super) generations: Vec<Generation>,
    pub(super) last_number: u32,
    pub(super) signals: Signals,
    pub(super) systemd: Systemd,
    pub(super) door: Option<Door>,
    /// The change that is under way.
    pub(super) change: Option<Change>,
    /// A change asked for while it could not begin, and who waits for it.
    pub(super) pending: Option<Change>,
    pub(super) probe: Option<Probe>,
    pub(super) ending: Option<Ending>,
    /// Why the last change was refused.
    pub(super) last_error: Option<String>,
    pub(super) started: Instant,
    /// The watch over what was tuned.
    pub(super) watcher: Option<Watcher>,
    /// Set when memory is held that only a start or a reload needs.
    pub(super) unsettled: bool,
    /// Set when the loop is to end: the status to exit with.
    pub(super) exit: Option<u8>,
}

/// Where something was heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ear {
    Signals,
    Door,
    Probe,
    Links,
    Worker { generation: u32, at: usize },
}

impl Supervisor {
    /// Runs until there is nothing left to supervise; gives the exit status.
    pub(super) fn run(&mut self) -> io::Result<u8> {
        // From here on there is little to do. What it saves is resident memory alone.
        let _ = ember_affinity::release_start_up_text();
        while self.exit.is_none() {
            self.settle();
            for ear in self.wait()? {
                match ear {
                    Ear::Signals => self.take_signals()?,
                    Ear::Door => self.take_requests(),
                    Ear::Probe => self.hear_probe(),
                    Ear::Links => {
                        if let Some(watcher) = &mut self.watcher {
                            watcher.hear(Instant::now());
                        }
                    }
                    Ear::Worker { generation, at } => self.hear_worker(generation, at)?,
                }
            }
            self.act_on_time(Instant::now())?;
        }
        if let Some(door) = self.door.take() {
            door.close();
        }
        self.tell_ended();
        Ok(self.exit.unwrap_or_default())
    }

    /// Gives back what reading a config took: pages of the program and its libraries, and of the
    /// heap, are three times what this loop needs. Beginning anew leaves them behind, and takes
    /// a few milliseconds in which nothing here has to happen.
    fn settle(&mut self) {
        let in_process = |it: &Generation| it.settings.in_process;
        let busy = self.change.is_some() || self.pending.is_some() || self.probe.is_some();
        let bound = self.watcher.is_some() || self.generations.iter().any(in_process);
        if !self.unsettled || busy || bound || self.ending.is_some() {
            return;
        }
        self.unsettled = false;
        let error = self.execute(Purpose::Settle, &[]);
        warn!("the supervisor keeps the memory of its start: {error}");
    }

    fn wait(&self) -> io::Result<Vec<Ear>> {
        let mut ears = vec![(Ear::Signals, self.signals.as_fd())];
        let door = self.door.iter().flat_map(Door::sources);
        ears.extend(door.map(|source| (Ear::Door, source)));
        ears.extend(self.probe_source().map(|source| (Ear::Probe, source)));
        let links = self.watcher.as_ref().and_then(Watcher::source);
        ears.extend(links.map(|source| (Ear::Links, source)));
        for generation in &self.generations {
            for (at, worker) in generation.workers.iter().enumerate() {
                if let State::Running(running) = &worker.state
                    && running.linked
                {
                    let ear = Ear::Worker { generation: generation.number, at };
                    ears.push((ear, running.link.as_fd()));
                }
            }
        }
        let mut sources: Vec<PollFd<'_>> =
            ears.iter().map(|(_, source)| PollFd::new(*source, PollFlags::POLLIN)).collect();
        let timeout = self.next_due().map_or(PollTimeout::NONE, |due| {
            let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut sources, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let heard = sources.iter().map(|source| source.any() == Some(true));
        let mut heard: Vec<Ear> =
            ears.iter().zip(heard).filter(|(_, heard)| *heard).map(|((ear, _), _)| *ear).collect();
        heard.dedup();
        Ok(heard)
    }

    fn next_due(&self) -> Option<Instant> {
        let workers = self.generations.iter().filter_map(Generation::next_due);
        let ending = self.ending.as_ref().and_then(Ending::next_due);
        let watcher = self.watcher.as_ref().map(Watcher::next_due);
        workers
            .chain(ending)
            .chain(self.probe_due())
            .chain(self.systemd.next_due())
            .chain(watcher)
            .min()
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(asked) = self.signals.next()? {
            match asked {
                Asked::Drain => self.drain("SIGTERM", None),
                Asked::Stop => self.stop("SIGINT"),
                Asked::Reload => self.reload("SIGHUP", None),
                Asked::Upgrade => self.upgrade("SIGUSR2", None),
                Asked::ChildEnded => self.reap()?,
            }
        }
        Ok(())
    }

    fn take_requests(&mut self) {
        let requests = self.door.as_mut().map(Door::hear).unwrap_or_default();
        for (client, request) in requests {
            debug!(?request, "asked over the control socket: {request:?}");
            match request {
                Request::Reload => self.reload("a request", Some(client)),
                Request::Upgrade => self.upgrade("a request", Some(client)),
                Request::Drain => self.drain("a request", Some(client)),
                Request::Metrics => {
                    let message = self.counters.text();
                    self.answer(client, &Reply { ok: true, message, status: None });
                }
                Request::Log { level } => {
                    let message = self.set_log_level(level);
                    self.answer(client, &Reply { ok: true, message, status: None });
                }
                Request::Status => {
                    let status = Some(self.status(Instant::now()));
                    self.answer(client, &Reply { ok: true, message: String::new(), status });
                }
            }
        }
    }

    /// Takes another level of the log, where there is one; gives the words about what holds.
    fn set_log_level(&mut self, level: Option<LogLevel>) -> String {
        let Some(level) = level else { return format!("{:?}", log::level()).to_lowercase() };
        // Said at whichever of both levels shows it.
        let words = format!("the log is at level {level:?}").to_lowercase();
        info!("{words}");
        log::set_level(level);
        for generation in &self.generations {
            generation.set_log_level(level);
        }
        words
    }

    /// Answers whoever asked over the control socket.
    pub(super) fn answer(&mut self, client: ClientId, reply: &Reply) {
        if let Some(door) = &mut self.door {
            door.answer(client, reply);
        }
    }

    /// The generation that serves now.
    pub(super) fn serving(&mut self) -> Option<&mut Generation> {
        self.generations.iter_mut().rev().find(|generation| generation.stage == Stage::Serving)
    }

    fn hear_worker(&mut self, number: u32, at: usize) -> io::Result<()> {
        let now = Instant::now();
        let find = |generation: &&mut Generation| generation.number == number;
        let Some(generation) = self.generations.iter_mut().find(find) else { return Ok(()) };
        let stuck_after = generation.settings.stuck_after;
        let State::Running(running) = &mut generation.workers[at].state else { return Ok(()) };
        match running.link.receive::<Report>() {
            Ok(Some((report, _))) => match report {
                Report::Ready { backend } => {
                    let pid = running.process.pid();
                    debug!(
                        worker = at,
                        pid,
                        generation = number,
                        "worker {at} (pid {pid}) is ready"
                    );
                    running.set_ready(now, stuck_after);
                    generation.backend = backend;
                    if generation.stage == Stage::Starting && generation.is_ready() {
                        self.generation_is_ready(number);
                    }
                    self.share_facts();
                }
                Report::Alive => {
                    trace!(worker = at, generation = number, "worker {at} is alive");
                    running.answered(now, stuck_after);
                }
                Report::Note { text, warning: true } => warn!("{text}"),
                // All workers of a generation have the same to say.
                Report::Note { text, .. } if generation.notes.contains(&text) => {}
                Report::Note { text, warning: false } => generation.notes.push(text),
                Report::Failed { why } => running.failed = Some(why),
            },
            Ok(None) => {
                running.unlinked(now);
                self.bury(number, at)?;
            }
            Err(error) => {
                running.failed = Some(format!("sent what is no report: {error}"));
                running.unlinked(now);
            }
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        let workers: Vec<(u32, usize)> = self
            .generations
            .iter()
            .flat_map(|it| (0..it.workers.len()).map(move |at| (it.number, at)))
            .collect();
        loop {
            for (number, at) in &workers {
                self.bury(*number, *at)?;
            }
            let running = self.generations.iter().flat_map(|it| &it.workers);
            let running: Vec<Pid> = running.filter_map(Worker::child).collect();
            let probe = self.probe.as_ref().and_then(Probe::child);
            let ours: Vec<Pid> = running.iter().copied().chain(probe).collect();
            // A worker that has ended since is buried in the next round; a probe says itself
            // how it went.
            match spawn::reap_strangers(&ours) {
                Some(pid) if running.contains(&pid) => {}
                _ => return Ok(()),
            }
        }
    }

    /// Takes note of a worker's end, if it has come, and decides what follows.
    fn bury(&mut self, number: u32, at: usize) -> io::Result<()> {
        let Some(generation) = self.generations.iter_mut().find(|it| it.number == number) else {
            return Ok(());
        };
        let worker = &mut generation.workers[at];
        let Some(ending) = worker.try_wait()? else { return Ok(()) };
        let was = std::mem::replace(&mut worker.state, State::Gone);
        let State::Running(mut was) = was else { return Ok(()) };
        was.hear_last_words();
        for page in &worker.pages {
            self.counters.reset_gauges(*page);
        }
        let (index, pid) = (worker.index, was.process.pid());
        let why = was.failed.map(|why| format!(": {why}")).unwrap_or_default();
        let obituary = format!("worker {index} (pid {pid}) {}{why}", ending.how);
        match generation.stage {
            Stage::Starting => self.generation_failed(number, &obituary),
            Stage::Leaving => {
                if ending.well {
                    debug!(worker = index, pid, generation = number, "{obituary}, as told");
                } else {
                    let words = "while it was leaving";
                    warn!(worker = index, pid, generation = number, "{obituary} {words}");
                }
                self.sweep();
                self.share_facts();
            }
            Stage::Serving => {
                let now = Instant::now();
                let delay = worker.restarts.delay_after_death(now);
                worker.state = State::Waiting(now + delay);
                self.counters.count_restart(index);
                let again = match delay.as_millis() {
                    0 => "starting it again".to_owned(),
                    ms => format!("starting it again in {ms} ms, since it keeps ending"),
                };
                error!(worker = index, pid, generation = number, "{obituary}; {again}");
                self.act_on_time(now)?;
            }
        }
        Ok(())
    }

    /// Lets the metrics show which processes there are and how the last change went.
    pub(super) fn share_facts(&self) {
        let workers = self.generations.iter().flat_map(|generation| &generation.workers);
        let mut pids = vec![std::process::id()];
        pids.extend(workers.filter_map(Worker::pid));
        // A worker in this process is in the list already.
        pids.dedup();
        self.counters.post(pids);
    }

    /// Lets go of generations of which nothing is left, and goes on with what waited for that.
    pub(super) fn sweep(&mut self) {
        let gone = |it: &mut Generation| it.stage == Stage::Leaving && it.is_gone();
        for generation in self.generations.extract_if(.., gone) {
            let pages = generation.workers.iter().flat_map(|worker| &worker.pages);
            self.counters.give_back(pages.copied());
            info!(generation = generation.number, "generation {} has left", generation.number);
        }
        if self.ending.is_some() && self.generations.is_empty() {
            self.exit = Some(0);
        }
        self.begin_pending();
    }

    fn act_on_time(&mut self, now: Instant) -> io::Result<()> {
        for index in 0..self.generations.len() {
            for at in 0..self.generations[index].workers.len() {
                self.act_on_worker(index, at, now);
            }
        }
        self.check_probe(now);
        self.look_for_drift(now);
        self.systemd.feed_watchdog(now);
        self.go_on_ending(now);
        Ok(())
    }

    /// Reads back what was tuned, when that is due, and shows it in the metrics.
    fn look_for_drift(&mut self, now: Instant) {
        let Some(seen) = self.watcher.as_mut().and_then(|watcher| watcher.look(now)) else {
            return;
        };
        self.counters.show_drift(&seen.drift);
        if let Some(line) = seen.line {
            warn!("{line}");
        }
    }

    fn act_on_worker(&mut self, index: usize, at: usize, now: Instant) {
        let generation = &mut self.generations[index];
        let stuck_after = generation.settings.stuck_after;
        let worker = &mut generation.workers[at];
        match &mut worker.state {
            State::Waiting(until) if *until <= now => {
                let memories = self.counters.memories();
                let started =
                    generation.start_worker(at, &self.sockets, memories, &self.serve, now);
                if let Err(error) = started {
                    let worker = &mut generation.workers[at];
                    let delay = worker.restarts.delay_after_death(now).max(RETRY);
                    worker.state = State::Waiting(now + delay);
                    let (index, ms) = (worker.index, delay.as_millis());
                    error!("cannot start worker {index}: {error}; trying again in {ms} ms");
                }
            }
            State::Running(running) => {
                if let Some((deadline, reason)) = running.deadline
                    && deadline <= now
                {
                    running.deadline = None;
                    running.end_for(worker.index, reason);
                }
                if let (Some(next_ping), Some(stuck_after)) = (running.next_ping, stuck_after)
                    && next_ping <= now
                {
                    running.ping(now, stuck_after);
                }
            }
            State::Waiting(_) | State::Gone => {}
        }
    }
}

/// The shortest delay before another try to start a process that could not be started.
const RETRY: Duration = Duration::from_millis(500);

impl super::generation::Running {
    fn end_for(&mut self, worker: u16, reason: Reason) {
        let pid = self.process.pid();
        let words = reason.words();
        if self.process.kill() {
            warn!("worker {worker} (pid {pid}) {words}; killing it");
            self.failed.get_or_insert_with(|| format!("it {words}"));
        } else {
            warn!("worker {worker} {words}, and a thread cannot be killed");
        }
    }

    /// What still waits in the channel of a process that has ended.
    fn hear_last_words(&mut self) {
        while self.linked && self.link.has_something() {
            match self.link.receive::<Report>() {
                Ok(Some((Report::Failed { why }, _))) => self.failed = Some(why),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.linked = false,
            }
        }
    }
}
