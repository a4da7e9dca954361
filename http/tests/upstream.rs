//! What an upstream may say, and what it is told: tables by section of RFC 9112, each reply fed
//! in every split in two.

use ember_http::upstream::{
    Fault, HopOptions, ReplyBody, ReplyHead, ReplyPiece, RequestBody, RequestHead, Unwritable,
    encode_path, has_dot_segments,
};
use ember_http::{Conn, Event, Limits, Memo, Method, Methods, Route, SiteBuilder};

/// What became of a whole reply, or of a stream that ended.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: u16,
    body: Vec<u8>,
    /// Bytes behind the reply.
    rest: Vec<u8>,
}

/// Reads one reply from parts that arrive one after the other.
fn read(method: Method, parts: &[&[u8]]) -> Result<Read, Fault> {
    let limits = Limits::default();
    let mut head = ReplyHead::default();
    let mut got = Vec::new();
    let mut parts = parts.iter();
    let used = loop {
        if let Some(used) = head.parse(&got, &limits)? {
            break used;
        }
        got.extend_from_slice(parts.next().ok_or(Fault::Truncated)?);
    };
    let mut body = ReplyBody::new(head.body(&got[..used], method)?);
    let status = head.status();
    let mut rest = got.split_off(used);
    let mut data = Vec::new();
    loop {
        let mut at = 0;
        while !body.is_done() {
            match body.decode(&rest[at..], &limits)? {
                ReplyPiece::Data { skipped, len } => {
                    data.extend_from_slice(&rest[at + skipped..][..len]);
                    at += skipped + len;
                }
                ReplyPiece::More => {
                    at = rest.len();
                    break;
                }
                ReplyPiece::End(len) => at += len,
            }
        }
        rest.drain(..at);
        if body.is_done() {
            rest.extend(parts.flat_map(|part| part.iter()));
            return Ok(Read { status, body: data, rest });
        }
        match parts.next() {
            Some(part) => rest.extend_from_slice(part),
            None => {
                body.handle_eof()?;
                return Ok(Read { status, body: data, rest });
            }
        }
    }
}

