//! What NICs there are, what they can do, and which real devices stand behind a bond, a VLAN
//! or a bridge.

use ember_affinity::queues::NicShape;
use ember_affinity::{CpuSet, NicPlace};
use serde::{Deserialize, Serialize};

use crate::ethtool::Channels;
use crate::host::{Host, basename, exists, number};
use crate::irqs::{self, Device, QueueIrq, Role};

/// How deep devices may be stacked; the kernel's own limit is 8.
const STACK_DEPTH_MAX: usize = 8;

/// Which device a knob belongs to, so that it is found again or known to be gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId {
    /// The interface's name when it was looked at.
    pub name: String,
    /// Its number, which a renamed interface keeps.
    pub ifindex: u32,
    /// Its address on its bus (PCI), which outlives a reload of its driver.
    pub bus: Option<String>,
}

/// A network device as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nic {
    /// Which one.
    pub id: DeviceId,
    /// Its driver; none for purely virtual devices.
    pub driver: Option<String>,
    /// Where it is attached.
    pub place: NicPlace,
    /// Receive queues.
    pub rx_queues: Vec<u32>,
    /// Transmit queues.
    pub tx_queues: Vec<u32>,
    /// Channels, where the driver has a say.
    pub channels: Option<Channels>,
    /// The hash indirection table, where the driver has one.
    #[serde(skip)]
    pub rss_table: Option<Vec<u32>>,
    /// The interrupts of its queues.
    pub irqs: Vec<QueueIrq>,
}

/// A NIC that was named or chosen, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Resolved {
    /// The interface asked for.
    pub asked: String,
    /// The devices that do the work: itself, or all that lie under it.
    pub devices: Vec<String>,
    /// Whether only one of them works at a time.
    pub one_at_a_time: bool,
}

impl DeviceId {
    /// The device's present name.
    ///
    /// # Errors
    /// `NotFound` where it is gone, or another has taken its place.
    pub fn present_name(&self, host: &dyn Host) -> std::io::Result<String> {
        let facts = |name: &str| {
            let index = number(host, &format!("/sys/class/net/{name}/ifindex"));
            (index == Some(u64::from(self.ifindex)), self.bus == bus_address(host, name))
        };
        // By name first: a driver loaded again gives a new number, and two ports of one card may
        // share an address. Then by both, for an interface that was renamed.
        let (same_index, same_bus) = facts(&self.name);
        if same_bus && (same_index || self.bus.is_some()) {
            return Ok(self.name.clone());
        }
        let names = host.list("/sys/class/net")?;
        names.into_iter().find(|name| facts(name) == (true, true)).ok_or_else(|| {
            let why = format!("{} is gone", self.name);
            std::io::Error::new(std::io::ErrorKind::NotFound, why)
        })
    }
}

impl Nic {
    /// Looks at a device.
    ///
    /// # Errors
    /// `NotFound` where there is none of that name.
    pub fn look(host: &dyn Host, name: &str) -> std::io::Result<Nic> {
        let base = format!("/sys/class/net/{name}");
        let ifindex = host.read(&format!("{base}/ifindex"))?;
        let ifindex = ifindex.parse().map_err(|_| std::io::Error::other("no interface number"))?;
        let directory = host.real(&format!("{base}/device")).ok();
        let driver = host.real(&format!("{base}/device/driver")).ok();
        let device = Device { name, ifindex, directory: directory.as_deref() };
        let rss_table = host.rss_table(name).ok().filter(|table| !table.is_empty());
        Ok(Nic {
            id: DeviceId { name: name.to_string(), ifindex, bus: bus_address(host, name) },
            driver: driver.map(|path| basename(&path).to_string()),
            place: place(host, &base),
            rx_queues: queues(host, name, "rx-"),
            tx_queues: queues(host, name, "tx-"),
            channels: host.channels(name).ok(),
            rss_table,
            // A device without a place on a bus has no interrupts, whatever names say.
            irqs: match directory {
                Some(_) => irqs::queue_irqs(host, device),
                None => Vec::new(),
            },
        })
    }

    /// Whether it is hardware, or what a hypervisor passes for it.
    pub fn is_physical(&self) -> bool {
        self.driver.is_some()
    }

    /// What the queue plan goes by.
    pub fn shape(&self) -> NicShape {
        NicShape {
            place: self.place.clone(),
            rx_queues: self.rx_queues.len() as u32,
            tx_queues: self.tx_queues.len() as u32,
            rx_queues_max: self.channels.and_then(|channels| channels.most_queues()),
            rss_table: self.rss_table.is_some(),
            interrupts: self.irqs.iter().any(|irq| irq.role == Role::Rx),
            stands_in_for: None,
        }
    }
}

/// The CPUs on which packets of these NICs are handled, as far as that is settled: those that
/// RPS spreads over, else the one that a queue's interrupt is bound to. An interrupt that may go
/// to several CPUs goes wherever irqbalance or the kernel puts it next.
pub fn handling_cpus(host: &dyn Host, nics: &[Nic]) -> CpuSet {
    let mask = |path: &str| CpuSet::from_mask(&host.read(path).ok()?).ok();
    let mut cpus = CpuSet::new();
    for nic in nics {
        for &queue in &nic.rx_queues {
            let rps = format!("/sys/class/net/{}/queues/rx-{queue}/rps_cpus", nic.id.name);
            let rps = mask(&rps).filter(|cpus| !cpus.is_empty());
            let irq = nic.irqs.iter().find(|irq| irq.role == Role::Rx && irq.queue == queue);
            let bound = || {
                let bound = mask(&format!("/proc/irq/{}/smp_affinity", irq?.irq))?;
                (bound.len() == 1).then_some(bound)
            };
            cpus = cpus.union(&rps.or_else(bound).unwrap_or_default());
        }
    }
    cpus
}

