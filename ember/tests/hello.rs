//! The example program, started as its users would start it.

mod common;

use std::io::{Read as _, Write as _};

use common::{Example, request};

#[test]
fn the_example_serves_what_it_says() {
    let example = Example::start("hello");
    let close = "Connection: close\r\n";

    let user = example.ask(&[&request("GET /users/7", close, "")]);
    assert!(user.starts_with("HTTP/1.1 200 OK\r\n"), "{user}");
    assert!(user.ends_with(r#"{"id":7,"name":"user 7"}"#), "{user}");
    let none = example.ask(&[&request("GET /users/0", close, "")]);
    assert!(none.starts_with("HTTP/1.1 404 ") && none.contains("application/problem+json"));
    let word = example.ask(&[&request("GET /users/x", close, "")]);
    assert!(word.starts_with("HTTP/1.1 404 "), "{word}");

    // HEAD is answered by the handler of GET, without the body.
    let head = example.ask(&[&request("HEAD /users/7", close, "")]);
    assert!(head.contains("Content-Length: 24\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let wrong = example.ask(&[&request("GET /echo", close, "")]);
    assert!(wrong.starts_with("HTTP/1.1 405 ") && wrong.contains("Allow: "), "{wrong}");

    // A body in pieces, of a known length and in chunks.
    let fields = format!("{close}Content-Length: 5\r\nContent-Type: text/x\r\n");
    let echo = example.ask(&[&request("POST /echo", &fields, "he"), "ll", "o"]);
    assert!(echo.contains("Content-Type: text/x\r\n") && echo.ends_with("\r\n\r\nhello"), "{echo}");
    let fields = format!("{close}Transfer-Encoding: chunked\r\n");
    let echo =
        example.ask(&[&request("POST /echo", &fields, "2\r\nhe\r"), "\n3\r\nllo\r\n0\r\n\r\n"]);
    assert!(echo.ends_with("\r\n\r\nhello"), "{echo}");
    let large = format!("{close}Content-Length: 70000\r\n");
    let refused = example.ask(&[&request("POST /echo", &large, "")]);
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");

    // What waits for 100 (Continue) is asked to go on.
    let expects = format!("{close}Content-Length: 2\r\nExpect: 100-continue\r\n");
    let mut stream = example.connect();
    stream.write_all(request("POST /echo", &expects, "").as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("ok"), "{said}");
}

#[test]
fn pipelined_requests_are_answered_in_order_and_a_panic_hurts_nobody() {
    let example = Example::start("hello");
    let mut pipelined = String::new();
    for turn in 1..=20 {
        pipelined += &request("GET /hello", "", "");
        pipelined += &request(&format!("GET /users/{turn}"), "", "");
        pipelined += &request("POST /echo", "Content-Length: 3\r\n", &format!("{:03}", turn));
        pipelined += &request("GET /panic", "", "");
    }
    pipelined += &request("GET /health", "Connection: close\r\n", "");
    let (first, second) = pipelined.split_at(pipelined.len() / 3);
    let said = example.ask(&[first, second]);
    let mut rest = said.as_str();
    for turn in 1..=20 {
        for part in
            ["Hello, World!", &format!("\"id\":{turn},"), &format!("\r\n\r\n{turn:03}"), " 500 "]
        {
            let at =
                rest.find(part).unwrap_or_else(|| panic!("turn {turn}: no {part:?} in {rest}"));
            rest = &rest[at + part.len()..];
        }
    }
    assert!(rest.ends_with(r#"{"status":"ok"}"#), "{rest}");
    assert_eq!(said.matches("HTTP/1.1 ").count(), 81);
}
