//! The hooks of the example program, in the order of its life.

mod common;

use std::io::{Read as _, Write as _};

use common::{Example, request};

const CLOSE: &str = "Connection: close\r\n";

#[test]
fn all_six_hooks_fire() {
    let example = Example::start("hooks");
    example.wait_for_line("hooks: after the start");

    // On a connection that stays open and on one that ends: the reply is out in either case.
    let mut stream = example.connect();
    stream.write_all(request("GET /work", "", "").as_bytes()).unwrap();
    example.wait_for_line("hooks: sent 200 /work");
    let refused = example.ask(&[&request("GET /refused", CLOSE, "")]);
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    example.wait_for_line("hooks: sent 403 /refused");
    // The connection goes on behind a reply that was waited for.
    stream.write_all(request("GET /plain", CLOSE, "").as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.contains("done\n") && said.ends_with("plain\n"), "{said}");

    let late = example.ask(&[&request("GET /late", CLOSE, "")]);
    assert!(late.starts_with("HTTP/1.1 503 "), "{late}");
    example.wait_for_line("hooks: late work ended");
    let once = || example.ask(&[&request("GET /once", CLOSE, "")]);
    assert_eq!(once().split("\r\n\r\n").nth(1), once().split("\r\n\r\n").nth(1));

    let lines = example.stop();
    let at = |line: &str| {
        let line = format!("hooks: {line}");
        lines.iter().position(|of| *of == line).unwrap_or_else(|| panic!("{line} in {lines:?}"))
    };
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
    assert!(order.windows(2).all(|two| at(two[0]) < at(two[1])), "{lines:?}");
}
