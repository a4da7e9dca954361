//! The example program, started as its users would start it.

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

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
    assert!(echo.contains("Transfer-Encoding: chunked\r\n"), "{echo}");
    let chunks = echo.split_once("\r\n\r\n").unwrap().1;
    let lines: Vec<&str> = chunks.split("\r\n").collect();
    let data: String = lines.iter().skip(1).step_by(2).copied().collect();
    assert!(data == "hello" && chunks.ends_with("0\r\n\r\n"), "{echo}");
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

#[test]
fn the_clock_ticks_and_goes_on_where_a_client_was() {
    let example = Example::start("hello");
    let mut stream = example.connect();
    stream.write_all(request("GET /clock", "", "").as_bytes()).unwrap();
    let ids = |stream: std::net::TcpStream, count: usize| -> Vec<u64> {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let ids = lines.filter_map(|line| line.strip_prefix("id: ")?.parse().ok());
        ids.take(count).collect()
    };
    let first = ids(stream, 2);
    assert_eq!(first[1], first[0] + 1);
    // One that has missed some gets them at once.
    let mut stream = example.connect();
    let seen = format!("Last-Event-ID: {}\r\n", first[1] - 10);
    stream.write_all(request("GET /clock", &seen, "").as_bytes()).unwrap();
    let missed = ids(stream, 10);
    assert_eq!(missed, (first[1] - 9..=first[1]).collect::<Vec<_>>());
}

#[test]
fn messages_come_back_over_a_websocket() {
    use async_tungstenite::tungstenite::{Message, client};

    let example = Example::start("hello");
    let plain = example.ask(&[&request("GET /ws", "Connection: close\r\n", "")]);
    assert!(plain.starts_with("HTTP/1.1 426 "), "{plain}");
    let stream = example.connect();
    let (mut socket, reply) = client("ws://test/ws", stream).unwrap();
    assert_eq!(reply.status(), 101);
    for len in [0, 5, 126, 70_000] {
        let message = Message::binary(vec![7; len]);
        socket.send(message.clone()).unwrap();
        assert_eq!(socket.read().unwrap(), message);
    }
    socket.send(Message::text("text")).unwrap();
    assert_eq!(socket.read().unwrap(), Message::text("text"));
    socket.send(Message::Ping(vec![1, 2].into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(vec![1, 2].into()));
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
}
