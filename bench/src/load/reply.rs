//! Reading replies, and finding whatever is wrong with them.
//!
//! Every byte that comes back is looked at. A server under test answers the same bytes over and
//! over but for their `Date`, so the reader learns a whole good reply once, by the slow way, and
//! from then on compares with it; whatever differs goes the slow way again.

use std::fmt;
use std::ops::Range;

use super::request::{Body, Expect};

/// Bytes of a reply's head that are kept while it is incomplete.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// Header fields of a reply that are read.
const FIELDS_MAX: usize = 64;
/// The longest reply that is learnt as a template.
const TEMPLATE_LEN_MAX: usize = 16 * 1024;
/// Length of an IMF-fixdate, the only form of a `Date` that a server may send (RFC 9110, 5.6.7).
const DATE_LEN: usize = 29;

/// What can be wrong with a reply, or with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The connection could not be made.
    Connect,
    /// The connection broke: a reset, or a failed write.
    Broken,
    /// The server closed the connection while a reply was due.
    ClosedEarly,
    /// A connection held idle was closed by the server.
    IdleClosed,
    /// The reply's head is not HTTP/1.x.
    Malformed,
    /// The reply's end is not told by `Content-Length`.
    Framing,
    /// Another status code than the expected one.
    Status,
    /// Another body length than the expected one.
    Length,
    /// Another body than the expected one.
    Content,
    /// Bytes came that answer no request.
    Surplus,
    /// A request was not answered within the time allowed.
    Timeout,
    /// A request was not answered at the end of the run.
    Unanswered,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::ClosedEarly => "closed early",
            Self::IdleClosed => "idle closed",
            Self::Malformed => "malformed",
            Self::Framing => "framing",
            Self::Status => "status",
            Self::Length => "length",
            Self::Content => "content",
            Self::Surplus => "surplus",
            Self::Timeout => "timeout",
            Self::Unanswered => "unanswered",
        })
    }
}

/// A good reply that has been read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The server said that it will close the connection.
    pub close: bool,
}

/// A whole good reply, to compare later ones with.
#[derive(Clone, Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    date: Range<usize>,
    close: bool,
}

impl Template {
    /// The length of the reply at the start of `input`, if it is this one.
    #[inline]
    fn matches(&self, input: &[u8]) -> bool {
        let Some(reply) = input.get(..self.bytes.len()) else { return false };
        reply[..self.date.start] == self.bytes[..self.date.start]
            && reply[self.date.end..] == self.bytes[self.date.end..]
    }
}

/// The reader of one connection's replies.
#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
}

#[derive(Debug)]
enum State {
    /// The beginning of a head that has not come to its end.
    Head(Vec<u8>),
    /// `at` bytes of the body have been read of `len`.
    Body { at: u64, len: u64, close: bool },
}

impl Default for State {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

impl Reader {
    /// Reads from `input` up to the end of one reply: how much was used, and the reply if it is
    /// whole. `template` is learnt from the first whole reply seen, and used from then on.
    pub(super) fn read(
        &mut self,
        input: &[u8],
        expect: &Expect,
        head_request: bool,
        template: &mut Option<Template>,
    ) -> Result<(usize, Option<Reply>), Fault> {
        if let (State::Head(carry), Some(known)) = (&self.state, &template)
            && carry.is_empty()
            && known.matches(input)
        {
            return Ok((known.bytes.len(), Some(Reply { close: known.close })));
        }
        match &mut self.state {
            State::Head(carry) if carry.is_empty() => {
                self.read_head(input, 0, expect, head_request, template)
            }
            State::Head(carry) => {
                // Joining is rare (a reply split between two reads), so it may copy.
                let carried = carry.len();
                let mut joined = std::mem::take(carry);
                joined.extend_from_slice(input);
                self.read_head(&joined, carried, expect, head_request, template)
            }
            State::Body { .. } => self.read_body(input, expect),
        }
    }

    /// Whether the reader stands between two replies.
    pub(super) fn between_replies(&self) -> bool {
        matches!(&self.state, State::Head(carry) if carry.is_empty())
    }

    /// `input` begins with a head, the first `carried` bytes of which were used by earlier calls.
    fn read_head(
        &mut self,
        input: &[u8],
        carried: usize,
        expect: &Expect,
        head_request: bool,
        template: &mut Option<Template>,
    ) -> Result<(usize, Option<Reply>), Fault> {
        let Some(head) = Head::parse(input)? else {
            if input.len() > HEAD_LEN_MAX {
                return Err(Fault::Malformed);
            }
            self.state = State::Head(input.to_vec());
            return Ok((input.len() - carried, None));
        };
        if head.status != expect.status {
            return Err(Fault::Status);
        }
        let len = if head_request || matches!(head.status, 204 | 304) {
            0
        } else {
            head.content_length.ok_or(Fault::Framing)?
        };
        check_length(&expect.body, len, head_request)?;
        self.state = State::Body { at: 0, len, close: head.close };
        let (used, reply) = self.read_body(&input[head.len..], expect)?;
        let total = head.len + used;
        if reply.is_some() && template.is_none() && total <= TEMPLATE_LEN_MAX {
            *template = Some(Template {
                bytes: input[..total].to_vec(),
                date: head.date.unwrap_or(0..0),
                close: head.close,
            });
        }
        Ok((total - carried, reply))
    }

