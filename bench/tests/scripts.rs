//! The shell scripts: they parse, they refuse what they should, and a dry run says each step.

use std::path::PathBuf;
use std::process::{Command, Output};

fn sh(script: &str, arguments: &[&str]) -> Output {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(script);
    Command::new("sh").arg(path).args(arguments).output().expect("sh runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_scripts_parse() {
    for script in ["setup.sh", "bare-metal.sh", "crud.sh"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(script);
        let output = Command::new("sh").arg("-n").arg(path).output().expect("sh runs");
        assert!(output.status.success(), "{script}: {}", text(&output.stderr));
    }
}

#[test]
fn a_dry_run_of_the_server_tunes_serves_and_says_its_doubts() {
    let output = sh("bare-metal.sh", &["server", "--nic", "lo", "--dry-run"]);
    let (said, doubts) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{doubts}");
    for step in ["tune plan --nic lo", "tune apply --nic lo", "tune status", "emberd run -c"] {
        assert!(said.contains(step), "{step}: {said}");
    }
    assert!(doubts.contains("the recipe is for 25,000"), "{doubts}");
}

#[test]
fn a_slow_interface_is_refused_before_anything_is_changed() {
    let output = sh("bare-metal.sh", &["server", "--nic", "lo"]);
    assert!(!output.status.success());
    assert!(!text(&output.stdout).contains("tune"), "{}", text(&output.stdout));
    let output = sh("bare-metal.sh", &["server", "--nic", "no-such-interface"]);
    assert!(text(&output.stderr).contains("no interface no-such-interface"));
}

#[test]
fn a_dry_run_of_the_load_shares_the_rates() {
    let output = sh("bare-metal.sh", &["load", "--to", "server.test", "--share", "2", "--dry-run"]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.contains("http://server.test:8080/hello") && said.contains("--pipeline 16"));
    assert!(said.contains("--rate 500000") && !said.contains("--rate 1000000"), "{said}");
}
