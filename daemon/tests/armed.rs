//! Listeners with one reply for whatever is asked: as many replies as requests, in their order,
//! however the bytes come.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};

use common::{Client, Server, wait_until};

/// A listener with one reply beside an ordinary one, on a port that the test finds in the log.
struct Armed {
    server: Server,
    beacon: SocketAddr,
}

impl Armed {
    fn start(backend: &str, reply: &str, more: &str) -> Armed {
        let config = format!(
            "ring = {{ backend = \"{backend}\" }}\nworkers = {{ count = 1, threads = 1 }}\n{more}\n\
             [[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\nname = \"beacon\"\naddress = \"127.0.0.1:0\"\nreply = {reply}\n"
        );
        let server = Server::start(&config);
        let line = server.wait_for_line("(beacon)");
        let url = line.split_whitespace().find_map(|word| word.strip_prefix("http://"));
        let beacon = url.unwrap().parse().unwrap();
        Armed { server, beacon }
    }

    fn client(&self) -> Client {
        Client::new(self.beacon)
    }

    /// Waits for a sample to have a value: an armed reply is there before it is counted.
    fn wait_for_metric(&self, name: &str, value: f64) {
        wait_until(name, || (self.server.metric(name) == value).then_some(()));
    }
}

/// What came back so far: heads alone, since no reply here has a body.
#[derive(Default)]
struct Heads(Vec<u8>);

impl Heads {
    fn count(&self) -> usize {
        self.0.windows(4).filter(|four| four == b"\r\n\r\n").count()
    }

    fn read(&mut self, client: &mut Client) -> bool {
        let mut some = [0; 4096];
        match client.0.read(&mut some) {
            Ok(0) => false,
            Ok(count) => {
                self.0.extend_from_slice(&some[..count]);
                true
            }
            // Bytes behind a last request may have met a closed socket.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("after {} replies: {error}", self.count()),
        }
    }

    fn wait_for(&mut self, client: &mut Client, count: usize) {
        while self.count() < count {
            assert!(self.read(client), "closed after {} of {count} replies", self.count());
        }
    }

    /// Reads to the end; every reply is whole and has this status.
    fn finish(mut self, client: &mut Client, status: u16) -> usize {
        while self.read(client) {}
        let text = String::from_utf8(self.0.clone()).unwrap();
        for head in text.split_inclusive("\r\n\r\n") {
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(head.ends_with("\r\n\r\n") && head.contains("\r\nDate: "), "{head}");
        }
        self.count()
    }
}

/// Requests one after another, how many of them are to be answered, and where each ends.
struct Stream {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Stream {
    fn of(requests: &[&str], answered: usize) -> Stream {
        let mut stream = Stream { bytes: Vec::new(), ends: Vec::new() };
        for (index, request) in requests.iter().enumerate() {
            stream.bytes.extend_from_slice(request.as_bytes());
            if index < answered {
                stream.ends.push(stream.bytes.len());
            }
        }
        stream
    }

