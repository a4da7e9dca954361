//! `ember-bench __exec`: the child's side of starting a server.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use ember_bench::host::launch::{Place, become_command};

use super::Error;

#[derive(ClapArgs)]
pub(crate) struct Args {
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    #[arg(long)]
    group: Option<PathBuf>,
    #[arg(long)]
    open_files: u64,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let place = Place { cpus: args.cpus, group: args.group, open_files: args.open_files };
    let error = become_command(&place, &args.command);
    Err(format!("{}: {error}", args.command[0].to_string_lossy()).into())
}
