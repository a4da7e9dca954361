//! `emberd tune` as it is typed, and `emberd --tune`, on a four-queue veth in a network namespace
//! of its own. The machine's own network and interrupts cannot be reached from there.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const EMBERD: &str = env!("CARGO_BIN_EXE_emberd");
/// Set for the process that is to enter the namespaces and do the work.
const INSIDE: &str = "EMBER_TUNE_SCENE";
const NIC: &str = "emberveth0";
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";
/// What is waited for comes within this time, or never.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn commands_and_exit_codes() {
    inside("commands_and_exit_codes", |state| {
        let plan = tune(state, &["plan", "--nic", NIC, "--threads", "2", "--format", "json"]);
        let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).expect("JSON");
        let knob = |key: &str| {
            let mut knobs = plan["knobs"].as_array().expect("knobs").iter();
            knobs.find(|knob| knob["key"] == key).unwrap_or_else(|| panic!("{key} in {plan:#}"))
        };
        assert_eq!(knob("net.core.somaxconn")["new"], "65535");
        assert_eq!(knob(&format!("{NIC}:channels"))["new"], "rx 2 tx 2 combined 0");
        assert_eq!(knob("net.core.netdev_max_backlog")["action"], "skip");

        let scope = ["--nic", NIC, "--threads", "2"];
        let with = |command: &'static str| [&[command][..], &scope].concat();
        assert_eq!(code(&tune(state, &with("status"))), 1);
        let applied = tune(state, &with("apply"));
        assert_eq!(code(&applied), 0);
        assert!(text(&applied).contains("applied  net.core.somaxconn: 4096 -> 65535"));
        assert!(text(&applied).contains("0 skipped; `emberd tune revert` takes it back"));
        let status = tune(state, &with("status"));
        assert_eq!(code(&status), 0);
        assert!(text(&status).ends_with(": in sync\n"), "{}", text(&status));
        assert!(text(&tune(state, &with("apply"))).contains("nothing to do"));
        fs::write(SOMAXCONN, "128").expect("write");
        let status = tune(state, &with("status"));
        assert_eq!(code(&status), 1);
        assert!(text(&status).contains("drift       net.core.somaxconn: is 128, planned 65535"));
        let taken = tune(state, &["revert"]);
        assert_eq!(code(&taken), 0);
        assert!(text(&taken).contains("left     net.core.somaxconn: someone else has made it 128"));
        assert!(text(&taken).contains("restored net.ipv4.tcp_fin_timeout: 60"));
        assert!(text(&tune(state, &["revert"])).contains("nothing to take back"));

        assert_eq!(code(&tune(state, &["plan", "--nic", "nosuch0"])), 2);
        assert_eq!(code(&tune(state, &["plan", "--nic", NIC, "--only", "dragons"])), 2);
        let few = ["plan", "--nic", NIC, "--only", "xps,net.core.somaxconn", "--format", "script"];
        let script = text(&tune(state, &few));
        assert!(script.contains("xps_cpus") && !script.contains("tcp_fin_timeout"), "{script}");
    });
}

#[test]
fn what_is_not_confirmed_is_taken_back() {
    inside("what_is_not_confirmed_is_taken_back", |state| {
        let apply = |seconds: &str| {
            let args = ["tune", "apply", "--nic", NIC, "--threads", "2", "--confirm", seconds];
            let mut command = emberd(state);
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("emberd")
        };
        // Nobody presses Enter: the operator's terminal is gone.
        let mut child = apply("60");
        drop(child.stdin.take());
        let output = child.wait_with_output().expect("apply");
        assert!(text(&output).ends_with("not confirmed: taken back\n"), "{}", text(&output));
        assert_eq!(somaxconn(), "4096");
        // Nobody presses it in time.
        let child = apply("1");
        let output = child.wait_with_output().expect("apply");
        assert!(text(&output).contains("taken back"), "{}", text(&output));
        assert_eq!(somaxconn(), "4096");
        // The whole session is killed.
        let mut child = apply("60");
        wait_for_prompt(&mut child);
        assert_eq!(somaxconn(), "65535");
        child.kill().expect("kill");
        child.wait().expect("wait");
        wait_until("the guard has taken it back", || !state.join("tune.journal").exists());
        assert_eq!(somaxconn(), "4096");
        // And with Enter it stays.
        let mut child = apply("60");
        wait_for_prompt(&mut child);
        child.stdin.take().expect("stdin").write_all(b"\n").expect("Enter");
        let output = child.wait_with_output().expect("apply");
        assert!(text(&output).ends_with("kept\n"), "{}", text(&output));
        assert_eq!(somaxconn(), "65535");
        assert_eq!(code(&tune(state, &["revert"])), 0);
        assert_eq!(somaxconn(), "4096");
    });
}

