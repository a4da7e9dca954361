//! The state machine of one connection: bytes in, events out.
//!
//! The order of calls:
//!
//! 1. With what was received, [`Conn::next`] until it says [`Event::More`] (receive again),
//!    [`Event::Wait`] (a reply is due first) or [`Event::Close`].
//! 2. When the last byte of a dispatched request's reply has been given to the driver,
//!    [`Conn::replied`]; then [`Conn::next`] again, with an empty input, since later requests may
//!    be waiting.
//! 3. On end-of-file [`Conn::handle_eof`], then [`Conn::next`] with an empty input.
//! 4. From time to time [`Conn::time_left`]; when none is left [`Conn::handle_timeout`].

use crate::carry::Carry;
use crate::dispatch::{self, Answer, Facts, Outcome, Routing};
use crate::framing::{BodyKind, Decoder, Piece};
use crate::head::Version;
use crate::limits::Limits;
use crate::memo::{Hit, Memo, Place, Scratch};
use crate::method::Method;
use crate::pace::{Pace, PaceLimits, since};
use crate::reason::Reason;
use crate::reply::{After, Persist, ReplyContext};
use crate::request::Request;
use crate::route::{Answers, RouteId};
use crate::site::Site;
use crate::target;
use crate::variant::VariantId;

/// Bytes that were received, and when.
#[derive(Debug)]
pub struct Input<'i> {
    bytes: &'i [u8],
    now_ms: u64,
}

impl<'i> Input<'i> {
    /// What was received. The clock is in milliseconds from any beginning.
    #[must_use]
    pub fn new(bytes: &'i [u8], now_ms: u64) -> Input<'i> {
        Input { bytes, now_ms }
    }

    /// Nothing new: to go on after a reply or at end-of-file.
    #[must_use]
    pub fn none(now_ms: u64) -> Input<'i> {
        Input { bytes: &[], now_ms }
    }

    /// What no event has consumed yet.
    #[must_use]
    pub fn rest(&self) -> &'i [u8] {
        self.bytes
    }
}

/// An error reply that is rendered already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reply.
    pub variant: VariantId,
    /// Why.
    pub reason: Reason,
    /// The request's method, if its head could be read.
    pub method: Option<Method>,
    /// What the connection does behind it.
    pub after: After,
}

/// What is to be done next.
pub enum Event<'a> {
    /// Send a prepared reply `count` times.
    Prepared {
        /// The reply.
        variant: VariantId,
        /// How many requests in a row it answers.
        count: u32,
        /// What the connection does behind the last one.
        after: After,
        /// The requests' method.
        method: Method,
        /// The head of one of the requests, which all have the same bytes.
        head: &'a [u8],
    },
    /// Send an error reply. If a dispatched request is under way (its body turned out to be
    /// illegal), it is cancelled: nothing more is due for it, and if its reply has begun already
    /// the connection must be closed instead.
    Refuse(Refusal),
    /// Send a reply made for this request.
    Answer(Box<Answer>),
    /// Give the request to its handler. Its body follows in events, if it has one;
    /// [`Conn::replied`] is due when its reply is complete.
    Request(Request<'a>),
    /// A piece of the dispatched request's body.
    Body(&'a [u8]),
    /// The body is complete.
    BodyEnd,
    /// Send [`CONTINUE`](crate::CONTINUE): the body is wanted and the client waits for the word.
    Continue,
    /// Everything is consumed: receive.
    More,
    /// A dispatched request is under way; what was received behind it is kept. Do not receive until
    /// it is answered: that is what bounds the bytes kept to those of one receive.
    Wait,
    /// Close the connection. A dispatched request under way is cancelled: its body will never be
    /// complete.
    Close,
}

/// What a connection waits for, which says the time limit that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// A handler's reply.
    Reply,
    /// The end of the peer's bytes, which are dropped.
    Linger,
    /// Nothing more.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between requests, or in a head.
    Ready,
    /// A request was dispatched; its body is arriving.
    Body,
    /// A request was dispatched and is complete; its reply is due.
    Waiting,
    /// The reply is out; the rest of the body is read and dropped.
    Discard,
    /// The last reply is out; what arrives is dropped.
    Linger,
    Closed,
}

