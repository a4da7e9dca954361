//! `[[redirect]]`: where to, with what the path has captured.
//!
//! What a client sends never decides the host, nor ends a line: parameters stand behind the host
//! alone, and are percent-encoded.

use std::fmt::Write as _;
use std::sync::Arc;

use ember::{Handler, Request, Response};
use ember_http::{
    HandlerId, Methods, Prepared, Route, RouteId, SiteBuilder, SiteError, encode_path,
};

use crate::config;

/// A `to`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    parts: Vec<Part>,
    /// It goes behind the query.
    fragment: String,
    has_query: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Captured { name: String, in_query: bool },
}

/// What is wrong with a `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetFault {
    /// It begins with neither one slash nor a scheme and a host.
    Start,
    /// The host has a parameter.
    Host,
    /// A brace stands alone.
    Brace,
}

/// The names of a pattern's parameters.
///
/// # Errors
/// What is wrong with the pattern.
pub(crate) fn pattern_params(pattern: &str) -> Result<Vec<String>, String> {
    let mut builder = SiteBuilder::new();
    builder.dynamic(Route::new("", pattern), Methods::ANY, HandlerId(0));
    match builder.build() {
        Ok(site) => Ok(site.route(RouteId(0)).params.clone()),
        Err(SiteError::Pattern { error, .. }) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Target, TargetFault> {
        check_start(text)?;
        let (text, fragment) = match text.split_once('#') {
            Some((text, fragment)) => (text, format!("#{fragment}")),
            None => (text, String::new()),
        };
        if fragment.contains(['{', '}']) {
            return Err(TargetFault::Brace);
        }
        let mut parts = Vec::new();
        let mut has_query = false;
        let mut rest = text;
        while !rest.is_empty() {
            let at = rest.find(['{', '}']).unwrap_or(rest.len());
            if at > 0 {
                has_query |= rest[..at].contains('?');
                parts.push(Part::Literal(rest[..at].to_owned()));
                rest = &rest[at..];
                continue;
            }
            let inner = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, after) = inner.ok_or(TargetFault::Brace)?;
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(fits) {
                return Err(TargetFault::Brace);
            }
            parts.push(Part::Captured { name: name.to_owned(), in_query: has_query });
            rest = after;
        }
        Ok(Target { parts, fragment, has_query })
    }

    /// The names of the parameters that it takes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Captured { name, .. } => Some(name.as_str()),
        })
    }

    /// The value of Location; `captured` gives a parameter as it stands in a normalised path.
    pub(crate) fn location<'a>(
        &self,
        captured: impl Fn(&str) -> Option<&'a str>,
        query: Option<&[u8]>,
    ) -> String {
        let mut location = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => location.push_str(text),
                Part::Captured { name, in_query } => {
                    let value = captured(name).unwrap_or_default();
                    // Two slashes at the beginning would make a host of what follows.
                    let slash = location.ends_with('/');
                    let value = if slash { value.trim_start_matches('/') } else { value };
                    if *in_query {
                        push_in_query(&mut location, &encode_path(value));
                    } else {
                        location.push_str(&encode_path(value));
                    }
                }
            }
        }
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            location.push(if self.has_query { '&' } else { '?' });
            for &byte in query {
                push_visible(&mut location, byte);
            }
        }
        location.push_str(&self.fragment);
        location
    }
}

/// Whether the host, or that there is none, is fixed.
fn check_start(text: &str) -> Result<(), TargetFault> {
    let lower = text.to_ascii_lowercase();
    let scheme = ["http://", "https://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let Some(scheme) = scheme else {
        let second = text.as_bytes().get(1);
        let is_path = text.starts_with('/') && !matches!(second, Some(b'/' | b'\\'));
        return if is_path { Ok(()) } else { Err(TargetFault::Start) };
    };
    let rest = &text[scheme.len()..];
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match &rest[..end] {
        "" => Err(TargetFault::Start),
        host if host.contains(['{', '}', '@', '\\']) => Err(TargetFault::Host),
        // What follows at once must not be able to go on with the host.
        _ => Ok(()),
    }
}

/// What separates the pairs of a query is encoded too.
fn push_in_query(out: &mut String, encoded: &str) {
    for byte in encoded.bytes() {
        match byte {
            b'&' | b'=' | b'+' | b';' | b'\'' => _ = write!(out, "%{byte:02X}"),
            _ => out.push(byte as char),
        }
    }
}

fn push_visible(out: &mut String, byte: u8) {
    match byte {
        b'!'..=b'~' if !matches!(byte, b'"' | b'<' | b'>' | b'#') => out.push(byte as char),
        _ => _ = write!(out, "%{byte:02X}"),
    }
}

