//! Which queue of a NIC feeds which worker: pure functions again.
//!
//! Where a NIC has a queue for each worker thread, queue q interrupts worker q's CPU and nothing
//! else is needed. Where it has fewer, each queue gets a group of workers that share a cache:
//! the interrupt goes to the group's first core and RPS spreads the packets over the group.

use serde::{Deserialize, Serialize};

use crate::cpu_set::CpuSet;
use crate::plan::{NicPlace, WorkerPlan};
use crate::topology::Topology;

/// What a NIC has, as far as the queue plan depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicShape {
    /// Where it is attached.
    pub place: NicPlace,
    /// Receive queues now.
    pub rx_queues: u32,
    /// Transmit queues now.
    pub tx_queues: u32,
    /// The most receive queues that the driver can be asked for; none where it will not resize.
    pub rx_queues_max: Option<u32>,
    /// Whether the hash indirection table can be written.
    pub rss_table: bool,
    /// Whether its queues have interrupts of their own that can be placed.
    pub interrupts: bool,
    /// The earlier NIC, by index, that it stands in for when that one fails: it then serves the
    /// same workers, as the slaves of an active-backup bond do.
    pub stands_in_for: Option<usize>,
}

/// How new connections find their worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Steering {
    /// The listening socket of the CPU on which the packet was handled (SO_INCOMING_CPU).
    IncomingCpu,
    /// The hash over the listening sockets of a SO_REUSEPORT group.
    Hash,
}

/// What to make of one NIC's queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePlan {
    /// How many queues to ask the driver for; none: leave them.
    pub channels: Option<u32>,
    /// Over how many queues, from the first, the hash table is to spread; none: leave it.
    pub rss_queues: Option<u32>,
    /// One entry a receive queue, once the channels are as planned.
    pub receive: Vec<ReceiveSeat>,
    /// The CPUs that each transmit queue is for.
    pub transmit: Vec<CpuSet>,
    /// Whether packets are spread by software (RPS, and RFS to the flow's own worker).
    pub software_spread: bool,
    /// How connections are to find their worker.
    pub steering: Steering,
}

/// Where a receive queue's work is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveSeat {
    /// The CPU to interrupt; none where the queue has no interrupt of its own.
    pub irq_cpu: Option<u32>,
    /// The CPUs to spread over in software; empty: none, which turns RPS off for the queue.
    pub rps: CpuSet,
}

/// Plans the queues of several NICs that serve the same workers: each NIC gets the workers on
/// its node, and NICs on one node share them out.
pub fn plan(topology: &Topology, workers: &[WorkerPlan], nics: &[NicShape]) -> Vec<QueuePlan> {
    let cpus = distinct_cpus(workers);
    let principals: Vec<usize> =
        (0..nics.len()).filter(|&index| nics[index].stands_in_for.is_none()).collect();
    let shapes: Vec<&NicShape> = principals.iter().map(|&index| &nics[index]).collect();
    let shares = partition(topology, &cpus, &shapes);
    let share_of = |index: usize| {
        let principal = nics[index].stands_in_for.unwrap_or(index);
        principals.iter().position(|&known| known == principal).unwrap_or(0)
    };
    let plan_of = |(index, nic)| {
        let (local, spilled) = &shares[share_of(index)];
        plan_nic(topology, local, spilled, nic)
    };
    nics.iter().enumerate().map(plan_of).collect()
}

/// The workers' CPUs in the workers' order, each once.
fn distinct_cpus(workers: &[WorkerPlan]) -> Vec<u32> {
    let mut seen = CpuSet::new();
    let mut cpus = Vec::new();
    for &cpu in workers.iter().flat_map(|worker| &worker.cpus) {
        if !seen.contains(cpu) {
            seen.insert(cpu);
            cpus.push(cpu);
        }
    }
    cpus
}

/// For each NIC the CPUs near it, and those of no NIC's node that it has to serve as well.
fn partition(topology: &Topology, cpus: &[u32], nics: &[&NicShape]) -> Vec<(Vec<u32>, Vec<u32>)> {
    let near = |cpu: u32, nic: &NicShape| match (nic.place.node, &nic.place.local_cpus) {
        (Some(node), _) => topology.node_of(cpu).is_none_or(|of_cpu| of_cpu == node),
        (None, Some(local)) => local.contains(cpu),
        (None, None) => true,
    };
    let mut local: Vec<Vec<u32>> = vec![Vec::new(); nics.len()];
    let mut far = Vec::new();
    // Workers that several NICs are near to are shared out among just those NICs.
    let mut by_nics: Vec<(Vec<usize>, Vec<u32>)> = Vec::new();
    for &cpu in cpus {
        let near: Vec<usize> = (0..nics.len()).filter(|&nic| near(cpu, nics[nic])).collect();
        match by_nics.iter_mut().find(|(nics, _)| *nics == near) {
            _ if near.is_empty() => far.push(cpu),
            Some((_, cpus)) => cpus.push(cpu),
            None => by_nics.push((near, vec![cpu])),
        }
    }
    for (near, cpus) in by_nics {
        // Fewer workers than NICs: then the NICs have to share them.
        if cpus.len() < near.len() {
            near.iter().for_each(|&nic| local[nic].extend(&cpus));
            continue;
        }
        for (index, &nic) in near.iter().enumerate() {
            let (from, to) = (cpus.len() * index, cpus.len() * (index + 1));
            local[nic].extend(&cpus[from / near.len()..to / near.len()]);
        }
    }
    let all = nics.len().max(1);
    let shares = local.into_iter().enumerate().map(|(index, local)| {
        let spilled = far[far.len() * index / all..far.len() * (index + 1) / all].to_vec();
        // No worker near it at all: then the far ones are what its interrupts go to.
        match local.is_empty() {
            true => (cpus.to_vec(), Vec::new()),
            false => (local, spilled),
        }
    });
    shares.collect()
}

