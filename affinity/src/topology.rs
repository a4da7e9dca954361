//! What CPUs there are and which of them may be used, taken from hwloc and the kernel once.
//!
//! hwloc's own structure is dropped as soon as this plain one has been made of it: the
//! supervisor lives for months and needs the tree for milliseconds.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use hwlocality::Topology as Hwloc;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;

use crate::cpu_set::CpuSet;
use crate::limits::Limits;

/// A kind of core is left out when its speed is below this share of the fastest kind's. hwloc
/// also ranks kinds that differ by a few percent (favoured cores), and those all serve well.
const SPEED_CLEARLY_SLOWER: f64 = 0.8;

/// The CPUs of a machine, grouped, and what of them this process may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    cores: Vec<Core>,
    limits: Limits,
}

/// One physical core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Operating-system number of the NUMA node, where the machine has nodes.
    pub node: Option<u32>,
    /// Which last-level cache it shares with others: an index that means nothing else.
    pub cache: u32,
    /// Its hardware threads.
    pub cpus: Vec<u32>,
    /// Whether it is of a kind clearly slower than the machine's fastest.
    pub slow: bool,
}

/// Why there is no topology.
#[derive(Debug)]
pub enum TopologyError {
    /// hwloc could not look at this machine, or not make sense of the description.
    Hwloc(String),
    /// It found no CPU.
    NoCpu,
}

impl Topology {
    /// Looks at this machine.
    ///
    /// # Errors
    /// Where hwloc finds nothing to go by, as without /sys.
    pub fn detect() -> Result<Topology, TopologyError> {
        // The x86 component moves the calling thread over every CPU to ask CPUID what sysfs has
        // said already.
        let hwloc = Hwloc::builder().without_component("x86").map_err(hwloc_error)?;
        let hwloc = hwloc.build().map_err(hwloc_error)?;
        Topology::from_hwloc(&hwloc, Limits::read(Path::new("/")))
    }

    /// Makes the machine that an hwloc synthetic description tells of, all of it usable.
    ///
    /// # Errors
    /// For a description that hwloc refuses.
    pub fn from_synthetic(description: &str) -> Result<Topology, TopologyError> {
        let hwloc = Hwloc::builder().from_synthetic(description).map_err(hwloc_error)?;
        Topology::from_hwloc(&hwloc.build().map_err(hwloc_error)?, Limits::default())
    }

    /// Makes the machine that an hwloc XML export describes, all of it usable.
    ///
    /// # Errors
    /// For XML that hwloc refuses.
    pub fn from_xml(xml: &str) -> Result<Topology, TopologyError> {
        let hwloc = Hwloc::builder().from_xml(xml).map_err(hwloc_error)?;
        Topology::from_hwloc(&hwloc.build().map_err(hwloc_error)?, Limits::default())
    }

    /// The same machine with other limits.
    pub fn with_limits(mut self, limits: Limits) -> Topology {
        self.limits = limits;
        self
    }

    /// All physical cores, neighbours next to each other.
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// What this process may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Every CPU of the machine.
    pub fn cpus(&self) -> CpuSet {
        self.cores.iter().flat_map(|core| core.cpus.iter().copied()).collect()
    }

    /// The CPUs that may be used for workers without being asked for by number.
    pub fn usable_cpus(&self) -> CpuSet {
        self.limits.usable(&self.cpus())
    }

