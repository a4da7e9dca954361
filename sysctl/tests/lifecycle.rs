//! Apply, status and revert on fake machines, in fair weather and foul.

mod common;

use std::fs;

use common::machines::{self, Machine};
use ember_affinity::CpuSet;
use ember_sysctl::apply::{self, Applied, ApplyError, Options, Verdict};
use ember_sysctl::host::Host;
use ember_sysctl::knobs::Group;
use ember_sysctl::plan::{self, Action};
use ember_sysctl::revert::{self, Taken};
use ember_sysctl::status::{self, Status};
use ember_sysctl::watch::Watch;
use ember_sysctl::wishes::ChannelsWish;
use ember_sysctl::{Plan, alignment, nic, render};
use proptest::prelude::*;

fn apply(machine: &Machine) -> Applied {
    let options = Options::default();
    apply::apply(&machine.host, &machine.state_directory(), machine.input(), options)
        .expect("apply")
}

fn status(machine: &Machine) -> Status {
    status::status(&machine.host, &machine.state_directory(), machine.input()).expect("status")
}

fn revert(machine: &Machine) -> Vec<Taken> {
    revert::revert(&machine.host, &machine.state_directory()).expect("revert")
}

fn verdict<'a>(applied: &'a Applied, key: &str) -> &'a Verdict {
    &applied.done.iter().find(|done| done.key == key).expect(key).verdict
}

/// Each NIC with its aligned queues and all of them.
fn aligned(machine: &Machine) -> Vec<String> {
    let plan = machine.plan();
    let nics: Vec<nic::Nic> = plan.nics.iter().map(|nic| nic.nic.clone()).collect();
    let cpus = ember_affinity::plan::cpus(&plan.workers);
    alignment::look(&machine.host, &nics, &cpus).iter().map(ToString::to_string).collect()
}

fn changes(plan: &Plan) -> Vec<String> {
    plan.changes().map(|knob| format!("{}={}", knob.key, knob.new)).collect()
}

#[test]
fn queues_are_aligned_once_each_interrupts_a_worker_of_its_own() {
    for (name, before, after) in [
        ("ice-smt", ["eth0: NIC queues aligned 0/16"], ["eth0: NIC queues aligned 8/8"]),
        ("ena-two-queues", ["eth0: NIC queues aligned 0/2"], ["eth0: NIC queues aligned 2/2"]),
    ] {
        let machine = machines::machine(name);
        assert_eq!(aligned(&machine), before, "{name}");
        apply(&machine);
        assert_eq!(aligned(&machine), after, "{name}");
        // Two queues on one CPU, while another worker has none.
        let irqs = &machine.plan().nics[0].nic.irqs;
        let path = |at: usize| format!("/proc/irq/{}/smp_affinity", irqs[at].irq);
        let other = machine.host.read(&path(1)).expect("mask");
        machine.host.write(&path(0), &other).expect("write");
        assert_ne!(aligned(&machine), after, "{name}");
    }
}

#[test]
fn interrupts_are_waited_for_until_they_fire_on_their_new_cpu_but_not_for_ever() {
    for (pauses, all_fired) in [(3, true), (1000, false)] {
        let machine = machines::machine("ena-two-queues");
        machine.host.quiet_for.set(pauses);
        let applied = apply(&machine);
        let irqs = applied.done.iter().filter(|done| done.group == Group::Irq);
        let verdicts: Vec<&Verdict> = irqs.map(|done| &done.verdict).collect();
        let fired = verdicts.iter().all(|verdict| **verdict == Verdict::Applied);
        assert_eq!(fired, all_fired, "{verdicts:?}");
        let pending = |verdict: &&&Verdict| matches!(verdict, Verdict::Pending(why) if why.contains("until it next fires"));
        assert_eq!(verdicts.iter().any(|verdict| pending(&verdict)), !all_fired, "{verdicts:?}");
        // Pending or not, it is as planned.
        assert_eq!(status(&machine).code(), status::IN_SYNC);
    }
}

