//! A plan as people, programs and shells read it.

use std::fmt::Write;

use ember_affinity::CpuSet;

use crate::host::Host;
use crate::plan::{Action, Knob, NicPlan, Plan};
use crate::target::{NicKnob, Target};

/// The plan for people.
pub fn human(plan: &Plan) -> String {
    let mut out = String::new();
    for worker in &plan.workers {
        let node = worker.node.map_or("any node".to_string(), |node| format!("node {node}"));
        let cpus: Vec<String> = worker.cpus.iter().map(u32::to_string).collect();
        let _ = writeln!(out, "worker on {node}: CPUs {}", cpus.join(" "));
    }
    for nic in &plan.nics {
        let _ = writeln!(out, "{}", nic_line(nic));
    }
    for line in &plan.by_server {
        let _ = writeln!(out, "the server itself: {line}");
    }
    for conflict in &plan.conflicts {
        let _ = writeln!(out, "\nconflict: {}", conflict.owner);
        let _ = writeln!(out, "  over:  {}", conflict.keys.join(" "));
        let _ = writeln!(out, "  mend:  {}", conflict.mend);
    }
    for knob in plan.changes() {
        change(&mut out, knob);
    }
    let skipped = plan.knobs.iter().filter_map(|knob| match &knob.action {
        Action::Skip(reason) => Some((knob, reason)),
        _ => None,
    });
    let mut heading = "\n";
    for (knob, reason) in skipped {
        let _ = writeln!(out, "{heading}skipped: {}: {reason}", knob.key);
        heading = "";
    }
    let mut heading = "\n";
    for finding in &plan.findings {
        let _ = writeln!(out, "{heading}seen: {}", finding.what);
        let _ = writeln!(out, "  note:   {}", finding.note);
        heading = "";
    }
    let kept = plan.knobs.iter().filter(|knob| knob.action == Action::Keep).count();
    let count = plan.changes().count();
    let next = match count {
        0 => "nothing to do",
        _ => "`emberd tune apply` does it, `emberd tune revert` takes it back",
    };
    let _ = writeln!(out, "\n{count} to change, {kept} already so: {next}");
    out
}

/// The plan for programs: the whole of it.
pub fn json(plan: &Plan) -> String {
    let mut text = serde_json::to_string_pretty(plan).unwrap_or_else(|error| {
        // Every field is a text, a number, or a list of such.
        unreachable!("a plan is plain data: {error}")
    });
    text.push('\n');
    text
}

/// The plan as a shell script, for hosts on which it cannot be applied from here.
pub fn script(host: &dyn Host, plan: &Plan) -> String {
    let mut out = String::from(
        "#!/bin/sh\n# What `emberd tune apply` would do, and how to undo it.\nset -eu\n",
    );
    for knob in plan.changes() {
        let _ = writeln!(out, "\n# {}: {}", knob.key, knob.truth.why);
        if let Some(undo) = &knob.undo {
            let _ = writeln!(out, "# undo: {undo}");
        }
        let _ = writeln!(out, "{}", command(host, &knob.target, &knob.new));
    }
    out
}

/// The command that gives a knob a value, for an operator to read or to type.
pub fn command(host: &dyn Host, target: &Target, value: &str) -> String {
    match target {
        Target::Sysctl(name) => match value.contains(' ') {
            true => format!("sysctl -w {name}='{value}'"),
            false => format!("sysctl -w {name}={value}"),
        },
        Target::Governor(_) => format!("echo {value} > {}", target.place(host)),
        Target::IrqBans => format!(
            ": irqbalance, over its socket: settings ban irqs {}",
            match value {
                "" => "NONE",
                list => list,
            }
        ),
        Target::Nic(device, knob) => {
            let nic = &device.name;
            match knob {
                NicKnob::Channels => format!("ethtool -L {nic} {}", channel_words(value)),
                NicKnob::RxRing => format!("ethtool -G {nic} rx {value}"),
                NicKnob::TxRing => format!("ethtool -G {nic} tx {value}"),
                NicKnob::Coalesce(field) => format!("ethtool -C {nic} {} {value}", field.name()),
                NicKnob::Feature(feature) => format!("ethtool -K {nic} {feature} {value}"),
                NicKnob::RssTable => rss_command(nic, value),
                NicKnob::Irq(..) => format!("echo {value} > {}_list", target.place(host)),
                NicKnob::Rps(_) | NicKnob::Xps(_) => {
                    format!("echo {} > {}", mask(value), target.place(host))
                }
                NicKnob::RpsFlows(_) | NicKnob::File(_) => {
                    format!("echo {value} > {}", target.place(host))
                }
                NicKnob::Napi(queue, field) => {
                    format!(": netdev napi-set, queue {queue} of {nic}: {} {value}", field.name())
                }
            }
        }
    }
}

