//! The tuner on a real kernel: a pair of four-queue veth devices in a network namespace of its
//! own, with sysfs mounted afresh in a private mount namespace, so that nothing of the machine's
//! own network can be named, let alone written. What veth lacks (interrupts, rings, a hash table
//! that can be cut) is tested on trees of files in lifecycle.rs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use ember_affinity::{Topology, WorkersConfig};
use ember_sysctl::apply::{self, Options, Verdict};
use ember_sysctl::host::{Host, Live};
use ember_sysctl::knobs::Group;
use ember_sysctl::netdev::NapiField;
use ember_sysctl::plan::{Action, Input, Plan};
use ember_sysctl::wishes::{ChannelsWish, Wishes};
use ember_sysctl::{render, revert, status};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Set for the process that is to enter the namespaces and do the work.
const INSIDE: &str = "EMBER_NAMESPACE_SCENE";
const NIC: &str = "emberveth0";
const PEER: &str = "emberveth1";

#[test]
fn a_veth_is_tuned_and_taken_back() {
    run_inside("a_veth_is_tuned_and_taken_back", tune_and_take_back);
}

#[test]
fn fewer_queues_than_workers_are_spread_by_software() {
    run_inside("fewer_queues_than_workers_are_spread_by_software", spread_by_software);
}

#[test]
fn busy_polling_is_set_by_netlink_and_taken_back() {
    run_inside("busy_polling_is_set_by_netlink_and_taken_back", busy_poll);
}

#[test]
fn the_discipline_of_each_transmit_queue_is_read() {
    run_inside("the_discipline_of_each_transmit_queue_is_read", disciplines);
}

#[test]
fn a_bridge_resolves_to_its_ports() {
    run_inside("a_bridge_resolves_to_its_ports", bridge);
}

