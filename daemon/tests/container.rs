//! The server as containers run it: as process 1, and within limits.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Client, Server, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A server in a PID namespace; whatever happens, nothing of it is left over.
struct Contained {
    server: Server,
    /// Its number out here.
    pid: Pid,
}

impl Contained {
    fn start(config: &str) -> Option<Contained> {
        let server = Server::launch(in_namespace()?, config, &[]);
        let pid = wait_until("process 1 is there", || children(server.pid()).pop());
        Some(Contained { server, pid: pid.0 })
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // With process 1 of a namespace all the others end.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = self.server.child.wait();
    }
}

/// `unshare ... emberd`, which ends with emberd's exit status.
fn in_namespace() -> Option<Command> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    let can = Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("skipped: no PID namespace can be made here (as root it can)");
        return None;
    }
    command.arg(env!("CARGO_BIN_EXE_emberd"));
    Some(command)
}

/// The children of a process, each with its name and state.
fn children(parent: Pid) -> Vec<(Pid, String, char)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // pid (name) state ppid
    let child = |stat: String| {
        let (pid, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let state = fields.next()?.chars().next()?;
        let ppid: i32 = fields.next()?.parse().ok()?;
        let pid = Pid::from_raw(pid.parse().ok()?);
        (ppid == parent.as_raw()).then(|| (pid, name.to_owned(), state))
    };
    stats.filter_map(child).collect()
}

#[test]
fn process_1_serves_reaps_orphans_and_ends_when_it_is_told_to() {
    let Some(mut contained) = Contained::start("workers = { threads = 1 }") else { return };
    let line = contained.server.wait_for_line("listening on http://");
    let address = line.split("http://").nth(1).unwrap().split(' ').next().unwrap();
    contained.server.wait_for_line("ready in");
    assert_eq!(contained.server.status()["pid"], 1);
    let mut client = Client::new(address.parse().unwrap());
    assert_eq!(client.get("/hello").unwrap().body, "Hello, World!");

    // An orphan, which lives until its input ends.
    let mut shell = Command::new("nsenter")
        .args(["--target", &contained.pid.to_string(), "--pid", "--", "sh", "-c"])
        .arg("exec 3<&0; cat <&3 >/dev/null & exit 0")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let input = shell.stdin.take();
    assert!(shell.wait().unwrap().success());
    let is_orphan = |(_, name, _): &(Pid, String, char)| name == "cat";
    let orphan = || children(contained.pid).into_iter().find(is_orphan);
    wait_until("the orphan is the server's", orphan);
    drop(input);
    wait_until("no orphan is left, not even as a zombie", || orphan().is_none().then_some(()));

    // Its own are told apart from strangers.
    let worker = |known: Option<Pid>| {
        let live = |(_, name, state): &(Pid, String, char)| name == "emberd/0" && *state != 'Z';
        let pid = children(contained.pid).into_iter().find(live)?.0;
        (Some(pid) != known).then_some(pid)
    };
    let first = worker(None).unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    wait_until("another worker is there", || worker(Some(first)));
    contained.server.wait_for_line("was killed by signal 9");
    let mut client = Client::new(address.parse().unwrap());
    assert_eq!(client.get("/hello").unwrap().body, "Hello, World!");

    // The kernel gives process 1 only the signals that it has asked for.
    kill(contained.pid, Signal::SIGTERM).unwrap();
    assert_eq!(contained.server.wait().code(), Some(0));
}

#[test]
fn process_1_hands_its_exit_status_on() {
    let Some(command) = in_namespace() else { return };
    let mut server = Server::launch(command, "workers = { count = 0 }", &[]);
    assert_eq!(server.wait().code(), Some(78));
}

/// A control group of this test's own, of whichever version the machine has for the controller.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// With a limit: the file of version 2 and its text, or those of version 1.
    fn with(controller: &str, v2: (&str, &str), v1: &[(&str, &str)]) -> Option<ControlGroup> {
        let name = format!("emberd-test-{controller}-{}", std::process::id());
        let hierarchies = [
            ("/sys/fs/cgroup".to_owned(), &[v2][..]),
            (format!("/sys/fs/cgroup/{controller}"), v1),
        ];
        for (hierarchy, limits) in hierarchies {
            let group = ControlGroup(Path::new(&hierarchy).join(&name));
            if fs::create_dir(&group.0).is_err() {
                continue;
            }
            let set = |(file, text): &(&str, &str)| {
                // Never made: a control group has the file, or something else is mounted there.
                let file = fs::OpenOptions::new().write(true).open(group.0.join(file));
                file.and_then(|mut file| file.write_all(text.as_bytes())).is_ok()
            };
            if limits.iter().all(set) {
                return Some(group);
            }
        }
        println!("skipped: no control group can be limited here: {controller}");
        None
    }

    /// What the doctor says inside.
    fn doctor(&self, settings: &[&str]) -> String {
        let join = "echo $$ > \"$0\"/cgroup.procs && exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", join]).arg(&self.0).arg(env!("CARGO_BIN_EXE_emberd")).arg("doctor");
        for setting in settings {
            command.args(["--set", setting]);
        }
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_cpu_limit_of_the_container_bounds_the_threads() {
    let v1 = [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")];
    let limit = ControlGroup::with("cpu", ("cpu.max", "50000 100000"), &v1);
    let Some(group) = limit else { return };
    let said = group.doctor(&[]);
    assert!(said.contains("the cgroup grants 0.5 CPUs' time"), "{said}");
    assert!(said.contains("1 worker: 1 thread on"), "{said}");
}

#[test]
fn a_memory_limit_of_the_container_bounds_the_threads() {
    let v1 = [("memory.limit_in_bytes", "100M")];
    let limit = ControlGroup::with("memory", ("memory.max", "100M"), &v1);
    let Some(group) = limit else { return };
    // 32 MiB of buffers a thread.
    let said = group.doctor(&["ring.buffers=4096", "ring.buffer_size=8KiB"]);
    assert!(said.contains("the cgroup grants 100 MiB of memory"), "{said}");
    assert!(said.contains("1 worker: 1 thread on"), "{said}");
    // Threads that were asked for are given, and the doctor says what comes of it.
    let said = group.doctor(&["ring.buffers=4096", "ring.buffer_size=8KiB", "workers.threads=8"]);
    assert!(said.contains("8 threads take 257 MiB before any connection"), "{said}");
}
