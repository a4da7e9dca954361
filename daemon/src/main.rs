//! The `emberd` program.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    emberd::cli::Cli::parse().execute()
}
