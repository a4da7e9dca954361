//! Requests passed on to upstreams that do what upstreams do: reply, stall, lie and die.

mod common;
mod upstream;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Client, PATIENCE, Reply, Server, wait_until};
use upstream::{Act, Upstream, reply};

/// A server with one proxy at `/`, to these upstreams, with these keys.
fn proxy(upstreams: &[&Upstream], keys: &str) -> Server {
    let list: Vec<String> = upstreams.iter().map(|to| format!("\"{}\"", to.address)).collect();
    proxy_to(&list.join(", "), keys)
}

fn proxy_to(upstreams: &str, keys: &str) -> Server {
    Server::start(&format!(
        "workers = {{ count = 1, threads = 2 }}\n\
         [[proxy]]\nprefix = \"/\"\nname = \"all\"\nupstreams = [{upstreams}]\n{keys}\n"
    ))
}

/// Sends bytes and reads one reply.
fn ask(server: &Server, bytes: &str) -> Reply {
    let mut client = Client::new(server.address);
    client.0.write_all(bytes.as_bytes()).unwrap();
    client.receive().unwrap()
}

/// Sends bytes and reads until the end of the connection.
fn ask_all(server: &Server, bytes: &str) -> String {
    let mut stream = Client::new(server.address).0;
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut all = Vec::new();
    // A connection that is reset has said what it had to.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

const GET: &str = "GET /x HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn a_request_goes_through_and_its_reply_comes_back() {
    let upstream =
        Upstream::saying(reply(201, "X-Own: a\r\nConnection: X-Hop\r\nX-Hop: 1\r\n", "hi"));
    let server = proxy(&[&upstream], "");
    let mut client = Client::new(server.address);
    let request = "GET /a%20b?q=%20 HTTP/1.1\r\nHost: Test:80\r\nAccept: x\r\nConnection: X-Mine\r\n\
                   X-Mine: 1\r\nX-Forwarded-For: 6.6.6.6\r\nx_forwarded_for: 6.6.6.6\r\n\
                   TE: trailers\r\nUpgrade: h2c\r\n\r\n";
    for _ in 0..2 {
        client.0.write_all(request.as_bytes()).unwrap();
        let got = client.receive().unwrap();
        assert_eq!((got.status, got.body.as_str()), (201, "hi"));
        assert!(got.head.contains("X-Own: a\r\n") && !got.head.contains("X-Hop"), "{}", got.head);
    }
    let seen = upstream.wait_for(2);
    assert_eq!(
        seen[0].head,
        "GET /a%20b?q=%20 HTTP/1.1\r\nHost: Test:80\r\nAccept: x\r\n\
         X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: Test:80\r\n\
         Via: 1.1 emberd\r\n\r\n"
    );
    assert_eq!(upstream.connections(), 1, "the connection is kept");
    let metric = |labels: &str| server.metric(&format!("emberd_{labels}"));
    let label =
        format!("upstream_requests_total{{upstream=\"{}\",code=\"201\"}}", upstream.address);
    assert_eq!(metric(&label), 2.0);
    let of_route =
        "http_requests_total{route=\"all\",method=\"GET\",code=\"201\",path_kind=\"proxy\"}";
    assert_eq!(metric(of_route), 2.0);
    wait_until("it is told to be up", || {
        (metric(&format!("upstream_up{{upstream=\"{}\"}}", upstream.address)) == 1.0).then_some(())
    });
}

