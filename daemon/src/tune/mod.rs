//! `emberd tune`: what the host is set to, and back.
//!
//! The plan itself is [`ember_sysctl`]'s. Here are the commands, what the supervisor does before
//! the workers start, and the watch over what was applied.

mod confirm;
mod print;
pub(crate) mod start;
pub(crate) mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ember_affinity::{CpuSet, Topology, WorkerPlan, WorkersConfig, plan};
use ember_sysctl::alignment::{self, Alignment};
use ember_sysctl::apply::{self, ApplyError, Verdict};
use ember_sysctl::knobs::{self, Group};
use ember_sysctl::nic::{self, Nic};
use ember_sysctl::plan::MakeError;
use ember_sysctl::{Input, Live, Plan, Wishes, render, revert, status};

use crate::cli::{ConfigArgs, EXIT_FAILURE, Failure, say};
use crate::config::{self, Config, Tune};

/// A command that was typed wrongly, as clap ends it.
const EXIT_USAGE: u8 = 2;

/// `emberd tune`
#[derive(Debug, Subcommand)]
pub enum TuneCommand {
    /// Show every change, why, what to expect, the risk, and how to undo it; change nothing
    Plan(PlanArgs),
    /// Carry the plan out, with a journal of what was there before (as root)
    Apply(ApplyArgs),
    /// Read everything back: 0 in sync, 1 drift, 2 cannot tell, 3 unsupported
    #[command(visible_alias = "check")]
    Status(StatusArgs),
    /// Put back what still has our values (as root)
    Revert(RevertArgs),
}

/// What is planned, and for which NICs.
#[derive(Clone, Debug, Args)]
pub struct Scope {
    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The interfaces that requests come in by; without it, those of the default routes
    #[arg(long, value_name = "IF", value_delimiter = ',')]
    pub nic: Vec<String>,
    /// Just these groups, sysctls or keys, as the plan names them
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Not these groups, sysctls or keys
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub skip: Vec<String>,
}

/// `emberd tune plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// What is planned.
    #[command(flatten)]
    pub scope: Scope,
    /// How to print it
    #[arg(long, value_enum, default_value_t = PlanFormat::Human)]
    pub format: PlanFormat,
}

/// `emberd tune apply`
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// What is planned.
    #[command(flatten)]
    pub scope: Scope,
    /// Go on though someone else sets the same knobs
    #[arg(long)]
    pub force: bool,
    /// Take it all back unless Enter is pressed within so many seconds
    #[arg(long, value_name = "SECONDS")]
    pub confirm: Option<u32>,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// `emberd tune status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// What is planned.
    #[command(flatten)]
    pub scope: Scope,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// `emberd tune revert`
#[derive(Debug, Args)]
pub struct RevertArgs {
    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Wait so many seconds for a word on standard input first (for apply --confirm)
    #[arg(long, value_name = "SECONDS", hide = true)]
    pub unless_confirmed: Option<u32>,
}

/// How to print a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people.
    Human,
    /// For programs.
    Json,
    /// As a shell script.
    Script,
}

/// How to print what was done or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// All that a plan is made from, held together.
struct Ground {
    config: Config,
    workers: WorkersConfig,
    wishes: Wishes,
    topology: Topology,
    host: Live,
}

/// Does what was typed.
pub fn execute(command: TuneCommand, outer: &ConfigArgs) -> Result<ExitCode, Failure> {
    match command {
        TuneCommand::Plan(args) => show_plan(&args, outer),
        TuneCommand::Apply(args) => apply(&args, outer),
        TuneCommand::Status(args) => status(&args, outer),
        TuneCommand::Revert(args) => revert(&args, outer),
    }
}

