//! Prepared routes as a config makes them: codings, validators, hosts and slashes.

mod common;

use std::fs;
use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, UNIX_EPOCH};

use common::{PATIENCE, Server};

/// Sun, 06 Nov 1994 08:49:37 GMT, in seconds since 1970.
const MODIFIED: u64 = 784_111_777;
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// What one request got: its head in lower-case lines, and its body.
struct Got {
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn status(&self) -> &str {
        &self.head[9..12]
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn ask(server: &Server, line: &str, fields: &str) -> Got {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = if fields.contains("Host:") { "" } else { "Host: h\r\n" };
    let request = format!("{line} HTTP/1.1\r\n{host}{fields}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let lower = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\n", name.to_lowercase()),
        None => format!("{line}\n"),
    };
    Got { head: head.lines().map(lower).collect(), body }
}

fn plain(coding: Option<&str>, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        None => out.extend(body),
        Some("zstd") => out = zstd::stream::decode_all(body).unwrap(),
        Some("br") => brotli::BrotliDecompress(&mut &body[..], &mut out).unwrap(),
        Some("gzip") => {
            flate2::read::GzDecoder::new(body).read_to_end(&mut out).unwrap();
        }
        Some(other) => panic!("{other}"),
    }
    out
}

#[test]
fn a_body_in_every_coding_with_validators_of_its_own() {
    let text = b"One line says what every other says.\n".repeat(200);
    let file = tempfile::Builder::new().suffix(".txt").tempfile().unwrap();
    fs::write(file.path(), &text).unwrap();
    let time = UNIX_EPOCH + Duration::from_secs(MODIFIED);
    fs::File::options().append(true).open(file.path()).unwrap().set_modified(time).unwrap();
    let server = Server::start(&format!(
        "[[prepared]]\npath = \"/text\"\nbody_file = \"{}\"\nencodings = [\"zstd\", \"br\", \"gzip\"]\n\
         headers = {{ vary = \"Origin\" }}\n\
         [[prepared]]\npath = \"/tiny\"\nbody = \"x\"\nencodings = [\"gzip\"]\n",
        file.path().display()
    ));
    let mut tags = Vec::new();
    for (accept, coding) in [
        ("", None),
        ("Accept-Encoding: gzip, deflate, br, zstd\r\n", Some("zstd")),
        ("Accept-Encoding: gzip, br\r\n", Some("br")),
        ("Accept-Encoding: gzip\r\n", Some("gzip")),
        ("Accept-Encoding: zstd;q=0.1, gzip;q=0.9\r\n", Some("gzip")),
        ("Accept-Encoding: zstd;q=0, identity\r\n", None),
        ("Accept-Encoding: compress\r\n", None),
    ] {
        let whole = ask(&server, "GET /text", accept);
        assert_eq!((whole.status(), whole.field("content-encoding")), ("200", coding), "{accept}");
        assert_eq!(plain(coding, &whole.body), text, "{accept}");
        assert_eq!(whole.field("vary"), Some("Origin, Accept-Encoding"));
        assert_eq!(whole.field("last-modified"), Some(DATE));
        let len = whole.body.len().to_string();
        assert_eq!(whole.field("content-length"), Some(&*len));
        assert!(coding.is_none() || whole.body.len() < text.len());
        let tag = whole.field("etag").unwrap().to_owned();

        let head = ask(&server, "HEAD /text", accept);
        assert!(head.body.is_empty());
        let undated = |head: &str| {
            head.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(undated(&head.head), undated(&whole.head), "HEAD is GET without the body");

        let since = format!("If-Modified-Since: {DATE}\r\n");
        for condition in [format!("If-None-Match: {tag}\r\n"), since] {
            for method in ["GET", "HEAD"] {
                let fields = format!("{accept}{condition}");
                let not_modified = ask(&server, &format!("{method} /text"), &fields);
                assert_eq!(not_modified.status(), "304", "{method} {fields}");
                assert!(not_modified.body.is_empty());
                // RFC 9110 section 15.4.5: what the 200 would have said of the representation.
                assert_eq!(not_modified.field("etag"), Some(&*tag));
                assert_eq!(not_modified.field("vary"), Some("Origin, Accept-Encoding"));
            }
        }
        let range = ask(&server, "GET /text", &format!("{accept}Range: bytes=1-3\r\n"));
        assert_eq!((range.status(), &range.body[..]), ("206", &whole.body[1..4]));
        assert_eq!(range.field("content-encoding"), coding);
        tags.push((coding, tag));
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4, "one strong tag for each coding: {tags:?}");
    let other = &tags[0].1;
    let fields = format!("Accept-Encoding: gzip\r\nIf-None-Match: {other}\r\n");
    assert_eq!(ask(&server, "GET /text", &fields).status(), "200", "another coding's tag");
    // A coding that does not pay is not there.
    let tiny = ask(&server, "GET /tiny", "Accept-Encoding: gzip\r\n");
    assert_eq!((tiny.field("content-encoding"), tiny.field("vary")), (None, None));
    assert_eq!(tiny.field("last-modified"), None, "written in the config");
    let routes = server.ask_well(&[
        "routes",
        "-c",
        server.folder.path().join("emberd.toml").to_str().unwrap(),
    ]);
    assert!(routes.contains("7400 bytes, zstd "), "{routes}");
}

#[test]
fn hosts_and_slashes() {
    let server = Server::start(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\nslashes = \"redirect\"\n\
         [[prepared]]\nname = \"one\"\npath = \"/\"\nbody = \"one\"\nhosts = [\"one.example\"]\n\
         [[prepared]]\nname = \"below\"\npath = \"/\"\nbody = \"below\"\nhosts = [\"*.one.example\"]\n\
         [[prepared]]\nname = \"all\"\npath = \"/\"\nbody = \"all\"\n\
         [[prepared]]\npath = \"/slash/\"\nbody = \"slash\"\n",
    );
    for (host, body) in [
        ("one.example", "one"),
        ("ONE.example:80", "one"),
        ("one.example.", "one"),
        ("a.one.example", "below"),
        ("a.b.one.example", "below"),
        ("aone.example", "all"),
        ("two.example", "all"),
        ("127.0.0.1:8080", "all"),
    ] {
        let got = ask(&server, "GET /", &format!("Host: {host}\r\n"));
        assert_eq!(String::from_utf8(got.body).unwrap(), body, "{host}");
    }
    let absolute = ask(&server, "GET http://one.example/", "Host: two.example\r\n");
    assert_eq!(absolute.body, b"one", "the target's host counts (RFC 9112 section 3.2.2)");
    let got = ask(&server, "GET /slash?q=1", "");
    assert_eq!((got.status(), got.field("location")), ("308", Some("/slash/?q=1")));
    assert_eq!(ask(&server, "GET /hello/", "").field("location"), Some("/hello"));
}
