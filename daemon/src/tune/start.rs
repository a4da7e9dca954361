//! What the supervisor does about tuning before the workers listen.

use ember_sysctl::apply::{self, Applied, Options, Verdict};
use ember_sysctl::journal::Contents;
use ember_sysctl::watch::Watch;
use ember_sysctl::{Plan, status};

use super::Ground;
use super::watch::Watcher;
use crate::config::Config;

/// What came of it.
pub(crate) struct Begun {
    /// A line for people.
    pub(crate) line: Result<String, String>,
    /// What goes on being watched.
    pub(crate) watcher: Option<Watcher>,
}

/// Tunes the host where the config asks for it. The server starts in any case.
pub(crate) fn begin(config: &Config) -> Begun {
    if !config.tune.apply {
        let line = "tuning: not asked for (`emberd tune plan` shows what --tune would do)";
        return Begun { line: Ok(line.to_owned()), watcher: None };
    }
    match tune(config) {
        Ok((line, watch)) => Begun { line: Ok(line), watcher: Watcher::new(config.clone(), watch) },
        Err(error) => Begun { line: Err(format!("tuning: not applied: {error}")), watcher: None },
    }
}

/// Applies the plan, and says what came of it and what to watch.
pub(super) fn tune(config: &Config) -> Result<(String, Watch), String> {
    let ground = Ground::of_config(config)?;
    let directory = &config.state_dir;
    let applied = apply::apply(&ground.host, directory, ground.input(), Options::default());
    let applied = applied.map_err(|error| error.to_string())?;
    let plan = Plan::make(&ground.host, ground.input()).map_err(|error| error.to_string())?;
    let journal = Contents::look(&ground.host, directory).map_err(|error| error.to_string())?;
    let status = status::check(&plan, journal.as_ref());
    let watch = Watch::new(&plan, journal.as_ref());
    Ok((line(&applied, &plan, &status), watch))
}

fn line(applied: &Applied, plan: &Plan, status: &status::Status) -> String {
    let skipped: Vec<String> = applied
        .done
        .iter()
        .filter_map(|done| match &done.verdict {
            Verdict::Skipped(reason) => Some(format!("{}: {reason}", done.key)),
            _ => None,
        })
        .collect();
    let count = applied.done.len() - skipped.len();
    let mut line = match applied.done.is_empty() {
        true => "tuning: the host is as planned".to_owned(),
        false => format!("tuning: {count} applied"),
    };
    if !skipped.is_empty() {
        line.push_str(&format!(", {} skipped ({})", skipped.len(), skipped.join("; ")));
    }
    for nic in &plan.nics {
        let name = &nic.nic.id.name;
        let misaligned = status.misaligned().into_iter().find(|(known, _)| known == name);
        if let Some((_, misaligned)) = misaligned {
            let all = nic.nic.irqs.len();
            line.push_str(&format!("; {name}: interrupts aligned {}/{all}", all - misaligned));
        }
    }
    if status.applied {
        line.push_str("; `emberd tune revert` takes it back");
    }
    line
}
