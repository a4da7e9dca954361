//! What a connection decides, apart from keeping bytes.

use crate::dispatch::{self, Answer, Facts, Outcome, Routing};
use crate::framing::{BodyKind, Decoder, Piece};
use crate::head::Version;
use crate::limits::Limits;
use crate::memo::{Hit, Memo, Place, Scratch};
use crate::method::Method;
use crate::pace::{Pace, PaceLimits, since};
use crate::reason::Reason;
use crate::reply::{After, Persist, ReplyContext};
use crate::route::RouteId;
use crate::site::Site;

use super::Refusal;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
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
pub(super) const HTTP10: u16 = 1;
/// The client wants the connection to go on.
pub(super) const KEEP_ALIVE: u16 = 2;
/// The request's method was HEAD.
pub(super) const HEAD_ONLY: u16 = 4;
/// The client waits for 100 (Continue).
pub(super) const EXPECTS: u16 = 8;
/// The handler wants the body.
pub(super) const WANTED: u16 = 16;
/// The peer has sent its last byte.
pub(super) const EOF: u16 = 32;
/// A part of a head has arrived.
pub(super) const IN_HEAD: u16 = 64;
/// The next reply shall be the last.
pub(super) const DRAIN: u16 = 128;

/// The reply to this request shall be the last.
pub(super) const LAST: u16 = 256;

/// What a new request does not change.
pub(super) const LASTING: u16 = EOF | DRAIN;

pub(super) const NO_HINT: Place = Place::MAX;

/// All but the bytes.
pub(super) struct Core {
    pub(super) decoder: Decoder,
    /// Bytes of body, of discarded body, or of lingering, that are still allowed.
    pub(super) allowance: u64,
    pub(super) pace: Pace,
    pub(super) opened_ms: u32,
    pub(super) served: u32,
    pub(super) hint: Place,
    pub(super) state: State,
    pub(super) flags: u16,
}

/// What `Core` decides; [`Event`] without its borrows.
pub(super) enum Step {
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

impl Core {
    #[inline]
    pub(super) fn step(
        &mut self,
        site: &Site,
        memo: &mut Memo,
        bytes: &[u8],
        now_ms: u64,
    ) -> (Step, usize) {
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
    pub(super) fn requests_to_come(&self, limits: &Limits, now_ms: u64) -> u32 {
        if self.flags & DRAIN != 0 || since(self.opened_ms, now_ms) > limits.age_ms_max {
            return 0;
        }
        limits.requests_max.saturating_sub(self.served.saturating_add(1))
    }

    /// A run of heads that are known by their bytes.
    #[inline]
    pub(super) fn remembered(
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
        let Scratch { head, last_head, .. } = &mut memo.scratch;
        if let Some(last) = last_head {
            last.clear();
        }
        let examined = match head.parse(bytes, &site.limits) {
            Ok(None) => return self.partial_head(now_ms),
            Ok(Some(len)) => {
                if let Some(last) = last_head {
                    last.extend_from_slice(&bytes[..len]);
                }
                dispatch::examine(head, &bytes[..len]).map(|facts| (len, facts))
            }
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
            self.flags |= LAST;
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
        let Scratch { head, path, params, .. } = &mut memo.scratch;
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

    pub(super) fn replied(
        &mut self,
        limits: &Limits,
        open: bool,
        surplus: bool,
        now_ms: u64,
    ) -> After {
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
            // A client that did not ask for the end may have sent more, which nobody will read: to
            // close on it would reset the connection, and the reply could be lost.
            (false, true) if !surplus && self.flags & KEEP_ALIVE == 0 || self.flags & EOF != 0 => {
                self.state = State::Closed;
                After::Close
            }
            (false, _) => {
                self.linger(limits, now_ms);
                After::Linger
            }
        }
    }

    pub(super) fn linger(&mut self, limits: &Limits, now_ms: u64) {
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

    pub(super) fn reply_context(&self, limits: &Limits) -> ReplyContext {
        let skippable = self.state == State::Waiting
            || self.flags & EXPECTS == 0
                && self.decoder.length_left().is_none_or(|left| left <= limits.discard_bytes_max);
        let http10 = self.flags & HTTP10 != 0;
        let persist =
            match (self.flags & (KEEP_ALIVE | DRAIN | LAST) == KEEP_ALIVE && skippable, http10) {
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

    pub(super) fn time_left(&self, limits: &Limits, now_ms: u64) -> Option<u32> {
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

fn flags_of(version: Version, method: Method, facts: &Facts) -> u16 {
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    flag(version == Version::Http10, HTTP10)
        | flag(facts.keep_alive, KEEP_ALIVE)
        | flag(method == Method::Head, HEAD_ONLY)
        | flag(facts.expects_continue, EXPECTS)
}
