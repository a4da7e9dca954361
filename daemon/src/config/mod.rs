//! The config: one table of keys ([`keys`]), values from files, variables and flags laid over
//! each other ([`gather`]), one pass that finds every fault ([`check`], [`cross`]), and what is
//! then in force, typed ([`Config`]).

mod check;
mod coded;
mod cross;
mod derive;
mod docs;
mod dump;
mod files;
mod gather;
mod keys;
mod literal;
mod model;
mod proxying;
mod report;
mod rules;
mod schema;
mod source;
mod suggest;
mod syntax;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use files::{Files, Precompressed};
pub use model::{
    AccessField, AccessFormat, AccessLog, Address, Admin, Backend, Bytes, Config, Encoding, Limits,
    LinkForm, Listener, Log, LogFormat, LogLevel, Metrics, NumaNodes, Prepared, Reply, Ring,
    Slashes, Tune, Workers,
};
pub use proxying::{
    Balance, Cache, Forwarded, HashBy, HealthCheck, HostRule, Proxy, ProxyProtocol, Upstream,
};
pub use report::Report;
pub use rules::{Auth, Cors, RateLimit, Redirect, Rules, methods};
pub(crate) use suggest::nearest;

use serde_json::{Map as JsonMap, Value as Json};

use check::Checked;
use report::{Finding, Severity};

/// What a config is made of. Flags go over variables, and those over the file.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The config file, `-` for standard input; none: the embedded default.
    pub file: Option<PathBuf>,
    /// The arguments of `--set`: `key=value`.
    pub set: Vec<String>,
    /// Options with a name of their own, such as `--backend`, and their values.
    pub flags: Vec<(&'static str, String)>,
    /// The environment: `EMBERD_*` set keys, and files may refer to any by `${NAME}`.
    pub environment: BTreeMap<String, String>,
}

/// A config that is in order.
#[derive(Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// What is legal but unwise.
    pub warnings: Report,
}

/// A config and what is known of it.
#[derive(Debug)]
struct Inspected {
    report: Report,
    checked: Checked,
    /// Values as they were written, with plain defaults only.
    raw: JsonMap<String, Json>,
    /// None where a table could not be completed.
    config: Option<Config>,
}

/// Loads a config.
///
/// # Errors
/// Everything that is wrong with it, warnings too.
pub fn load(from: &Sources) -> Result<Loaded, Report> {
    let Inspected { report, config, .. } = inspect(from);
    match config {
        Some(config) if report.errors() == 0 => Ok(Loaded { config, warnings: report }),
        _ => Err(report),
    }
}

/// What is in force and where each value came from: as a config with comments, or as JSON.
///
/// # Errors
/// Everything that is wrong with it.
pub fn dump(from: &Sources, json: bool) -> Result<String, Report> {
    let inspected = inspect(from);
    if inspected.report.errors() > 0 {
        return Err(inspected.report);
    }
    Ok(if json { dump::json(&inspected) } else { dump::human(&inspected) })
}

/// Where the control socket of a server with this config is, whatever else is wrong with it.
pub fn state_dir(from: &Sources) -> PathBuf {
    let inspected = inspect(from);
    let said = inspected.checked.json.get("state_dir").and_then(Json::as_str);
    PathBuf::from(said.unwrap_or_default())
}

/// The JSON Schema of a config.
pub fn schema() -> String {
    format!("{:#}\n", schema::schema())
}

/// A commented config file to begin with.
pub fn init() -> String {
    docs::init()
}

/// The page docs/config.md, made from the same table as everything else here.
pub fn reference() -> String {
    docs::reference()
}

fn inspect(from: &Sources) -> Inspected {
    let gathered = gather::gather(from);
    let mut report = Report { sources: gathered.sources, findings: gathered.findings };
    let is_partial = |finding: &Finding| matches!(finding.code, "syntax" | "unreadable");
    let broken = report.findings.iter().any(is_partial);
    let mut checked = check::check(&report.sources, &gathered.tree);
    let raw = checked.json.clone();
    derive::fill(&mut checked, &report.sources);
    let config = Config::deserialize(&checked);
    if let Ok(config) = &config {
        checked.findings.extend(cross::check(config, &checked));
    }
    let found = std::mem::take(&mut checked.findings);
    report.findings.extend(found.into_iter().filter(|finding| !broken || is_sure(finding)));
    if let Err(error) = &config
        && report.errors() == 0
    {
        // The table of keys and the types do not agree: a defect of ours, told and not hidden.
        report.push(Finding::nowhere("internal", format!("a defect in emberd: {error}")));
    }
    if report.errors() > 0 {
        // Where a value is wrong, what stands in for it may look unwise.
        report.findings.retain(|finding| finding.code != "unwise");
    }
    report.sort();
    Inspected { report, checked, raw, config: config.ok() }
}

/// Whether a finding still holds where a part of the file could not be read.
fn is_sure(finding: &Finding) -> bool {
    let follows = ["missing", "unknown_route", "unreadable"].contains(&finding.code);
    finding.severity == Severity::Error && !follows
}

impl Config {
    fn deserialize(checked: &Checked) -> serde_json::Result<Self> {
        serde_json::from_value(Json::Object(checked.json.clone()))
    }
}

impl Sources {
    /// The environment of this process, as far as it is UTF-8.
    pub fn environment() -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