/// The request's version was 1.0.
const HTTP10: u8 = 1;
/// The client wants the connection to go on.
const KEEP_ALIVE: u8 = 2;
/// The request's method was HEAD.
const HEAD_ONLY: u8 = 4;
/// The client waits for 100 (Continue).
const EXPECTS: u8 = 8;
/// The handler wants the body.
const WANTED: u8 = 16;
/// The peer has sent its last byte.
const EOF: u8 = 32;
/// A part of a head has arrived.
const IN_HEAD: u8 = 64;
/// The next reply shall be the last.
const DRAIN: u8 = 128;

/// What a new request does not change.
const LASTING: u8 = EOF | DRAIN;

const NO_HINT: Place = Place::MAX;

/// One connection. Without heap memory between requests.
pub struct Conn {
    carry: Option<Box<Carry>>,
    core: Core,
}

const _: () = assert!(size_of::<Conn>() <= 64);

/// All but the bytes.
struct Core {
    decoder: Decoder,
    /// Bytes of body, of discarded body, or of lingering, that are still allowed.
    allowance: u64,
    pace: Pace,
    opened_ms: u32,
    served: u32,
    hint: Place,
    state: State,
    flags: u8,
}

/// What `Core` decides; [`Event`] without its borrows.
enum Step {
    Prepared {
        hit: Hit,
        count: u32,
        after: After,
        head_len: usize,
    },
    Refuse(Refusal),
    Answer(Box<Answer>),
    Request {
        head_len: usize,
        route: RouteId,
        facts: Facts,
        path_in_scratch: bool,
    },
    Body {
        skipped: usize,
        len: usize,
    },
    BodyEnd,
    Continue,
    More,
    Wait,
    Close,
    /// Nothing to tell: take the next step.
    Again,
}

impl Conn {
    /// A connection that was just accepted. The clock is in milliseconds from any beginning.
    #[must_use]
    pub fn new(now_ms: u64) -> Conn {
        Conn {
            carry: None,
            core: Core {
                decoder: Decoder::new(BodyKind::None),
                allowance: 0,
                pace: Pace::new(now_ms),
                opened_ms: now_ms as u32,
                served: 0,
                hint: NO_HINT,
                state: State::Ready,
                flags: 0,
            },
        }
    }

