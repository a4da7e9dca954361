//! Who else sets the knobs that the plan would change. Two owners of one knob undo each other
//! for ever, so the plan is refused until the operator says whose it is.

use serde::Serialize;

use crate::host::Host;
use crate::knobs::Group;
use crate::plan::{Action, Knob};
use crate::target::Target;

/// Another owner of knobs that the plan changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// Who.
    pub owner: String,
    /// The knobs.
    pub keys: Vec<String>,
    /// How to settle it.
    pub mend: String,
}

/// Directories with sysctl settings that are applied at boot, and the one old file.
const SYSCTL_DIRECTORIES: [&str; 4] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d"];
const SYSCTL_FILE: &str = "/etc/sysctl.conf";
/// Directories with systemd's settings for network devices.
const LINK_DIRECTORIES: [&str; 3] =
    ["/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network"];

/// The conflicts of a plan's changes.
pub fn conflicts(host: &dyn Host, knobs: &[Knob]) -> Vec<Conflict> {
    let changes: Vec<&Knob> =
        knobs.iter().filter(|knob| matches!(knob.action, Action::Change | Action::Later)).collect();
    let mut found = Vec::new();
    found.extend(tuned(host, &changes));
    found.extend(systemd_link(host, &changes));
    found.extend(sysctl_files(host, &changes));
    found
}

/// tuned sets sysctls, interrupts and channels by its profile, again and again.
fn tuned(host: &dyn Host, changes: &[&Knob]) -> Option<Conflict> {
    let pid = host.read("/run/tuned/tuned.pid").ok()?;
    let comm = host.read(&format!("/proc/{}/comm", pid.trim())).ok()?;
    // The process id may have gone to someone else since tuned ended.
    if !comm.contains("tuned") && !comm.contains("python") {
        return None;
    }
    let profile = host.read("/etc/tuned/active_profile").unwrap_or_default();
    let keys: Vec<String> = changes.iter().map(|knob| knob.key.clone()).collect();
    (!keys.is_empty()).then(|| Conflict {
        owner: format!("tuned is running (profile {:?})", profile.trim()),
        keys,
        mend: "stop it (systemctl stop tuned), leave these knobs to it (--skip), or --force"
            .to_string(),
    })
}

/// systemd's `IRQAffinityPolicy=` in .link files places the interrupts of a NIC itself.
fn systemd_link(host: &dyn Host, changes: &[&Knob]) -> Option<Conflict> {
    let keys: Vec<String> = changes
        .iter()
        .filter(|knob| knob.group == Group::Irq)
        .map(|knob| knob.key.clone())
        .collect();
    if keys.is_empty() {
        return None;
    }
    for directory in LINK_DIRECTORIES {
        for name in host.list(directory).unwrap_or_default() {
            let path = format!("{directory}/{name}");
            let text = host.read(&path).unwrap_or_default();
            let sets = |line: &str| {
                line.split_once('=').is_some_and(|(key, value)| {
                    key.trim() == "IRQAffinityPolicy" && !value.trim().is_empty()
                })
            };
            if name.ends_with(".link") && text.lines().any(sets) {
                let owner = format!("systemd places interrupts: IRQAffinityPolicy in {path}");
                let mend =
                    "take the line out, leave interrupts to systemd (--skip irq), or --force";
                return Some(Conflict { owner, keys, mend: mend.to_string() });
            }
        }
    }
    None
}

/// Entries of sysctl.d that set one of our sysctls to another value than ours.
fn sysctl_files(host: &dyn Host, changes: &[&Knob]) -> Vec<Conflict> {
    let mut files: Vec<String> = Vec::new();
    for directory in SYSCTL_DIRECTORIES {
        let names = host.list(directory).unwrap_or_default();
        let names = names.iter().filter(|name| name.ends_with(".conf"));
        // A file in an earlier directory hides one of the same name in a later one.
        for name in names {
            if !files.iter().any(|known| known.ends_with(&format!("/{name}"))) {
                files.push(format!("{directory}/{name}"));
            }
        }
    }
    files.push(SYSCTL_FILE.to_string());
    let mut found = Vec::new();
    for file in files {
        let text = host.read(&file).unwrap_or_default();
        let keys: Vec<String> = changes
            .iter()
            .filter(|knob| text.lines().any(|line| sets_otherwise(line, knob)))
            .map(|knob| knob.key.clone())
            .collect();
        if !keys.is_empty() {
            found.push(Conflict {
                owner: format!("{file} sets another value at boot"),
                keys,
                mend: "set the value there, leave it (--skip NAME), or --force".to_string(),
            });
        }
    }
    found
}

fn sets_otherwise(line: &str, knob: &Knob) -> bool {
    let Target::Sysctl(name) = &knob.target else { return false };
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return false;
    }
    let Some((key, value)) = line.split_once('=') else { return false };
    let key = key.trim().trim_start_matches('-').replace('/', ".");
    let value: Vec<&str> = value.split_ascii_whitespace().collect();
    key == *name && value.join(" ") != knob.new
}
