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
    /// Put load on one server and say what came of it
    Load(commands::load::Args),
    /// Measure emberd beside other servers
    Run(commands::run::Args),
    /// Make an HTML page, plots and tables of results
    Report(commands::report::ReportArgs),
    /// Compare two runs, with a verdict on noise
    Compare(commands::report::CompareArgs),
    /// Count the instructions that a request costs
    Cost(commands::cost::Args),
    /// Take a place and become a server
    #[command(name = "__exec", hide = true)]
    Exec(commands::exec::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Load(args) => commands::load::run(&args),
        Command::Run(args) => commands::run::run(&args),
        Command::Report(args) => commands::report::report(&args),
        Command::Compare(args) => commands::report::compare(&args),
        Command::Cost(args) => commands::cost::run(&args),
        Command::Exec(args) => commands::exec::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("ember-bench: {error}");
        ExitCode::FAILURE
    })
}
