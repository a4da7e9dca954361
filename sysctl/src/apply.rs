//! Carrying the plan out: journal first, then the knob, then a look at what became of it.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::host::Host;
use crate::journal::{Journal, JournalError, Outcome};
use crate::knobs::Group;
use crate::owners::Conflict;
use crate::plan::{Action, Input, Knob, MakeError, NicPlan, Plan};
use crate::target::{self, LastIrq, NicKnob, Target};

/// CAP_NET_ADMIN in /proc/self/status.
const CAP_NET_ADMIN: u32 = 12;
/// The knob that shows whether /proc/sys can be written: every network namespace has it.
const PROBE: &str = "net.core.somaxconn";

/// How often, and after which pauses, to look where interrupts are delivered after moving them.
const EFFECTIVE_LOOKS: u32 = 10;
const EFFECTIVE_PAUSE: Duration = Duration::from_millis(30);

/// How apply is to go about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Go on in spite of other owners.
    pub force: bool,
}

/// What apply did.
#[derive(Clone, Debug, Serialize)]
pub struct Applied {
    /// Whether this went on with an apply that had been cut off.
    pub resumed: bool,
    /// Every knob that the plan wanted changed.
    pub done: Vec<Done>,
}

/// What became of a knob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Its key.
    pub key: String,
    /// Its group.
    pub group: Group,
    /// The value before, where it could be read.
    pub old: Option<String>,
    /// The value wanted.
    pub new: String,
    /// How it went.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How it went with a knob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "detail", rename_all = "lowercase")]
pub enum Verdict {
    /// It has the value.
    Applied,
    /// It has the value, which takes hold later.
    Pending(String),
    /// It took another value.
    Adjusted(String),
    /// It was not changed, and why.
    Skipped(String),
}

/// Why nothing was applied.
#[derive(Debug)]
pub enum ApplyError {
    /// There is no plan.
    Plan(MakeError),
    /// There is no journal to write ahead in.
    Journal(JournalError),
    /// Others own some of the knobs.
    Conflicts(Vec<Conflict>),
    /// This process may not tune.
    NotPermitted,
    /// The journal could not be written on, so apply stopped there.
    Stopped(io::Error),
}

/// Applies the plan for this host.
///
/// # Errors
/// Where nothing may be changed; the host is then as it was.
pub fn apply(
    host: &dyn Host,
    directory: &Path,
    input: Input<'_>,
    options: Options,
) -> Result<Applied, ApplyError> {
    let mut plan = Plan::make(host, input).map_err(ApplyError::Plan)?;
    if plan.changes().next().is_none() {
        return Ok(Applied { resumed: false, done: Vec::new() });
    }
    if !plan.conflicts.is_empty() && !options.force {
        return Err(ApplyError::Conflicts(plan.conflicts));
    }
    if !may_tune(host) {
        return Err(ApplyError::NotPermitted);
    }
    let mut journal = Journal::open(host, directory).map_err(ApplyError::Journal)?;
    let resumed = journal.contents().unfinished().is_some();
    let announced: BTreeSet<String> = plan.changes().map(|knob| knob.key.clone()).collect();
    let read_only = sysctls_read_only(host);
    let mut done: Vec<Done> = Vec::new();
    for group in Group::ALL {
        let knobs: Vec<Knob> = plan.changes().filter(|knob| knob.group == group).cloned().collect();
        // What a second look finds beyond the plan that was shown is not applied unseen.
        let knobs = knobs.iter().filter(|knob| announced.contains(&knob.key));
        for knob in knobs {
            let verdict = match (&knob.target, &read_only) {
                (Target::Sysctl(_), Some(reason)) => Verdict::Skipped(reason.clone()),
                _ => change(host, &mut journal, &plan, knob).map_err(ApplyError::Stopped)?,
            };
            let (key, old, new) = (knob.key.clone(), knob.old.clone(), knob.new.clone());
            done.push(Done { key, group, old, new, verdict });
        }
        if group == Group::Irq {
            wait_for_interrupts(host, &plan, &mut done);
        }
        if group.remakes_queues() && done.iter().any(|done| done.group == group) {
            plan = Plan::make(host, input).map_err(ApplyError::Plan)?;
        }
    }
    note_missing(&announced, &plan, &mut done);
    Ok(Applied { resumed, done })
}