    fn read_body(
        &mut self,
        input: &[u8],
        expect: &Expect,
    ) -> Result<(usize, Option<Reply>), Fault> {
        let State::Body { at, len, close } = &mut self.state else {
            unreachable!("called in the body only")
        };
        let used = input.len().min(usize::try_from(*len - *at).unwrap_or(usize::MAX));
        if let Body::Exact(body) = &expect.body
            && *len > 0
        {
            let from = *at as usize;
            if body[from..from + used] != input[..used] {
                return Err(Fault::Content);
            }
        }
        *at += used as u64;
        if *at < *len {
            return Ok((used, None));
        }
        let reply = Reply { close: *close };
        self.state = State::default();
        Ok((used, Some(reply)))
    }
}

fn check_length(body: &Body, len: u64, head_request: bool) -> Result<(), Fault> {
    let wanted = match body {
        Body::Any => return Ok(()),
        _ if head_request => return Ok(()),
        Body::Length(wanted) => *wanted,
        Body::Exact(bytes) => bytes.len() as u64,
    };
    if len == wanted { Ok(()) } else { Err(Fault::Length) }
}

struct Head {
    len: usize,
    status: u16,
    content_length: Option<u64>,
    close: bool,
    date: Option<Range<usize>>,
}

impl Head {
    fn parse(input: &[u8]) -> Result<Option<Self>, Fault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let len = match parsed.parse(input) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Fault::Malformed),
        };
        let mut head = Self {
            len,
            status: parsed.code.ok_or(Fault::Malformed)?,
            content_length: None,
            close: parsed.version == Some(0),
            date: None,
        };
        for field in parsed.headers.iter() {
            head.take(field, input)?;
        }
        Ok(Some(head))
    }

    fn take(&mut self, field: &httparse::Header<'_>, input: &[u8]) -> Result<(), Fault> {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(field.value).map_err(|_| Fault::Framing)?;
            let len = text.trim().parse().map_err(|_| Fault::Framing)?;
            if self.content_length.replace(len).is_some_and(|other| other != len) {
                return Err(Fault::Framing);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Fault::Framing);
        } else if field.name.eq_ignore_ascii_case("connection") {
            if field.value.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if field.value.eq_ignore_ascii_case(b"keep-alive") {
                self.close = false;
            }
        } else if field.name.eq_ignore_ascii_case("date") && field.value.len() == DATE_LEN {
            // The value is a slice of the input: where it begins is its distance from the start.
            let at = field.value.as_ptr() as usize - input.as_ptr() as usize;
            self.date = Some(at..at + DATE_LEN);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
        Content-Length: 13\r\n\r\nHello, World!";

    fn read_all(reader: &mut Reader, input: &[u8], expect: &Expect) -> Result<usize, Fault> {
        let (mut template, mut at, mut replies) = (None, 0, 0);
        while at < input.len() {
            let (used, reply) = reader.read(&input[at..], expect, false, &mut template)?;
            at += used;
            replies += usize::from(reply.is_some());
        }
        Ok(replies)
    }

    fn fault(bytes: &[u8]) -> Fault {
        read_all(&mut Reader::default(), bytes, &Expect::ok(b"Hello, World!")).unwrap_err()
    }

    #[test]
    fn counts_the_same_replies_however_they_are_split() {
        let other_date = String::from_utf8(GOOD.to_vec()).unwrap().replace("08:49:37", "08:49:38");
        let stream = [GOOD, other_date.as_bytes(), GOOD].concat();
        let expect = Expect::ok(b"Hello, World!");
        for split in 0..=stream.len() {
            let (mut reader, mut template, mut replies) = (Reader::default(), None, 0);
            for mut part in [&stream[..split], &stream[split..]] {
                while !part.is_empty() {
                    let (used, reply) =
                        reader.read(part, &expect, false, &mut template).expect("a good reply");
                    part = &part[used..];
                    replies += usize::from(reply.is_some());
                }
            }
            assert_eq!((replies, reader.between_replies()), (3, true), "split at {split}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let with = |from: &str, to: &str| {
            String::from_utf8(GOOD.to_vec()).unwrap().replace(from, to).into_bytes()
        };
        assert_eq!(fault(&with("200 OK", "503 No")), Fault::Status);
        assert_eq!(fault(&with("Length: 13", "Length: 12")), Fault::Length);
        assert_eq!(fault(&with("World", "Worms")), Fault::Content);
        assert_eq!(fault(&with("HTTP/1.1", "HTTQ/1.1")), Fault::Malformed);
        assert_eq!(fault(&with("Content-Length: 13", "X-Length: 13")), Fault::Framing);
        assert_eq!(
            fault(&with("Content-Length: 13", "Transfer-Encoding: chunked")),
            Fault::Framing
        );
    }

    #[test]
    fn a_learnt_reply_does_not_hide_a_later_fault() {
        let bad = String::from_utf8(GOOD.to_vec()).unwrap().replace("World", "Worms");
        let stream = [GOOD, GOOD, bad.as_bytes()].concat();
        let expect = Expect::ok(b"Hello, World!");
        let result = read_all(&mut Reader::default(), &stream, &expect);
        assert_eq!(result, Err(Fault::Content));
    }

    #[test]
    fn close_is_seen_and_head_has_no_body() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\n";
        let result = Reader::default().read(bytes, &Expect::ok(b"x"), true, &mut None);
        assert_eq!(result, Ok((bytes.len(), Some(Reply { close: true }))));
    }
}