#[test]
fn audit_rules_and_flows_steered_past_their_workers_are_told() {
    let found = |machine: &Machine, part: &str| {
        machine.plan().findings.iter().any(|finding| finding.what.contains(part))
    };
    let machine = machines::machine("ena-two-queues");
    assert!(!found(&machine, "audit rules") && !found(&machine, "steers flows"));
    let rules =
        "# by augenrules\n-D\n-b 8192\n-a always,exit -F arch=b64 -S connect\n-w /etc/passwd";
    machine.host.put("/etc/audit/audit.rules", rules);
    assert!(found(&machine, "2 audit rules look at system calls (as /etc/audit/audit.rules"));
    assert!(found(&machine, "the kernel does not tell: Operation not permitted"));
    machine.host.put("/etc/audit/audit.rules", &format!("-a never,task\n{rules}"));
    assert!(!found(&machine, "audit rules"));
    // What is in force counts, where the kernel tells it.
    let in_force = r#"[{"list": 4, "never": false, "conditions": 3}]"#;
    machine.host.put("/audit-rules", in_force);
    assert!(found(&machine, "1 audit rules look at system calls (as the kernel tells)"));
    machine.host.put("/etc/audit/audit.rules", rules);
    machine.host.put("/audit-rules", "[]");
    assert!(!found(&machine, "audit rules"));
    let name = "rx-ntuple-filter".to_string();
    let mut features = machine.host.features("eth0").unwrap_or_default();
    features.push(ember_sysctl::ethtool::Feature { name, on: true, changeable: true });
    let features = serde_json::to_string(&features).expect("json");
    machine.host.put("/ethtool/eth0/features", &features);
    assert!(found(&machine, "eth0 steers flows"));
}

/// What is to become of a knob, and the value.
fn planned(machine: &Machine, key: &str) -> (Action, String) {
    let plan = machine.plan();
    let knob = plan.knobs.iter().find(|knob| knob.key == key).expect(key);
    (knob.action.clone(), knob.new.clone())
}

#[test]
fn the_nic_steers_flows_only_where_each_worker_has_a_queue() {
    let machine = machines::machine("mlx5-arfs");
    let on = (Action::Change, "on".to_string());
    assert_eq!(planned(&machine, "eth0:feature-rx-ntuple-filter"), on);
    // 32768 entries over 8 queues, and RPS stays off.
    assert_eq!(planned(&machine, "eth0:rfs-7").1, "4096");
    assert_eq!(planned(&machine, "eth0:rps-7").1, "");
    assert_eq!(planned(&machine, "net.core.rps_sock_flow_entries").1, "32768");
    let refused = |machine: &Machine, part: &str| {
        let (action, _) = planned(machine, "eth0:feature-rx-ntuple-filter");
        let Action::Skip(reason) = action else { panic!("{action:?}") };
        assert!(reason.contains(part), "{reason}");
    };
    refused(&machines::machine("ena-arfs-refused"), "eth0 has 2 for 8");
    let asked = |name: &str| {
        let mut machine = machines::machine(name);
        machine.wishes.set("arfs", "on").expect("arfs");
        machine
    };
    refused(&asked("virtual-four-queues"), "interrupts of the queues' own");
    let without = asked("mlx5-two-nodes");
    refused(&without, "this kernel has no rx-ntuple-filter");
    assert_eq!(planned(&without, "eth0:rfs-7").1, "0", "no flow tables without their filters");
    let mut both = asked("mlx5-arfs");
    both.wishes.set("feature-rx-ntuple-filter", "off").expect("wish");
    refused(&both, "exclude each other");
    let far = asked("mlx5-all-nodes");
    refused(&far, "it takes a queue for every worker");
}

