//! Where the replies of one conversation are put together and counted.

use std::rc::Rc;
use std::time::Instant;

use ember::{AfterSent, Body, IntoResponse as _, Response};
use ember_http::{
    After, Method, Refusal, ReplyContext, ReplyFraming, RouteId, VariantId, chunk_head,
};
use ember_metrics::PathKind;
use ember_uring::{PeerAddr, Piece};

use super::clock::Clock;
use super::replies::{Outgoing, Replies};
use super::tally::Tally;
use crate::access_log::{Entry, Recorder};

/// Bodies up to this many bytes are copied behind their heads; one range is cheaper to send than
/// two.
const BODY_INLINE_MAX: usize = 8 << 10;

/// What is known of a dispatched request until it is answered.
#[derive(Clone)]
pub(crate) struct About {
    pub(crate) site: usize,
    pub(crate) route: RouteId,
    pub(crate) kind: PathKind,
    pub(crate) method: Method,
    pub(crate) since: Instant,
    /// The request's head, where requests are logged.
    pub(crate) head: Option<Rc<[u8]>>,
}

/// The desk.
pub(crate) struct Desk<'a> {
    pub(crate) index: usize,
    pub(crate) replies: &'a mut Replies,
    pub(crate) tally: &'a mut Tally,
    pub(crate) out: &'a mut Outgoing,
    pub(crate) now: Instant,
    pub(crate) clock: &'a Clock,
    pub(crate) log: Option<Noting<'a>>,
}

/// The access log of a connection's requests.
pub(crate) struct Noting<'a> {
    pub(crate) recorder: &'a mut Recorder,
    pub(crate) peer: Option<&'a PeerAddr>,
}

/// What the access log tells of requests, besides who asked what.
pub(crate) struct Noted {
    pub(crate) route: Option<RouteId>,
    pub(crate) status: u16,
    pub(crate) count: u32,
    pub(crate) kind: PathKind,
    pub(crate) bytes: u64,
    pub(crate) micros: Option<u64>,
}

/// A reply whose head is on the desk.
pub(crate) struct Begun {
    pub(crate) status: u16,
    pub(crate) framing: ReplyFraming,
    /// Bytes so far.
    pub(crate) bytes: u64,
    /// What is to come; nothing of it where the reply is complete.
    pub(crate) body: Body,
    /// Who wants to know when all of it is out.
    pub(crate) after_sent: AfterSent,
}

