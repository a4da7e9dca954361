//! Who runs where: pure functions from a machine and wishes to a plan.
//!
//! One worker a NUMA node, one thread a physical core: a worker's memory is then all local, and
//! two threads never share a core's execution units. Nodes of the NIC come first. Where a
//! machine has four CPUs or fewer, a core left idle costs more than a shared one, so there every
//! hardware thread gets a thread.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cpu_set::CpuSet;
use crate::limits::Limits;
use crate::topology::{Core, Topology};

/// Up to so many CPUs, every hardware thread is used.
const CPUS_ALL_USED: usize = 4;

/// What is asked of the placement; the default leaves all to the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkersConfig {
    /// How many worker processes; none: one a node.
    pub count: Option<u16>,
    /// How many threads each has; none: one a physical core.
    pub threads: Option<u16>,
    /// Which nodes they may be on.
    pub numa: Numa,
    /// Just these CPUs, every hardware thread of them, isolated and slow ones too.
    pub cpus: Option<CpuSet>,
    /// Memory that each thread takes before any connection; 0: not known.
    pub thread_bytes: u64,
}

/// Which NUMA nodes workers may be on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Numa {
    /// Those that the NIC is attached to; all, where that is not known.
    #[default]
    NicLocal,
    /// All, those of the NIC first.
    All,
    /// Just these.
    Nodes(Vec<u32>),
}

/// Where a NIC is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicPlace {
    /// The device's `numa_node`, unless it says -1.
    pub node: Option<u32>,
    /// The device's `local_cpulist`.
    pub local_cpus: Option<CpuSet>,
}

/// One worker process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPlan {
    /// The node to take memory from; none where the machine has no nodes, or it spans several.
    pub node: Option<u32>,
    /// The CPU of each of its threads. One is named twice only where more threads were asked
    /// for than there are CPUs.
    pub cpus: Vec<u32>,
}

/// Wishes that this machine cannot fulfil.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// No CPU is left after affinity, cpuset, offline and isolated ones are taken out.
    NoUsableCpu,
    /// CPUs asked for by number that do not exist, are offline, or not allowed to this process.
    CpusNotPermitted(CpuSet),
    /// A node asked for that has no usable CPU.
    NodeWithoutCpu(u32),
    /// Zero workers or threads.
    Zero(&'static str),
}

/// Places the workers. `nics` are the devices that requests come in by, the main one first.
///
/// # Errors
/// Where the machine cannot give what was asked for by number.
pub fn workers(
    topology: &Topology,
    config: &WorkersConfig,
    nics: &[NicPlace],
) -> Result<Vec<WorkerPlan>, PlanError> {
    if config.count == Some(0) {
        return Err(PlanError::Zero("count"));
    }
    if config.threads == Some(0) {
        return Err(PlanError::Zero("threads"));
    }
    let mut groups = match &config.cpus {
        Some(cpus) => explicit(topology, cpus)?,
        None => by_node(usable_cores(topology, config, nics)?, nics),
    };
    if config.cpus.is_none() && config.threads.is_none() {
        groups = within(groups, threads_granted(topology.limits(), config.thread_bytes));
    }
    let shares = match config.count {
        Some(count) => share_out(&groups, usize::from(count)),
        None => groups,
    };
    let threads = config.threads.map(usize::from);
    Ok(shares.iter().map(|share| share.worker(threads)).collect())
}

/// All CPUs that threads of a plan run on.
pub fn cpus(workers: &[WorkerPlan]) -> CpuSet {
    workers.iter().flat_map(|worker| worker.cpus.iter().copied()).collect()
}

/// Cores that go to one worker, or are to be shared out: each with its usable hardware threads.
#[derive(Clone, Debug, Default)]
struct Group {
    nodes: Vec<Option<u32>>,
    cores: Vec<Vec<u32>>,
    /// Whether a thread for every hardware thread is wanted unasked.
    every_cpu: bool,
}

