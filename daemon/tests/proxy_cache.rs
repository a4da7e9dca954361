//! The proxy's cache: what is kept, for how long, and who fetches it.

mod common;
mod upstream;

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;

use common::{Client, PATIENCE, Reply, Server, wait_until};
use upstream::{Act, Seen, Upstream, reply};

fn cached(upstream: &Upstream, cache: &str) -> Server {
    Server::start(&format!(
        "workers = {{ count = 1, threads = 2 }}\n\
         [[proxy]]\nprefix = \"/\"\nname = \"all\"\nupstreams = [\"{}\"]\ncache = {{ {cache} }}\n\
         max_fails = 0\n",
        upstream.address
    ))
}

fn get(server: &Server, target: &str, fields: &str) -> Reply {
    ask(server, &format!("GET {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n"))
}

fn ask(server: &Server, bytes: &str) -> Reply {
    let mut client = Client::new(server.address);
    client.0.write_all(bytes.as_bytes()).unwrap();
    client.receive().unwrap()
}

fn field<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let mut lines = reply.head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// An upstream that numbers its replies.
fn counting(fields: &'static str) -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        Act::Say(reply(200, fields, &number.to_string()))
    })
}

fn looked_up(server: &Server, result: &str) -> f64 {
    let name = format!("emberd_cache_requests_total{{cache=\"all\",result=\"{result}\"}}");
    server.metric(&name)
}

#[test]
fn replies_are_kept_as_long_as_they_say() {
    let upstream = counting("Cache-Control: max-age=3600\r\nAge: 5\r\nX-A: b\r\n");
    let server = cached(&upstream, "");
    let first = get(&server, "/x?q", "");
    assert_eq!(first.body, "0");
    assert_eq!(field(&first, "cache-status"), Some("emberd; fwd=uri-miss; stored"));
    for _ in 0..3 {
        let next = get(&server, "/x?q", "");
        assert_eq!((next.body.as_str(), field(&next, "x-a")), ("0", Some("b")));
        assert!(field(&next, "age").unwrap().parse::<u64>().unwrap() >= 5);
        assert!(field(&next, "cache-status").unwrap().starts_with("emberd; hit; ttl=3"));
        assert_eq!(next.head.matches("Age:").count(), 1);
    }
    // Host, path and query are the key, and HEAD is answered from what GET got.
    assert_eq!(get(&server, "/x?r", "").body, "1");
    assert_eq!(ask(&server, "GET /x?q HTTP/1.1\r\nHost: other\r\n\r\n").body, "2");
    let mut head = Client::new(server.address);
    head.0.write_all(b"HEAD /x?q HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut head.0, &mut text).unwrap();
    assert!(text.contains("Content-Length: 1\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    assert_eq!(upstream.seen().len(), 3);
    wait_until("all is counted", || (looked_up(&server, "hit") == 4.0).then_some(()));
    assert_eq!(looked_up(&server, "miss"), 3.0);
}

#[test]
fn replies_that_must_not_be_kept_are_not() {
    for fields in [
        "",
        "Cache-Control: no-store\r\n",
        "Cache-Control: private, max-age=60\r\n",
        "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n",
        "Cache-Control: max-age=60\r\nVary: *\r\n",
        "Expires: 0\r\n",
    ] {
        let upstream = counting(fields);
        let server = cached(&upstream, "");
        let bodies: Vec<String> = (0..3).map(|_| get(&server, "/x", "").body).collect();
        assert_eq!(bodies, ["0", "1", "2"], "{fields}");
    }
    // Nor are those to requests that may be one person's.
    let upstream = counting("");
    let server = cached(&upstream, "ttl = \"1h\"");
    for (fields, body) in [
        ("Authorization: x\r\n", "0"),
        ("Cookie: x\r\n", "1"),
        ("Cache-Control: no-store\r\n", "2"),
        ("Range: bytes=0-0\r\n", "3"),
        ("", "4"),
        ("", "4"),
        ("Authorization: x\r\n", "5"),
        ("Cookie: x\r\n", "4"),
    ] {
        assert_eq!(get(&server, "/x", fields).body, body, "{fields}");
    }
    let got = get(&server, "/y", "Cache-Control: only-if-cached\r\n");
    assert_eq!(got.status, 504);
}

#[test]
fn the_config_may_override_what_replies_say() {
    let upstream = counting("Cache-Control: no-store\r\n");
    let server = cached(&upstream, "ttl = \"1h\", override = true");
    assert_eq!(get(&server, "/x", "").body, "0");
    assert_eq!(get(&server, "/x", "").body, "0");
}

#[test]
fn a_thousand_clients_of_a_cold_key_make_one_request() {
    const CLIENTS: usize = 1000;
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let opened = Arc::clone(&gate);
    let upstream = Upstream::start(move |_| {
        let (open, news) = &*opened;
        let guard = open.lock().unwrap();
        drop(news.wait_timeout_while(guard, PATIENCE, |open| !*open).unwrap());
        Act::Say(reply(200, "Cache-Control: max-age=3600\r\n", "once"))
    });
    let server = cached(&upstream, "");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::new(server.address)).collect();
    for client in &mut clients {
        client.send("/cold").unwrap();
    }
    // All are inside before the reply comes.
    wait_until("all wait", || {
        (server.metric("emberd_http_requests_in_flight") >= CLIENTS as f64).then_some(())
    });
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().body, "once");
    }
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(looked_up(&server, "miss"), 1.0);
    assert_eq!(looked_up(&server, "coalesced"), CLIENTS as f64 - 1.0);
}

