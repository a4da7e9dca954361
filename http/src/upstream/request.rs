//! Heads of requests to an upstream.

use super::hop::HopOptions;
use crate::bytes::{CLASS, PATH, TARGET, TOKEN, all, is_control};
use crate::reply::write_decimal;

/// How the body of a request goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// There is none, and the method expects none: nothing is said about it.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks; see [`chunk_head`](crate::chunk_head) and [`LAST_CHUNK`](crate::LAST_CHUNK).
    Chunked,
}

/// A request as an upstream is to get it. Every part is checked when it is written, so that no
/// caller can split a message.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The path, beginning with a slash, encoded; or `*`.
    pub path: &'a [u8],
    /// What stands behind the question mark.
    pub query: Option<&'a [u8]>,
    /// The value of Host.
    pub host: &'a [u8],
    /// How the body goes out.
    pub body: RequestBody,
    /// The protocol to change to, as the client's Upgrade field names it.
    pub upgrade: Option<&'a [u8]>,
}

/// A part that cannot stand in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritable(pub &'static str);

impl std::fmt::Display for Unwritable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} cannot stand in a request", self.0)
    }
}

impl std::error::Error for Unwritable {}

impl RequestHead<'_> {
    /// Writes the head behind what `out` holds, all but the empty line at its end: `fields` are
    /// those of the client, of which hop-by-hop ones, Host and Expect are left out, and those that
    /// `drop` says yes to. Behind it come more of [`field`] as
    /// wanted, then CRLF.
    ///
    /// # Errors
    /// A part that would break the message; `out` is then as it was.
    pub fn write<'f>(
        &self,
        out: &mut Vec<u8>,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])> + Clone,
        drop: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Unwritable> {
        self.check()?;
        let start = out.len();
        self.request_line(out);
        let options = HopOptions::of(fields.clone());
        for (name, value) in fields {
            if options.keeps(name) || is_own(name) || drop(name) {
                continue;
            }
            if !is_field(name, value) {
                out.truncate(start);
                return Err(Unwritable("field"));
            }
            field(out, name, value);
        }
        match self.body {
            RequestBody::None => {}
            RequestBody::Length(length) => {
                out.extend_from_slice(b"Content-Length: ");
                write_decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
            RequestBody::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        if let Some(protocol) = self.upgrade {
            field(out, b"Connection", b"upgrade");
            field(out, b"Upgrade", protocol);
        }
        Ok(())
    }

    fn request_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method);
        out.push(b' ');
        out.extend_from_slice(self.path);
        if let Some(query) = self.query {
            out.push(b'?');
            out.extend_from_slice(query);
        }
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host);
        out.extend_from_slice(b"\r\n");
    }

    fn check(&self) -> Result<(), Unwritable> {
        let path = matches!(self.path, [b'/', ..] if all(self.path, PATH)) || self.path == b"*";
        let checks = [
            (!self.method.is_empty() && all(self.method, TOKEN), "method"),
            (path, "path"),
            (all(self.query.unwrap_or_default(), TARGET), "query"),
            (!self.host.iter().any(|&byte| byte <= b' ' || byte == 0x7f), "host"),
            (!self.upgrade.unwrap_or_default().iter().any(|&b| is_control(b)), "protocol"),
        ];
        match checks.iter().find(|(fits, _)| !fits) {
            Some((_, part)) => Err(Unwritable(part)),
            None => Ok(()),
        }
    }
}

/// Writes a field line.
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether a field line of these bytes stands for itself and nothing else.
#[must_use]
pub fn is_field(name: &[u8], value: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|&byte| CLASS[byte as usize] & TOKEN != 0)
        && !value.iter().any(|&byte| is_control(byte))
}

/// Host is made anew, and an expectation has been met by the gateway itself.
fn is_own(name: &[u8]) -> bool {
    match name.len() {
        4 => name.eq_ignore_ascii_case(b"host"),
        6 => name.eq_ignore_ascii_case(b"expect"),
        _ => false,
    }
}

/// Percent-encodes what cannot stand in a path as it is. `%2F` and `%25` of a normalised path are
/// left alone.
#[must_use]
pub fn encode_path(path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 8);
    for &byte in path.as_bytes() {
        // A bare percent sign stands only where an encoding was kept.
        if CLASS[byte as usize] & PATH != 0 {
            out.push(byte);
        } else {
            let hex = |nibble: u8| b"0123456789ABCDEF"[usize::from(nibble)];
            out.extend_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    out
}

/// Whether a path as it was sent has segments `.` or `..`, encoded or not: such a path means
/// another one than it says, and is passed on as what it means.
#[must_use]
pub fn has_dot_segments(path: &[u8]) -> bool {
    if !path.contains(&b'.') && !path.contains(&b'%') {
        return false;
    }
    path.split(|&byte| byte == b'/').any(|segment| {
        let mut rest = segment;
        let mut dots = 0;
        loop {
            rest = match rest {
                [] => return dots == 1 || dots == 2,
                [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
                _ => return false,
            };
            dots += 1;
        }
    })
}