#[test]
fn bodies_go_both_ways_whatever_their_framing() {
    let upstream = Upstream::start(|seen| {
        let got = format!("{:?}", String::from_utf8_lossy(&seen.body));
        Act::Say(match seen.target() {
            "/length" => reply(200, "", &got),
            "/chunks" => format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n{:x}\r\n{got}\r\n\
                 0\r\nTrailer: x\r\n\r\n",
                got.len()
            )
            .into_bytes(),
            _ => return Act::SayAndClose(format!("HTTP/1.0 200 OK\r\n\r\n{got}").into_bytes()),
        })
    });
    let server = proxy(&[&upstream], "");
    let length = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    assert_eq!(ask(&server, length).body, "\"body\"");
    let chunks = "PUT /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                  Connection: close\r\n\r\n2;e\r\nbo\r\n2\r\ndy\r\n0\r\nT: u\r\n\r\n";
    let got = ask_all(&server, chunks);
    assert!(got.contains("abc") && got.contains("\"4\\r\\nbody\\r\\n0\\r\\n\\r\\n\""), "{got}");
    assert!(!got.contains("Trailer"), "{got}");
    let close = "POST /close HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(ask_all(&server, close).contains("\"\""));
    let seen = upstream.seen();
    assert_eq!(seen[0].fields("content-length"), ["4"]);
    assert_eq!(seen[1].fields("transfer-encoding"), ["chunked"]);
    assert_eq!(seen[1].fields("content-length"), [""; 0]);
    assert_eq!(seen[2].fields("content-length"), ["0"]);
    // HEAD is told the length, and 304 and 204 have none.
    let head = "HEAD /length HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let got = ask_all(&server, head);
    assert!(got.contains("Content-Length: 2\r\n") && got.ends_with("\r\n\r\n"), "{got}");
}

#[test]
fn an_expectation_is_met_by_the_proxy() {
    let upstream = Upstream::start(|seen| {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: x\r\n\r\n".to_vec();
        let body = String::from_utf8_lossy(&seen.body).into_owned();
        Act::Say([interim, reply(200, "", &body)].concat())
    });
    let server = proxy(&[&upstream], "");
    let mut client = Client::new(server.address);
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    client.0.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    client.0.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.0.write_all(b"hi").unwrap();
    let got = client.receive().unwrap();
    assert_eq!((got.status, got.body.as_str()), (200, "hi"));
    assert_eq!(upstream.seen()[0].field("expect"), None);
}

#[test]
fn the_prefix_is_cut_off_where_that_is_asked_for() {
    let upstream = Upstream::saying(reply(200, "", ""));
    let server = Server::start(&format!(
        "[[proxy]]\nprefix = \"/api\"\nupstreams = [\"{}\"]\nstrip_prefix = true\nhost = \"inner\"\n\
         forwarded = \"both\"\n",
        upstream.address
    ));
    let mut client = Client::new(server.address);
    let paths = ["/api", "/api/", "/api/a?b", "/%61pi/c", "/x/../api/d%2Fe", "/api//f"];
    for path in paths {
        assert_eq!(client.get(path).unwrap().status, 200, "{path}");
    }
    assert_eq!(client.get("/apix").unwrap().status, 404);
    let seen = upstream.seen();
    let targets: Vec<&str> = seen.iter().map(|seen| seen.target()).collect();
    assert_eq!(targets, ["/", "/", "/a?b", "/c", "/d%2Fe", "//f"]);
    assert_eq!(seen[0].field("host"), Some("inner"));
    assert_eq!(seen[0].fields("forwarded"), ["for=127.0.0.1;host=\"test\";proto=http"]);
}

#[test]
fn trusted_proxies_are_believed_and_others_are_not() {
    let upstream = Upstream::saying(reply(200, "", ""));
    let told = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
                Forwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\n";
    for (keys, chain, proto) in [
        ("", vec!["127.0.0.1"], vec!["http"]),
        ("trusted = [\"127.0.0.0/8\"]", vec!["1.2.3.4, 127.0.0.1"], vec!["https"]),
        ("forwarded = \"off\"", vec![], vec![]),
    ] {
        let server = proxy(&[&upstream], keys);
        assert_eq!(ask(&server, told).status, 200);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.fields("x-forwarded-for"), chain, "{keys}");
        assert_eq!(seen.fields("x-forwarded-proto"), proto, "{keys}");
        assert_eq!(seen.field("x-real-ip"), None);
        assert_eq!(seen.field("forwarded").is_some(), keys.starts_with("trusted"), "{keys}");
    }
}

#[test]
fn nothing_is_smuggled_through() {
    let upstream = Upstream::start(|seen| Act::Say(reply(200, "", seen.target())));
    let server = proxy(&[&upstream], "");
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = hidden.len();
    let refused = [
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"
        ),
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n{hidden}"),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n{hidden}"),
        format!("POST / HTTP/1.1\r\nHost: a\r\nA: b\r\n Content-Length: {length}\r\n\r\n{hidden}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nA: b\nX: {hidden}"),
        "GET /a HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ];
    for bytes in &refused {
        let got = ask_all(&server, bytes);
        assert!(got.starts_with("HTTP/1.1 4"), "{bytes:?}: {got}");
        assert!(!got.contains("hidden"), "{bytes:?}: {got}");
    }
    assert!(upstream.seen().iter().all(|seen| seen.target() != "/hidden"), "{:?}", upstream.seen());
    // What is a body stays a body.
    let before = upstream.seen().len();
    let body =
        format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{hidden}");
    assert_eq!(ask(&server, &body).body, "/body");
    let seen = upstream.seen();
    assert_eq!(seen.len(), before + 1);
    assert_eq!(seen[before].body, hidden.as_bytes());
}

