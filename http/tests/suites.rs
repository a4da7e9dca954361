//! Other people's cases, read where Cargo has put their crates and not copied here: the requests
//! of httparse's own tests.

mod common;

use std::fs;
use std::process::Command;

use common::log_of;

/// What a parser makes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Whole,
    Partial,
    Wrong,
}

/// Where httparse is lenient and we are not, by the name of its case, and why.
const STRICTER: &[(&str, &str)] = &[
    (
        "test_request_newlines",
        "lines end in CRLF and nothing else: RFC 9112 section 2.2 allows a bare LF",
    ),
    ("test_request_empty_lines_prefix", "one empty line before a request is skipped, not several"),
    ("test_request_empty_lines_prefix_lf_only", "bare LF"),
    ("test_request_path_backslash", "bare LF, and no backslash stands in a path (RFC 3986)"),
];

/// The source of a crate that this package depends on; none where Cargo cannot say.
fn source_of(package: &str) -> Option<String> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1", "--manifest-path", manifest])
        .output()
        .ok()?;
    let text = String::from_utf8(cargo.stdout).ok()?;
    let mark = format!("/{package}-");
    let end = "/Cargo.toml\"";
    let path = text.split("\"manifest_path\":\"").find_map(|rest| {
        let path = &rest[..rest.find(end)?];
        path.contains(&mark).then(|| path.to_owned())
    })?;
    fs::read_to_string(format!("{path}/src/lib.rs")).ok()
}

/// The cases of `req! { name, b"…", verdict, … }`.
fn cases(source: &str) -> Vec<(String, Vec<u8>, Verdict)> {
    source.split("req! {").skip(1).filter_map(case).collect()
}

fn case(text: &str) -> Option<(String, Vec<u8>, Verdict)> {
    let (name, rest) = text.split_once(',')?;
    let rest = rest.trim_start().strip_prefix("b\"")?;
    let mut end = 0;
    while !rest[end..].starts_with('"') {
        end += if rest[end..].starts_with('\\') { 2 } else { 1 };
    }
    let bytes = unescaped(&rest[..end])?;
    let behind = rest[end + 1..].trim_start_matches([',', ' ', '\n']);
    let verdict = if behind.starts_with("Err(") {
        Verdict::Wrong
    } else if behind.starts_with("Ok(Status::Partial")
        || behind.starts_with("Ok(crate::Status::Partial")
    {
        Verdict::Partial
    } else {
        Verdict::Whole
    };
    Some((name.trim().to_owned(), bytes, verdict))
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let [escape, tail @ ..] = rest else { return None };
        rest = tail;
        match escape {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'0' => bytes.push(0),
            b'\\' | b'"' | b'\'' => bytes.push(*escape),
            b'x' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            _ => return None,
        }
    }
    Some(bytes)
}

/// What we make of them: a head that was read is whole, whatever its meaning comes to.
fn ours(bytes: &[u8]) -> Verdict {
    let log = log_of(bytes);
    let first = log.lines().next().unwrap_or_default();
    let syntax =
        ["method", "method_length", "target", "version", "line_end", "field_name", "field_value"];
    let reason = first.strip_prefix("refuse ").and_then(|rest| rest.split(' ').nth(1));
    match reason {
        _ if first == "close" => Verdict::Partial,
        Some(reason) if syntax.contains(&reason.to_lowercase().as_str()) => Verdict::Wrong,
        _ => Verdict::Whole,
    }
}

#[test]
fn httparses_requests() {
    let Some(source) = source_of("httparse") else {
        println!("skipped: the source of httparse is not at hand");
        return;
    };
    let cases = cases(&source);
    assert!(cases.len() > 20, "only {} cases were found", cases.len());
    let mut unexplained = Vec::new();
    for (name, bytes, theirs) in &cases {
        let ours = ours(bytes);
        let known = STRICTER.iter().any(|(known, _)| known == name);
        // Never the other way: what httparse refuses is refused.
        if ours != *theirs && !(known && ours == Verdict::Wrong) || ours == *theirs && known {
            unexplained
                .push(format!("{name}: {theirs:?} there, {ours:?} here: {}", bytes.escape_ascii()));
        }
    }
    assert!(
        unexplained.is_empty(),
        "{} of {}:\n{}",
        unexplained.len(),
        cases.len(),
        unexplained.join("\n")
    );
}