#[test]
fn the_server_tunes_before_it_listens_and_sees_drift() {
    inside("the_server_tunes_before_it_listens_and_sees_drift", |state| {
        let config = server_config(state, "");
        let mut server = Server::start(state, &config);
        let lines = server.lines_until("ready in");
        let tuned = lines.iter().find(|line| line.contains("tuning:")).expect("a line");
        assert!(tuned.contains("applied") && tuned.contains("tune revert"), "{tuned}");
        let sockets = Command::new("ss").args(["-ltnH", "sport = :8080"]).output().expect("ss");
        let sockets = text(&sockets);
        let backlogs: Vec<&str> =
            sockets.lines().filter_map(|line| line.split_ascii_whitespace().nth(2)).collect();
        assert_eq!(backlogs, ["65535"; 2], "tuned before listen(): {sockets}");

        let drift =
            |value: u8| format!("emberd_tune_drift{{key=\"net.core.somaxconn\"}} {value}\n");
        wait_until("the first look", || scrape().contains(&drift(0)));
        fs::write(SOMAXCONN, "128").expect("write");
        // A link that changes is an occasion to look.
        ip(&format!("link set {NIC} down"));
        wait_until("drift in the metrics", || scrape().contains(&drift(1)));
        assert!(scrape().contains("emberd_tune_drift{key=\"xps\"} 0\n"), "{}", scrape());
        let status = text(&emberd(state).arg("status").output().expect("emberd"));
        assert!(status.contains("tuning: drifted: net.core.somaxconn ("), "{status}");
        assert!(status.contains("no interrupts of its own to align"), "{status}");
    });
}

#[test]
fn drift_is_seen_after_an_upgrade_and_a_reload_too() {
    inside("drift_is_seen_after_an_upgrade_and_a_reload_too", |state| {
        let config = server_config(state, "");
        let mut server = Server::start(state, &config);
        server.lines_until("ready in");
        wait_until("the first look", || scrape().contains(&drift(0)));
        for (change, value, wanted) in [("upgrade", "128", 1), ("reload", "65535", 0)] {
            let changed = emberd(state).arg(change).output().expect("emberd");
            assert!(changed.status.success(), "{changed:?}");
            fs::write(SOMAXCONN, value).expect("write");
            ip(&format!("link set {NIC} down"));
            ip(&format!("link set {NIC} up"));
            wait_until(change, || scrape().contains(&drift(wanted)));
        }
    });
}

#[test]
fn drift_is_applied_again_only_where_that_is_asked_for() {
    inside("drift_is_applied_again_only_where_that_is_asked_for", |state| {
        let config = server_config(state, "reapply = true\n");
        let mut server = Server::start(state, &config);
        server.lines_until("ready in");
        wait_until("the first look", || scrape().contains(&drift(0)));
        fs::write(SOMAXCONN, "128").expect("write");
        ip(&format!("link set {NIC} down"));
        wait_until("it is applied again", || somaxconn() == "65535");
        assert_eq!(code(&tune(state, &["revert"])), 0);
        assert_eq!(somaxconn(), "4096", "the first old value, not the one in between");
    });
}