impl Group {
    /// The CPUs in the order in which threads take them: one of each core, then the siblings.
    fn seats(&self) -> Vec<u32> {
        let deepest = self.cores.iter().map(Vec::len).max().unwrap_or(0);
        let level = |depth| self.cores.iter().filter_map(move |core| core.get(depth).copied());
        (0..deepest).flat_map(level).collect()
    }

    fn worker(&self, threads: Option<usize>) -> WorkerPlan {
        let seats = self.seats();
        let unasked = if self.every_cpu { seats.len() } else { self.cores.len() };
        let cpus = seats.iter().copied().cycle().take(threads.unwrap_or(unasked)).collect();
        let node = match self.nodes.as_slice() {
            [node] => *node,
            _ => None,
        };
        WorkerPlan { node, cpus }
    }
}

/// The cores that may be used unasked, cut down to their usable hardware threads.
fn usable_cores(
    topology: &Topology,
    config: &WorkersConfig,
    nics: &[NicPlace],
) -> Result<Vec<Core>, PlanError> {
    let usable = topology.usable_cpus();
    let mut cores = restrict(topology.cores(), &usable);
    if cores.iter().any(|core| !core.slow) {
        cores.retain(|core| !core.slow);
    }
    match &config.numa {
        Numa::All => {}
        Numa::NicLocal => {
            let local = near_nics(&cores, nics);
            if !local.is_empty() {
                cores = local;
            }
        }
        Numa::Nodes(nodes) => {
            for node in nodes {
                if !cores.iter().any(|core| core.node == Some(*node)) {
                    return Err(PlanError::NodeWithoutCpu(*node));
                }
            }
            cores.retain(|core| core.node.is_some_and(|node| nodes.contains(&node)));
        }
    }
    if cores.is_empty() { Err(PlanError::NoUsableCpu) } else { Ok(cores) }
}

fn restrict(cores: &[Core], to: &CpuSet) -> Vec<Core> {
    let cut = |core: &Core| {
        let cpus: Vec<u32> = core.cpus.iter().copied().filter(|&cpu| to.contains(cpu)).collect();
        Core { cpus, ..core.clone() }
    };
    cores.iter().map(cut).filter(|core| !core.cpus.is_empty()).collect()
}

/// The cores on the nodes of the NICs; by `local_cpus` where a NIC does not name its node.
fn near_nics(cores: &[Core], nics: &[NicPlace]) -> Vec<Core> {
    let near = |core: &Core, nic: &NicPlace| match (nic.node, &nic.local_cpus) {
        (Some(node), _) => core.node == Some(node),
        (None, Some(local)) => core.cpus.iter().any(|&cpu| local.contains(cpu)),
        (None, None) => true,
    };
    cores.iter().filter(|core| nics.iter().any(|nic| near(core, nic))).cloned().collect()
}

/// One group a node: the NICs' nodes in their order, then the others by number.
fn by_node(mut cores: Vec<Core>, nics: &[NicPlace]) -> Vec<Group> {
    let every_cpu = cores.iter().map(|core| core.cpus.len()).sum::<usize>() <= CPUS_ALL_USED;
    let rank = |node: Option<u32>| {
        let place = nics.iter().position(|nic| nic.node.is_some() && nic.node == node);
        (place.unwrap_or(nics.len()), node)
    };
    // Stable, so that within a node cores that share a cache stay neighbours.
    cores.sort_by_key(|core| (rank(core.node), core.cache));
    let mut groups: Vec<Group> = Vec::new();
    for core in cores {
        match groups.last_mut() {
            Some(group) if group.nodes == [core.node] => group.cores.push(core.cpus),
            _ => groups.push(Group { nodes: vec![core.node], cores: vec![core.cpus], every_cpu }),
        }
    }
    groups
}

