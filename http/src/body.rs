//! Bodies of requests: their framing is taken off, byte for byte, wherever the pieces are split.

use crate::head::Framing;
use crate::refusal::Reason;

/// Bytes of a chunk's size line, extensions included, at most; and of all trailers together.
const SIZE_LINE_MAX: u16 = 256;
const TRAILERS_MAX: u16 = 8192;

/// The state of a body that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// In a chunked body (RFC 9112, section 7.1).
    Chunked { step: Step, left: u64, line: u16 },
}

/// Where in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The first digit of a chunk's size.
    SizeFirst,
    /// More digits.
    Size,
    /// Behind the size, in an extension.
    Extension,
    /// The LF of the size line.
    SizeNewline,
    /// In the chunk's data.
    Data,
    /// The CR behind the data.
    DataReturn,
    /// The LF behind the data.
    DataNewline,
    /// At the start of a trailer line, or of the last one.
    TrailerStart,
    /// In a trailer line.
    Trailer,
    /// The LF of a trailer line.
    TrailerNewline,
    /// The LF of the last, empty line.
    LastNewline,
}

/// What a piece of a body gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Data; more may follow in the same input.
    Data(&'a [u8]),
    /// The input is used up and the body goes on.
    More,
    /// The body has ended.
    End,
    /// The framing is broken.
    Broken(Reason),
}

impl Body {
    /// The state at the start of a body; none where there is no body.
    pub(crate) fn new(framing: Framing) -> Option<Body> {
        match framing {
            Framing::None => None,
            Framing::Length(length) => Some(Body::Length(length)),
            Framing::Chunked => Some(Body::Chunked { step: Step::SizeFirst, left: 0, line: 0 }),
        }
    }

    /// Takes the next piece off `input`; `input` is what is left afterwards.
    pub(crate) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Piece<'a> {
        match self {
            Body::Length(0) => Piece::End,
            Body::Length(left) => take(left, input).map_or(Piece::More, Piece::Data),
            Body::Chunked { step, left, line } => chunked(step, left, line, input),
        }
    }
}

/// As much data as there is, up to `left`.
fn take<'a>(left: &mut u64, input: &mut &'a [u8]) -> Option<&'a [u8]> {
    if input.is_empty() {
        return None;
    }
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    let (data, rest) = input.split_at(len);
    *input = rest;
    *left -= len as u64;
    Some(data)
}

fn chunked<'a>(step: &mut Step, left: &mut u64, line: &mut u16, input: &mut &'a [u8]) -> Piece<'a> {
    loop {
        if *step == Step::Data {
            if *left > 0 {
                return take(left, input).map_or(Piece::More, Piece::Data);
            }
            *step = Step::DataReturn;
        }
        let Some((&byte, rest)) = input.split_first() else { return Piece::More };
        *input = rest;
        *line += 1;
        let limit = match step {
            Step::TrailerStart | Step::Trailer | Step::TrailerNewline | Step::LastNewline => {
                TRAILERS_MAX
            }
            _ => SIZE_LINE_MAX,
        };
        if *line > limit {
            return Piece::Broken(Reason::Chunk);
        }
        *step = match (*step, byte) {
            (Step::SizeFirst | Step::Size, digit) if digit.is_ascii_hexdigit() => {
                let value = u64::from((digit as char).to_digit(16).unwrap_or(0));
                // Sixteen digits would overflow the arithmetic of somebody on the way.
                if *left >> 56 != 0 {
                    return Piece::Broken(Reason::Chunk);
                }
                *left = *left << 4 | value;
                Step::Size
            }
            (Step::Size, b';') => Step::Extension,
            (Step::Size, b'\r') => Step::SizeNewline,
            (Step::Extension, b'\r') => Step::SizeNewline,
            (Step::Extension, b) if crate::reply::is_field_byte(b) => Step::Extension,
            (Step::SizeNewline, b'\n') if *left == 0 => {
                *line = 0;
                Step::TrailerStart
            }
            (Step::SizeNewline, b'\n') => {
                *line = 0;
                Step::Data
            }
            (Step::DataReturn, b'\r') => Step::DataNewline,
            (Step::DataNewline, b'\n') => {
                *line = 0;
                Step::SizeFirst
            }
            (Step::TrailerStart, b'\r') => Step::LastNewline,
            (Step::TrailerStart, b) if is_token(b) => Step::Trailer,
            (Step::Trailer, b'\r') => Step::TrailerNewline,
            (Step::Trailer, b) if crate::reply::is_field_byte(b) => Step::Trailer,
            (Step::TrailerNewline, b'\n') => Step::TrailerStart,
            (Step::LastNewline, b'\n') => return Piece::End,
            _ => return Piece::Broken(Reason::Chunk),
        };
    }
}

/// Bytes of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, usize), Reason> {
        let mut body = Body::new(framing).unwrap();
        let mut data = Vec::new();
        let mut used = 0;
        for piece in pieces {
            let mut input = *piece;
            loop {
                match body.next(&mut input) {
                    Piece::Data(bytes) => data.extend_from_slice(bytes),
                    Piece::More => break,
                    Piece::End => return Ok((data, used + piece.len() - input.len())),
                    Piece::Broken(reason) => return Err(reason),
                }
            }
            used += piece.len();
        }
        panic!("the body did not end")
    }

    #[test]
    fn chunked_bodies_do_not_depend_on_how_they_arrive() {
        let text = b"5\r\nhello\r\n1;name=\"v\"\r\n!\r\n000\r\nTrailer: x\r\n\r\nGET";
        let end = text.len() - 3;
        for first in 0..=end {
            for second in first..=end {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                let got = decode(Framing::Chunked, &pieces);
                assert_eq!(got, Ok((b"hello!".to_vec(), end)), "{first} {second}");
            }
        }
    }

    #[test]
    fn a_length_is_exact() {
        assert_eq!(decode(Framing::Length(3), &[b"a", b"bcd"]), Ok((b"abc".to_vec(), 3)));
    }

    #[test]
    fn broken_chunks() {
        let cases: &[&[u8]] = &[
            b"\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"0x5\r\n",
            b"-5\r\n",
            b"5\nhello",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5;a\nb\r\n",
            b"10000000000000000\r\n",
            b"0\r\n: x\r\n\r\n",
            b"0\r\nA: x\n\r\n",
            b"0\r\n\n",
        ];
        for case in cases {
            assert_eq!(decode(Framing::Chunked, &[case]), Err(Reason::Chunk), "{case:?}");
        }
        let long = [b"5;".as_slice(), &[b'a'; 300], b"\r\n"].concat();
        assert_eq!(decode(Framing::Chunked, &[&long]), Err(Reason::Chunk));
    }
}
