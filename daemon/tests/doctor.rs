//! What `emberd doctor` says of the NICs and the tuning. It only looks.

use std::process::Command;

use serde_json::Value;

/// The findings of an area, with these options.
fn findings(area: &str, options: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EMBERD_") {
            command.env_remove(name);
        }
    }
    let output = command.args(["doctor", "--json"]).args(options).output().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    for finding in &all {
        // What is not well says how to mend it.
        assert_eq!(finding["state"] == "ok", finding["mend"].is_null(), "{finding}");
    }
    all.into_iter().filter(|finding| finding["area"] == area).collect()
}

#[test]
fn a_server_of_this_host_alone_needs_no_nic() {
    let found = findings("nic", &["--listen", "127.0.0.1:0"]);
    assert_eq!((found.len(), &found[0]["state"]), (1, &"ok".into()), "{found:?}");
    assert!(findings("tuning", &["--listen", "127.0.0.1:0"]).is_empty());
}

#[test]
fn others_hear_of_queues_and_of_what_is_not_tuned() {
    let open = ["--listen", "0.0.0.0:0"];
    assert!(!findings("nic", &open).is_empty());
    assert!(!findings("tuning", &open).is_empty());
    // The loopback device has queues, but no driver, so it is looked at as any other.
    let found = findings("nic", &["--listen", "0.0.0.0:0", "--set", "tune.nic=[\"lo\"]"]);
    assert!(found[0]["found"].as_str().unwrap().contains("lo"), "{found:?}");
    let found = findings("nic", &["--listen", "0.0.0.0:0", "--set", "tune.nic=[\"nosuch0\"]"]);
    assert_eq!(found[0]["state"], "warn");
    assert!(found[0]["found"].as_str().unwrap().contains("nosuch0"), "{found:?}");
}