fn plan_nic(topology: &Topology, local: &[u32], spilled: &[u32], nic: &NicShape) -> QueuePlan {
    let threads = local.len() as u32;
    let wanted = nic.rx_queues_max.map_or(nic.rx_queues, |max| max.min(threads)).max(1);
    let channels = (nic.rx_queues_max.is_some() && wanted != nic.rx_queues).then_some(wanted);
    let fixed = channels.is_none();
    let receive_queues = channels.unwrap_or(nic.rx_queues).max(1);
    // Drivers that resize do so for both directions together.
    let transmit_queues = channels.unwrap_or(nic.tx_queues).max(1);
    let groups = groups(topology, local, receive_queues as usize);
    let seat = |queue: usize| {
        let spill = chunk(spilled, queue, groups.len());
        let group: CpuSet = groups[queue].iter().chain(spill).copied().collect();
        ReceiveSeat {
            irq_cpu: nic.interrupts.then(|| groups[queue][0]),
            rps: if group.len() > 1 { group } else { CpuSet::new() },
        }
    };
    let receive: Vec<ReceiveSeat> =
        (0..receive_queues as usize).map(|queue| seat(queue % groups.len())).collect();
    let everyone: Vec<u32> = local.iter().chain(spilled).copied().collect();
    let senders = self::groups(topology, &everyone, transmit_queues as usize);
    let transmit = (0..transmit_queues as usize)
        .map(|queue| senders[queue % senders.len()].iter().copied().collect())
        .collect();
    QueuePlan {
        channels,
        rss_queues: (fixed && nic.rss_table && receive_queues > threads).then_some(threads),
        software_spread: receive.iter().any(|seat| !seat.rps.is_empty()),
        receive,
        transmit,
        // Without interrupts of its own a device's packets are handled wherever their sender
        // runs, which says nothing about where their connection should be served.
        steering: if nic.interrupts { Steering::IncomingCpu } else { Steering::Hash },
    }
}

/// Splits the CPUs into at most `parts` groups that lie within a cache each, as far as the
/// numbers allow; with as many parts as CPUs or more, one CPU a group.
fn groups(topology: &Topology, cpus: &[u32], parts: usize) -> Vec<Vec<u32>> {
    let parts = parts.min(cpus.len()).max(1);
    let mut caches: Vec<Vec<u32>> = Vec::new();
    let mut last = None;
    for &cpu in cpus {
        let cache = topology.cache_of(cpu);
        match caches.last_mut() {
            Some(run) if cache == last => run.push(cpu),
            _ => caches.push(vec![cpu]),
        }
        last = cache;
    }
    if parts <= caches.len() {
        return (0..parts).map(|part| chunk(&caches, part, parts).concat()).collect();
    }
    let counts = apportion(&caches.iter().map(Vec::len).collect::<Vec<_>>(), parts);
    let split = caches
        .iter()
        .zip(counts)
        .flat_map(|(run, count)| (0..count).map(move |part| chunk(run, part, count).to_vec()));
    split.collect()
}

/// Gives each size its share of `parts`: at least one, at most the size, the rest to whoever
/// has the most CPUs a part.
fn apportion(sizes: &[usize], parts: usize) -> Vec<usize> {
    let mut counts = vec![1; sizes.len()];
    for _ in sizes.len()..parts {
        let crowded =
            (0..sizes.len()).filter(|&index| counts[index] < sizes[index]).max_by(|&a, &b| {
                // Compared as fractions; the first of equals wins, hence the reversed index.
                (sizes[a] * counts[b], b).cmp(&(sizes[b] * counts[a], a))
            });
        if let Some(index) = crowded {
            counts[index] += 1;
        }
    }
    counts
}

fn chunk<T>(items: &[T], index: usize, parts: usize) -> &[T] {
    &items[items.len() * index / parts..items.len() * (index + 1) / parts]
}
