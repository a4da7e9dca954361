//! Placement on machines that nobody here has: hwloc's synthetic and XML descriptions of them.

use ember_affinity::plan::{self, PlanError};
use ember_affinity::{CpuSet, Limits, NicPlace, Numa, Topology, WorkersConfig};

/// Four fast cores of two threads and eight efficient ones in two clusters, on one node. Written
/// as hwloc itself writes XML: where libxml2 is not there, it reads no other.
const HYBRID: &str = include_str!("machines/hybrid.xml");

/// Two sockets, one node each, eight cores of two threads in two caches. hwloc numbers synthetic
/// CPUs core by core.
const TWO_NODES: &str = "package:2 numa:1 l3:2 core:4 pu:2";
/// An EPYC in NPS4 on two sockets: eight nodes of two caches of four cores.
const EIGHT_NODES: &str = "package:2 numa:4 l3:2 core:4 pu:2";

fn machine(description: &str) -> Topology {
    Topology::from_synthetic(description).expect(description)
}

fn list(text: &str) -> CpuSet {
    text.parse().expect(text)
}

/// "node:cpus" of each worker, for comparing at a glance.
fn placed(topology: &Topology, config: &WorkersConfig, nics: &[NicPlace]) -> Vec<String> {
    let workers = plan::workers(topology, config, nics).expect("plan");
    let text = |worker: &ember_affinity::WorkerPlan| {
        let node = worker.node.map_or("-".to_string(), |node| node.to_string());
        let cpus: Vec<String> = worker.cpus.iter().map(u32::to_string).collect();
        format!("{node}:{}", cpus.join(","))
    };
    workers.iter().map(text).collect()
}

fn on_node(node: u32) -> NicPlace {
    NicPlace { node: Some(node), local_cpus: None }
}

#[test]
fn a_small_machine_uses_every_hardware_thread() {
    let auto = WorkersConfig::default();
    assert_eq!(placed(&machine("core:2 pu:1"), &auto, &[]), ["0:0,1"]);
    // One thread of each core first, so that `--threads 2` takes two cores.
    assert_eq!(placed(&machine("core:2 pu:2"), &auto, &[]), ["0:0,2,1,3"]);
    assert_eq!(placed(&machine("pu:1"), &auto, &[]), ["0:0"]);
}

#[test]
fn a_larger_one_gets_a_thread_a_physical_core() {
    let auto = WorkersConfig::default();
    assert_eq!(placed(&machine("core:4 pu:2"), &auto, &[]), ["0:0,2,4,6"]);
    assert_eq!(
        placed(&machine(TWO_NODES), &auto, &[]),
        ["0:0,2,4,6,8,10,12,14", "1:16,18,20,22,24,26,28,30"]
    );
    assert_eq!(placed(&machine(EIGHT_NODES), &auto, &[]).len(), 8);
}

#[test]
fn workers_stay_on_the_nodes_of_the_nics_unless_told_otherwise() {
    let topology = machine(TWO_NODES);
    let auto = WorkersConfig::default();
    assert_eq!(placed(&topology, &auto, &[on_node(1)]), ["1:16,18,20,22,24,26,28,30"]);
    let all = WorkersConfig { numa: Numa::All, ..auto.clone() };
    assert_eq!(
        placed(&topology, &all, &[on_node(1)]),
        ["1:16,18,20,22,24,26,28,30", "0:0,2,4,6,8,10,12,14"],
        "the NIC's node comes first"
    );
    assert_eq!(placed(&topology, &auto, &[on_node(1), on_node(0)]).len(), 2);
    let by_cpus = NicPlace { node: None, local_cpus: Some(list("0-7")) };
    assert_eq!(placed(&topology, &auto, &[by_cpus]), ["0:0,2,4,6"]);
    let unknown = NicPlace { node: None, local_cpus: None };
    assert_eq!(placed(&topology, &auto, &[unknown]).len(), 2);
    let one = WorkersConfig { numa: Numa::Nodes(vec![0]), ..auto.clone() };
    assert_eq!(placed(&topology, &one, &[on_node(1)]), ["0:0,2,4,6,8,10,12,14"]);
    let none = WorkersConfig { numa: Numa::Nodes(vec![7]), ..auto };
    assert_eq!(plan::workers(&topology, &none, &[]), Err(PlanError::NodeWithoutCpu(7)));
}

#[test]
fn counts_and_threads_split_and_join_nodes() {
    let topology = machine(TWO_NODES);
    let config = |count, threads| WorkersConfig { count, threads, ..WorkersConfig::default() };
    assert_eq!(placed(&topology, &config(None, Some(2)), &[]), ["0:0,2", "1:16,18"]);
    assert_eq!(
        placed(&topology, &config(Some(4), Some(1)), &[]),
        ["0:0", "0:8", "1:16", "1:24"],
        "two workers on one node take a cache each"
    );
    assert_eq!(
        placed(&topology, &config(Some(1), None), &[]),
        ["-:0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30"]
    );
    assert_eq!(placed(&topology, &config(Some(3), Some(1)), &[]), ["0:0", "0:8", "1:16"]);
    // Siblings are taken only when the cores have run out, and twice only after those.
    let small = machine("core:2 pu:2");
    assert_eq!(placed(&small, &config(None, Some(6)), &[]), ["0:0,2,1,3,0,2"]);
    assert_eq!(placed(&small, &config(Some(2), Some(1)), &[]), ["0:0", "0:2"]);
    assert_eq!(placed(&small, &config(Some(4), None), &[]), ["0:0", "0:2", "0:1", "0:3"]);
    assert_eq!(placed(&machine("pu:1"), &config(Some(2), Some(2)), &[]), ["0:0,0", "0:0,0"]);
    for zero in [config(Some(0), None), config(None, Some(0))] {
        assert!(matches!(plan::workers(&small, &zero, &[]), Err(PlanError::Zero(_))));
    }
}

