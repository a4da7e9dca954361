//! Rules of the house that the compiler does not hold: who may depend on whom, where unsafe may
//! stand, what pure code may not call. A rule that matters is a failing test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Package, folder, and which of our own packages it may depend on (ARCHITECTURE.md, "Layout").
const MAY_DEPEND_ON: &[(&str, &str, &[&str])] = &[
    ("ember-http", "http", &[]),
    ("ember-uring", "uring", &[]),
    ("ember-affinity", "affinity", &[]),
    ("ember-metrics", "metrics", &[]),
    ("ember-sysctl", "sysctl", &["ember-affinity"]),
    ("ember", "ember", &["ember-http", "ember-uring", "ember-metrics"]),
    ("ember-bench", "bench", &["ember-http"]),
    (
        "emberd",
        "daemon",
        &["ember", "ember-http", "ember-uring", "ember-affinity", "ember-sysctl", "ember-metrics"],
    ),
];

/// The files that may hold unsafe code; each block in them says why it is sound.
const MAY_BE_UNSAFE: &[&str] = &[
    // System calls that no library wraps, to see them refused.
    "daemon/tests/confined.rs",
    // set_mempolicy(2), which neither std nor nix has.
    "affinity/src/bind.rs",
    // The counter pages: a sealed memfd seen as a slice of atomics.
    "metrics/src/shared.rs",
    // The SIOCETHTOOL ioctl.
    "sysctl/src/ethtool.rs",
    // Descriptors that the kernel has just made.
    "uring/src/epoll.rs",
    "uring/src/ring/install.rs",
    // SIOCOUTQ and TCP_INFO, which nix has not.
    "uring/src/delivery.rs",
    // A message header begins as zeroes.
    "uring/src/payload.rs",
    // The arena of counted blocks.
    "uring/src/region.rs",
    // The buffers that the kernel receives into.
    "uring/src/ring/buffers.rs",
    // Entries that point to memory: made in sqe.rs, with its owner named where they are used.
    "uring/src/ring/connect.rs",
    "uring/src/ring/sqe.rs",
    "uring/src/ring/submit.rs",
    // What a driver in mid-flight leaves behind.
    "uring/src/ring/drop.rs",
    // System calls that the io-uring crate lacks, and the queue itself.
    "uring/src/ring/kernel.rs",
    // A signal handler that does nothing.
    "uring/tests/faults.rs",
];

/// What code without clock or socket may not name (`http/` takes both as arguments).
const BANNED_IN_HTTP: &[&str] =
    &["Instant::now", "SystemTime", "std::net::Tcp", "std::net::Udp", "std::thread", "std::fs"];

#[test]
fn dependencies_follow_the_table() {
    let ours: BTreeSet<&str> = MAY_DEPEND_ON.iter().map(|(package, ..)| *package).collect();
    let mut wrong = Vec::new();
    for (package, folder, allowed) in MAY_DEPEND_ON {
        let manifest = manifest_of(folder);
        assert_eq!(manifest["package"]["name"].as_str(), Some(*package), "{folder}/Cargo.toml");
        for table in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(|d| d.as_table()) else {
                continue;
            };
            for name in dependencies.keys() {
                if ours.contains(name.as_str()) && !allowed.contains(&name.as_str()) {
                    wrong.push(format!("{folder}/Cargo.toml [{table}]: {package} -> {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that ARCHITECTURE.md does not have:\n{}", wrong.join("\n"));
}

#[test]
fn every_member_is_in_the_table() {
    let root: toml::Table = read(&root().join("Cargo.toml")).parse().expect("Cargo.toml");
    let members: BTreeSet<&str> = root["workspace"]["members"]
        .as_array()
        .expect("workspace.members")
        .iter()
        .filter_map(|m| m.as_str())
        .collect();
    let table: BTreeSet<&str> = MAY_DEPEND_ON.iter().map(|(_, folder, _)| *folder).collect();
    assert_eq!(members, table);
}

#[test]
fn no_tokio_in_the_request_path() {
    for (_, folder, _) in MAY_DEPEND_ON.iter().filter(|(_, f, _)| *f != "bench") {
        let manifest = manifest_of(folder);
        if let Some(dependencies) = manifest.get("dependencies").and_then(|d| d.as_table()) {
            for (name, value) in dependencies {
                let optional =
                    value.get("optional").and_then(toml::Value::as_bool).unwrap_or(false);
                assert!(name != "tokio" || optional, "{folder}/Cargo.toml: tokio is not optional");
            }
        }
    }
}

#[test]
fn unsafe_stands_in_the_listed_files_alone() {
    let mut found = BTreeSet::new();
    for file in sources() {
        if code_lines(&file).any(|line| has_word(&line, "unsafe")) {
            found.insert(relative(&file));
        }
    }
    let listed: BTreeSet<String> = MAY_BE_UNSAFE.iter().map(|f| (*f).to_string()).collect();
    assert_eq!(found, listed, "left: files with unsafe; right: the list in this test");
}

#[test]
fn crates_without_unsafe_forbid_it() {
    for (_, folder, _) in MAY_DEPEND_ON {
        if MAY_BE_UNSAFE.iter().any(|f| f.starts_with(&format!("{folder}/src/"))) {
            continue;
        }
        let lib = read(&root().join(folder).join("src/lib.rs"));
        assert!(lib.contains("#![forbid(unsafe_code)]"), "{folder}/src/lib.rs can forbid it");
    }
}

#[test]
fn the_protocol_takes_clock_and_socket_as_arguments() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().filter(|f| relative(f).starts_with("http/src/")) {
        for (number, line) in code_lines(&file).enumerate() {
            for banned in BANNED_IN_HTTP {
                if line.contains(banned) {
                    wrong.push(format!("{}:{}: {banned}", relative(&file), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_are_of_readable_size() {
    const LINES_MAX: usize = 1_000;
    let long: Vec<String> = sources()
        .iter()
        .map(|f| (relative(f), read(f).lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(file, lines)| format!("{file}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for file in files_ending(&["md"]) {
        for target in markdown_links(&read(&file)) {
            let path = target.split('#').next().unwrap_or("");
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !elsewhere && !file.parent().expect("a folder").join(path).exists() {
                broken.push(format!("{} -> {target}", relative(&file)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").display().to_string()
}

fn manifest_of(folder: &str) -> toml::Table {
    read(&root().join(folder).join("Cargo.toml")).parse().expect("a manifest")
}

fn sources() -> Vec<PathBuf> {
    files_ending(&["rs"])
}

/// Files of our own with one of these endings: whatever was built or measured is left out.
fn files_ending(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let passed_over =
                name.starts_with('.') || ["target", "node_modules"].contains(&name.as_str());
            if path.is_dir() {
                if !passed_over {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|e| endings.contains(&e.to_string_lossy().as_ref()))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Lines of a file without what stands behind `//`, so that prose does not count as code.
fn code_lines(file: &Path) -> impl Iterator<Item = String> + use<> {
    read(file)
        .lines()
        .map(|line| line.split("//").next().unwrap_or("").to_string())
        .collect::<Vec<_>>()
        .into_iter()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split('"')
        .step_by(2) // what stands between quotes is text
        .flat_map(|part| part.split(|c: char| !(c.is_alphanumeric() || c == '_')))
        .any(|w| w == word)
}

fn markdown_links(text: &str) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.to_string())
        .filter(|t| !t.contains(char::is_whitespace))
        .collect()
}
