//! Why the protocol itself answers a request, and with which status.

use std::fmt;

/// Why a request was answered by the protocol and not by its route. The name is the `reason` label
/// of the parse-error metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The method is no token, or the request line does not begin with one.
    Method,
    /// The method is longer than any that could be served.
    MethodLength,
    /// A method that nothing on this server implements.
    MethodUnknown,
    /// The request target has a byte that no target has, or none of the four forms.
    Target,
    /// The request target is longer than the limit.
    TargetLength,
    /// The path climbs above its root, is not UTF-8, or has a broken percent-encoding.
    Path,
    /// The version is malformed.
    Version,
    /// A major version other than 1.
    VersionUnsupported,
    /// A line does not end in CRLF.
    LineEnd,
    /// A field name is empty, not a token, or not followed directly by its colon; line folding
    /// falls under this too.
    FieldName,
    /// A control character in a field value.
    FieldValue,
    /// The head is longer, or has more field lines, than the limits allow.
    HeadLength,
    /// No Host in an HTTP/1.1 request.
    HostMissing,
    /// More than one Host field line.
    HostRepeated,
    /// The Host is not `uri-host [ ":" port ]`.
    Host,
    /// Content-Length is not one decimal number.
    ContentLength,
    /// Both Transfer-Encoding and Content-Length.
    FramingConflict,
    /// Transfer-Encoding in a request of HTTP/1.0.
    TransferEncodingVersion,
    /// Transfer-Encoding is malformed or does not end in one `chunked`.
    TransferEncoding,
    /// Transfer-Encoding names a registered coding that is not implemented.
    TransferEncodingUnknown,
    /// The body is, or says that it will be, longer than the route allows.
    BodyLength,
    /// The chunked framing is malformed or its extensions exceed their limit.
    Chunk,
    /// The trailer section is malformed or too long.
    Trailer,
    /// An expectation other than 100-continue.
    Expectation,
    /// No route has this path.
    NotFound,
    /// The path has routes, none of them for this method.
    MethodNotAllowed,
    /// A precondition of the request does not hold.
    Precondition,
    /// A range lies outside the representation.
    Range,
    /// The answer to OPTIONS.
    Options,
    /// The path has a route with, or without, a slash at its end.
    Slash,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The body did not arrive in time or came slower than the lowest rate.
    BodyTimeout,
}

impl Reason {
    /// Every reason, for whoever keeps a counter for each.
    pub const ALL: [Reason; 32] = [
        Reason::Method,
        Reason::MethodLength,
        Reason::MethodUnknown,
        Reason::Target,
        Reason::TargetLength,
        Reason::Path,
        Reason::Version,
        Reason::VersionUnsupported,
        Reason::LineEnd,
        Reason::FieldName,
        Reason::FieldValue,
        Reason::HeadLength,
        Reason::HostMissing,
        Reason::HostRepeated,
        Reason::Host,
        Reason::ContentLength,
        Reason::FramingConflict,
        Reason::TransferEncodingVersion,
        Reason::TransferEncoding,
        Reason::TransferEncodingUnknown,
        Reason::BodyLength,
        Reason::Chunk,
        Reason::Trailer,
        Reason::Expectation,
        Reason::NotFound,
        Reason::MethodNotAllowed,
        Reason::Precondition,
        Reason::Range,
        Reason::Options,
        Reason::Slash,
        Reason::HeadTimeout,
        Reason::BodyTimeout,
    ];

    /// The status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Reason::Method
            | Reason::Target
            | Reason::Path
            | Reason::Version
            | Reason::LineEnd
            | Reason::FieldName
            | Reason::FieldValue
            | Reason::HostMissing
            | Reason::HostRepeated
            | Reason::Host
            | Reason::ContentLength
            | Reason::FramingConflict
            | Reason::TransferEncodingVersion
            | Reason::TransferEncoding
            | Reason::Chunk => 400,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::HeadTimeout | Reason::BodyTimeout => 408,
            Reason::Precondition => 412,
            Reason::BodyLength => 413,
            Reason::TargetLength => 414,
            Reason::Range => 416,
            Reason::Expectation => 417,
            Reason::HeadLength | Reason::Trailer => 431,
            Reason::MethodLength | Reason::MethodUnknown | Reason::TransferEncodingUnknown => 501,
            Reason::VersionUnsupported => 505,
            Reason::Options => 204,
            Reason::Slash => 308,
        }
    }

    /// Whether the bytes themselves were at fault, so that it counts as a parse error.
    #[must_use]
    pub fn is_parse_error(self) -> bool {
        !matches!(
            self,
            Reason::NotFound
                | Reason::MethodNotAllowed
                | Reason::MethodUnknown
                | Reason::Precondition
                | Reason::Range
                | Reason::Options
                | Reason::Slash
                | Reason::HeadTimeout
                | Reason::BodyTimeout
                | Reason::BodyLength
                | Reason::Expectation
        )
    }

    /// A label of lower-case words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Method => "method",
            Reason::MethodLength => "method_length",
            Reason::MethodUnknown => "method_unknown",
            Reason::Target => "target",
            Reason::TargetLength => "target_length",
            Reason::Path => "path",
            Reason::Version => "version",
            Reason::VersionUnsupported => "version_unsupported",
            Reason::LineEnd => "line_end",
            Reason::FieldName => "field_name",
            Reason::FieldValue => "field_value",
            Reason::HeadLength => "head_length",
            Reason::HostMissing => "host_missing",
            Reason::HostRepeated => "host_repeated",
            Reason::Host => "host",
            Reason::ContentLength => "content_length",
            Reason::FramingConflict => "framing_conflict",
            Reason::TransferEncodingVersion => "transfer_encoding_version",
            Reason::TransferEncoding => "transfer_encoding",
            Reason::TransferEncodingUnknown => "transfer_encoding_unknown",
            Reason::BodyLength => "body_length",
            Reason::Chunk => "chunk",
            Reason::Trailer => "trailer",
            Reason::Expectation => "expectation",
            Reason::NotFound => "not_found",
            Reason::MethodNotAllowed => "method_not_allowed",
            Reason::Precondition => "precondition",
            Reason::Range => "range",
            Reason::Options => "options",
            Reason::Slash => "slash",
            Reason::HeadTimeout => "head_timeout",
            Reason::BodyTimeout => "body_timeout",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
