//! Request heads: httparse finds the parts, and what it lets pass but RFC 9112 does not is
//! refused here. One reading of any bytes, or none.

use std::mem::MaybeUninit;

use crate::refusal::Reason;

/// Header fields of a request at most.
const FIELDS_MAX: usize = 100;

/// A request method (RFC 9110, section 9, and RFC 5789).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `CONNECT`
    Connect,
    /// `TRACE`
    Trace,
}

impl Method {
    /// All methods that are known, in the order of their numbers.
    pub const ALL: [Method; 9] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Patch,
        Method::Delete,
        Method::Options,
        Method::Connect,
        Method::Trace,
    ];

    /// The method's name, which is case-sensitive.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
        }
    }

    /// The method of that name, if it is known.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Method> {
        Method::ALL.into_iter().find(|m| m.name() == name)
    }
}

/// The versions that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: connections close unless asked otherwise.
    Http10,
    /// HTTP/1.1: connections stay unless asked otherwise.
    Http11,
}

/// A header field as it came; the value has no white space around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, in the peer's spelling.
    pub name: &'a str,
    /// The value's bytes.
    pub value: &'a [u8],
}

/// How the body of a request is delimited (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// A whole, valid request head.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The method.
    pub method: Method,
    /// The request target as it came (RFC 9112, section 3.2).
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// The whole head, from the request line to the empty line.
    pub bytes: &'a [u8],
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
}

impl<'a> Head<'a> {
    /// The header fields in order. They are found anew each time, so that a request which nobody
    /// asks for its fields pays nothing for them.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let lines = self.bytes.split(|&b| b == b'\n').skip(1);
        lines.filter_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let colon = memchr::memchr(b':', line)?;
            let name = std::str::from_utf8(&line[..colon]).ok()?;
            Some(Header { name, value: line[colon + 1..].trim_ascii() })
        })
    }

    /// The value of the first field of that name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }
}

/// Why a head was refused, and what of it was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadError(pub Reason);

/// Parses the head at the start of `bytes`: none while it is incomplete, which is no error.
///
/// Empty lines before the request line are passed over (RFC 9112, section 2.2) by the caller.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Head<'_>>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => {
            return if has_bare_newline(bytes) { Err(HeadError(Reason::Header)) } else { Ok(None) };
        }
        Err(error) => return Err(HeadError(reason_of(error, bytes))),
    };
    let bytes = &bytes[..len];
    if has_bare_newline(bytes) {
        return Err(HeadError(Reason::Header));
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(HeadError(Reason::RequestLine));
    };
    let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    if !target.bytes().all(is_target_byte) {
        return Err(HeadError(Reason::Target));
    }
    let fields = Fields::read(request.headers, version)?;
    let method = Method::from_name(method).ok_or(HeadError(Reason::MethodUnknown))?;
    Ok(Some(Head {
        method,
        target,
        version,
        bytes,
        framing: fields.framing,
        keep_alive: fields.keep_alive,
    }))
}

/// What the fields say that the protocol itself must know.
struct Fields {
    framing: Framing,
    keep_alive: bool,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>], version: Version) -> Result<Fields, HeadError> {
        let mut hosts = 0;
        let mut length: Option<u64> = None;
        let mut codings = 0;
        let (mut close, mut keep) = (false, false);
        for header in headers {
            // The length tells most fields apart before any byte is compared.
            match header.name.len() {
                4 if header.name.eq_ignore_ascii_case("host") => {
                    hosts += 1;
                    if !is_host(header.value) {
                        return Err(HeadError(Reason::Host));
                    }
                }
                6 if header.name.eq_ignore_ascii_case("expect")
                    && !header.value.eq_ignore_ascii_case(b"100-continue") =>
                {
                    return Err(HeadError(Reason::Expectation));
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for option in header.value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep |= option.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    // Even the same value twice is refused: RFC 9112, section 6.3, allows it.
                    if length.is_some() {
                        return Err(HeadError(Reason::Framing));
                    }
                    length = Some(parse_length(header.value).ok_or(HeadError(Reason::Framing))?);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    codings += 1;
                    // RFC 9112, section 6.1: a coding that is not understood is 501.
                    if !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HeadError(Reason::Coding));
                    }
                }
                _ => {}
            }
        }
        // RFC 9112, section 3.2: exactly one Host on 1.1; two are wrong on 1.0 as well.
        if hosts > 1 || (hosts == 0 && version == Version::Http11) {
            return Err(HeadError(Reason::Host));
        }
        let framing = match (codings, length) {
            (0, None | Some(0)) => Framing::None,
            (0, Some(length)) => Framing::Length(length),
            // RFC 9112, section 6.1: Transfer-Encoding on 1.0 has faulty framing.
            (1, None) if version == Version::Http11 => Framing::Chunked,
            // RFC 9112, section 6.3: both fields are how requests are smuggled.
            _ => return Err(HeadError(Reason::Framing)),
        };
        let keep_alive = !close && (version == Version::Http11 || keep);
        Ok(Fields { framing, keep_alive })
    }
}

/// Digits alone: no sign, no comma, no white space (RFC 9110, section 8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0_u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))
}

/// Bytes of a host and port, loosely: what must not be there are separators and user info
/// (RFC 9110, section 7.2; RFC 3986, section 3.2). An empty one is allowed.
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|&b| {
        b.is_ascii_alphanumeric()
            || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
            || matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';')
            || b == b'='
    })
}

