//! What one request costs in instructions, counted by callgrind: the same on a busy machine as on
//! a quiet one, so that a slow-down is seen where no clock could show it.
//!
//! The counted program takes `CASE COUNT` and handles so many requests of one case; `--list`
//! names its cases. Two counts are run and subtracted, so that its start does not count.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs, io};

use serde::{Deserialize, Serialize};

/// The two counts of requests.
const COUNTS: (u64, u64) = (1_600, 8_000);

/// Kept costs: of which compiler, and instructions a request by case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// `rustc --version` of the measured build: another compiler makes other instructions.
    pub rustc: String,
    /// The processor's architecture, for the same reason.
    pub architecture: String,
    /// Instructions a request.
    pub cases: BTreeMap<String, f64>,
}

/// Why nothing could be counted.
#[derive(Debug)]
pub enum CostError {
    /// A program could not be run.
    Run(String, io::Error),
    /// It ran and failed.
    Failed(String, String),
    /// callgrind's file has no total.
    NoTotal(PathBuf),
}

impl fmt::Display for CostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(program, error) => write!(f, "{program}: {error}"),
            Self::Failed(program, said) => write!(f, "{program} failed:\n{said}"),
            Self::NoTotal(path) => write!(f, "{}: no total of instructions", path.display()),
        }
    }
}

impl std::error::Error for CostError {}

impl Costs {
    /// Counts every case of `program`.
    pub fn measure(program: &Path) -> Result<Self, CostError> {
        let listed = output(Command::new(program).arg("--list"))?;
        let cases = listed
            .lines()
            .map(|case| Ok((case.to_owned(), per_request(program, case)?)))
            .collect::<Result<_, CostError>>()?;
        let rustc = output(Command::new("rustc").arg("--version"))?.trim().to_owned();
        Ok(Self { rustc, architecture: std::env::consts::ARCH.to_owned(), cases })
    }

    /// Reads kept costs.
    pub fn load(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    /// Keeps these costs.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
    }

    /// Whether figures of `other` can be held against these.
    pub fn comparable(&self, other: &Self) -> bool {
        self.rustc == other.rustc && self.architecture == other.architecture
    }

    /// The cases in which `now` costs more than is kept by more than `margin` (a share), or which
    /// only one of the two has.
    pub fn slow_downs(&self, now: &Self, margin: f64) -> Vec<String> {
        let mut found = self.changes(now, |change| change > margin);
        let gone = self.cases.keys().filter(|case| !now.cases.contains_key(*case));
        found.extend(gone.map(|case| format!("{case}: no longer measured")));
        let new = now.cases.keys().filter(|case| !self.cases.contains_key(*case));
        found.extend(new.map(|case| format!("{case}: not kept yet")));
        found
    }

    /// The cases in which `now` costs less by more than `margin`: the kept number is to be lowered,
    /// or a later slow-down up to it goes unseen.
    pub fn gains(&self, now: &Self, margin: f64) -> Vec<String> {
        self.changes(now, |change| change < -margin)
    }

    fn changes(&self, now: &Self, counts: impl Fn(f64) -> bool) -> Vec<String> {
        let describe = |(case, kept): (&String, &f64)| {
            let cost = now.cases.get(case)?;
            let change = cost / kept - 1.0;
            let text = format!("{case}: {kept:.0} kept, now {cost:.0} ({:+.1}%)", change * 100.0);
            counts(change).then_some(text)
        };
        self.cases.iter().filter_map(describe).collect()
    }
}

/// Instructions a request of this case.
fn per_request(program: &Path, case: &str) -> Result<f64, CostError> {
    let (few, many) = COUNTS;
    let spent = instructions(program, case, many)? - instructions(program, case, few)?;
    Ok(spent / (many - few) as f64)
}

fn instructions(program: &Path, case: &str, count: u64) -> Result<f64, CostError> {
    let name = format!("ember-cost-{}-{count}", std::process::id());
    let file = std::env::temp_dir().join(name);
    let ran = output(
        Command::new("valgrind")
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", file.display()))
            .arg(program)
            .args([case, &count.to_string()]),
    );
    let text = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(&file);
    ran?;
    total(&text).ok_or(CostError::NoTotal(file))
}

/// The instructions of a whole run, from callgrind's file.
fn total(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| {
        line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: "))
    })?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn output(command: &mut Command) -> Result<String, CostError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let said = command.output().map_err(|error| CostError::Run(program.clone(), error))?;
    if !said.status.success() {
        return Err(CostError::Failed(program, String::from_utf8_lossy(&said.stderr).into()));
    }
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(cases: &[(&str, f64)]) -> Costs {
        let cases = cases.iter().map(|(name, cost)| ((*name).to_owned(), *cost)).collect();
        Costs { cases, ..Costs::default() }
    }

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("events: Ir\nfn=(1) x\n1 5\n\ntotals: 123456\n"), Some(123_456.0));
        assert_eq!(total("summary: 7 9\n"), Some(7.0));
        assert_eq!(total("events: Ir\n"), None);
    }

    #[test]
    fn changes_beyond_the_margin_are_told() {
        let kept = costs(&[("a", 1000.0), ("b", 1000.0), ("c", 1000.0), ("gone", 1.0)]);
        let now = costs(&[("a", 1019.0), ("b", 1030.0), ("c", 900.0), ("new", 1.0)]);
        assert_eq!(
            kept.slow_downs(&now, 0.02),
            ["b: 1000 kept, now 1030 (+3.0%)", "gone: no longer measured", "new: not kept yet"]
        );
        assert_eq!(kept.gains(&now, 0.02), ["c: 1000 kept, now 900 (-10.0%)"]);
    }
}
