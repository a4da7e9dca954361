//! One connection's machine.

use std::borrow::Cow;

use crate::body::{Body, Piece};
use crate::head::{self, Head, HeadError, Method};
use crate::memo::{Memo, Place};
use crate::path;
use crate::refusal::{Reason, Refusal};
use crate::reply::Persist;
use crate::site::{HandlerId, RouteId, RouteKind, Site, VariantId};

/// The bytes of one receive that have not been used yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of what was received.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }
}

/// A request for a handler.
#[derive(Debug)]
pub struct Request<'a> {
    /// The head.
    pub head: Head<'a>,
    /// The path by the rule of [`path`].
    pub path: Cow<'a, [u8]>,
    /// What stands behind the `?`, as it came.
    pub query: Option<&'a str>,
    /// The route.
    pub route: RouteId,
    /// The route's handler.
    pub handler: HandlerId,
    /// How the reply must leave the connection at least.
    pub persist: Persist,
    /// Whether a body follows as [`Event::Body`].
    pub has_body: bool,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Event<'a> {
    /// Send this variant `count` times.
    Prepared {
        /// Which.
        variant: VariantId,
        /// How often: so many identical requests came in a row.
        count: u32,
        /// Whether the connection ends with the reply.
        close: bool,
    },
    /// Let the handler answer, then call [`Conn::replied`].
    Request(Request<'a>),
    /// Bytes of the body of the request that is being answered.
    Body(&'a [u8]),
    /// The body of the request that is being answered has ended.
    BodyEnd,
    /// Send this reply. Where it closes, read on for a while before closing, so that what is
    /// under way from the peer does not reset the connection before the reply is read.
    Refuse(Refusal<'a>),
    /// Receive; everything so far has been used.
    More,
    /// Wait for the handler; [`Conn::replied`] goes on.
    Wait,
    /// Close; nothing more will be answered.
    Close,
}

/// What a connection is waiting for, which says the timeout that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// For the first byte of a request.
    Idle,
    /// For the rest of a head.
    Head,
    /// For the rest of a body.
    Body,
    /// For the handler.
    Reply,
    /// For nothing: it has ended.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// In a body that goes to a handler.
    Body(Body),
    /// In a body that nobody wants.
    Discard(Body),
    /// The whole request is with the handler.
    Waiting,
    /// The last reply has been decided.
    Ended,
}

/// One connection's machine: feed it, ask it, do what it says.
///
/// While idle it holds no memory but its own.
#[derive(Debug, Default)]
pub struct Conn {
    /// What came and could not be used at once: a part of a head, or requests behind one that is
    /// being answered.
    backlog: Option<Box<Backlog>>,
    core: Core,
}

#[derive(Debug)]
struct Core {
    state: State,
    place: Place,
    served: u32,
    /// Bytes of the body under way.
    body_len: u64,
    /// Whether the handler has replied, which it may before the body was read.
    replied: bool,
}

#[derive(Debug, Default)]
struct Backlog {
    bytes: Vec<u8>,
    used: usize,
    /// Up to here the bytes were looked at and hold no whole head.
    looked: usize,
}

impl Default for Core {
    fn default() -> Self {
        let place = Place::default();
        Core { state: State::Head, place, served: 0, body_len: 0, replied: false }
    }
}

impl Conn {
    /// A connection that has just been accepted.
    #[must_use]
    pub fn new() -> Conn {
        Conn::default()
    }

    /// What is to be done next. Call it until it gives [`Event::More`], [`Event::Wait`] or
    /// [`Event::Close`]; by then it has taken all of `input`.
    #[inline]
    pub fn next<'a, 'input: 'a>(
        &'a mut self,
        site: &'a Site,
        memo: &mut Memo,
        input: &mut Input<'input>,
    ) -> Event<'a> {
        let core = &mut self.core;
        if self.backlog.is_none()
            && core.state == State::Head
            && let Some((variant, count, len)) = memo.run(
                &mut core.place,
                input.rest,
                // The last request of a connection is told so, and that is not in the memo.
                site.limits().requests_max.saturating_sub(core.served + 1),
            )
        {
            input.rest = &input.rest[len..];
            core.served += count;
            return Event::Prepared { variant, count, close: false };
        }
        self.next_slowly(site, memo, input)
    }

    /// The handler's reply has been handed over; `close` where it ends the connection. A body
    /// that was not read until then is read and forgotten.
    pub fn replied(&mut self, close: bool) {
        self.core.replied = true;
        if close {
            self.end();
            return;
        }
        match self.core.state {
            State::Waiting => self.core.state = State::Head,
            State::Body(body) => self.core.state = State::Discard(body),
            State::Head | State::Discard(_) | State::Ended => {}
        }
    }

    /// The peer sends no more. Gives what is wrong with that, where a request was cut off.
    pub fn handle_eof(&mut self) -> Option<Reason> {
        let reason = match self.phase() {
            Phase::Head => Some(Reason::RequestLine),
            Phase::Body => Some(Reason::Framing),
            Phase::Idle | Phase::Reply | Phase::Ended => None,
        };
        self.end();
        reason
    }

    /// The time for the phase under way is over: a request that has begun is answered with 408
    /// (RFC 9110, section 15.5.9), an idle connection is just closed.
    pub fn handle_timeout(&mut self) -> Option<Refusal<'static>> {
        let begun = matches!(self.phase(), Phase::Head | Phase::Body) && !self.core.replied;
        self.end();
        begun.then(|| refuse(Reason::Timeout))
    }

    /// What it waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.core.state {
            State::Head if self.backlog.is_none() => Phase::Idle,
            State::Head => Phase::Head,
            State::Body(_) | State::Discard(_) => Phase::Body,
            State::Waiting => Phase::Reply,
            State::Ended => Phase::Ended,
        }
    }

    /// Requests so far.
    #[must_use]
    pub fn served(&self) -> u32 {
        self.core.served
    }

    fn end(&mut self) {
        self.core.state = State::Ended;
        self.backlog = None;
    }

    #[inline(never)]
    fn next_slowly<'a, 'input: 'a>(
        &'a mut self,
        site: &'a Site,
        memo: &mut Memo,
        input: &mut Input<'input>,
    ) -> Event<'a> {
        if self.backlog.as_ref().is_some_and(|b| b.used == b.bytes.len()) {
            self.backlog = None;
        }
        if self.backlog.is_none() {
            let before = input.rest;
            let (event, rest) = step(&mut self.core, site, memo, before, 0);
            let rest = &before[before.len() - rest.len()..];
            input.rest = rest;
            if matches!(event, Event::More | Event::Wait) && !rest.is_empty() {
                let looked = if matches!(event, Event::More) { rest.len() } else { 0 };
                let backlog = Backlog { bytes: rest.to_vec(), used: 0, looked };
                self.backlog = Some(Box::new(backlog));
                input.rest = &[];
            }
            return event;
        }
        let Backlog { bytes, used, looked } = &mut **self.backlog.get_or_insert_default();
        bytes.drain(..*used);
        *looked = looked.saturating_sub(*used);
        bytes.extend_from_slice(std::mem::take(&mut input.rest));
        let bytes: &'a [u8] = bytes;
        let (event, rest) = step(&mut self.core, site, memo, bytes, *looked);
        *used = bytes.len() - rest.len();
        *looked = if matches!(event, Event::More) { bytes.len() } else { *used };
        event
    }
}

