//! Where the replies of one conversation are put together and counted.

use std::time::Instant;

use ember::{IntoResponse as _, Response};
use ember_http::{After, HandlerId, Method, Refusal, ReplyContext, RouteId, VariantId};
use ember_uring::Piece;

use super::clock::Clock;
use super::replies::{Outgoing, Replies};
use super::tally::Tally;

/// What is known of a dispatched request until it is answered.
#[derive(Clone, Copy)]
pub(super) struct About {
    pub(super) site: usize,
    pub(super) route: RouteId,
    pub(super) handler: HandlerId,
    pub(super) method: Method,
    pub(super) since: Instant,
}

/// Where the replies of one conversation are put together and counted.
pub(super) struct Desk<'a> {
    pub(super) index: usize,
    pub(super) replies: &'a mut Replies,
    pub(super) tally: &'a mut Tally,
    pub(super) out: &'a mut Outgoing,
    pub(super) now: Instant,
    pub(super) clock: &'a Clock,
}

impl About {
    pub(super) fn new(site: usize, request: &ember_http::Request<'_>, since: Instant) -> Self {
        let (route, handler) = (request.route, request.handler);
        About { site, route, handler, method: request.method(), since }
    }
}

impl Desk<'_> {
    #[inline]
    pub(super) fn prepared(&mut self, variant: VariantId, method: Method, count: u32) {
        let len = self.replies.push(variant, count, self.out);
        self.tally.hit(self.index, (variant, method), count, len);
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        let len = self.replies.push(refusal.variant, 1, self.out);
        self.tally.refused(refusal, len, self.clock.elapsed_ns(self.now));
    }

    /// What the protocol has answered for this request.
    pub(super) fn give(&mut self, mut answer: ember_http::Answer) -> After {
        answer.set_date(self.replies.date());
        self.tally.answered(self.index, &answer, self.clock.elapsed_ns(self.now));
        self.out.push(Piece::Owned(answer.bytes));
        answer.after
    }

    /// A handler's reply. One that cannot be written is told as 500, in place of which nothing
    /// has gone out yet.
    pub(super) fn reply(&mut self, about: &About, response: &Response, context: ReplyContext) {
        let date = self.replies.date();
        let (status, bytes) = match response.to_bytes(context, date) {
            Ok(bytes) => (response.status(), bytes),
            Err(error) => {
                let failed = ember::Error::new(500, error.to_string()).into_response();
                (500, failed.to_bytes(context, date).unwrap_or_default())
            }
        };
        let elapsed_ns = self.clock.elapsed_ns(about.since);
        self.tally.replied(about.site, about.route, about.method, status, bytes.len(), elapsed_ns);
        self.out.push(Piece::Owned(bytes));
    }
}
