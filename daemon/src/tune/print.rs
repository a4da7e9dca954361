//! What was done or found, for people and for programs.

use std::fmt::Write as _;

use ember_sysctl::apply::{Applied, Verdict};
use ember_sysctl::render::short;
use ember_sysctl::revert::{self, Taken};
use ember_sysctl::status::{self, State, Status};
use serde::Serialize;

/// Anything, for programs.
pub(super) fn json(value: &impl Serialize) -> String {
    // Texts, numbers and lists of such: nothing that serialising could fail on.
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    text + "\n"
}

/// What apply did.
pub(super) fn applied(applied: &Applied) -> String {
    let mut out = String::new();
    if applied.resumed {
        out.push_str("an apply that was cut off is carried on\n");
    }
    for done in &applied.done {
        let old = done.old.as_deref().map_or("(not there)".to_owned(), value);
        let new = value(&done.new);
        let _ = match &done.verdict {
            Verdict::Applied => writeln!(out, "applied  {}: {old} -> {new}", done.key),
            Verdict::Pending(why) => writeln!(out, "pending  {}: {old} -> {new}: {why}", done.key),
            Verdict::Adjusted(kept) => {
                writeln!(out, "adjusted {}: asked for {new}, the device keeps {kept}", done.key)
            }
            Verdict::Skipped(why) => writeln!(out, "skipped  {}: {why}", done.key),
        };
    }
    let skipped = applied.done.iter().filter(|d| matches!(d.verdict, Verdict::Skipped(_))).count();
    let count = applied.done.len() - skipped;
    let _ = match applied.done.is_empty() {
        true => writeln!(out, "nothing to do: the host is as planned"),
        false => {
            writeln!(out, "{count} applied, {skipped} skipped; `emberd tune revert` takes it back")
        }
    };
    out
}

/// How the host stands.
pub(super) fn status(status: &Status) -> String {
    let mut out = String::new();
    let mut count = 0;
    // What was never applied has not drifted.
    let otherwise = if status.applied { "drift" } else { "unapplied" };
    for check in &status.checks {
        let key = &check.key;
        let _ = match &check.state {
            State::Sync => {
                count += 1;
                continue;
            }
            State::Drift { now, wanted } => {
                let now = now.as_deref().map_or("(not there)".to_owned(), value);
                writeln!(out, "{otherwise:<11} {key}: is {now}, planned {}", value(wanted))
            }
            State::Unknown { reason } => writeln!(out, "unknown     {key}: {reason}"),
            State::Unsupported { reason } => writeln!(out, "unsupported {key}: {reason}"),
        };
    }
    for finding in &status.findings {
        let _ = writeln!(out, "seen        {}", finding.what);
    }
    for (nic, misaligned) in status.misaligned() {
        let all = status.checks.iter().filter(|check| {
            check.nic.as_ref() == Some(&nic) && check.group == ember_sysctl::knobs::Group::Irq
        });
        let all = all.count();
        let _ = writeln!(out, "{nic}: interrupts aligned {}/{all}", all - misaligned);
    }
    if let Some(key) = &status.interrupted {
        let _ = writeln!(
            out,
            "an apply was cut off at {key}: `emberd tune apply` goes on with it, `emberd tune \
             revert` takes it back"
        );
    }
    if status.half_reverted {
        out.push_str("a revert has not put everything back: `emberd tune revert` goes on\n");
    }
    let verdict = match status.code() {
        status::IN_SYNC => "in sync",
        status::DRIFT if status.applied => "drift",
        status::DRIFT => {
            "nothing was applied since the last boot; `emberd tune plan` says why it should be, \
             `emberd tune apply` does it"
        }
        status::CANNOT_TELL => "cannot tell",
        _ => "nothing of the plan can be had on this host",
    };
    let drifted = status.drifted().count();
    let _ = writeln!(out, "{count} as planned, {drifted} otherwise: {verdict}");
    out
}

/// What revert did.
pub(super) fn reverted(taken: &[Taken]) -> String {
    let mut out = String::new();
    let mut restored = 0;
    for Taken { key, old, verdict } in taken {
        let _ = match verdict {
            revert::Verdict::Restored => {
                restored += 1;
                writeln!(out, "restored {key}: {}", value(old))
            }
            revert::Verdict::Already => Ok(()),
            revert::Verdict::Foreign(now) => {
                writeln!(out, "left     {key}: someone else has made it {}", short(now))
            }
            revert::Verdict::Gone(why) => writeln!(out, "gone     {key}: {why}"),
            revert::Verdict::Failed(why) => writeln!(out, "failed   {key}: {why}"),
        };
    }
    let _ = match taken.is_empty() {
        true => writeln!(out, "nothing to take back: nothing was applied since the last boot"),
        false => writeln!(out, "{restored} restored"),
    };
    out
}

fn value(text: &str) -> String {
    if text.is_empty() { "(none)".to_owned() } else { short(text) }
}