    /// What is to be done next. The `site` must stay the same for the connection's life.
    #[inline]
    pub fn next<'c, 'i: 'c>(
        &'c mut self,
        site: &'c Site,
        memo: &'c mut Memo,
        input: &mut Input<'i>,
    ) -> Event<'c> {
        if self.carry.is_none() && self.core.state == State::Ready {
            let bytes = input.bytes;
            if bytes.is_empty() && self.core.flags & EOF == 0 {
                return Event::More;
            }
            if let Some((hit, count, head_len)) =
                self.core.remembered(site, memo, bytes, input.now_ms)
            {
                input.bytes = &bytes[head_len * count as usize..];
                let (Hit { variant, method }, head) = (hit, &bytes[..head_len]);
                return Event::Prepared { variant, count, after: After::Open, method, head };
            }
        }
        self.next_slowly(site, memo, input)
    }

    #[inline(never)]
    fn next_slowly<'c, 'i: 'c>(
        &'c mut self,
        site: &'c Site,
        memo: &'c mut Memo,
        input: &mut Input<'i>,
    ) -> Event<'c> {
        if self.carry.is_some() {
            return self.next_of_carry(site, memo, input);
        }
        let (bytes, now_ms) = (input.bytes, input.now_ms);
        let (step, used) = self.core.step(site, memo, bytes, now_ms);
        input.bytes = &bytes[used..];
        if matches!(step, Step::Again) {
            return self.next(site, memo, input);
        }
        if !input.bytes.is_empty() && matches!(step, Step::More | Step::Wait) {
            let mut carry = memo.take_spare();
            carry.append(input.bytes);
            self.carry = Some(carry);
            input.bytes = &[];
        }
        step.event(site, &memo.scratch, bytes)
    }

    #[inline(never)]
    fn next_of_carry<'c, 'i: 'c>(
        &'c mut self,
        site: &'c Site,
        memo: &'c mut Memo,
        input: &mut Input<'i>,
    ) -> Event<'c> {
        let Some(mut carry) = self.carry.take() else { return Event::More };
        carry.append(input.bytes);
        input.bytes = &[];
        if self.core.state == State::Ready
            && self.core.flags & EOF == 0
            && !carry.is_worth_parsing(site.limits.head_bytes_max)
        {
            self.carry = Some(carry);
            return Event::More;
        }
        let (step, used) = self.core.step(site, memo, carry.bytes(), input.now_ms);
        let from = carry.consume(used);
        if matches!(step, Step::Again) {
            self.carry = Some(carry);
            return self.next(site, memo, input);
        }
        if carry.bytes().is_empty() && matches!(step, Step::More | Step::Wait | Step::Close) {
            memo.give_back(carry);
            return step.event(site, &memo.scratch, &[]);
        }
        if matches!(step, Step::More) {
            carry.was_parsed();
        }
        let carry = self.carry.insert(carry);
        step.event(site, &memo.scratch, carry.bytes_from(from))
    }

    /// Keeps what is left of the input for the time when the dispatched request is answered: what
    /// [`Conn::next`] does by itself when it says [`Event::Wait`], for a caller that does not want
    /// the body's events first.
    pub fn keep(&mut self, memo: &mut Memo, input: &mut Input<'_>) {
        if !input.bytes.is_empty() {
            self.carry.get_or_insert_with(|| memo.take_spare()).append(input.bytes);
            input.bytes = &[];
        }
    }

    /// The peer has sent its last byte. What it asked for is still answered.
    pub fn handle_eof(&mut self) {
        self.core.flags |= EOF;
    }

    /// The handler of the dispatched request wants its body: [`Event::Continue`] comes next if the
    /// client waits for it.
    pub fn want_body(&mut self) {
        self.core.flags |= WANTED;
    }

    /// What the reply to the dispatched request must know. To be asked when the reply's head is
    /// written, not before: whether the connection can go on depends on what of the body has come.
    #[must_use]
    pub fn reply_context(&self, site: &Site) -> ReplyContext {
        self.core.reply_context(&site.limits)
    }

    /// The whole reply to the dispatched request has been handed over; `close` if it was one that
    /// ends the connection whatever the request said. Tells what the connection does behind it.
    pub fn replied(&mut self, site: &Site, close: bool, now_ms: u64) -> After {
        let surplus = self.carry.is_some();
        let open = !close && self.core.reply_context(&site.limits).persist != Persist::Close;
        self.core.replied(&site.limits, open, surplus, now_ms)
    }

    /// The next reply shall be the connection's last.
    pub fn drain(&mut self) {
        self.core.flags |= DRAIN;
    }

    /// Whether nothing is under way: no part of a request has come that is not answered.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.core.state == State::Ready && self.core.flags & IN_HEAD == 0 && self.carry.is_none()
    }

    /// Whether a dispatched request's reply is due.
    #[must_use]
    pub fn is_dispatched(&self) -> bool {
        matches!(self.core.state, State::Body | State::Waiting)
    }

    /// Requests so far.
    #[must_use]
    pub fn served(&self) -> u32 {
        self.core.served
    }

    /// What it waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.core.state {
            State::Ready if self.is_idle() => Phase::Idle,
            State::Ready => Phase::Head,
            State::Body | State::Discard => Phase::Body,
            State::Waiting => Phase::Reply,
            State::Linger => Phase::Linger,
            State::Closed => Phase::Ended,
        }
    }

    /// How many milliseconds are left of the time limit that applies; none while only a handler is
    /// waited for. A coarse timer looks at it when it fires and is set anew to what is left, so
    /// that requests need not touch the timer.
    #[must_use]
    pub fn time_left(&self, site: &Site, now_ms: u64) -> Option<u32> {
        self.core.time_left(&site.limits, now_ms)
    }

    /// The body is read on after a pause that was the handler's: the pause does not count.
    pub fn resume_body(&mut self, now_ms: u64) {
        self.core.pace.resume(now_ms);
    }

    /// A time limit has passed. With a refusal: send it, if no reply has begun, and cancel the
    /// handler. Without: [`Conn::next`] says [`Event::Close`].
    pub fn handle_timeout(&mut self, site: &Site, now_ms: u64) -> Option<Refusal> {
        let reason = match (self.core.state, self.core.flags & IN_HEAD) {
            (State::Ready, IN_HEAD) => Reason::HeadTimeout,
            (State::Body, _) => Reason::BodyTimeout,
            _ => {
                self.core.state = State::Closed;
                return None;
            }
        };
        let head_only = reason == Reason::BodyTimeout && self.core.flags & HEAD_ONLY != 0;
        self.core.linger(&site.limits, now_ms);
        let variant = site.error(reason.status(), head_only, Persist::Close);
        Some(Refusal { variant, reason, method: None, after: After::Linger })
    }
}

