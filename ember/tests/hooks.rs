//! The hooks of the example program, in the order of its life.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Example, request};

const CLOSE: &str = "Connection: close\r\n";

fn wait_for(path: &std::path::Path, line: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.lines().any(|of| of == line) {
            return text;
        }
        assert!(Instant::now() < deadline, "no {line:?} in\n{text}");
        std::thread::yield_now();
    }
}

#[test]
fn all_six_hooks_fire() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let example = Example::start_with("hooks", &[("HOOKS_LOG", log.to_str().unwrap())]);
    wait_for(&log, "after the start");

    // On a connection that stays open and on one that ends: the reply is out in either case.
    let mut stream = example.connect();
    std::io::Write::write_all(&mut stream, request("GET /work", "", "").as_bytes()).unwrap();
    wait_for(&log, "sent 200 /work");
    let refused = example.ask(&[&request("GET /refused", CLOSE, "")]);
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    wait_for(&log, "sent 403 /refused");
    // The connection goes on behind a reply that was waited for.
    std::io::Write::write_all(&mut stream, request("GET /plain", CLOSE, "").as_bytes()).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stream, &mut said).unwrap();
    assert!(said.contains("done\n") && said.ends_with("plain\n"), "{said}");

    let late = example.ask(&[&request("GET /late", CLOSE, "")]);
    assert!(late.starts_with("HTTP/1.1 503 "), "{late}");
    wait_for(&log, "late work ended");
    let once = || example.ask(&[&request("GET /once", CLOSE, "")]);
    assert_eq!(once().split("\r\n\r\n").nth(1), once().split("\r\n\r\n").nth(1));
    drop(example);

    let text = wait_for(&log, "before the stop");
    let at = |line: &str| text.lines().position(|of| of == line).expect(line);
    let order = [
        "before the start",
        "after the start",
        "before /work",
        "after it: 200",
        "sent 200 /work",
        "before /refused",
        "sent 403 /refused",
        "before the stop",
    ];
    assert!(order.windows(2).all(|two| at(two[0]) < at(two[1])), "{text}");
}
