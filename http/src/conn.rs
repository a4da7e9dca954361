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

mod core;

use self::core::{Core, DRAIN, EOF, HEAD_ONLY, IN_HEAD, NO_HINT, State, Step, WANTED};
use crate::carry::Carry;
use crate::dispatch::{Answer, Facts};
use crate::framing::{BodyKind, Decoder};
use crate::memo::{Hit, Memo, Scratch};
use crate::method::Method;
use crate::pace::Pace;
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

/// One connection. Without heap memory between requests.
pub struct Conn {
    carry: Option<Box<Carry>>,
    core: Core,
}

const _: () = assert!(size_of::<Conn>() <= 64);

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

    /// Whether bytes are kept.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        self.carry.is_some()
    }

    /// Takes out what came behind the dispatched request: it belongs to the protocol that the
    /// connection speaks from now on (RFC 9110 section 7.8).
    pub fn take_surplus(&mut self) -> Vec<u8> {
        self.carry.take().map_or_else(Vec::new, |carry| carry.bytes().to_vec())
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

    /// Whether the reply to the next request would be the connection's last, as far as is known now.
    #[must_use]
    pub fn is_last(&self, site: &Site, now_ms: u64) -> bool {
        self.core.requests_to_come(&site.limits, now_ms) == 0
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
    let Ok(target) = target::of_head(head, bytes) else {
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