impl Step {
    #[inline]
    fn event<'c>(self, site: &'c Site, scratch: &'c Scratch, bytes: &'c [u8]) -> Event<'c> {
        match self {
            Step::Prepared { hit, count, after, head_len } => Event::Prepared {
                variant: hit.variant,
                count,
                after,
                method: hit.method,
                head: &bytes[..head_len],
            },
            Step::More | Step::Again => Event::More,
            Step::Wait => Event::Wait,
            Step::Close => Event::Close,
            Step::Refuse(refusal) => Event::Refuse(refusal),
            Step::Answer(answer) => Event::Answer(answer),
            Step::Body { skipped, len } => Event::Body(&bytes[skipped..skipped + len]),
            Step::BodyEnd => Event::BodyEnd,
            Step::Continue => Event::Continue,
            Step::Request { head_len, route, facts, path_in_scratch } => {
                let bytes = &bytes[..head_len];
                request(site, scratch, bytes, route, facts, path_in_scratch)
            }
        }
    }
}

fn request<'c>(
    site: &'c Site,
    scratch: &'c Scratch,
    bytes: &'c [u8],
    route: RouteId,
    facts: Facts,
    path_in_scratch: bool,
) -> Event<'c> {
    let head = &scratch.head;
    // It was split before, or it would not have been dispatched.
    let Ok(target) = target::split(head.method, head.target_bytes(bytes)) else {
        return Event::Close;
    };
    let path = if path_in_scratch {
        scratch.path.as_str()
    } else {
        std::str::from_utf8(target.path).unwrap_or_default()
    };
    let info = site.route(route);
    let Answers::Handler(handler) = info.answers else { return Event::Close };
    Event::Request(Request {
        head,
        bytes,
        target,
        path,
        params: &scratch.params,
        info,
        route,
        handler,
        body: facts.body,
        expects_continue: facts.expects_continue,
    })
}

impl Core {
    #[inline]
    fn step(&mut self, site: &Site, memo: &mut Memo, bytes: &[u8], now_ms: u64) -> (Step, usize) {
        if self.state == State::Ready && !bytes.is_empty() {
            // The last request of a connection says so, and is not remembered.
            if let Some((hit, count, head_len)) = self.remembered(site, memo, bytes, now_ms) {
                let step = Step::Prepared { hit, count, after: After::Open, head_len };
                return (step, head_len * count as usize);
            }
            if self.hint != NO_HINT
                && let Some(place) = Memo::place(bytes)
                && place != self.hint
            {
                self.hint = place;
                if let Some((hit, count, head_len)) = self.remembered(site, memo, bytes, now_ms) {
                    let step = Step::Prepared { hit, count, after: After::Open, head_len };
                    return (step, head_len * count as usize);
                }
            }
            let last = self.requests_to_come(&site.limits, now_ms) == 0;
            return self.head(site, memo, bytes, last, now_ms);
        }
        self.other_step(site, bytes, now_ms)
    }

