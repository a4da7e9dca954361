//! The plan: every knob with its old and new value, why, what to expect, the risk, and how to
//! undo it. Making it reads the host and writes nothing.

use std::io;

use ember_affinity::plan::{self, PlanError};
use ember_affinity::queues::{self, QueuePlan};
use ember_affinity::{CpuSet, NicPlace, Topology, WorkerPlan, WorkersConfig};
use serde::Serialize;

use crate::findings::{self, Finding};
use crate::host::Host;
use crate::knobs::{self, Group, Truth};
use crate::maker;
use crate::nic::{self, Nic};
use crate::owners::{self, Conflict};
use crate::target::Target;
use crate::wishes::{ChannelsWish, Wishes};

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The machine.
    pub topology: &'a Topology,
    /// Who is to run where.
    pub workers: &'a WorkersConfig,
    /// What the operator asks.
    pub wishes: &'a Wishes,
}

/// A whole plan.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Where the workers run.
    pub workers: Vec<WorkerPlan>,
    /// The NICs and how their queues are used.
    pub nics: Vec<NicPlan>,
    /// Every knob, in the order of apply.
    pub knobs: Vec<Knob>,
    /// Other owners of the knobs to be changed.
    pub conflicts: Vec<Conflict>,
    /// What else is seen on this host and is not ours to change.
    pub findings: Vec<Finding>,
    /// What the server itself does at its start, for completeness.
    pub by_server: Vec<String>,
}

/// A NIC of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct NicPlan {
    /// The interface asked for that this device lies under.
    pub under: String,
    /// What it is now.
    pub nic: Nic,
    /// How its queues are to be used.
    pub queues: QueuePlan,
    /// Whether its channels are left alone because a remote session goes over it.
    pub held: bool,
}

/// One knob of the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Knob {
    /// Short, stable name.
    pub key: String,
    /// Its group.
    pub group: Group,
    /// Where an operator finds it.
    #[serde(rename = "target")]
    pub place: String,
    /// What identifies it.
    #[serde(skip)]
    pub target: Target,
    /// The value now; none where it cannot be read, or is not there yet.
    pub old: Option<String>,
    /// The value wanted.
    pub new: String,
    /// What is to be done.
    #[serde(flatten)]
    pub action: Action,
    /// What is said of it.
    #[serde(flatten)]
    pub truth: Truth,
    /// The command that undoes it.
    pub undo: Option<String>,
}

impl Knob {
    /// The device that it belongs to.
    pub fn nic(&self) -> Option<String> {
        match &self.target {
            Target::Nic(device, _) => Some(device.name.clone()),
            _ => None,
        }
    }
}

/// What is to be done with a knob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", content = "reason", rename_all = "lowercase")]
pub enum Action {
    /// Write the new value.
    Change,
    /// Nothing: it has the value.
    Keep,
    /// Write it once the device has made the queue.
    Later,
    /// Nothing, and why.
    Skip(String),
}

/// Why there is no plan.
#[derive(Debug)]
pub enum MakeError {
    /// The workers cannot be placed.
    Placement(PlanError),
    /// A NIC asked for is not there.
    NoNic(String, io::Error),
    /// Something in `only` or `skip` that names nothing.
    UnknownName(String),
    /// A value for a key that names CPUs that are not online.
    NoSuchCpus(String, CpuSet),
}

