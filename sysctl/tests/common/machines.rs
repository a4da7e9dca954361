//! Machines that nobody here has, as trees of files.

use std::path::Path;

use ember_affinity::{CpuSet, Limits, Numa, Topology, WorkersConfig};
use ember_sysctl::Host;
use ember_sysctl::ethtool::{Channels, Feature, Rings};
use ember_sysctl::plan::{Input, Plan};
use ember_sysctl::qdisc::Qdiscs;
use ember_sysctl::wishes::Wishes;

use super::{Scratch, TreeHost};

pub const ALL: [&str; 16] = [
    "mlx5-two-nodes",
    "ice-smt",
    "ena-two-queues",
    "virtio-one-queue",
    "bond",
    "hybrid",
    "isolated",
    "epyc-eight-nodes",
    "two-nics",
    "names-only",
    "vlan-on-bridge",
    "mlx5-all-nodes",
    "mlx5-arfs",
    "ena-arfs-refused",
    "ice-own-values",
    "virtual-four-queues",
];

/// A machine with all that a plan is made from.
pub struct Machine {
    pub scratch: Scratch,
    pub host: TreeHost,
    pub topology: Topology,
    pub workers: WorkersConfig,
    pub wishes: Wishes,
}

impl Machine {
    pub fn input(&self) -> Input<'_> {
        Input { topology: &self.topology, workers: &self.workers, wishes: &self.wishes }
    }

    pub fn plan(&self) -> Plan {
        Plan::make(&self.host, self.input()).expect("plan")
    }

    pub fn state_directory(&self) -> std::path::PathBuf {
        self.scratch.0.join("state")
    }
}

/// How a NIC is made.
pub struct NicSpec<'a> {
    pub name: &'a str,
    pub driver: &'a str,
    /// Its PCI address.
    pub bus: &'a str,
    pub node: i32,
    pub queues: u32,
    /// None: the driver will not resize.
    pub max: Option<u32>,
    pub rss: bool,
    /// First interrupt and the actions' name, with {} for the queue.
    pub irqs: (u32, &'a str),
    /// Whether the interrupts are listed in the device's msi_irqs.
    pub msi: bool,
    /// What netdev-genl tells: nothing, queues, or their interrupts too.
    pub netdev: Option<&'a str>,
}

const PLAIN: NicSpec<'static> = NicSpec {
    name: "eth0",
    driver: "ice",
    bus: "0000:18:00.0",
    node: 0,
    queues: 8,
    max: None,
    rss: true,
    irqs: (100, "ice-eth0-TxRx-{}"),
    msi: true,
    netdev: Some("queues"),
};

/// Makes the machine in a scratch directory.
pub fn machine(name: &str) -> Machine {
    let scratch = Scratch::new(name);
    let root = scratch.0.join("root");
    std::fs::create_dir_all(&root).expect("root");
    open(name, scratch, &root, true)
}

/// Opens one that is there already, as a process does that was started on it.
pub fn reopen(name: &str, directory: &Path) -> Machine {
    let scratch = Scratch(directory.to_path_buf());
    open(name, scratch, &directory.join("root"), false)
}

