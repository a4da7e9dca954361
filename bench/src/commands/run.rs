//! `ember-bench run`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use ember_bench::host::pin;
use ember_bench::peers::Values;
use ember_bench::report::table;
use ember_bench::rows::{self, Tier};
use ember_bench::run::{self, Plan};

use super::Error;

#[derive(ClapArgs)]
pub(crate) struct Args {
    /// Everything, in longer windows: an hour and more (the default is quick: ten minutes)
    #[arg(long)]
    full: bool,
    /// Ten minutes (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Only these rows
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these servers
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// List the rows and stop
    #[arg(long)]
    list: bool,
    /// Rounds of each row
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measured window
    #[arg(long)]
    window: Option<f64>,
    /// Seconds of load before each window
    #[arg(long)]
    warmup: Option<f64>,
    /// CPUs of the servers (default: the last one)
    #[arg(long, value_delimiter = ',')]
    server_cpus: Vec<usize>,
    /// CPUs of the load generator (default: the first one)
    #[arg(long, value_delimiter = ',')]
    load_cpus: Vec<usize>,
    /// The emberd to measure
    #[arg(long, default_value = "target/release/emberd")]
    emberd: PathBuf,
    /// The folder of peers.toml
    #[arg(long, default_value = "bench/peers")]
    peers_dir: PathBuf,
    /// Where bench/setup.sh built the peers
    #[arg(long, default_value = "target/bench-peers")]
    built: PathBuf,
    /// The results file
    #[arg(short, long, default_value = "bench/results/latest.json")]
    output: PathBuf,
    /// Fail where a target is missed, too
    #[arg(long)]
    gate: bool,
}

/// Fails when any reply was wrong, or a server that is installed could not be measured.
pub(crate) fn run(args: &Args) -> Result<ExitCode, Error> {
    if args.list {
        for row in rows::all() {
            println!(
                "{:<20} {:<6} {}",
                row.id,
                format!("{:?}", row.tier).to_lowercase(),
                row.title
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    check_rows(&args.rows)?;
    let begun = Instant::now();
    let plan = plan(args)?;
    let expected = run::estimate(&plan).as_secs().div_ceil(60);
    eprintln!("about {expected} minutes; nothing else should run on this machine meanwhile");
    let results = run::run(&plan, &mut |line| eprintln!("{:>6} {line}", run::minutes(begun)));
    let _ = std::fs::remove_dir_all(&plan.work_dir);
    let results = results?;
    results.save(&args.output)?;
    print!("{}", table::document(&results));
    eprintln!("\nwritten to {}", args.output.display());
    let missed = results.rows.iter().any(|row| {
        row.targets.iter().any(|target| target.judge(row).is_none_or(|verdict| !verdict.met))
    });
    let failed = !results.failures().is_empty() || (args.gate && missed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn check_rows(wanted: &[String]) -> Result<(), Error> {
    let known = rows::all();
    match wanted.iter().find(|wanted| known.iter().all(|row| row.id != **wanted)) {
        Some(unknown) => Err(format!("no row is called '{unknown}': see run --list").into()),
        None => Ok(()),
    }
}

fn plan(args: &Args) -> Result<Plan, Error> {
    let (tier, rounds, window_s, warmup_s) =
        if args.full { (Tier::Full, 7, 5.0, 1.0) } else { (Tier::Quick, 5, 2.0, 0.5) };
    let allowed = pin::allowed();
    let or = |chosen: &Vec<usize>, other: Option<&usize>| {
        if chosen.is_empty() { other.into_iter().copied().collect() } else { chosen.clone() }
    };
    let server_cpus = or(&args.server_cpus, allowed.last());
    let load_cpus = or(&args.load_cpus, allowed.first());
    if server_cpus.iter().any(|cpu| load_cpus.contains(cpu)) {
        return Err("server and load must be on CPUs of their own: see --server-cpus".into());
    }
    let absolute = |path: &Path| std::path::absolute(path).map(|path| path.display().to_string());
    let examples = args.emberd.with_file_name("examples");
    let values = Values::from([
        ("examples".to_owned(), absolute(&examples)?),
        ("emberd".to_owned(), absolute(&args.emberd)?),
        ("built".to_owned(), absolute(&args.built)?),
    ]);
    Ok(Plan {
        tier,
        rows: args.rows.clone(),
        peers: args.peers.clone(),
        rounds: args.rounds.unwrap_or(rounds),
        warmup: Duration::from_secs_f64(args.warmup.unwrap_or(warmup_s)),
        window: Duration::from_secs_f64(args.window.unwrap_or(window_s)),
        server_cpus,
        load_cpus,
        peers_dir: args.peers_dir.clone(),
        values,
        work_dir: std::env::temp_dir().join(format!("ember-bench-{}", std::process::id())),
        launcher: std::env::current_exe()?,
    })
}
