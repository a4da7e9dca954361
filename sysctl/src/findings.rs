//! What costs requests time on this host and is not the tuner's to change: told, never touched.

use serde::Serialize;

use crate::host::{Host, exists, number};
use crate::plan::NicPlan;

/// Something seen on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was seen.
    pub what: String,
    /// What it costs, or whom it serves.
    pub note: String,
}

/// Looks for all of them.
pub fn look(host: &dyn Host, nics: &[NicPlan]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |what: String, note: &str| found.push(Finding { what, note: note.to_string() });
    if let Some(mitigated) = mitigations(host) {
        add(
            format!("CPU mitigations are on: {mitigated}"),
            "each system call and interrupt pays for them; they keep other tenants' secrets",
        );
    }
    let rules = audit_rules(host);
    if rules > 0 {
        add(
            format!("{rules} audit rules for system calls are configured in {AUDIT_RULES}"),
            "each io_uring_enter is held against them; one `-a never,task` first spares them all",
        );
    } else if exists(host, "/run/auditd.pid") {
        add(
            "auditd is running".to_string(),
            "with rules for system calls, each io_uring_enter is looked at",
        );
    }
    if let Some(count) = number(host, "/proc/sys/net/netfilter/nf_conntrack_count") {
        add(
            format!("connection tracking is loaded ({count} entries)"),
            "each packet is looked up, and a full table drops new connections",
        );
    }
    for table in ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"] {
        if let Ok(names) = host.read(table)
            && !names.trim().is_empty()
        {
            let names = names.split_ascii_whitespace().collect::<Vec<_>>().join(", ");
            add(format!("{table} has tables: {names}"), "each packet walks their rules");
        }
    }
    let listeners = host.read("/proc/net/packet").map_or(0, |text| text.lines().skip(1).count());
    if listeners > 0 {
        add(
            format!("{listeners} packet sockets are open (tcpdump, DHCP clients, lldpd)"),
            "each packet may be copied to them",
        );
    }
    if let Ok(qdisc) = host.read("/proc/sys/net/core/default_qdisc") {
        add(
            format!("the default queueing discipline is {qdisc}"),
            "each packet sent goes through it: once a queue (mq) on a multi-queue NIC",
        );
    }
    if let Some(governor) = governor(host) {
        add(
            format!("CPU frequency governor: {governor}"),
            "cores that clock up first delay the first request; [tune] governor sets another",
        );
    }
    for nic in nics.iter().filter(|nic| nic.queues.software_spread && steers_flows(host, nic)) {
        add(
            format!("{} steers flows by itself (rx-ntuple-filter is on)", nic.nic.id.name),
            "with flow tables that is accelerated RFS, which takes a queue for every worker; here \
             it pulls flows to the nearest queue: [tune] feature-rx-ntuple-filter turns it off",
        );
    }
    for nic in nics.iter().filter(|nic| !nic.nic.is_physical()) {
        add(
            format!("{} is a virtual device without interrupts", nic.nic.id.name),
            "its packets are handled on the sender's CPU: connections are steered by hash",
        );
    }
    found
}

/// The rules that auditctl loads at boot; the kernel tells them to nobody but CAP_AUDIT_CONTROL.
const AUDIT_RULES: &str = "/etc/audit/audit.rules";

/// How many of them look at system calls: none where tasks are left out altogether.
fn audit_rules(host: &dyn Host) -> usize {
    let rules = host.read(AUDIT_RULES).unwrap_or_default();
    let lines = || rules.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let words = |line: &str| line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if lines().any(|line| line.contains("never,task") || line.contains("task,never")) {
        return 0;
    }
    lines().filter(|line| words(line).iter().any(|word| word == "-S" || word == "-w")).count()
}

fn steers_flows(host: &dyn Host, nic: &NicPlan) -> bool {
    let features = host.features(&nic.nic.id.name).unwrap_or_default();
    features.iter().any(|feature| feature.name == "rx-ntuple-filter" && feature.on)
}

fn mitigations(host: &dyn Host) -> Option<String> {
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    let names = host.list(directory).ok()?;
    let on = names.into_iter().filter(|name| {
        host.read(&format!("{directory}/{name}")).is_ok_and(|text| text.starts_with("Mitigation"))
    });
    let on: Vec<String> = on.collect();
    (!on.is_empty()).then(|| on.join(", "))
}

fn governor(host: &dyn Host) -> Option<String> {
    let governor = host.read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").ok()?;
    (governor != "performance").then_some(governor)
}
