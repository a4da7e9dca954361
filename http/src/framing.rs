//! How long a request's body is (RFC 9112 section 6) and how its chunks are taken off
//! (section 7.1).

use crate::bytes::{self, CLASS, TOKEN, elements, is_control};
use crate::head::{Head, Known, Version};
use crate::limits::Limits;
use crate::reason::Reason;

/// The framing of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// No body: neither Content-Length nor Transfer-Encoding, or a length of 0.
    None,
    /// As many bytes as Content-Length says, at least one.
    Length(u64),
    /// Chunks up to the one of length 0.
    Chunked,
}

/// Codings of the IANA registry, which a well-meaning client might name: answered 501 where any
/// other name is taken for an attempt at confusion.
const REGISTERED_CODINGS: [&[u8]; 5] = [b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress"];

/// The framing that a head asks for. Whatever two readers might frame differently is an error.
pub(crate) fn body_kind(head: &Head, bytes: &[u8]) -> Result<BodyKind, Reason> {
    let lengths = head.has(Known::ContentLength);
    if head.has(Known::TransferEncoding) {
        // RFC 9112 section 6.1 lets a server refuse both of these; it is the only safe reading.
        if lengths {
            return Err(Reason::FramingConflict);
        }
        if head.version == Version::Http10 {
            return Err(Reason::TransferEncodingVersion);
        }
        return transfer_encoding(head, bytes);
    }
    if !lengths {
        return Ok(BodyKind::None);
    }
    // A list of equal lengths may be taken as one (RFC 9112 section 6.3), but need not.
    if head.is_repeated(Known::ContentLength) {
        return Err(Reason::ContentLength);
    }
    let value = head.first(bytes, Known::ContentLength).unwrap_or_default();
    match decimal(value).ok_or(Reason::ContentLength)? {
        0 => Ok(BodyKind::None),
        length => Ok(BodyKind::Length(length)),
    }
}

fn transfer_encoding(head: &Head, bytes: &[u8]) -> Result<BodyKind, Reason> {
    let mut codings = 0;
    let mut chunked = 0;
    let mut registered = true;
    let mut last_is_chunked = false;
    for value in head.values(bytes, Known::TransferEncoding) {
        // Empty elements are legal in lists but have been used to blind one reader of two.
        if value.is_empty() || value.split(|&byte| byte == b',').any(|e| bytes::trim(e).is_empty())
        {
            return Err(Reason::TransferEncoding);
        }
        for coding in elements(value) {
            codings += 1;
            last_is_chunked = coding.eq_ignore_ascii_case(b"chunked");
            chunked += usize::from(last_is_chunked);
            registered &= last_is_chunked
                || REGISTERED_CODINGS.iter().any(|known| coding.eq_ignore_ascii_case(known));
        }
    }
    match (codings, chunked) {
        (1, 1) => Ok(BodyKind::Chunked),
        (_, 1) if last_is_chunked && registered => Err(Reason::TransferEncodingUnknown),
        _ => Err(Reason::TransferEncoding),
    }
}

/// A number of decimal digits and nothing else, which fits 63 bits.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        // Leading zeros beyond 18 digits have no honest use.
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        digit.is_ascii_digit().then(|| sum * 10 + u64::from(digit - b'0'))
    })
}

/// Takes the framing off a body, piece by piece. Holds no bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder {
    state: State,
    /// Hexadecimal digits seen of a chunk size.
    digits: u8,
    /// Bytes seen of chunk extensions, or of the trailer section.
    overhead: u32,
    /// Bytes left of the body, or of the chunk.
    left: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length,
    Size,
    ExtensionName,
    ExtensionStart,
    ValueStart,
    ValueToken,
    ValueQuoted,
    ValueEscaped,
    AfterValue,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// What a decoder found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many bytes of framing, then so many bytes of data: both were consumed.
    Data { skipped: usize, len: usize },
    /// All bytes given were framing; more must come.
    More,
    /// The body ends after so many bytes.
    End(usize),
}

impl Decoder {
    pub(crate) fn new(kind: BodyKind) -> Decoder {
        let (state, left) = match kind {
            BodyKind::None => (State::Done, 0),
            BodyKind::Length(length) => (State::Length, length),
            BodyKind::Chunked => (State::Size, 0),
        };
        Decoder { state, digits: 0, overhead: 0, left }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The length that is left, where the framing tells.
    pub(crate) fn length_left(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length => Some(self.left),
            _ => None,
        }
    }