/// Changes one knob.
fn change(host: &dyn Host, journal: &mut Journal, plan: &Plan, knob: &Knob) -> io::Result<Verdict> {
    let target = &knob.target;
    let old = match target.read(host) {
        Ok(old) => old,
        Err(error) => return Ok(Verdict::Skipped(format!("cannot be read: {error}"))),
    };
    if let (true, Target::Nic(device, _)) = (knob.group.remakes_queues(), target) {
        let nic = plan.nics.iter().find(|nic| nic.nic.id == *device);
        host.step("capture what the driver may reset");
        journal.capture(nic.map(|nic| disturbed(host, nic)).unwrap_or_default())?;
    }
    host.step("intend");
    let seq = journal.intend(target, &old, &knob.new)?;
    host.step("write");
    let written = target.write(host, &knob.new);
    host.step("read back");
    let verdict = match (&written, target.read(host)) {
        (Ok(()), Ok(value)) if value == knob.new => match pending(host, target) {
            Some(reason) => Verdict::Pending(reason),
            None => Verdict::Applied,
        },
        (Ok(()), Ok(value)) if value == old => Verdict::Skipped("the write had no effect".into()),
        (Ok(()), Ok(value)) => Verdict::Adjusted(value),
        (Ok(()), Err(error)) => Verdict::Skipped(format!("cannot be read back: {error}")),
        (Err(error), _) => Verdict::Skipped(why_refused(host, target, error)),
    };
    host.step("conclude");
    let outcome = match &verdict {
        Verdict::Applied | Verdict::Pending(_) => Outcome::Done,
        Verdict::Adjusted(value) => Outcome::Adjusted(value.clone()),
        Verdict::Skipped(reason) => Outcome::Refused(reason.clone()),
    };
    journal.conclude(seq, outcome)?;
    Ok(verdict)
}

/// The settings that drivers reset when they make queues anew, with their values now.
fn disturbed(host: &dyn Host, plan: &NicPlan) -> Vec<(Target, String)> {
    let nic = &plan.nic;
    let receive =
        nic.rx_queues.iter().flat_map(|&queue| [NicKnob::Rps(queue), NicKnob::RpsFlows(queue)]);
    let transmit = nic.tx_queues.iter().map(|&queue| NicKnob::Xps(queue));
    let interrupts = nic.irqs.iter().map(|irq| NicKnob::Irq(irq.id(), LastIrq::of(irq)));
    let knobs = [NicKnob::RssTable].into_iter().chain(receive).chain(transmit).chain(interrupts);
    let targets = knobs.map(|knob| Target::Nic(nic.id.clone(), knob));
    targets.filter_map(|target| target.read(host).ok().map(|old| (target, old))).collect()
}

/// An interrupt moves when it next fires; until then the old CPU still gets it.
fn pending(host: &dyn Host, target: &Target) -> Option<String> {
    let Target::Nic(device, NicKnob::Irq(queue, last)) = target else { return None };
    let name = device.present_name(host).ok()?;
    let irq = target::find_irq(host, &name, device.ifindex, *queue, last).ok()?;
    let read = |file: &str| host.read(&format!("/proc/irq/{irq}/{file}")).ok();
    let effective = ember_affinity::CpuSet::from_mask(&read("effective_affinity")?).ok()?;
    let wanted = ember_affinity::CpuSet::from_mask(&read("smp_affinity")?).ok()?;
    (!effective.is_subset(&wanted)).then(|| format!("still on CPU {effective} until it next fires"))
}

