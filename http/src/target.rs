//! Request targets (RFC 9112 section 3.2), hosts, and the one rule for paths.
//!
//! # The rule for paths
//!
//! Prepared and dynamic routes, files and proxies all see the same normalised path, made thus:
//!
//! 1. Percent-encodings are decoded once, except `%2F` and `%25`, which stay as they are (in upper
//!    case), so that an encoded slash never separates segments and nothing is decoded twice. A
//!    broken encoding, `%00`, or bytes that are not UTF-8 are refused with 400.
//! 2. The segments `.` and `..`, encoded or not, are then taken out (RFC 3986 section 5.2.4). A
//!    path that climbs above its root is refused with 400.
//! 3. Empty segments stay: `//a` is not `/a`. Case matters.
//!
//! The values of path parameters are decoded once more for `%2F` and `%25` when they are read.

use std::borrow::Cow;
use std::ops::Range;

use crate::bytes::{CLASS, HOST, PATH, QUERY, all, find_host_end};
use crate::head::Head;
use crate::method::Method;
use crate::reason::Reason;

/// The form of a request target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`
    Origin,
    /// `http://host/path?query`
    Absolute,
    /// `*`, of OPTIONS only.
    Asterisk,
    /// `host:port`, of CONNECT only.
    Authority,
}

/// A request target taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) form: TargetForm,
    /// The authority of the absolute form, which overrides the Host field (RFC 9112 section
    /// 3.2.2).
    pub(crate) authority: Option<&'a [u8]>,
    /// The path as it was sent, beginning with a slash; `*` for the asterisk form.
    pub(crate) path: &'a [u8],
    pub(crate) query: Option<&'a [u8]>,
}

/// Takes a target apart. Its bytes have been checked to be of the target class.
pub(crate) fn split(method: Method, target: &[u8]) -> Result<Target<'_>, Reason> {
    if method == Method::Connect {
        return authority_form(target);
    }
    match target {
        [b'/', ..] => origin_form(TargetForm::Origin, None, target),
        b"*" if method == Method::Options => Ok(asterisk(None)),
        _ => absolute_form(method, target),
    }
}

fn asterisk(authority: Option<&[u8]>) -> Target<'_> {
    Target { form: TargetForm::Asterisk, authority, path: b"*", query: None }
}

fn origin_form<'a>(
    form: TargetForm,
    authority: Option<&'a [u8]>,
    target: &'a [u8],
) -> Result<Target<'a>, Reason> {
    let (path, query) = match target.iter().position(|&byte| byte == b'?') {
        Some(mark) => (&target[..mark], Some(&target[mark + 1..])),
        None => (target, None),
    };
    if !all(path, PATH) || !all(query.unwrap_or_default(), QUERY) {
        return Err(Reason::Target);
    }
    Ok(Target { form, authority, path, query })
}

fn absolute_form(method: Method, target: &[u8]) -> Result<Target<'_>, Reason> {
    let scheme_end = target.windows(3).position(|three| three == b"://").ok_or(Reason::Target)?;
    let scheme = &target[..scheme_end];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Reason::Target);
    }
    let rest = &target[scheme_end + 3..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // An http URI with an empty host is invalid (RFC 9110 section 4.2.1).
    if host_without_port(authority).is_none_or(<[u8]>::is_empty) {
        return Err(Reason::Target);
    }
    match path {
        // RFC 9112 section 3.2.4: this is how a client asks `OPTIONS *` of a proxy.
        [] if method == Method::Options => Ok(asterisk(Some(authority))),
        [] => Ok(Target {
            form: TargetForm::Absolute,
            authority: Some(authority),
            path: b"/",
            query: None,
        }),
        [b'?', query @ ..] if all(query, QUERY) => Ok(Target {
            form: TargetForm::Absolute,
            authority: Some(authority),
            path: b"/",
            query: Some(query),
        }),
        [b'?', ..] => Err(Reason::Target),
        _ => origin_form(TargetForm::Absolute, Some(authority), path),
    }
}

fn authority_form(target: &[u8]) -> Result<Target<'_>, Reason> {
    let host = host_without_port(target).ok_or(Reason::Target)?;
    if host.is_empty() || host.len() + 1 >= target.len() {
        return Err(Reason::Target);
    }
    Ok(Target { form: TargetForm::Authority, authority: Some(target), path: b"", query: None })
}

