//! Replies that the protocol itself makes: what was wrong, and whether the connection can go on.

use crate::reply::{Persist, ReplyHead};

/// Why a request was refused; the name is the `reason` label of `emberd_parse_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The request line is not one (RFC 9112, section 3).
    RequestLine,
    /// The request target is malformed (RFC 9112, section 3.2).
    Target,
    /// A header field line is malformed (RFC 9112, section 5), or a line ends without CRLF.
    Header,
    /// `Host` is missing, repeated or malformed (RFC 9112, section 3.2).
    Host,
    /// `Content-Length` or `Transfer-Encoding` is malformed, repeated or contradictory
    /// (RFC 9112, section 6).
    Framing,
    /// A chunk is malformed (RFC 9112, section 7.1).
    Chunk,
    /// A transfer coding other than chunked (RFC 9112, section 6.1).
    Coding,
    /// An expectation other than `100-continue` (RFC 9110, section 10.1.1).
    Expectation,
    /// The version is not 1.0 or 1.1 (RFC 9110, section 15.6.6).
    Version,
    /// The request line is longer than the limit (RFC 9110, section 15.5.15).
    TargetTooLong,
    /// The head is longer than the limit, or has too many fields (RFC 6585, section 5).
    HeadTooLarge,
    /// The body is longer than the limit (RFC 9110, section 15.5.14).
    BodyTooLarge,
    /// No route has the path.
    NotFound,
    /// The route does not have the method (RFC 9110, section 15.5.6).
    MethodNotAllowed,
    /// The server knows no such method (RFC 9110, section 15.6.2).
    MethodUnknown,
    /// The head or the body did not come in time (RFC 9110, section 15.5.9).
    Timeout,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Reason; 16] = [
        Reason::RequestLine,
        Reason::Target,
        Reason::Header,
        Reason::Host,
        Reason::Framing,
        Reason::Chunk,
        Reason::Coding,
        Reason::Expectation,
        Reason::Version,
        Reason::TargetTooLong,
        Reason::HeadTooLarge,
        Reason::BodyTooLarge,
        Reason::NotFound,
        Reason::MethodNotAllowed,
        Reason::MethodUnknown,
        Reason::Timeout,
    ];

    /// The label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::RequestLine => "request_line",
            Reason::Target => "target",
            Reason::Header => "header",
            Reason::Host => "host",
            Reason::Framing => "framing",
            Reason::Chunk => "chunk",
            Reason::Coding => "coding",
            Reason::Expectation => "expectation",
            Reason::Version => "version",
            Reason::TargetTooLong => "target_too_long",
            Reason::HeadTooLarge => "head_too_large",
            Reason::BodyTooLarge => "body_too_large",
            Reason::NotFound => "not_found",
            Reason::MethodNotAllowed => "method_not_allowed",
            Reason::MethodUnknown => "method_unknown",
            Reason::Timeout => "timeout",
        }
    }

    /// The status code of the reply.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Reason::RequestLine
            | Reason::Target
            | Reason::Header
            | Reason::Host
            | Reason::Framing
            | Reason::Chunk => 400,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::Timeout => 408,
            Reason::BodyTooLarge => 413,
            Reason::TargetTooLong => 414,
            Reason::Expectation => 417,
            Reason::HeadTooLarge => 431,
            Reason::Coding | Reason::MethodUnknown => 501,
            Reason::Version => 505,
        }
    }

    /// Whether it is the bytes that are wrong, so that they count as a parse error; a wrong path
    /// or method is well-formed, and a timeout has other metrics.
    #[must_use]
    pub fn is_parse_error(self) -> bool {
        !matches!(self, Reason::NotFound | Reason::MethodNotAllowed | Reason::Timeout)
    }
}

/// A reply that the protocol itself makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// What was wrong.
    pub reason: Reason,
    /// How the reply leaves the connection.
    pub persist: Persist,
    /// Whether the reply must have no body, since a HEAD was answered.
    pub head_only: bool,
    /// The value of `Allow` for a 405.
    pub allow: Option<&'a str>,
}

impl Refusal<'_> {
    /// Appends the whole reply.
    pub fn write(&self, date: &[u8; crate::date::LEN], out: &mut Vec<u8>) {
        let status = self.reason.status();
        let mut body = Vec::with_capacity(32);
        body.extend_from_slice(status.to_string().as_bytes());
        body.push(b' ');
        body.extend_from_slice(crate::reply::phrase(status).as_bytes());
        body.push(b'\n');
        let mut head = ReplyHead::begin(out, status, self.persist, date);
        head.field("Content-Type", "text/plain; charset=utf-8");
        if let Some(allow) = self.allow {
            head.field("Allow", allow);
        }
        head.end_with_body(&body, self.head_only);
    }
}