impl Plan {
    /// Makes the plan for this host.
    ///
    /// # Errors
    /// For wishes that name what is not there.
    pub fn make(host: &dyn Host, input: Input<'_>) -> Result<Plan, MakeError> {
        let found = look_at_nics(host, input.wishes)?;
        let places: Vec<NicPlace> = found.iter().map(|found| found.nic.place.clone()).collect();
        let workers =
            plan::workers(input.topology, input.workers, &places).map_err(MakeError::Placement)?;
        let threads = plan::cpus(&workers).len() as u32;
        let held: Vec<bool> =
            found.iter().map(|found| held_by_session(host, input.wishes, found, threads)).collect();
        let shapes: Vec<_> = found
            .iter()
            .zip(&held)
            .map(|(found, held)| shape(found, input.wishes, *held))
            .collect();
        let queue_plans = queues::plan(input.topology, &workers, &shapes);
        let nics: Vec<NicPlan> = found
            .into_iter()
            .zip(queue_plans.into_iter().zip(held))
            .map(|(found, (queues, held))| {
                let Found { under, nic, .. } = found;
                NicPlan { under, nic, queues, held }
            })
            .collect();
        check_own_values(input, &nics)?;
        let mut knobs = maker::knobs(host, input.wishes, &nics, &workers);
        check_names(input.wishes, &knobs, &nics)?;
        choose(&mut knobs, input.wishes);
        knobs.sort_by_key(|knob| knob.group);
        Ok(Plan {
            conflicts: owners::conflicts(host, &knobs),
            findings: findings::look(host, &nics),
            by_server: vec![
                format!("threads are pinned to CPUs {}", plan::cpus(&workers)),
                "workers run at the configured nice value (-10 unless set): no help against \
                 softirq on the same CPU"
                    .to_string(),
            ],
            workers,
            nics,
            knobs,
        })
    }

    /// The knobs to be written.
    pub fn changes(&self) -> impl Iterator<Item = &Knob> {
        self.knobs.iter().filter(|knob| matches!(knob.action, Action::Change | Action::Later))
    }
}

/// The devices that do the work for the interfaces asked for, or found.
///
/// # Errors
/// Where one asked for is not there.
pub fn nics(host: &dyn Host, wishes: &Wishes) -> Result<Vec<Nic>, MakeError> {
    Ok(look_at_nics(host, wishes)?.into_iter().map(|found| found.nic).collect())
}

/// A device that does the work for an interface asked for.
struct Found {
    under: String,
    nic: Nic,
    stands_in_for: Option<usize>,
}

/// The devices that do the work for the interfaces asked for.
fn look_at_nics(host: &dyn Host, wishes: &Wishes) -> Result<Vec<Found>, MakeError> {
    if !wishes.nics.is_empty() {
        return look_at(host, &wishes.nics);
    }
    // Where /sys is of another network namespace than /proc, as in some containers, a route
    // names what cannot be looked at.
    let visible = |name: &String| nic::resolve(host, name).is_ok();
    let names: Vec<String> = nic::automatic(host).into_iter().filter(visible).collect();
    look_at(host, &names)
}

fn look_at(host: &dyn Host, asked: &[String]) -> Result<Vec<Found>, MakeError> {
    let mut found: Vec<Found> = Vec::new();
    for name in asked {
        let missing = |error| MakeError::NoNic(name.clone(), error);
        let resolved = nic::resolve(host, name).map_err(missing)?;
        let first = found.len();
        for device in &resolved.devices {
            if found.iter().any(|known| known.nic.id.name == *device) {
                continue;
            }
            let nic = Nic::look(host, device).map_err(missing)?;
            let reserve = resolved.one_at_a_time && found.len() > first;
            let stands_in_for = reserve.then_some(first);
            found.push(Found { under: name.clone(), nic, stands_in_for });
        }
    }
    Ok(found)
}

/// The shape that the queue plan sees: it may not ask for other channels where they are to stay.
fn shape(found: &Found, wishes: &Wishes, held: bool) -> queues::NicShape {
    let mut shape = found.nic.shape();
    shape.stands_in_for = found.stands_in_for;
    shape.rx_queues_max = match wishes.channels {
        ChannelsWish::Keep => None,
        ChannelsWish::Count(count) => shape.rx_queues_max.map(|max| max.min(count)),
        ChannelsWish::Auto | ChannelsWish::Always => shape.rx_queues_max,
    };
    if held || is_left_out(wishes, Group::Channels, &format!("{}:channels", found.nic.id.name)) {
        shape.rx_queues_max = None;
    }
    shape
}