/// The target of a parsed head.
#[inline]
pub(crate) fn of_head<'b>(head: &Head, bytes: &'b [u8]) -> Result<Target<'b>, Reason> {
    let target = head.target_bytes(bytes);
    // A path and nothing else, as most are.
    if !head.target_closer && target[0] == b'/' && head.method != Method::Connect {
        return Ok(Target { form: TargetForm::Origin, authority: None, path: target, query: None });
    }
    split(head.method, target)
}

/// Whether the value that lies there in the head is `uri-host [ ":" port ]`.
#[inline]
pub(crate) fn is_authority(head: &[u8], value: &Range<usize>) -> bool {
    // Nearly all hosts are letters, digits, `-` and `.`.
    let end = find_host_end(head, value.start).map_or(value.end, |end| end.min(value.end));
    let port = &head[end..value.end];
    port.is_empty() || is_port(port) || host_without_port(&head[value.clone()]).is_some()
}

/// The host of `uri-host [ ":" port ]`, or `None` if that is not what the bytes are. An empty host
/// is legal in a Host field (RFC 9112 section 3.2).
pub(crate) fn host_without_port(authority: &[u8]) -> Option<&[u8]> {
    let host_end = if let [b'[', ..] = authority {
        let end = authority.iter().position(|&byte| byte == b']')? + 1;
        let literal = &authority[1..end - 1];
        let address = std::str::from_utf8(literal).ok()?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        end
    } else {
        let end = authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len());
        if !is_registered_name(&authority[..end]) {
            return None;
        }
        end
    };
    let (host, port) = authority.split_at(host_end);
    (port.is_empty() || is_port(port)).then_some(host)
}

/// Whether it is `":" port`.
fn is_port(bytes: &[u8]) -> bool {
    match bytes {
        [b':', port @ ..] if port.len() <= 5 && port.iter().all(u8::is_ascii_digit) => {
            let number = port.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
            number <= u32::from(u16::MAX)
        }
        _ => false,
    }
}

fn is_registered_name(name: &[u8]) -> bool {
    if all(name, HOST) {
        return true;
    }
    let mut rest = name;
    while let [byte, tail @ ..] = rest {
        if CLASS[*byte as usize] & HOST != 0 {
            rest = tail;
            continue;
        }
        match rest {
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = tail;
            }
            _ => return false,
        }
    }
    true
}

/// Applies the rule for paths (see the module). `scratch` holds the result where it differs from
/// what was sent.
pub(crate) fn normalise<'a>(raw: &'a [u8], scratch: &'a mut String) -> Result<&'a str, Reason> {
    let encoded = raw.contains(&b'%');
    if !encoded && !raw.windows(2).any(|two| two == b"/.") {
        return std::str::from_utf8(raw).map_err(|_| Reason::Path);
    }
    let decoded = if encoded { Cow::Owned(decode(raw)?) } else { Cow::Borrowed(raw) };
    let decoded = std::str::from_utf8(&decoded).map_err(|_| Reason::Path)?;
    scratch.clear();
    without_dots(decoded, scratch)?;
    Ok(scratch)
}

fn decode(raw: &[u8]) -> Result<Vec<u8>, Reason> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return Err(Reason::Path) };
        let (high, low) = (hex(*high)?, hex(*low)?);
        rest = tail;
        match high << 4 | low {
            0 => return Err(Reason::Path),
            b'/' => decoded.extend(b"%2F"),
            b'%' => decoded.extend(b"%25"),
            byte => decoded.push(byte),
        }
    }
    Ok(decoded)
}

fn hex(digit: u8) -> Result<u8, Reason> {
    (digit as char).to_digit(16).map(|value| value as u8).ok_or(Reason::Path)
}

fn without_dots(path: &str, out: &mut String) -> Result<(), Reason> {
    let mut segments = path.strip_prefix('/').ok_or(Reason::Path)?.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => out.truncate(out.rfind('/').ok_or(Reason::Path)?),
            name => {
                out.push('/');
                out.push_str(name);
                continue;
            }
        }
        if last {
            out.push('/');
        }
    }
    Ok(())
}

/// The text behind a part of a normalised path: `%2F` and `%25` decoded.
#[must_use]
pub fn decode_part(part: &str) -> Cow<'_, str> {
    if part.contains('%') {
        Cow::Owned(part.replace("%2F", "/").replace("%25", "%"))
    } else {
        Cow::Borrowed(part)
    }
}

