//! Replies as a cache keeps them, and how it tells of them.

use std::sync::Arc;

use ember::cache::Ttl;
use ember::{Body, Error, Piece, Request, Response};
use ember_http::FieldBlock;
use ember_http::caching::{ReplyFacts, is_cacheable_status};
use ember_http::conditional::{Validators, Verdict};
use ember_http::date;

use super::failure::Failure;
use super::fetched::Fetched;

/// What a cache knows of a key.
#[derive(Debug)]
pub(super) enum Kept {
    /// A reply.
    Reply(Stored),
    /// The replies differ by these request fields; the mark is part of their keys.
    Varies {
        /// In lower case, sorted.
        names: Vec<String>,
        /// No other names of this cache have it.
        mark: u64,
    },
}

/// A whole reply.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) status: u16,
    fields: Arc<FieldBlock>,
    body: Arc<[u8]>,
    pub(super) etag: Option<String>,
    /// Last-Modified as it was sent.
    pub(super) modified: Option<String>,
    /// Its age when it came, in seconds.
    age: u64,
}

/// How a reply came about, for the field Cache-Status (RFC 9211).
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Hit { age_ms: u64, fresh_ms: u64 },
    Stale { age_ms: u64, stale_ms: u64 },
    Collapsed,
    Fetched,
    Revalidated,
}

impl Kept {
    pub(super) fn reply(&self) -> Option<&Stored> {
        match self {
            Kept::Reply(reply) => Some(reply),
            Kept::Varies { .. } => None,
        }
    }

