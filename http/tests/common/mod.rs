//! A client's view of a connection: feeds bytes and renders what comes out as text.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod harness;
pub mod oracle;

use std::fmt::Write;

use ember_http::{
    Conn, Event, HandlerId, Input, Memo, Method, Methods, Persist, Prepared, ReplyLength, Route,
    Site, SiteBuilder, VariantId, date,
};

/// The site of most tests.
pub fn site() -> Site {
    builder().build().expect("a legal site")
}

/// `/hello` and `/health` prepared, `/old` redirected, `/echo` and `/tasks/{id:int}` dynamic.
pub fn builder() -> SiteBuilder {
    let mut builder = SiteBuilder::new();
    builder.prepared(Route::new("hello", "/hello"), Prepared::new("text/plain", *b"Hello, World!"));
    builder.prepared(
        Route::new("health", "/health"),
        Prepared::new("application/json", *b"{\"status\":\"ok\"}"),
    );
    builder.prepared(Route::new("old", "/old"), Prepared::redirect(308, "/hello"));
    builder.dynamic(
        Route::new("echo", "/echo"),
        Methods::of(&[Method::Get, Method::Post]),
        HandlerId(0),
    );
    builder.dynamic(
        Route::new("task", "/tasks/{id:int}"),
        Methods::of(&[Method::Get]),
        HandlerId(1),
    );
    builder
}

/// A connection with a site and a memo of its own. Dispatched requests are answered 200 with the
/// bytes of their body at once when they are complete.
pub struct Client {
    pub site: Site,
    pub memo: Memo,
    pub conn: Conn,
    pub now_ms: u64,
    /// What the server sent.
    pub sent: Vec<u8>,
    /// What happened, one line an event.
    pub log: String,
    pub closed: bool,
    body: Vec<u8>,
    method: Method,
}

impl Client {
    pub fn new(site: Site) -> Client {
        let conn = Conn::new(0);
        Client {
            site,
            memo: Memo::new(),
            conn,
            now_ms: 0,
            sent: Vec::new(),
            log: String::new(),
            closed: false,
            body: Vec::new(),
            method: Method::Get,
        }
    }

    /// The connection is new, the memo stays.
    pub fn reconnect(&mut self) {
        self.conn = Conn::new(self.now_ms);
        self.sent.clear();
        self.log.clear();
        self.closed = false;
        self.body.clear();
    }

    pub fn send(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        let mut input = Input::new(bytes, self.now_ms);
        self.run(&mut input);
    }

    pub fn eof(&mut self) {
        if self.closed {
            return;
        }
        self.conn.handle_eof();
        self.run(&mut Input::none(self.now_ms));
    }

    fn send_variant(&mut self, variant: VariantId) {
        let variant = self.site.variant(variant);
        self.sent.extend_from_slice(variant.head());
        self.sent.extend_from_slice(variant.body());
    }

    fn run(&mut self, input: &mut Input<'_>) {
        loop {
            let Client { site, memo, conn, log, .. } = self;
            match conn.next(site, memo, input) {
                Event::Prepared { variant, count, after, method, .. } => {
                    for _ in 0..count {
                        let status = self.site.variant(variant).status();
                        let _ = writeln!(self.log, "prepared {method} {status}");
                        self.send_variant(variant);
                    }
                    let _ = (after != ember_http::After::Open)
                        .then(|| writeln!(self.log, "after {after:?}"));
                }
                Event::Refuse(refusal) => {
                    let status = self.site.variant(refusal.variant).status();
                    let _ = writeln!(log, "refuse {status} {} {:?}", refusal.reason, refusal.after);
                    self.send_variant(refusal.variant);
                }
                Event::Answer(answer) => {
                    let _ = writeln!(log, "answer {} {}", answer.status, answer.reason);
                    self.sent.extend_from_slice(&answer.bytes);
                }
                Event::Request(request) => {
                    let path = request.path();
                    let _ = writeln!(log, "request {} {path}", request.method());
                    self.method = request.method();
                    self.body.clear();
                    if request.body == ember_http::BodyKind::None {
                        self.reply();
                    } else {
                        self.conn.want_body();
                    }
                }
                Event::Body(piece) => self.body.extend_from_slice(piece),
                Event::BodyEnd => {
                    let body = String::from_utf8_lossy(&self.body).into_owned();
                    let _ = writeln!(log, "body {body:?}");
                    self.reply();
                }
                Event::Continue => self.sent.extend_from_slice(ember_http::CONTINUE),
                Event::More => {
                    assert!(input.rest().is_empty());
                    return;
                }
                Event::Wait => panic!("every request was answered"),
                Event::Close => {
                    log.push_str("close\n");
                    self.closed = true;
                    return;
                }
            }
        }
    }

    fn reply(&mut self) {
        let context = self.conn.reply_context(&self.site);
        let length = ReplyLength::Known(self.body.len() as u64);
        context
            .write_head(&mut self.sent, 200, &date::format(0), [], length)
            .expect("no fields, no error");
        if !context.head_only {
            self.sent.extend_from_slice(&self.body);
        }
        let after = self.conn.replied(&self.site, false, self.now_ms);
        assert_eq!(after == ember_http::After::Open, context.persist != Persist::Close);
    }
}

/// What a fresh connection to the usual site makes of these bytes and an end-of-file.
pub fn log_of(bytes: &[u8]) -> String {
    let mut client = Client::new(site());
    client.send(bytes);
    client.eof();
    client.log
}
