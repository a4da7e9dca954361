//! What is asked: request bytes, made once, and what the answer must be.

use std::sync::Arc;

/// The header fields that a request carries besides `Host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fields {
    /// Nothing but `Host`: about 40 bytes a request, what load tools usually send.
    Plain,
    /// What a desktop browser sends with a page: about 460 bytes a request.
    Browser,
}

/// A browser's fields as Chromium sends them, in its order, without cookies.
const BROWSER_FIELDS: &[(&str, &str)] = &[
    ("Connection", "keep-alive"),
    ("sec-ch-ua", "\"Chromium\";v=\"130\", \"Not?A_Brand\";v=\"99\""),
    ("sec-ch-ua-mobile", "?0"),
    ("Upgrade-Insecure-Requests", "1"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/130.0.0.0"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("Sec-Fetch-Site", "none"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Accept-Language", "en-US,en;q=0.9"),
];

/// What the body of a good reply is.
#[derive(Clone, Debug)]
pub enum Body {
    /// Anything, as long as its length is the announced one.
    Any,
    /// Anything of exactly so many bytes.
    Length(u64),
    /// Exactly these bytes.
    Exact(Arc<[u8]>),
}

/// What a good reply is; anything else is a fault.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Body,
}

impl Expect {
    /// A 200 with exactly this body.
    pub fn ok(body: &[u8]) -> Self {
        Self { status: 200, body: Body::Exact(body.into()) }
    }
}

/// One kind of request: its bytes, how often it is chosen, and what must come back.
#[derive(Clone, Debug)]
pub struct Request {
    /// The whole request, head and body.
    pub bytes: Vec<u8>,
    /// Its share among the kinds of a mix.
    pub weight: u32,
    /// The reply that it must get.
    pub expect: Expect,
    /// Whether it is a HEAD request, whose reply announces a body that does not come.
    pub head: bool,
}

impl Request {
    /// A GET of `path`; `close` asks the server to close the connection after its reply.
    pub fn get(host: &str, path: &str, fields: Fields, close: bool, expect: Expect) -> Self {
        let mut more: Vec<(&str, &str)> = match fields {
            Fields::Plain => Vec::new(),
            Fields::Browser => BROWSER_FIELDS.to_vec(),
        };
        if close {
            more.retain(|(name, _)| *name != "Connection");
            more.push(("Connection", "close"));
        }
        Self::new("GET", host, path, &more, b"", expect)
    }

    /// A request of any method, with these fields and body.
    pub fn new(
        method: &str,
        host: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
        expect: Expect,
    ) -> Self {
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
        for (name, value) in fields {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        Self { bytes, weight: 1, expect, head: method == "HEAD" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_head_is_short_and_browser_head_is_a_browsers() {
        let plain =
            Request::get("127.0.0.1:8080", "/hello", Fields::Plain, false, Expect::ok(b"x"));
        assert_eq!(plain.bytes, b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n");
        let browser =
            Request::get("127.0.0.1:8080", "/hello", Fields::Browser, false, Expect::ok(b"x"));
        assert!((450..=475).contains(&browser.bytes.len()), "{} bytes", browser.bytes.len());
    }

    #[test]
    fn close_is_asked_for_once() {
        let closing = Request::get("h", "/", Fields::Browser, true, Expect::ok(b""));
        let text = String::from_utf8(closing.bytes).unwrap();
        assert_eq!(text.matches("Connection:").count(), 1);
        assert!(text.contains("Connection: close\r\n"));
    }

    #[test]
    fn a_body_brings_its_length() {
        let post = Request::new("POST", "h", "/echo", &[], b"abc", Expect::ok(b"abc"));
        assert!(post.bytes.ends_with(b"Content-Length: 3\r\n\r\nabc"));
    }
}
