//! llhttp's cases of requests, read from the source package of aiohttp, which holds them, as pip
//! fetches it from PyPI; not copied here.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::Client;
use ember_http::{HandlerId, Method, Methods, Route, SiteBuilder};

/// The package whose `vendor/llhttp/test/request/` is read.
const PACKAGE: &str = "aiohttp==3.14.5";

/// Cases that llhttp takes and we refuse, and why.
const STRICTER: &[(&str, &str)] = &[
    ("sample.md: No HTTP version", "HTTP/0.9 is not spoken"),
    ("method.md: M-SEARCH request", "`*` is a target of OPTIONS alone: RFC 9112 section 3.2.4"),
    ("method.md: SOURCE request with ICE", "another protocol"),
    ("method.md: OPTIONS request with RTSP", "another protocol"),
    ("method.md: ANNOUNCE request with RTSP", "another protocol"),
    ("transfer-encoding.md: POST with `chunked` as last transfer-encoding", FRAGMENT),
    (
        "transfer-encoding.md: POST with `chunked` as last transfer-encoding (multiple headers)",
        FRAGMENT,
    ),
    ("uri.md: Quotes in URI", "no quote stands in a URI: RFC 3986 section 2"),
    ("uri.md: Fragment in URI", FRAGMENT),
    ("connection.md: Restarting when keep-alive is explicitly", "no Host in the second request"),
    ("pipelining.md: Should parse multiple events", "no Host in the second request"),
    (
        "connection.md: CRLF between requests, implicit `keep-alive`",
        "one empty line before a request is skipped, not several",
    ),
    ("uri.md: `host:port` and basic auth", "no user in a target: RFC 9110 section 4.2.4"),
];
/// The one that llhttp refuses and we take: a method is any token (RFC 9110 section 9.1), and
/// whether it is known is asked of the routes.
const MORE_LENIENT: &str = "invalid.md: HTTP protocol and ANNOUNCE method";
/// What its log calls an error and what refuses nothing: bytes behind the last request, which we do
/// not read either.
const DATA_AFTER_CLOSE: &str = "error code=5 ";
/// The pause behind CONNECT and upgrades: what follows is of another protocol, and not compared.
const OTHER_PROTOCOL: &str = "error code=22 ";
/// What says nothing of the syntax.
const OF_ROUTING: [&str; 3] = [" 404 ", " 405 ", " 501 method"];
const FRAGMENT: &str = "no fragment is sent in a target: RFC 9112 section 3.2.1";

/// The folder of cases; fetched once, and kept with what cargo built.
fn cases_folder() -> Option<PathBuf> {
    let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("llhttp");
    let folder = kept.join("cases/vendor/llhttp/test/request");
    if folder.is_dir() {
        return Some(folder);
    }
    // Beside its place first, so that a broken fetch leaves nothing that looks whole.
    let fresh = kept.with_extension(std::process::id().to_string());
    fs::create_dir_all(fresh.join("cases")).ok()?;
    let fetched = fetch(&fresh);
    if fetched.is_some() {
        let _ = fs::rename(&fresh, &kept);
    }
    let _ = fs::remove_dir_all(&fresh);
    folder.is_dir().then_some(folder)
}

fn fetch(into: &std::path::Path) -> Option<()> {
    let quiet = ["download", "--quiet", "--disable-pip-version-check", "--retries", "1"];
    let source = ["--no-deps", "--no-binary", ":all:", "--dest"];
    let mut pip = Command::new("timeout");
    pip.args(["180", "python3", "-m", "pip"]).args(quiet).args(source).arg(into).arg(PACKAGE);
    if !pip.output().ok()?.status.success() {
        return None;
    }
    let archive = fs::read_dir(into).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        path.to_str()?.ends_with(".tar.gz").then_some(path)
    })?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=1", "--wildcards", "--file"]).arg(archive);
    tar.arg("--directory").arg(into.join("cases")).arg("*/vendor/llhttp/test/request/*.md");
    tar.output().ok()?.status.success().then_some(())
}

/// One case: its place, the bytes, and whether llhttp refuses them.
struct Case {
    name: String,
    bytes: Vec<u8>,
    refused: bool,
}