    /// How many requests may still come behind which the connection goes on. The last one's reply
    /// says so, and is not remembered.
    #[inline]
    fn requests_to_come(&self, limits: &Limits, now_ms: u64) -> u32 {
        if self.flags & DRAIN != 0 || since(self.opened_ms, now_ms) > limits.age_ms_max {
            return 0;
        }
        limits.requests_max.saturating_sub(self.served.saturating_add(1))
    }

    /// A run of heads that are known by their bytes.
    #[inline]
    fn remembered(
        &mut self,
        site: &Site,
        memo: &Memo,
        bytes: &[u8],
        now_ms: u64,
    ) -> Option<(Hit, u32, usize)> {
        if self.hint == NO_HINT {
            return None;
        }
        let limit = self.requests_to_come(&site.limits, now_ms);
        let (hit, count, head_len) = memo.run(site, self.hint, bytes, limit)?;
        self.served += count;
        self.flags &= LASTING;
        self.pace = Pace::new(now_ms);
        Some((hit, count, head_len))
    }

    #[inline(never)]
    fn head(
        &mut self,
        site: &Site,
        memo: &mut Memo,
        bytes: &[u8],
        last: bool,
        now_ms: u64,
    ) -> (Step, usize) {
        let Scratch { head, .. } = &mut memo.scratch;
        let examined = match head.parse(bytes, &site.limits) {
            Ok(None) => return self.partial_head(now_ms),
            Ok(Some(len)) => dispatch::examine(head, &bytes[..len]).map(|facts| (len, facts)),
            Err(reason) => Err(reason),
        };
        let (len, facts) = match examined {
            Ok(examined) => examined,
            Err(reason) => return (self.refuse(site, reason, None, now_ms), bytes.len()),
        };
        self.served = self.served.saturating_add(1);
        self.flags &= LASTING;
        self.flags |= flags_of(head.version, head.method, &facts);
        self.pace = Pace::new(now_ms);
        if last {
            self.flags &= !KEEP_ALIVE;
        }
        self.decoder = Decoder::new(facts.body);
        self.allowance = site.limits.discard_bytes_max;
        let surplus = bytes.len() > len;
        match self.route(site, memo, &bytes[..len], facts, surplus, now_ms) {
            Ok(step) if self.state == State::Linger => (step, bytes.len()),
            Ok(step) => (step, len),
            Err(reason) => {
                let method = Some(memo.scratch.head.method);
                (self.refuse(site, reason, method, now_ms), bytes.len())
            }
        }
    }

    fn partial_head(&mut self, now_ms: u64) -> (Step, usize) {
        if self.flags & EOF != 0 {
            self.state = State::Closed;
            return (Step::Close, 0);
        }
        if self.flags & IN_HEAD == 0 {
            // The first head is timed from the accept.
            if self.served > 0 {
                self.pace = Pace::new(now_ms);
            }
            self.flags |= IN_HEAD;
        }
        (Step::More, 0)
    }