    /// How many replies must come when so many bytes have: one for every whole request, and one
    /// for the first as soon as it begins.
    fn due(&self, sent: usize) -> usize {
        let whole = self.ends.iter().filter(|end| **end <= sent).count();
        whole.max(usize::from(sent > 0))
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: b\r\n\r\n";

fn streams() -> Vec<Stream> {
    let head = "HEAD /any?x HTTP/1.1\r\nHost: b\r\nIf-None-Match: *\r\n\r\n";
    let post = "POST /p HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhello";
    let chunked =
        "PUT /c HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let options = "OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n";
    let other = "PROPFIND /d HTTP/1.1\r\nHost: b\r\nRange: bytes=0-1\r\n\r\n";
    let close = "GET / HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
    let old = "GET / HTTP/1.0\r\n\r\n";
    let kept = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let connect = "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n";
    vec![
        Stream::of(&[GET, head, post, chunked, options, other, GET], 7),
        Stream::of(&[GET, GET, GET, GET, GET, GET], 6),
        Stream::of(&[GET, post, close, GET], 3),
        Stream::of(&[head, "NO GOOD\r\n\r\n", GET], 2),
        Stream::of(&["\u{1}\u{2}\r\n\r\n", GET], 1),
        Stream::of(&[old], 1),
        Stream::of(&[kept], 1),
        Stream::of(&[connect, GET], 1),
    ]
}

#[test]
fn there_is_one_reply_a_request_however_the_bytes_are_split() {
    for backend in ["io_uring", "epoll"] {
        let armed = Armed::start(backend, "{ status = 204 }", "");
        for stream in streams() {
            for first in 1..=stream.bytes.len() {
                // Two parts, and three where the second is a byte.
                for second in [first, (first + 1).min(stream.bytes.len())] {
                    check(&armed, &stream, &[first, second]);
                }
            }
        }
    }
}

/// Sends up to each place in turn, and each time waits for what is due by then.
fn check(armed: &Armed, stream: &Stream, places: &[usize]) {
    let mut client = armed.client();
    let mut heads = Heads::default();
    let mut sent = 0;
    let all = stream.bytes.len();
    for place in places.iter().copied().chain([all]) {
        if client.0.write_all(&stream.bytes[sent..place]).is_err() {
            break; // behind a last request there may be a reset
        }
        sent = place;
        heads.wait_for(&mut client, stream.due(sent));
    }
    let _ = client.0.shutdown(Shutdown::Write);
    let count = heads.finish(&mut client, 204);
    assert_eq!(count, stream.ends.len(), "{places:?} of {}", stream.bytes.escape_ascii());
}

#[test]
fn a_byte_at_a_time_gets_the_same() {
    for backend in ["io_uring", "epoll"] {
        let armed = Armed::start(backend, "{ status = 204 }", "");
        let stream = &streams()[0];
        let places: Vec<usize> = (1..stream.bytes.len()).collect();
        check(&armed, stream, &places);
    }
}

#[test]
fn more_pipelined_than_a_buffer_holds_is_answered_in_full() {
    for backend in ["io_uring", "epoll"] {
        let armed = Armed::start(backend, "{ status = 204 }", "");
        let stream = Stream::of(&vec![GET; 5_000], 5_000);
        let mut client = armed.client();
        let mut writer = client.0.try_clone().unwrap();
        let bytes = stream.bytes.clone();
        let sender = std::thread::spawn(move || {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(Heads::default().finish(&mut client, 204), 5_000);
        sender.join().unwrap();
    }
}

#[test]
fn an_end_without_a_request_gets_nothing() {
    for backend in ["io_uring", "epoll"] {
        let armed = Armed::start(backend, "{ status = 204 }", "");
        let mut client = armed.client();
        client.0.shutdown(Shutdown::Write).unwrap();
        assert!(client.is_closed());
        let mut client = armed.client();
        client.0.write_all(GET.as_bytes()).unwrap();
        let mut heads = Heads::default();
        heads.wait_for(&mut client, 1);
        client.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(heads.finish(&mut client, 204), 1);
    }
}

#[test]
fn each_kind_of_reply_says_what_it_should() {
    for (reply, status, field) in [
        ("{ status = 204, headers = { cache-control = \"no-store\" } }", 204, "Cache-Control"),
        ("{ status = 308, headers = { location = \"https://e.org/\" } }", 308, "Location"),
        ("{ status = 503, headers = { retry-after = \"120\" } }", 503, "Retry-After"),
        ("{ status = 200 }", 200, "Content-Length: 0"),
    ] {
        let armed = Armed::start("io_uring", reply, "");
        let mut client = armed.client();
        let mut heads = Heads::default();
        for sent in 1..4 {
            client.0.write_all(GET.as_bytes()).unwrap();
            heads.wait_for(&mut client, sent);
        }
        let text = String::from_utf8_lossy(&heads.0).to_lowercase();
        assert_eq!(text.matches(&field.to_lowercase()).count(), 3, "{text}");
        client.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(heads.finish(&mut client, status), 3);
    }
}

#[test]
fn armed_replies_are_counted_apart_and_not_timed() {
    for backend in ["io_uring", "epoll"] {
        let armed = Armed::start(backend, "{ status = 204 }", "");
        let mut client = armed.client();
        let mut heads = Heads::default();
        for sent in 1..=3 {
            client.0.write_all(GET.as_bytes()).unwrap();
            heads.wait_for(&mut client, sent);
        }
        client.0.write_all(GET.repeat(4).as_bytes()).unwrap();
        heads.wait_for(&mut client, 7);
        // Four that came together: one armed and three behind it; or all of them behind the third,
        // whose reply the client has before the ring receives.
        let labels = "route=\"beacon\",method=\"GET\",code=\"204\"";
        let requests =
            |kind| format!("emberd_http_requests_total{{{labels},path_kind=\"{kind}\"}}");
        let text = wait_until("seven are counted", || {
            let text = Client::new(armed.server.address).get("/metrics").unwrap().body;
            let of = |kind| sample(&text, &requests(kind));
            (of("armed") + of("prepared") == 7.0).then_some(text)
        });
        let chain = "emberd_prepared_sends_total{route=\"beacon\",chain=\"recv_reply\"";
        let sends = sample(&text, &format!("{chain},result=\"queued\"}}"));
        assert_eq!(sends, sample(&text, &requests("armed")), "{text}");
        assert!(sends >= 3.0, "{text}");
        assert!(!text.contains("route=\"beacon\",path_kind=\"armed\",le="), "{text}");
    }
}

fn sample(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[test]
fn the_last_request_of_a_connection_is_told_so() {
    for backend in ["io_uring", "epoll"] {
        let armed = Armed::start(backend, "{ status = 200 }", "limits = { max_requests = 3 }");
        let mut client = armed.client();
        for last in [false, false, true] {
            let reply = client.get("/").unwrap();
            assert_eq!((reply.status, reply.close), (200, last), "{}", reply.head);
        }
        assert!(client.is_closed());
    }
}

#[test]
fn half_a_head_is_closed_without_a_second_reply() {
    for backend in ["io_uring", "epoll"] {
        let limits = "limits = { header_timeout = \"1s\", idle_timeout = \"1s\" }";
        let armed = Armed::start(backend, "{ status = 204 }", limits);
        let mut client = armed.client();
        client.0.write_all(b"GET / HT").unwrap();
        assert_eq!(Heads::default().finish(&mut client, 204), 1);
        let closed = "emberd_connections_closed_total{listener=\"beacon\",worker=\"0\"";
        armed.wait_for_metric(&format!("{closed},reason=\"timeout\"}}"), 1.0);
        assert!(armed.client().is_closed(), "one that asks nothing at all");
    }
}