#[test]
fn a_leader_that_goes_away_is_followed_by_another() {
    let upstream = Upstream::start(|seen| match seen.fields("x-first").is_empty() {
        false => Act::SayAndStall(Vec::new()),
        true => Act::Say(reply(200, "Cache-Control: max-age=3600\r\n", "second")),
    });
    let server = cached(&upstream, "");
    let mut leader = Client::new(server.address);
    leader.0.write_all(b"GET /x HTTP/1.1\r\nHost: test\r\nX-First: 1\r\n\r\n").unwrap();
    upstream.wait_for(1);
    let mut follower = Client::new(server.address);
    follower.send("/x").unwrap();
    wait_until("it waits", || {
        (server.metric("emberd_http_requests_in_flight") >= 2.0).then_some(())
    });
    drop(leader);
    assert_eq!(follower.receive().unwrap().body, "second");
}

#[test]
fn what_is_not_cacheable_is_fetched_side_by_side() {
    // Both requests are at the upstream at the same time, or neither gets on.
    let both = Arc::new(Barrier::new(2));
    let upstream = Upstream::start(move |seen: &Seen| {
        if seen.target() == "/x" && seen.fields("x-wait").len() == 1 {
            both.wait();
        }
        Act::Say(reply(200, "Cache-Control: no-store\r\n", "own"))
    });
    let server = cached(&upstream, "pass_time = \"1h\"");
    assert_eq!(get(&server, "/x", "").body, "own");
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(get(&server, "/x", "X-Wait: 1\r\n").body, "own"));
        }
    });
}

#[test]
fn variants_are_kept_apart() {
    let upstream = Upstream::start(|seen| {
        let body = format!("{:?} {:?}", seen.field("accept"), seen.field("accept-language"));
        let fields = match seen.field("accept-language") {
            Some(_) => "Cache-Control: max-age=3600\r\nVary: Accept-Language\r\n",
            None => "Cache-Control: max-age=3600\r\n",
        };
        Act::Say(reply(200, fields, &body))
    });
    let server = cached(&upstream, "vary = [\"accept\"]");
    let asked = ["Accept: a\r\n", "Accept: b\r\n", "", "Accept: a\r\nAccept-Language: de\r\n"];
    let first: Vec<String> = asked.iter().map(|fields| get(&server, "/x", fields).body).collect();
    // The last one has shown that there is more to vary by: what was kept is looked up anew.
    let second: Vec<String> = asked.iter().map(|fields| get(&server, "/x", fields).body).collect();
    assert_eq!(first[..3], second[..3]);
    let before = upstream.seen().len();
    let third: Vec<String> = asked.iter().map(|fields| get(&server, "/x", fields).body).collect();
    assert_eq!(second, third);
    assert_eq!(upstream.seen().len(), before, "all are kept by now");
}

#[test]
fn conditions_are_answered_from_what_is_kept() {
    let upstream = counting("Cache-Control: max-age=3600\r\nETag: \"a\"\r\n");
    let server = cached(&upstream, "");
    // A miss is fetched as a whole, whatever was asked for.
    assert_eq!(bare(&server, "/x", "If-None-Match: \"a\"\r\n"), 304);
    assert_eq!(get(&server, "/x", "If-None-Match: \"b\"\r\n").body, "0");
    assert_eq!(bare(&server, "/x", "If-None-Match: W/\"a\"\r\n"), 304);
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(upstream.seen()[0].field("if-none-match"), None);
}

