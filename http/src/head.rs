//! Request heads: the request line and the field lines (RFC 9112 sections 2 to 5), read strictly.
//!
//! What a lenient reader might take in two ways is refused: lines end in CRLF and nothing else,
//! one space stands between the parts of the request line, no blank stands before a colon, and no
//! line is folded. One empty line before the request line is skipped (RFC 9112 section 2.2).

use std::ops::Range;

use crate::bytes::{CLASS, TOKEN, find_control, find_target_end, find_token_end};
use crate::limits::Limits;
use crate::method::Method;
use crate::reason::Reason;

/// The version of a request. Minor versions above 1 are read as 1.1 (RFC 9110 section 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Methods longer than this are answered 501.
const METHOD_BYTES_MAX: usize = 32;

/// Fields that the protocol acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Known {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    AcceptEncoding,
    IfMatch,
    IfNoneMatch,
    IfModifiedSince,
    IfUnmodifiedSince,
    IfRange,
    Range,
}

const KNOWN_COUNT: usize = 12;

impl Known {
    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// The field that a token names.
    #[inline(always)]
    fn of(name: &[u8]) -> Option<Known> {
        // Length and first letter leave one or two candidates.
        let first = name.first()? | 0x20;
        match (name.len(), first) {
            (4, b'h') => is(name, b"host", Known::Host),
            (5, b'r') => is(name, b"range", Known::Range),
            (6, b'e') => is(name, b"expect", Known::Expect),
            (8, b'i') => is(name, b"if-match", Known::IfMatch)
                .or_else(|| is(name, b"if-range", Known::IfRange)),
            (10, b'c') => is(name, b"connection", Known::Connection),
            (13, b'i') => is(name, b"if-none-match", Known::IfNoneMatch),
            (14, b'c') => is(name, b"content-length", Known::ContentLength),
            (15, b'a') => is(name, b"accept-encoding", Known::AcceptEncoding),
            (17, b't') => is(name, b"transfer-encoding", Known::TransferEncoding),
            (17, b'i') => is(name, b"if-modified-since", Known::IfModifiedSince),
            (19, b'i') => is(name, b"if-unmodified-since", Known::IfUnmodifiedSince),
            _ => None,
        }
    }
}

/// Whether a token is this name, of letters and hyphens, in whatever case. No other byte of a token
/// becomes a small letter or a hyphen by the bit that tells small letters from capitals.
#[inline(always)]
fn is<const N: usize>(token: &[u8], name: &[u8; N], known: Known) -> Option<Known> {
    let token = token.first_chunk::<N>()?;
    let mut differences = 0;
    for (byte, expected) in token.iter().zip(name) {
        differences |= (byte | 0x20) ^ expected;
    }
    (differences == 0).then_some(known)
}

/// Where one field line lies in its head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    name: u16,
    name_len: u16,
    value: u16,
    value_len: u16,
}

impl Span {
    pub(crate) fn name<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        &head[self.name as usize..][..self.name_len as usize]
    }

    pub(crate) fn value<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        &head[self.value as usize..][..self.value_len as usize]
    }
}

/// Positions of a head's parts. Reused from request to request, so that parsing allocates nothing.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// The target has bytes that need decoding or splitting.
    pub(crate) target_closer: bool,
    method_at: u16,
    target_at: u16,
    target_len: u16,
    seen: u16,
    repeated: u16,
    first: [u16; KNOWN_COUNT],
    spans: Vec<Span>,
}

impl Head {
    pub(crate) fn new() -> Head {
        Head {
            method: Method::Get,
            version: Version::Http11,
            target_closer: false,
            method_at: 0,
            target_at: 0,
            target_len: 0,
            seen: 0,
            repeated: 0,
            first: [0; KNOWN_COUNT],
            spans: Vec::with_capacity(32),
        }
    }

    /// The same positions, in memory that is there already.
    pub(crate) fn copy_from(&mut self, other: &Head) {
        let mut spans = std::mem::take(&mut self.spans);
        spans.clear();
        spans.extend_from_slice(&other.spans);
        *self = Head { spans, ..*other };
    }

