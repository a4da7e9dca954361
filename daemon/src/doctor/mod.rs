//! `emberd doctor`: what this host gives a server with this config, and how to mend what it lacks.
//!
//! [`facts`] reads, [`judge`] decides without looking at the host again, and [`try_out`] tries
//! what only trying tells.

mod facts;
mod host;
mod judge;
mod try_out;

use std::io::{self, IsTerminal as _};
use std::path::Path;

use serde::Serialize;

use crate::cli::{ConfigArgs, Failure, say};
use crate::config::Loaded;
use facts::Facts;

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to: `kernel`, `ring`, `limits`, …
    pub area: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, with a loss.
    Warn,
    /// The server will not start, or not do what the config says.
    Bad,
}

impl Finding {
    fn ok(area: &'static str, found: impl Into<String>) -> Self {
        Self { area, state: State::Ok, found: found.into(), mend: None }
    }

    fn warn(area: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { area, state: State::Warn, found: found.into(), mend: Some(mend.into()) }
    }

    fn bad(area: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { area, state: State::Bad, found: found.into(), mend: Some(mend.into()) }
    }
}

/// Looks at everything and prints it.
///
/// # Errors
/// A refused config, or something bad that has been printed.
pub fn run(args: &ConfigArgs, json: bool) -> Result<(), Failure> {
    let Loaded { config, .. } = args.load()?;
    let facts = Facts::read(Path::new("/"));
    let mut findings = judge::all(&facts, &config);
    findings.extend(try_out::all(&config));
    findings.extend(host::all(&config));
    by_area(&mut findings);
    if json {
        say(&format!("{}\n", serde_json::to_string_pretty(&findings).unwrap_or_default()))?;
    } else {
        let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        say(&render(&findings, color))?;
    }
    let bad = findings.iter().any(|finding| finding.state == State::Bad);
    if bad { Err(Failure::Said) } else { Ok(()) }
}

/// Brings what belongs to one area together, in the order in which areas first appear.
fn by_area(findings: &mut [Finding]) {
    let mut areas: Vec<&str> = Vec::new();
    for finding in findings.iter() {
        if !areas.contains(&finding.area) {
            areas.push(finding.area);
        }
    }
    findings.sort_by_key(|finding| areas.iter().position(|area| *area == finding.area));
}

/// For people: by area, the mend below what it mends.
fn render(findings: &[Finding], color: bool) -> String {
    let mut text = String::new();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            text.push_str(&format!("{area}\n"));
        }
        let (word, code) = match finding.state {
            State::Ok => ("ok", "32"),
            State::Warn => ("warn", "33"),
            State::Bad => ("bad", "31"),
        };
        let (on, off) =
            if color { (format!("\x1b[{code}m"), "\x1b[0m") } else { (String::new(), "") };
        text.push_str(&format!("  {on}{word:4}{off}  {}\n", finding.found));
        if let Some(mend) = &finding.mend {
            text.push_str(&format!("        mend: {mend}\n"));
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (ok, warn, bad) = (count(State::Ok), count(State::Warn), count(State::Bad));
    text.push_str(&format!("{ok} ok, {warn} warn, {bad} bad\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_its_mend_another() {
        let findings = [
            Finding::ok("kernel", "Linux 6.18"),
            Finding::bad("limits", "few files", "raise them"),
        ];
        assert_eq!(
            render(&findings, false),
            "kernel\n  ok    Linux 6.18\nlimits\n  bad   few files\n        mend: raise them\n\
             1 ok, 0 warn, 1 bad\n"
        );
        assert!(render(&findings, true).contains("\x1b[31mbad \x1b[0m"));
    }
}
