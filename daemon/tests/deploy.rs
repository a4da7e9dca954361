//! What is in deploy/ fits the program: configs load, units are well-formed and call commands
//! that exist, a container may do what the server does.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::Server;
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

const EMBERD: &str = env!("CARGO_BIN_EXE_emberd");

/// In a container the admin listener has to be reached from outside of it.
const ADMIN_IN_THE_OPEN: &str = "the admin pages can be reached from other machines";

#[test]
fn example_configs_are_in_order() {
    let examples = fs::read_dir(deploy().join("examples")).unwrap();
    let mut seen = 0;
    for example in examples.map(|entry| entry.unwrap().path()) {
        assert_clean(&example.display().to_string(), &example, &[]);
        seen += 1;
    }
    assert!(seen >= 5, "{seen} examples");
}

#[test]
fn container_configs_are_in_order() {
    assert_clean("image", &deploy().join("container/emberd.toml"), &[ADMIN_IN_THE_OPEN]);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("emberd.toml");
    fs::write(&config, block(&read("kubernetes/emberd.yaml"), "emberd.toml: |")).unwrap();
    assert_clean("kubernetes", &config, &[ADMIN_IN_THE_OPEN]);
}

#[test]
fn kubernetes_knows_every_field() {
    let manifest = deploy().join("kubernetes/emberd.yaml");
    let mut typed = Command::new("kubectl");
    // Without a cluster: the client reads the file into its own types and writes those.
    typed.args(["label", "--local", "-o", "json", "tried=yes", "-f"]).arg(&manifest);
    let Some(typed) = tool(&mut typed) else { return };
    assert_well("kubectl", &typed);
    let typed = String::from_utf8(typed.stdout).unwrap();
    let text = fs::read_to_string(&manifest).unwrap();
    let keys = text.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    let keys: BTreeSet<&str> = keys
        .filter_map(|line| line.trim_start_matches("- ").split_once(':'))
        .map(|(key, _)| key)
        .filter(|key| key.chars().all(|letter| letter.is_ascii_alphabetic()))
        .collect();
    assert!(keys.len() > 30, "{keys:?}");
    for key in keys {
        // A field that the types do not have would be gone.
        assert!(typed.contains(&format!("\"{key}\":")), "kubectl drops `{key}`");
    }
}