/// The status of a reply without a body.
fn bare(server: &Server, target: &str, fields: &str) -> u16 {
    let mut stream = Client::new(server.address).0;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{fields}\r\n")
        .unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn stale_replies_are_used_while_a_newer_one_is_fetched() {
    let upstream = counting("");
    let server = cached(&upstream, "ttl = \"1ms\", stale = \"1h\"");
    assert_eq!(get(&server, "/x", "").body, "0");
    let newer = wait_until("a newer one is there", || {
        let got = get(&server, "/x", "");
        (got.body != "0").then_some(got)
    });
    assert!(field(&newer, "cache-status").is_some());
    assert!(looked_up(&server, "stale") >= 1.0);
    assert_eq!(looked_up(&server, "miss"), 1.0, "nobody has waited but the first");
}

#[test]
fn stale_replies_stand_in_for_failures() {
    let sick = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&sick);
    let upstream = Upstream::start(move |_| match state.load(Ordering::SeqCst) {
        true => Act::Say(reply(503, "", "sick")),
        false => Act::Say(reply(200, "", "well")),
    });
    let server = cached(&upstream, "ttl = \"1ms\", stale_if_error = \"1h\"");
    assert_eq!(get(&server, "/x", "").body, "well");
    sick.store(true, Ordering::SeqCst);
    wait_until("it was asked and failed", || {
        let got = get(&server, "/x", "");
        assert_eq!(got.body, "well");
        field(&got, "cache-status").is_some_and(|told| told.contains("ttl=-")).then_some(())
    });
    assert_eq!(get(&server, "/y", "").status, 503, "there is nothing to stand in");
}

#[test]
fn a_reply_that_still_holds_is_not_sent_again() {
    let upstream = Upstream::start(|seen| match seen.field("if-none-match") {
        Some("\"a\"") => Act::Say(b"HTTP/1.1 304 X\r\nX-New: 1\r\nETag: \"a\"\r\n\r\n".to_vec()),
        _ => Act::Say(reply(200, "ETag: \"a\"\r\nX-Old: 1\r\n", "body")),
    });
    let server = cached(&upstream, "ttl = \"1ms\"");
    assert_eq!(get(&server, "/x", "").body, "body");
    wait_until("it was asked for", || {
        let got = get(&server, "/x", "");
        assert_eq!((got.status, got.body.as_str()), (200, "body"));
        let both = field(&got, "x-new").is_some() && field(&got, "x-old").is_some();
        both.then_some(())
    });
}

#[test]
fn writing_forgets_what_was_kept() {
    let upstream = counting("Cache-Control: max-age=3600\r\n");
    let server = cached(&upstream, "");
    assert_eq!(get(&server, "/x", "").body, "0");
    assert_eq!(get(&server, "/y", "").body, "1");
    ask(&server, "DELETE /x HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(get(&server, "/x", "").body, "3");
    assert_eq!(get(&server, "/y", "").body, "1");
}

#[test]
fn large_replies_are_passed_on_and_not_kept() {
    let upstream = Upstream::start(|seen| {
        let body = "Z".repeat(100_000);
        Act::Say(match seen.target() {
            "/length" => reply(200, "Cache-Control: max-age=60\r\n", &body),
            _ => format!(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n\
                 {:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )
            .into_bytes(),
        })
    });
    let server = cached(&upstream, "max_object = \"64KiB\"");
    for _ in 0..2 {
        assert_eq!(get(&server, "/length", "").body.len(), 100_000);
        let mut stream = Client::new(server.address).0;
        write!(stream, "GET /chunks HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut all).unwrap();
        assert_eq!(all.iter().filter(|&&byte| byte == b'Z').count(), 100_000);
    }
    assert_eq!(upstream.seen().len(), 4);
}

#[test]
fn failures_are_told_to_all_who_wait() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server::start(&format!(
        "[[proxy]]\nprefix = \"/\"\nupstreams = [\"{gone}\"]\ncache = {{ ttl = \"1s\" }}\n"
    ));
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(get(&server, "/x", "").status, 502));
        }
    });
}