    fn route(
        &mut self,
        site: &Site,
        memo: &mut Memo,
        bytes: &[u8],
        facts: Facts,
        surplus: bool,
        now_ms: u64,
    ) -> Result<Step, Reason> {
        // What is answered without its body being asked for must be able to skip it.
        let persist = self.reply_context(&site.limits).persist;
        let Scratch { head, path, params } = &mut memo.scratch;
        let (method, version) = (head.method, head.version);
        let routing = Routing { site, head, bytes, persist };
        let outcome = routing.route(path, params)?;
        self.hint = NO_HINT;
        match outcome {
            Outcome::Prepared { variant } => {
                let after = self.answered(&site.limits, persist, surplus, now_ms);
                let hit = Hit { variant, method };
                if persist == Persist::Default
                    && facts.body == BodyKind::None
                    && version == Version::Http11
                {
                    self.hint = memo.insert(site, bytes, hit).unwrap_or(NO_HINT);
                }
                Ok(Step::Prepared { hit, count: 1, after, head_len: bytes.len() })
            }
            Outcome::Error { reason } => {
                let head_only = method == Method::Head;
                let variant = site.error(reason.status(), head_only, persist);
                let after = self.answered(&site.limits, persist, surplus, now_ms);
                Ok(Step::Refuse(Refusal { variant, reason, method: Some(method), after }))
            }
            Outcome::Answer(mut answer) => {
                answer.after = self.answered(&site.limits, persist, surplus, now_ms);
                Ok(Step::Answer(answer))
            }
            Outcome::Dispatch { route, path_in_scratch } => {
                self.allowance = site.route(route).body_bytes_max;
                self.state = match facts.body {
                    BodyKind::None => State::Waiting,
                    BodyKind::Length(len) if len > self.allowance => {
                        return Err(Reason::BodyLength);
                    }
                    _ => State::Body,
                };
                Ok(Step::Request { head_len: bytes.len(), route, facts, path_in_scratch })
            }
        }
    }

    /// A request was answered without a handler.
    fn answered(&mut self, limits: &Limits, p: Persist, surplus: bool, now_ms: u64) -> After {
        self.replied(limits, p != Persist::Close, surplus, now_ms)
    }

    fn replied(&mut self, limits: &Limits, open: bool, surplus: bool, now_ms: u64) -> After {
        let whole = self.decoder.is_done() || self.state == State::Waiting;
        match (open, whole) {
            (true, true) => {
                self.state = State::Ready;
                self.pace = Pace::new(now_ms);
                After::Open
            }
            (true, false) => {
                self.state = State::Discard;
                self.allowance = limits.discard_bytes_max;
                self.pace = Pace::new(now_ms);
                After::Open
            }
            (false, true) if !surplus || self.flags & EOF != 0 => {
                self.state = State::Closed;
                After::Close
            }
            (false, _) => {
                self.linger(limits, now_ms);
                After::Linger
            }
        }
    }

    fn linger(&mut self, limits: &Limits, now_ms: u64) {
        self.state = State::Linger;
        self.allowance = limits.linger_bytes_max;
        self.pace = Pace::new(now_ms);
    }

    /// Refuses and ends the connection.
    fn refuse(&mut self, site: &Site, reason: Reason, method: Option<Method>, now_ms: u64) -> Step {
        self.linger(&site.limits, now_ms);
        let head_only = method == Some(Method::Head);
        let variant = site.error(reason.status(), head_only, Persist::Close);
        Step::Refuse(Refusal { variant, reason, method, after: After::Linger })
    }

    fn reply_context(&self, limits: &Limits) -> ReplyContext {
        let skippable = self.state == State::Waiting
            || self.flags & EXPECTS == 0
                && self.decoder.length_left().is_none_or(|left| left <= limits.discard_bytes_max);
        let http10 = self.flags & HTTP10 != 0;
        let persist = match (self.flags & (KEEP_ALIVE | DRAIN) == KEEP_ALIVE && skippable, http10) {
            (false, _) => Persist::Close,
            (true, true) => Persist::KeepAlive,
            (true, false) => Persist::Default,
        };
        ReplyContext { http10, head_only: self.flags & HEAD_ONLY != 0, persist }
    }

    #[inline(never)]
    fn other_step(&mut self, site: &Site, bytes: &[u8], now_ms: u64) -> (Step, usize) {
        let eof = self.flags & EOF != 0;
        match self.state {
            State::Ready if eof => {
                self.state = State::Closed;
                (Step::Close, 0)
            }
            State::Ready => (Step::More, 0),
            State::Waiting => (Step::Wait, 0),
            State::Body => self.body(site, bytes, now_ms),
            State::Discard => self.discard(site, bytes, now_ms),
            State::Linger if eof || bytes.len() as u64 > self.allowance => {
                self.state = State::Closed;
                (Step::Close, bytes.len())
            }
            State::Linger => {
                self.allowance -= bytes.len() as u64;
                (Step::More, bytes.len())
            }
            State::Closed => (Step::Close, bytes.len()),
        }
    }