/// The same however it is split.
fn read_in_all_splits(method: Method, bytes: &[u8]) -> Result<Read, Fault> {
    let whole = read(method, &[bytes]);
    for at in 0..=bytes.len() {
        assert_eq!(read(method, &[&bytes[..at], &bytes[at..]]), whole, "split at {at}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(method, &single), whole, "byte by byte");
    whole
}

#[test]
fn bodies_end_where_section_6_3_says() {
    let get = Method::Get;
    for (method, reply, status, body, rest) in [
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", 200, "abc", "d"),
        (get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nabc", 200, "", "abc"),
        (get, "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nab", 200, "a", "b"),
        (get, "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nab", 200, "a", "b"),
        (get, "HTTP/1.9 200 é\r\nContent-Length:\t1 \r\n\r\nab", 200, "a", "b"),
        (
            get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\nT: u\r\n\r\nz",
            200,
            "abc",
            "z",
        ),
        (get, "HTTP/1.1 200 OK\r\n\r\nall there is", 200, "all there is", ""),
        (get, "HTTP/1.0 200 OK\r\n\r\nall there is", 200, "all there is", ""),
        (Method::Head, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, "", "abc"),
        (Method::Head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0", 200, "", "0"),
        (get, "HTTP/1.1 204 No Content\r\n\r\nabc", 204, "", "abc"),
        (get, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\nabc", 204, "", "abc"),
        (get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\nabc", 304, "", "abc"),
        (get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1", 100, "", "HTTP/1.1"),
    ] {
        let expected = Read { status, body: body.into(), rest: rest.into() };
        assert_eq!(read_in_all_splits(method, reply.as_bytes()), Ok(expected), "{reply:?}");
    }
}

#[test]
fn what_is_ambiguous_is_not_believed() {
    use Fault as F;
    for (reply, fault) in [
        ("HTTP/2.0 200 OK\r\n\r\n", F::Version),
        ("HTTP/1.1  200 OK\r\n\r\n", F::StatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", F::StatusLine),
        ("HTTP/1.1 2000 OK\r\n\r\n", F::StatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", F::StatusLine),
        ("HTTP/1.1 600 OK\r\n\r\n", F::StatusLine),
        ("http/1.1 200 OK\r\n\r\n", F::StatusLine),
        (" HTTP/1.1 200 OK\r\n\r\n", F::StatusLine),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", F::StatusLine),
        ("ICY 200 OK\r\n\r\n", F::StatusLine),
        ("HTTP/1.1 200 O\0K\r\n\r\n", F::StatusLine),
        // RFC 9112 section 2.2: a bare LF may be taken for a line end; another reader may not.
        ("HTTP/1.1 200 OK\nA: b\r\n\r\n", F::LineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\n\r\n", F::LineEnd),
        ("HTTP/1.1 200 OK\r\nA: b\r\n\rX", F::LineEnd),
        // Section 5.1 and 5.2.
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", F::Field),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", F::Field),
        ("HTTP/1.1 200 OK\r\n: b\r\n\r\n", F::Field),
        ("HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n", F::Field),
        // Section 6.1 to 6.3.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            F::FramingConflict,
        ),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", F::FramingConflict),
        ("HTTP/1.1 204 X\r\nContent-Length: 3\r\n\r\n", F::FramingConflict),
        ("HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n", F::FramingConflict),
        ("HTTP/1.1 103 X\r\nContent-Length: 3\r\n\r\n", F::FramingConflict),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", F::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc", F::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc", F::ContentLength),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nabc", F::ContentLength),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", F::TransferEncoding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n", F::TransferEncoding),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            F::TransferEncoding,
        ),
        // Section 7.1.
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", F::Chunk),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\nab", F::Chunk),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", F::Chunk),
        // Section 8.
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", F::Truncated),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", F::Truncated),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", F::Truncated),
        ("HTTP/1.1 200 OK\r\nContent-Le", F::Truncated),
    ] {
        assert_eq!(read_in_all_splits(Method::Get, reply.as_bytes()), Err(fault), "{reply:?}");
    }
}

#[test]
fn heads_have_limits() {
    let limits = Limits { head_bytes_max: 64, fields_max: 2, ..Limits::default() };
    let mut head = ReplyHead::default();
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(64));
    assert_eq!(head.parse(long.as_bytes(), &limits), Err(Fault::HeadLength));
    let many = b"HTTP/1.1 200 OK\r\nA: b\r\nA: b\r\nA: b\r\n\r\n";
    assert_eq!(head.parse(many, &limits), Err(Fault::HeadLength));
    let fits = b"HTTP/1.1 200 OK\r\nA: b\r\nA: b\r\n\r\n";
    assert_eq!(head.parse(fits, &limits), Ok(Some(fits.len())));
}

#[test]
fn connections_persist_as_section_9_3_says() {
    for (reply, persists) in [
        ("HTTP/1.1 200 OK\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", true),
        ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive, close\r\n\r\n", false),
    ] {
        let mut head = ReplyHead::default();
        head.parse(reply.as_bytes(), &Limits::default()).unwrap().unwrap();
        let options = HopOptions::of(head.fields(reply.as_bytes()));
        assert_eq!(head.persists(&options), persists, "{reply:?}");
    }
}

const HEAD: RequestHead<'_> = RequestHead {
    method: b"GET",
    path: b"/a",
    query: None,
    host: b"example.org",
    body: RequestBody::None,
    upgrade: None,
};

fn written(head: RequestHead<'_>, fields: &[(&str, &str)]) -> Result<String, Unwritable> {
    let mut out = Vec::new();
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    head.write(&mut out, fields, |name| name.eq_ignore_ascii_case(b"x-drop"))?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn requests_have_framing_and_connection_fields_of_their_own() {
    let sent = [
        ("Host", "evil"),
        ("Content-Length", "10"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("X-Drop", "1"),
        ("TE", "trailers"),
        ("Expect", "100-continue"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAA"),
        ("Accept", "*/*"),
    ];
    let start = "GET /a HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n";
    assert_eq!(written(HEAD, &sent).unwrap(), start);
    let sized = RequestHead { body: RequestBody::Length(7), ..HEAD };
    assert_eq!(written(sized, &sent).unwrap(), format!("{start}Content-Length: 7\r\n"));
    let chunked = RequestHead { body: RequestBody::Chunked, ..HEAD };
    assert_eq!(written(chunked, &sent).unwrap(), format!("{start}Transfer-Encoding: chunked\r\n"));
    let upgrade = RequestHead { upgrade: Some(b"websocket"), ..HEAD };
    let fields = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(written(upgrade, &sent).unwrap(), format!("{start}{fields}"));
}

#[test]
fn nothing_splits_a_request() {
    for head in [
        RequestHead { path: b"/a b", ..HEAD },
        RequestHead { path: b"a", ..HEAD },
        RequestHead { path: b"/a\r\nX: y", ..HEAD },
        RequestHead { query: Some(b"a\r\nX: y"), ..HEAD },
        RequestHead { query: Some(b"a HTTP/1.1"), ..HEAD },
        RequestHead { method: b"GET /x HTTP/1.1\r\n", ..HEAD },
        RequestHead { method: b"", ..HEAD },
        RequestHead { host: b"a\r\nX: y", ..HEAD },
        RequestHead { upgrade: Some(b"a\r\nX: y"), ..HEAD },
    ] {
        assert!(written(head, &[]).is_err(), "{head:?}");
    }
    assert!(written(HEAD, &[("A B", "c")]).is_err());
    assert!(written(HEAD, &[("A", "b\nC: d")]).is_err());
}

#[test]
fn a_written_request_is_read_as_what_it_was() {
    // The other half of this crate is the judge of what this half writes.
    let mut site = SiteBuilder::new();
    site.dynamic(Route::new("all", "/{rest:path}"), Methods::ANY, ember_http::HandlerId(0));
    let site = site.build().unwrap();
    let head =
        RequestHead { query: Some(b"x=1"), body: RequestBody::Length(4), method: b"PUT", ..HEAD };
    let mut bytes = written(head, &[("A", "b"), ("Cookie", "c=d")]).unwrap().into_bytes();
    bytes.extend_from_slice(b"\r\nbody");
    let (mut conn, mut memo) = (Conn::new(0), Memo::new());
    let mut input = ember_http::Input::new(&bytes, 0);
    let Event::Request(request) = conn.next(&site, &mut memo, &mut input) else {
        panic!("no request");
    };
    assert_eq!((request.method(), request.raw_path()), (Method::Put, &b"/a"[..]));
    assert_eq!(request.query(), Some(&b"x=1"[..]));
    assert_eq!(request.field("cookie"), Some(&b"c=d"[..]));
    assert_eq!(request.body, ember_http::BodyKind::Length(4));
}

#[test]
fn paths_mean_what_they_say() {
    for (path, dots) in [
        ("/a/b", false),
        ("/a/./b", true),
        ("/a/..", true),
        ("/a/%2e%2E/b", true),
        ("/a/.%2e", true),
        ("/a/...", false),
        ("/a/..b", false),
        ("/.well-known/x", false),
        ("/a%2Fb/", false),
    ] {
        assert_eq!(has_dot_segments(path.as_bytes()), dots, "{path}");
    }
    assert_eq!(encode_path("/a b/ü?%2F%25"), b"/a%20b/%C3%BC%3F%2F%25");
}
