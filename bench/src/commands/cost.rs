//! `ember-bench cost`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use ember_bench::cost::Costs;
use ember_bench::report::table;

use super::Error;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// The program that handles `CASE COUNT` requests
    #[arg(long, default_value = "target/release/examples/cost")]
    program: PathBuf,
    /// The kept costs
    #[arg(long, default_value = "bench/cost.json")]
    kept: PathBuf,
    /// Keep what is counted now
    #[arg(long)]
    update: bool,
    /// The slow-down that is borne, in per cent
    #[arg(long, default_value_t = 3.0)]
    margin: f64,
}

/// Fails where a cost is above the kept one by more than the margin.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    let now = Costs::measure(&args.program)?;
    let lines: Vec<Vec<String>> =
        now.cases.iter().map(|(case, cost)| vec![case.clone(), format!("{cost:.0}")]).collect();
    print!("{}", table::markdown(&["case", "instructions/request"], &lines));
    if args.update {
        now.save(&args.kept)?;
        return Ok(ExitCode::SUCCESS);
    }
    let kept = Costs::load(&args.kept)
        .map_err(|error| format!("{}: {error} (--update makes it)", args.kept.display()))?;
    if !kept.comparable(&now) {
        println!(
            "not held against the kept costs: they are of {}, {}",
            kept.rustc, kept.architecture
        );
        return Ok(ExitCode::SUCCESS);
    }
    let margin = args.margin / 100.0;
    let slow_downs = kept.slow_downs(&now, margin);
    for change in slow_downs.iter().chain(&kept.gains(&now, margin)) {
        println!("{change}");
    }
    Ok(if slow_downs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