    fn body(&mut self, site: &Site, bytes: &[u8], now_ms: u64) -> (Step, usize) {
        if self.decoder.is_done() {
            self.state = State::Waiting;
            return (Step::BodyEnd, 0);
        }
        if bytes.is_empty() {
            if self.flags & EOF != 0 {
                self.state = State::Closed;
                return (Step::Close, 0);
            }
            if self.flags & (EXPECTS | WANTED) == EXPECTS | WANTED {
                self.flags &= !EXPECTS;
                return (Step::Continue, 0);
            }
            return (Step::More, 0);
        }
        // The client did not wait for the word.
        self.flags &= !EXPECTS;
        self.pace.progress(bytes.len(), now_ms);
        let method = if self.flags & HEAD_ONLY != 0 { Some(Method::Head) } else { None };
        match self.decoder.decode(bytes, &site.limits) {
            Err(reason) => (self.refuse(site, reason, method, now_ms), bytes.len()),
            Ok(Piece::More) => (Step::More, bytes.len()),
            Ok(Piece::End(skipped)) => {
                self.state = State::Waiting;
                (Step::BodyEnd, skipped)
            }
            Ok(Piece::Data { len, .. }) if len as u64 > self.allowance => {
                (self.refuse(site, Reason::BodyLength, method, now_ms), bytes.len())
            }
            Ok(Piece::Data { skipped, len }) => {
                self.allowance -= len as u64;
                (Step::Body { skipped, len }, skipped + len)
            }
        }
    }

    /// Reads past a body that nobody wants. Its reply is out, so an error can only close.
    fn discard(&mut self, site: &Site, bytes: &[u8], now_ms: u64) -> (Step, usize) {
        let mut at = 0;
        self.pace.progress(bytes.len(), now_ms);
        loop {
            match self.decoder.decode(&bytes[at..], &site.limits) {
                Ok(Piece::Data { skipped, len }) if len as u64 <= self.allowance => {
                    self.allowance -= len as u64;
                    at += skipped + len;
                }
                Ok(Piece::More) if self.flags & EOF == 0 => return (Step::More, bytes.len()),
                Ok(Piece::End(skipped)) => {
                    self.state = State::Ready;
                    self.pace = Pace::new(now_ms);
                    return (Step::Again, at + skipped);
                }
                _ => {
                    self.state = State::Closed;
                    return (Step::Close, bytes.len());
                }
            }
        }
    }

    fn time_left(&self, limits: &Limits, now_ms: u64) -> Option<u32> {
        let waited = since(self.pace.started_ms(), now_ms);
        match self.state {
            State::Ready if self.flags & IN_HEAD != 0 || self.served == 0 => {
                Some(limits.head_ms_max.saturating_sub(waited))
            }
            State::Ready => Some(limits.idle_ms_max.saturating_sub(waited)),
            State::Body | State::Discard => {
                let pace = PaceLimits {
                    stall_ms_max: limits.body_ms_max,
                    rate_min: limits.body_rate_min,
                    grace_ms: limits.rate_grace_ms,
                };
                Some(self.pace.time_left_ms(&pace, now_ms))
            }
            State::Linger => Some(limits.linger_ms_max.saturating_sub(waited)),
            State::Waiting | State::Closed => None,
        }
    }
}

fn flags_of(version: Version, method: Method, facts: &Facts) -> u8 {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    flag(version == Version::Http10, HTTP10)
        | flag(facts.keep_alive, KEEP_ALIVE)
        | flag(method == Method::Head, HEAD_ONLY)
        | flag(facts.expects_continue, EXPECTS)
}