    /// Reads one head from the beginning of `bytes`: its length, or `None` if its end has not come
    /// yet. A verdict never depends on how many bytes behind the decisive one are there already.
    pub(crate) fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Reason> {
        let limit = limits.head_bytes_max.min(usize::from(u16::MAX));
        let window = &bytes[..bytes.len().min(limit)];
        let mut in_request_line = true;
        let parsed = self.request_line(window, limits).and_then(|fields_at| match fields_at {
            Some(at) => {
                in_request_line = false;
                self.fields(window, at, limits)
            }
            None => Ok(None),
        })?;
        match parsed {
            None if bytes.len() < limit => Ok(None),
            None if in_request_line => Err(Reason::TargetLength),
            None => Err(Reason::HeadLength),
            found => Ok(found),
        }
    }

    #[inline]
    fn request_line(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, Reason> {
        let at = match bytes {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] => 2,
            [b'\r', ..] => return Err(Reason::LineEnd),
            _ => 0,
        };
        let Some(method_end) = self.method(bytes, at)? else { return Ok(None) };
        let target_at = method_end + 1;
        let Some(target_end) = self.target(bytes, target_at, limits)? else { return Ok(None) };
        let line_end = target_end + 1;
        let Some(rest) = bytes.get(line_end..line_end + 10) else {
            return partial_version(&bytes[line_end..]).map(|()| None);
        };
        self.version = match rest {
            b"HTTP/1.1\r\n" => Version::Http11,
            _ => other_version(rest)?,
        };
        self.method_at = at as u16;
        self.target_at = target_at as u16;
        self.target_len = (target_end - target_at) as u16;
        Ok(Some(line_end + 10))
    }

    /// Reads the method; gives the place of the space behind it.
    #[inline]
    fn method(&mut self, bytes: &[u8], at: usize) -> Result<Option<usize>, Reason> {
        let rest = &bytes[at..];
        if rest.starts_with(b"GET ") {
            self.method = Method::Get;
            return Ok(Some(at + 3));
        }
        let len = rest.iter().position(|&byte| CLASS[byte as usize] & TOKEN == 0);
        if len.unwrap_or(rest.len()) > METHOD_BYTES_MAX {
            return Err(Reason::MethodLength);
        }
        let Some(len) = len else { return Ok(None) };
        if len == 0 || rest[len] != b' ' {
            return Err(Reason::Method);
        }
        self.method = Method::from_bytes(&rest[..len]);
        Ok(Some(at + len))
    }

    /// Checks the target's bytes; gives the place of the space behind it.
    #[inline]
    fn target(
        &mut self,
        bytes: &[u8],
        from: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, Reason> {
        let end = find_target_end(bytes, from);
        let len = end.map_or(bytes.len(), |(end, _)| end) - from;
        if len > limits.target_bytes_max {
            return Err(Reason::TargetLength);
        }
        let Some((end, closer)) = end else { return Ok(None) };
        if len == 0 || bytes[end] != b' ' {
            return Err(Reason::Target);
        }
        self.target_closer = closer;
        Ok(Some(end))
    }

    #[inline]
    fn fields(
        &mut self,
        bytes: &[u8],
        mut at: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, Reason> {
        // What the loop changes is kept out of memory meanwhile.
        let mut spans = std::mem::take(&mut self.spans);
        spans.clear();
        let (mut seen, mut repeated) = (0, 0);
        let read = loop {
            let Some(&first) = bytes.get(at) else { break Ok(None) };
            if first == b'\r' {
                break line_end(bytes, at);
            }
            if spans.len() >= limits.fields_max {
                break Err(Reason::HeadLength);
            }
            let (span, next) = match field_line(bytes, at) {
                Ok(Some(line)) => line,
                Ok(None) => break Ok(None),
                Err(reason) => break Err(reason),
            };
            // The place of a field that the protocol acts on.
            if let Some(known) = Known::of(&bytes[at..][..usize::from(span.name_len)]) {
                if seen & known.bit() == 0 {
                    seen |= known.bit();
                    self.first[known as usize] = spans.len() as u16;
                } else {
                    repeated |= known.bit();
                }
            }
            spans.push(span);
            at = next;
        };
        (self.spans, self.seen, self.repeated) = (spans, seen, repeated);
        read
    }

    pub(crate) fn method_bytes<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        &head[self.method_at as usize..self.target_at as usize - 1]
    }

    pub(crate) fn target_bytes<'h>(&self, head: &'h [u8]) -> &'h [u8] {
        &head[self.target_at as usize..][..self.target_len as usize]
    }

    pub(crate) fn spans(&self) -> &[Span] {
        &self.spans
    }

    #[inline]
    pub(crate) fn has(&self, known: Known) -> bool {
        self.seen & known.bit() != 0
    }

    pub(crate) fn has_any(&self, known: &[Known]) -> bool {
        known.iter().any(|&known| self.has(known))
    }

    pub(crate) fn is_repeated(&self, known: Known) -> bool {
        self.repeated & known.bit() != 0
    }

    /// Where the value of the field's first line lies.
    #[inline]
    pub(crate) fn first_place(&self, known: Known) -> Option<Range<usize>> {
        let span = self.has(known).then(|| self.spans[self.first[known as usize] as usize])?;
        let start = usize::from(span.value);
        Some(start..start + usize::from(span.value_len))
    }

    /// The value of the field's first line.
    #[inline]
    pub(crate) fn first<'h>(&self, head: &'h [u8], known: Known) -> Option<&'h [u8]> {
        self.has(known).then(|| self.spans[self.first[known as usize] as usize].value(head))
    }

    /// The values of all the field's lines, in order.
    pub(crate) fn values<'h>(
        &'h self,
        head: &'h [u8],
        known: Known,
    ) -> impl Iterator<Item = &'h [u8]> + Clone {
        let first = if self.has(known) { self.first[known as usize] as usize } else { usize::MAX };
        self.spans
            .get(first..)
            .unwrap_or_default()
            .iter()
            .filter(move |span| Known::of(span.name(head)) == Some(known))
            .map(move |span| span.value(head))
    }
}

