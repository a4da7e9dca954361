//! Heads of replies (RFC 9112 sections 4 and 5).

use super::Fault;
use super::hop::HopOptions;
use crate::bytes::is_control;
use crate::framing::decimal;
use crate::head::{Span, Version, field_line};
use crate::limits::Limits;
use crate::method::Method;
use crate::reason::Reason;

/// Positions of the parts of a reply's head. Reused from reply to reply, so that reading one
/// allocates nothing; the bytes stay with the caller.
#[derive(Debug)]
pub struct ReplyHead {
    version: Version,
    status: u16,
    spans: Vec<Span>,
}

/// How the body behind a reply's head comes (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyBodyKind {
    /// None.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks up to the one of length 0.
    Chunked,
    /// Whatever comes until the connection ends.
    UntilClose,
}

impl Default for ReplyHead {
    fn default() -> Self {
        ReplyHead { version: Version::Http11, status: 0, spans: Vec::with_capacity(32) }
    }
}

impl ReplyHead {
    /// Reads one head from the beginning of `bytes`: its length, or `None` if its end has not come
    /// yet.
    ///
    /// # Errors
    /// Whatever is no strict HTTP/1 head: of the leniencies that RFC 9112 allows a client only one
    /// is taken, a status line without the space in front of an absent reason phrase.
    pub fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Fault> {
        let limit = limits.head_bytes_max.min(usize::from(u16::MAX));
        let window = &bytes[..bytes.len().min(limit)];
        self.spans.clear();
        let found = match self.status_line(window)? {
            Some(at) => self.field_lines(window, at, limits)?,
            None => None,
        };
        match found {
            None if bytes.len() >= limit => Err(Fault::HeadLength),
            found => Ok(found),
        }
    }

    /// The status code, between 100 and 599.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The version that the upstream speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The field lines in order, values without the white space around them. `head` are the bytes
    /// that were parsed.
    pub fn fields<'h>(
        &'h self,
        head: &'h [u8],
    ) -> impl ExactSizeIterator<Item = (&'h [u8], &'h [u8])> + Clone {
        self.spans.iter().map(move |span| (span.name(head), span.value(head)))
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn field<'h>(&'h self, head: &'h [u8], name: &str) -> Option<&'h [u8]> {
        let mut fields = self.fields(head);
        fields.find(|(of, _)| of.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// How the body comes, to a request of this method.
    ///
    /// # Errors
    /// Whatever two readers might frame differently.
    pub fn body(&self, head: &[u8], method: Method) -> Result<ReplyBodyKind, Fault> {
        let mut length = None;
        let mut codings = None;
        for (name, value) in self.fields(head) {
            if name.len() == 14 && name.eq_ignore_ascii_case(b"content-length") {
                // A list of equal lengths may be taken as one, but need not (section 6.3).
                let None = length else { return Err(Fault::ContentLength) };
                length = Some(decimal(value).ok_or(Fault::ContentLength)?);
            } else if name.len() == 17 && name.eq_ignore_ascii_case(b"transfer-encoding") {
                let None = codings else { return Err(Fault::TransferEncoding) };
                codings = Some(value);
            }
        }
        self.framing(method, length, codings)
    }

    /// Whether the upstream keeps the connection open behind this reply, as far as its head tells
    /// (RFC 9112 section 9.3).
    #[must_use]
    pub fn persists(&self, options: &HopOptions<'_>) -> bool {
        !options.close && (self.version == Version::Http11 || options.keep_alive)
    }

    fn framing(
        &self,
        method: Method,
        length: Option<u64>,
        codings: Option<&[u8]>,
    ) -> Result<ReplyBodyKind, Fault> {
        if codings.is_some() && (length.is_some() || self.version == Version::Http10) {
            return Err(Fault::FramingConflict);
        }
        if codings.is_some_and(|codings| !codings.eq_ignore_ascii_case(b"chunked")) {
            return Err(Fault::TransferEncoding);
        }
        match self.status {
            // A server must not send either here (RFC 9112 section 6.1, RFC 9110 section 8.6);
            // one that says 0 means nothing by it, any other might send what it promises.
            100..=199 | 204 if codings.is_some() || length.is_some_and(|length| length > 0) => {
                Err(Fault::FramingConflict)
            }
            100..=199 | 204 | 304 => Ok(ReplyBodyKind::None),
            _ if method == Method::Head => Ok(ReplyBodyKind::None),
            _ if codings.is_some() => Ok(ReplyBodyKind::Chunked),
            _ => Ok(match length {
                Some(0) => ReplyBodyKind::None,
                Some(length) => ReplyBodyKind::Length(length),
                None => ReplyBodyKind::UntilClose,
            }),
        }
    }

    /// Reads `HTTP/d.d SP 3DIGIT [ SP reason ] CRLF`; gives the place of the first field line.
    fn status_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let fits = bytes.iter().zip(b"HTTP/0.0 000").all(|(byte, expected)| match expected {
            b'0' => byte.is_ascii_digit(),
            _ => byte == expected,
        });
        if !fits {
            return Err(Fault::StatusLine);
        }
        let Some((line, rest)) = bytes.split_at_checked(12) else { return Ok(None) };
        self.version = match (line[5], line[7]) {
            (b'1', b'0') => Version::Http10,
            (b'1', _) => Version::Http11,
            _ => return Err(Fault::Version),
        };
        let digit = |at: usize| u16::from(line[at] - b'0');
        self.status = digit(9) * 100 + digit(10) * 10 + digit(11);
        if !(100..=599).contains(&self.status) {
            return Err(Fault::StatusLine);
        }
        let end = match rest {
            [] => return Ok(None),
            [b'\r', ..] => 0,
            [b' ', ..] => match rest.iter().position(|&byte| is_control(byte)) {
                Some(end) => end,
                None => return Ok(None),
            },
            _ => return Err(Fault::StatusLine),
        };
        match rest[end..] {
            [b'\r', b'\n', ..] => Ok(Some(12 + end + 2)),
            [b'\r'] => Ok(None),
            [b'\r' | b'\n', ..] => Err(Fault::LineEnd),
            _ => Err(Fault::StatusLine),
        }
    }

    fn field_lines(
        &mut self,
        bytes: &[u8],
        mut at: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, Fault> {
        loop {
            match bytes.get(at..) {
                Some([b'\r', b'\n', ..]) => return Ok(Some(at + 2)),
                Some([b'\r']) | Some([]) | None => return Ok(None),
                Some([b'\r', ..]) => return Err(Fault::LineEnd),
                Some(_) if self.spans.len() >= limits.fields_max => return Err(Fault::HeadLength),
                Some(_) => {}
            }
            match field_line(bytes, at).map_err(field_fault)? {
                Some((span, next)) => {
                    self.spans.push(span);
                    at = next;
                }
                None => return Ok(None),
            }
        }
    }
}

fn field_fault(reason: Reason) -> Fault {
    match reason {
        Reason::LineEnd => Fault::LineEnd,
        _ => Fault::Field,
    }
}