#[test]
fn single_queues_take_values_of_their_own() {
    let machine = machines::machine("ice-own-values");
    for (key, value) in [
        ("eth0:irq-rx-3", "1,15"),
        ("eth0:irq-rx-4", "10"),
        ("eth0:rps-1", "4-7"),
        ("eth0:rfs-1", "1024"),
        ("eth0:xps-0", ""),
    ] {
        assert_eq!(planned(&machine, key).1, value, "{key}");
    }
    let (action, _) = planned(&machine, "eth0:irq-rx-6");
    assert!(matches!(action, Action::Skip(reason) if reason.contains("no such queue")));
    apply(&machine);
    assert_eq!(machine.host.text("/proc/irq/103/smp_affinity"), "8002");
    assert_eq!(machine.host.text("/sys/class/net/eth0/queues/rx-1/rps_cpus"), "00f0");
    assert_eq!(status(&machine).code(), status::IN_SYNC);
    let refused = |key: &str, value: &str, words: &str| {
        let mut machine = machines::machine("ice-smt");
        machine.wishes.set(key, value).expect("wish");
        let error = Plan::make(&machine.host, machine.input()).expect_err(key).to_string();
        assert!(error.contains(key) && error.contains(words), "{error}");
    };
    refused("eth0:xps-1", "3,16-17", "CPUs 16-17 are not online");
    refused("eth9:xps-1", "3", "nor the key of one of its knobs");
}

#[test]
fn what_each_transmit_queue_sends_by_is_told() {
    for (name, what) in [
        ("ice-smt", "eth0 sends by mq: fq_codel on queues 0-15"),
        ("two-nics", "eth1 sends by htb, one for its 16 transmit queues"),
        ("virtio-one-queue", "eth0 sends by fq_codel on its one transmit queue"),
        ("virtual-four-queues", "eth0 sends without a queueing discipline (noqueue)"),
        ("isolated", "eth0 receives through clsact"),
    ] {
        let status = status(&machines::machine(name));
        assert!(status.findings.iter().any(|finding| finding.what == what), "{name}: {status:?}");
    }
    // Where traffic control is not there, what new devices get is all that is known.
    let machine = machines::machine("ice-smt");
    machine.host.remove("/ethtool/eth0/qdiscs");
    let fallback = "the default queueing discipline is fq_codel";
    assert!(machine.plan().findings.iter().any(|finding| finding.what == fallback));
}

#[test]
fn apply_then_revert_is_the_identity_and_a_second_apply_is_empty() {
    for name in machines::ALL {
        let machine = machines::machine(name);
        let before = machine.host.snapshot();
        assert_eq!(status(&machine).code(), status::DRIFT, "{name}");
        let planned: Vec<String> = machine.plan().changes().map(|knob| knob.key.clone()).collect();
        let applied = apply(&machine);
        for done in &applied.done {
            let well = matches!(done.verdict, Verdict::Applied | Verdict::Pending(_));
            assert!(well, "{name}: {done:?}");
            assert!(planned.contains(&done.key), "{name}: {} was not announced", done.key);
        }
        assert_eq!(applied.done.len(), planned.len(), "{name}");
        assert_ne!(machine.host.snapshot(), before, "{name}");
        assert_eq!(changes(&machine.plan()), [""; 0], "{name}");
        assert_eq!(apply(&machine).done, [], "{name}");
        let status = status(&machine);
        assert_eq!((status.code(), status.applied), (status::IN_SYNC, true), "{name}");
        let taken = revert(&machine);
        assert!(
            taken.iter().all(|t| !matches!(t.verdict, revert::Verdict::Failed(_))),
            "{taken:?}"
        );
        let mut after = machine.host.snapshot();
        // An interrupt's effective CPU follows its next firing, not a write of ours.
        let settled = |path: &std::path::Path| !path.ends_with("effective_affinity");
        after.retain(|path, _| settled(path));
        let mut before = before;
        before.retain(|path, _| settled(path));
        assert_eq!(after, before, "{name}");
        assert_eq!(revert(&machine), [], "{name}: reverting twice is harmless");
        assert!(!machine.state_directory().join("tune.journal").exists());
    }
}

