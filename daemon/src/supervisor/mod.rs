//! The supervisor: it owns the listening sockets and the counters, and keeps workers running.
//!
//! One thread, which never touches a request. [`run`] is the whole server; [`worker_main`] is
//! what a process does that a supervisor started as a worker.

mod change;
mod child;
mod confine;
mod counters;
mod door;
mod ending;
mod generation;
mod holder;
mod limits;
mod lines;
pub(crate) mod link;
mod restart;
mod run;
mod settings;
mod signals;
mod sockets;
mod spawn;
mod status;
mod systemd;
mod upgrade;

use std::io;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Instant;

pub(crate) use confine::{rehearse as rehearse_confinement, resolve as resolve_user};

pub use child::{Serve, main as worker_main};
pub use door::{Reply, Request, STATE_DIR, ask};
pub use spawn::SUBCOMMAND as WORKER_SUBCOMMAND;
pub use status::render_status;

use crate::config::Sources;
use crate::{log, tune};
use change::{Change, Kind};
use counters::Counters;
use door::Door;
use ember_metrics::Names;
use run::Supervisor;
use settings::{Settings, Source};
use signals::Signals;
use sockets::Sockets;
use systemd::Systemd;
use tracing::{error, info, warn};
use upgrade::Role;

/// Exit status for a config that cannot be used (EX_CONFIG of sysexits.h).
const EXIT_CONFIG: u8 = 78;

/// Runs the whole server until it is told to end.
pub fn run(mut sources: Sources, serve: Serve) -> ExitCode {
    log::begin();
    // Between two programs, and no part of the config.
    sources.environment.remove(upgrade::VARIABLE);
    let source = Source::new(sources);
    let role = upgrade::role(|| source.clone().read_before().load(&mut Names::new()).map(drop));
    match role {
        Ok(Role::Probed) => ExitCode::SUCCESS,
        Ok(Role::First) => start(source, serve).unwrap_or_else(failed),
        Ok(Role::Successor(legacy)) => {
            succeed(source.read_before(), serve, *legacy).unwrap_or_else(failed)
        }
        Err(error) => failed(error),
    }
}

/// Whether this process is a supervisor that has begun anew, and [`go_on`] is what it does.
pub fn has_settled() -> bool {
    std::env::var(upgrade::VARIABLE).is_ok_and(|mode| mode == upgrade::SETTLE)
}

/// Goes on supervising. `sources` finds out where the config comes from, for the next reload.
pub fn go_on(sources: fn() -> Sources, serve: Serve) -> ExitCode {
    log::begin();
    let resume = || {
        // The kernel names a process after the file that it was executed from.
        nix::sys::prctl::set_name(c"emberd")?;
        let (legacy, name) = upgrade::Legacy::of_this_program()?;
        let mut supervisor = Supervisor::new(Source::later(sources, name), serve, 1)?;
        legacy.restore(&mut supervisor).map_err(io::Error::other)?;
        // There is no other program to go back to.
        supervisor.predecessor = None;
        supervisor.run().map(ExitCode::from)
    };
    resume().unwrap_or_else(failed)
}

fn failed(error: io::Error) -> ExitCode {
    error!("{error}");
    ExitCode::FAILURE
}

/// The start of a server that has no predecessor.
fn start(mut source: Source, serve: Serve) -> io::Result<ExitCode> {
    let mut change = Change::new(Kind::Start, Vec::new());
    let mut names = Names::new();
    let settings = match source.load(&mut names) {
        Ok(settings) => settings,
        Err(report) => {
            // The report of a config has its lines and carets: nothing may stand before them.
            match report.starts_with("error: ") {
                true => eprintln!("{}", source.report_in_colour().unwrap_or(report)),
                false => error!("{report}"),
            }
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    let mut supervisor = Supervisor::new(source, serve, threads_max(&settings))?;
    supervisor.counters.names = names;
    supervisor.sockets = Sockets::with_passed(systemd::passed_sockets());
    supervisor.tell_version();
    supervisor.open_door(&settings);
    // Before any socket listens: the kernel reads somaxconn at listen().
    supervisor.tune(&settings);
    let settings = supervisor.placed_anew(settings);
    change.began = supervisor.started;
    supervisor.change = Some(change);
    supervisor.begin(settings);
    supervisor.run().map(ExitCode::from)
}

/// How many ring threads a later config may ask for without a restart: memory for counters that
/// nobody uses costs nothing.
fn threads_max(settings: &Settings) -> usize {
    settings.threads().max(available_parallelism().map_or(1, usize::from))
}

/// The start of a program that takes over from another one.
fn succeed(source: Source, serve: Serve, legacy: upgrade::Legacy) -> io::Result<ExitCode> {
    let mut supervisor = Supervisor::new(source, serve, 1)?;
    legacy.take_over(&mut supervisor).map_err(io::Error::other)?;
    supervisor.begin_upgrade();
    supervisor.run().map(ExitCode::from)
}

impl Supervisor {
    fn new(source: Source, serve: Serve, threads: usize) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            source,
            serve,
            program: std::env::current_exe()?,
            predecessor: None,
            sockets: Sockets::default(),
            counters: Counters::new(threads)?,
            generations: Vec::new(),
            last_number: 0,
            signals: Signals::take()?,
            systemd: Systemd::from_environment(now),
            door: None,
            change: None,
            pending: None,
            probe: None,
            ending: None,
            last_error: None,
            started: now,
            watcher: None,
            unsettled: false,
            exit: None,
        })
    }

    /// Readies the host where the config asks for it; the server starts in any case.
    fn tune(&mut self, settings: &Settings) {
        let begun = tune::start::begin(&settings.config);
        match begun.line {
            Ok(line) => info!("{line}"),
            Err(line) => warn!("{line}"),
        }
        self.watcher = begun.watcher;
    }

    /// Goes on watching what was tuned, by the config that serves now: it may be another one since
    /// a reload, and a program that has taken over has to begin with it.
    fn watch_tuning(&mut self) {
        let Some(serving) = self.serving() else { return };
        match tune::watch::resume(&serving.settings.config) {
            Ok(watcher) => self.watcher = watcher,
            Err(error) => warn!("what was tuned is not watched: {error}"),
        }
    }

    /// Where packets are handled may have changed with the tuning, and steering goes by that.
    fn placed_anew(&mut self, settings: Settings) -> Settings {
        match settings.config.tune.apply {
            true => self.source.load(&mut self.counters.names).unwrap_or(settings),
            false => settings,
        }
    }

    /// Without the control socket the server serves all the same.
    fn open_door(&mut self, settings: &Settings) {
        let state_dir = &settings.config.state_dir;
        match Door::open(state_dir) {
            Ok(door) => self.door = Some(door),
            Err(error) => warn!(
                "no control socket in {}: {error}; `emberd reload` and `emberd status` will not \
                 reach this server (EMBERD_STATE_DIR chooses another directory)",
                state_dir.display()
            ),
        }
    }
}
