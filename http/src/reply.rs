//! Replies made for one request: their heads, chunks and persistence.

use std::fmt;

use crate::bytes::{TOKEN, all, is_control};
use crate::date;
use crate::field_block::FieldBlock;
use crate::status;

/// What a reply says about the connection (RFC 9112 section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Persist {
    /// It stays open, which HTTP/1.1 need not say.
    Default,
    /// It stays open, which a client of HTTP/1.0 must be told.
    KeepAlive,
    /// It ends with this reply.
    Close,
}

impl Persist {
    /// All three, in the order of their numbers.
    pub const ALL: [Persist; 3] = [Persist::Default, Persist::KeepAlive, Persist::Close];

    /// Whether the connection ends with the reply.
    #[must_use]
    pub fn closes(self) -> bool {
        self == Persist::Close
    }

    /// The connection option that says so.
    pub(crate) fn option(self) -> Option<&'static str> {
        match self {
            Persist::Default => None,
            Persist::KeepAlive => Some("keep-alive"),
            Persist::Close => Some("close"),
        }
    }
}

/// What a connection does when a reply is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It goes on: receive.
    Open,
    /// It closes: nothing is left to read.
    Close,
    /// It shuts its sending side down and reads on for a while, so that a reset does not overtake
    /// the reply (RFC 9112 section 9.6). Go on calling [`Conn::next`](crate::Conn::next) until it
    /// says [`Event::Close`](crate::Event::Close).
    Linger,
}

/// What a reply must know of its request. Small and without references, so that it can travel with
/// a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyContext {
    /// The request was of HTTP/1.0, which knows no chunks.
    pub http10: bool,
    /// The request's method was HEAD: the reply has no body.
    pub head_only: bool,
    /// Whether the connection can go on behind this reply.
    pub persist: Persist,
}

/// The length of a reply's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyLength {
    /// So many bytes.
    Known(u64),
    /// As many as will come: chunks, or all until the connection closes.
    Unknown,
}

/// How the body of a reply is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyFraming {
    /// No body follows, whatever the length was said to be.
    Bodiless,
    /// The bytes as they are.
    Length,
    /// Each piece between [`chunk_head`] and CRLF, [`LAST_CHUNK`] at the end.
    Chunked,
    /// The bytes as they are; the connection must close behind them.
    UntilClose,
}

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The interim reply that asks for the body (RFC 9110 section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A field that cannot stand in a reply: its name is no token, its value has a control character,
/// or it belongs to the framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field's name.
    pub name: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the field {:?} cannot stand in a reply", self.name)
    }
}

impl std::error::Error for FieldError {}

/// Fields that the writer sets itself; a handler's `Connection: close` goes by
/// [`ReplyContext::persist`].
const OWNED: [&str; 5] =
    ["date", "content-length", "transfer-encoding", "connection", "keep-alive"];

impl ReplyContext {
    /// Writes a reply head behind what `out` holds; the framing tells how the body follows. On
    /// error `out` is as it was.
    pub fn write_head<'f>(
        &self,
        out: &mut Vec<u8>,
        status: u16,
        date: &[u8; date::LEN],
        fields: impl IntoIterator<Item = (&'f str, &'f str)>,
        length: ReplyLength,
    ) -> Result<ReplyFraming, FieldError> {
        self.write_head_with(out, status, date, &[], fields, length)
    }

    /// The same with blocks of fields that were rendered before, in front of the others.
    ///
    /// # Errors
    /// As [`ReplyContext::write_head`].
    pub fn write_head_with<'f>(
        &self,
        out: &mut Vec<u8>,
        status: u16,
        date: &[u8; date::LEN],
        blocks: &[&FieldBlock],
        fields: impl IntoIterator<Item = (&'f str, &'f str)>,
        length: ReplyLength,
    ) -> Result<ReplyFraming, FieldError> {
        let start = out.len();
        write_status_line(out, status);
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
        for block in blocks {
            out.extend_from_slice(block.bytes());
        }
        for (name, value) in fields {
            if !is_writable(name, value) {
                out.truncate(start);
                return Err(FieldError { name: name.to_owned() });
            }
            write_field(out, name, value);
        }
        let framing = self.framing(status, length);
        let persist = match framing {
            ReplyFraming::UntilClose => Persist::Close,
            _ => self.persist,
        };
        // A change of protocol is named by both fields (RFC 9110 section 7.8).
        let option = if status == 101 { Some("upgrade") } else { persist.option() };
        if let Some(option) = option {
            write_field(out, "Connection", option);
        }
        self.write_length(out, status, length, framing);
        out.extend_from_slice(b"\r\n");
        Ok(framing)
    }

    fn framing(&self, status: u16, length: ReplyLength) -> ReplyFraming {
        if self.head_only || status::is_bodiless(status) {
            return ReplyFraming::Bodiless;
        }
        match length {
            ReplyLength::Known(0) => ReplyFraming::Bodiless,
            ReplyLength::Known(_) => ReplyFraming::Length,
            ReplyLength::Unknown if self.http10 => ReplyFraming::UntilClose,
            ReplyLength::Unknown => ReplyFraming::Chunked,
        }
    }

    /// HEAD is told the length that GET would have (RFC 9110 section 8.6); 1xx and 204 have none.
    fn write_length(
        &self,
        out: &mut Vec<u8>,
        status: u16,
        length: ReplyLength,
        framing: ReplyFraming,
    ) {
        if status::is_bodiless(status) {
            return;
        }
        match length {
            ReplyLength::Known(len) => {
                out.extend_from_slice(b"Content-Length: ");
                write_decimal(out, len);
                out.extend_from_slice(b"\r\n");
            }
            ReplyLength::Unknown => {
                if framing == ReplyFraming::Chunked || (self.head_only && !self.http10) {
                    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                }
            }
        }
    }
}