/// The parser alone, for `examples/parse.rs`, which holds it against httparse's. Not part of the
/// API.
#[derive(Debug)]
pub struct HeadReader(Head);

impl Default for HeadReader {
    fn default() -> Self {
        HeadReader(Head::new())
    }
}

impl HeadReader {
    /// The length and the number of field lines of the head that the bytes begin with.
    pub fn read(&mut self, bytes: &[u8], limits: &Limits) -> Option<(usize, usize)> {
        let len = self.0.parse(bytes, limits).ok()??;
        Some((len, self.0.spans.len()))
    }
}

/// Reads one field line; gives the place of the line behind it.
#[inline(always)]
pub(crate) fn field_line(bytes: &[u8], at: usize) -> Result<Option<(Span, usize)>, Reason> {
    let Some(name_end) = find_token_end(bytes, at) else { return Ok(None) };
    if name_end == at || bytes[name_end] != b':' {
        return Err(Reason::FieldName);
    }
    let mut value = name_end + 1;
    while let Some(b' ' | b'\t') = bytes.get(value) {
        value += 1;
    }
    let Some(end) = find_control(bytes, value) else { return Ok(None) };
    let next = match bytes[end] {
        b'\r' => line_end(bytes, end)?,
        b'\n' => return Err(Reason::LineEnd),
        _ => return Err(Reason::FieldValue),
    };
    let Some(next) = next else { return Ok(None) };
    let mut value_end = end;
    while value_end > value && matches!(bytes[value_end - 1], b' ' | b'\t') {
        value_end -= 1;
    }
    let span = Span {
        name: at as u16,
        name_len: (name_end - at) as u16,
        value: value as u16,
        value_len: (value_end - value) as u16,
    };
    Ok(Some((span, next)))
}

/// Behind the line that the CR at `at` ends.
#[inline(always)]
fn line_end(bytes: &[u8], at: usize) -> Result<Option<usize>, Reason> {
    match bytes.get(at + 1) {
        Some(b'\n') => Ok(Some(at + 2)),
        Some(_) => Err(Reason::LineEnd),
        None => Ok(None),
    }
}

/// Whether what has come of `HTTP/d.d CRLF` may still become that.
fn partial_version(bytes: &[u8]) -> Result<(), Reason> {
    let fits = bytes.iter().zip(b"HTTP/0.0\r\n").all(|(byte, expected)| match expected {
        b'0' => byte.is_ascii_digit(),
        _ => byte == expected,
    });
    if fits { Ok(()) } else { Err(Reason::Version) }
}

/// Reads `HTTP/d.d CRLF`.
fn other_version(bytes: &[u8]) -> Result<Version, Reason> {
    let [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r', b'\n'] = bytes else {
        return Err(Reason::Version);
    };
    match (major, minor) {
        (b'1', b'0') => Ok(Version::Http10),
        (b'1', b'1'..=b'9') => Ok(Version::Http11),
        (b'0'..=b'9', b'0'..=b'9') => Err(Reason::VersionUnsupported),
        _ => Err(Reason::Version),
    }
}