/// The groups of CPUs asked for by number.
fn explicit(topology: &Topology, cpus: &CpuSet) -> Result<Vec<Group>, PlanError> {
    let permitted = topology.limits().permitted(&topology.cpus());
    let refused = cpus.difference(&permitted);
    if !refused.is_empty() {
        return Err(PlanError::CpusNotPermitted(refused));
    }
    if cpus.is_empty() {
        return Err(PlanError::NoUsableCpu);
    }
    let mut groups = by_node(restrict(topology.cores(), cpus), &[]);
    groups.iter_mut().for_each(|group| group.every_cpu = true);
    Ok(groups)
}

/// What part of the cgroup's memory threads may take for themselves: the rest is for connections,
/// bodies and whatever handlers keep.
const THREADS_MEMORY_SHARE: u64 = 2;

/// How many threads the cgroup has time and memory for: more would only be throttled in the
/// middle of a request, or killed.
fn threads_granted(limits: &Limits, thread_bytes: u64) -> Option<usize> {
    let by_time = limits.quota_cpus.map(|quota| quota.ceil() as usize);
    let by_memory = limits.memory_bytes.filter(|_| thread_bytes > 0);
    let by_memory = by_memory.map(|bytes| (bytes / THREADS_MEMORY_SHARE / thread_bytes) as usize);
    by_time.into_iter().chain(by_memory).min().map(|threads| threads.max(1))
}

/// Takes no more cores than so many.
fn within(groups: Vec<Group>, threads: Option<usize>) -> Vec<Group> {
    let Some(mut left) = threads else { return groups };
    let mut kept = Vec::new();
    for mut group in groups {
        group.cores.truncate(left);
        if group.every_cpu && group.cores.iter().map(Vec::len).sum::<usize>() > left {
            group.every_cpu = false;
        }
        let taken = if group.every_cpu { group.seats().len() } else { group.cores.len() };
        left -= taken.min(left);
        if !group.cores.is_empty() {
            kept.push(group);
        }
    }
    kept
}

/// Makes `count` shares of the groups: nodes are split where there are fewer than workers, and
/// joined where there are more.
fn share_out(groups: &[Group], count: usize) -> Vec<Group> {
    if count < groups.len() {
        return (0..count).map(|share| join(chunk(groups, share, count))).collect();
    }
    let per_group = |index: usize| count / groups.len() + usize::from(index < count % groups.len());
    groups.iter().enumerate().flat_map(|(index, group)| split(group, per_group(index))).collect()
}

fn join(groups: &[Group]) -> Group {
    Group {
        nodes: groups.iter().flat_map(|group| group.nodes.clone()).collect(),
        cores: groups.iter().flat_map(|group| group.cores.clone()).collect(),
        every_cpu: groups.iter().all(|group| group.every_cpu),
    }
}

/// Splits by cores; by hardware threads where that many cores there are not; and lets workers
/// take turns where there are not even that many CPUs.
fn split(group: &Group, parts: usize) -> Vec<Group> {
    let cores = match group.cores.len() >= parts {
        true => group.cores.clone(),
        false => group.seats().into_iter().map(|cpu| vec![cpu]).collect(),
    };
    let share = |index: usize| match cores.len() >= parts {
        true => chunk(&cores, index, parts).to_vec(),
        false => vec![cores[index % cores.len()].clone()],
    };
    (0..parts).map(|index| Group { cores: share(index), ..group.clone() }).collect()
}

/// The `index`th of `parts` nearly equal runs.
fn chunk<T>(items: &[T], index: usize, parts: usize) -> &[T] {
    &items[items.len() * index / parts..items.len() * (index + 1) / parts]
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::NoUsableCpu => write!(
                f,
                "no CPU is left for workers: all are offline, isolated, or not allowed to this \
                 process; name some with `workers.cpus`"
            ),
            PlanError::CpusNotPermitted(cpus) => write!(
                f,
                "workers.cpus: CPUs {cpus} do not exist, are offline, or are not allowed to this \
                 process"
            ),
            PlanError::NodeWithoutCpu(node) => {
                write!(f, "workers.numa: node {node} has no CPU that workers may use")
            }
            PlanError::Zero(key) => write!(f, "workers.{key}: must be at least 1, or \"auto\""),
        }
    }
}

impl std::error::Error for PlanError {}
