//! Handlers that suspend, bodies in pieces, and connections that are taken over, in the example
//! program that has one of each.

mod common;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use common::{Example, request};

const CLOSE: &str = "Connection: close\r\n";

fn body_of(reply: &str) -> &str {
    reply.split_once("\r\n\r\n").expect("a whole head").1
}

fn get(path: &str) -> String {
    request(&format!("GET {path}"), "", "")
}

fn last(path: &str) -> String {
    request(&format!("GET {path}"), CLOSE, "")
}

/// Takes chunks apart.
fn joined(mut chunked: &str) -> String {
    let mut whole = String::new();
    loop {
        let (line, rest) = chunked.split_once("\r\n").expect("a chunk's line");
        let len = usize::from_str_radix(line, 16).expect("a chunk's length");
        if len == 0 {
            assert_eq!(rest, "\r\n");
            return whole;
        }
        whole.push_str(&rest[..len]);
        chunked = rest[len..].strip_prefix("\r\n").expect("a chunk's end");
    }
}

#[test]
fn replies_keep_their_order_whatever_suspends() {
    let example = Example::start("handlers");
    let paths = ["/plain", "/later/30", "/later/1", "/spawned", "/plain", "/later/5", "/plain"];
    let mut all: String = paths.iter().map(|path| get(path)).collect();
    all.push_str(&last("/later/2"));
    let expected = [
        "at once\n",
        "30 ms later\n",
        "1 ms later\n",
        "6\n",
        "at once\n",
        "5 ms later\n",
        "at once\n",
        "2 ms later\n",
    ];
    for cut in [0, 1, 7, 40, 41, 80, 120, 200, all.len() - 1] {
        let said = example.ask(&[&all[..cut], &all[cut..]]);
        let bodies: Vec<&str> = said
            .split("HTTP/1.1 200 OK\r\n")
            .skip(1)
            .map(|reply| reply.split_once("\r\n\r\n").unwrap().1)
            .collect();
        assert_eq!(bodies, expected, "cut at {cut}");
    }
}

#[test]
fn bodies_are_read_in_pieces_and_whole() {
    let example = Example::start("handlers");
    let body = "0123456789abcdef".repeat(20_000);
    let fields = format!("{CLOSE}Content-Length: {}\r\n", body.len());
    let said = example.ask(&[&request("PUT /length", &fields, &body)]);
    assert_eq!(body_of(&said), "320000\n");
    let said = example.ask(&[&request("PUT /loaded", &fields, &body)]);
    let sum = body.bytes().map(u64::from).sum::<u64>();
    assert_eq!(body_of(&said), format!("320000 {sum}\n"));
    let chunks = format!("{CLOSE}Transfer-Encoding: chunked\r\n");
    let head = request("PUT /length", &chunks, "");
    let said = example.ask(&[&head, "3\r\nabc", "\r\n5;x=y\r\nde", "fgh\r\n0\r\n", "A: b\r\n\r\n"]);
    assert_eq!(body_of(&said), "8\n");
}

#[test]
fn a_body_is_asked_for_when_the_handler_wants_it() {
    let example = Example::start("handlers");
    let mut stream = example.connect();
    let fields = format!("{CLOSE}Expect: 100-continue\r\nContent-Length: 5\r\n");
    stream.write_all(request("PUT /length", &fields, "").as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"12345").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(body_of(&said), "5\n");
}

#[test]
fn streamed_replies_are_framed_and_can_be_followed() {
    let example = Example::start("handlers");
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    let said = example.ask(&[&get("/count/30000"), &get("/count/0"), &last("/plain")]);
    let (first, rest) = said.split_once("\r\n\r\n").unwrap();
    assert!(first.contains("Transfer-Encoding: chunked"), "{first}");
    let end = rest.find("0\r\n\r\nHTTP/1.1").expect("a next reply") + 5;
    assert_eq!(joined(&rest[..end]), expected);
    let second = &rest[end..];
    assert_eq!(joined(&body_of(second)[..5]), "");
    assert!(second.ends_with("\r\n\r\nat once\n"));
    // HTTP/1.0 knows no chunks: the body ends with the connection.
    let said = example.ask(&["GET /count/30000 HTTP/1.0\r\n\r\n"]);
    assert_eq!(body_of(&said), expected);
    let said = example.ask(&[&last("/count/3").replacen("GET", "HEAD", 1)]);
    assert_eq!(body_of(&said), "");
    let said = example.ask(&[&get("/broken")]);
    assert!(said.contains("the first half") && !said.ends_with("0\r\n\r\n"), "{said}");
}

#[test]
fn a_connection_can_speak_another_protocol() {
    let example = Example::start("handlers");
    let mut stream = example.connect();
    let head = request("GET /shout", "Connection: upgrade\r\nUpgrade: shout\r\n", "early ");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"and late").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
    assert_eq!(body_of(&said), "EARLY AND LATE");
}

#[test]
fn clients_are_known_and_their_leaving_is_noticed() {
    let example = Example::start("handlers");
    let mut stream = example.connect();
    let here = stream.local_addr().unwrap();
    for _ in 0..2 {
        stream.write_all(get("/who").as_bytes()).unwrap();
        let mut said = vec![0; 4096];
        let len = stream.read(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said[..len]).into_owned();
        assert_eq!(body_of(&said), format!("Inet({here})\n"));
    }
    stream.write_all(get("/never").as_bytes()).unwrap();
    // The scrape is one of them.
    example.wait_for("emberd_http_requests_in_flight 2");
    drop(stream);
    example.wait_for("emberd_http_requests_in_flight 1");
    example.wait_for("reason=\"cancelled\"");
}