#[test]
fn opt_in_knobs_are_applied_and_taken_back_too() {
    let mut machine = machines::machine("ice-smt");
    for (item, value) in [
        ("ring-rx", "4001"),
        ("coalesce-rx-usecs", "8"),
        ("coalesce-adaptive-rx", "0"),
        ("coalesce-tx-frames", "1"),
        ("governor", "performance"),
        ("feature-rx-gro", "off"),
        ("busypoll-defer-hard-irqs", "2"),
        ("busypoll-gro-flush-timeout-ns", "200000"),
    ] {
        machine.wishes.set(item, value).expect(item);
    }
    machine.wishes.set("net.core.somaxconn", "8192").expect("wish");
    machine.wishes.set("net.ipv4.no_such", "1").expect("wish");
    for cpu in 0..16 {
        let governor = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        machine.host.put(&governor, "schedutil");
    }
    let before = machine.host.snapshot();
    let applied = apply(&machine);
    // The driver rounds up to what its hardware can do, and that is as near as it gets.
    assert_eq!(*verdict(&applied, "eth0:ring-rx"), Verdict::Adjusted("4008".to_string()));
    assert_eq!(*verdict(&applied, "eth0:coalesce-rx-usecs"), Verdict::Applied);
    assert_eq!(*verdict(&applied, "eth0:napi-7-defer-hard-irqs"), Verdict::Applied);
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "8192");
    let governed = applied.done.iter().filter(|done| done.group == Group::Governor);
    assert_eq!(governed.count(), 8, "the workers' CPUs and no others");
    let status = status(&machine);
    assert_eq!(status.code(), status::IN_SYNC, "{:?}", status.drifted().collect::<Vec<_>>());
    revert(&machine);
    let mut after = machine.host.snapshot();
    after.retain(|path, _| !path.ends_with("effective_affinity"));
    let mut before = before;
    before.retain(|path, _| !path.ends_with("effective_affinity"));
    assert_eq!(after, before);
}

#[test]
fn what_someone_else_changed_since_is_left_alone() {
    let machine = machines::machine("mlx5-two-nodes");
    apply(&machine);
    machine.host.put("/proc/sys/net/core/somaxconn", "1024");
    machine.host.put("/irqbalance", "9 100");
    let foreign = revert(&machine);
    let verdict = |key: &str| &foreign.iter().find(|taken| taken.key == key).expect(key).verdict;
    assert_eq!(*verdict("net.core.somaxconn"), revert::Verdict::Foreign("1024".to_string()));
    assert_eq!(*verdict("irqbalance"), revert::Verdict::Foreign("9 100".to_string()));
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "1024");
    assert_eq!(machine.host.text("/proc/sys/net/ipv4/tcp_fin_timeout"), "60");
}

#[test]
fn the_first_old_value_wins() {
    let mut machine = machines::machine("virtio-one-queue");
    apply(&machine);
    machine.wishes.set("net.core.somaxconn", "9000").expect("wish");
    apply(&machine);
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "9000");
    revert(&machine);
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "4096");
}

#[test]
fn drift_is_seen_and_interrupts_are_counted() {
    let machine = machines::machine("mlx5-two-nodes");
    apply(&machine);
    assert_eq!(status(&machine).misaligned(), [("eth0".to_string(), 0)]);
    let everywhere = machine.host.all_cpus_mask();
    machine.host.put("/proc/irq/100/smp_affinity", &everywhere);
    machine.host.put("/proc/irq/103/smp_affinity", &everywhere);
    let status = status(&machine);
    assert_eq!(status.code(), status::DRIFT);
    assert_eq!(status.misaligned(), [("eth0".to_string(), 2)]);
    let keys: Vec<&str> = status.drifted().map(|check| check.key.as_str()).collect();
    assert_eq!(keys, ["eth0:irq-rx-0", "eth0:irq-rx-3"]);
}

#[test]
fn the_watch_sees_what_status_sees() {
    let machine = machines::machine("mlx5-two-nodes");
    machine.host.fail("/proc/irq/105/", true, libc::EIO);
    apply(&machine);
    let state = machine.state_directory();
    let journal = ember_sysctl::journal::Contents::look(&machine.host, &state).expect("journal");
    let watch = Watch::new(&machine.plan(), journal.as_ref());
    let quiet = watch.look(&machine.host);
    assert_eq!((quiet.names(), quiet.misaligned["eth0"]), (vec![], 0));
    machine.host.put("/proc/irq/100/smp_affinity", &machine.host.all_cpus_mask());
    machine.host.put("/proc/sys/net/core/somaxconn", "128");
    machine.host.remove("/sys/class/net/eth0/queues/tx-3");
    let moved = watch.look(&machine.host);
    assert_eq!(moved.names(), ["irq", "net.core.somaxconn", "xps"]);
    assert_eq!(moved.misaligned["eth0"], 1);
}

