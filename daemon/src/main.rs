//! The `emberd` program.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use emberd::{cli::Cli, supervisor, worker};

fn main() -> ExitCode {
    let serve: supervisor::Serve = Arc::new(worker::run);
    // A worker is this program again; it has no command line of its own.
    if std::env::args().nth(1).as_deref() == Some(supervisor::WORKER_SUBCOMMAND) {
        return supervisor::worker_main(&serve);
    }
    Cli::parse().execute(serve)
}