/// The cases of one file that are of its strict parser, without pauses and without script.
fn cases(file: &str, text: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    let (mut title, mut strict, mut input) = ("", false, None);
    let mut rest = text;
    while let Some((line, tail)) = rest.split_once('\n') {
        rest = tail;
        if line.starts_with('#') {
            title = line.trim_start_matches(['#', ' ']);
        } else if line.starts_with("<!-- meta=") {
            let bare = line.replace(' ', "");
            strict = bare.contains("\"type\":\"request\"") && !bare.contains("\"pause\"");
            strict &= !bare.contains("skipBody");
        } else if line == "```http" || line == "```log" {
            let Some((block, tail)) = rest.split_once("\n```") else { break };
            rest = tail;
            if line == "```http" {
                input = bytes_of(block);
            } else if let (true, Some(bytes)) = (strict, input.take()) {
                let name = format!("{file}: {title}");
                if block.contains(OTHER_PROTOCOL) {
                    continue;
                }
                let refused = block.contains("error code=") && !block.contains(DATA_AFTER_CLOSE);
                cases.push(Case { name, bytes, refused });
            }
        }
    }
    cases
}

/// What a block stands for: lines end in CRLF, a backslash joins lines or escapes. None where it
/// needs a script's value.
fn bytes_of(block: &str) -> Option<Vec<u8>> {
    if block.contains("${") {
        return None;
    }
    let joined = block.replace("\\\n", "").replace('\n', "\r\n");
    let mut bytes = Vec::new();
    let mut rest = joined.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let escape = if *byte == b'\\' { rest.first() } else { None };
        let (value, len) = match escape {
            Some(b'r') => (b'\r', 1),
            Some(b'n') => (b'\n', 1),
            Some(b't') => (b'\t', 1),
            Some(b'f') => (b'\x0c', 1),
            Some(b'x') => {
                let digits = std::str::from_utf8(rest.get(1..3)?).ok()?;
                (u8::from_str_radix(digits, 16).ok()?, 3)
            }
            Some(b'0'..=b'7') => {
                let len = rest.iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
                let digits = std::str::from_utf8(&rest[..len]).ok()?;
                (u8::from_str_radix(digits, 8).ok()?, len)
            }
            _ => (*byte, 0),
        };
        bytes.push(value);
        rest = &rest[len..];
    }
    Some(bytes)
}

/// Most cases have no Host, which would be all that we say of them.
fn with_host(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let line_end = bytes.windows(2).skip(2).position(|two| two == b"\r\n").map(|at| at + 4);
    match line_end {
        Some(at) if !text.contains("\r\nhost") => {
            [&bytes[..at], b"Host: h\r\n", &bytes[at..]].concat()
        }
        _ => bytes.to_vec(),
    }
}

/// Everything is asked of a handler that reads the body, so that faults in bodies are told too.
fn log_of(bytes: &[u8]) -> String {
    let named = [Method::Get, Method::Head, Method::Post, Method::Put, Method::Delete];
    let others = [Method::Patch, Method::Options, Method::Other];
    let methods = Methods::of(&named).union(Methods::of(&others));
    let mut builder = SiteBuilder::new();
    builder.dynamic(Route::new("root", "/"), methods, HandlerId(0));
    builder.dynamic(Route::new("rest", "/{rest:path}"), methods, HandlerId(0));
    let mut client = Client::new(builder.build().expect("a legal site"));
    client.send(bytes);
    client.eof();
    client.log
}

#[test]
fn llhttps_requests() {
    let Some(folder) = cases_folder() else {
        println!("skipped: pip cannot fetch {PACKAGE}, whose source holds llhttp's cases");
        return;
    };
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder of cases").flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read_to_string(entry.path()).expect("a file of cases");
        all.extend(cases(&file, &text));
    }
    assert!(all.len() > 80, "only {} cases were found", all.len());
    let mut unexplained = Vec::new();
    for case in &all {
        let bytes = with_host(&case.bytes);
        // What is wrong in a head that ends too soon is told when its end has come.
        let end: &[u8] = if case.refused { b"\r\n\r\n" } else { b"" };
        let log = log_of(&[&bytes, end].concat());
        let refusal = log.lines().find(|line| {
            line.starts_with("refuse") && !OF_ROUTING.iter().any(|status| line.contains(status))
        });
        let known = STRICTER.iter().any(|(known, _)| *known == case.name);
        let expected = case.refused && case.name != MORE_LENIENT || known;
        if refusal.is_some() != expected || known && case.refused {
            let here = refusal.unwrap_or("taken");
            unexplained.push(format!("{}: {here}: {}\n{log}", case.name, bytes.escape_ascii()));
        }
    }
    assert!(
        unexplained.is_empty(),
        "{} of {}:\n{}",
        unexplained.len(),
        all.len(),
        unexplained.join("\n")
    );
    println!("{} of llhttp's cases", all.len());
}