#[test]
fn probes_ask_the_admin_listener() {
    let text = read("kubernetes/emberd.yaml");
    assert!(text.contains(r#"listen = "0.0.0.0:9184""#));
    assert!(text.contains("{ name: admin, containerPort: 9184, hostPort: 9184 }"));
    assert!(text.contains(r#"prometheus.io/port: "9184""#));
    assert_eq!(text.matches("port: admin }").count(), 3);
}

#[test]
fn units_are_well_formed_and_run_commands_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let units = fs::read_dir(deploy().join("systemd")).unwrap();
    let units: Vec<PathBuf> = units.map(|entry| entry.unwrap().path()).collect();
    for unit in units.iter().filter(|unit| unit.extension().is_some_and(|it| it == "service")) {
        let name = unit.file_name().unwrap().to_str().unwrap();
        let unit = fs::read_to_string(unit).unwrap();
        let commands = commands(&unit);
        assert!(!commands.is_empty());
        for command in commands {
            let help = Command::new(EMBERD).args(&command).arg("--help").output().unwrap();
            assert_well(&format!("{name}: emberd {}", command.join(" ")), &help);
        }
        // systemd wants the program to be there; the manual pages come with the package.
        let unit = unit.replace("/usr/bin/emberd", EMBERD).replace("Documentation=man:", "# ");
        let path = folder.path().join(name);
        fs::write(&path, unit).unwrap();
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(&path);
        if let Some(output) = tool(&mut verify) {
            assert_well(name, &output);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let ours: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
            assert!(ours.is_empty(), "{ours:?}");
        }
    }
    let mut sysusers = Command::new("systemd-sysusers");
    sysusers.args(["--dry-run"]).arg(deploy().join("systemd/emberd.sysusers"));
    if let Some(output) = tool(&mut sysusers) {
        assert_well("sysusers", &output);
    }
}

#[test]
fn the_seccomp_profile_allows_what_workers_are_left_with() {
    let profile: Value = serde_json::from_str(&read("container/seccomp.json")).unwrap();
    let allowed: BTreeSet<&str> = profile["syscalls"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["action"] == "SCMP_ACT_ALLOW")
        .flat_map(|entry| entry["names"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    let filter = include_str!("../src/supervisor/confine/syscalls.rs");
    let (list, _) = filter.split_once("];").unwrap();
    let name_end = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
    let needed: Vec<&str> = list
        .split("libc::SYS_")
        .skip(1)
        .filter_map(|rest| rest.split(name_end).next())
        // The profile answers it with ENOSYS, so that the C library takes clone().
        .filter(|name| *name != "clone3")
        .collect();
    assert!(needed.len() > 60, "{needed:?}");
    for name in needed {
        assert!(allowed.contains(name), "{name}");
    }
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "execve", "bind"] {
        assert!(allowed.contains(name), "{name}");
    }
    for name in ["mount", "umount2", "unshare", "setns", "ptrace", "bpf", "keyctl", "init_module"] {
        assert!(!allowed.contains(name), "{name}");
    }
}

/// Set for the process that is to become a server with less.
const CONFINED: &str = "EMBERD_TEST_CONFINED";

#[test]
#[cfg(target_arch = "x86_64")]
fn the_server_needs_no_more_than_the_profile_and_the_unit_leave_it() {
    if std::env::var_os(CONFINED).is_some() {
        become_a_confined_server();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "the_server_needs_no_more_than_the_profile_and_the_unit_leave_it";
    command.args([name, "--exact", "--nocapture", "--"]).env(CONFINED, "yes");
    let server = Server::launch(command, "workers = { count = 1, threads = 1 }", &[]);
    server.wait_for_line("ready in");
    let backend = server.wait_for_line("backend:");
    let free = Server::start("workers = { count = 1, threads = 1 }");
    assert_eq!(backend, free.wait_for_line("backend:"), "the same as without");
    let first = server.workers()[0];
    server.ask_well(&["reload"]);
    let second = server.workers()[0];
    assert_ne!(first, second);
    nix::sys::signal::kill(second, nix::sys::signal::Signal::SIGKILL).unwrap();
    server.wait_for_successor(second);
    server.ask_well(&["upgrade"]);
    server.ask_well(&["drain"]);
}

/// Gives up what the unit does not leave to the service and a container does not leave to it,
/// and executes the server.
#[cfg(target_arch = "x86_64")]
fn become_a_confined_server() -> ! {
    let unit = read("systemd/emberd.service");
    let left = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let left: Vec<_> = left
        .split(' ')
        .map(|name| CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap()).expect(name))
        .collect();
    if nix::unistd::geteuid().is_root() {
        for capability in CapabilitySet::all().iter().filter(|it| !left.contains(it)) {
            // EINVAL: one that this kernel does not know.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    rustix::thread::set_no_new_privs(true).unwrap();
    for filter in filters() {
        seccompiler::apply_filter(&filter).unwrap();
    }
    let config = std::env::args().next_back().unwrap();
    let error = Command::new(EMBERD).args(["run", "-c", &config]).env_remove(CONFINED).exec();
    panic!("cannot execute {EMBERD}: {error}");
}

/// The profile as the kernel takes it: of two filters the one that refuses goes first.
#[cfg(target_arch = "x86_64")]
fn filters() -> Vec<seccompiler::BpfProgram> {
    let profile: Value = serde_json::from_str(&read("container/seccomp.json")).unwrap();
    let (mut allowed, mut absent) = (Vec::new(), Vec::new());
    for entry in profile["syscalls"].as_array().unwrap() {
        let names = entry["names"].as_array().unwrap();
        let conditions = entry["args"].as_array();
        let conditions: Option<Vec<Value>> = conditions.map(|it| it.iter().map(masked).collect());
        allowed.extend(names.iter().map(|name| match &conditions {
            Some(conditions) => json!({ "syscall": name, "args": conditions }),
            None => json!({ "syscall": name }),
        }));
        if entry["action"] == "SCMP_ACT_ERRNO" {
            assert_eq!(entry["errnoRet"], 38);
            absent.extend(names.iter().map(|name| json!({ "syscall": name })));
        }
    }
    assert_eq!((absent.len(), &profile["defaultErrnoRet"]), (1, &json!(1)));
    let filter = |mismatch: Value, matching: Value, filter: Vec<Value>| {
        json!({ "it": {
            "mismatch_action": mismatch, "match_action": matching, "filter": filter
        } })
    };
    let refuse = |errno: u32| json!({ "errno": errno });
    [filter(refuse(1), json!("allow"), allowed), filter(json!("allow"), refuse(38), absent)]
        .iter()
        .map(|filter| {
            let text = serde_json::to_vec(filter).unwrap();
            let arch = seccompiler::TargetArch::x86_64;
            let mut made = seccompiler::compile_from_json(text.as_slice(), arch).unwrap();
            made.remove("it").unwrap()
        })
        .collect()
}

#[cfg(target_arch = "x86_64")]
fn masked(condition: &Value) -> Value {
    assert_eq!(condition["op"], "SCMP_CMP_MASKED_EQ");
    json!({
        "index": condition["index"], "type": "qword",
        "op": { "masked_eq": condition["value"] }, "val": condition["valueTwo"]
    })
}

#[test]
fn the_image_is_built_with_the_packages_that_a_build_needs() {
    let script = read("install-packages.sh");
    let line = script.lines().find(|line| line.trim_start().starts_with("build) echo")).unwrap();
    let packages = line.trim().trim_start_matches("build) echo").trim_end_matches(";;");
    let image = read("container/Containerfile");
    for package in packages.split_whitespace() {
        assert!(image.contains(package), "{package}");
    }
    for line in image.lines().filter_map(|line| line.strip_prefix("COPY deploy/")) {
        let file = line.split(' ').next().unwrap();
        assert!(deploy().join(file).exists(), "{file}");
    }
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(deploy().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a tool; none, with a word about it, where the machine has not got it.
fn tool(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: no {} here: {error}", command.get_program().display());
            None
        }
    }
}

fn assert_well(what: &str, output: &Output) {
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
    assert!(output.status.success(), "{what}: {}\n{}{}", output.status, said[0], said[1]);
}

/// A config is accepted, with these warnings and no other.
fn assert_clean(what: &str, config: &Path, warnings: &[&str]) {
    let mut command = Command::new(EMBERD);
    command.args(["check", "--format", "json", "-c"]).arg(config);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EMBERD_") {
            command.env_remove(name);
        }
    }
    let output = command.output().unwrap();
    assert_well(what, &output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = report["findings"].as_array().unwrap();
    let found: Vec<&str> = found.iter().map(|it| it["message"].as_str().unwrap()).collect();
    assert_eq!(found, warnings, "{what}");
}

/// The block of text that a line of YAML begins, without its indentation.
fn block(yaml: &str, begin: &str) -> String {
    let mut lines = yaml.lines().skip_while(|line| line.trim() != begin);
    let depth = |line: &str| line.len() - line.trim_start().len();
    let outer = depth(lines.next().expect("the block is there"));
    let inside = |line: &&str| line.trim().is_empty() || depth(line) > outer;
    let lines = lines.take_while(inside).map(|line| line.get(outer + 2..).unwrap_or_default());
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The arguments of each command that a unit runs.
fn commands(unit: &str) -> Vec<Vec<&str>> {
    let lines = unit.lines().filter(|line| line.starts_with("Exec"));
    lines
        .map(|line| {
            let (_, command) = line.split_once('=').unwrap();
            command.strip_prefix("/usr/bin/emberd ").expect(line).split(' ').collect()
        })
        .collect()
}
