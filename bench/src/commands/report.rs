//! `ember-bench report` and `ember-bench compare`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use ember_bench::report::compare::{self, Verdict};
use ember_bench::report::{html, table};
use ember_bench::results::Results;

use super::Error;

#[derive(ClapArgs)]
pub(crate) struct ReportArgs {
    /// Results files; the first run's plots are written as SVG too
    #[arg(default_value = "bench/results/latest.json")]
    results: Vec<PathBuf>,
    /// The folder that index.html, the plots and tables.md go to
    #[arg(short, long, default_value = "bench/results/report")]
    output: PathBuf,
}

#[derive(ClapArgs)]
pub(crate) struct CompareArgs {
    /// The earlier run
    before: PathBuf,
    /// The later run
    after: PathBuf,
    /// Fail where a figure of emberd is worse by more than noise
    #[arg(long)]
    gate: bool,
}

pub(crate) fn report(args: &ReportArgs) -> Result<ExitCode, Error> {
    let runs: Vec<Results> =
        args.results.iter().map(|path| load(path)).collect::<Result<_, _>>()?;
    fs::create_dir_all(&args.output)?;
    fs::write(args.output.join("index.html"), html::page(&runs))?;
    let tables: Vec<String> = runs.iter().map(table::document).collect();
    fs::write(args.output.join("tables.md"), tables.join("\n"))?;
    for plot in runs.iter().take(1).flat_map(|run| &run.rows).flat_map(html::plots) {
        fs::write(args.output.join(plot.name).with_extension("svg"), plot.svg)?;
    }
    println!("{}", args.output.join("index.html").display());
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn compare(args: &CompareArgs) -> Result<ExitCode, Error> {
    let (before, after) = (load(&args.before)?, load(&args.after)?);
    print!("{}", compare::document(&before, &after));
    let worse = compare::compare(&before, &after).iter().any(|difference| {
        let own = |row: &&ember_bench::results::Row| row.id == difference.row;
        let row = after.rows.iter().find(own);
        let subjects = row.map_or(&[][..], |row| &row.subjects);
        difference.verdict == Verdict::Worse
            && subjects.iter().any(|one| one.label == difference.subject && one.is_own())
    });
    Ok(if args.gate && worse { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn load(path: &Path) -> Result<Results, Error> {
    Results::load(path).map_err(|error| format!("{}: {error}", path.display()).into())
}