/// Looks again until interrupts that were moved have fired on their new CPUs, for a little while:
/// those of a quiet queue stay pending.
fn wait_for_interrupts(host: &dyn Host, plan: &Plan, done: &mut [Done]) {
    for look in 0..EFFECTIVE_LOOKS {
        let mut waits = false;
        for done in done.iter_mut().filter(|done| matches!(done.verdict, Verdict::Pending(_))) {
            let knob = plan.knobs.iter().find(|knob| knob.key == done.key);
            match knob.and_then(|knob| pending(host, &knob.target)) {
                Some(_) => waits = true,
                None => done.verdict = Verdict::Applied,
            }
        }
        if !waits {
            return;
        }
        if look + 1 < EFFECTIVE_LOOKS {
            host.pause(EFFECTIVE_PAUSE);
        }
    }
}

/// Says what a refusal means and what can be done.
fn why_refused(host: &dyn Host, target: &Target, error: &io::Error) -> String {
    let is_irq = matches!(target, Target::Nic(_, NicKnob::Irq(..)));
    let code = error.raw_os_error();
    match code {
        // Managed interrupts: EIO before Linux 6.12, EPERM since.
        Some(libc::EIO) if is_irq => "the kernel manages this interrupt itself".to_string(),
        Some(libc::EPERM | libc::EACCES) if is_irq && has_all_capabilities(host) => {
            "immutable: the kernel manages this interrupt itself".to_string()
        }
        Some(libc::EPERM | libc::EACCES) => format!("not permitted ({error}): run as root"),
        Some(libc::EROFS) => "read-only here, as in a container: apply on the host".to_string(),
        _ => format!("refused: {error}"),
    }
}

/// Whether the interrupt files would refuse this process for lack of rights.
fn has_all_capabilities(host: &dyn Host) -> bool {
    effective_capabilities(host).is_none_or(|set| set & (1 << CAP_NET_ADMIN) != 0)
}

fn effective_capabilities(host: &dyn Host) -> Option<u64> {
    let status = host.read("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn may_tune(host: &dyn Host) -> bool {
    effective_capabilities(host).is_none_or(|set| set & (1 << CAP_NET_ADMIN) != 0)
}

/// Whether /proc/sys refuses even the value that it has: only a write tells, since a container
/// mounts it read-only whatever the file's mode says.
fn sysctls_read_only(host: &dyn Host) -> Option<String> {
    let path = target::sysctl_path(PROBE);
    let value = host.read(&path).ok()?;
    match host.write(&path, &value) {
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => Some(
            "/proc/sys is read-only here, as in a container: apply on the host, or use \
             `emberd tune plan --format script`"
                .to_string(),
        ),
        _ => None,
    }
}

/// Knobs that were to be written once their queue was there, and were not met again.
fn note_missing(announced: &BTreeSet<String>, plan: &Plan, done: &mut Vec<Done>) {
    let met: BTreeSet<String> = done.iter().map(|done| done.key.clone()).collect();
    for knob in plan.knobs.iter().filter(|knob| announced.contains(&knob.key)) {
        if met.contains(&knob.key) || knob.action == Action::Keep {
            continue;
        }
        let reason = match &knob.action {
            Action::Skip(reason) => reason.clone(),
            _ => "the queue did not come".to_string(),
        };
        let (key, old, new) = (knob.key.clone(), knob.old.clone(), knob.new.clone());
        done.push(Done { key, group: knob.group, old, new, verdict: Verdict::Skipped(reason) });
    }
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApplyError::Plan(error) => write!(f, "{error}"),
            ApplyError::Journal(error) => write!(f, "{error}"),
            ApplyError::Conflicts(conflicts) => {
                write!(f, "others set these knobs too:")?;
                for conflict in conflicts {
                    write!(f, "\n  {}: {}", conflict.owner, conflict.keys.join(" "))?;
                    write!(f, "\n    {}", conflict.mend)?;
                }
                Ok(())
            }
            ApplyError::NotPermitted => {
                write!(f, "tuning needs root (CAP_NET_ADMIN): run it with sudo")
            }
            ApplyError::Stopped(error) => write!(
                f,
                "the journal cannot be written ({error}), so nothing more was changed; `emberd \
                 tune revert` takes back what was"
            ),
        }
    }
}

impl std::error::Error for ApplyError {}