#[test]
fn connections_are_steered_by_cpu_only_where_packets_are_bound_to_come() {
    for (name, after) in [
        ("mlx5-two-nodes", "16,18,20,22,24,26,28,30"),
        // By RPS, with fewer queues than workers.
        ("ena-two-queues", "0,2,4,6,8,10,12,14"),
        ("virtio-one-queue", "0-3"),
        ("isolated", "0-3"),
    ] {
        let machine = machines::machine(name);
        machine.host.write("/sys/class/net/eth0/queues/rx-0/rps_cpus", "0").expect("rps");
        let handling = || {
            let nics = plan::nics(&machine.host, &machine.wishes).expect("nics");
            nic::handling_cpus(&machine.host, &nics).to_string()
        };
        assert_eq!(handling(), "", "{name}: interrupts that may go anywhere");
        apply(&machine);
        assert_eq!(handling(), after, "{name}");
    }
}

#[test]
fn another_boot_voids_the_journal() {
    let machine = machines::machine("virtio-one-queue");
    apply(&machine);
    machine.host.put("/proc/sys/kernel/random/boot_id", "another");
    machine.host.put("/proc/sys/net/core/somaxconn", "100");
    assert_eq!(revert(&machine), []);
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "100");
    apply(&machine);
    revert(&machine);
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "100");
}

#[test]
fn one_at_a_time() {
    let machine = machines::machine("virtio-one-queue");
    let directory = machine.state_directory();
    let held = ember_sysctl::journal::Journal::open(&machine.host, &directory).expect("journal");
    let refused = apply::apply(&machine.host, &directory, machine.input(), Options::default());
    assert!(matches!(refused, Err(ApplyError::Journal(_))), "{refused:?}");
    drop(held);
    assert!(!apply(&machine).done.is_empty());
}

#[test]
fn refusals_by_the_kernel_are_told_and_the_rest_goes_on() {
    let told = |errno, part| {
        let machine = machines::machine("mlx5-two-nodes");
        machine.host.fail(part, true, errno);
        let applied = apply(&machine);
        let status = status(&machine);
        assert_eq!(status.code(), status::IN_SYNC, "what is refused for good is no drift");
        revert(&machine);
        assert_eq!(machine.host.text("/proc/sys/net/ipv4/tcp_fin_timeout"), "60");
        applied
    };
    let reason = |applied: &Applied, key: &str| match verdict(applied, key) {
        Verdict::Skipped(reason) => reason.clone(),
        other => panic!("{key}: {other:?}"),
    };
    let managed = told(libc::EIO, "/proc/irq/102/");
    assert!(reason(&managed, "eth0:irq-rx-2").contains("manages this interrupt itself"));
    assert_eq!(*verdict(&managed, "eth0:irq-rx-3"), Verdict::Applied);
    let managed = told(libc::EPERM, "/proc/irq/102/");
    assert!(reason(&managed, "eth0:irq-rx-2").contains("immutable"));
    let wide = told(libc::EOVERFLOW, "/proc/irq/102/");
    assert!(reason(&wide, "eth0:irq-rx-2").contains("refused"));
    let denied = told(libc::EPERM, "tx-0/xps_cpus");
    assert!(reason(&denied, "eth0:xps-0").contains("run as root"));
    let stuck = told(libc::EBUSY, "eth0 channels");
    assert!(reason(&stuck, "eth0:channels").contains("refused"));
}

#[test]
fn a_container_skips_its_read_only_sysctls() {
    let machine = machines::machine("virtio-one-queue");
    machine.host.fail("/proc/sys/", true, libc::EROFS);
    let before = machine.host.text("/proc/sys/net/core/somaxconn");
    let applied = apply(&machine);
    for done in applied.done.iter().filter(|done| done.group == Group::Sysctl) {
        let Verdict::Skipped(reason) = &done.verdict else { panic!("{done:?}") };
        assert!(reason.contains("read-only") && reason.contains("--format script"), "{reason}");
    }
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), before);
}