fn show_plan(args: &PlanArgs, outer: &ConfigArgs) -> Result<ExitCode, Failure> {
    let ground = Ground::of(&args.scope, outer)?;
    let plan = match Plan::make(&ground.host, ground.input()) {
        Ok(plan) => plan,
        Err(error) => return Ok(unplanned(&error)),
    };
    say(&match args.format {
        PlanFormat::Human => render::human(&plan),
        PlanFormat::Json => render::json(&plan),
        PlanFormat::Script => render::script(&ground.host, &plan),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn apply(args: &ApplyArgs, outer: &ConfigArgs) -> Result<ExitCode, Failure> {
    let ground = Ground::of(&args.scope, outer)?;
    let failed = |error| Failure::Other(format!("cannot prepare the way back: {error}"));
    let wait = args.confirm.map(|seconds| Duration::from_secs(seconds.into()));
    let guard = wait.map(|wait| confirm::Guard::start(&ground.config.state_dir, wait));
    let guard = guard.transpose().map_err(failed)?;
    let options = apply::Options { force: args.force };
    let applied = apply::apply(&ground.host, &ground.config.state_dir, ground.input(), options);
    let applied = match applied {
        Ok(applied) => applied,
        Err(error) => {
            // Nothing to take back, or what there is waits for a decision.
            if let Some(guard) = guard {
                guard.keep();
            }
            return match error {
                ApplyError::Plan(error) => Ok(unplanned(&error)),
                error => Err(Failure::Other(format!("not tuned: {error}"))),
            };
        }
    };
    say(&match args.format {
        Format::Human => print::applied(&applied),
        Format::Json => print::json(&applied),
    })?;
    if let Some(guard) = guard {
        say(&guard.ask())?;
    }
    let skipped = |done: &apply::Done| matches!(done.verdict, Verdict::Skipped(_));
    let all_refused = !applied.done.is_empty() && applied.done.iter().all(skipped);
    if all_refused {
        let plan = Plan::make(&ground.host, ground.input());
        // Where nothing can be written, as in a container, the plan is what there is to give.
        if let (Ok(plan), Format::Human) = (plan, args.format) {
            say(&format!("\n{}", render::script(&ground.host, &plan)))?;
        }
        return Ok(ExitCode::from(EXIT_FAILURE));
    }
    Ok(ExitCode::SUCCESS)
}

fn status(args: &StatusArgs, outer: &ConfigArgs) -> Result<ExitCode, Failure> {
    let ground = Ground::of(&args.scope, outer)?;
    match status::status(&ground.host, &ground.config.state_dir, ground.input()) {
        Ok(status) => {
            say(&match args.format {
                Format::Human => print::status(&status),
                Format::Json => print::json(&status),
            })?;
            Ok(ExitCode::from(status.code()))
        }
        Err(error) => {
            eprintln!("emberd: {error}");
            Ok(ExitCode::from(status::CANNOT_TELL))
        }
    }
}

fn revert(args: &RevertArgs, outer: &ConfigArgs) -> Result<ExitCode, Failure> {
    // A config that is refused must not keep the host from being put back.
    let state_dir: PathBuf = config::state_dir(&args.config.clone().over(outer).sources());
    if let Some(seconds) = args.unless_confirmed
        && confirm::wait_for_word(Duration::from_secs(seconds.into()))
    {
        return Ok(ExitCode::SUCCESS);
    }
    let host = open_host()?;
    let taken = confirm::when_free(|| revert::revert(&host, &state_dir));
    let taken = taken.map_err(|error| Failure::Other(format!("not reverted: {error}")))?;
    say(&match args.format {
        Format::Human => print::reverted(&taken),
        Format::Json => print::json(&taken),
    })?;
    let failed = taken.iter().any(|taken| matches!(taken.verdict, revert::Verdict::Failed(_)));
    Ok(if failed { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

impl Ground {
    fn of(scope: &Scope, outer: &ConfigArgs) -> Result<Ground, Failure> {
        let config = scope.config.clone().over(outer).load()?.config;
        let mut wishes = wishes(&config.tune).map_err(Failure::Other)?;
        if !scope.nic.is_empty() {
            wishes.nics.clone_from(&scope.nic);
        }
        if !scope.only.is_empty() {
            wishes.only.clone_from(&scope.only);
        }
        wishes.skip.extend(scope.skip.iter().cloned());
        let topology = Topology::detect().map_err(|error| Failure::Other(error.to_string()))?;
        let workers = config.placement();
        Ok(Ground { config, workers, wishes, topology, host: open_host()? })
    }

    /// What the supervisor plans with: the config alone.
    fn of_config(config: &Config) -> Result<Ground, String> {
        let wishes = wishes(&config.tune)?;
        let topology = Topology::detect().map_err(|error| error.to_string())?;
        let host = Live::open().map_err(|error| error.to_string())?;
        let workers = config.placement();
        Ok(Ground { config: config.clone(), workers, wishes, topology, host })
    }

    fn input(&self) -> Input<'_> {
        Input { topology: &self.topology, workers: &self.workers, wishes: &self.wishes }
    }
}

/// The `[tune]` section as the plan takes it.
pub(crate) fn wishes(tune: &Tune) -> Result<Wishes, String> {
    let mut wishes =
        Wishes { nics: tune.nic.clone(), only: tune.only.clone(), ..Wishes::default() };
    for (name, value) in &tune.set {
        wishes.set(name, value).map_err(|error| format!("tune.set: {error}"))?;
    }
    Ok(wishes)
}

/// The NICs that requests come in by; none where all listeners are of this host alone.
///
/// # Errors
/// Where one that the config names is not there.
pub(crate) fn nics(config: &Config) -> Result<Vec<Nic>, String> {
    if config.listeners.iter().all(|listener| listener.address.is_local()) {
        return Ok(Vec::new());
    }
    let wishes = wishes(&config.tune)?;
    let Ok(host) = Live::open() else { return Ok(Vec::new()) };
    ember_sysctl::plan::nics(&host, &wishes).map_err(|error| error.to_string())
}

/// What this config would tune; nothing is changed.
///
/// # Errors
/// What keeps a plan from being made, in words.
pub(crate) fn rehearse(config: &Config) -> Result<Plan, String> {
    let ground = Ground::of_config(config)?;
    Plan::make(&ground.host, ground.input()).map_err(|error| error.to_string())
}

/// The CPUs on which the NICs' packets are bound to be handled.
pub(crate) fn handling_cpus(nics: &[Nic]) -> CpuSet {
    Live::open().map_or(CpuSet::new(), |host| nic::handling_cpus(&host, nics))
}

/// How the queues of the NICs fit the workers now.
pub(crate) fn alignment(workers: &[WorkerPlan], nics: &[Nic]) -> Vec<Alignment> {
    let cpus = plan::cpus(workers);
    Live::open().map_or_else(|_| Vec::new(), |host| alignment::look(&host, nics, &cpus))
}

/// The label values that the metrics of drift will have, so that workers can be told of them
/// before they start: groups, sysctls, and NICs.
pub(crate) fn labels(config: &Config) -> Vec<String> {
    if !config.tune.apply {
        return Vec::new();
    }
    let groups = Group::ALL.iter().map(|group| group.name().to_owned());
    let sysctls = knobs::SYSCTLS.iter().map(|sysctl| sysctl.name.to_owned());
    let more = [knobs::RPS_FLOWS_SYSCTL.to_owned()];
    let wishes = wishes(&config.tune).unwrap_or_default();
    let nics = Live::open().ok().and_then(|host| ember_sysctl::plan::nics(&host, &wishes).ok());
    let nics = nics.into_iter().flatten().map(|nic| nic.id.name);
    let labels = groups.chain(sysctls).chain(more).chain(nics);
    labels.chain(wishes.sysctl.keys().cloned()).collect()
}

fn open_host() -> Result<Live, Failure> {
    Live::open().map_err(|error| Failure::Other(format!("cannot look at this host: {error}")))
}

/// Says why there is no plan: words that name nothing are the typist's.
fn unplanned(error: &MakeError) -> ExitCode {
    eprintln!("emberd: {error}");
    match error {
        MakeError::UnknownName(_) | MakeError::NoNic(..) | MakeError::NoSuchCpus(..) => {
            ExitCode::from(EXIT_USAGE)
        }
        MakeError::Placement(_) => ExitCode::from(EXIT_FAILURE),
    }
}