#[test]
fn replies_that_cannot_be_believed_are_502() {
    let upstream = Upstream::start(|seen| {
        Act::SayAndClose(match seen.target() {
            "/conflict" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            "/twice" => "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".into(),
            "/fold" => "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n".into(),
            "/large" => format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(70_000)).into_bytes(),
            "/garbage" => "SSH-2.0-x\r\n".into(),
            "/half" => "HTTP/1.1 200 OK\r\nContent-Le".into(),
            "/upgrade" => "HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".into(),
            "/interim" => "HTTP/1.1 103 X\r\n\r\n".repeat(100).into_bytes(),
            _ => Vec::new(),
        })
    });
    let server = proxy(&[&upstream], "max_fails = 0");
    for (path, why) in [
        ("/conflict", "contradict"),
        ("/twice", "Content-Length"),
        ("/fold", "field"),
        ("/large", "too long"),
        ("/garbage", "status line"),
        ("/half", "too early"),
        ("/upgrade", "protocol"),
        ("/interim", "before its request"),
        ("/nothing", "without a reply"),
    ] {
        let got = Client::new(server.address).get(path).unwrap();
        assert_eq!(got.status, 502, "{path}: {}", got.head);
        assert!(
            got.body.contains("upstream 1 of 1") && got.body.contains(why),
            "{path}: {}",
            got.body
        );
        assert!(got.head.contains("application/problem+json"), "{}", got.head);
    }
}