#[test]
fn without_the_right_to_tune_nothing_is_touched() {
    let machine = machines::machine("ice-smt");
    machine.host.put("/proc/self/status", "Name:\temberd\nCapEff:\t0000000000000000");
    let before = machine.host.snapshot();
    let refused = apply::apply(
        &machine.host,
        &machine.state_directory(),
        machine.input(),
        Options::default(),
    );
    assert!(matches!(refused, Err(ApplyError::NotPermitted)), "{refused:?}");
    assert_eq!(machine.host.snapshot(), before);
    assert_eq!(*machine.host.writes.borrow(), [""; 0]);
    assert!(!machine.state_directory().exists());
}

#[test]
fn other_owners_are_refused_unless_forced() {
    let owned = |files: &[(&str, &str)]| {
        let machine = machines::machine("ice-smt");
        files.iter().for_each(|(path, text)| machine.host.put(path, text));
        let directory = machine.state_directory();
        let before = machine.host.snapshot();
        let refused = apply::apply(&machine.host, &directory, machine.input(), Options::default());
        assert_eq!(machine.host.snapshot(), before);
        let Err(ApplyError::Conflicts(conflicts)) = refused else { panic!("{refused:?}") };
        let forced = Options { force: true };
        let applied = apply::apply(&machine.host, &directory, machine.input(), forced);
        assert!(!applied.expect("forced").done.is_empty());
        conflicts
    };
    let tuned = owned(&[
        ("/run/tuned/tuned.pid", "812"),
        ("/proc/812/comm", "tuned"),
        ("/etc/tuned/active_profile", "network-latency"),
    ]);
    assert!(tuned[0].owner.contains("network-latency") && tuned[0].mend.contains("--force"));
    let files = owned(&[
        (
            "/etc/sysctl.d/50-mine.conf",
            "# net.ipv4.tcp_fin_timeout = 3\n-net/core/somaxconn = 1024",
        ),
        ("/usr/lib/sysctl.d/50-mine.conf", "net.ipv4.tcp_fin_timeout = 5"),
        ("/etc/sysctl.conf", "net.ipv4.tcp_fin_timeout = 15"),
    ]);
    assert_eq!(files.len(), 1, "a hidden file and one that says the same are no conflict");
    assert_eq!(files[0].keys, ["net.core.somaxconn"]);
    let link = owned(&[("/etc/systemd/network/10-nic.link", "[Link]\nIRQAffinityPolicy=spread")]);
    assert_eq!(link[0].keys.len(), 8);
    // tuned's process id has gone to someone else.
    let machine = machines::machine("ice-smt");
    machine.host.put("/run/tuned/tuned.pid", "812");
    machine.host.put("/proc/812/comm", "bash");
    assert_eq!(machine.plan().conflicts, []);
}

#[test]
fn channels_stay_where_the_operators_session_goes_over_the_nic() {
    let mut machine = machines::machine("ice-smt");
    machine.host.put("/sessions", "eth0");
    let plan = machine.plan();
    let channels = plan.knobs.iter().find(|knob| knob.group == Group::Channels).expect("knob");
    let Action::Skip(reason) = &channels.action else { panic!("{channels:?}") };
    assert!(reason.contains("--confirm"), "{reason}");
    assert_eq!(channels.new, "rx 0 tx 0 combined 8");
    let irqs = plan.changes().filter(|knob| knob.group == Group::Irq).count();
    assert_eq!(irqs, 16, "all sixteen queues stay and are placed");
    apply(&machine);
    assert_eq!(status(&machine).code(), status::IN_SYNC);
    revert(&machine);
    machine.wishes.channels = ChannelsWish::Always;
    assert!(changes(&machine.plan()).contains(&"eth0:channels=rx 0 tx 0 combined 8".to_string()));
    machine.wishes.channels = ChannelsWish::Count(4);
    assert!(changes(&machine.plan()).contains(&"eth0:channels=rx 0 tx 0 combined 4".to_string()));
    machine.wishes.channels = ChannelsWish::Keep;
    assert_eq!(machine.plan().knobs.iter().filter(|k| k.group == Group::Channels).count(), 0);
}