/// Visible ASCII without the fragment's `#` and what RFC 3986 excludes everywhere.
fn is_target_byte(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~')
        && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// A line must end with CRLF: a lone LF is read as an end by some and as a part by others.
fn has_bare_newline(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

fn reason_of(error: httparse::Error, bytes: &[u8]) -> Reason {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Reason::Header,
        httparse::Error::TooManyHeaders => Reason::HeadTooLarge,
        httparse::Error::NewLine if memchr::memchr(b'\n', bytes).is_some() => Reason::Header,
        httparse::Error::Version => version_reason(bytes),
        httparse::Error::Status | httparse::Error::Token | httparse::Error::NewLine => {
            Reason::RequestLine
        }
    }
}

/// 505 for a well-formed version that is not served, 400 for anything else in its place.
fn version_reason(bytes: &[u8]) -> Reason {
    let line = bytes.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or(bytes);
    let last = line.rsplit(|&b| b == b' ').next().unwrap_or(line);
    match last {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Reason::Version
        }
        _ => Reason::RequestLine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> Option<Reason> {
        match parse(text.as_bytes()) {
            Ok(Some(_)) => None,
            Ok(None) => panic!("incomplete: {text:?}"),
            Err(HeadError(reason)) => Some(reason),
        }
    }

    #[test]
    fn what_is_refused_and_by_which_section() {
        const H: &str = "Host: a\r\n";
        let cases: &[(&str, Option<Reason>)] = &[
            // RFC 9112, 3: one space between the parts, nothing else.
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Reason::RequestLine)),
            ("GET /\r\n\r\n", Some(Reason::RequestLine)),
            ("G@T / HTTP/1.1\r\n\r\n", Some(Reason::RequestLine)),
            ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Reason::MethodUnknown)),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Some(Reason::MethodUnknown)),
            // RFC 9112, 2.3: versions.
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Some(Reason::Version)),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Some(Reason::Version)),
            ("GET / HTP/1.1\r\nHost: a\r\n\r\n", Some(Reason::RequestLine)),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", Some(Reason::RequestLine)),
            // RFC 9112, 3.2: targets and Host.
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Some(Reason::Target)),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Some(Reason::Target)),
            ("GET / HTTP/1.1\r\n\r\n", Some(Reason::Host)),
            ("GET / HTTP/1.0\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Some(Reason::Host)),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Some(Reason::Host)),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Some(Reason::Host)),
            ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", None),
            // RFC 9112, 5.1 and 5.2: no space before the colon, no folding.
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Some(Reason::Header)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", Some(Reason::Header)),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Some(Reason::Header)),
            // RFC 9112, 2.2: a bare LF or CR is no line end here.
            ("GET / HTTP/1.1\nHost: a\n\n", Some(Reason::Header)),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", Some(Reason::Header)),
            ("GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", Some(Reason::Header)),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Some(Reason::Header)),
        ];
        for (text, expected) in cases {
            assert_eq!(reason(text), *expected, "{text:?}");
        }
        // RFC 9112, 6: framing; RFC 9110, 10.1.1: expectations.
        let fields: &[(&str, Option<Reason>)] = &[
            ("Content-Length: 5\r\n", None),
            ("Content-Length: +5\r\n", Some(Reason::Framing)),
            ("Content-Length: 5, 5\r\n", Some(Reason::Framing)),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Some(Reason::Framing)),
            ("Content-Length: \r\n", Some(Reason::Framing)),
            ("Content-Length: 0x5\r\n", Some(Reason::Framing)),
            ("Content-Length: 18446744073709551616\r\n", Some(Reason::Framing)),
            ("Transfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding: Chunked\r\n", None),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", Some(Reason::Framing)),
            ("Transfer-Encoding: gzip, chunked\r\n", Some(Reason::Coding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Some(Reason::Framing)),
            ("Transfer-Encoding: xchunked\r\n", Some(Reason::Coding)),
            ("Expect: 100-Continue\r\n", None),
            ("Expect: tea\r\n", Some(Reason::Expectation)),
        ];
        for (text, expected) in fields {
            let text = format!("POST / HTTP/1.1\r\n{H}{text}\r\n");
            assert_eq!(reason(&text), *expected, "{text:?}");
        }
        assert_eq!(
            reason("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Some(Reason::Framing)
        );
    }

    #[test]
    fn a_head_is_incomplete_until_its_last_byte() {
        let text = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for end in 0..text.len() {
            assert!(matches!(parse(&text[..end]), Ok(None)), "{end}");
        }
        let head = parse(text).unwrap().unwrap();
        assert_eq!(
            (head.method, head.target, head.bytes.len()),
            (Method::Get, "/a?b=c", text.len())
        );
        assert_eq!(head.header("ACCEPT"), Some(&b"*/*"[..]));
        assert_eq!(head.headers().count(), 2);
    }

    #[test]
    fn connection_options() {
        let keeps = |version: &str, value: &str| {
            let text = format!("GET / {version}\r\nHost: a\r\nConnection: {value}\r\n\r\n");
            parse(text.as_bytes()).unwrap().unwrap().keep_alive
        };
        assert!(keeps("HTTP/1.1", "x"));
        assert!(!keeps("HTTP/1.1", "upgrade, Close"));
        assert!(!keeps("HTTP/1.0", "x"));
        assert!(keeps("HTTP/1.0", "Keep-Alive"));
        assert!(!keeps("HTTP/1.0", "keep-alive, close"));
    }

    #[test]
    fn too_many_fields() {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX));
        assert_eq!(reason(&text), Some(Reason::HeadTooLarge));
    }
}
