//! Hosts, slashes, codings and ranges of whole sites.

mod common;

use std::sync::Arc;

use common::Client;
use ember_http::coding::Coding;
use ember_http::{
    Conn, Event, HandlerId, Input, Memo, Method, Methods, Prepared, Route, SiteBuilder, SiteError,
    SlashStrategy,
};

fn reply(client: &mut Client, request: &str) -> String {
    client.sent.clear();
    client.send(request.as_bytes());
    String::from_utf8(client.sent.clone()).expect("ASCII")
}

fn text(body: &'static str) -> Prepared {
    Prepared::new("text/plain", body.as_bytes())
}

#[test]
fn the_narrowest_host_answers() {
    let mut builder = SiteBuilder::new();
    builder.prepared(Route::new("all", "/"), text("all"));
    builder.prepared(Route::new("one", "/").host("a.example.org"), text("one"));
    builder.prepared(Route::new("below", "/").host("*.example.org"), text("below"));
    builder.prepared(Route::new("deep", "/").host("*.b.example.org"), text("deep"));
    builder.prepared(Route::new("any", "/any"), text("any"));
    let mut client = Client::new(builder.build().expect("a legal site"));
    for (target, host, body) in [
        ("/", "a.example.org", "one"),
        ("/", "A.Example.org.:80", "one"),
        ("/", "x.example.org", "below"),
        ("/", "x.b.example.org", "deep"),
        ("/", "example.org", "all"),
        ("/", "", "all"),
        ("/any", "a.example.org", "any"),
        ("http://a.example.org/", "elsewhere", "one"),
    ] {
        let reply = reply(&mut client, &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert!(reply.ends_with(&format!("\r\n\r\n{body}")), "{target} {host}: {reply}");
    }
}

#[test]
fn slash_strategies() {
    let site = |strategy| {
        let mut builder = SiteBuilder::new();
        builder.slashes(strategy);
        builder.prepared(Route::new("a", "/a b"), text("a"));
        builder.prepared(Route::new("c", "/c/"), text("c"));
        builder.build().expect("a legal site")
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut strict = Client::new(site(SlashStrategy::Strict));
    assert!(reply(&mut strict, &get("/c")).starts_with("HTTP/1.1 404"));
    let mut ignore = Client::new(site(SlashStrategy::Ignore));
    assert!(reply(&mut ignore, &get("/c")).ends_with("\r\n\r\nc"));
    assert!(reply(&mut ignore, &get("/a%20b/")).ends_with("\r\n\r\na"));
    let mut redirect = Client::new(site(SlashStrategy::Redirect));
    let to = reply(&mut redirect, &get("/a%20b/?q"));
    assert!(to.starts_with("HTTP/1.1 308") && to.contains("\r\nLocation: /a%20b?q\r\n"), "{to}");
    assert!(reply(&mut redirect, &get("/c")).contains("\r\nLocation: /c/\r\n"));
    assert!(reply(&mut redirect, &get("//c")).starts_with("HTTP/1.1 404"));
}

#[test]
fn a_handler_behind_another_slash_sees_the_path_of_its_route() {
    let mut builder = SiteBuilder::new();
    builder.slashes(SlashStrategy::Ignore);
    let get = Methods::of(&[Method::Get]);
    builder.dynamic(Route::new("a", "/a/{name}"), get, HandlerId(0));
    let site = builder.build().expect("a legal site");
    let (mut memo, mut conn) = (Memo::new(), Conn::new(0));
    let head = b"GET /a/%C3%A9%2ft/?q HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut input = Input::new(head, 0);
    let Event::Request(request) = conn.next(&site, &mut memo, &mut input) else { panic!() };
    assert_eq!(request.path(), "/a/é%2Ft");
    assert_eq!(request.param("name").as_deref(), Some("é/t"));
    assert_eq!(request.query(), Some(&b"q"[..]));
}

#[test]
fn codings_are_negotiated_with_tags_and_vary_of_their_own() {
    let mut builder = SiteBuilder::new();
    let coded: Vec<(Coding, Arc<[u8]>)> = vec![
        (Coding::Brotli, Arc::from(*b"br")),
        (Coding::Gzip, Arc::from(*b"gzi")),
        (Coding::Zstd, Arc::from(*b"longer than the body")),
    ];
    let fields = vec![("Vary".to_owned(), "Origin".to_owned())];
    builder.prepared(Route::new("a", "/a"), Prepared { coded, fields, ..text("identity") });
    let mut client = Client::new(builder.build().expect("a legal site"));
    let get =
        |accept: &str| format!("GET /a HTTP/1.1\r\nHost: h\r\nAccept-Encoding: {accept}\r\n\r\n");
    let tag = |reply: &str| {
        let start = reply.find("ETag: ").expect("a tag") + 6;
        reply[start..].split("\r\n").next().expect("a line").to_owned()
    };
    let mut tags = Vec::new();
    for (accept, body) in [("br, gzip", "br"), ("gzip, zstd", "gzi"), ("zstd", "identity")] {
        let reply = reply(&mut client, &get(accept));
        assert!(reply.ends_with(&format!("\r\n\r\n{body}")), "{accept}: {reply}");
        assert!(reply.contains("\r\nVary: Origin, Accept-Encoding\r\n"), "{reply}");
        assert_eq!(reply.contains("Content-Encoding"), body != "identity");
        tags.push(tag(&reply));
    }
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
    // A tag matches in its own coding alone; the 304 repeats it with Vary.
    let conditional = |accept: &str, tag: &str| {
        format!(
            "GET /a HTTP/1.1\r\nHost: h\r\nAccept-Encoding: {accept}\r\nIf-None-Match: {tag}\r\n\r\n"
        )
    };
    let same = reply(&mut client, &conditional("br", &tags[0]));
    assert!(same.starts_with("HTTP/1.1 304") && same.ends_with("\r\n\r\n"), "{same}");
    assert!(same.contains(&tags[0]) && same.contains("Vary: Origin, Accept-Encoding"), "{same}");
    assert!(!same.contains("Content-Length"), "{same}");
    assert!(reply(&mut client, &conditional("gzip", &tags[0])).starts_with("HTTP/1.1 200"));
}

#[test]
fn ranges_of_prepared_replies() {
    let mut builder = SiteBuilder::new();
    let reply_of = Prepared { last_modified: Some(784_111_777), ..text("0123456789") };
    builder.prepared(Route::new("a", "/a"), reply_of);
    let mut client = Client::new(builder.build().expect("a legal site"));
    let get = |fields: &str| format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let one = reply(&mut client, &get("Range: bytes=2-4\r\n"));
    assert!(one.starts_with("HTTP/1.1 206") && one.ends_with("\r\n\r\n234"), "{one}");
    assert!(one.contains("Content-Range: bytes 2-4/10\r\nContent-Length: 3\r\n"), "{one}");
    assert!(one.contains("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), "{one}");
    let none = reply(&mut client, &get("Range: bytes=10-\r\n"));
    assert!(none.starts_with("HTTP/1.1 416") && none.contains("Content-Range: bytes */10\r\n"));
    let many = reply(&mut client, &get("Range: bytes=0-0,9-9\r\n"));
    let (head, body) = many.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains("Content-Type: multipart/byteranges; boundary="), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{many}");
    let stale = reply(&mut client, &get("Range: bytes=2-4\r\nIf-Range: \"other\"\r\n"));
    assert!(stale.starts_with("HTTP/1.1 200"), "{stale}");
    let dated = "Range: bytes=2-4\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    assert!(reply(&mut client, &get(dated)).starts_with("HTTP/1.1 206"));
}

#[test]
fn what_cannot_be_served_says_where_and_why() {
    let error = |route: Route, prepared: Prepared| {
        let mut builder = SiteBuilder::new();
        builder.dynamic(Route::new("first", "/first"), Methods::of(&[Method::Get]), HandlerId(0));
        builder.prepared(route, prepared);
        builder.build().err().expect("an error")
    };
    let route = || "r".to_owned();
    assert_eq!(
        error(Route::new("r", "/first"), text("")),
        SiteError::Clash { route: route(), other: "first".into() }
    );
    let field = |name: &str, value: &str| Prepared {
        fields: vec![(name.into(), value.into())],
        ..text("")
    };
    for (name, value) in [("Date", "x"), ("content-length", "1"), ("A B", "x"), ("A", "b\r\nc")] {
        let expected = SiteError::Field { route: route(), field: name.into() };
        assert_eq!(error(Route::new("r", "/r"), field(name, value)), expected);
    }
    let status = |status| Prepared { status, ..text("x") };
    for wrong in [0, 101, 204, 304, 600] {
        let expected = SiteError::Status { route: route(), status: wrong };
        assert_eq!(error(Route::new("r", "/r"), status(wrong)), expected);
    }
    let host = |host: &str| error(Route::new("r", "/r").host(host), text(""));
    for wrong in ["a b", "*", "*x", "a:80", "*."] {
        assert_eq!(host(wrong), SiteError::Host { route: route(), host: wrong.into() }, "{wrong}");
    }
    assert!(matches!(error(Route::new("r", "r"), text("")), SiteError::Pattern { .. }));
    let parameter = error(Route::new("r", "/{x}"), text(""));
    assert_eq!(parameter, SiteError::PreparedPattern { route: route() });
}
