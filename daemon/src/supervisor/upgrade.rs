//! Changing over to another program under the same process number.
//!
//! 1. The new program is started as a child and shown everything that it would take over. It
//!    reads that and its config, says that it could, and ends. One that cannot never gets near
//!    the sockets.
//! 2. This process executes the new program in place. Sockets, counters, clients that wait and
//!    the channels to the workers go over a socket that is its standard input. The workers
//!    notice nothing, and serve.
//! 3. The new program starts a generation of its own, as a reload does. When that fails, it
//!    executes the old program in place, from the descriptor that it got, and all is as before.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, execve};
use serde::{Deserialize, Serialize};

use super::change::{Change, Kind};
use super::counters::{Counters, Record};
use super::door::{ClientId, Door, DoorRecord, Reply};
use super::generation::{Generation, Reason, Running, Stage, State, Worker};
use super::link::{DESCRIPTORS_MAX, Link};
use super::restart::Restarts;
use super::run::Supervisor;
use super::settings::Settings;
use super::sockets::{GroupRecord, Sockets};
use super::spawn::{self, Process, SocketsMessage};
use crate::config::LogLevel;
use crate::log;
use tracing::{error, info};

/// Says to a program that its standard input is a predecessor's channel, and what for.
pub(crate) const VARIABLE: &str = "EMBERD_HANDOVER";

/// Value of [`VARIABLE`]: say whether you could, and end.
const PROBE: &str = "probe";

/// Value of [`VARIABLE`]: take over.
const TAKE: &str = "take";

/// Value of [`VARIABLE`]: go on, as the same program that has begun anew.
pub(super) const SETTLE: &str = "settle";

/// How long the new program may take to say that it could.
const PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of this form of [`HandOver`]; programs with another one do not understand each other.
const FORM: u32 = 3;

/// The new program while it shows what it can.
#[derive(Debug)]
pub(super) struct Probe {
    process: Process,
    link: Link,
    deadline: Instant,
    clients: Vec<ClientId>,
}

/// The new program's answer to being probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    version: String,
    /// Why it cannot take over.
    problem: Option<String>,
}

