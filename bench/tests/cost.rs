//! A request takes no more instructions than are kept, to within three per cent.

use std::path::{Path, PathBuf};
use std::process::Command;

use ember_bench::cost::Costs;

const MARGIN: f64 = 0.03;

#[test]
fn a_request_costs_no_more_instructions_than_are_kept() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let kept = Costs::load(&root.join("bench/cost.json")).expect("kept costs");
    let now = Costs::measure(&build(&root)).expect("every case runs under callgrind");
    if !kept.comparable(&now) {
        println!("skipped: kept for {} on {}", kept.rustc, kept.architecture);
        return;
    }
    let slow_downs = kept.slow_downs(&now, MARGIN);
    assert!(
        slow_downs.is_empty(),
        "{}\nIf that is meant: ember-bench cost --update",
        slow_downs.join("\n")
    );
}

/// The counted program as it is released: instructions of a test build would say nothing.
fn build(root: &Path) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "ember-http", "--example", "cost"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Where cargo put it, wherever its target folder is.
    let executable = |line: &str| -> Option<PathBuf> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(message.get("executable")?.as_str()?.into())
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(executable).expect("cargo names what it built")
}
