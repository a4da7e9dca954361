//! The same bytes to emberd and to nginx: how many replies, with which statuses, and whether the
//! connection ends. docs/http.md explains every class of difference; a difference that is in none
//! of them fails.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use common::{Client, PATIENCE, Server, wait_until};

/// nginx with the same route in a folder of its own.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start() -> Option<Nginx> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            println!("skipped: nginx is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = folder.path().display();
        let config = format!(
            "daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {place}/body;\n\
               proxy_temp_path {place}/p; fastcgi_temp_path {place}/f;\n\
               uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;\n\
               default_type text/plain; keepalive_requests 1000000; lingering_close off;\n\
               server {{ listen 127.0.0.1:{port};\n\
                 location = /hello {{ return 200 \"Hello, World!\"; }} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        let child = Command::new("nginx")
            .arg("-e")
            .arg(folder.path().join("start.log"))
            .arg("-c")
            .arg(&file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("nginx accepts", || Client::try_new(address).ok());
        Some(Nginx { child, address, _folder: folder })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The statuses of all replies to a stream and an end-of-file.
fn statuses(address: SocketAddr, stream: &[u8]) -> Vec<u16> {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // A server that has refused may have closed already.
    let _ = socket.write_all(stream);
    let _ = socket.shutdown(Shutdown::Write);
    let mut bytes = Vec::new();
    let mut some = [0; 16384];
    while let Ok(count) = socket.read(&mut some) {
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&some[..count]);
    }
    let text = String::from_utf8_lossy(&bytes);
    let status = |at: usize| text.get(at + 9..at + 12).and_then(|code| code.parse().ok());
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| status(at)).collect()
}

/// Why two servers may differ on a stream; each is a section of docs/http.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// emberd refuses what nginx lets pass: 400, 501 or 505, and the end of the connection.
    Stricter,
    /// Both refuse, with another status.
    OtherRefusal,
    /// The methods that a prepared route has: nginx's `return` answers all of them.
    Methods,
    /// 100 (Continue) is sent by nginx for a body that nobody wants.
    Continue,
    /// emberd has answered by the head when it finds that the body, which nobody wants, is
    /// malformed, and ends the connection; nginx reads the body first and answers 400 instead.
    AnsweredFirst,
    /// A Host field without a value, which RFC 9110 section 7.2 provides for and nginx refuses.
    EmptyHost,
    /// emberd ends the connection in the body of a request that it has answered, since it is
    /// malformed or was announced with Expect; nginx reads on behind it.
    UnreadBody,
}

fn explain(ember: &[u16], nginx: &[u16], stream: &[u8]) -> Option<Why> {
    let refusals = [400, 408, 413, 414, 417, 421, 431, 501, 505];
    let refused = |status: &u16| refusals.contains(status);
    let finals: Vec<u16> = nginx.iter().copied().filter(|status| *status >= 200).collect();
    if finals.len() < nginx.len() && finals == ember {
        return Some(Why::Continue);
    }
    let nginx = &finals[..];
    let same = ember.iter().zip(nginx).take_while(|(one, other)| one == other).count();
    match (&ember[same..], &nginx[same..]) {
        ([one], [other, ..]) if refused(one) && refused(other) => Some(Why::OtherRefusal),
        ([one], _) if refused(one) => Some(Why::Stricter),
        ([one, ..], [other, ..])
            if matches!(one, 204 | 405 | 501) && matches!(other, 200 | 404 | 405) =>
        {
            Some(Why::Methods)
        }
        ([501, ..], [400]) if stream.windows(4).any(|four| four == b"get ") => Some(Why::Methods),
        ([200 | 404], [400]) if has_body(stream) => Some(Why::AnsweredFirst),
        (_, [400]) if stream.windows(7).any(|seven| seven == b"Host:\r\n") => Some(Why::EmptyHost),
        ([], [_, ..]) if same > 0 && has_body(stream) => Some(Why::UnreadBody),
        _ => None,
    }
}

fn has_body(stream: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stream).to_lowercase();
    text.contains("content-length") || text.contains("transfer-encoding")
}