/// One step on `bytes`, of which the first `looked` are known to hold no whole head. Gives what
/// is left of them as well.
fn step<'a>(
    core: &mut Core,
    site: &'a Site,
    memo: &mut Memo,
    bytes: &'a [u8],
    looked: usize,
) -> (Event<'a>, &'a [u8]) {
    match core.state {
        State::Ended => (Event::Close, &[]),
        State::Waiting => (Event::Wait, bytes),
        State::Body(body) => step_body(core, site, body, bytes, State::Body, Event::Body),
        State::Discard(body) => {
            step_body(core, site, body, bytes, State::Discard, |_| Event::Body(&[]))
        }
        State::Head => step_head(core, site, memo, bytes, looked),
    }
}

fn step_body<'a>(
    core: &mut Core,
    site: &Site,
    mut body: Body,
    mut bytes: &'a [u8],
    state: fn(Body) -> State,
    event: fn(&'a [u8]) -> Event<'a>,
) -> (Event<'a>, &'a [u8]) {
    let piece = body.next(&mut bytes);
    core.state = state(body);
    match piece {
        Piece::More => (Event::More, bytes),
        Piece::End => {
            core.state = if core.replied { State::Head } else { State::Waiting };
            (Event::BodyEnd, bytes)
        }
        Piece::Data(data) => {
            core.body_len += data.len() as u64;
            if core.body_len <= site.limits().body_len_max {
                return (event(data), bytes);
            }
            core.state = State::Ended;
            (broken(core, Reason::BodyTooLarge), &[])
        }
        Piece::Broken(reason) => {
            core.state = State::Ended;
            (broken(core, reason), &[])
        }
    }
}

