//! Listeners that give one and the same reply to whatever is asked.
//!
//! The reply is *armed*: queued behind the wait for a request's first byte (chain 2), so it leaves
//! before this process has woken. It is paid ahead, therefore, for the first request in what is
//! received then; every further request in the same bytes gets a reply of its own, sent plainly.
//! Only when all of that is read, and the connection stands between two requests, is it armed
//! again: there is never a second reply to one request, and never one to none, however the bytes
//! come. Since any byte but an end begins a request, a part of a head is answered too; the rest of
//! it is received without arming anything.
//!
//! An armed reply cannot know what its request will ask for, so it never says that the connection
//! ends. Where it should have been said, as far as that is known before (a drain, the last request
//! of a connection), nothing is armed and the reply waits for its request.

use ember_http::{
    After, Conn, Event, Input, Memo, Method, Persist, Prepared, Reason, Route, RouteId, Site,
    SiteBuilder, SiteError, VariantId,
};
use ember_metrics::PathKind;

use super::desk::{Desk, Noted};
use super::tally::{Closed, OneReplyKey};
use super::thread::Next;
use crate::config::Reply;

/// The reply of a listener that has but one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OneReply {
    route: RouteId,
    status: u16,
    /// In the order of [`Persist::ALL`].
    variants: [VariantId; 3],
}

impl OneReply {
    /// Adds the reply to an empty site, under the listener's name.
    ///
    /// # Errors
    /// What the protocol would not send; the config's own check finds that first.
    pub(crate) fn add(
        mut builder: SiteBuilder,
        name: &str,
        reply: &Reply,
    ) -> Result<(Site, OneReply), SiteError> {
        let prepared = Prepared {
            status: reply.status,
            content_type: None,
            fields: reply.headers.clone(),
            methods: ember_http::Methods::ANY,
            ..Prepared::new("", [])
        };
        let route = builder.prepared(Route::prefix(name, "/"), prepared);
        let site = builder.build()?;
        let of = |persist: Persist| {
            let is_it = |id: &VariantId| {
                let variant = site.variant(*id);
                variant.route() == Some(route)
                    && (variant.status(), variant.method()) == (reply.status, Method::Get)
                    && variant.persist() == persist
            };
            site.variant_ids().find(is_it).expect("a route is rendered in every persistence")
        };
        let variants = Persist::ALL.map(of);
        Ok((site, OneReply { route, status: reply.status, variants }))
    }

    /// Its counters' names, for a request of this method if it is known.
    pub(super) fn key(&self, site: usize, method: Option<Method>) -> OneReplyKey {
        OneReplyKey { site, route: self.route, method, status: self.status }
    }

    /// The length of the armed reply in bytes.
    pub(super) fn len(&self, site: &Site) -> usize {
        site.variant(self.variant(Persist::Default)).len()
    }

    /// The rendered reply that says this about the connection.
    pub(crate) fn variant(&self, persist: Persist) -> VariantId {
        self.variants[persist as usize]
    }
}

/// What a request asked for, as far as it matters here.
struct Asked {
    count: u32,
    method: Option<Method>,
    after: After,
    malformed: Option<Reason>,
}

/// Whether a reply went out, or may have, for which no request has been read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Prepaid {
    /// None did.
    #[default]
    No,
    /// One does when a request begins.
    Armed,
    /// It is out: a part of its request has been read.
    Begun,
}

/// One connection to such a listener.
pub(super) struct Talk<'a> {
    pub(super) one: &'a OneReply,
    pub(super) site: &'a Site,
    pub(super) conn: &'a mut Conn,
    pub(super) memo: &'a mut Memo,
    pub(super) prepaid: &'a mut Prepaid,
    pub(super) now_ms: u64,
}

/// Lets the connection's machine read what came, and answers each request once: the first by the
/// reply that is out already where one is prepaid, the others by replies put on the desk.
pub(super) fn converse(talk: Talk<'_>, input: &mut Input<'_>, desk: &mut Desk<'_>) -> Next {
    let Talk { one, site, conn, memo, prepaid, now_ms } = talk;
    loop {
        let mut asked = match conn.next(site, memo, input) {
            Event::Prepared { count, after, method, head, .. } => {
                desk.note_armed(one, count, head);
                Asked { count, method: Some(method), after, malformed: None }
            }
            Event::Refuse(refusal) => Asked {
                count: 1,
                method: refusal.method,
                after: refusal.after,
                malformed: Some(refusal.reason).filter(|reason| reason.is_parse_error()),
            },
            Event::Answer(answer) => Asked {
                count: 1,
                method: Some(answer.method),
                after: answer.after,
                malformed: None,
            },
            Event::More if *prepaid == Prepaid::Armed => {
                *prepaid = Prepaid::Begun;
                return Next::Receive;
            }
            Event::More => return if conn.is_idle() { Next::Arm } else { Next::Receive },
            // The site has nothing but the one prepared reply: the others cannot be.
            Event::Close
            | Event::Request(_)
            | Event::Body(_)
            | Event::BodyEnd
            | Event::Continue
            | Event::Wait => return Next::Close(Closed::Reply),
        };
        let http10 = conn.reply_context(site).http10;
        let paid = std::mem::take(prepaid) != Prepaid::No;
        // A client of HTTP/1.0 was not told that the connection goes on, and a 2xx makes a tunnel
        // of one that asked for it (RFC 9110 section 9.3.6), in which we have nothing to say.
        let tunnel = asked.method == Some(Method::Connect) && one.status / 100 == 2;
        if asked.after == After::Open && (paid && http10 || tunnel) {
            conn.keep(memo, input);
            asked.after = conn.replied(site, true, now_ms);
        }
        desk.one_reply(one, &asked, paid, http10);
        let why = if asked.malformed.is_some() { Closed::Refused } else { Closed::Reply };
        match asked.after {
            After::Open => {}
            After::Close => return Next::Close(why),
            After::Linger => return Next::Linger(why),
        }
    }
}

impl Desk<'_> {
    /// Puts requests into the access log. They were not timed.
    fn note_armed(&mut self, one: &OneReply, count: u32, head: &[u8]) {
        let noted = Noted {
            route: Some(one.route),
            status: one.status,
            count,
            kind: PathKind::Armed,
            bytes: self.replies.len_of(one.variant(Persist::Default)) as u64,
            micros: None,
        };
        self.note(&noted, head);
    }

    /// Counts the reply that is out already, if one is, and puts the others on the desk.
    fn one_reply(&mut self, one: &OneReply, asked: &Asked, paid: bool, http10: bool) {
        if let Some(reason) = asked.malformed {
            self.tally.malformed(reason);
        }
        let key = one.key(self.index, asked.method);
        if paid {
            self.tally.armed(&key, self.replies.len_of(one.variant(Persist::Default)));
        }
        let plain = asked.count - u32::from(paid);
        if plain == 0 {
            return;
        }
        let last = u32::from(asked.after != After::Open);
        let open = if http10 { Persist::KeepAlive } else { Persist::Default };
        let elapsed_ns = self.clock.elapsed_ns(self.now);
        for (persist, count) in [(open, plain - last), (Persist::Close, last)] {
            if count > 0 {
                let bytes = self.replies.push(one.variant(persist), count, self.out);
                self.tally.answered_plainly(&key, persist, count, bytes, elapsed_ns);
            }
        }
    }
}