fn open(name: &str, scratch: Scratch, root: &Path, make: bool) -> Machine {
    let host = TreeHost::new(root);
    let (description, isolated) = match name {
        "mlx5-two-nodes" | "mlx5-all-nodes" | "mlx5-arfs" | "two-nics" => {
            ("package:2 numa:1 l3:2 core:4 pu:2", "")
        }
        "ice-smt" | "ice-own-values" | "ena-two-queues" | "ena-arfs-refused" => {
            ("l3:2 core:4 pu:2", "")
        }
        "virtio-one-queue" | "virtual-four-queues" => ("core:4 pu:1", ""),
        "bond" | "names-only" | "vlan-on-bridge" => ("core:8 pu:1", ""),
        "isolated" => ("core:8 pu:1", "4-7"),
        "epyc-eight-nodes" => ("package:2 numa:4 l3:2 core:4 pu:2", ""),
        "hybrid" => ("hybrid", ""),
        other => panic!("no machine {other}"),
    };
    let topology = match description {
        "hybrid" => {
            let xml = include_str!("../../../affinity/tests/machines/hybrid.xml");
            Topology::from_xml(xml).expect("hybrid")
        }
        description => Topology::from_synthetic(description).expect(description),
    };
    let isolated: CpuSet = isolated.parse().expect("list");
    let topology = topology.with_limits(Limits { isolated, ..Limits::default() });
    let mut wishes = Wishes::default();
    let mut workers = WorkersConfig::default();
    if make {
        base(&host, &topology);
    }
    match name {
        "mlx5-all-nodes" => workers.numa = Numa::All,
        "mlx5-arfs" | "ena-arfs-refused" => wishes.set("arfs", "on").expect("arfs"),
        "ice-own-values" => own_values(&mut wishes),
        "bond" => wishes.nics = vec!["bond0".to_string()],
        "vlan-on-bridge" => wishes.nics = vec!["br0.7".to_string()],
        "two-nics" => wishes.nics = vec!["eth0".to_string(), "eth1".to_string()],
        _ => {}
    }
    if make {
        nics(&host, name);
        // As a host is that somebody has set up before: settings that revert has to bring back.
        let mask = host.mask(&[0, 1].into_iter().collect());
        host.put("/sys/class/net/eth0/queues/rx-0/rps_cpus", &mask);
        host.put("/sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "64");
    }
    Machine { scratch, host, topology, workers, wishes }
}

/// What is changed only where it is asked for, and values other than the plan's own.
fn own_values(wishes: &mut Wishes) {
    for (item, value) in [
        ("channels", "6"),
        ("ring-rx", "4096"),
        ("coalesce-adaptive-rx", "0"),
        ("coalesce-rx-usecs", "8"),
        ("busypoll-defer-hard-irqs", "2"),
        ("governor", "performance"),
        ("net.core.somaxconn", "8192"),
        ("eth0:irq-rx-3", "1,15"),
        ("eth0:irq-rx-6", "1"),
        ("eth0:rps-1", "4-7"),
        ("eth0:rfs-1", "1000"),
        ("eth0:xps-0", "none"),
        ("eth0:xps-2", "skip"),
    ] {
        wishes.set(item, value).expect(item);
    }
}

fn base(host: &TreeHost, topology: &Topology) {
    host.put("/sys/devices/system/cpu/online", &topology.cpus().to_string());
    host.put("/proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555");
    host.put("/proc/self/status", "Name:\temberd\nCapEff:\t000001ffffffffff");
    for (name, value) in [
        ("net/core/somaxconn", "4096"),
        ("net/core/netdev_max_backlog", "1000"),
        ("net/core/rps_sock_flow_entries", "0"),
        ("net/core/default_qdisc", "fq_codel"),
        ("net/ipv4/tcp_max_syn_backlog", "200000"),
        ("net/ipv4/tcp_tw_reuse", "2"),
        ("net/ipv4/tcp_fin_timeout", "60"),
    ] {
        host.put(&format!("/proc/sys/{name}"), value);
    }
    host.put(
        "/proc/net/route",
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
        eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0",
    );
    host.put("/sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines");
    host.put("/sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected");
    // A disk's interrupt, which no plan may name.
    host.make_irq(20, "nvme0q1", None);
}

fn nics(host: &TreeHost, name: &str) {
    let mlx5 = |name, bus, node, first, action| NicSpec {
        name,
        driver: "mlx5_core",
        bus,
        node,
        queues: 16,
        max: Some(63),
        irqs: (first, action),
        netdev: Some("irq"),
        ..PLAIN
    };
    let first = mlx5("eth0", "0000:3b:00.0", 1, 100, "mlx5_comp{}@pci:0000:3b:00.0");
    match name {
        "mlx5-two-nodes" | "mlx5-all-nodes" => {
            nic(host, 2, &first);
            host.put("/irqbalance", "9");
        }
        "mlx5-arfs" => {
            nic(host, 2, &first);
            steers_flows(host, "eth0");
        }
        "ice-smt" => nic(host, 2, &NicSpec { queues: 16, max: Some(16), ..PLAIN }),
        "ice-own-values" => {
            nic(host, 2, &NicSpec { queues: 16, max: Some(16), ..PLAIN });
            for cpu in 0..16 {
                let governor = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
                host.put(&governor, "schedutil");
            }
        }
        "ena-two-queues" | "ena-arfs-refused" => {
            let ena = NicSpec {
                driver: "ena",
                bus: "0000:00:05.0",
                node: -1,
                queues: 2,
                max: Some(2),
                irqs: (30, "eth0-Tx-Rx-{}"),
                netdev: None,
                ..PLAIN
            };
            nic(host, 2, &ena);
            host.put("/proc/sys/net/ipv4/tcp_max_syn_backlog", "4096");
            if name == "ena-arfs-refused" {
                steers_flows(host, "eth0");
            }
        }
        "virtual-four-queues" => virtual_nic(host),
        "virtio-one-queue" => virtio(host),
        "bond" => {
            let slave = |name, bus, first, action| NicSpec {
                name,
                bus,
                queues: 4,
                max: Some(8),
                irqs: (first, action),
                ..PLAIN
            };
            nic(host, 2, &slave("eth0", "0000:18:00.0", 100, "ice-eth0-TxRx-{}"));
            nic(host, 3, &slave("eth1", "0000:18:00.1", 200, "ice-eth1-TxRx-{}"));
            stacked(host, "bond0", 4, &["eth0", "eth1"]);
            host.put("/sys/class/net/bond0/bonding/mode", "802.3ad 4");
        }
        "vlan-on-bridge" => {
            nic(host, 2, &NicSpec { queues: 8, max: Some(8), ..PLAIN });
            stacked(host, "br0", 3, &["eth0"]);
            stacked(host, "br0.7", 4, &["br0"]);
        }
        "hybrid" | "epyc-eight-nodes" => {
            let node = if name == "hybrid" { 0 } else { 3 };
            nic(host, 2, &NicSpec { node, ..first });
        }
        "isolated" => {
            nic(host, 2, &NicSpec { queues: 8, max: None, ..PLAIN });
            let ingress = Some("clsact".to_string());
            host.put("/ethtool/eth0/qdiscs", &json(&Qdiscs { ingress, ..mq(&["fq"; 8]) }));
        }
        "two-nics" => {
            nic(host, 2, &NicSpec { node: 0, ..first });
            nic(host, 3, &mlx5("eth1", "0000:af:00.0", 1, 200, "mlx5_comp{}@pci:0000:af:00.0"));
            let shaped = Qdiscs { root: Some("htb".to_string()), ..Qdiscs::default() };
            host.put("/ethtool/eth1/qdiscs", &json(&shaped));
        }
        "names-only" => nic(
            host,
            2,
            &NicSpec {
                driver: "qede",
                queues: 4,
                max: Some(4),
                irqs: (50, "eth0-fp-{}"),
                msi: false,
                netdev: None,
                ..PLAIN
            },
        ),
        other => panic!("no machine {other}"),
    }
}

/// Makes a NIC with its queues, interrupts and settings.
pub fn nic(host: &TreeHost, ifindex: u32, spec: &NicSpec<'_>) {
    let NicSpec { name, driver, bus, queues, .. } = *spec;
    let base = format!("/sys/class/net/{name}");
    let device = format!("/sys/devices/pci0000:00/{bus}");
    host.put(&format!("{base}/ifindex"), &ifindex.to_string());
    host.put(&format!("{base}/operstate"), "up");
    host.put(&format!("{device}/numa_node"), &spec.node.to_string());
    host.put(&format!("/sys/bus/pci/drivers/{driver}/module"), "");
    host.link(&format!("{device}/driver"), &format!("/sys/bus/pci/drivers/{driver}"));
    host.link(&format!("{base}/device"), &device);
    for queue in 0..queues {
        host.make_queue(name, &format!("rx-{queue}"));
        host.make_queue(name, &format!("tx-{queue}"));
    }
    let (first, action) = spec.irqs;
    let msi = spec.msi.then_some(device.as_str());
    for queue in 0..queues {
        host.make_irq(first + queue, &action.replace("{}", &queue.to_string()), msi);
    }
    if spec.msi {
        host.make_irq(first + 90, &format!("{name}-async"), msi);
    }
    let settings = format!("/ethtool/{name}");
    let template = format!("{first} {action} {}", msi.unwrap_or_default());
    host.put(&format!("{settings}/irq-template"), template.trim());
    if let Some(netdev) = spec.netdev {
        host.put(&format!("{settings}/netdev"), netdev);
    }
    if let Some(max) = spec.max {
        let channels = Channels { combined: queues, combined_max: max, ..Channels::default() };
        host.put(&format!("{settings}/channels"), &json(&channels));
    }
    if spec.rss {
        let table: Vec<String> = (0..128).map(|entry| (entry % queues).to_string()).collect();
        host.put(&format!("{settings}/rss"), &table.join(" "));
    }
    features(host, name);
    host.put(&format!("{settings}/qdiscs"), &json(&mq(&vec!["fq_codel"; queues as usize])));
    host.put(
        &format!("{settings}/rings"),
        &json(&Rings { rx: 1024, tx: 1024, rx_max: 8192, tx_max: 8192 }),
    );
    host.put(&format!("{settings}/coalesce"), r#"{"adaptive-rx":1,"rx-usecs":50}"#);
}

/// A root of a class for each queue, and what these have.
fn mq(kinds: &[&str]) -> Qdiscs {
    let kinds = kinds.iter().map(|kind| kind.to_string());
    Qdiscs { root: Some("mq".to_string()), queues: (0..).zip(kinds).collect(), ingress: None }
}

/// A NIC that takes filters for flows, which are off.
fn steers_flows(host: &TreeHost, name: &str) {
    let mut features = host.features(name).expect("features");
    let name_of = "rx-ntuple-filter".to_string();
    features.push(Feature { name: name_of, on: false, changeable: true });
    host.put(&format!("/ethtool/{name}/features"), &json(&features));
}

/// As a veth: queues and channels, no bus, no interrupts.
fn virtual_nic(host: &TreeHost) {
    host.put("/sys/class/net/eth0/ifindex", "2");
    host.put("/sys/class/net/eth0/operstate", "up");
    for queue in 0..4 {
        host.make_queue("eth0", &format!("rx-{queue}"));
        host.make_queue("eth0", &format!("tx-{queue}"));
    }
    let channels = Channels { rx: 4, tx: 4, rx_max: 4, tx_max: 4, ..Channels::default() };
    host.put("/ethtool/eth0/channels", &json(&channels));
    let none = Qdiscs { root: Some("noqueue".to_string()), ..Qdiscs::default() };
    host.put("/ethtool/eth0/qdiscs", &json(&none));
    features(host, "eth0");
}

fn features(host: &TreeHost, name: &str) {
    let feature = |name: &str, on, changeable| Feature { name: name.to_string(), on, changeable };
    let features = [
        feature("rx-gro", true, true),
        feature("tx-tcp-segmentation", false, true),
        feature("tx-tcp6-segmentation", false, false),
        feature("tx-generic-segmentation", true, true),
    ];
    host.put(&format!("/ethtool/{name}/features"), &json(&features));
}

/// A virtio NIC: its own device has no interrupts, those are the PCI device's above it, and
/// receive and transmit have one each.
fn virtio(host: &TreeHost) {
    let pci = "/sys/devices/pci0000:00/0000:00:03.0";
    let device = format!("{pci}/virtio2");
    host.put("/sys/class/net/eth0/ifindex", "2");
    host.put("/sys/class/net/eth0/operstate", "up");
    host.put(&format!("{pci}/numa_node"), "-1");
    host.put(&format!("{pci}/local_cpulist"), "0-3");
    host.put(&format!("{device}/features"), "1");
    host.put("/sys/bus/virtio/drivers/virtio_net/module", "");
    host.link(&format!("{device}/driver"), "/sys/bus/virtio/drivers/virtio_net");
    host.link("/sys/class/net/eth0/device", &device);
    host.make_queue("eth0", "rx-0");
    host.put("/sys/class/net/eth0/queues/tx-0/tx_timeout", "0");
    host.make_irq(37, "virtio2-config", Some(pci));
    host.make_irq(38, "virtio2-input.0", Some(pci));
    host.make_irq(39, "virtio2-output.0", Some(pci));
    let one = Channels { combined: 1, combined_max: 1, ..Channels::default() };
    host.put("/ethtool/eth0/channels", &json(&one));
    let shared = Qdiscs { root: Some("fq_codel".to_string()), ..Qdiscs::default() };
    host.put("/ethtool/eth0/qdiscs", &json(&shared));
    features(host, "eth0");
}

fn stacked(host: &TreeHost, name: &str, ifindex: u32, lower: &[&str]) {
    let base = format!("/sys/class/net/{name}");
    host.put(&format!("{base}/ifindex"), &ifindex.to_string());
    for below in lower {
        host.link(&format!("{base}/lower_{below}"), &format!("/sys/class/net/{below}"));
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("json")
}