/// A request has one reply: where it has gone out already, what is wrong with the body behind it
/// ends the connection without another.
fn broken<'a>(core: &Core, reason: Reason) -> Event<'a> {
    if core.replied { Event::Close } else { Event::Refuse(refuse(reason)) }
}

fn step_head<'a>(
    core: &mut Core,
    site: &'a Site,
    memo: &mut Memo,
    bytes: &'a [u8],
    looked: usize,
) -> (Event<'a>, &'a [u8]) {
    let mut left = bytes;
    while let Some(after) = left.strip_prefix(b"\r\n") {
        left = after; // RFC 9112, section 2.2: empty lines before a request line
    }
    let head = match find_head(left, looked.saturating_sub(bytes.len() - left.len()), site) {
        Ok(Some(head)) => head,
        Ok(None) => return (Event::More, left),
        Err(HeadError(reason)) => {
            core.served = core.served.saturating_add(1);
            core.state = State::Ended;
            return (Event::Refuse(refuse(reason)), &[]);
        }
    };
    left = &left[head.bytes.len()..];
    core.served = core.served.saturating_add(1);
    core.body_len = 0;
    core.replied = false;
    (answer(core, site, memo, head), left)
}

/// The head at the start of `bytes`, within the limits.
fn find_head<'a>(
    bytes: &'a [u8],
    looked: usize,
    site: &Site,
) -> Result<Option<Head<'a>>, HeadError> {
    // A head that trickles in is parsed at its first bytes, so that nonsense is refused at once,
    // and then not before its end is there, so that each byte costs the same.
    let end = memchr::memmem::find(&bytes[looked.saturating_sub(3)..], b"\r\n\r\n");
    let head = if looked > 0 && end.is_none() { None } else { head::parse(bytes)? };
    let limits = site.limits();
    let len = head.as_ref().map_or(bytes.len(), |h| h.bytes.len());
    let line = memchr::memchr(b'\r', &bytes[..len]).unwrap_or(len);
    if line > limits.request_line_len_max {
        return Err(HeadError(Reason::TargetTooLong));
    }
    if len > limits.head_len_max {
        return Err(HeadError(Reason::HeadTooLarge));
    }
    Ok(head)
}

/// Decides who answers a whole head, and the state that follows.
fn answer<'a>(core: &mut Core, site: &'a Site, memo: &mut Memo, head: Head<'a>) -> Event<'a> {
    let persist = persist(&head, core.served >= site.limits().requests_max);
    let found = match find_route(site, &head) {
        Ok(found) => found,
        Err((reason, allow)) => return refused(core, &head, persist, reason, allow),
    };
    let body = Body::new(head.framing);
    if let Body::Length(length) = body.unwrap_or(Body::Length(0))
        && length > site.limits().body_len_max
    {
        return refused(core, &head, persist, Reason::BodyTooLarge, None);
    }
    match site.route_kind(found.route) {
        RouteKind::Prepared => {
            let variant = site.variant_for(found.route, head.method, persist);
            core.replied = true;
            if persist.closes() {
                core.state = State::Ended;
            } else if let Some(body) = body {
                core.state = State::Discard(body);
            } else {
                memo.learn(&mut core.place, head.bytes, variant);
            }
            Event::Prepared { variant, count: 1, close: persist.closes() }
        }
        RouteKind::Dynamic(handler) => {
            core.state = body.map_or(State::Waiting, State::Body);
            let Found { route, path, query } = found;
            let has_body = body.is_some();
            Event::Request(Request { head, path, query, route, handler, persist, has_body })
        }
    }
}

struct Found<'a> {
    route: RouteId,
    path: Cow<'a, [u8]>,
    query: Option<&'a str>,
}