/// Runs a scene in a process of its own, which the namespaces are for.
fn run_inside(test: &str, scene: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        match enter() {
            Ok(()) => scene(),
            Err(why) => println!("skipped: {why}"),
        }
        return;
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("child");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn enter() -> Result<(), String> {
    let failed = |what: &'static str| move |error| format!("{what}: {error}");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(failed("unshare"))?;
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(failed("private mounts"))?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).map_err(failed("sysfs"))?;
    // The queues' files belong to the namespace; the interrupts' do not, and are the machine's.
    mount(Some("none"), "/proc/irq", Some("tmpfs"), MsFlags::empty(), none)
        .map_err(failed("hide interrupts"))?;
    let nics = fs::read_dir("/sys/class/net").map_err(|error| format!("sysfs: {error}"))?;
    let nics: Vec<_> =
        nics.flatten().map(|nic| nic.file_name()).filter(|nic| nic != "lo").collect();
    assert!(nics.iter().all(|nic| nic == "bonding_masters"), "not alone: {nics:?}");
    Ok(())
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().expect("ip of iproute2");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn make_veth(queues: u32) {
    let each = format!("numrxqueues {queues} numtxqueues {queues}");
    ip(&format!("link add {NIC} {each} type veth peer name {PEER} {each}"));
    for nic in [NIC, PEER] {
        ip(&format!("link set {nic} up"));
    }
}

fn workers(threads: u16) -> WorkersConfig {
    WorkersConfig { threads: Some(threads), ..WorkersConfig::default() }
}

/// Everything that the tuner could change here.
fn state(host: &Live) -> BTreeMap<String, String> {
    let mut paths: Vec<String> = Vec::new();
    let mut state = BTreeMap::new();
    for name in ["core/somaxconn", "ipv4/tcp_max_syn_backlog", "ipv4/tcp_tw_reuse"] {
        paths.push(format!("/proc/sys/net/{name}"));
    }
    paths.push("/proc/sys/net/ipv4/tcp_fin_timeout".to_string());
    for nic in [NIC, PEER] {
        let queues = format!("/sys/class/net/{nic}/queues");
        for queue in host.list(&queues).expect("queues") {
            for file in ["rps_cpus", "rps_flow_cnt", "xps_cpus"] {
                paths.push(format!("{queues}/{queue}/{file}"));
            }
        }
        state.insert(format!("{nic} channels"), format!("{:?}", host.channels(nic)));
        state.insert(format!("{nic} features"), format!("{:?}", host.features(nic)));
    }
    for path in paths.into_iter().filter(|path| Path::new(path).exists()) {
        let value = fs::read_to_string(&path).unwrap_or_else(|error| error.to_string());
        state.insert(path, value);
    }
    state
}

fn print_state(when: &str, state: &BTreeMap<String, String>) {
    println!("--- {when}");
    for (what, value) in state.iter().filter(|(what, _)| !what.ends_with("features")) {
        println!("{what}: {}", value.trim());
    }
}

fn tune_and_take_back() {
    make_veth(4);
    let host = Live::open().expect("host");
    // Settings that an operator had: they have to come back, those of queues that go as well.
    fs::write(format!("/sys/class/net/{NIC}/queues/rx-3/rps_cpus"), "1").expect("rps");
    fs::write(format!("/sys/class/net/{NIC}/queues/tx-1/xps_cpus"), "1").expect("xps");
    host.set_feature(NIC, "rx-gro", false).expect("feature");
    let topology = Topology::detect().expect("topology");
    let workers = workers(2);
    let wishes = Wishes { nics: vec![NIC.to_string()], ..Wishes::default() };
    let input = Input { topology: &topology, workers: &workers, wishes: &wishes };
    let scratch = std::env::temp_dir().join(format!("ember-namespace-{}", std::process::id()));
    let before = state(&host);
    print_state("before", &before);

    let plan = Plan::make(&host, input).expect("plan");
    println!("--- plan\n{}", render::human(&plan));
    assert!(plan.nics[0].nic.irqs.is_empty());
    let skipped =
        |key: &str| plan.knobs.iter().any(|k| k.key == key && matches!(k.action, Action::Skip(_)));
    // Host-wide, and so not in this namespace.
    assert!(skipped("net.core.netdev_max_backlog"));
    let code = status::status(&host, &scratch, input).expect("status").code();
    assert_eq!(code, status::DRIFT);

    let applied = apply::apply(&host, &scratch, input, Options::default()).expect("apply");
    for done in &applied.done {
        assert_eq!(done.verdict, Verdict::Applied, "{done:?}");
    }
    let changed = |group| applied.done.iter().any(|done| done.group == group);
    for group in [Group::Channels, Group::Features, Group::Xps, Group::Sysctl] {
        assert!(changed(group), "{group:?} in {applied:?}");
    }
    print_state("after apply", &state(&host));
    assert_eq!(host.channels(NIC).map(|now| (now.rx, now.tx)).expect("channels"), (2, 2));
    assert_eq!(host.read("/proc/sys/net/core/somaxconn").expect("sysctl"), "65535");
    assert_eq!(Plan::make(&host, input).expect("plan").changes().count(), 0);
    let now = status::status(&host, &scratch, input).expect("status");
    assert_eq!(now.code(), status::IN_SYNC, "{:?}", now.drifted().collect::<Vec<_>>());

    // A link reset by someone else is drift.
    fs::write(format!("/sys/class/net/{NIC}/queues/tx-0/xps_cpus"), "0").expect("xps");
    assert_eq!(status::status(&host, &scratch, input).expect("status").code(), status::DRIFT);
    apply::apply(&host, &scratch, input, Options::default()).expect("apply again");
    assert_eq!(status::status(&host, &scratch, input).expect("status").code(), status::IN_SYNC);

    let taken = revert::revert(&host, &scratch).expect("revert");
    for taken in &taken {
        let well = matches!(taken.verdict, revert::Verdict::Restored | revert::Verdict::Already);
        assert!(well, "{taken:?}");
    }
    let after = state(&host);
    print_state("after revert", &after);
    assert_eq!(after, before);
    assert_eq!(revert::revert(&host, &scratch).expect("revert again"), []);
    fs::remove_dir_all(scratch).expect("remove");
}

fn spread_by_software() {
    let topology = Topology::detect().expect("topology");
    if topology.usable_cpus().len() < 2 {
        println!("skipped: one CPU only");
        return;
    }
    make_veth(2);
    let host = Live::open().expect("host");
    ip(&format!("link set {NIC} down"));
    let one = host.channels(NIC).map(|now| ember_sysctl::ethtool::Channels { rx: 1, ..now });
    host.set_channels(NIC, &one.expect("channels")).expect("one receive queue");
    ip(&format!("link set {NIC} up"));
    let workers = workers(2);
    let wishes =
        Wishes { nics: vec![NIC.to_string()], channels: ChannelsWish::Keep, ..Wishes::default() };
    let input = Input { topology: &topology, workers: &workers, wishes: &wishes };
    let scratch = std::env::temp_dir().join(format!("ember-spread-{}", std::process::id()));
    let before = state(&host);
    let applied = apply::apply(&host, &scratch, input, Options::default()).expect("apply");
    let rps = fs::read_to_string(format!("/sys/class/net/{NIC}/queues/rx-0/rps_cpus"));
    println!("rps_cpus: {}", rps.expect("rps").trim());
    let done = |key: &str| applied.done.iter().find(|done| done.key == key).expect(key);
    assert_eq!(done(&format!("{NIC}:rps-0")).verdict, Verdict::Applied);
    assert_eq!(done(&format!("{NIC}:rfs-0")).verdict, Verdict::Applied);
    let now = status::status(&host, &scratch, input).expect("status");
    assert_eq!(now.code(), status::IN_SYNC, "{:?}", now.drifted().collect::<Vec<_>>());
    revert::revert(&host, &scratch).expect("revert");
    assert_eq!(state(&host), before);
    fs::remove_dir_all(scratch).expect("remove");
}

/// A veth with GRO has NAPI instances, which the kernel's netdev family tells of and sets.
fn busy_poll() {
    make_veth(2);
    let host = Live::open().expect("host");
    host.set_feature(NIC, "rx-gro", true).expect("feature");
    let ifindex = host.read(&format!("/sys/class/net/{NIC}/ifindex")).expect("ifindex");
    let napis = host.napis(ifindex.parse().expect("number"));
    let Some(napi) = napis.ok().and_then(|napis| napis.into_iter().next()) else {
        println!("skipped: this kernel tells of no NAPI instance of a veth");
        return;
    };
    if let Err(error) = host.napi_setting(napi.id, NapiField::DeferHardIrqs) {
        println!("skipped: {error}");
        return;
    }
    let topology = Topology::detect().expect("topology");
    let mut wishes = Wishes { nics: vec![NIC.to_string()], ..Wishes::default() };
    wishes.only = vec!["busypoll".to_string()];
    for (item, value) in [("defer-hard-irqs", "2"), ("gro-flush-timeout-ns", "200000")] {
        wishes.set(&format!("busypoll-{item}"), value).expect("wish");
    }
    let workers = workers(1);
    let input = Input { topology: &topology, workers: &workers, wishes: &wishes };
    let scratch = std::env::temp_dir().join(format!("ember-busypoll-{}", std::process::id()));
    let setting = |field| host.napi_setting(napi.id, field).expect("setting");
    let before = (setting(NapiField::DeferHardIrqs), setting(NapiField::GroFlushTimeoutNs));
    let applied = apply::apply(&host, &scratch, input, Options::default()).expect("apply");
    println!("{:#?}", applied.done);
    assert!(applied.done.iter().all(|done| done.verdict == Verdict::Applied));
    assert_eq!(setting(NapiField::DeferHardIrqs), 2);
    assert_eq!(setting(NapiField::GroFlushTimeoutNs), 200_000);
    revert::revert(&host, &scratch).expect("revert");
    let after = (setting(NapiField::DeferHardIrqs), setting(NapiField::GroFlushTimeoutNs));
    assert_eq!(after, before);
    fs::remove_dir_all(scratch).expect("remove");
}

/// What tc sets on the queues of a veth is what the plan and status tell.
fn disciplines() {
    make_veth(4);
    let host = Live::open().expect("host");
    let topology = Topology::detect().expect("topology");
    let wishes = Wishes { nics: vec![NIC.to_string()], ..Wishes::default() };
    let workers = workers(1);
    let input = Input { topology: &topology, workers: &workers, wishes: &wishes };
    let seen = |what: &str| {
        let plan = Plan::make(&host, input).expect("plan");
        let seen = plan.findings.iter().any(|finding| finding.what == what);
        assert!(seen, "{what} in {:#?}", plan.findings);
    };
    seen(&format!("{NIC} sends without a queueing discipline (noqueue)"));
    for command in [
        format!("qdisc add dev {NIC} root handle 1: mq"),
        format!("qdisc replace dev {NIC} parent 1:1 pfifo"),
        format!("qdisc replace dev {NIC} parent 1:2 pfifo"),
        format!("qdisc replace dev {NIC} parent 1:3 bfifo"),
        format!("qdisc replace dev {NIC} parent 1:4 pfifo"),
    ] {
        if let Err(why) = tc(&command) {
            println!("skipped: {why}");
            return;
        }
    }
    seen(&format!("{NIC} sends by mq: bfifo on queues 2, pfifo on queues 0-1,3"));
    tc(&format!("qdisc replace dev {NIC} root pfifo")).expect("one for all");
    seen(&format!("{NIC} sends by pfifo, one for its 4 transmit queues"));
    let scratch = std::env::temp_dir().join("ember-no-journal-here");
    let status = status::status(&host, &scratch, input).expect("status");
    assert!(status.findings.iter().any(|finding| finding.what.contains("pfifo")));
}

fn tc(args: &str) -> Result<(), String> {
    let output = Command::new("tc").args(args.split(' ')).output();
    let output = output.map_err(|error| format!("tc of iproute2: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("tc {args}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn bridge() {
    make_veth(1);
    ip("link add emberbr0 type bridge");
    ip(&format!("link set {NIC} master emberbr0"));
    ip("link set emberbr0 up");
    assert!(Path::new("/sys/class/net/emberbr0").exists());
    let host = Live::open().expect("host");
    let resolved = ember_sysctl::nic::resolve(&host, "emberbr0").expect("resolve");
    assert_eq!(resolved.devices, [NIC]);
}
