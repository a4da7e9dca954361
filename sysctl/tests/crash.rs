//! The plug is pulled at every step of apply, and of the revert after it: the state comes back
//! byte for byte. A step is a call of `Host::step`, or the moment just after the last.

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use common::machines::{self, Machine};
use ember_sysctl::apply::{self, Options};
use ember_sysctl::revert;
use ember_sysctl::status;
use nix::sys::signal::Signal;

/// What the child is told: `apply` or `revert`, the machine, its directory, and the step.
const ORDER: &str = "EMBER_CRASH_ORDER";
/// More steps than any run has.
const STEPS_MAX: u32 = 2_000;

/// Not a test of its own: the process that is killed. It does nothing when it is not asked to.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let [what, name, directory, step] = order.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{order}")
    };
    let mut machine = machines::reopen(name, directory.as_ref());
    machine.host.kill_at = step.parse().ok();
    let state = machine.state_directory();
    match what {
        "apply" => {
            apply::apply(&machine.host, &state, machine.input(), Options::default())
                .expect("apply");
        }
        _ => {
            revert::revert(&machine.host, &state).expect("revert");
        }
    }
    // The directory is the parent's to remove.
    std::mem::forget(machine);
}

/// Runs the child, and says whether it was killed at that step.
fn killed(what: &str, name: &str, machine: &Machine, step: u32) -> bool {
    let directory = machine.scratch.0.display();
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child", "--nocapture"])
        .env(ORDER, format!("{what} {name} {directory} {step}"))
        .output()
        .expect("child");
    let signal = output.status.signal();
    assert!(
        output.status.success() || signal == Some(Signal::SIGKILL as i32),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    signal.is_some()
}

fn state(machine: &Machine) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = machine.host.snapshot();
    files.retain(|path, _| !path.ends_with("effective_affinity"));
    files
}

fn assert_same(now: &BTreeMap<PathBuf, Vec<u8>>, before: &BTreeMap<PathBuf, Vec<u8>>, when: &str) {
    let paths = now.keys().chain(before.keys()).filter(|path| now.get(*path) != before.get(*path));
    let text =
        |bytes: Option<&Vec<u8>>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let different: Vec<String> = paths
        .map(|path| format!("{path:?}: {:?} was {:?}", text(now.get(path)), text(before.get(path))))
        .collect();
    assert!(different.is_empty(), "{when}: not as it was:\n{}", different.join("\n"));
}

fn survives(name: &str, stride: u32) {
    let machine = machines::machine(name);
    let before = state(&machine);
    let mut step = 1;
    let mut kills = 0;
    while killed("apply", name, &machine, step) {
        kills += 1;
        // Half of the times the operator resumes, and gets the whole plan; then reverts.
        if step % 2 == 0 {
            let state = machine.state_directory();
            let resumed = apply::apply(&machine.host, &state, machine.input(), Options::default());
            resumed.expect("resume");
            let after = status::status(&machine.host, &state, machine.input()).expect("status");
            assert_eq!(after.code(), status::IN_SYNC, "{name}: resumed after step {step}");
        }
        // The revert is cut off as well, somewhere else each time, before it is let through.
        killed("revert", name, &machine, step / 2 + 1);
        assert!(!killed("revert", name, &machine, STEPS_MAX));
        assert_same(&state(&machine), &before, &format!("{name}: killed at step {step}"));
        step += stride;
        assert!(step < STEPS_MAX, "no end of steps");
    }
    // The last run went through; it is taken back too.
    assert!(!killed("revert", name, &machine, STEPS_MAX));
    assert_same(&state(&machine), &before, &format!("{name}: after the whole apply"));
    assert!(kills > 10, "{name}: killed {kills} times only");
}

#[test]
fn killed_at_every_step_with_one_queue() {
    survives("virtio-one-queue", 1);
}

#[test]
fn killed_at_every_step_with_channels_that_make_queues_anew() {
    survives("hybrid", 1);
}

#[test]
fn killed_at_steps_all_over_a_machine_with_two_nics() {
    survives("two-nics", 7);
}
