//! `ember-bench`: how fast, next to what, at what cost.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod commands;

#[derive(Parser)]
#[command(name = "ember-bench", version, about = "Load generator, peers and reports of emberd")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put load on one server and say what came of it.
    Load(commands::load::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(args) => commands::load::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ember-bench: {error}");
        ExitCode::FAILURE
    })
}
