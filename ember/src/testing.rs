//! Requests to an app without a server, for tests.
//!
//! ```
//! use ember::testing::Client;
//! use ember::{App, Json};
//!
//! async fn double(Json(number): Json<u32>) -> Json<u32> {
//!     Json(number * 2)
//! }
//!
//! let client = Client::new(App::new().post("/double", double));
//! let reply = client.send("POST", "/double", &[("Content-Type", "application/json")], "21");
//! assert_eq!((reply.status(), reply.text()), (200, "42"));
//! ```

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use ember_http::{
    Conn, Event, HandlerId, Input, Memo, Method, Methods, Site, SiteBuilder, VariantId,
};
use ember_uring::PeerAddr;

use crate::app::App;
use crate::body::{Body, BodyFeed};
use crate::error::{Error, Result};
use crate::handler::{Handler, Slot};
use crate::program::{Program, RouteKind};
use crate::request::{PeerCell, Request};
use crate::response::Response;
use crate::rt::{Command, Runtime, TaskId};

/// How long a handler may make no headway.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls the handlers of an app, in the thread that asks: routing, extraction, middleware and
/// endpoint hooks are those of the server, but there is no network. Timers take their time.
pub struct Client {
    site: Arc<Site>,
    handlers: Vec<Vec<(Methods, Handler)>>,
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Client {
    /// A client of this app.
    ///
    /// # Panics
    /// When the app cannot be put together.
    #[must_use]
    pub fn new(app: App) -> Client {
        Client::of(app.build().expect("an app that can be put together"))
    }

    pub(crate) fn of(program: Program) -> Client {
        let mut builder = SiteBuilder::new();
        let mut handlers = Vec::new();
        for route in program.routes() {
            let declared = ember_http::Route {
                hosts: route.hosts.clone(),
                body_bytes_max: route.body_bytes_max,
                ..ember_http::Route::new(&route.name, &route.pattern)
            };
            match &route.kind {
                RouteKind::Prepared(reply) => {
                    builder.prepared(declared, reply.clone().into_inner());
                }
                RouteKind::Handlers(of) => {
                    let methods = of.iter().fold(Methods::NONE, |all, (of, _)| all.union(*of));
                    let id = HandlerId(u16::try_from(handlers.len()).expect("fewer than 65,536"));
                    builder.dynamic(declared, methods, id);
                    handlers.push(of.clone());
                }
            }
        }
        let site = builder.build().unwrap_or_else(|error| panic!("the app's routes: {error}"));
        Client { site: Arc::new(site), handlers }
    }

    /// GET.
    #[must_use]
    pub fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], "")
    }

    /// POST.
    #[must_use]
    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", target, &[], body)
    }

    /// A request with these header fields. `Host` and `Content-Length` are added.
    ///
    /// # Panics
    /// When what was given is no request, or its handler waits for what never comes.
    #[must_use]
    pub fn send(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let body = body.as_ref();
        let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            bytes.extend_from_slice(b"Host: localhost\r\n");
        }
        for (name, value) in fields {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        match self.exchange(&bytes) {
            Ok(Answer::Rendered(bytes)) => Reply::parse(&bytes),
            Ok(Answer::Made(response, body)) => Reply {
                status: response.status(),
                fields: text_of(response.headers()),
                body: if method == "HEAD" { Vec::new() } else { body },
            },
            Err(error) => panic!("{method} {target}: {error}"),
        }
    }

    /// The reply of a handler to GET.
    pub(crate) fn response(&self, target: &str) -> Result<(Response, Vec<u8>)> {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        match self.exchange(bytes.as_bytes())? {
            Answer::Made(response, body) => Ok((*response, body)),
            Answer::Rendered(_) => Err(Error::new(500, "it has no handler")),
        }
    }

    fn exchange(&self, bytes: &[u8]) -> Result<Answer> {
        let caller = thread::current();
        let runtime = Runtime::new(move || caller.unpark());
        let _entered = runtime.enter();
        let mut host = Host { runtime, started: Instant::now(), call: None };
        let (mut conn, mut memo) = (Conn::new(0), Memo::new());
        let mut input = Input::new(bytes, 0);
        loop {
            match conn.next(&self.site, &mut memo, &mut input) {
                Event::Prepared { variant, .. } => return Ok(self.rendered(variant)),
                Event::Refuse(refusal) => return Ok(self.rendered(refusal.variant)),
                Event::Answer(answer) => return Ok(Answer::Rendered(answer.bytes)),
                Event::Request(request) => {
                    let of = &self.handlers[usize::from(request.handler.0)];
                    host.begin(&self.site, of, &request)?;
                }
                Event::Body(piece) => {
                    if let Some(Call { feed: Some(feed), .. }) = &host.call {
                        feed.push(piece);
                    }
                }
                Event::BodyEnd => {
                    if let Some(Call { feed: Some(feed), .. }) = &host.call {
                        feed.end();
                    }
                }
                Event::Continue => {}
                Event::More | Event::Wait => return host.finish(),
                Event::Close => return Err(Error::new(500, "the request is not complete")),
            }
        }
    }

    fn rendered(&self, variant: VariantId) -> Answer {
        let variant = self.site.variant(variant);
        let mut bytes = variant.head().to_vec();
        bytes.extend_from_slice(variant.body());
        Answer::Rendered(bytes)
    }
}