    /// Reads on. A piece of data ends where the bytes or the chunk end.
    pub(crate) fn decode(&mut self, bytes: &[u8], limits: &Limits) -> Result<Piece, Reason> {
        let mut at = 0;
        loop {
            match self.state {
                State::Done => return Ok(Piece::End(at)),
                State::Length | State::Data => {
                    let here = (bytes.len() - at) as u64;
                    if here == 0 {
                        return Ok(Piece::More);
                    }
                    let len = here.min(self.left) as usize;
                    self.left -= len as u64;
                    if self.left == 0 {
                        self.state =
                            if self.state == State::Length { State::Done } else { State::DataCr };
                    }
                    return Ok(Piece::Data { skipped: at, len });
                }
                _ => {
                    let Some(&byte) = bytes.get(at) else { return Ok(Piece::More) };
                    self.step(byte, limits)?;
                    at += 1;
                }
            }
        }
    }

    /// One byte of chunked framing.
    fn step(&mut self, byte: u8, limits: &Limits) -> Result<(), Reason> {
        match self.state {
            State::Size | State::SizeLf => self.size(byte),
            State::ExtensionStart
            | State::ExtensionName
            | State::ValueStart
            | State::ValueToken
            | State::ValueQuoted
            | State::ValueEscaped
            | State::AfterValue => self.extension(byte, limits),
            State::DataCr => self.expect(byte, b'\r', State::DataLf),
            State::DataLf => self.expect(byte, b'\n', State::Size),
            _ => self.trailer(byte, limits),
        }
    }

    fn expect(&mut self, byte: u8, expected: u8, next: State) -> Result<(), Reason> {
        if byte != expected {
            return Err(Reason::Chunk);
        }
        self.state = next;
        Ok(())
    }

    fn size(&mut self, byte: u8) -> Result<(), Reason> {
        match (self.state, byte) {
            (State::Size, _) if byte.is_ascii_hexdigit() => {
                // Fifteen digits cannot overflow; more, zeros in front too, serve no client.
                if self.digits == 15 {
                    return Err(Reason::Chunk);
                }
                self.digits += 1;
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
            }
            (State::Size, _) if self.digits == 0 => return Err(Reason::Chunk),
            (State::Size, b'\r') => self.state = State::SizeLf,
            (State::Size, b';') => self.state = State::ExtensionStart,
            (State::SizeLf, b'\n') => {
                self.digits = 0;
                self.state = if self.left == 0 {
                    self.overhead = 0;
                    State::TrailerStart
                } else {
                    State::Data
                };
            }
            _ => return Err(Reason::Chunk),
        }
        Ok(())
    }

    /// `*( ";" token [ "=" ( token / quoted-string ) ] )`. The bad white space that the grammar of
    /// RFC 9112 section 7.1.1 tolerates is refused: readers differ over it, and nobody sends it.
    /// Extensions are read for their syntax and otherwise ignored.
    fn extension(&mut self, byte: u8, limits: &Limits) -> Result<(), Reason> {
        self.overhead += 1;
        if self.overhead > limits.chunk_extension_bytes_max {
            return Err(Reason::Chunk);
        }
        let token = CLASS[byte as usize] & TOKEN != 0;
        self.state = match (self.state, byte) {
            (State::ExtensionStart | State::ExtensionName, _) if token => State::ExtensionName,
            (State::ExtensionName, b'=') => State::ValueStart,
            (State::ValueStart, b'"') => State::ValueQuoted,
            (State::ValueStart | State::ValueToken, _) if token => State::ValueToken,
            (State::ValueQuoted, b'\\') => State::ValueEscaped,
            (State::ValueQuoted, b'"') => State::AfterValue,
            (State::ValueQuoted | State::ValueEscaped, _) if !is_control(byte) => {
                State::ValueQuoted
            }
            (State::ExtensionName | State::ValueToken | State::AfterValue, b';') => {
                State::ExtensionStart
            }
            (State::ExtensionName | State::ValueToken | State::AfterValue, b'\r') => State::SizeLf,
            _ => return Err(Reason::Chunk),
        };
        Ok(())
    }

    /// Field lines behind the last chunk, read for their syntax and dropped: merging them into the
    /// head is what a recipient must not do unasked (RFC 9110 section 6.5.1).
    fn trailer(&mut self, byte: u8, limits: &Limits) -> Result<(), Reason> {
        self.overhead += 1;
        if self.overhead > limits.trailer_bytes_max {
            return Err(Reason::Trailer);
        }
        let token = CLASS[byte as usize] & TOKEN != 0;
        self.state = match (self.state, byte) {
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::TrailerName, _) if token => State::TrailerName,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, _) if !is_control(byte) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(Reason::Chunk),
        };
        Ok(())
    }
}