#[test]
fn growing_channels_waits_for_the_new_queues() {
    let machine = machines::machine("ice-smt");
    machine.host.put(
        "/ethtool/eth0/channels",
        r#"{"rx":0,"tx":0,"combined":16,"rx_max":0,"tx_max":0,"combined_max":16}"#,
    );
    let shrunk = machine
        .host
        .channels("eth0")
        .map(|now| ember_sysctl::ethtool::Channels { combined: 2, ..now });
    machine.host.set_channels("eth0", &shrunk.expect("channels")).expect("shrink");
    let plan = machine.plan();
    let later: Vec<&str> = plan
        .knobs
        .iter()
        .filter(|knob| knob.action == Action::Later)
        .map(|knob| knob.key.as_str())
        .collect();
    assert!(later.contains(&"eth0:irq-rx-7") && later.contains(&"eth0:xps-2"), "{later:?}");
    let applied = apply(&machine);
    assert!(matches!(verdict(&applied, "eth0:irq-rx-7"), Verdict::Applied));
    assert_eq!(status(&machine).code(), status::IN_SYNC);
    revert(&machine);
    assert_eq!(machine.host.channels("eth0").expect("channels").combined, 2);
}

#[test]
fn names_in_only_and_skip_choose_and_unknown_ones_are_errors() {
    let mut machine = machines::machine("ice-smt");
    machine.wishes.only = vec!["irq".to_string(), "net.core.somaxconn".to_string()];
    let plan = machine.plan();
    assert!(plan.changes().all(|k| k.group == Group::Irq || k.key == "net.core.somaxconn"));
    assert_eq!(plan.changes().count(), 17, "sixteen queues, since their number is to stay");
    machine.wishes.only = Vec::new();
    machine.wishes.skip = vec!["eth0:channels".to_string(), "sysctl".to_string()];
    assert!(
        machine.plan().changes().all(|k| k.group != Group::Sysctl && k.group != Group::Channels)
    );
    machine.wishes.skip = vec!["dragons".to_string()];
    let error = Plan::make(&machine.host, machine.input()).expect_err("unknown");
    assert!(error.to_string().contains("dragons"), "{error}");
    machine.wishes.skip = Vec::new();
    machine.wishes.nics = vec!["eth9".to_string()];
    let error = Plan::make(&machine.host, machine.input()).expect_err("no NIC");
    assert!(error.to_string().contains("eth9"), "{error}");
}

#[test]
fn the_slaves_of_an_active_backup_bond_serve_the_same_workers() {
    let machine = machines::machine("bond");
    machine.host.put("/sys/class/net/bond0/bonding/mode", "active-backup 1");
    let plan = machine.plan();
    assert_eq!(plan.nics[0].queues.receive, plan.nics[1].queues.receive);
    assert_eq!(plan.nics[0].nic.rx_queues.len(), 4);
    assert_eq!(plan.nics[0].queues.channels, Some(8));
}

#[test]
fn a_device_that_is_gone_does_not_stop_a_revert() {
    let machine = machines::machine("two-nics");
    apply(&machine);
    machine.host.remove("/sys/class/net/eth1");
    let taken = revert(&machine);
    let gone = taken.iter().filter(|taken| matches!(taken.verdict, revert::Verdict::Gone(_)));
    assert!(gone.count() > 10);
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "4096");
    assert_eq!(revert(&machine), []);
}

#[test]
fn unreadable_knobs_cannot_be_told() {
    let machine = machines::machine("virtio-one-queue");
    apply(&machine);
    machine.host.fail("somaxconn", false, libc::EIO);
    assert_eq!(status(&machine).code(), status::CANNOT_TELL);
}

#[test]
fn a_host_with_nothing_to_tune_is_unsupported() {
    let mut machine = machines::machine("virtio-one-queue");
    machine.wishes.only = vec!["xps".to_string()];
    for sysctl in ["core", "ipv4"] {
        machine.host.remove(&format!("/proc/sys/net/{sysctl}"));
    }
    machine.host.remove("/sys/class/net/eth0");
    machine.host.remove("/proc/net/route");
    assert_eq!(status(&machine).code(), status::UNSUPPORTED);
}

