//! Writing the heads of replies.

use crate::date;

/// How a reply leaves its connection (RFC 9112, section 9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Persist {
    /// Open, as HTTP/1.1 does without being asked: no `Connection` field.
    Default,
    /// Open, as an HTTP/1.0 client asked: `Connection: keep-alive`.
    KeepAlive,
    /// Closed after this reply: `Connection: close`.
    Close,
}

impl Persist {
    /// All ways, in the order of a route's variants.
    pub const ALL: [Persist; 3] = [Persist::Default, Persist::KeepAlive, Persist::Close];

    /// Whether the connection ends with this reply.
    #[inline]
    #[must_use]
    pub fn closes(self) -> bool {
        self == Persist::Close
    }
}

/// The head of a reply while it is written: begin, add fields, end.
#[derive(Debug)]
#[must_use = "a head must be ended"]
pub struct ReplyHead<'a> {
    out: &'a mut Vec<u8>,
    status: u16,
}

impl<'a> ReplyHead<'a> {
    /// Writes the status line, `Date`, and `Connection` where it is needed. The version is always
    /// HTTP/1.1, whatever the request's (RFC 9110, section 6.2).
    pub fn begin(
        out: &'a mut Vec<u8>,
        status: u16,
        persist: Persist,
        date: &[u8; date::LEN],
    ) -> Self {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_number(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(phrase(status).as_bytes());
        out.extend_from_slice(b"\r\nDate: ");
        out.extend_from_slice(date);
        out.extend_from_slice(b"\r\n");
        match persist {
            Persist::Default => {}
            Persist::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            Persist::Close => out.extend_from_slice(b"Connection: close\r\n"),
        }
        ReplyHead { out, status }
    }

    /// Adds a field. What is not allowed in a field (RFC 9110, section 5.5) is left out of the
    /// value, so that no value can end the field and begin another.
    pub fn field(&mut self, name: &str, value: &str) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend(value.bytes().filter(|&b| is_field_byte(b)));
        self.out.extend_from_slice(b"\r\n");
    }

    /// Ends the head and adds the body, or only its length where `head_only`. A status that has
    /// no body (RFC 9110, section 6.4.1) gets neither.
    pub fn end_with_body(self, body: &[u8], head_only: bool) {
        if has_body(self.status) {
            self.out.extend_from_slice(b"Content-Length: ");
            push_number(self.out, body.len() as u64);
            self.out.extend_from_slice(b"\r\n\r\n");
            if !head_only {
                self.out.extend_from_slice(body);
            }
        } else {
            self.out.extend_from_slice(b"\r\n");
        }
    }
}

/// Whether replies of this status have a body at all (RFC 9110, section 6.4.1).
#[must_use]
pub fn has_body(status: u16) -> bool {
    status >= 200 && status != 204 && status != 304
}

/// Whether a byte may stand in a field's value (RFC 9110, section 5.5).
#[must_use]
pub fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// The reason phrase of a status code, as RFC 9110, section 15, and its successors name it; empty
/// for others, which RFC 9112, section 4, allows.
#[must_use]
pub fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}

fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8; date::LEN] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn reply(status: u16, persist: Persist, body: &str, head_only: bool) -> String {
        let mut out = Vec::new();
        let mut head = ReplyHead::begin(&mut out, status, persist, DATE);
        head.field("X-A", "b\r\nSet-Cookie: c");
        head.end_with_body(body.as_bytes(), head_only);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reply_is_whole_and_its_fields_stay_apart() {
        assert_eq!(
            reply(200, Persist::Close, "hi", false),
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n\
             X-A: bSet-Cookie: c\r\nContent-Length: 2\r\n\r\nhi"
        );
    }

    #[test]
    fn head_keeps_the_length_and_bodiless_statuses_have_none() {
        assert!(
            reply(404, Persist::KeepAlive, "gone", true).ends_with("Content-Length: 4\r\n\r\n")
        );
        for status in [204, 304] {
            assert!(!reply(status, Persist::Default, "x", false).contains("Content-Length"));
        }
    }
}
