//! Whether the host is as planned: everything read back, with an exit code that says it all.

use std::path::Path;

use serde::Serialize;

use crate::findings::Finding;
use crate::host::Host;
use crate::journal::{Contents, JournalError, Outcome};
use crate::knobs::Group;
use crate::plan::{Action, Input, MakeError, Plan};

/// All knobs have the planned values.
pub const IN_SYNC: u8 = 0;
/// Some have not.
pub const DRIFT: u8 = 1;
/// Some cannot be read.
pub const CANNOT_TELL: u8 = 2;
/// Nothing of the plan can be had on this host.
pub const UNSUPPORTED: u8 = 3;

/// The state of the host against the plan.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// One entry a knob.
    pub checks: Vec<Check>,
    /// What else is seen on this host and is not ours to change.
    pub findings: Vec<Finding>,
    /// Whether a journal is there: something was applied in this boot, and can be taken back.
    pub applied: bool,
    /// The knob at which an apply was cut off.
    pub interrupted: Option<String>,
    /// Whether a revert was cut off, or could not put everything back.
    pub half_reverted: bool,
}

/// The state of a knob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its key.
    pub key: String,
    /// Its group.
    pub group: Group,
    /// The device, where it is one's.
    pub nic: Option<String>,
    /// How it stands.
    #[serde(flatten)]
    pub state: State,
}

/// How a knob stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// As planned.
    Sync,
    /// Otherwise.
    Drift {
        /// Its value; none where it is not there yet.
        now: Option<String>,
        /// The value planned.
        wanted: String,
    },
    /// It cannot be read.
    Unknown {
        /// Why.
        reason: String,
    },
    /// It cannot be had here, or was left out.
    Unsupported {
        /// Why.
        reason: String,
    },
}

impl Status {
    /// The exit code.
    pub fn code(&self) -> u8 {
        let any = |wanted: fn(&State) -> bool| self.checks.iter().any(|c| wanted(&c.state));
        if any(|state| matches!(state, State::Drift { .. })) {
            DRIFT
        } else if any(|state| matches!(state, State::Unknown { .. })) {
            CANNOT_TELL
        } else if any(|state| matches!(state, State::Sync)) {
            IN_SYNC
        } else {
            UNSUPPORTED
        }
    }

    /// The knobs that are not as planned.
    pub fn drifted(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.state, State::Drift { .. }))
    }

    /// How many interrupts of each NIC are on another CPU than planned.
    pub fn misaligned(&self) -> Vec<(String, usize)> {
        let mut nics: Vec<(String, usize)> = Vec::new();
        for check in self.checks.iter().filter(|check| check.group == Group::Irq) {
            let Some(nic) = &check.nic else { continue };
            let drifted = usize::from(matches!(check.state, State::Drift { .. }));
            match nics.iter_mut().find(|(name, _)| name == nic) {
                Some((_, count)) => *count += drifted,
                None => nics.push((nic.clone(), drifted)),
            }
        }
        nics
    }
}

/// Reads the host back.
///
/// # Errors
/// Where there is no plan, or the journal cannot be read.
pub fn status(host: &dyn Host, directory: &Path, input: Input<'_>) -> Result<Status, StatusError> {
    let plan = Plan::make(host, input).map_err(StatusError::Plan)?;
    let journal = Contents::look(host, directory).map_err(StatusError::Journal)?;
    Ok(check(&plan, journal.as_ref()))
}

/// Judges a plan made just now by what the journal knows.
pub fn check(plan: &Plan, journal: Option<&Contents>) -> Status {
    let refused = |key: &str| match journal?.entry(key)?.outcome.as_ref()? {
        Outcome::Refused(reason) => Some(reason.clone()),
        // The driver took a neighbouring value: that is as near as it gets.
        Outcome::Adjusted(value) => Some(format!("the device keeps {value}")),
        Outcome::Done => None,
    };
    let checks = plan.knobs.iter().map(|knob| {
        let state = match &knob.action {
            Action::Keep => State::Sync,
            Action::Change | Action::Later => match refused(&knob.key) {
                Some(reason) => State::Unsupported { reason },
                None => State::Drift { now: knob.old.clone(), wanted: knob.new.clone() },
            },
            Action::Skip(reason) if reason.starts_with("cannot be read") => {
                State::Unknown { reason: reason.clone() }
            }
            Action::Skip(reason) => State::Unsupported { reason: reason.clone() },
        };
        Check { key: knob.key.clone(), group: knob.group, nic: knob.nic(), state }
    });
    Status {
        checks: checks.collect(),
        findings: plan.findings.clone(),
        applied: journal.is_some(),
        interrupted: journal.and_then(Contents::unfinished).map(|entry| entry.target.key()),
        half_reverted: journal.is_some_and(Contents::half_reverted),
    }
}

/// Why there is no status.
#[derive(Debug)]
pub enum StatusError {
    /// There is no plan to compare with.
    Plan(MakeError),
    /// The journal cannot be read.
    Journal(JournalError),
}

impl std::fmt::Display for StatusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StatusError::Plan(error) => write!(f, "{error}"),
            StatusError::Journal(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StatusError {}