#[test]
fn a_reply_that_breaks_off_breaks_off_for_the_client_too() {
    let upstream = Upstream::start(|seen| {
        Act::SayAndClose(match seen.target() {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc".into(),
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".into(),
        })
    });
    let server = proxy(&[&upstream], "");
    let got = ask_all(&server, "GET /length HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(got.contains("Content-Length: 100\r\n"), "{got}");
    let got = ask_all(&server, "GET /chunks HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(got.contains("chunked") && !got.ends_with("0\r\n\r\n"), "{got}");
}

#[test]
fn upstreams_that_stall_are_504_and_say_which() {
    let stalling = Upstream::start(|seen| match seen.target() {
        "/body" => Act::SayAndStall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc".to_vec()),
        _ => Act::SayAndStall(b"HTTP/1.1 200".to_vec()),
    });
    let keys = "response_timeout = \"50ms\"\nstall_timeout = \"50ms\"";
    let server = proxy(&[&stalling], keys);
    let got = ask(&server, GET);
    assert_eq!(got.status, 504);
    assert!(got.body.contains("upstream 1 of 1: no reply came in 50ms"), "{}", got.body);
    let got = ask_all(&server, "GET /body HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
}

#[test]
fn a_dead_upstream_is_passed_over_and_a_lone_one_is_502() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let alive = Upstream::saying(reply(200, "", "alive"));
    let server = proxy_to(&format!("\"{gone}\", \"{}\"", alive.address), "");
    let mut client = Client::new(server.address);
    for _ in 0..20 {
        assert_eq!(client.get("/x").unwrap().body, "alive");
    }
    // A POST that was not sent anywhere may go elsewhere as well.
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(ask(&server, post).status, 200);
    let lone = proxy_to(&format!("\"{gone}\""), "");
    let got = ask(&lone, GET);
    assert_eq!(got.status, 502);
    assert!(got.body.contains("cannot be connected to"), "{}", got.body);
}

#[test]
fn only_what_may_be_sent_twice_is_tried_again() {
    let dying = Upstream::start(|_| Act::SayAndClose(Vec::new()));
    let alive =
        Upstream::start(|seen| Act::Say(reply(200, "", &String::from_utf8_lossy(&seen.body))));
    let keys = "balance = \"hash\"\nhash_by = \"path\"\nmax_fails = 0";
    let server = proxy(&[&dying, &alive], keys);
    // A path that belongs to the one that dies.
    let path = (0..100).map(|n| format!("/{n}")).find(|path| {
        let before = dying.seen().len();
        Client::new(server.address).get(path).unwrap();
        dying.seen().len() > before
    });
    let path = path.expect("one of a hundred");
    let count = |upstream: &Upstream| upstream.seen().len();
    let before = (count(&dying), count(&alive));
    let put = format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(ask(&server, &put).body, "hi", "the body is sent again");
    assert_eq!((count(&dying), count(&alive)), (before.0 + 1, before.1 + 1));
    let post = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(ask(&server, &post).status, 502);
    assert_eq!((count(&dying), count(&alive)), (before.0 + 2, before.1 + 1), "once only");
}

#[test]
fn a_kept_connection_that_ends_costs_nobody_a_reply() {
    // Every second request on a connection finds it closed.
    let upstream = Upstream::start(|seen| match seen.head.contains("/close") {
        true => Act::SayAndClose(reply(200, "", "closed")),
        false => Act::Say(reply(200, "", "kept")),
    });
    let server = proxy(&[&upstream], "retries = 0\nmax_fails = 1");
    let mut client = Client::new(server.address);
    for _ in 0..20 {
        assert_eq!(client.get("/keep").unwrap().status, 200);
        assert_eq!(client.get("/close").unwrap().status, 200);
    }
}

#[test]
fn requests_are_spread_over_all_upstreams() {
    let all = [(); 3].map(|()| Upstream::saying(reply(200, "", "")));
    let server = proxy(&[&all[0], &all[1], &all[2]], "");
    let mut client = Client::new(server.address);
    for _ in 0..30 {
        client.get("/x").unwrap();
    }
    let counts = all.each_ref().map(|upstream| upstream.seen().len());
    assert_eq!(counts, [10; 3]);
    let server =
        proxy(&[&all[0], &all[1], &all[2]], "balance = \"hash\"\nhash_by = \"header:x-user\"");
    for user in ["a", "b", "c", "d", "e", "f"] {
        let before = all.each_ref().map(|upstream| upstream.seen().len());
        for _ in 0..5 {
            ask(&server, &format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"));
        }
        let after = all.each_ref().map(|upstream| upstream.seen().len());
        assert!((0..3).any(|at| after[at] == before[at] + 5), "{before:?} {after:?}");
    }
}

#[test]
fn checks_take_an_upstream_out_and_bring_it_back() {
    let sick = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&sick);
    let upstream =
        Upstream::start(move |seen| match (seen.target(), state.load(Ordering::SeqCst)) {
            ("/healthz", 1) => Act::Say(reply(500, "", "")),
            _ => Act::Say(reply(200, "", "")),
        });
    let keys = "health = { path = \"/healthz\", interval = \"10ms\", rise = 1, fall = 2 }";
    let server = proxy(&[&upstream], keys);
    assert_eq!(ask(&server, GET).status, 200);
    sick.store(1, Ordering::SeqCst);
    server.wait_for_line("is down");
    let got = ask(&server, GET);
    assert_eq!(got.status, 503);
    assert!(got.body.contains("no upstream is up"), "{}", got.body);
    let up = format!("emberd_upstream_up{{upstream=\"{}\"}}", upstream.address);
    wait_until("it is told to be down", || (server.metric(&up) == 0.0).then_some(()));
    sick.store(0, Ordering::SeqCst);
    server.wait_for_line("is up again");
    assert_eq!(ask(&server, GET).status, 200);
}

#[test]
fn a_websocket_goes_through_where_it_may() {
    let upstream = Upstream::start(|seen| {
        assert_eq!(seen.field("upgrade"), Some("websocket"));
        Act::Take(Box::new(|mut stream| {
            let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                          Connection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst";
            stream.write_all(accept.as_bytes()).unwrap();
            let mut copy = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut copy).unwrap();
            copy.write_all(b"last").unwrap();
        }))
    });
    let server = proxy(&[&upstream], "websocket = true");
    let mut stream = Client::new(server.address).0;
    let ask = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\nearly";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut got = Vec::new();
    let mut some = [0; 4096];
    while !got.ends_with(b"firstearly") && !got.ends_with(b"earlyfirst") {
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&some[..count]);
    }
    let head = String::from_utf8_lossy(&got).into_owned();
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for field in
        ["Connection: upgrade\r\n", "Upgrade: websocket\r\n", "Sec-WebSocket-Accept: x\r\n"]
    {
        assert!(head.contains(field), "{head}");
    }
    // More than any buffer, both ways at once.
    let data: Vec<u8> = (0..4_000_000u32).map(|n| n as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = data.clone();
    let sending = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).unwrap();
    sending.join().unwrap();
    assert_eq!(echoed.len(), data.len() + 4);
    assert!(echoed.starts_with(&data) && echoed.ends_with(b"last"), "each end is passed on alone");
}

