//! Paths: one rule by which the bytes of a request target become the path that routes are matched
//! with, the same for every kind of route.
//!
//! 1. What stands behind the first `?` is the query and is left as it came.
//! 2. Percent-encoded octets are decoded once; `%2F` (and `%5C`) stay encoded, so that an encoded
//!    slash never separates segments; `%00` and incomplete or malformed encodings are refused.
//! 3. Dot segments are removed as RFC 3986, section 5.2.4, does, after decoding, so that `%2e%2e`
//!    is no way around; a path that would climb above its root is refused.
//! 4. Empty segments stay as they are: `/a//b` is not `/a/b`.

use std::borrow::Cow;

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`.
    NotAbsolute,
    /// A percent sign without two hexadecimal digits behind it, or `%00`.
    Encoding,
    /// More `..` than segments before them.
    AboveRoot,
}

/// Splits a target in origin form into path and query; the query lacks its `?`.
#[must_use]
pub fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// The path by the rule of this module. Most paths are already in that form and are borrowed.
///
/// # Errors
/// Where the path is refused by the rule.
pub fn normalise(path: &str) -> Result<Cow<'_, [u8]>, PathError> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let encoded = memchr::memchr(b'%', bytes).is_some();
    let dots = memchr::memmem::find(bytes, b"/.").is_some();
    if !encoded && !dots {
        return Ok(Cow::Borrowed(bytes));
    }
    let decoded = if encoded { decode(bytes)? } else { bytes.to_vec() };
    Ok(Cow::Owned(remove_dots(&decoded)?))
}

fn decode(bytes: &[u8]) -> Result<Vec<u8>, PathError> {
    let digit = |b: Option<&u8>| b.and_then(|b| (*b as char).to_digit(16)).map(|d| d as u8);
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let (Some(high), Some(low)) = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) else {
            return Err(PathError::Encoding);
        };
        match high << 4 | low {
            0 => return Err(PathError::Encoding),
            b'/' => out.extend_from_slice(b"%2F"),
            b'\\' => out.extend_from_slice(b"%5C"),
            octet => out.push(octet),
        }
        at += 3;
    }
    Ok(out)
}

fn remove_dots(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut rest = path[1..].split(|&b| b == b'/').peekable();
    while let Some(segment) = rest.next() {
        let last = rest.peek().is_none();
        match segment {
            b"." => {}
            b".." => drop(segments.pop().ok_or(PathError::AboveRoot)?),
            _ => {
                segments.push(segment);
                continue;
            }
        }
        if last {
            segments.push(b""); // `/a/.` and `/a/b/..` are the directory `/a/`
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let cases: &[(&str, Result<&str, PathError>)] = &[
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/a//b", Ok("/a//b")),
            ("/a%62c", Ok("/abc")),
            ("/a%2fb", Ok("/a%2Fb")),
            ("/a%5cb", Ok("/a%5Cb")),
            ("/a/./b", Ok("/a/b")),
            ("/a/../b", Ok("/b")),
            ("/a/%2e%2E/b", Ok("/b")),
            ("/a/b/..", Ok("/a/")),
            ("/a/.", Ok("/a/")),
            ("/.", Ok("/")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/...", Ok("/...")),
            ("/a/%2e%2e/%2e%2e/b", Err(PathError::AboveRoot)),
            ("/..", Err(PathError::AboveRoot)),
            ("/%00", Err(PathError::Encoding)),
            ("/%4", Err(PathError::Encoding)),
            ("/%zz", Err(PathError::Encoding)),
            ("/%252e%252e/", Ok("/%2e%2e/")),
            ("a", Err(PathError::NotAbsolute)),
            ("", Err(PathError::NotAbsolute)),
        ];
        for (path, expected) in cases {
            let got = normalise(path).map(|p| String::from_utf8(p.into_owned()).unwrap());
            assert_eq!(got.as_deref(), expected.as_deref(), "{path}");
        }
    }
}