fn is_writable(name: &str, value: &str) -> bool {
    !name.is_empty()
        && all(name.as_bytes(), TOKEN)
        && !value.bytes().any(is_control)
        && !is_owned(name.as_bytes())
}

/// Whether the writer sets a field of this name itself.
pub(crate) fn is_owned(name: &[u8]) -> bool {
    // Their lengths tell most other names apart.
    matches!(name.len(), 4 | 10 | 14 | 17)
        && OWNED.iter().any(|owned| name.eq_ignore_ascii_case(owned.as_bytes()))
}

fn write_status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let status = status.clamp(100, 999);
    write_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(status::phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    write_field_bytes(out, name.as_bytes(), value.as_bytes());
}

pub(crate) fn write_field_bytes(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

pub(crate) fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes the line in front of a chunk's bytes, which must not be empty: an empty chunk would end
/// the body.
pub fn chunk_head(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0);
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[len >> (4 * digit) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: ReplyContext =
        ReplyContext { http10: false, head_only: false, persist: Persist::Default };

    fn written(context: ReplyContext, status: u16, length: ReplyLength) -> (String, ReplyFraming) {
        let mut out = Vec::new();
        let framing = context
            .write_head(&mut out, status, &date::format(0), [("X-A", "b")], length)
            .expect("legal fields");
        (String::from_utf8(out).expect("ASCII"), framing)
    }

    #[test]
    fn heads_say_how_the_body_is_framed() {
        let start = "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-A: b\r\n";
        let (head, framing) = written(GET, 200, ReplyLength::Known(13));
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\n{start}Content-Length: 13\r\n\r\n"));
        assert_eq!(framing, ReplyFraming::Length);
        let (head, framing) = written(GET, 200, ReplyLength::Unknown);
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\n{start}Transfer-Encoding: chunked\r\n\r\n"));
        assert_eq!(framing, ReplyFraming::Chunked);
        let old = ReplyContext { http10: true, persist: Persist::KeepAlive, ..GET };
        let (head, framing) = written(old, 200, ReplyLength::Unknown);
        assert_eq!(head, format!("HTTP/1.1 200 OK\r\n{start}Connection: close\r\n\r\n"));
        assert_eq!(framing, ReplyFraming::UntilClose);
        let (head, _) = written(old, 200, ReplyLength::Known(0));
        assert!(head.ends_with("Connection: keep-alive\r\nContent-Length: 0\r\n\r\n"));
        let (head, framing) = written(GET, 204, ReplyLength::Known(5));
        assert_eq!(head, format!("HTTP/1.1 204 No Content\r\n{start}\r\n"));
        assert_eq!(framing, ReplyFraming::Bodiless);
        let (head, framing) =
            written(ReplyContext { head_only: true, ..GET }, 200, ReplyLength::Known(5));
        assert!(head.ends_with("Content-Length: 5\r\n\r\n"));
        assert_eq!(framing, ReplyFraming::Bodiless);
        let (head, _) = written(GET, 299, ReplyLength::Known(0));
        assert!(head.starts_with("HTTP/1.1 299 \r\n"));
    }

    #[test]
    fn no_field_can_split_a_reply_or_break_its_framing() {
        for (name, value) in [
            ("X", "a\r\nY: b"),
            ("X", "a\nb"),
            ("X", "\0"),
            ("X Y", "a"),
            ("", "a"),
            ("X:", "a"),
            ("content-length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
        ] {
            let mut out = b"kept".to_vec();
            let written = GET.write_head(
                &mut out,
                200,
                &date::format(0),
                [(name, value)],
                ReplyLength::Unknown,
            );
            assert_eq!(written, Err(FieldError { name: name.to_owned() }));
            assert_eq!(out, b"kept");
        }
    }

    #[test]
    fn chunk_heads_are_hexadecimal() {
        for len in [1, 9, 10, 15, 16, 255, 256, 4095, 65536, usize::MAX] {
            let mut out = Vec::new();
            chunk_head(&mut out, len);
            assert_eq!(String::from_utf8(out).expect("ASCII"), format!("{len:x}\r\n"));
        }
    }
}
