//! What the RFCs say, case by case. Each row names its section; the verdict is the status of the
//! protocol's refusal, or who answers.

mod common;

use common::{Client, log_of, site};
use ember_http::{Prepared, Route, SiteBuilder};

/// What a fresh connection makes of a request head with this line and these fields.
fn verdict(request: &str) -> String {
    let log = log_of(request.as_bytes());
    log.lines().next().unwrap_or("nothing").to_owned()
}

/// Rows of section, request and the beginning of the verdict.
fn check(rows: &[(&str, &str, &str)]) {
    for (section, request, expected) in rows {
        let verdict = verdict(request);
        assert!(verdict.starts_with(expected), "RFC {section}: {request:?} gave {verdict:?}");
    }
}

const OK: &str = "prepared GET 200";

#[test]
fn request_lines() {
    check(&[
        ("9112 3", "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("9112 2.2", "\r\nGET /hello HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("9112 2.2", "\r\n\r\nGET /hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 method"),
        ("9112 2.2", "\nGET /hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 method"),
        ("9112 2.2", "GET /hello HTTP/1.1\nHost: h\n\n", "refuse 400 version"),
        ("9112 2.2", "GET /hello HTTP/1.1\nHost: h\r\n\r\n", "refuse 400 version"),
        ("9112 2.2", "GET /hello HTTP/1.1\r\nHost: h\n\r\n", "refuse 400 line_end"),
        ("9112 2.2", "GET /hello HTTP/1.1\r\nHost: h\r\n\n", "refuse 400 field_name"),
        ("9112 2.2", "GET /hello HTTP/1.1\r\nHost: h\r\r\n\r\n", "refuse 400 line_end"),
        ("9112 2.2", "GET /hello HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", "refuse 400 line_end"),
        ("9112 2.2", " GET /hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 method"),
        ("9112 2.2", "GET /hello HTTP/1.1\r\n Host: h\r\n\r\n", "refuse 400 field_name"),
        ("9112 3", "GET  /hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("9112 3", "GET /hello  HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 version"),
        ("9112 3", "GET\t/hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 method"),
        ("9112 3", "GET /hello\tHTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("9112 3", "GET /hello HTTP/1.1 \r\nHost: h\r\n\r\n", "refuse 400 version"),
        ("9112 3", "GET /hello\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("9110 9.1", "get /hello HTTP/1.1\r\nHost: h\r\n\r\n", "answer 405"),
        ("9110 9.1", "BREW /hello HTTP/1.1\r\nHost: h\r\n\r\n", "answer 405"),
        ("9110 9.1", "G(T /hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 method"),
        ("9110 15.5.6", "PUT /hello HTTP/1.1\r\nHost: h\r\n\r\n", "answer 405"),
        ("9110 9.3.8", "TRACE /hello HTTP/1.1\r\nHost: h\r\n\r\n", "answer 405"),
        ("9112 2.3", "GET /hello HTTP/2.0\r\nHost: h\r\n\r\n", "refuse 505"),
        ("9112 2.3", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "refuse 505"),
        ("9110 2.5", "GET /hello HTTP/1.2\r\nHost: h\r\n\r\n", OK),
        ("9112 2.3", "GET /hello HTTP/0.9\r\nHost: h\r\n\r\n", "refuse 505"),
        ("9112 2.3", "GET /hello http/1.1\r\nHost: h\r\n\r\n", "refuse 400 version"),
        ("9112 2.3", "GET /hello HTTP/1.10\r\nHost: h\r\n\r\n", "refuse 400 version"),
        ("9112 2.3", "GET /hello HTTP/11\r\nHost: h\r\n\r\n", "refuse 400 version"),
        ("9112 2.3", "GET /hello HTTP/+1.1\r\nHost: h\r\n\r\n", "refuse 400 version"),
    ]);
}

#[test]
fn methods_that_no_route_has_are_not_implemented() {
    // RFC 9110 section 9.1: 501 for what the whole server does not know, 405 for what the path
    // does not have. A route for any method, as the usual site has one, knows them all.
    let mut builder = SiteBuilder::new();
    builder.prepared(Route::new("hello", "/hello"), Prepared::new("text/plain", *b"hi"));
    let mut client = Client::new(builder.build().expect("a legal site"));
    client.send(b"BREW /hello HTTP/1.1\r\nHost: h\r\n\r\nget /none HTTP/1.1\r\nHost: h\r\n\r\n");
    client.send(b"PUT /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(
        client.log,
        "refuse 501 method_unknown Open\nrefuse 501 method_unknown Open\n\
         answer 405 method_not_allowed\n"
    );
}

#[test]
fn request_targets() {
    check(&[
        ("9112 3.2.1", "GET /hello?a=b HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("9112 3.2.2", "GET http://h/hello HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("9112 3.2.2", "GET http://other/hello HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("9112 3.2.2", "GET http://h/hello HTTP/1.1\r\n\r\n", "refuse 400 host_missing"),
        ("9112 3.2.3", "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 501"),
        ("9112 3.2.3", "CONNECT /hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("9112 3.2.4", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "answer 204"),
        ("9112 3.2.4", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("9110 9.3.7", "OPTIONS /hello HTTP/1.1\r\nHost: h\r\n\r\n", "answer 204"),
        ("3986 3.5", "GET /hello#x HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("3986 2.1", "GET /hell%6f HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("3986 2.1", "GET /hell%6 HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 path"),
        ("3986 7.3", "GET /hello%00 HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 path"),
        ("3986 5.2.4", "GET /a/../hello HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("3986 5.2.4", "GET /a/%2e%2e/hello HTTP/1.1\r\nHost: h\r\n\r\n", OK),
        ("3986 5.2.4", "GET /../hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 path"),
        ("3986 2.2", "GET /a%2f../hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 404"),
        ("9110 4.2.4", "GET http://u:p@h/hello HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("3986 2", "GET /h\u{e9}llo HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
        ("3986 2", "GET /\"hello\" HTTP/1.1\r\nHost: h\r\n\r\n", "refuse 400 target"),
    ]);
}

#[test]
fn fields_and_hosts() {
    check(&[
        ("9112 3.2", "GET /hello HTTP/1.1\r\n\r\n", "refuse 400 host_missing"),
        ("9112 3.2", "GET /hello HTTP/1.0\r\n\r\n", OK),
        ("9112 3.2", "GET /hello HTTP/1.1\r\nHost:\r\n\r\n", OK),
        (
            "9112 3.2",
            "GET /hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "refuse 400 host_repeated",
        ),
        ("9112 3.2", "GET /hello HTTP/1.1\r\nHost: a, b\r\n\r\n", "refuse 400 host"),
        ("9112 3.2", "GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n", "refuse 400 host"),
        ("9112 3.2", "GET /hello HTTP/1.1\r\nHost: u@a\r\n\r\n", "refuse 400 host"),
        ("9112 3.2", "GET /hello HTTP/1.1\r\nHost: a:b\r\n\r\n", "refuse 400 host"),
        ("9112 3.2", "GET /hello HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", OK),
        ("9112 5.1", "GET /hello HTTP/1.1\r\nHost : h\r\n\r\n", "refuse 400 field_name"),
        ("9112 5.1", "GET /hello HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", "refuse 400 field_name"),
        ("9112 5.1", "GET /hello HTTP/1.1\r\nHost: h\r\nA B: x\r\n\r\n", "refuse 400 field_name"),
        ("9112 5.1", "GET /hello HTTP/1.1\r\nHost: h\r\nNo colon\r\n\r\n", "refuse 400 field_name"),
        (
            "9112 5.2",
            "GET /hello HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
            "refuse 400 field_name",
        ),
        (
            "9112 5.2",
            "GET /hello HTTP/1.1\r\nHost: h\r\nA: b\r\n\tc\r\n\r\n",
            "refuse 400 field_name",
        ),
        ("9110 5.5", "GET /hello HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n", "refuse 400 field_value"),
        (
            "9110 5.5",
            "GET /hello HTTP/1.1\r\nHost: h\r\nA: b\x7fc\r\n\r\n",
            "refuse 400 field_value",
        ),
        ("9110 5.5", "GET /hello HTTP/1.1\r\nHost: h\r\nA: \u{e9}\tb\r\n\r\n", OK),
        ("9110 5.5", "GET /hello HTTP/1.1\r\nhOST:h\r\nA:\r\n\r\n", OK),
        ("9110 10.1.1", "GET /hello HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", "refuse 417"),
        ("9110 10.1.1", "GET /hello HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n\r\n", OK),
        ("9110 10.1.1", "GET /hello HTTP/1.0\r\nExpect: 200-ok\r\n\r\n", OK),
        ("9110 13.1.1", "GET /hello HTTP/1.1\r\nHost: h\r\nIf-Match: \"x\"\r\n\r\n", "refuse 412"),
        (
            "9110 13.1.2",
            "GET /hello HTTP/1.1\r\nHost: h\r\nIf-None-Match: *\r\n\r\n",
            "prepared GET 304",
        ),
        ("9110 14.2", "GET /hello HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\n\r\n", "answer 206"),
        (
            "9110 14.2",
            "HEAD /hello HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\n\r\n",
            "prepared HEAD 200",
        ),
        (
            "9110 15.5.17",
            "GET /hello HTTP/1.1\r\nHost: h\r\nRange: bytes=99-\r\n\r\n",
            "answer 416",
        ),
    ]);
}

/// Whatever has been used to make two readers frame a body differently. Each is refused and the
/// connection ends, so that nothing behind it is read as a request.
#[test]
fn nothing_is_smuggled() {
    let bodies = [
        ("9112 6.1", "Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("9112 6.3", "Content-Length: 5\r\nContent-Length: 5", 400),
        ("9112 6.3", "Content-Length: 5\r\nContent-Length: 6", 400),
        ("9112 6.3", "Content-Length: 5, 5", 400),
        ("9110 8.6", "Content-Length: +5", 400),
        ("9110 8.6", "Content-Length: -5", 400),
        ("9110 8.6", "Content-Length: 5 5", 400),
        ("9110 8.6", "Content-Length: 0x5", 400),
        ("9110 8.6", "Content-Length: 5.0", 400),
        ("9110 8.6", "Content-Length: 5;", 400),
        ("9110 8.6", "Content-Length: \"5\"", 400),
        ("9110 8.6", "Content-Length:", 400),
        ("9110 8.6", "Content-Length: 18446744073709551621", 400),
        ("9110 8.6", "Content-Length: 99999999999999999999999", 400),
        ("9112 5.1", "Content-Length : 5", 400),
        ("9112 5.2", "Content-Length:\r\n 5", 400),
        ("9112 5.1", "Transfer-Encoding : chunked", 400),
        ("9112 5.2", "Transfer-Encoding:\r\n chunked", 400),
        ("9112 5.2", "X: y\r\n Transfer-Encoding: chunked", 400),
        ("9112 6.1", "Transfer-Encoding:", 400),
        ("9112 6.1", "Transfer-Encoding: ,chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked,", 400),
        ("9112 6.1", "Transfer-Encoding: xchunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunkedx", 400),
        ("9112 6.1", "Transfer-Encoding: chunked, identity", 400),
        ("9112 6.1", "Transfer-Encoding: identity, chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked, chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        ("9112 6.1", "Transfer-Encoding: chunked, gzip", 400),
        ("9112 6.1", "Transfer-Encoding: gzip, chunked", 501),
        ("9112 6.1", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501),
        ("9112 6.1", "Transfer-Encoding: \"chunked\"", 400),
        ("9112 6.1", "Transfer-Encoding: chunked;q=1", 400),
        ("9112 6.1", "Transfer-Encoding: \x0bchunked", 400),
        ("9112 2.2", "Transfer-Encoding: chunked\nX: y", 400),
        ("9112 2.2", "X: y\rTransfer-Encoding: chunked", 400),
        ("9110 5.5", "Transfer-Encoding: chunked\0", 400),
        ("9110 5.5", "Content-Length: 5\0", 400),
    ];
    for (section, fields, status) in bodies {
        for method in ["POST /echo", "GET /hello", "GET /none"] {
            let request = format!(
                "{method} HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: h\r\n\r\n"
            );
            let log = log_of(request.as_bytes());
            assert!(
                log.starts_with(&format!("refuse {status}")),
                "RFC {section}: {fields:?}: {log}"
            );
            assert!(log.ends_with("Linger\nclose\n"), "RFC {section}: {fields:?}: {log}");
            assert_eq!(log.lines().count(), 2, "RFC {section}: {fields:?}: {log}");
        }
    }
    check(&[(
        "9112 6.1",
        "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "refuse 400 transfer_encoding_version",
    )]);
}

#[test]
fn chunked_bodies() {
    let log = |body: &str| {
        log_of(
            format!("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n{body}GET /hello HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(),
        )
    };
    // RFC 9112 section 7.1.
    for (body, data) in [
        ("0\r\n\r\n", ""),
        ("000\r\n\r\n", ""),
        ("1\r\na\r\n0\r\n\r\n", "a"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("0a\r\n0123456789\r\n2\r\nab\r\n0\r\n\r\n", "0123456789ab"),
        ("1;x\r\na\r\n0;y=z\r\n\r\n", "a"),
        ("1;x=\"a\\\"b;\"\r\na\r\n0\r\n\r\n", "a"),
        ("1\r\na\r\n0\r\nTrailer: x\r\nB:\r\n\r\n", "a"),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
    ] {
        let expected = format!("request POST /echo\nbody {data:?}\nprepared GET 200\nclose\n");
        assert_eq!(log(body), expected, "{body:?}");
    }
    for body in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\na",
        "0x1\r\na",
        " 1\r\na",
        "1 \r\na",
        "1\ra",
        "1\na",
        "1\r\nab\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na\r0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "0000000000000001\r\na",
        "1;\r\na",
        "1;=x\r\na",
        "1;x=\r\na",
        "1;x=\"\r\na",
        "1;x y\r\na",
        "1 ;x\r\na",
        "1;x\n\r\na",
        "0\r\n x\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\nx y: z\r\n\r\n",
        "0\r\nx: \0\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\n\n",
        "0\r\n\r\r\n",
        ";\r\n",
        "1,1\r\na",
    ] {
        let log = log(body);
        assert!(
            log.starts_with("request POST /echo\nrefuse 400 chunk Linger\nclose\n"),
            "{body:?}: {log}"
        );
    }
}

#[test]
fn lengths_beyond_the_limits() {
    let long = "x".repeat(20_000);
    check(&[
        ("9110 15.5.15", &format!("GET /{long} HTTP/1.1\r\nHost: h\r\n\r\n"), "refuse 414"),
        ("9110 15.5.15", &format!("GET /{long}"), "refuse 414"),
        ("6585 5", &format!("GET /hello HTTP/1.1\r\nHost: h\r\nA: {long}\r\n\r\n"), "refuse 431"),
        ("6585 5", &format!("GET /hello HTTP/1.1\r\nHost: h\r\nA: {long}"), "refuse 431"),
        ("6585 5", &format!("GET /hello HTTP/1.1\r\n{long}"), "refuse 431"),
        (
            "6585 5",
            &format!("GET /hello HTTP/1.1\r\nHost: h\r\n{}\r\n", "A:\r\n".repeat(100)),
            "refuse 431",
        ),
        ("6585 5", &format!("GET /hello HTTP/1.1\r\nHost: h\r\n{}\r\n", "A:\r\n".repeat(99)), OK),
        ("9110 15.6.2", &format!("{long} / HTTP/1.1\r\nHost: h\r\n\r\n"), "refuse 501"),
        (
            "9110 15.5.14",
            "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n",
            "refuse 413",
        ),
    ]);
    let mut client = Client::new(site());
    client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..5 {
        client.send(format!("100000\r\n{}\r\n", "x".repeat(1 << 20)).as_bytes());
    }
    client.eof();
    assert_eq!(client.log, "request POST /echo\nrefuse 413 body_length Linger\nclose\n");
    for (piece, reason) in [("0\r\nA: ", "431 trailer"), ("1;a=", "400 chunk")] {
        let request = "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let log = log_of(format!("{request}{piece}{long}").as_bytes());
        assert_eq!(log, format!("request POST /echo\nrefuse {reason} Linger\nclose\n"));
    }
}

#[test]
fn persistence() {
    // RFC 9112 section 9.3: the version, the options, and the end.
    let closes = |line: &str, fields: &str| {
        let mut client = Client::new(site());
        client.send(format!("GET /hello {line}\r\nHost: h\r\n{fields}\r\n").as_bytes());
        let reply = String::from_utf8(client.sent.clone()).expect("ASCII");
        let says_close = reply.contains("\r\nConnection: close\r\n");
        let says_keep = reply.contains("\r\nConnection: keep-alive\r\n");
        assert_eq!(client.closed, says_close);
        (says_close, says_keep)
    };
    assert_eq!(closes("HTTP/1.1", ""), (false, false));
    assert_eq!(closes("HTTP/1.1", "Connection: keep-alive\r\n"), (false, false));
    assert_eq!(closes("HTTP/1.1", "Connection: close\r\n"), (true, false));
    assert_eq!(closes("HTTP/1.1", "Connection: x,, CLOSE ,y\r\n"), (true, false));
    assert_eq!(closes("HTTP/1.1", "Connection: x\r\nConnection: close\r\n"), (true, false));
    assert_eq!(closes("HTTP/1.1", "Connection: keep-alive, close\r\n"), (true, false));
    assert_eq!(closes("HTTP/1.0", ""), (true, false));
    assert_eq!(closes("HTTP/1.0", "Connection: Keep-Alive\r\n"), (false, true));
    assert_eq!(closes("HTTP/1.0", "Connection: keep-alive, close\r\n"), (true, false));
}

#[test]
fn options_and_405_say_what_is_allowed() {
    let mut client = Client::new(site());
    for (request, allow) in [
        ("OPTIONS /hello", "GET, HEAD, OPTIONS"),
        ("DELETE /hello", "GET, HEAD, OPTIONS"),
        ("DELETE /echo", "GET, HEAD, POST, OPTIONS"),
        ("OPTIONS *", "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, CONNECT, TRACE"),
    ] {
        client.sent.clear();
        client.send(format!("{request} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        let reply = String::from_utf8_lossy(&client.sent).into_owned();
        assert!(reply.contains(&format!("\r\nAllow: {allow}\r\n")), "{request}: {reply}");
    }
}

#[test]
fn head_replies_are_get_replies_without_bodies() {
    // RFC 9110 section 9.3.2.
    for target in ["/hello", "/old", "/none", "/tasks/1"] {
        let reply = |method: &str| {
            let mut client = Client::new(site());
            client.send(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
            String::from_utf8(client.sent).expect("ASCII")
        };
        let (get, head) = (reply("GET"), reply("HEAD"));
        let end = get.find("\r\n\r\n").expect("a head") + 4;
        assert_eq!(head, get[..end], "{target}");
    }
}
