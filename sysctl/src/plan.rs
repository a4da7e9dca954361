//! The plan: every knob with its old and new value, why, what to expect, the risk, and how to
//! undo it. Making it reads the host and writes nothing.

use std::collections::BTreeSet;
use std::io;

use ember_affinity::plan::{self, PlanError};
use ember_affinity::queues::{self, QueuePlan};
use ember_affinity::{CpuSet, NicPlace, Topology, WorkerPlan, WorkersConfig};
use serde::Serialize;

use crate::findings::{self, Finding};
use crate::host::Host;
use crate::irqs::Role;
use crate::knobs::{self, Group, Rule, Truth};
use crate::nic::{self, Nic};
use crate::owners::{self, Conflict};
use crate::render;
use crate::target::{self, LastIrq, NicKnob, QueueId, Target};
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
        let mut maker = Maker { host, wishes: input.wishes, knobs: Vec::new() };
        maker.all(&nics, &workers);
        let mut knobs = maker.knobs;
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

struct Maker<'a> {
    host: &'a dyn Host,
    wishes: &'a Wishes,
    knobs: Vec<Knob>,
}

impl Maker<'_> {
    fn all(&mut self, nics: &[NicPlan], workers: &[WorkerPlan]) {
        for nic in nics {
            self.device(nic);
            self.queues(nic);
            self.interrupts(nic);
        }
        self.bans(nics);
        self.sysctls(nics.iter().any(|nic| nic.queues.software_spread));
        if let Some(governor) = &self.wishes.governor {
            for cpu in plan::cpus(workers).iter() {
                self.add(Group::Governor, Target::Governor(cpu), governor.clone());
            }
        }
    }

    /// Channels, rings, coalescing, features, and the hash table.
    fn device(&mut self, plan: &NicPlan) {
        let wishes = self.wishes;
        self.channels(plan);
        for (knob, wish) in [(NicKnob::RxRing, wishes.ring_rx), (NicKnob::TxRing, wishes.ring_tx)] {
            if let Some(size) = wish {
                self.of_nic(Group::Rings, plan, knob, size.to_string());
            }
        }
        for (field, value) in &wishes.coalesce {
            self.of_nic(Group::Coalesce, plan, NicKnob::Coalesce(*field), value.to_string());
        }
        let known = self.host.features(&plan.nic.id.name).unwrap_or_default();
        let ours = knobs::FEATURES.iter().map(|name| (name.to_string(), true));
        let ours = ours.filter(|(name, _)| !wishes.features.contains_key(name));
        for (name, on) in ours.chain(wishes.features.clone()) {
            let fixed = known.iter().any(|known| known.name == name && !known.changeable);
            let value = if on { "on" } else { "off" };
            self.of_nic(Group::Features, plan, NicKnob::Feature(name), value.to_string());
            if fixed {
                self.skip_change("the driver has fixed this feature");
            }
        }
        if let (Some(count), Some(table)) = (plan.queues.rss_queues, &plan.nic.rss_table) {
            let even = target::rss_text(&target::even_table(count, table.len()));
            self.of_nic(Group::Rss, plan, NicKnob::RssTable, even);
        }
    }

    fn channels(&mut self, plan: &NicPlan) {
        let Some(channels) = plan.nic.channels else { return };
        if let Some(count) = plan.queues.channels {
            let wanted = target::channels_text(&channels.with_queues(count));
            self.of_nic(Group::Channels, plan, NicKnob::Channels, wanted);
        } else if plan.held {
            let senders: BTreeSet<u32> =
                plan.queues.transmit.iter().flat_map(CpuSet::iter).collect();
            let most = channels.most_queues().unwrap_or(1);
            let count = most.min(senders.len() as u32);
            let wanted = target::channels_text(&channels.with_queues(count));
            self.of_nic(Group::Channels, plan, NicKnob::Channels, wanted);
            self.skip_change(
                "a remote session goes over this NIC and may be cut: ask with `channels = \
                 \"always\"` and apply with --confirm",
            );
        }
    }

    fn queues(&mut self, plan: &NicPlan) {
        let entries = self.wishes.rps_flow_entries.unwrap_or(knobs::RPS_FLOW_ENTRIES);
        let receive = &plan.queues.receive;
        let spread = receive.iter().filter(|seat| !seat.rps.is_empty()).count().max(1) as u32;
        // The kernel rounds up to a power of two; written so, the value reads back the same.
        let flows = (entries / spread).next_power_of_two();
        for (queue, seat) in receive.iter().enumerate() {
            let queue = queue as u32;
            self.of_nic(Group::Rps, plan, NicKnob::Rps(queue), seat.rps.to_string());
            let flows = if seat.rps.is_empty() { 0 } else { flows };
            self.unspread(&seat.rps);
            self.of_nic(Group::Rfs, plan, NicKnob::RpsFlows(queue), flows.to_string());
            self.unspread(&seat.rps);
            self.busy_poll(plan, queue);
        }
        for (queue, cpus) in plan.queues.transmit.iter().enumerate() {
            self.of_nic(Group::Xps, plan, NicKnob::Xps(queue as u32), cpus.to_string());
        }
    }

    fn busy_poll(&mut self, plan: &NicPlan, queue: u32) {
        for (field, value) in &self.wishes.busy_poll {
            self.of_nic(Group::Busypoll, plan, NicKnob::Napi(queue, *field), value.to_string());
        }
    }

    fn interrupts(&mut self, plan: &NicPlan) {
        let knob = |role, queue| {
            let id = QueueId { role, queue: queue as u32 };
            let found = plan.nic.irqs.iter().find(|irq| irq.id() == id);
            NicKnob::Irq(id, found.and_then(LastIrq::of))
        };
        for (queue, seat) in plan.queues.receive.iter().enumerate() {
            if let Some(cpu) = seat.irq_cpu {
                self.of_nic(Group::Irq, plan, knob(Role::Rx, queue), cpu.to_string());
            }
        }
        // Drivers that pair queues have no interrupts for transmit queues alone.
        if !plan.nic.irqs.iter().any(|irq| irq.role == Role::Tx) {
            return;
        }
        for (queue, cpus) in plan.queues.transmit.iter().enumerate() {
            if let Some(cpu) = cpus.first() {
                self.of_nic(Group::Irq, plan, knob(Role::Tx, queue), cpu.to_string());
            }
        }
    }

    /// The union of what irqbalance leaves alone already and what is placed here.
    fn bans(&mut self, nics: &[NicPlan]) {
        let ours: BTreeSet<u32> =
            nics.iter().flat_map(|nic| &nic.nic.irqs).map(|irq| irq.irq).collect();
        if ours.is_empty() {
            return;
        }
        match self.host.irq_bans() {
            Ok(None) => {}
            Ok(Some(banned)) => {
                let union = banned.union(&ours).copied().collect();
                self.add(Group::Irqbalance, Target::IrqBans, target::number_list(&union));
            }
            Err(_) => {
                self.add(Group::Irqbalance, Target::IrqBans, target::number_list(&ours));
            }
        }
    }

    fn sysctls(&mut self, software_spread: bool) {
        let wishes = self.wishes;
        for sysctl in &knobs::SYSCTLS {
            if !wishes.sysctl.contains_key(sysctl.name) {
                self.sysctl(Group::Sysctl, sysctl.name, sysctl.rule, sysctl.truth);
            }
        }
        if software_spread && !wishes.sysctl.contains_key(knobs::RPS_FLOWS_SYSCTL) {
            let entries = wishes.rps_flow_entries.unwrap_or(knobs::RPS_FLOW_ENTRIES);
            let rule = Rule::AtLeast(i64::from(entries.next_power_of_two()));
            let truth = knobs::truth(Group::Rfs);
            self.sysctl(Group::Rfs, knobs::RPS_FLOWS_SYSCTL, rule, truth);
        }
        for (name, value) in &wishes.sysctl {
            let known = knobs::SYSCTLS.iter().find(|sysctl| sysctl.name == name);
            self.add(Group::Sysctl, Target::Sysctl(name.clone()), value.clone());
            if let (Some(known), Some(knob)) = (known, self.knobs.last_mut()) {
                knob.truth = known.truth;
            }
        }
    }

    fn sysctl(&mut self, group: Group, name: &str, rule: Rule, truth: Truth) {
        let target = Target::Sysctl(name.to_string());
        let present = target.read(self.host).unwrap_or_default();
        self.add(group, target, rule.value(&present));
        if let Some(knob) = self.knobs.last_mut() {
            knob.truth = truth;
        }
    }

    fn of_nic(&mut self, group: Group, plan: &NicPlan, knob: NicKnob, value: String) {
        let absent_until_channels = plan.queues.channels.is_some()
            && match knob {
                NicKnob::Rps(queue) | NicKnob::RpsFlows(queue) | NicKnob::Napi(queue, _) => {
                    !plan.nic.rx_queues.contains(&queue)
                }
                NicKnob::Xps(queue) => !plan.nic.tx_queues.contains(&queue),
                NicKnob::Irq(id, _) => !plan.nic.irqs.iter().any(|irq| irq.id() == id),
                _ => false,
            };
        self.add(group, Target::Nic(plan.nic.id.clone(), knob), value);
        if let (true, Some(knob)) = (absent_until_channels, self.knobs.last_mut()) {
            (knob.action, knob.old, knob.undo) = (Action::Later, None, None);
        }
    }

    fn add(&mut self, group: Group, target: Target, new: String) {
        let (old, action) = match target.read(self.host) {
            Ok(old) if old == new => (Some(old), Action::Keep),
            Ok(old) => (Some(old), Action::Change),
            Err(error) => (None, Action::Skip(why_unreadable(group, &error))),
        };
        let undo = old.as_ref().map(|old| render::command(self.host, &target, old));
        self.knobs.push(Knob {
            key: target.key(),
            group,
            place: target.place(self.host),
            truth: knobs::truth(group),
            target,
            old,
            new,
            action,
            undo,
        });
    }

    /// Says of the last knob why it is turned off, where its queue has one worker only.
    fn unspread(&mut self, rps: &CpuSet) {
        if let (true, Some(knob)) = (rps.is_empty(), self.knobs.last_mut()) {
            knob.truth = knobs::NOT_SPREAD;
        }
    }

    /// Makes a skip of the last knob, if it was to be changed.
    fn skip_change(&mut self, reason: &str) {
        if let Some(knob) = self.knobs.last_mut()
            && matches!(knob.action, Action::Change)
        {
            knob.action = Action::Skip(reason.to_string());
        }
    }
}

/// Why a knob that cannot be read is left out.
fn why_unreadable(group: Group, error: &io::Error) -> String {
    let missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported);
    let missing = missing || error.raw_os_error() == Some(libc::EOPNOTSUPP);
    match group {
        Group::Sysctl | Group::Rfs if missing => {
            "not in this kernel or network namespace".to_string()
        }
        Group::Xps if missing => "the device has one transmit queue only".to_string(),
        Group::Governor if missing => "this CPU has no frequency governor".to_string(),
        _ if missing => format!("the device or kernel does not have it ({error})"),
        _ => format!("cannot be read: {error}"),
    }
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
            MakeError::UnknownName(name) => {
                let groups: Vec<&str> = Group::ALL.iter().map(|group| group.name()).collect();
                write!(
                    f,
                    "{name} is neither a group ({}), a sysctl of the plan, nor the key of one of \
                     its knobs",
                    groups.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for MakeError {}