const HEADS: &[&str] = &[
    "GET /hello HTTP/1.1\r\nHost: h\r\n",
    "GET /hello HTTP/1.1\r\nHost: h\r\n",
    "HEAD /hello HTTP/1.1\r\nHost: h\r\n",
    "GET /none HTTP/1.1\r\nHost: h\r\n",
    "POST /none HTTP/1.1\r\nHost: h\r\n",
    "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n",
    "GET /hello HTTP/1.0\r\n",
    "GET /hello HTTP/1.1\r\n",
    "GET /a/../hello HTTP/1.1\r\nHost: h\r\n",
    "GET /%68ello HTTP/1.1\r\nHost: h\r\n",
    "GET http://h/hello HTTP/1.1\r\nHost: h\r\n",
    "GET /.. HTTP/1.1\r\nHost: h\r\n",
    "GET  /hello HTTP/1.1\r\nHost: h\r\n",
    "GET /hello HTTP/1.1 \r\nHost: h\r\n",
    "GET /hello HTTP/2.0\r\nHost: h\r\n",
    "GET /hello HTTP/1.2\r\nHost: h\r\n",
    "get /hello HTTP/1.1\r\nHost: h\r\n",
    "GET /hello HTTP/1.1\nHost: h\n",
];

const FIELDS: &[&str] = &[
    "",
    "",
    "Content-Length: 5\r\n",
    "Content-Length: 5\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: -5\r\n",
    "Content-Length: 0x5\r\n",
    "Content-Length: 5 \r\n",
    "Content-Length : 5\r\n",
    "Content-Length:\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: Chunked\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked, chunked\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding:\x0bchunked\r\n",
    "Transfer-Encoding: chunked\n",
    " Transfer-Encoding: chunked\r\n",
    "X: a\r\n b\r\n",
    "X: a\0b\r\n",
    "X: a\rb\r\n",
    "X y: z\r\n",
    ": z\r\n",
    "Host: other\r\n",
    "Host:\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, close\r\n",
    "Expect: 100-continue\r\nContent-Length: 5\r\n",
    "Expect: 200-ok\r\n",
];

const BODIES: &[&str] = &[
    "",
    "hello",
    "0\r\n\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;a=b\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nT: x\r\n\r\n",
    "5\nhello\n0\n\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloX0\r\n\r\n",
    "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
];

/// A table of every field with every body, and random mixtures of several requests.
fn streams() -> Vec<String> {
    let mut streams = Vec::new();
    for head in &HEADS[1..] {
        streams.push(format!("{head}\r\n{}\r\n", HEADS[0]));
    }
    for field in FIELDS {
        for body in BODIES {
            streams.push(format!("{}{field}\r\n{body}{}\r\n", HEADS[0], HEADS[0]));
        }
    }
    // A linear congruential generator: the same mixtures each time.
    let mut state = 0x2545_f491_u64;
    let mut pick = |from: &[&'static str]| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[(state >> 33) as usize % from.len()]
    };
    for _ in 0..1500 {
        let mut stream = String::new();
        for _ in 0..3 {
            let (head, first, second, body) =
                (pick(HEADS), pick(FIELDS), pick(FIELDS), pick(BODIES));
            let _ = write!(stream, "{head}{first}{second}\r\n{body}");
        }
        streams.push(stream);
    }
    streams
}

#[test]
fn nginx_and_emberd_read_the_same_bytes() {
    let Some(nginx) = Nginx::start() else { return };
    let server =
        Server::start("workers = { count = 1, threads = 1 }\nlimits = { body_timeout = \"1s\" }");
    let mut unexplained = Vec::new();
    let mut classes: Vec<(Why, usize, String)> = Vec::new();
    let mut equal = 0;
    for stream in streams() {
        let bytes = stream.as_bytes();
        let (ours, theirs) = (statuses(server.address, bytes), statuses(nginx.address, bytes));
        let shown = || stream.escape_debug().to_string();
        if ours == theirs {
            equal += 1;
        } else if let Some(why) = explain(&ours, &theirs, bytes) {
            match classes.iter_mut().find(|(known, ..)| *known == why) {
                Some((_, count, _)) => *count += 1,
                None => classes.push((why, 1, format!("{ours:?} {theirs:?} {}", shown()))),
            }
        } else {
            unexplained.push(format!("emberd {ours:?}, nginx {theirs:?}: {}", shown()));
        }
    }
    println!("{equal} streams alike; {classes:#?}");
    assert!(
        unexplained.is_empty(),
        "{}:\n{}",
        unexplained.len(),
        unexplained[..unexplained.len().min(40)].join("\n")
    );
    assert!(equal > 200, "only {equal} streams are read alike");
}