fn nic_line(plan: &NicPlan) -> String {
    let nic = &plan.nic;
    let mut line = format!("NIC {}", nic.id.name);
    if plan.under != nic.id.name {
        let _ = write!(line, " (under {})", plan.under);
    }
    let driver = nic.driver.as_deref().unwrap_or("virtual");
    let node = match (nic.place.node, &nic.place.local_cpus) {
        (Some(node), _) => format!("node {node}"),
        (None, Some(cpus)) => format!("near CPUs {cpus}"),
        (None, None) => "no known node".to_string(),
    };
    let steering = match plan.queues.steering {
        ember_affinity::queues::Steering::IncomingCpu => "by CPU",
        ember_affinity::queues::Steering::Hash => "by hash",
    };
    let source = nic.irqs.first().map_or("no interrupts".to_string(), |irq| {
        format!("{} interrupts by {:?}", nic.irqs.len(), irq.source).to_lowercase()
    });
    let _ = write!(
        line,
        ": {driver}, {node}, {}+{} queues, {source}; connections steered {steering}",
        nic.rx_queues.len(),
        nic.tx_queues.len()
    );
    line
}

fn change(out: &mut String, knob: &Knob) {
    let old = match (&knob.action, &knob.old) {
        (Action::Later, _) => "(not there until the channels are changed)",
        (_, Some(old)) if old.is_empty() => "(none)",
        (_, Some(old)) => old,
        (_, None) => "(unknown)",
    };
    let new = if knob.new.is_empty() { "(none)" } else { &knob.new };
    let _ = writeln!(out, "\n{}: {old} -> {new}", knob.key);
    let _ = writeln!(out, "  target: {}", knob.place);
    let _ = writeln!(out, "  why:    {}", knob.truth.why);
    let _ = writeln!(out, "  effect: {}", knob.truth.effect);
    let _ = writeln!(out, "  risk:   {}", knob.truth.risk);
    if !knob.truth.on_path {
        let _ = writeln!(out, "  note:   not on the way of a request to this server");
    }
    let undo = knob.undo.as_deref().unwrap_or("with the channels");
    let _ = writeln!(out, "  undo:   {undo}");
}

/// `rx 0 tx 0 combined 8` without the sorts that are at nought.
fn channel_words(value: &str) -> String {
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let pairs = words.chunks_exact(2).filter(|pair| pair[1] != "0");
    pairs.map(|pair| pair.join(" ")).collect::<Vec<_>>().join(" ")
}

/// ethtool writes uneven tables by weights only; those are told as a comment.
fn rss_command(nic: &str, value: &str) -> String {
    match value.strip_prefix("even ").and_then(|rest| rest.split(' ').next()) {
        Some(queues) => format!("ethtool -X {nic} equal {queues}"),
        None => format!(": ethtool has no words for this table of {nic}: {value}"),
    }
}

fn mask(list: &str) -> String {
    let set: CpuSet = list.parse().unwrap_or_default();
    set.to_mask(1)
}

/// The hash table's text is long where it is not even; kept here so that callers need not know.
pub fn short(value: &str) -> String {
    match value.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_string(),
    }
}