enum Answer {
    /// As it would stand on the wire.
    Rendered(Vec<u8>),
    Made(Box<Response>, Vec<u8>),
}

/// Polls a handler as a worker's thread does.
struct Host {
    runtime: Runtime,
    started: Instant,
    call: Option<Call>,
}

struct Call {
    task: TaskId,
    slot: Slot,
    feed: Option<BodyFeed>,
    peer: PeerCell,
}

impl Host {
    fn begin(
        &mut self,
        site: &Arc<Site>,
        of: &[(Methods, Handler)],
        request: &ember_http::Request<'_>,
    ) -> Result<()> {
        let with = |method: Method| of.iter().find(|(methods, _)| methods.contains(method));
        let method = request.method();
        let get = || with(Method::Get).filter(|_| method == Method::Head);
        let (_, handler) =
            with(method).or_else(get).ok_or_else(|| Error::new(405, "no such method"))?;
        let task = self.runtime.reserve();
        let has_body = request.body != ember_http::BodyKind::None;
        let feed = has_body.then(|| BodyFeed::new(task));
        let request = Request::of_head(request, site, task, feed.clone());
        let peer = request.peer_cell();
        let mut slot = handler.slot();
        slot.start(request);
        self.call = Some(Call { task, slot, feed, peer });
        Ok(())
    }

    fn finish(mut self) -> Result<Answer> {
        let Some(Call { task, mut slot, peer, .. }) = self.call.take() else {
            return Err(Error::new(500, "the request is not complete"));
        };
        let mut response = self.drive(task, &peer, |cx| slot.poll(cx))?;
        let body = match response.take_body() {
            Body::Empty | Body::Upgrade(_) => Vec::new(),
            Body::Bytes(bytes) => bytes,
            Body::Static(bytes) => bytes.to_vec(),
            Body::Piece(piece) => piece.bytes().unwrap_or_default().to_vec(),
            Body::Stream(mut stream) => {
                let mut body = Vec::new();
                while let Some(piece) =
                    self.drive(task, &peer, |cx| stream.as_mut().poll_next(cx))?
                {
                    let piece = piece.map_err(|error| Error::new(500, error.to_string()))?;
                    body.extend_from_slice(piece.bytes().unwrap_or_default());
                }
                body
            }
        };
        response.take_after_sent().call();
        self.runtime.shut_down();
        Ok(Answer::Made(Box::new(response), body))
    }

    /// Polls until it is ready, and lets the runtime's own tasks go on meanwhile.
    fn drive<T>(
        &mut self,
        task: TaskId,
        peer: &PeerCell,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T> {
        let waker = self.runtime.waker(task);
        let deadline = Instant::now() + PATIENCE;
        let mut commands = Vec::new();
        loop {
            let now_ms = self.started.elapsed().as_millis() as u64;
            self.runtime.set_clock(now_ms);
            if let Poll::Ready(value) = poll(&mut Context::from_waker(&waker)) {
                return Ok(value);
            }
            for _ in 0..self.runtime.gather() {
                let _ = self.runtime.run_one();
            }
            self.runtime.take_commands(&mut commands);
            for command in commands.drain(..) {
                match command {
                    Command::Peer { .. } => {
                        peer.set(Some(PeerAddr::Inet(([127, 0, 0, 1], 49_152).into())));
                    }
                    Command::Body { .. } | Command::Close { .. } => {}
                    _ => return Err(Error::new(500, "there is no network here")),
                }
            }
            if self.runtime.is_busy() {
                continue;
            }
            if Instant::now() > deadline {
                return Err(Error::new(500, "it waits for what does not come"));
            }
            let timer = self.runtime.next_deadline_ms();
            let wait = timer.map_or(50, |at_ms| at_ms.saturating_sub(now_ms).clamp(1, 50));
            thread::park_timeout(Duration::from_millis(wait));
        }
    }
}

impl Reply {
    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of the first header field of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut of = self.fields.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
        of.next().map(|(_, value)| value.as_str())
    }

    /// The values of all header fields of this name.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(of).map(|(_, value)| value.as_str())
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as text.
    ///
    /// # Panics
    /// When it is no UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of UTF-8")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none of this type.
    #[must_use]
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).expect("a body of JSON")
    }

    /// Of the protocol's own making, hence well-formed.
    fn parse(bytes: &[u8]) -> Reply {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok());
        let fields = lines.filter_map(|line| line.split_once(": "));
        Reply {
            status: status.expect("a status"),
            fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }
}

fn text_of(fields: &[(crate::Text, crate::Text)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("routes", &self.site.routes().len()).finish()
    }
}