/// What goes from one program to the next, beside the descriptors.
#[derive(Serialize, Deserialize)]
struct HandOver {
    form: u32,
    version: String,
    /// Why the program that was to take over has not: this goes back to the old one.
    failed: Option<String>,
    /// What the config is called for people.
    source: String,
    last_error: Option<String>,
    /// Where the program is in the file system.
    program: PathBuf,
    /// How the program that hands over was called, should it come to be called again.
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
    running_ms: u64,
    last_number: u32,
    /// The level of the log in force; none from a program that had none.
    #[serde(default)]
    log_level: Option<LogLevel>,
    counters: Record,
    door: Option<DoorRecord>,
    /// Clients of the control socket that wait for the end of the upgrade.
    clients: Vec<ClientId>,
    sockets: Vec<GroupRecord>,
    generations: Vec<GenerationRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct GenerationRecord {
    number: u32,
    leaving: bool,
    backend: String,
    notes: Vec<String>,
    workers: Vec<WorkerRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WorkerRecord {
    index: u16,
    pages: Vec<usize>,
    /// The process and its age; its channel goes beside it.
    running: Option<RunningRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RunningRecord {
    pid: i32,
    age_ms: u64,
    ready: bool,
    /// When a worker that leaves is killed.
    leaves_in_ms: Option<u64>,
}

/// The program that this one took over from, as it can be executed again.
#[derive(Debug)]
pub(super) struct Predecessor {
    program: OwnedFd,
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
}

/// What another program, or the same one, is executed for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose<'a> {
    /// The new one takes over.
    Upgrade,
    /// The new one could not, for this reason: back to the old one.
    GoBack(&'a str),
    /// The same one, without the memory that its start took.
    Settle,
}

/// What this process was started to do about a predecessor.
pub(super) enum Role {
    /// There is none.
    First,
    /// Take over.
    Successor(Box<Legacy>),
    /// Only to show that it could; the status to exit with is all that is left to do.
    Probed,
}

/// What a predecessor left.
pub(super) struct Legacy {
    hand_over: HandOver,
    descriptors: Vec<OwnedFd>,
}

/// Finds out, and answers a probe.
pub(super) fn role(check: impl FnOnce() -> Result<(), String>) -> io::Result<Role> {
    let mode = match std::env::var(VARIABLE) {
        Ok(mode) => mode,
        Err(_) => return Ok(Role::First),
    };
    let link = Link::adopt_standard_input()?;
    let legacy = receive(&link);
    if mode == TAKE {
        return Ok(Role::Successor(Box::new(legacy?)));
    }
    let problem = match legacy {
        Ok(_) => check().err(),
        Err(error) => Some(error.to_string()),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    link.send(&Verdict { version, problem }, &[])?;
    Ok(Role::Probed)
}

impl Probe {
    /// The new program's process number.
    pub(super) fn child(&self) -> Option<Pid> {
        self.process.child()
    }
}

impl Supervisor {
    /// Lets the program that is in the file system now show what it can.
    pub(super) fn upgrade(&mut self, by: &str, client: Option<ClientId>) {
        if let Some(why) = self.not_upgradable() {
            return self.refuse(client, why);
        }
        info!("upgrading to {}, asked by {by}", self.program.display());
        let clients = client.into_iter().collect();
        match self.start_probe(clients) {
            Ok(probe) => self.probe = Some(probe),
            Err(error) => {
                let why = format!("cannot start {}: {error}", self.program.display());
                self.upgrade_refused(&why, client.into_iter().collect());
            }
        }
    }

    /// What to poll for the new program's answer.
    pub(super) fn probe_source(&self) -> Option<BorrowedFd<'_>> {
        self.probe.as_ref().map(|probe| probe.link.as_fd())
    }

    /// When the new program has to have answered.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        self.probe.as_ref().map(|probe| probe.deadline)
    }

    /// Hears the answer, and goes on accordingly.
    pub(super) fn hear_probe(&mut self) {
        let Some(probe) = self.probe.take() else { return };
        let verdict = match probe.link.receive::<Verdict>() {
            Ok(Some((Verdict { problem: None, version }, _))) => Ok(version),
            Ok(Some((Verdict { problem: Some(problem), version }, _))) => {
                Err(format!("version {version} cannot take over: {problem}"))
            }
            Ok(None) => Err("the new program ended without a word; is it an emberd?".to_owned()),
            Err(error) => Err(format!("the new program's answer is not understood: {error}")),
        };
        self.end_probe(probe, verdict);
    }

    /// Gives up a new program that does not answer.
    pub(super) fn check_probe(&mut self, now: Instant) {
        if self.probe_due().is_some_and(|due| due <= now)
            && let Some(probe) = self.probe.take()
        {
            self.end_probe(probe, Err("the new program did not answer in time".to_owned()));
        }
    }

    fn end_probe(&mut self, mut probe: Probe, verdict: Result<String, String>) {
        probe.process.kill();
        // It is dead or dying, so that this does not wait for long.
        let _ = probe.process.wait();
        let refusal = match verdict {
            Ok(_) if self.ending.is_some() => "the server is draining".to_owned(),
            Ok(version) => {
                info!("version {version} takes over");
                let error = self.execute(Purpose::Upgrade, &probe.clients);
                format!("cannot execute {}: {error}", self.program.display())
            }
            Err(why) => why,
        };
        self.upgrade_refused(&refusal, probe.clients);
    }

    /// The upgrade failed after this program had taken over: the old one is executed again.
    pub(super) fn go_back(&mut self, why: &str, clients: Vec<ClientId>) {
        error!("the upgrade failed, and the old program goes on: {why}");
        let error = self.execute(Purpose::GoBack(why), &clients);
        error!("the old program cannot be executed: {error}");
        // What the old program started still serves: keeping it is the best that is left.
        self.upgrade_refused(why, clients);
    }

    /// Says that an upgrade will not be.
    pub(super) fn upgrade_refused(&mut self, why: &str, clients: Vec<ClientId>) {
        error!("the upgrade is refused, and the old program goes on: {why}");
        self.last_error = Some(why.to_owned());
        for client in clients {
            let message = format!("upgrade refused: {why}");
            self.answer(client, &Reply { ok: false, message, status: None });
        }
    }

    fn not_upgradable(&self) -> Option<&'static str> {
        if self.ending.is_some() {
            return Some("the server is draining");
        }
        if self.change.is_some() || self.pending.is_some() || self.probe.is_some() {
            return Some("another change is under way; try again when it is done");
        }
        let in_process = |it: &Generation| it.settings.in_process;
        self.generations.iter().any(in_process).then_some(
            "a worker in the supervisor's own process cannot be upgraded; set \
             workers.in_process = false",
        )
    }

    fn start_probe(&self, clients: Vec<ClientId>) -> io::Result<Probe> {
        let (ours, theirs) = Link::pair()?;
        self.send_all(&ours, None, &clients)?;
        let mut command = Command::new(&self.program);
        command.args(std::env::args_os().skip(1)).stdin(Stdio::from(OwnedFd::from(theirs)));
        command.process_group(0);
        for variable in spawn::PRIVATE_VARIABLES {
            command.env_remove(variable);
        }
        command.env(VARIABLE, PROBE);
        let child = command.spawn()?;
        let process = Process::Child(Pid::from_raw(child.id().cast_signed()));
        Ok(Probe { process, link: ours, deadline: Instant::now() + PROBE_TIMEOUT, clients })
    }

    /// Executes another program in place, with all that there is: the new one, or, because the
    /// new one failed, the old one. Only comes back when that fails, and then nothing has
    /// changed.
    pub(super) fn execute(&self, purpose: Purpose<'_>, clients: &[ClientId]) -> io::Error {
        match self.try_execute(purpose, clients) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_execute(&self, purpose: Purpose<'_>, clients: &[ClientId]) -> io::Result<Infallible> {
        let (own_program, mode, failed) = match purpose {
            Purpose::Upgrade => (self.program.clone(), TAKE, None),
            Purpose::GoBack(why) => (PathBuf::new(), TAKE, Some(why)),
            // Not the one that is in the file system now.
            Purpose::Settle => ("/proc/self/exe".into(), SETTLE, None),
        };
        let (program, arguments, mut environment) = match failed {
            None => (own_program, own_arguments(), own_environment()),
            Some(_) => {
                let old = self.predecessor.as_ref().ok_or(io::ErrorKind::NotFound)?;
                let program = format!("/proc/self/fd/{}", old.program.as_raw_fd()).into();
                (program, old.arguments.clone(), old.environment.clone())
            }
        };
        environment.push(format!("{VARIABLE}={mode}").into_bytes());
        let program = CString::new(program.into_os_string().into_vec())?;
        let (arguments, environment) = (c_strings(arguments)?, c_strings(environment)?);
        let (ours, theirs) = Link::pair()?;
        self.send_all(&ours, failed, clients)?;
        // Not through Command::exec(), which empties the signal mask: a signal that comes before
        // the new program has taken them up has to wait, not to kill.
        rustix::stdio::dup2_stdin(&theirs)?;
        let executed = execve(&program, &arguments, &environment);
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        Ok(executed?)
    }

    fn send_all(&self, link: &Link, failed: Option<&str>, clients: &[ClientId]) -> io::Result<()> {
        let now = Instant::now();
        let (door, doors) = self.door.as_ref().map(Door::hand_over).unzip();
        let (sockets, listening) = self.sockets.hand_over();
        let generations: Vec<&Generation> =
            self.generations.iter().filter(|it| it.stage != Stage::Starting).collect();
        let hand_over = HandOver {
            form: FORM,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            failed: failed.map(ToOwned::to_owned),
            source: self.source.name(),
            last_error: self.last_error.clone(),
            program: self.program.clone(),
            arguments: own_arguments(),
            environment: own_environment(),
            running_ms: milliseconds(self.started, now),
            last_number: self.last_number,
            log_level: Some(log::level()),
            counters: self.counters.record(),
            door,
            clients: clients.to_vec(),
            sockets,
            generations: generations.iter().map(|it| GenerationRecord::new(it, now)).collect(),
        };
        let memory = spawn::memory("emberd-handover", &serde_json::to_vec(&hand_over)?)?;
        let program = File::open("/proc/self/exe")?;
        let mut descriptors = vec![memory.as_fd(), program.as_fd()];
        descriptors.extend(self.counters.memories());
        descriptors.extend(doors.into_iter().flatten());
        descriptors.extend(listening);
        for generation in &generations {
            descriptors.push(generation.settings.shared.as_fd());
            descriptors.extend(generation.workers.iter().filter_map(
                |worker| match &worker.state {
                    State::Running(running) => Some(running.link.as_fd()),
                    _ => None,
                },
            ));
        }
        link.send(&SocketsMessage(descriptors.len()), &[])?;
        for some in descriptors.chunks(DESCRIPTORS_MAX) {
            link.send(&SocketsMessage(some.len()), some)?;
        }
        Ok(())
    }
}

impl Legacy {
    /// What a program left that begins anew, and what its config is called.
    pub(super) fn of_this_program() -> io::Result<(Self, String)> {
        let legacy = receive(&Link::adopt_standard_input()?)?;
        let source = legacy.hand_over.source.clone();
        Ok((legacy, source))
    }

    /// Puts a supervisor's parts together again, and goes on with the upgrade that led here.
    pub(super) fn take_over(mut self, into: &mut Supervisor) -> Result<(), String> {
        let (failed, clients) =
            (self.hand_over.failed.take(), mem::take(&mut self.hand_over.clients));
        self.restore(into)?;
        match failed {
            Some(why) => into.upgrade_refused(&why, clients),
            None => into.change = Some(Change::new(Kind::Upgrade, clients)),
        }
        Ok(())
    }

    /// Puts a supervisor's parts together again.
    pub(super) fn restore(self, into: &mut Supervisor) -> Result<(), String> {
        let now = Instant::now();
        let hand_over = self.hand_over;
        let mut descriptors = self.descriptors.into_iter().skip(1);
        let broken = || "descriptors are missing".to_owned();
        let program = descriptors.next().ok_or_else(broken)?;
        let pages = descriptors.next().ok_or_else(broken)?;
        let limits = descriptors.next().ok_or_else(broken)?;
        into.counters = Counters::take_over(hand_over.counters, pages, limits)
            .map_err(|error| error.to_string())?;
        into.door = hand_over.door.and_then(|door| Door::take_over(door, &mut descriptors));
        into.sockets = Sockets::take_over(hand_over.sockets, &mut descriptors);
        for record in hand_over.generations {
            let shared = descriptors.next().ok_or_else(broken)?;
            let settings = Settings::from_shared(shared)?;
            into.generations.push(record.revive(settings, &mut descriptors, now));
        }
        let (arguments, environment) = (hand_over.arguments, hand_over.environment);
        into.predecessor = Some(Predecessor { program, arguments, environment });
        if let Some(latest) = into.generations.last() {
            log::follow(&latest.settings.config.log);
        }
        if let Some(level) = hand_over.log_level {
            log::set_level(level);
        }
        into.program = hand_over.program;
        into.last_number = hand_over.last_number;
        into.started = now.checked_sub(Duration::from_millis(hand_over.running_ms)).unwrap_or(now);
        into.last_error = hand_over.last_error;
        Ok(())
    }
}

impl GenerationRecord {
    fn new(generation: &Generation, now: Instant) -> Self {
        let workers = generation.workers.iter().map(|worker| WorkerRecord {
            index: worker.index,
            pages: worker.pages.clone(),
            running: match &worker.state {
                State::Running(running) => Some(RunningRecord {
                    pid: running.process.pid().cast_signed(),
                    age_ms: milliseconds(running.since, now),
                    ready: running.ready,
                    leaves_in_ms: (generation.stage == Stage::Leaving)
                        .then_some(running.deadline)
                        .flatten()
                        .map(|(deadline, _)| milliseconds(now, deadline)),
                }),
                State::Waiting(_) | State::Gone => None,
            },
        });
        Self {
            number: generation.number,
            leaving: generation.stage == Stage::Leaving,
            backend: generation.backend.clone(),
            notes: generation.notes.clone(),
            workers: workers.collect(),
        }
    }

    fn revive(
        self,
        settings: Settings,
        links: &mut impl Iterator<Item = OwnedFd>,
        now: Instant,
    ) -> Generation {
        let stage = if self.leaving { Stage::Leaving } else { Stage::Serving };
        let mut worker = |record: WorkerRecord| {
            let state = match record.running.and_then(|it| Some((it, links.next()?))) {
                Some((it, link)) => State::Running(it.revive(link.into(), stage, &settings, now)),
                None if stage == Stage::Leaving => State::Gone,
                None => State::Waiting(now),
            };
            let WorkerRecord { index, pages, .. } = record;
            Worker { index, pages, restarts: Restarts::default(), state }
        };
        let workers = self.workers.into_iter().map(&mut worker).collect();
        Generation {
            number: self.number,
            settings,
            stage,
            workers,
            backend: self.backend,
            notes: self.notes,
        }
    }
}

impl RunningRecord {
    fn revive(self, link: Link, stage: Stage, settings: &Settings, now: Instant) -> Running {
        let mut running = Running {
            process: Process::Child(Pid::from_raw(self.pid)),
            link,
            since: now.checked_sub(Duration::from_millis(self.age_ms)).unwrap_or(now),
            ready: false,
            deadline: Some((now + settings.start_timeout, Reason::NotReady)),
            next_ping: None,
            failed: None,
            linked: true,
        };
        match self.leaves_in_ms {
            Some(left) => running.leave_by(now + Duration::from_millis(left)),
            None if stage == Stage::Serving && self.ready => {
                running.set_ready(now, settings.stuck_after);
            }
            None => {}
        }
        running
    }
}

fn receive(link: &Link) -> io::Result<Legacy> {
    let cut_short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the handover is cut short");
    let (SocketsMessage(total), _) = link.receive()?.ok_or_else(cut_short)?;
    let mut descriptors = Vec::new();
    while descriptors.len() < total {
        let (SocketsMessage(count), some) = link.receive()?.ok_or_else(cut_short)?;
        if count != some.len() || count == 0 {
            return Err(cut_short());
        }
        descriptors.extend(some);
    }
    let memory = descriptors.first().ok_or_else(cut_short)?;
    let hand_over: HandOver = serde_json::from_slice(&spawn::read_memory(memory)?)?;
    if hand_over.form != FORM {
        let HandOver { form, version, .. } = hand_over;
        let why = format!("version {version} hands over in form {form}, this one takes {FORM}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Legacy { hand_over, descriptors })
}

fn milliseconds(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_millis().try_into().unwrap_or(u64::MAX)
}

fn own_arguments() -> Vec<Vec<u8>> {
    std::env::args_os().map(OsStringExt::into_vec).collect()
}

fn own_environment() -> Vec<Vec<u8>> {
    let variables = std::env::vars_os().filter(|(name, _)| name != VARIABLE);
    let assigned =
        variables.map(|(name, value)| [&name.into_vec()[..], b"=", &value.into_vec()].concat());
    assigned.collect()
}

fn c_strings(texts: Vec<Vec<u8>>) -> io::Result<Vec<CString>> {
    texts.into_iter().map(|text| Ok(CString::new(text)?)).collect()
}