    /// The NUMA nodes, lowest first; none on a machine that has no nodes.
    pub fn nodes(&self) -> Vec<u32> {
        let mut nodes: Vec<u32> = self.cores.iter().filter_map(|core| core.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// The NUMA node of a CPU.
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        self.cores.iter().find(|core| core.cpus.contains(&cpu)).and_then(|core| core.node)
    }

    /// The cache group of a CPU.
    pub fn cache_of(&self, cpu: u32) -> Option<u32> {
        self.cores.iter().find(|core| core.cpus.contains(&cpu)).map(|core| core.cache)
    }

    fn from_hwloc(hwloc: &Hwloc, limits: Limits) -> Result<Topology, TopologyError> {
        let slow = slow_cpus(hwloc);
        let mut caches = BTreeMap::new();
        let mut by_core: BTreeMap<usize, Core> = BTreeMap::new();
        for unit in hwloc.objects_with_type(ObjectType::PU) {
            let Some(cpu) = unit.os_index().and_then(|index| u32::try_from(index).ok()) else {
                continue;
            };
            // Some virtual machines have no core level: there each CPU stands for a core.
            let core = unit.first_ancestor_with_type(ObjectType::Core).unwrap_or(unit);
            let core = by_core.entry(core.logical_index()).or_insert_with(|| {
                let next = caches.len() as u32;
                let cache = *caches.entry(cache_key(unit)).or_insert(next);
                Core { node: node_of(unit), cache, cpus: Vec::new(), slow: slow.contains(cpu) }
            });
            core.cpus.push(cpu);
        }
        if by_core.is_empty() {
            return Err(TopologyError::NoCpu);
        }
        Ok(Topology { cores: by_core.into_values().collect(), limits })
    }
}

/// The objects that stand for "shares a last-level cache on the same node": the outermost data
/// cache, or the package where caches are not known, with the node, since a cache may span two.
fn cache_key(unit: &TopologyObject) -> (Option<u32>, usize, bool) {
    let cache = unit.ancestors().filter(|object| object.object_type().is_cpu_data_cache()).last();
    let package = || unit.first_ancestor_with_type(ObjectType::Package);
    let index = cache.or_else(package).map_or(0, TopologyObject::logical_index);
    (node_of(unit), index, cache.is_some())
}

fn node_of(unit: &TopologyObject) -> Option<u32> {
    let nodes = unit.nodeset()?;
    nodes.first_set().and_then(|node| u32::try_from(usize::from(node)).ok())
}

/// The CPUs of kinds clearly slower than the fastest.
fn slow_cpus(hwloc: &Hwloc) -> CpuSet {
    let Ok(kinds) = hwloc.cpu_kinds() else { return CpuSet::new() };
    let kinds: Vec<Kind> = kinds
        .map(|kind| {
            let info = |name: &str| {
                let entry =
                    kind.infos.iter().find(|info| info.name().to_bytes() == name.as_bytes());
                entry.map(|info| info.value().to_string_lossy().into_owned())
            };
            Kind {
                cpus: kind.cpuset.iter_set().map(|index| usize::from(index) as u32).collect(),
                core_type: info("CoreType"),
                speed: info("LinuxCapacity")
                    .or_else(|| info("FrequencyMaxMHz"))
                    .and_then(|speed| speed.parse().ok()),
            }
        })
        .collect();
    // hwloc lists kinds from the weakest to the strongest.
    let Some(fastest) = kinds.last() else { return CpuSet::new() };
    kinds
        .iter()
        .filter(|kind| kind.clearly_slower_than(fastest))
        .flat_map(|k| k.cpus.iter())
        .collect()
}

struct Kind {
    cpus: CpuSet,
    core_type: Option<String>,
    speed: Option<f64>,
}

impl Kind {
    fn clearly_slower_than(&self, fastest: &Kind) -> bool {
        match (&self.core_type, &fastest.core_type) {
            (Some(ours), Some(theirs)) if ours != theirs => return true,
            _ => {}
        }
        match (self.speed, fastest.speed) {
            (Some(ours), Some(theirs)) => ours < theirs * SPEED_CLEARLY_SLOWER,
            _ => false,
        }
    }
}

fn hwloc_error(error: impl fmt::Display) -> TopologyError {
    TopologyError::Hwloc(error.to_string())
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TopologyError::Hwloc(error) => write!(f, "hwloc cannot tell this machine: {error}"),
            TopologyError::NoCpu => write!(f, "hwloc found no CPU in this machine"),
        }
    }
}

impl std::error::Error for TopologyError {}
