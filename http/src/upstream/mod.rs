//! The other side of the protocol: what is sent to an upstream server, and how its replies are
//! read.
//!
//! Nothing is passed on as bytes: a request is written anew from what was parsed, with framing of
//! its own, and a reply is read as strictly as a request, so that two programs on the way can never
//! disagree about where a message ends. What is ambiguous is a [`Fault`], which a gateway tells its
//! client as 502.

mod body;
mod head;
mod hop;
mod request;

use std::fmt;

pub use body::{ReplyBody, ReplyPiece};
pub use head::{ReplyBodyKind, ReplyHead};
pub use hop::{HopOptions, is_hop_by_hop};
pub use request::{
    RequestBody, RequestHead, Unwritable, encode_path, field, has_dot_segments, is_field,
};

/// Why a reply of an upstream cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The status line is none of HTTP/1.
    StatusLine,
    /// A major version other than 1.
    Version,
    /// A line does not end in CRLF.
    LineEnd,
    /// A field line is malformed or folded.
    Field,
    /// The head is longer, or has more field lines, than the limits allow.
    HeadLength,
    /// Content-Length is not one decimal number.
    ContentLength,
    /// Both Transfer-Encoding and Content-Length, or either where no body can be.
    FramingConflict,
    /// A transfer coding other than one `chunked`.
    TransferEncoding,
    /// The chunked framing is malformed.
    Chunk,
    /// The trailer section is malformed or too long.
    Trailer,
    /// The connection ended before the reply did.
    Truncated,
    /// A change of protocol that nobody asked for.
    Upgrade,
    /// Bytes where no reply was expected.
    Unexpected,
}

impl Fault {
    /// What is wrong, in words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::StatusLine => "its status line is malformed",
            Fault::Version => "it speaks another protocol version",
            Fault::LineEnd => "a line of its head does not end in CRLF",
            Fault::Field => "a field of its head is malformed",
            Fault::HeadLength => "its head is too long",
            Fault::ContentLength => "its Content-Length is malformed",
            Fault::FramingConflict => "its fields contradict each other about its length",
            Fault::TransferEncoding => "its transfer coding is not supported",
            Fault::Chunk => "its chunked framing is malformed",
            Fault::Trailer => "its trailer section is malformed or too long",
            Fault::Truncated => "it ended too early",
            Fault::Upgrade => "it changes the protocol unasked",
            Fault::Unexpected => "it came before its request",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Fault {}
