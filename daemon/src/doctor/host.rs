//! The NICs and the tuning, as `emberd tune plan` sees them.

use ember_sysctl::plan::{Action, NicPlan, Plan};

use super::Finding;
use crate::config::Config;
use crate::tune;

/// How many names of settings a line may have.
const NAMES_MAX: usize = 6;

/// What there is, and how far it is from what the plan wants.
pub(super) fn all(config: &Config) -> Vec<Finding> {
    if config.listeners.iter().all(|listener| listener.address.is_local()) {
        return vec![Finding::ok("nic", "none is needed: all listeners are of this host alone")];
    }
    match tune::rehearse(config) {
        Ok(plan) => judge(&plan),
        Err(why) => {
            let mend = "name the device as tune.nic, or see `emberd tune plan`";
            vec![Finding::warn("nic", format!("no plan can be made: {why}"), mend)]
        }
    }
}

fn judge(plan: &Plan) -> Vec<Finding> {
    let threads: usize = plan.workers.iter().map(|worker| worker.cpus.len()).sum();
    let mut findings: Vec<Finding> = plan.nics.iter().map(|it| queues(it, threads)).collect();
    if findings.is_empty() {
        let mend = "name the device as tune.nic where requests come in by one";
        findings.push(Finding::warn("nic", "no device was found that requests come in by", mend));
    }
    findings.push(tuning(plan));
    let conflict = |it: &ember_sysctl::owners::Conflict| {
        let found = format!("{} sets what the plan sets, too: {}", it.owner, it.keys.join(", "));
        Finding::warn("tuning", found, it.mend.clone())
    };
    findings.extend(plan.conflicts.iter().map(conflict));
    findings
}

fn queues(planned: &NicPlan, threads: usize) -> Finding {
    let nic = &planned.nic;
    let driver = nic.driver.as_deref().unwrap_or("no driver of its own");
    let (have, name) = (nic.rx_queues.len(), &nic.id.name);
    let found = format!("{name}: {driver}, {have} receive queues for {threads} threads");
    match planned.queues.channels {
        Some(wanted) if usize::try_from(wanted).is_ok_and(|wanted| wanted != have) => {
            Finding::warn("nic", found, format!("sudo emberd tune apply: {wanted} channels"))
        }
        _ if have < threads && planned.queues.software_spread => Finding::warn(
            "nic",
            format!("{found}: packets reach the others in software (RPS)"),
            "a NIC with a queue a thread, or fewer threads",
        ),
        _ => Finding::ok("nic", found),
    }
}

fn tuning(plan: &Plan) -> Finding {
    const AREA: &str = "tuning";
    let keys: Vec<&str> = plan
        .knobs
        .iter()
        .filter(|knob| matches!(knob.action, Action::Change))
        .map(|knob| knob.key.as_str())
        .collect();
    if keys.is_empty() {
        return Finding::ok(AREA, "every setting is as the plan wants it");
    }
    let named = keys.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
    let more = keys.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Finding::warn(
        AREA,
        format!("not as the plan wants them: {named}{more}"),
        "sudo emberd tune apply; `emberd tune plan` says why each",
    )
}