#[test]
fn the_script_and_the_json_say_what_apply_does() {
    let machine = machines::machine("ice-smt");
    let plan = machine.plan();
    let script = render::script(&machine.host, &plan);
    for line in [
        "ethtool -L eth0 combined 8",
        "ethtool -K eth0 tx-tcp-segmentation on",
        "echo 2 > /proc/irq/101/smp_affinity_list",
        "echo 00000004 > /sys/class/net/eth0/queues/tx-1/xps_cpus",
        "# undo: sysctl -w net.core.somaxconn=4096",
        "sysctl -w net.core.somaxconn=65535",
    ] {
        assert!(script.lines().any(|has| has == line), "{line} in\n{script}");
    }
    let checked = std::process::Command::new("sh").arg("-n").arg("-c").arg(&script).status();
    assert!(checked.expect("sh").success());
    let json: serde_json::Value = serde_json::from_str(&render::json(&plan)).expect("json");
    let knob = json["knobs"]
        .as_array()
        .expect("knobs")
        .iter()
        .find(|knob| knob["key"] == "net.core.somaxconn")
        .expect("somaxconn");
    assert_eq!((&knob["old"], &knob["new"]), (&"4096".into(), &"65535".into()));
    for field in ["target", "why", "effect", "risk", "undo", "action"] {
        assert!(knob[field].is_string(), "{field} in {knob}");
    }
}

#[test]
fn a_torn_last_line_is_cut_and_a_damaged_one_is_named() {
    let machine = machines::machine("virtio-one-queue");
    apply(&machine);
    let journal = machine.state_directory().join("tune.journal");
    let whole = fs::read_to_string(&journal).expect("journal");
    fs::write(&journal, format!("{whole}{{\"record\":\"int")).expect("write");
    assert_eq!(status(&machine).code(), status::IN_SYNC);
    revert(&machine);
    assert_eq!(machine.host.text("/proc/sys/net/core/somaxconn"), "4096");
    fs::write(&journal, format!("{whole}nonsense\n")).expect("write");
    let error = revert::revert(&machine.host, &machine.state_directory()).expect_err("damaged");
    assert!(error.to_string().contains("line"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever the machine and the wishes: every mask that is written is non-empty and of
    /// usable CPUs, what is applied reads back in sync, a second apply is empty, and revert
    /// brings every byte back.
    #[test]
    fn plans_hold_on_any_machine(
        name in prop::sample::select(machines::ALL.to_vec()),
        count in prop::option::of(1u16..5),
        threads in prop::option::of(1u16..9),
        all_nodes in any::<bool>(),
        wish in prop::sample::select(vec![
            ChannelsWish::Auto, ChannelsWish::Keep, ChannelsWish::Count(3),
        ]),
        skip in prop::collection::vec(
            prop::sample::select(Group::ALL.map(Group::name).to_vec()), 0..3),
    ) {
        let mut machine = machines::machine(name);
        machine.workers.count = count;
        machine.workers.threads = threads;
        if all_nodes {
            machine.workers.numa = ember_affinity::Numa::All;
        }
        machine.wishes.channels = wish;
        machine.wishes.skip = skip.into_iter().map(str::to_string).collect();
        let usable = machine.topology.usable_cpus();
        for knob in machine.plan().changes() {
            let Some(cpus): Option<CpuSet> = plan::cpus_of(knob) else { continue };
            prop_assert!(cpus.is_subset(&usable), "{knob:?}");
            prop_assert!(!cpus.is_empty() || knob.group == Group::Rps, "{knob:?}");
        }
        let settled = |mut files: std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>| {
            files.retain(|path, _| !path.ends_with("effective_affinity"));
            files
        };
        let before = settled(machine.host.snapshot());
        apply(&machine);
        prop_assert_eq!(changes(&machine.plan()), [""; 0]);
        prop_assert_eq!(status(&machine).code(), status::IN_SYNC);
        revert(&machine);
        prop_assert!(settled(machine.host.snapshot()) == before, "{} is not as it was", name);
    }
}