    /// What it is counted with in the cache.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Kept::Reply(reply) => {
                let texts = reply.etag.iter().chain(&reply.modified).map(String::len);
                reply.body.len() + reply.fields.bytes().len() + texts.sum::<usize>()
            }
            Kept::Varies { names, .. } => names.iter().map(|name| name.len() + 24).sum(),
        }
    }

    /// The request fields that it varies by: these, and those of its own Vary.
    pub(super) fn varies_by(&self, always: &[String]) -> Vec<String> {
        let mut names = always.to_vec();
        let fields = self.reply().map(|reply| &reply.fields);
        for (name, value) in fields.iter().flat_map(|fields| fields.iter()) {
            if name.eq_ignore_ascii_case(b"vary") {
                let value = String::from_utf8_lossy(value).to_ascii_lowercase();
                let elements = value.split(',').map(str::trim).filter(|name| !name.is_empty());
                names.extend(elements.map(str::to_owned));
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Stored {
    pub(super) fn new(fetched: Fetched, body: Vec<u8>) -> Stored {
        let age = fetched.facts.age;
        Stored::with(fetched.status, fetched.fields, body.into(), age)
    }

    fn with(status: u16, fields: FieldBlock, body: Arc<[u8]>, age: u64) -> Stored {
        let text = |name: &[u8]| {
            let (_, value) = fields.iter().find(|(of, _)| of.eq_ignore_ascii_case(name))?;
            String::from_utf8(value.to_vec()).ok()
        };
        let (etag, modified) = (text(b"etag"), text(b"last-modified"));
        // The cache tells the age itself.
        let mut kept = FieldBlock::new();
        for (name, value) in fields.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(b"age")) {
            // It was in a block before, so it can be in this one.
            let _ = kept.push(name, value);
        }
        Stored { status, fields: Arc::new(kept), body, etag, modified, age }
    }

    /// What all who wait are told when nothing can be fetched.
    pub(super) fn of_failure(failure: &Failure) -> Stored {
        Stored::of_error(&Error::new(failure.status(), failure.to_string()))
    }

    pub(super) fn of_error(error: &Error) -> Stored {
        use ember::IntoResponse as _;
        let mut response = error.clone().into_response();
        let mut fields = FieldBlock::new();
        for (name, value) in response.headers() {
            let _ = fields.push(name.as_bytes(), value.as_bytes());
        }
        let body = match response.take_body() {
            Body::Bytes(bytes) => bytes.into(),
            _ => Arc::from([]),
        };
        Stored::with(error.status(), fields, body, 0)
    }

    /// The same reply with the fields of a 304 that has said that it still holds (RFC 9111 section
    /// 3.2): new values stand in the place of old ones.
    pub(super) fn refreshed(&self, by: &Fetched) -> Stored {
        let mut fields = FieldBlock::new();
        let renewed = |name: &[u8]| by.fields.iter().any(|(of, _)| of.eq_ignore_ascii_case(name));
        for (name, value) in self.fields.iter().filter(|(name, _)| !renewed(name)) {
            let _ = fields.push(name, value);
        }
        fields.append(&by.fields);
        Stored::with(self.status, fields, Arc::clone(&self.body), by.facts.age)
    }

    /// The reply to a request, with its conditions evaluated.
    pub(super) fn response(&self, request: &Request, told: Told) -> Response {
        let (age_ms, status) = told.age_and_status();
        let age = self.age + age_ms / 1000;
        let (code, body) = match self.verdict(request) {
            Verdict::NotModified => (304, Body::Empty),
            Verdict::Failed => (412, Body::Empty),
            Verdict::Proceed => (self.status, self.body()),
        };
        let response = Response::new(code).with_shared_block(Arc::clone(&self.fields));
        let response = if age > 0 || matches!(told, Told::Hit { .. } | Told::Stale { .. }) {
            response.header("Age", age.to_string())
        } else {
            response
        };
        response.header("Cache-Status", status).with_body(body)
    }

    fn body(&self) -> Body {
        match self.body.is_empty() {
            true => Body::Empty,
            false => Body::Piece(Piece::Shared(Arc::clone(&self.body))),
        }
    }

    fn verdict(&self, request: &Request) -> Verdict {
        if self.status != 200 {
            return Verdict::Proceed;
        }
        let modified = self.modified.as_ref().and_then(|text| date::parse(text.as_bytes()));
        request.head().evaluate(&Validators { etag: self.etag.as_deref(), last_modified: modified })
    }
}

impl Told {
    fn age_and_status(self) -> (u64, std::borrow::Cow<'static, str>) {
        match self {
            Told::Hit { age_ms, fresh_ms } => {
                (age_ms, format!("emberd; hit; ttl={}", fresh_ms.div_ceil(1000)).into())
            }
            Told::Stale { age_ms, stale_ms } => {
                (age_ms, format!("emberd; hit; ttl=-{}", stale_ms / 1000).into())
            }
            Told::Collapsed => (0, "emberd; fwd=uri-miss; collapsed".into()),
            Told::Fetched => (0, "emberd; fwd=uri-miss; stored".into()),
            Told::Revalidated => (0, "emberd; fwd=stale; fwd-status=304; stored".into()),
        }
    }
}

/// For how long a reply may be kept. `own` are the config's times, for replies that give none, or
/// for all where they override. A reply to a request with a cookie may be one person's: it is kept
/// only where it says itself that it may be, or the config overrides.
pub(super) fn ttl(
    own: Ttl,
    overrides: bool,
    cookie: bool,
    status: u16,
    facts: &ReplyFacts,
    now: u64,
) -> Option<Ttl> {
    let usable = |ttl: Ttl| (ttl.fresh_ms > 0 || ttl.stale_ms > 0).then_some(ttl);
    let never = facts.sets_cookie || facts.varies_by_all || !is_cacheable_status(status);
    if overrides {
        return if never { None } else { usable(own) };
    }
    if let Some(lifetime) = facts.lifetime(status, false, now) {
        return Some(Ttl {
            fresh_ms: lifetime.fresh * 1000,
            stale_ms: lifetime.while_revalidate * 1000,
            error_ms: lifetime.if_error * 1000,
        });
    }
    let control = &facts.control;
    let says = control.max_age.is_some()
        || control.s_maxage.is_some()
        || facts.expires.is_some()
        || control.no_cache
        || control.no_store
        || control.private;
    if never || says || cookie { None } else { usable(own) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ttl = Ttl { fresh_ms: 5000, stale_ms: 0, error_ms: 0 };

    fn of(fields: &str) -> ReplyFacts {
        let lines = fields.split('|').filter_map(|line| line.split_once(": "));
        ReplyFacts::of(lines.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    #[test]
    fn replies_are_kept_as_they_say_or_else_as_the_config_does() {
        for (fields, cookie, obeyed, overridden) in [
            ("", false, Some(5000), Some(5000)),
            ("", true, None, Some(5000)),
            ("Cache-Control: public", false, Some(5000), Some(5000)),
            ("Cache-Control: max-age=7", false, Some(7000), Some(5000)),
            ("Cache-Control: max-age=7", true, Some(7000), Some(5000)),
            ("Cache-Control: max-age=0", false, None, Some(5000)),
            ("Expires: 0", false, None, Some(5000)),
            ("Cache-Control: no-store", false, None, Some(5000)),
            ("Cache-Control: private", false, None, Some(5000)),
            ("Set-Cookie: a=b", false, None, None),
            ("Vary: *", false, None, None),
        ] {
            let fresh = |overrides| {
                ttl(OWN, overrides, cookie, 200, &of(fields), 0).map(|ttl| ttl.fresh_ms)
            };
            assert_eq!((fresh(false), fresh(true)), (obeyed, overridden), "{fields} {cookie}");
        }
        assert_eq!(ttl(OWN, true, false, 503, &of(""), 0), None);
        assert_eq!(ttl(Ttl::default(), true, false, 200, &of(""), 0), None);
    }
}
