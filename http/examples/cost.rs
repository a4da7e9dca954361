//! Handles `COUNT` requests of one case and nothing else, for `ember-bench cost` to count the
//! instructions of.
//!
//!     cost --list
//!     cost CASE COUNT

use std::hint::black_box;
use std::process::ExitCode;

use ember_http::{
    After, Conn, Event, HandlerId, Input, Limits, Memo, Method, Methods, Prepared, ReplyLength,
    Route, Site, SiteBuilder, date,
};

const HELLO: &[u8] = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const DYNAMIC: &[u8] = b"GET /dynamic HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: */*\r\n\r\n";
const MISSING: &[u8] = b"GET /missing HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: */*\r\n\r\n";
const MALFORMED: &[u8] = b"GET /hello HTTP/1.1\r\nHost : 127.0.0.1:8080\r\n\r\n";
/// What a browser sends: 466 bytes.
const BROWSER: &[u8] = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nConnection: keep-alive\r\n\
    Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
    x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\nAccept: \
    text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n\r\n";
/// Requests in one receive of the pipelined case.
const DEPTH: u64 = 16;

/// The name of a case and what handles so many of its requests.
type Case = (&'static str, fn(&mut Bench, u64));

const CASES: [Case; 8] = [
    ("prepared", |bench, count| bench.repeat(HELLO, count)),
    ("prepared-pipelined", |bench, count| {
        bench.repeat(&HELLO.repeat(DEPTH as usize), count / DEPTH);
    }),
    ("prepared-browser", |bench, count| bench.repeat(BROWSER, count)),
    ("prepared-new-head", Bench::new_heads),
    // A new connection has no hint of what the memo holds: its first head is parsed whole.
    ("prepared-browser-parsed", |bench, count| {
        for _ in 0..count {
            bench.conn = Conn::new(0);
            bench.receive(black_box(BROWSER));
        }
    }),
    ("dynamic", |bench, count| bench.repeat(DYNAMIC, count)),
    ("not-found", |bench, count| bench.repeat(MISSING, count)),
    ("malformed", |bench, count| {
        for _ in 0..count {
            bench.conn = Conn::new(0);
            bench.receive(MALFORMED);
        }
    }),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["--list"] => CASES.iter().for_each(|(name, _)| println!("{name}")),
        [wanted, count] => {
            let case = CASES.iter().find(|(name, _)| *name == wanted);
            let (Some((_, handle)), Ok(count)) = (case, count.parse()) else {
                eprintln!("cost: no such case or count: {wanted} {count}");
                return ExitCode::FAILURE;
            };
            handle(&mut Bench::new(), count);
        }
        _ => {
            eprintln!("cost --list | CASE COUNT");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// A site, one connection, and what the worker keeps beside them.
struct Bench {
    site: Site,
    memo: Memo,
    conn: Conn,
    date: [u8; date::LEN],
    out: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let mut builder = SiteBuilder::new();
        builder.limits(Limits { requests_max: u32::MAX, ..Limits::default() });
        let hello = Prepared::new("text/plain", *b"Hello, World!");
        builder.prepared(Route::new("hello", "/hello"), hello);
        let get = Methods::of(&[Method::Get]);
        builder.dynamic(Route::new("dynamic", "/dynamic"), get, HandlerId(0));
        let site = builder.build().expect("good routes");
        let (memo, conn, date) = (Memo::new(), Conn::new(0), date::format(784_111_777));
        Self { site, memo, conn, date, out: Vec::with_capacity(4096) }
    }

    fn repeat(&mut self, received: &[u8], count: u64) {
        for _ in 0..count {
            self.receive(black_box(received));
        }
    }

    /// Heads that were never seen before: each is parsed and routed.
    fn new_heads(&mut self, count: u64) {
        let mut received =
            b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nX-N: 0000000\r\n\r\n".to_vec();
        let digits = received.len() - 4 - 7;
        for number in 0..count {
            let mut rest = number;
            for digit in received[digits..digits + 7].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            self.receive(&received);
        }
    }

    /// What a worker does with one receive, but for the ring.
    fn receive(&mut self, bytes: &[u8]) {
        let mut input = Input::new(bytes, 0);
        loop {
            match self.conn.next(&self.site, &mut self.memo, &mut input) {
                Event::Prepared { variant, count, .. } => {
                    black_box((self.site.variant(variant).len(), count));
                }
                Event::Request(request) => {
                    black_box(request.path());
                    let context = self.conn.reply_context(&self.site);
                    self.out.clear();
                    let fields = [("Content-Type", "text/plain")];
                    let length = ReplyLength::Known(13);
                    context
                        .write_head(&mut self.out, 200, &self.date, fields, length)
                        .expect("a good field");
                    self.out.extend_from_slice(b"Hello, World!");
                    black_box(&self.out);
                    self.conn.replied(&self.site, false, 0);
                }
                Event::Refuse(refusal) => {
                    black_box(self.site.variant(refusal.variant).len());
                    if refusal.after != After::Open {
                        return;
                    }
                }
                Event::More | Event::Close => return,
                Event::Answer(_) | Event::Body(_) | Event::BodyEnd => {}
                Event::Continue | Event::Wait => {}
            }
        }
    }
}
