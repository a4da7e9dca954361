//! The kernel's own word that prepared hits go out as linked pairs: what its tracepoints saw.

mod common;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{Client, Server};

/// Mounts tracefs where nobody else sees it, traces one process in an instance of its own until
/// a line comes, and prints what was seen.
const SCRIPT: &str = r#"
set -e
mount -t tracefs none "$1" || { echo "no tracefs"; exit 0; }
mine="$1/instances/emberd-test-$2"
mkdir "$mine" || { echo "no trace instance"; exit 0; }
trap 'echo 0 > "$mine/tracing_on"; rmdir "$mine"' EXIT
cat /proc/"$2"/task/*/comm > /dev/null
for task in /proc/"$2"/task/*; do echo "${task##*/}" >> "$mine/set_event_pid"; done
echo 1 > "$mine/events/io_uring/io_uring_submit_req/enable"
echo 1 > "$mine/events/io_uring/io_uring_link/enable"
echo 1 > "$mine/events/io_uring/io_uring_fail_link/enable"
echo on
read -r _
cat "$mine/trace"
"#;

const REQUESTS: usize = 50;

#[test]
fn prepared_hits_are_linked_pairs_to_the_kernel() {
    let server =
        Server::start("workers = { count = 1, threads = 1 }\nring = { backend = \"io_uring\" }");
    let mut client = Client::new(server.address);
    // The first request comes with an accept and a receive of its own.
    client.get("/hello").unwrap();
    let worker = server.workers()[0];
    // Taken away while it is mounted on, it would end the mount.
    let mount = tempfile::tempdir().unwrap();
    let tracing = start_tracing(worker.as_raw(), mount.path());
    let Some((mut script, mut said)) = tracing else { return };
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/hello").unwrap().status, 200);
    }
    script.stdin.take().unwrap().write_all(b"enough\n").unwrap();
    let mut trace = String::new();
    said.read_to_string(&mut trace).unwrap();
    assert!(script.wait().unwrap().success());

    let mut opcodes = HashMap::new();
    let mut pairs = Vec::new();
    for line in trace.lines() {
        if let Some((_, event)) = line.split_once("io_uring_submit_req: ") {
            opcodes.insert(word_after(event, "req "), word_after(event, "opcode "));
        } else if let Some((_, event)) = line.split_once("io_uring_link: ") {
            let (behind, before) = (word_after(event, "request "), word_after(event, "after "));
            // Requests are used again, so the opcode is the one of this moment.
            pairs.push((opcodes.get(before).copied(), behind.to_owned()));
            opcodes.insert("last", behind);
        }
    }
    let sends = pairs.iter().filter(|(before, _)| *before == Some("SEND")).count();
    assert_eq!(sends, REQUESTS, "links behind a SEND in\n{trace}");
    let receives = trace.lines().filter(|line| line.contains("opcode RECV")).count();
    assert!(receives >= REQUESTS, "{receives} receives in\n{trace}");
    assert!(!trace.contains("io_uring_fail_link:"), "{trace}");
}

/// The same is found by the ring's own accounting, which `/metrics` tells.
#[test]
fn the_counters_tell_of_the_chains() {
    let server = Server::start("workers = { count = 1, threads = 1 }");
    let mut client = Client::new(server.address);
    for _ in 0..REQUESTS {
        client.get("/hello").unwrap();
    }
    let queued = |chain: &str| {
        let labels = format!("{{route=\"/hello\",chain=\"{chain}\",result=\"queued\"}}");
        server.metric(&format!("emberd_prepared_sends_total{labels}"))
    };
    assert_eq!(queued("reply_recv"), REQUESTS as f64);
    let last = b"GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    client.0.write_all(last).unwrap();
    assert!(client.receive().unwrap().close);
    assert!(client.is_closed());
    assert_eq!(queued("last"), 1.0);
}

fn start_tracing(pid: i32, mount: &Path) -> Option<(Child, BufReader<ChildStdout>)> {
    let mut script = Command::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, "trace"])
        .arg(mount)
        .arg(pid.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(script.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    if line.trim() == "on" {
        return Some((script, said));
    }
    println!("skipped: the kernel's tracepoints cannot be read here ({})", line.trim());
    let _ = script.wait();
    None
}

fn word_after<'a>(text: &'a str, mark: &str) -> &'a str {
    let word = text.split_once(mark).map_or("", |(_, rest)| rest);
    word.split([' ', ',']).next().unwrap_or(word)
}