/// The route of a request, or why there is none and what `Allow` says of it.
fn find_route<'a>(site: &'a Site, head: &Head<'a>) -> Result<Found<'a>, (Reason, Option<&'a str>)> {
    if matches!(head.method, Method::Connect | Method::Trace) {
        return Err((Reason::MethodUnknown, None));
    }
    let (path, query) = path::split(origin_form(head.target).ok_or((Reason::Target, None))?);
    let path = path::normalise(path).map_err(|_| (Reason::Target, None))?;
    let route = site.route(&path).ok_or((Reason::NotFound, None))?;
    if !site.allows(route, head.method) {
        return Err((Reason::MethodNotAllowed, Some(site.allow(route))));
    }
    Ok(Found { route, path, query })
}

/// The path and query of a target in origin form or absolute form (RFC 9112, section 3.2).
fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.find(['/', '?']).unwrap_or(rest.len());
    if authority == 0 || rest[..authority].contains('@') {
        return None;
    }
    match &rest[authority..] {
        "" => Some("/"),
        path if path.starts_with('/') => Some(path),
        _ => None,
    }
}

/// A request that is well-formed but not answered: the connection goes on, unless a body follows
/// that is not worth reading.
fn refused<'a>(
    core: &mut Core,
    head: &Head<'a>,
    persist: Persist,
    reason: Reason,
    allow: Option<&'a str>,
) -> Event<'a> {
    let goes_on = head.framing == head::Framing::None && !reason.is_parse_error();
    let persist = if goes_on { persist } else { Persist::Close };
    core.replied = true;
    core.state = if persist.closes() { State::Ended } else { State::Head };
    Event::Refuse(Refusal { reason, persist, head_only: head.method == Method::Head, allow })
}

fn persist(head: &Head<'_>, last: bool) -> Persist {
    match head.version {
        _ if last || !head.keep_alive => Persist::Close,
        head::Version::Http10 => Persist::KeepAlive,
        head::Version::Http11 => Persist::Default,
    }
}