#[test]
fn upgrades_are_for_those_who_may_only() {
    let upstream = Upstream::saying(reply(200, "", "plain"));
    let server = proxy(&[&upstream], "");
    let wish = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(ask(&server, wish).body, "plain");
    assert_eq!(upstream.seen()[0].field("upgrade"), None);
    for method in ["CONNECT a:80", "TRACE /"] {
        let got = ask_all(
            &server,
            &format!("{method} HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\n\r\n"),
        );
        let refused = got.starts_with("HTTP/1.1 405") || got.starts_with("HTTP/1.1 501");
        assert!(refused, "{got}");
    }
    assert_eq!(upstream.seen().len(), 1);
}

#[test]
fn a_slow_client_holds_its_upstream_up() {
    const LEN: usize = 64 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let upstream = Upstream::start(move |_| {
        let count = Arc::clone(&count);
        Act::Take(Box::new(move |mut stream| {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").unwrap();
            let piece = vec![b'x'; 1 << 16];
            for _ in 0..LEN / piece.len() {
                stream.write_all(&piece).unwrap();
                count.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }))
    });
    let server = proxy(&[&upstream], "");
    let mut stream = Client::new(server.address).0;
    stream.write_all(GET.as_bytes()).unwrap();
    // It comes to rest though nobody reads: all buffers on the way are full.
    let mut last = 0;
    wait_until("the upstream is held up", || {
        thread::sleep(std::time::Duration::from_millis(100));
        let now = sent.load(Ordering::SeqCst);
        let rests = now > 0 && now == last;
        last = now;
        rests.then_some(())
    });
    assert!(last < LEN / 2, "{last} bytes are on their way");
    let mut all = Vec::new();
    let mut some = vec![0; 1 << 16];
    while all.len() < LEN {
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0);
        all.extend_from_slice(&some[..count]);
    }
}