/// Whether a remote session goes over a NIC whose channels would be changed unasked. Looked for
/// only then: a busy server has very many connections to look through.
fn held_by_session(host: &dyn Host, wishes: &Wishes, found: &Found, threads: u32) -> bool {
    let shape = found.nic.shape();
    let change = shape.rx_queues_max.is_some_and(|max| shape.rx_queues != max.min(threads));
    let over_it = |session: &String| *session == found.under || *session == found.nic.id.name;
    wishes.channels == ChannelsWish::Auto && change && host.session_nics().iter().any(over_it)
}

/// Whether the operator has left a knob out by group, key or sysctl name.
fn is_left_out(wishes: &Wishes, group: Group, key: &str) -> bool {
    let names = |list: &[String]| list.iter().any(|name| name == group.name() || name == key);
    (!wishes.only.is_empty() && !names(&wishes.only)) || names(&wishes.skip)
}

fn choose(knobs: &mut [Knob], wishes: &Wishes) {
    for knob in knobs {
        let pending = matches!(knob.action, Action::Change | Action::Later);
        if pending && is_left_out(wishes, knob.group, &knob.key) {
            knob.action = Action::Skip("left out by --only or skip".to_string());
        }
    }
}

fn check_names(wishes: &Wishes, knobs: &[Knob], nics: &[NicPlan]) -> Result<(), MakeError> {
    for name in wishes.only.iter().chain(&wishes.skip) {
        let group = Group::ALL.iter().any(|group| group.name() == name);
        let sysctl = knobs::SYSCTLS.iter().any(|sysctl| sysctl.name == name);
        // Which knobs a NIC has depends on its state: that there is such a NIC has to do.
        let of_nic = name.split_once(':').map(|(nic, _)| nic);
        let of_nic = nics.iter().any(|plan| Some(plan.nic.id.name.as_str()) == of_nic);
        if !group && !sysctl && !of_nic && !knobs.iter().any(|knob| knob.key == *name) {
            return Err(MakeError::UnknownName(name.clone()));
        }
    }
    Ok(())
}

/// Values by key have to be of a NIC and of CPUs that are there: the kernel cuts masks silently.
fn check_own_values(input: Input<'_>, nics: &[NicPlan]) -> Result<(), MakeError> {
    let online = input.topology.cpus();
    for (key, own) in &input.wishes.own {
        if !nics.iter().any(|plan| plan.nic.id.name == own.nic) {
            return Err(MakeError::UnknownName(key.clone()));
        }
        let missing = own.cpus().map(|cpus| cpus.difference(&online)).unwrap_or_default();
        if !missing.is_empty() {
            return Err(MakeError::NoSuchCpus(key.clone(), missing));
        }
    }
    Ok(())
}

/// The CPUs that a mask knob names, for tests of plans.
pub fn cpus_of(knob: &Knob) -> Option<CpuSet> {
    let masks = matches!(knob.group, Group::Irq | Group::Rps | Group::Xps);
    masks.then(|| knob.new.parse().ok()).flatten()
}

impl std::fmt::Display for MakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MakeError::Placement(error) => write!(f, "{error}"),
            MakeError::NoNic(name, error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "no network interface {name}; `ip link` lists them")
            }
            MakeError::NoNic(name, error) => {
                write!(f, "network interface {name} cannot be looked at: {error}")
            }
            MakeError::NoSuchCpus(key, cpus) => {
                write!(f, "{key}: CPUs {cpus} are not online here; `lscpu` lists those that are")
            }
            MakeError::UnknownName(name) => {
                let groups: Vec<&str> = Group::ALL.iter().map(|group| group.name()).collect();
                write!(
                    f,
                    "{name} is neither a group ({}), a sysctl of the plan, nor the key of one of \
                     its knobs (`emberd tune plan` prints them)",
                    groups.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for MakeError {}