#[test]
fn cpus_asked_for_by_number_are_used_all() {
    let limits = Limits {
        allowed: Some(list("0-27")),
        online: Some(list("0-31")),
        isolated: list("2-3"),
        ..Limits::default()
    };
    let topology = machine(TWO_NODES).with_limits(limits);
    let config = |cpus| WorkersConfig { cpus: Some(list(cpus)), ..WorkersConfig::default() };
    assert_eq!(placed(&topology, &config("0-3,17"), &[on_node(1)]), ["0:0,2,1,3", "1:17"]);
    assert_eq!(
        plan::workers(&topology, &config("26-40"), &[]),
        Err(PlanError::CpusNotPermitted(list("28-40")))
    );
    assert_eq!(plan::workers(&topology, &config(""), &[]), Err(PlanError::NoUsableCpu));
}

#[test]
fn isolated_offline_and_forbidden_cpus_are_left_out() {
    let limits = Limits {
        allowed: Some(list("0-23")),
        online: Some(list("0-19,22-31")),
        isolated: list("0-3"),
        ..Limits::default()
    };
    let topology = machine(TWO_NODES).with_limits(limits.clone());
    assert_eq!(
        placed(&topology, &WorkersConfig::default(), &[]),
        ["0:4,6,8,10,12,14", "1:16,18,22"]
    );
    let limits = Limits { allowed: Some(list("0-3")), ..limits };
    let topology = machine(TWO_NODES).with_limits(limits);
    let refused = plan::workers(&topology, &WorkersConfig::default(), &[]);
    assert_eq!(refused, Err(PlanError::NoUsableCpu));
}

#[test]
fn a_cpu_quota_limits_the_threads() {
    let quota = |cpus| Limits { quota_cpus: Some(cpus), ..Limits::default() };
    let auto = WorkersConfig::default();
    let topology = machine(TWO_NODES).with_limits(quota(2.5));
    assert_eq!(placed(&topology, &auto, &[]), ["0:0,2,4"]);
    let topology = machine(TWO_NODES).with_limits(quota(9.0));
    assert_eq!(placed(&topology, &auto, &[]), ["0:0,2,4,6,8,10,12,14", "1:16"]);
    let topology = machine("core:2 pu:2").with_limits(quota(0.5));
    assert_eq!(placed(&topology, &auto, &[]), ["0:0"]);
    let asked = WorkersConfig { threads: Some(4), ..auto };
    assert_eq!(placed(&topology, &asked, &[]), ["0:0,2,1,3"]);
}

#[test]
fn a_memory_limit_limits_the_threads() {
    let config = WorkersConfig { thread_bytes: 8 << 20, ..WorkersConfig::default() };
    let placed_within = |bytes: u64, quota_cpus| {
        let limits = Limits { memory_bytes: Some(bytes), quota_cpus, ..Limits::default() };
        placed(&machine(TWO_NODES).with_limits(limits), &config, &[])
    };
    assert_eq!(placed_within(64 << 20, None), ["0:0,2,4,6"]);
    assert_eq!(placed_within(64 << 20, Some(1.5)), ["0:0,2"], "the tighter one counts");
    assert_eq!(placed_within(1 << 20, None), ["0:0"], "one there always is");
    let all = ["0:0,2,4,6,8,10,12,14", "1:16,18,20,22,24,26,28,30"];
    assert_eq!(placed_within(1 << 40, None), all);
}

#[test]
fn clusters_clearly_slower_than_the_fastest_are_left_out() {
    let topology = Topology::from_xml(HYBRID).expect("hybrid machine");
    let slow: CpuSet =
        topology.cores().iter().filter(|core| core.slow).flat_map(|c| c.cpus.clone()).collect();
    assert_eq!(slow.to_string(), "8-15");
    assert_eq!(placed(&topology, &WorkersConfig::default(), &[]), ["0:0,2,4,6"]);
    // Unless the slow ones are all that this process may use.
    let limits = Limits { allowed: Some(list("8-12")), ..Limits::default() };
    let topology = topology.with_limits(limits);
    assert_eq!(placed(&topology, &WorkersConfig::default(), &[]), ["0:8,9,10,11,12"]);
}

#[test]
fn this_machine_can_be_placed_on() {
    let topology = Topology::detect().expect("this machine");
    let workers = plan::workers(&topology, &WorkersConfig::default(), &[]).expect("plan");
    let cpus = plan::cpus(&workers);
    assert!(!cpus.is_empty());
    assert!(cpus.is_subset(&topology.usable_cpus()), "{cpus} of {}", topology.usable_cpus());
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("sysfs");
    assert!(topology.cpus().is_subset(&list(&online)));
}

#[test]
fn nonsense_is_refused() {
    assert!(Topology::from_synthetic("dragons:3").is_err());
    assert!(Topology::from_xml("<topology").is_err());
}