#[test]
fn connections_arrive_at_the_worker_of_their_cpu_also_after_it_was_restarted() {
    inside("connections_arrive_at_the_worker_of_their_cpu_also_after_it_was_restarted", |state| {
        let topology = ember_affinity::Topology::detect().expect("topology");
        let cpus: Vec<u32> = topology.usable_cpus().iter().take(2).collect();
        let [first, second] = cpus[..] else {
            println!("skipped: one CPU only");
            return;
        };
        if !ember_affinity::steering::incoming_cpu_works(&cpus).expect("trial") {
            println!("skipped: this kernel does not steer by SO_INCOMING_CPU");
            return;
        }
        // Packets of this NIC are bound to both CPUs, as they are after tuning with interrupts.
        fs::write(format!("/sys/class/net/{NIC}/queues/rx-0/rps_cpus"), "3").expect("rps");
        let config = server_config(state, "");
        let workers = format!("workers.cpus={first},{second}");
        let mut server = emberd(state);
        server.arg("-c").arg(&config).args(["--workers", "2", "--threads", "1"]);
        server.args(["--set", &workers]).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut server = Server(server.spawn().expect("emberd"));
        server.lines_until("ready in");
        let arrived = |worker: u32| {
            let text = scrape();
            let name = "emberd_connections_accepted_total{listener=\"web\"";
            let line = text.lines().find(|line| {
                line.starts_with(name) && line.contains(&format!("worker=\"{worker}\""))
            });
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        // Scrapes come by the admin listener and count for themselves.
        let arrivals = || [arrived(0), arrived(1)];
        let each = |before: [u64; 2], now: [u64; 2]| [now[0] - before[0], now[1] - before[1]];
        for restarted in [false, true] {
            if restarted {
                let pid = worker_pid(state, 1).expect("a worker");
                kill(pid, Signal::SIGKILL).expect("kill");
                let other = |now: Option<Pid>| now.is_some_and(|now| now != pid);
                wait_until("a new worker", || other(worker_pid(state, 1)));
            }
            let before = arrivals();
            connect_from(first, 16);
            wait_until("sixteen at the first", || each(before, arrivals()) == [16, 0]);
            connect_from(second, 16);
            wait_until("sixteen at the second", || each(before, arrivals()) == [16, 16]);
        }
    });
}

/// Makes connections from a thread that runs on one CPU, each answered once.
fn connect_from(cpu: u32, count: usize) {
    let client = std::thread::spawn(move || {
        ember_affinity::pin_thread(cpu).expect("pin");
        for _ in 0..count {
            let mut stream = TcpStream::connect("127.0.0.1:8080").expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
            stream
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .expect("send");
            let mut reply = String::new();
            stream.read_to_string(&mut reply).expect("reply");
            assert!(reply.starts_with("HTTP/1.1 "), "{reply}");
        }
    });
    client.join().expect("client");
}

/// The process of a worker, while it has one.
fn worker_pid(state: &Path, worker: u64) -> Option<Pid> {
    let output = emberd(state).args(["status", "--json"]).output().expect("emberd");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let workers = status["generations"].as_array()?.iter().last()?["workers"].as_array()?;
    let pid = workers.iter().find(|it| it["worker"] == worker)?["pid"].as_i64()?;
    // Anything below would name other processes than one.
    (pid > 1).then_some(Pid::from_raw(pid as i32))
}

fn server_config(state: &Path, tune: &str) -> PathBuf {
    let config = state.join("emberd.toml");
    let listener = "[[listener]]\nname = \"web\"\naddress = \"0.0.0.0:8080\"\n";
    let admin = "[admin]\nlisten = \"127.0.0.1:9184\"\n";
    let tune = format!("[tune]\nnic = [\"{NIC}\"]\n{tune}");
    fs::write(&config, format!("{admin}{tune}{listener}")).expect("config");
    config
}

fn drift(value: u8) -> String {
    format!("emberd_tune_drift{{key=\"net.core.somaxconn\"}} {value}\n")
}

/// A server that ends with its scene.
struct Server(Child);

impl Server {
    /// One that tunes, with two threads.
    fn start(state: &Path, config: &Path) -> Server {
        let mut server = emberd(state);
        server.arg("-c").arg(config).args(["--tune", "--threads", "2"]);
        server.stderr(Stdio::piped()).stdout(Stdio::null());
        Server(server.spawn().expect("emberd"))
    }

    fn lines_until(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut stderr = BufReader::new(self.0.stderr.take().expect("stderr"));
        let mut line = String::new();
        while stderr.read_line(&mut line).expect("line") > 0 {
            lines.push(std::mem::take(&mut line));
            if lines.last().is_some_and(|line| line.contains(last)) {
                // Read on, so that the server never waits for its reader.
                std::thread::spawn(move || {
                    let mut rest = String::new();
                    let _ = stderr.read_to_string(&mut rest);
                    print!("{rest}");
                });
                return lines;
            }
        }
        panic!("no {last:?} in {lines:#?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

fn scrape() -> String {
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9184")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    get().unwrap_or_else(|error| error.to_string())
}

/// Runs a scene in a process of its own, which the namespaces are for.
fn inside(test: &str, scene: fn(&Path)) {
    if std::env::var_os(INSIDE).is_some() {
        match enter() {
            Ok(()) => {
                let state = tempfile::tempdir().expect("state");
                scene(state.path());
            }
            Err(why) => println!("skipped: {why}"),
        }
        return;
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("child");
    println!("{}", text(&output));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", text(&output));
}

fn enter() -> Result<(), String> {
    let failed = |what: &'static str| move |error| format!("{what}: {error}");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(failed("unshare"))?;
    let none: Option<&str> = None;
    let (private, plain) = (MsFlags::MS_REC | MsFlags::MS_PRIVATE, MsFlags::empty());
    mount(none, "/", none, private, none).map_err(failed("private mounts"))?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), plain, none).map_err(failed("sysfs"))?;
    // Interrupts belong to no namespace: what is not there cannot be written.
    mount(Some("none"), "/proc/irq", Some("tmpfs"), plain, none).map_err(failed("hide IRQs"))?;
    ip("link set lo up");
    let queues = "numrxqueues 4 numtxqueues 4";
    ip(&format!("link add {NIC} {queues} type veth peer name emberveth1 {queues}"));
    ip(&format!("link set {NIC} up"));
    ip("link set emberveth1 up");
    Ok(())
}

fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().expect("ip of iproute2");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn emberd(state: &Path) -> Command {
    let mut command = Command::new(EMBERD);
    command.env("EMBERD_STATE_DIR", state).env_remove("SSH_CONNECTION");
    command
}

fn tune(state: &Path, args: &[&str]) -> Output {
    let output = emberd(state).arg("tune").args(args).output().expect("emberd");
    print!("$ emberd tune {}\n{}", args.join(" "), text(&output));
    print!("{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("exit code")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn somaxconn() -> String {
    fs::read_to_string(PathBuf::from(SOMAXCONN)).expect("sysctl").trim().to_owned()
}

fn wait_for_prompt(child: &mut Child) {
    let mut stderr = BufReader::new(child.stderr.take().expect("stderr"));
    let mut line = String::new();
    stderr.read_line(&mut line).expect("prompt");
    assert!(line.contains("press Enter"), "{line}");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
