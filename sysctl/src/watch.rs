//! Drift, watched while the server runs: cheap reads of what was applied, without the topology
//! and without a new plan.

use std::collections::BTreeMap;

use crate::host::Host;
use crate::journal::Contents;
use crate::knobs::Group;
use crate::plan::Plan;
use crate::status::{self, State};
use crate::target::Target;

/// What was planned, to be compared with what is.
#[derive(Clone, Debug)]
pub struct Watch {
    points: Vec<Point>,
}

/// How the host stands against what was planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// By sysctl, and by group for all else: whether any of it has another value than planned.
    pub drifted: BTreeMap<String, bool>,
    /// By NIC: how many interrupts are on other CPUs than planned.
    pub misaligned: BTreeMap<String, u32>,
}

#[derive(Clone, Debug)]
struct Point {
    target: Target,
    wanted: String,
    label: String,
    /// The NIC, where this is the place of one of its interrupts.
    irq_of: Option<String>,
}

impl Watch {
    /// Watches what of a plan can be had here.
    pub fn new(plan: &Plan, journal: Option<&Contents>) -> Watch {
        let status = status::check(plan, journal);
        let can_be_had = |state: &State| matches!(state, State::Sync | State::Drift { .. });
        let points = plan.knobs.iter().zip(&status.checks);
        let points = points.filter(|(_, check)| can_be_had(&check.state)).map(|(knob, _)| Point {
            target: knob.target.clone(),
            wanted: knob.new.clone(),
            label: match &knob.target {
                Target::Sysctl(name) => name.clone(),
                _ => knob.group.name().to_string(),
            },
            irq_of: knob.nic().filter(|_| knob.group == Group::Irq),
        });
        Watch { points: points.collect() }
    }

    /// Reads the host. What cannot be read any more has drifted: its device or queue is gone.
    pub fn look(&self, host: &dyn Host) -> Drift {
        let mut drift = Drift::default();
        for point in &self.points {
            let moved = point.target.read(host).map_or(true, |value| value != point.wanted);
            *drift.drifted.entry(point.label.clone()).or_default() |= moved;
            if let Some(nic) = &point.irq_of {
                *drift.misaligned.entry(nic.clone()).or_default() += u32::from(moved);
            }
        }
        drift
    }
}

impl Drift {
    /// What has drifted, for a line to people.
    pub fn names(&self) -> Vec<&str> {
        self.drifted.iter().filter(|(_, moved)| **moved).map(|(name, _)| name.as_str()).collect()
    }
}