fn refuse<'a>(reason: Reason) -> Refusal<'a> {
    Refusal { reason, persist: Persist::Close, head_only: false, allow: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::{Limits, PreparedSource};

    fn site() -> Site {
        let limits = Limits {
            head_len_max: 300,
            request_line_len_max: 100,
            body_len_max: 20,
            requests_max: 50,
        };
        let mut builder = Site::builder().limits(limits);
        for path in ["/a", "/b"] {
            let source = PreparedSource { body: path.into(), ..PreparedSource::default() };
            builder.prepared(path, path, source).unwrap();
        }
        builder.dynamic("d", "/d", &[Method::Get, Method::Post], HandlerId(3)).unwrap();
        builder.build()
    }

    /// What a connection says to these pieces, in words; handlers answer when their request and
    /// its body are there.
    fn transcript(site: &Site, memo: &mut Memo, pieces: &[&[u8]]) -> Vec<String> {
        let mut conn = Conn::new();
        let mut said = Vec::new();
        let mut body = Vec::new();
        for piece in pieces {
            let mut input = Input::new(piece);
            loop {
                let mut reply = false;
                match conn.next(site, memo, &mut input) {
                    Event::Prepared { variant, count, close } => {
                        let v = site.variant(variant);
                        for _ in 0..count {
                            said.push(format!(
                                "{:?} {} {close}",
                                v.method(),
                                site.route_name(v.route())
                            ));
                        }
                    }
                    Event::Request(request) => {
                        body.clear();
                        said.push(format!("{:?} {:?}", request.head.method, request.query));
                        reply = !request.has_body;
                    }
                    Event::Body(bytes) => body.extend_from_slice(bytes),
                    Event::BodyEnd => {
                        if conn.phase() == Phase::Reply {
                            said.push(format!("body {:?}", String::from_utf8_lossy(&body)));
                            reply = true;
                        }
                    }
                    Event::Refuse(refusal) => {
                        let status = refusal.reason.status();
                        said.push(format!(
                            "{status} {} {:?}",
                            refusal.persist.closes(),
                            refusal.allow
                        ));
                    }
                    Event::More => break,
                    Event::Wait => panic!("nobody is waiting"),
                    Event::Close => {
                        said.push("close".to_string());
                        return said;
                    }
                }
                if reply {
                    conn.replied(false);
                }
            }
        }
        said.push(format!("{:?}", conn.phase()));
        said
    }

    const STREAM: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
        GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
        GET /a HTTP/1.1\r\nHost: x\r\n\r\n\
        \r\nHEAD /b HTTP/1.1\r\nHost: x\r\n\r\n\
        POST /d?q HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
        POST /d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n\
        GET /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\
        DELETE /d HTTP/1.1\r\nHost: x\r\n\r\n\
        GET /%61?x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
        GET http://h/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /a";

    #[test]
    fn the_reading_does_not_depend_on_how_bytes_arrive() {
        let site = site();
        let whole = transcript(&site, &mut Memo::new(), &[STREAM]);
        assert_eq!(
            whole,
            [
                "Get /a false",
                "Get /a false",
                "Get /a false",
                "Head /b false",
                "Post Some(\"q\")",
                "body \"abc\"",
                "Post None",
                "body \"hi\"",
                "Get /b false",
                "405 false Some(\"GET, POST, HEAD\")",
                "Get /a false",
                "Get /a true",
                "close",
            ]
        );
        let mut memo = Memo::new();
        for first in 0..STREAM.len() {
            let pieces = [&STREAM[..first], &STREAM[first..]];
            assert_eq!(transcript(&site, &mut memo, &pieces), whole, "split at {first}");
        }
        let bytes: Vec<&[u8]> = STREAM.chunks(1).collect();
        assert_eq!(transcript(&site, &mut memo, &bytes), whole);
    }

    #[test]
    fn refusals_and_what_becomes_of_the_connection() {
        let site = site();
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100));
        let large = format!("GET /a HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(300));
        let cases: &[(&str, &[&str])] = &[
            ("GET /none HTTP/1.1\r\nHost: x\r\n\r\n", &["404 false None", "Idle"]),
            (
                "POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
                &["404 true None", "close"],
            ),
            ("POST /a HTTP/1.1\r\nHost: x\r\n\r\n", &["405 false Some(\"GET, HEAD\")", "Idle"]),
            ("GET /../a HTTP/1.1\r\nHost: x\r\n\r\n", &["400 true None", "close"]),
            ("GET a HTTP/1.1\r\nHost: x\r\n\r\n", &["400 true None", "close"]),
            ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", &["501 true None", "close"]),
            (
                "POST /d HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n\r\n",
                &["413 true None", "close"],
            ),
            ("\x16\x03\x01\x02", &["400 true None", "close"]),
            ("GET / HTTP/3.0\r\n\r\n", &["505 true None", "close"]),
            (&long, &["414 true None", "close"]),
            (&large, &["431 true None", "close"]),
            ("GET /a HTTP/1.1\r\nHost: x", &["Head"]),
            ("GET /a HTTP/1.0\r\n\r\n", &["Get /a true", "close"]),
        ];
        for (text, expected) in cases {
            let bytes = text.as_bytes();
            assert_eq!(transcript(&site, &mut Memo::new(), &[bytes]), *expected, "{text:?}");
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            let said = transcript(&site, &mut Memo::new(), &single);
            assert_eq!(said, *expected, "{text:?} byte by byte");
        }
    }

    #[test]
    fn the_last_request_of_a_connection_closes_it() {
        let site = site();
        let stream = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n".repeat(60);
        let said = transcript(&site, &mut Memo::new(), &[&stream]);
        assert_eq!(said.len(), 51);
        assert_eq!(said[49..], ["Get /a true", "close"]);
    }

    #[test]
    fn requests_behind_a_slow_one_wait_in_order() {
        let site = site();
        let (mut conn, mut memo) = (Conn::new(), Memo::new());
        let stream = b"GET /d HTTP/1.1\r\nHost: x\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut input = Input::new(stream);
        assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Request(_)));
        assert!(matches!(conn.next(&site, &mut memo, &mut input), Event::Wait));
        conn.replied(false);
        let mut none = Input::default();
        assert!(matches!(conn.next(&site, &mut memo, &mut none), Event::Prepared { count: 1, .. }));
        assert!(matches!(conn.next(&site, &mut memo, &mut none), Event::More));
        assert_eq!(conn.phase(), Phase::Idle);
    }

    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Conn>() <= 64, "{}", size_of::<Conn>());
    }
}
