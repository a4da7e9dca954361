//! What costs requests time on this host and is not the tuner's to change: told, never touched.

use serde::Serialize;

use crate::audit;
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
    if let Some(rules) = audit_rules(host) {
        add(
            rules,
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
    for Finding { what, note } in disciplines(host, nics) {
        add(what, &note);
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

/// The rules that auditctl loads at boot. Those in force the kernel tells to root alone, and to
/// nobody in a container.
const AUDIT_RULES: &str = "/etc/audit/audit.rules";

/// How many rules system calls are held against, and who says so.
fn audit_rules(host: &dyn Host) -> Option<String> {
    let (rules, source) = match host.audit_rules() {
        Ok(rules) => (audit::on_system_calls(&rules), "as the kernel tells".to_string()),
        Err(error) => {
            let rules = host.read(AUDIT_RULES).unwrap_or_default();
            let source = format!("as {AUDIT_RULES} has them; the kernel does not tell: {error}");
            (audit::configured_on_system_calls(&rules), source)
        }
    };
    (rules > 0).then(|| format!("{rules} audit rules look at system calls ({source})"))
}

/// What the NICs send by; where that is not told, what new devices get.
fn disciplines(host: &dyn Host, nics: &[NicPlan]) -> Vec<Finding> {
    let finding = |what, note: &str| Finding { what, note: note.to_string() };
    let mut found = Vec::new();
    for NicPlan { nic, .. } in nics {
        let Ok(qdiscs) = host.qdiscs(nic.id.ifindex) else { continue };
        let words = qdiscs.words(&nic.id.name, nic.tx_queues.len());
        found.extend(words.map(|(what, note)| finding(what, note)));
        if let Some(kind) = &qdiscs.ingress {
            let what = format!("{} receives through {kind}", nic.id.name);
            found.push(finding(what, "its filters (tc, BPF) look at each packet"));
        }
    }
    if found.is_empty()
        && let Ok(kind) = host.read("/proc/sys/net/core/default_qdisc")
    {
        let note = "what new devices send by: one a queue (mq) on a NIC of several";
        found.push(finding(format!("the default queueing discipline is {kind}"), note));
    }
    found
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
