//! Replies as caches keep them, which ones may be kept, and for which requests.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ember_http::Method;
use ember_uring::Piece;

use crate::body::Body;
use crate::request::Request;
use crate::response::{Response, Text};

/// A whole reply. Its body is shared with every reply that is made of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<(Text, Text)>,
    pub(super) body: Bytes,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bytes {
    Static(&'static [u8]),
    Shared(Arc<[u8]>),
}

/// What a handler's reply is to a cache.
#[derive(Debug)]
pub(super) enum Judged {
    /// It may be kept.
    Good(Arc<Reply>),
    /// It may not, and neither will those that follow.
    Uncacheable(Response),
    /// It says nothing about what others would get.
    Singular(Response),
    /// The handler failed.
    Failed(Response),
}

/// Which requests one reply serves.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    /// Names of header fields whose values tell replies apart, in lower case.
    pub(super) vary: Vec<String>,
    /// Requests with credentials are served too.
    pub(super) with_credentials: bool,
}

/// Stands between the parts of a key; no byte of UTF-8.
const SEPARATOR: u8 = 0xff;

/// Milliseconds on the clock that all caches of the process share.
pub(super) fn now_ms() -> u64 {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    BEGINNING.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// What the keys of all requests for this path begin with.
pub(super) fn key_of_path(path: &str) -> Vec<u8> {
    let mut key = path.as_bytes().to_vec();
    key.push(SEPARATOR);
    key
}

impl Rules {
    /// Whether the request may be answered from a cache at all: a GET or HEAD without a body, a
    /// precondition, or credentials that the cache does not tell apart.
    pub(super) fn cover(&self, request: &Request) -> bool {
        if !matches!(request.method(), Method::Get | Method::Head) || request.has_body() {
            return false;
        }
        let mut all = request.headers();
        all.all(|(name, _)| match name.len() {
            8 if name.eq_ignore_ascii_case(b"if-match") => false,
            19 if name.eq_ignore_ascii_case(b"if-unmodified-since") => false,
            6 if name.eq_ignore_ascii_case(b"cookie") => self.tells_apart("cookie"),
            13 if name.eq_ignore_ascii_case(b"authorization") => self.tells_apart("authorization"),
            _ => true,
        })
    }

    fn tells_apart(&self, name: &str) -> bool {
        self.with_credentials || self.vary.iter().any(|known| known == name)
    }

    /// The key: path first, so that a prefix of paths is a prefix of keys. Lengths make what
    /// follows the texts unambiguous.
    pub(super) fn write_key(&self, request: &Request, key: &mut Vec<u8>) {
        key.clear();
        let head = request.head();
        key.extend_from_slice(head.path().as_bytes());
        key.push(SEPARATOR);
        key.push(if head.method() == Method::Head { b'H' } else { b'G' });
        key.extend_from_slice(head.route_info().route.name.as_bytes());
        key.push(SEPARATOR);
        write_part(key, head.query());
        for name in &self.vary {
            head.field_values(name).for_each(|value| write_part(key, Some(value)));
            write_part(key, None);
        }
    }

    /// What this reply is worth. Statuses are those that may be kept without being told to
    /// (RFC 9110 section 15.1) and are no errors.
    pub(super) fn judge(&self, mut response: Response) -> Judged {
        match response.status() {
            200 | 203 | 204 | 300 | 301 | 308 => {}
            206 | 304 => return Judged::Singular(response),
            500.. => return Judged::Failed(response),
            _ => return Judged::Uncacheable(response),
        }
        let fields = response.headers();
        if !fields.iter().all(|(name, value)| self.may_keep(name, value)) {
            return Judged::Uncacheable(response);
        }
        let body = match response.take_body() {
            Body::Empty => Bytes::Static(b""),
            Body::Static(bytes) => Bytes::Static(bytes),
            Body::Bytes(bytes) | Body::Piece(Piece::Owned(bytes)) => Bytes::Shared(bytes.into()),
            Body::Piece(Piece::Shared(bytes)) => Bytes::Shared(bytes),
            other => return Judged::Uncacheable(response.with_body(other)),
        };
        let fields = std::mem::take(response.headers_mut());
        Judged::Good(Arc::new(Reply { status: response.status(), fields, body }))
    }

    /// Whether a field lets its reply be kept (RFC 9111 sections 3 and 4.1).
    fn may_keep(&self, name: &str, value: &str) -> bool {
        let mut parts = value.split(',').map(|part| part.trim().to_ascii_lowercase());
        match name.len() {
            10 if name.eq_ignore_ascii_case("set-cookie") => false,
            13 if name.eq_ignore_ascii_case("cache-control") => !parts.any(|part| {
                let directive = part.split('=').next().unwrap_or_default().trim_end();
                matches!(directive, "no-store" | "no-cache" | "private")
            }),
            4 if name.eq_ignore_ascii_case("vary") => {
                parts.all(|part| part.is_empty() || self.vary.contains(&part))
            }
            _ => true,
        }
    }
}

fn write_part(key: &mut Vec<u8>, part: Option<&[u8]>) {
    let len = part.map_or(u32::MAX, |part| part.len() as u32);
    key.extend_from_slice(&len.to_le_bytes());
    key.extend_from_slice(part.unwrap_or_default());
}

impl Reply {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let body = match &self.body {
            Bytes::Static(_) => 0,
            Bytes::Shared(bytes) => bytes.len(),
        };
        self.fields.iter().map(|(name, value)| name.len() + value.len() + 48).sum::<usize>() + body
    }

    /// It as a response of this age (RFC 9111 section 5.1), which is told from a second on.
    pub(super) fn response(&self, age_ms: u64) -> Response {
        let mut response = Response::new(self.status);
        let fields = response.headers_mut();
        fields.reserve_exact(self.fields.len() + usize::from(age_ms >= 1000));
        fields.extend_from_slice(&self.fields);
        if age_ms >= 1000 {
            fields.push(("Age".into(), (age_ms / 1000).to_string().into()));
        }
        response.with_body(match &self.body {
            Bytes::Static(bytes) => Body::Static(bytes),
            Bytes::Shared(bytes) => Body::Piece(Piece::Shared(Arc::clone(bytes))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_good(rules: &Rules, response: Response) -> bool {
        matches!(rules.judge(response), Judged::Good(_))
    }

    #[test]
    fn only_good_replies_are_kept() {
        let rules = Rules { vary: vec!["accept".to_owned()], with_credentials: false };
        let fine = || Response::text(200, "fine").header("Cache-Control", "max-age=5, public");
        assert!(is_good(&rules, fine()));
        assert!(is_good(&rules, fine().header("Vary", "Accept")));
        assert!(!is_good(&rules, fine().header("Vary", "Accept, Origin")));
        assert!(!is_good(&rules, fine().header("vary", "*")));
        assert!(!is_good(&rules, fine().header("Set-Cookie", "a=b")));
        for told in ["no-store", "public, PRIVATE", "no-cache=\"a\""] {
            assert!(!is_good(&rules, fine().header("cache-control", told)), "{told}");
        }
        for status in [201, 302, 400, 401, 404, 429] {
            let judged = rules.judge(Response::text(status, "no"));
            assert!(matches!(judged, Judged::Uncacheable(_)), "{status}");
        }
        assert!(matches!(rules.judge(Response::new(304)), Judged::Singular(_)));
        assert!(matches!(rules.judge(Response::new(503)), Judged::Failed(_)));
    }

    #[test]
    fn a_kept_reply_is_told_again_with_its_age() {
        let Judged::Good(reply) = Rules::default().judge(Response::text(200, "one".to_owned()))
        else {
            panic!("a good reply")
        };
        let fresh = reply.response(999);
        assert_eq!(fresh.headers().len(), 1);
        assert!(
            matches!(fresh.body_ref(), Body::Piece(Piece::Shared(bytes)) if **bytes == *b"one")
        );
        assert_eq!(reply.response(2999).headers()[1], ("Age".into(), "2".into()));
    }
}