impl Desk<'_> {
    #[inline]
    pub(crate) fn prepared(&mut self, variant: VariantId, method: Method, count: u32, head: &[u8]) {
        let len = self.replies.push(variant, count, self.out);
        self.tally.hit(self.index, (variant, method), count, len);
        if self.log.is_some() {
            let (route, status) = self.replies.about(variant);
            let kind = if route.is_some() { PathKind::Prepared } else { PathKind::Error };
            let bytes = len as u64 / u64::from(count.max(1));
            let micros = Some(self.clock.elapsed_ns(self.now) / 1000);
            self.note(&Noted { route, status, count, kind, bytes, micros }, head);
        }
    }

    pub(crate) fn refuse(&mut self, refusal: &Refusal, head: &[u8]) {
        let len = self.replies.push(refusal.variant, 1, self.out);
        let elapsed_ns = self.clock.elapsed_ns(self.now);
        self.tally.refused(refusal, len, elapsed_ns);
        let (bytes, status) = (len as u64, refusal.reason.status());
        let (kind, micros) = (PathKind::Error, Some(elapsed_ns / 1000));
        self.note(&Noted { route: None, status, count: 1, kind, bytes, micros }, head);
    }

    /// What the protocol has answered for this request.
    pub(crate) fn give(&mut self, mut answer: ember_http::Answer, head: &[u8]) -> After {
        answer.set_date(self.replies.date());
        let elapsed_ns = self.clock.elapsed_ns(self.now);
        self.tally.answered(self.index, &answer, elapsed_ns);
        let kind = if answer.route.is_some() { PathKind::Prepared } else { PathKind::Error };
        let (bytes, micros) = (answer.bytes.len() as u64, Some(elapsed_ns / 1000));
        let (route, status) = (answer.route, answer.status);
        self.note(&Noted { route, status, count: 1, kind, bytes, micros }, head);
        self.out.push(Piece::Owned(answer.bytes));
        answer.after
    }

    /// A whole reply whose body is there.
    pub(crate) fn reply(&mut self, about: &About, response: Response, context: ReplyContext) {
        let mut begun = self.begin(response, context);
        debug_assert!(matches!(begun.body, Body::Empty), "a body that is there is complete");
        self.count(about, &begun);
        self.out.after_sent.append(std::mem::take(&mut begun.after_sent));
    }

    /// A reply's head, and its body if that is there. One that cannot be written is told as 500, in
    /// place of which nothing has gone out yet.
    pub(crate) fn begin(&mut self, response: Response, context: ReplyContext) -> Begun {
        match self.try_begin(response, context) {
            Ok(begun) => begun,
            Err(error) => {
                let failed = ember::Error::new(500, error.to_string()).into_response();
                self.try_begin(failed, context).unwrap_or_else(|_| unreachable!("its own fields"))
            }
        }
    }

    fn try_begin(
        &mut self,
        mut response: Response,
        context: ReplyContext,
    ) -> Result<Begun, ember_http::FieldError> {
        let inline = response.body_ref().len().filter(|&len| len <= BODY_INLINE_MAX as u64);
        let mut out = Vec::with_capacity(256 + inline.unwrap_or(0) as usize);
        let framing = response.write_head(&mut out, context, self.replies.date())?;
        let status = response.status();
        let after_sent = response.take_after_sent();
        let mut body = response.take_body();
        let mut apart = None;
        if framing == ReplyFraming::Bodiless && !matches!(body, Body::Upgrade(_)) {
            body = Body::Empty;
        }
        if inline.is_some()
            && let Body::Piece(piece) = &body
            && let Some(bytes) = piece.bytes()
        {
            out.extend_from_slice(bytes);
            body = Body::Empty;
        }
        match &mut body {
            Body::Bytes(bytes) if inline.is_some() => out.extend_from_slice(bytes),
            Body::Bytes(bytes) => apart = Some(Piece::Owned(std::mem::take(bytes))),
            Body::Static(bytes) => out.extend_from_slice(bytes),
            Body::Empty | Body::Piece(_) | Body::Stream(_) | Body::Upgrade(_) => {}
        }
        match body {
            Body::Piece(piece) => {
                apart = Some(piece);
                body = Body::Empty;
            }
            Body::Stream(_) | Body::Upgrade(_) => {}
            Body::Empty | Body::Bytes(_) | Body::Static(_) => body = Body::Empty,
        }
        let mut bytes = out.len();
        self.out.push(Piece::Owned(out));
        if let Some(piece) = apart {
            bytes += piece.len();
            self.out.push(piece);
        }
        Ok(Begun { status, framing, bytes: bytes as u64, body, after_sent })
    }

    /// A piece of a body under way.
    pub(crate) fn piece(&mut self, piece: Piece, framing: ReplyFraming) -> u64 {
        let before = self.out.len();
        let len = piece.len();
        if framing == ReplyFraming::Chunked {
            let mut line = Vec::with_capacity(20);
            chunk_head(&mut line, len);
            if len <= BODY_INLINE_MAX
                && let Piece::Owned(bytes) = &piece
            {
                line.reserve(len + 2);
                line.extend_from_slice(bytes);
                line.extend_from_slice(b"\r\n");
                self.out.push(Piece::Owned(line));
            } else {
                self.out.push(Piece::Owned(line));
                self.out.push(piece);
                self.out.push(Piece::Owned(b"\r\n".to_vec()));
            }
        } else {
            self.out.push(piece);
        }
        (self.out.len() - before) as u64
    }

    /// Counts a reply that is complete.
    pub(crate) fn count(&mut self, about: &About, begun: &Begun) {
        let elapsed_ns = self.clock.elapsed_ns(about.since);
        self.tally.replied(about, begun.status, begun.bytes, elapsed_ns);
        if let Some(head) = &about.head {
            let noted = Noted {
                route: Some(about.route),
                status: begun.status,
                count: 1,
                kind: about.kind,
                bytes: begun.bytes,
                micros: Some(elapsed_ns / 1000),
            };
            self.note(&noted, head);
        }
    }

    /// Puts requests into the access log, where there is one.
    pub(crate) fn note(&mut self, noted: &Noted, head: &[u8]) {
        let Some(Noting { recorder, peer }) = &mut self.log else { return };
        recorder.record(&Entry {
            time_ms: self.clock.wall_ms(),
            count: noted.count,
            route: noted.route.map(|route| (self.index as u16, route.0)),
            status: noted.status,
            bytes: noted.bytes,
            micros: noted.micros,
            kind: kind_number(noted.kind),
            peer: peer.cloned(),
            head,
        });
    }
}

/// Its place in the list of names that lines are made with.
fn kind_number(kind: PathKind) -> u8 {
    match kind {
        PathKind::Prepared => 0,
        PathKind::Armed => 1,
        PathKind::Files => 2,
        PathKind::Proxy => 3,
        PathKind::Dynamic => 4,
        PathKind::Error => 5,
    }
}
