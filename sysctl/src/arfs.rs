//! Accelerated RFS: the NIC itself moves each flow to the queue of the CPU that serves it. Asked
//! for by `arfs` in `[tune] set`, and had only where every worker has a queue of its own.

use crate::ethtool::Feature;
use crate::knobs::Truth;
use crate::plan::NicPlan;
use crate::wishes::Wishes;

/// The offload by which drivers take filters for single flows.
pub(crate) const FEATURE: &str = "rx-ntuple-filter";

/// What is said of it.
pub(crate) const TRUTH: Truth = Truth {
    why: "asked for in [tune]: the NIC moves a flow to the queue of the CPU that reads it",
    effect: "none on connections that are accepted on the CPU of their packets, as emberd does \
             here; brings home those that are not",
    risk: "a filter of the NIC for each flow, of which it has a few thousand; packets of a flow \
           that moves may be overtaken",
    on_path: true,
};

/// Why it cannot be had on a NIC; none where it can.
pub(crate) fn refusal(plan: &NicPlan, features: &[Feature], wishes: &Wishes) -> Option<String> {
    let name = &plan.nic.id.name;
    if wishes.features.get(FEATURE) == Some(&false) {
        return Some(format!("`arfs` and `feature-{FEATURE} = \"off\"` exclude each other"));
    }
    let interrupts = plan.queues.receive.iter().all(|seat| seat.irq_cpu.is_some());
    if !interrupts || plan.nic.irqs.is_empty() {
        return Some(format!(
            "no accelerated RFS: it needs interrupts of the queues' own, and {name} has none \
             that were found"
        ));
    }
    if plan.queues.software_spread {
        let workers: usize =
            plan.queues.receive.iter().map(|seat| seat.rps.len().max(1)).sum::<usize>();
        let queues = plan.queues.receive.len();
        return Some(format!(
            "no accelerated RFS: it takes a queue for every worker, and {name} has {queues} for \
             {workers}: flows would be pulled to the nearest. RPS and RFS spread instead; for \
             aRFS, run no more workers than it has queues"
        ));
    }
    match features.iter().find(|feature| feature.name == FEATURE) {
        Some(feature) if feature.on || feature.changeable => None,
        Some(_) => Some(format!("no accelerated RFS: the driver of {name} has fixed it at off")),
        None => Some(format!("no accelerated RFS: this kernel has no {FEATURE} for {name}")),
    }
}