/// A normalised path as it can stand in a Location field.
#[must_use]
pub fn encode_path(path: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(path.len());
    for &byte in path.as_bytes() {
        // `%` stands only in front of 2F and 25 here.
        if CLASS[byte as usize] & PATH != 0 && !matches!(byte, b'[' | b']' | b'|' | b'^') {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(raw: &str) -> Result<String, Reason> {
        normalise(raw.as_bytes(), &mut String::new()).map(str::to_owned)
    }

    #[test]
    fn the_rule_for_paths() {
        for (raw, path) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a%20b", "/a b"),
            ("/%61", "/a"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%252fb", "/a%252fb"),
            ("/a%25", "/a%25"),
            ("//a", "//a"),
            ("/a//b", "/a//b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a//../b", "/a/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a/..%2fb", "/a/..%2Fb"),
            ("/%C3%A9", "/é"),
            ("/a%5cb", "/a\\b"),
        ] {
            assert_eq!(normalised(raw).as_deref(), Ok(path), "{raw}");
        }
        for raw in ["/..", "/a/../..", "/%2e%2e", "/%", "/%2", "/%zz", "/%00", "/%ff", "/./../a"] {
            assert_eq!(normalised(raw), Err(Reason::Path), "{raw}");
        }
    }

    #[test]
    fn parts_are_decoded_once() {
        assert_eq!(decode_part("a%2Fb"), "a/b");
        assert_eq!(decode_part("a%252Fb"), "a%2Fb");
        assert_eq!(decode_part("plain"), "plain");
    }

    #[test]
    fn an_encoded_path_normalises_to_itself() {
        for path in ["/a b", "/a%2Fb", "/100%25", "/é/[x]", "/a?b#c", "/\u{7f}\n"] {
            assert_eq!(normalised(&encode_path(path)).as_deref(), Ok(path));
        }
    }

    #[test]
    fn hosts() {
        for (authority, host) in [
            ("example.com", "example.com"),
            ("example.com:80", "example.com"),
            ("example.com:", "example.com"),
            ("[::1]:8080", "[::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("127.0.0.1", "127.0.0.1"),
            ("a_b", "a_b"),
            ("a%20b", "a%20b"),
            ("", ""),
        ] {
            assert_eq!(host_without_port(authority.as_bytes()), Some(host.as_bytes()));
        }
        for authority in [
            "a b", "a/b", "a@b", "a:b", "a:1:2", "a:65536", "a:123456", "[::1", "[::1]a", "[x]",
            "::1", "a?", "a#", "a%2", "a%zz", "[]", "a\\b", "é",
        ] {
            assert_eq!(host_without_port(authority.as_bytes()), None, "{authority}");
        }
    }

    #[test]
    fn the_four_forms() {
        // RFC 9112 section 3.2.
        let form = |method, target: &'static str| split(method, target.as_bytes());
        let origin = form(Method::Get, "/a?b?c").expect("origin form");
        assert_eq!((origin.path, origin.query), (&b"/a"[..], Some(&b"b?c"[..])));
        let absolute = form(Method::Get, "HTTP://h:1/a?").expect("absolute form");
        assert_eq!(absolute.authority, Some(&b"h:1"[..]));
        assert_eq!((absolute.path, absolute.query), (&b"/a"[..], Some(&b""[..])));
        assert_eq!(form(Method::Get, "http://h?q").expect("no path").path, b"/");
        assert_eq!(form(Method::Get, "http://h").expect("no path").path, b"/");
        let options = form(Method::Options, "http://h").expect("asterisk for a proxy");
        assert_eq!(options.form, TargetForm::Asterisk);
        assert_eq!(form(Method::Options, "*").expect("asterisk").form, TargetForm::Asterisk);
        let connect = form(Method::Connect, "h:443").expect("authority form");
        assert_eq!(connect.form, TargetForm::Authority);
        for (method, target) in [
            (Method::Get, "*"),
            (Method::Get, "a"),
            (Method::Get, "h:443"),
            (Method::Get, "ftp://h/"),
            (Method::Get, "http:///a"),
            (Method::Get, "http://u@h/a"),
            (Method::Get, "http://h/{a}"),
            (Method::Get, "://h/a"),
            (Method::Get, "/{a}"),
            (Method::Options, "**"),
            (Method::Connect, "/"),
            (Method::Connect, "h"),
            (Method::Connect, "h:"),
            (Method::Connect, ":443"),
        ] {
            assert_eq!(form(method, target), Err(Reason::Target), "{method} {target}");
        }
    }
}
