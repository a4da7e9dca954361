//! Making the knobs of a plan, one after the other.

use std::collections::BTreeSet;
use std::io;

use ember_affinity::queues::ReceiveSeat;
use ember_affinity::{CpuSet, WorkerPlan, plan};

use crate::arfs;
use crate::host::Host;
use crate::irqs::Role;
use crate::knobs::{self, Group, Rule, Truth};
use crate::plan::{Action, Knob, NicPlan};
use crate::render;
use crate::target::{self, LastIrq, NicKnob, QueueId, Target};
use crate::wishes::{Own, OwnItem, Wishes};

/// The knobs for these NICs and workers, in no order.
pub(crate) fn knobs(
    host: &dyn Host,
    wishes: &Wishes,
    nics: &[NicPlan],
    workers: &[WorkerPlan],
) -> Vec<Knob> {
    let mut maker = Maker { host, wishes, knobs: Vec::new() };
    maker.all(nics, workers);
    maker.knobs
}

struct Maker<'a> {
    host: &'a dyn Host,
    wishes: &'a Wishes,
    knobs: Vec<Knob>,
}

impl Maker<'_> {
    fn all(&mut self, nics: &[NicPlan], workers: &[WorkerPlan]) {
        let (mut flow_tables, mut spread) = (false, false);
        for nic in nics {
            self.device(nic);
            let arfs = self.wishes.arfs && self.arfs(nic);
            self.queues(nic, arfs);
            self.interrupts(nic);
            self.own_values_left(nic);
            spread |= nic.queues.software_spread;
            flow_tables |= arfs || spread;
        }
        self.bans(nics);
        self.sysctls(flow_tables, spread);
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
        let asked = wishes.features.clone().into_iter();
        // With `arfs`, its own condition decides about its feature.
        let asked = asked.filter(|(name, _)| !(wishes.arfs && name == arfs::FEATURE));
        for (name, on) in ours.chain(asked) {
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

    /// Turns on steering by the NIC where it can be had; gives whether it can.
    fn arfs(&mut self, plan: &NicPlan) -> bool {
        let features = self.host.features(&plan.nic.id.name).unwrap_or_default();
        let refusal = arfs::refusal(plan, &features, self.wishes);
        let knob = NicKnob::Feature(arfs::FEATURE.to_string());
        self.of_nic(Group::Features, plan, knob, "on".to_string());
        let Some(knob) = self.knobs.last_mut() else { return false };
        knob.truth = arfs::TRUTH;
        match refusal {
            None => true,
            Some(reason) => {
                knob.action = Action::Skip(reason);
                false
            }
        }
    }

    fn queues(&mut self, plan: &NicPlan, arfs: bool) {
        let entries = self.wishes.rps_flow_entries.unwrap_or(knobs::RPS_FLOW_ENTRIES);
        let receive = &plan.queues.receive;
        let spread = |seat: &ReceiveSeat| arfs || !seat.rps.is_empty();
        let tables = receive.iter().filter(|seat| spread(seat)).count().max(1) as u32;
        // The kernel rounds up to a power of two; written so, the value reads back the same.
        let flows = (entries / tables).next_power_of_two();
        for (queue, seat) in receive.iter().enumerate() {
            let queue = queue as u32;
            self.of_nic(Group::Rps, plan, NicKnob::Rps(queue), seat.rps.to_string());
            self.unspread(&seat.rps);
            let flows = if spread(seat) { flows } else { 0 };
            self.of_nic(Group::Rfs, plan, NicKnob::RpsFlows(queue), flows.to_string());
            if !spread(seat) {
                self.unspread(&seat.rps);
            }
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

    /// Values asked for by key of what the plan has no knob for.
    fn own_values_left(&mut self, plan: &NicPlan) {
        let wishes = self.wishes;
        let of_nic = wishes.own.iter().filter(|(_, own)| own.nic == plan.nic.id.name);
        for (key, own) in of_nic {
            if self.knobs.iter().any(|knob| knob.key == *key) {
                continue;
            }
            let (group, knob) = own_knob(own);
            self.of_nic(group, plan, knob, own.value());
            if let Some(knob) = self.knobs.last_mut() {
                let reason = "in this plan the device has no such queue, or the queue no interrupt";
                knob.action = Action::Skip(reason.to_string());
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

    fn sysctls(&mut self, flow_tables: bool, spread: bool) {
        let wishes = self.wishes;
        for sysctl in &knobs::SYSCTLS {
            if !wishes.sysctl.contains_key(sysctl.name) {
                let mut truth = sysctl.truth;
                truth.on_path |= spread && sysctl.name == knobs::BACKLOG_SYSCTL;
                self.sysctl(Group::Sysctl, sysctl.name, sysctl.rule, truth);
            }
        }
        if flow_tables && !wishes.sysctl.contains_key(knobs::RPS_FLOWS_SYSCTL) {
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
        let target = Target::Nic(plan.nic.id.clone(), knob);
        let own = self.wishes.own.get(&target.key());
        self.add(group, target, own.map_or(value, Own::value));
        let Some(knob) = self.knobs.last_mut() else { return };
        if own.is_some() {
            knob.truth.why = knobs::ASKED_FOR.why;
        }
        if absent_until_channels {
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
        if let (true, Some(knob)) = (rps.is_empty(), self.knobs.last_mut())
            && !self.wishes.own.contains_key(&knob.key)
        {
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

/// The knob that a value by key is for.
fn own_knob(own: &Own) -> (Group, NicKnob) {
    let queue = own.queue;
    match own.item {
        OwnItem::Irq(role, _) => (Group::Irq, NicKnob::Irq(QueueId { role, queue }, None)),
        OwnItem::Rps(_) => (Group::Rps, NicKnob::Rps(queue)),
        OwnItem::RpsFlows(_) => (Group::Rfs, NicKnob::RpsFlows(queue)),
        OwnItem::Xps(_) => (Group::Xps, NicKnob::Xps(queue)),
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
