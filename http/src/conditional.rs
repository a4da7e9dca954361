//! Conditional requests (RFC 9110 section 13).

use crate::bytes::{CLASS, ETAG, trim};
use crate::date;
use crate::head::{Head, Known};
use crate::method::Method;

/// What identifies the present state of a representation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators<'a> {
    /// The entity tag as it stands in an ETag field: `"abc"` or `W/"abc"`.
    pub etag: Option<&'a str>,
    /// Seconds since 1970 of the last modification.
    pub last_modified: Option<u64>,
}

/// What the preconditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Perform the method.
    Proceed,
    /// Answer 304.
    NotModified,
    /// Answer 412.
    Failed,
}

const CONDITIONS: [Known; 4] =
    [Known::IfMatch, Known::IfNoneMatch, Known::IfModifiedSince, Known::IfUnmodifiedSince];

/// Evaluates the preconditions in the order of RFC 9110 section 13.2.2; If-Range is for
/// [`if_range`].
pub(crate) fn evaluate(head: &Head, bytes: &[u8], validators: &Validators<'_>) -> Verdict {
    if !head.has_any(&CONDITIONS) {
        return Verdict::Proceed;
    }
    if head.has(Known::IfMatch) {
        if !any_matches(head, bytes, Known::IfMatch, validators.etag, true) {
            return Verdict::Failed;
        }
    } else if let Some(since) = single_date(head, bytes, Known::IfUnmodifiedSince)
        && validators.last_modified.is_some_and(|modified| modified > since)
    {
        return Verdict::Failed;
    }
    let reads = matches!(head.method, Method::Get | Method::Head);
    if head.has(Known::IfNoneMatch) {
        if any_matches(head, bytes, Known::IfNoneMatch, validators.etag, false) {
            return if reads { Verdict::NotModified } else { Verdict::Failed };
        }
    } else if reads
        && let Some(since) = single_date(head, bytes, Known::IfModifiedSince)
        && validators.last_modified.is_some_and(|modified| modified <= since)
    {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether the Range of a request is to be heeded (RFC 9110 section 13.1.5).
pub(crate) fn if_range(head: &Head, bytes: &[u8], validators: &Validators<'_>) -> bool {
    let Some(value) = head.first(bytes, Known::IfRange) else { return true };
    if head.is_repeated(Known::IfRange) {
        return false;
    }
    if let Some(since) = date::parse(value) {
        return validators.last_modified == Some(since);
    }
    let strong = |tag: &[u8]| !tag.starts_with(b"W/");
    validators.etag.is_some_and(|etag| strong(value) && etag.as_bytes() == value)
}

/// A date field that stands there once and is a date; otherwise it is ignored.
fn single_date(head: &Head, bytes: &[u8], known: Known) -> Option<u64> {
    if head.is_repeated(known) {
        return None;
    }
    head.first(bytes, known).and_then(date::parse)
}

/// Whether `*` or one of the listed tags names the representation.
fn any_matches(head: &Head, bytes: &[u8], known: Known, etag: Option<&str>, strong: bool) -> bool {
    head.values(bytes, known).any(|value| {
        if value == b"*" {
            return true;
        }
        let Some(etag) = etag else { return false };
        let mut rest = value;
        while let Some((tag, tail)) = next_tag(rest) {
            if compare(tag, etag.as_bytes(), strong) {
                return true;
            }
            rest = tail;
        }
        false
    })
}

/// The next tag of a list, and what follows it. What is no tag ends the list.
fn next_tag(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut list = list;
    while let [b',' | b' ' | b'\t', rest @ ..] = list {
        list = rest;
    }
    let opaque = list.strip_prefix(b"W/").unwrap_or(list);
    let inner = opaque.strip_prefix(b"\"")?;
    let len = inner.iter().position(|&byte| CLASS[byte as usize] & ETAG == 0)?;
    if inner[len] != b'"' {
        return None;
    }
    let end = list.len() - inner.len() + len + 1;
    let (tag, rest) = list.split_at(end);
    let rest = trim(rest);
    (rest.is_empty() || rest[0] == b',').then_some((tag, rest))
}

/// Strong or weak comparison (RFC 9110 section 8.8.3.2).
fn compare(one: &[u8], other: &[u8], strong: bool) -> bool {
    let opaque = |tag: &'_ [u8]| tag.strip_prefix(b"W/").map_or(tag.len(), <[u8]>::len);
    let weak = one.starts_with(b"W/") || other.starts_with(b"W/");
    let (one, other) = (&one[one.len() - opaque(one)..], &other[other.len() - opaque(other)..]);
    one == other && !(strong && weak)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    fn head_of(method: &str, fields: &str) -> (Head, Vec<u8>) {
        let bytes = format!("{method} / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
        let mut head = Head::new();
        head.parse(&bytes, &Limits::default()).expect("legal").expect("whole");
        (head, bytes)
    }

    fn verdict(method: &str, fields: &str, validators: Validators<'_>) -> Verdict {
        let (head, bytes) = head_of(method, fields);
        evaluate(&head, &bytes, &validators)
    }

    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const TAGGED: Validators<'_> =
        Validators { etag: Some("\"a\""), last_modified: Some(784_111_777) };

    #[test]
    fn the_precedence_of_preconditions() {
        use Verdict::{Failed, NotModified, Proceed};
        // RFC 9110 section 13.2.2, step by step.
        for (method, fields, expected) in [
            ("GET", String::new(), Proceed),
            ("GET", "If-Match: \"a\"\r\n".into(), Proceed),
            ("GET", "If-Match: *\r\n".into(), Proceed),
            ("GET", "If-Match: \"b\"\r\n".into(), Failed),
            ("GET", "If-Match: \"b\", \"a\"\r\n".into(), Proceed),
            ("GET", "If-Match: W/\"a\"\r\n".into(), Failed),
            ("GET", "If-Match: a\r\n".into(), Failed),
            ("GET", format!("If-Match: \"a\"\r\nIf-Unmodified-Since: {BEFORE}\r\n"), Proceed),
            ("GET", format!("If-Unmodified-Since: {BEFORE}\r\n"), Failed),
            ("GET", format!("If-Unmodified-Since: {AT}\r\n"), Proceed),
            ("GET", "If-Unmodified-Since: yesterday\r\n".into(), Proceed),
            ("GET", "If-None-Match: \"a\"\r\n".into(), NotModified),
            ("HEAD", "If-None-Match: W/\"a\"\r\n".into(), NotModified),
            ("GET", "If-None-Match: \"b\"\r\nIf-None-Match: \"a\"\r\n".into(), NotModified),
            ("GET", "If-None-Match: *\r\n".into(), NotModified),
            ("PUT", "If-None-Match: *\r\n".into(), Failed),
            ("PUT", "If-None-Match: \"b\"\r\n".into(), Proceed),
            ("GET", format!("If-None-Match: \"b\"\r\nIf-Modified-Since: {AT}\r\n"), Proceed),
            ("GET", format!("If-Modified-Since: {AT}\r\n"), NotModified),
            ("GET", format!("If-Modified-Since: {BEFORE}\r\n"), Proceed),
            ("POST", format!("If-Modified-Since: {AT}\r\n"), Proceed),
            ("GET", format!("If-Modified-Since: {AT}\r\nIf-Modified-Since: {AT}\r\n"), Proceed),
            ("GET", "If-Match: \"a\"\r\nIf-None-Match: \"a\"\r\n".into(), NotModified),
            ("GET", "If-Match: \"b\"\r\nIf-None-Match: \"a\"\r\n".into(), Failed),
        ] {
            assert_eq!(verdict(method, &fields, TAGGED), expected, "{method} {fields}");
        }
    }

    #[test]
    fn without_validators_only_the_star_matches() {
        let none = Validators::default();
        assert_eq!(verdict("GET", "If-None-Match: \"a\"\r\n", none), Verdict::Proceed);
        assert_eq!(verdict("GET", "If-Match: \"a\"\r\n", none), Verdict::Failed);
        assert_eq!(verdict("GET", "If-Match: *\r\n", none), Verdict::Proceed);
        let dated = format!("If-Modified-Since: {AT}\r\n");
        assert_eq!(verdict("GET", &dated, none), Verdict::Proceed);
    }

    #[test]
    fn if_range_wants_a_strong_match() {
        let heeded = |fields: &str| {
            let (head, bytes) = head_of("GET", fields);
            if_range(&head, &bytes, &TAGGED)
        };
        assert!(heeded(""));
        assert!(heeded("If-Range: \"a\"\r\n"));
        assert!(heeded(&format!("If-Range: {AT}\r\n")));
        for fields in ["If-Range: \"b\"\r\n", "If-Range: W/\"a\"\r\n", "If-Range: a\r\n"] {
            assert!(!heeded(fields), "{fields}");
        }
        assert!(!heeded(&format!("If-Range: {BEFORE}\r\n")));
    }
}