#[test]
fn a_slow_upstream_holds_its_client_up() {
    const LEN: usize = 32 << 20;
    let upstream = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    };
    let (listener, address) = upstream;
    let server = proxy_to(&format!("\"{address}\""), "max_body = \"1GiB\"");
    let mut client = Client::new(server.address).0;
    let head = format!("POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    let (mut taken, _) = listener.accept().unwrap();
    let mut writer = client.try_clone().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let sending = thread::spawn(move || {
        let piece = vec![b'y'; 1 << 16];
        for _ in 0..LEN / piece.len() {
            writer.write_all(&piece).unwrap();
            count.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    let mut last = 0;
    wait_until("the client is held up", || {
        thread::sleep(std::time::Duration::from_millis(100));
        let now = sent.load(Ordering::SeqCst);
        let rests = now > 0 && now == last;
        last = now;
        rests.then_some(())
    });
    assert!(last < LEN * 3 / 4, "{last} bytes are on their way");
    let mut got = Vec::new();
    let mut some = vec![0; 1 << 16];
    while !got.windows(4).any(|four| four == b"\r\n\r\n") {
        let count = taken.read(&mut some).unwrap();
        got.extend_from_slice(&some[..count]);
    }
    let head_end = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut len = got.len() - head_end;
    while len < LEN {
        let count = taken.read(&mut some).unwrap();
        assert!(count > 0, "after {len}");
        len += count;
    }
    assert_eq!(len, LEN);
    sending.join().unwrap();
    taken.write_all(&reply(200, "", "done")).unwrap();
    assert_eq!(Client(client).receive().unwrap().body, "done");
}

#[test]
fn an_upstream_may_refuse_a_body_before_it_has_come() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = proxy_to(&format!("\"{address}\""), "");
    let mut client = Client::new(server.address);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbeginning";
    client.0.write_all(head.as_bytes()).unwrap();
    let (mut taken, _) = listener.accept().unwrap();
    let _ = taken.read(&mut [0; 4096]).unwrap();
    taken.write_all(&reply(413, "Connection: close\r\n", "too large")).unwrap();
    let got = client.receive().unwrap();
    assert_eq!((got.status, got.body.as_str()), (413, "too large"));
}

#[test]
fn upstreams_may_be_unix_sockets_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("up.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    // Workers may be an ordinary user.
    for (path, mode) in [(folder.path(), 0o755), (path.as_path(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).unwrap();
            let text = String::from_utf8_lossy(&some[..count]).into_owned();
            stream.write_all(&reply(200, "Connection: close\r\n", &text)).unwrap();
        }
    });
    let server = proxy_to(&format!("\"unix:{}\"", path.display()), "host = \"upstream\"");
    let got = ask(&server, GET);
    assert!(got.body.contains("Host: localhost\r\n"), "{}", got.body);
    let upstream = Upstream::saying(reply(200, "", "named"));
    let port = upstream.address.port();
    let server = proxy_to(&format!("\"localhost:{port}\""), "host = \"upstream\"");
    assert_eq!(ask(&server, GET).body, "named");
    assert_eq!(upstream.seen()[0].field("host"), Some(format!("localhost:{port}").as_str()));
    let nowhere = proxy_to("\"no-such-name.invalid:80\"", "");
    let got = ask(&nowhere, GET);
    assert_eq!(got.status, 502);
    assert!(got.body.contains("its name has no address"), "{}", got.body);
}

#[test]
fn upstreams_are_told_the_client_by_the_proxy_protocol() {
    for (version, start) in
        [("v1", &b"PROXY TCP4 127.0.0.1 "[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server =
            proxy_to(&format!("\"{address}\""), &format!("proxy_protocol = \"{version}\""));
        let mut client = Client::new(server.address);
        let port = client.0.local_addr().unwrap().port();
        for _ in 0..2 {
            client.send("/x").unwrap();
            // A connection of its own each time: its address holds for one client.
            let (mut taken, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n\r\n") || got.len() < 40 {
                let mut some = [0; 4096];
                let count = taken.read(&mut some).unwrap();
                got.extend_from_slice(&some[..count]);
            }
            assert!(got.starts_with(start), "{:?}", got.escape_ascii().to_string());
            let (proxied, len) = ember_http::proxy_protocol::Proxied::parse(&got).unwrap().unwrap();
            let ember_http::proxy_protocol::Proxied::Client { source, .. } = proxied else {
                panic!("{proxied:?}");
            };
            assert_eq!(source.port(), port);
            assert!(got[len..].starts_with(b"GET /x HTTP/1.1\r\n"));
            taken.write_all(&reply(200, "", "")).unwrap();
            assert_eq!(client.receive().unwrap().status, 200);
        }
    }
}

#[test]
fn many_slow_requests_wait_side_by_side() {
    // Four descriptors each: two of the test's client and upstream, two of the server.
    let count = wait_for_descriptors(10_000);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        proxy_to(&format!("\"{address}\""), "response_timeout = \"1h\"\nconnect_timeout = \"1m\"");
    let accepting = thread::spawn(move || {
        let mut taken: Vec<TcpStream> = Vec::with_capacity(count);
        for _ in 0..count {
            taken.push(listener.accept().unwrap().0);
        }
        taken
    });
    let mut clients: Vec<Client> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = Client::new(server.address);
        client.send("/slow").unwrap();
        clients.push(client);
    }
    let taken = accepting.join().unwrap();
    for mut stream in taken {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            let mut some = [0; 1024];
            let count = stream.read(&mut some).unwrap();
            assert!(count > 0);
            got.extend_from_slice(&some[..count]);
        }
        stream.write_all(&reply(200, "Connection: close\r\n", "at last")).unwrap();
    }
    for mut client in clients {
        assert_eq!(client.receive().unwrap().body, "at last");
    }
}

/// How many of so many connections this process and a server can have: two descriptors each here, and
/// two there beside the places that its ring keeps for bursts of accepts.
fn wait_for_descriptors(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    wanted.min(usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(6_000) / 2)
}
