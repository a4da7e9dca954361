//! A program's own routes, beside those of the config.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use clap::Parser as _;
use ember::hooks::Hooks;
use ember::{App, Program, Route};

use crate::cli::Cli;
use crate::{supervisor, worker};

/// What this program serves. The supervisor and each of its workers are the same program, so
/// each of these processes builds them for itself, before it does anything else.
static PROGRAM: OnceLock<Program> = OnceLock::new();

/// Runs a program that serves `app`: with all of emberd's flags, config file and supervision.
/// Without a config file the app is served on 127.0.0.1:8080, with the counters at `/metrics`.
///
/// Call it first thing in `main`: the program starts itself again for its workers. On failure the
/// process ends here, with the exit code of the command line's description.
///
/// # Errors
/// When it is called a second time in a process, or the app cannot be put together.
pub fn run(app: App) -> ember::Result<()> {
    if PROGRAM.set(app.build()?).is_err() {
        return Err(ember::Error::new(500, "emberd::run was called twice"));
    }
    let exit = main();
    // The standard library gives no number back, but compares.
    match (0..=u8::MAX).find(|&code| ExitCode::from(code) == exit) {
        Some(0) => Ok(()),
        code => std::process::exit(code.unwrap_or(1).into()),
    }
}

/// The whole life of a process of this program, whichever of its processes it is.
pub fn main() -> ExitCode {
    let serve: supervisor::Serve = Arc::new(worker::run);
    // A worker is this program again; it has no command line of its own.
    if std::env::args().nth(1).as_deref() == Some(supervisor::WORKER_SUBCOMMAND) {
        return supervisor::worker_main(&serve);
    }
    if supervisor::has_settled() {
        return supervisor::go_on(Cli::sources_to_run, serve);
    }
    Cli::parse().execute(serve)
}

/// The program's own routes; none in emberd itself.
pub(crate) fn routes() -> impl Iterator<Item = &'static Route> {
    PROGRAM.get().into_iter().flat_map(Program::routes)
}

/// Whether the program has routes of its own.
pub(crate) fn is_there() -> bool {
    PROGRAM.get().is_some()
}

/// What runs when this program's server starts and stops.
pub(crate) fn hooks() -> Option<&'static Hooks> {
    PROGRAM.get().map(Program::hooks)
}