impl Channels {
    /// The most queues of both directions; none where there is nothing to choose.
    pub(crate) fn most_queues(&self) -> Option<u32> {
        let separate = self.rx_max.min(self.tx_max);
        let most = if self.counts_combined() { self.combined_max } else { separate };
        (most > 1).then_some(most)
    }

    /// These channels with another number of queues, of the sort that the driver has now.
    pub(crate) fn with_queues(&self, count: u32) -> Channels {
        match self.counts_combined() {
            true => Channels { combined: count, rx: 0, tx: 0, ..*self },
            false => Channels { rx: count, tx: count, ..*self },
        }
    }

    fn counts_combined(&self) -> bool {
        self.combined_max > 0 && (self.combined > 0 || self.rx_max == 0)
    }
}

/// Follows an interface down to every device that lies under it: all slaves of a bond, the
/// device of a VLAN, all ports of a bridge.
///
/// # Errors
/// `NotFound` where there is no such interface.
pub fn resolve(host: &dyn Host, name: &str) -> std::io::Result<Resolved> {
    host.read(&format!("/sys/class/net/{name}/ifindex"))?;
    let mut devices = Vec::new();
    descend(host, name, STACK_DEPTH_MAX, &mut devices);
    let one_at_a_time = active_backup(host, name, STACK_DEPTH_MAX);
    Ok(Resolved { asked: name.to_string(), devices, one_at_a_time })
}

/// Whether an interface is, or lies over, a bond that keeps all devices but one in reserve.
fn active_backup(host: &dyn Host, name: &str, depth: usize) -> bool {
    let mode = host.read(&format!("/sys/class/net/{name}/bonding/mode")).unwrap_or_default();
    let below = lower(host, name);
    let over_one = || below.iter().any(|below| active_backup(host, below, depth - 1));
    mode.starts_with("active-backup") || (depth > 0 && over_one())
}

fn lower(host: &dyn Host, name: &str) -> Vec<String> {
    let entries = host.list(&format!("/sys/class/net/{name}")).unwrap_or_default();
    entries.iter().filter_map(|entry| entry.strip_prefix("lower_")).map(str::to_string).collect()
}

fn descend(host: &dyn Host, name: &str, depth: usize, devices: &mut Vec<String>) {
    let lower = lower(host, name);
    if lower.is_empty() || depth == 0 {
        if !devices.iter().any(|device| device == name) {
            devices.push(name.to_string());
        }
        return;
    }
    lower.iter().for_each(|below| descend(host, below, depth - 1, devices));
}

/// The interfaces that requests most likely come in by: those of the default routes, else all
/// devices on a bus that are up. Loopback never.
pub fn automatic(host: &dyn Host) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if name != "lo" && !names.iter().any(|known| known == name) {
            names.push(name.to_string());
        }
    };
    // Iface Destination Gateway Flags RefCnt Use Metric Mask
    let routes = host.read("/proc/net/route").unwrap_or_default();
    for line in routes.lines().skip(1) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if fields.len() > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
            add(fields[0]);
        }
    }
    // destination, its prefix length, source, its prefix length, next hop, …, interface
    let routes = host.read("/proc/net/ipv6_route").unwrap_or_default();
    for line in routes.lines() {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default =
            fields.len() == 10 && fields[1] == "00" && fields[0].bytes().all(|b| b == b'0');
        if is_default {
            add(fields[9]);
        }
    }
    if names.is_empty() {
        for name in host.list("/sys/class/net").unwrap_or_default() {
            let base = format!("/sys/class/net/{name}");
            let up = host.read(&format!("{base}/operstate")).is_ok_and(|state| state == "up");
            if up && exists(host, &format!("{base}/device")) {
                names.push(name);
            }
        }
    }
    names
}

fn queues(host: &dyn Host, name: &str, prefix: &str) -> Vec<u32> {
    let entries = host.list(&format!("/sys/class/net/{name}/queues")).unwrap_or_default();
    let numbers = entries.iter().filter_map(|entry| entry.strip_prefix(prefix)?.parse().ok());
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers
}

/// The address of the device on its bus.
fn bus_address(host: &dyn Host, name: &str) -> Option<String> {
    let path = host.real(&format!("/sys/class/net/{name}/device")).ok()?;
    Some(basename(&path).to_string())
}

/// Where the device, or for virtio the PCI device above it, is attached.
fn place(host: &dyn Host, base: &str) -> NicPlace {
    for device in [format!("{base}/device"), format!("{base}/device/..")] {
        let Ok(node) = host.read(&format!("{device}/numa_node")) else { continue };
        let cpus = host.read(&format!("{device}/local_cpulist")).ok();
        let local_cpus: Option<CpuSet> = cpus.and_then(|list| list.parse().ok());
        return NicPlace {
            node: node.parse().ok(),
            local_cpus: local_cpus.filter(|cpus| !cpus.is_empty()),
        };
    }
    NicPlace::default()
}