/// The one reply of a redirection that needs no look at the request.
pub(crate) fn prepared(config: &config::Redirect) -> Option<Prepared> {
    let target = Target::parse(&config.to).ok()?;
    let fixed = target.names().next().is_none()
        && !config.keep_query
        && pattern_params(&config.path).is_ok_and(|params| params.is_empty())
        && config.rules.can_be_rendered()
        // Preflights want another answer than a redirection.
        && config.rules.cors.is_none();
    fixed.then(|| {
        let mut reply = Prepared::redirect(config.status, &config.to);
        reply.fields.extend(config.rules.rendered(&config.rules.headers));
        reply.methods = config.rules.methods(Methods::ANY);
        reply
    })
}

/// What answers the others.
pub(crate) fn handler(config: &config::Redirect) -> Handler {
    let (status, keep_query) = (config.status, config.keep_query);
    let target = Target::parse(&config.to);
    let target = Arc::new(target.unwrap_or_else(|_| Target {
        parts: vec![Part::Literal("/".to_owned())],
        fragment: String::new(),
        has_query: false,
    }));
    Handler::new(move |request: Request| {
        let target = Arc::clone(&target);
        async move {
            let head = request.head();
            let location = location_of(&target, &head, keep_query);
            Response::new(status).header("Location", location)
        }
    })
}

/// Where a request is sent.
pub(crate) fn explain(config: &config::Redirect, request: &ember_http::Request<'_>) -> String {
    let Ok(target) = Target::parse(&config.to) else { return String::new() };
    let location = location_of(&target, request, config.keep_query);
    format!("redirected with {} to {location}, by the dispatch loop", config.status)
}

fn location_of(target: &Target, head: &ember_http::Request<'_>, keep_query: bool) -> String {
    let names = &head.route_info().params;
    let captured = |name: &str| {
        let at = names.iter().position(|known| known == name)?;
        head.raw_param(at)
    };
    target.location(captured, head.query().filter(|_| keep_query))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(to: &str, value: &str, query: Option<&str>) -> String {
        let target = Target::parse(to).unwrap();
        target.location(|name| (name == "x").then_some(value), query.map(str::as_bytes))
    }

    #[test]
    fn what_a_client_sends_never_names_the_host() {
        for to in [
            "{x}",
            "//{x}",
            "/\\{x}",
            "https://{x}/",
            "https://a{x}",
            "https://a@{x}/",
            "x/{x}",
            "javascript:{x}",
            "https://",
            "https:///{x}",
            "//example.org/",
            "HTTPS://{x}",
        ] {
            assert!(Target::parse(to).is_err(), "{to}");
        }
        assert_eq!(location("/{x}", "/evil.example", None), "/evil.example");
        assert_eq!(location("/{x}", "///", None), "/");
        assert_eq!(location("/{x}", "\\evil.example", None), "/%5Cevil.example");
    }

    #[test]
    fn no_line_ends_early_and_no_pair_of_a_query_is_forged() {
        let split = location("/n/{x}", "a\r\nSet-Cookie: b", None);
        assert_eq!(split, "/n/a%0D%0ASet-Cookie:%20b");
        assert_eq!(location("/s?q={x}", "a&b=c#d+e", None), "/s?q=a%26b%3Dc%23d%2Be");
        assert_eq!(location("/s", "", Some("a=\r\n\"b")), "/s?a=%0D%0A%22b");
        assert_eq!(location("/n/{x}", "h\u{f6}her?y", None), "/n/h%C3%B6her%3Fy");
    }

    #[test]
    fn queries_go_where_they_belong() {
        assert_eq!(location("/a", "", Some("b=1")), "/a?b=1");
        assert_eq!(location("/a?c=2", "", Some("b=1")), "/a?c=2&b=1");
        assert_eq!(location("/a#top", "", Some("b=1")), "/a?b=1#top");
        assert_eq!(location("/a", "", Some("")), "/a");
        assert_eq!(location("https://h.example/a/{x}/", "b/c", None), "https://h.example/a/b/c/");
    }

    #[test]
    fn braces_stand_in_pairs() {
        for to in ["/{", "/}", "/{}", "/{a", "/{a b}", "/a#{x}"] {
            assert_eq!(Target::parse(to), Err(TargetFault::Brace), "{to}");
        }
        let target = Target::parse("/{a}/{b}?c={d}").unwrap();
        assert_eq!(target.names().collect::<Vec<_>>(), ["a", "b", "d"]);
    }
}
