//! What a shared cache may keep, and for how long (RFC 9111, RFC 5861).

use crate::bytes::{elements, trim};
use crate::date;
use crate::method::Method;

/// The directives of a message's Cache-Control fields that a shared cache heeds. Times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `no-store`
    pub no_store: bool,
    /// `no-cache`, with or without field names: the latter is taken for the former, as a cache may
    /// (RFC 9111 section 5.2.2.4).
    pub no_cache: bool,
    /// `private`, with or without field names.
    pub private: bool,
    /// `public`
    pub public: bool,
    /// `must-revalidate` or `proxy-revalidate`
    pub must_revalidate: bool,
    /// `must-understand`
    pub must_understand: bool,
    /// `only-if-cached`
    pub only_if_cached: bool,
    /// `max-age`
    pub max_age: Option<u64>,
    /// `s-maxage`
    pub s_maxage: Option<u64>,
    /// `min-fresh`
    pub min_fresh: Option<u64>,
    /// `max-stale`; without a value: any age.
    pub max_stale: Option<u64>,
    /// `stale-while-revalidate` (RFC 5861 section 3)
    pub stale_while_revalidate: Option<u64>,
    /// `stale-if-error` (RFC 5861 section 4)
    pub stale_if_error: Option<u64>,
}

/// What the fields of a reply say to a shared cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyFacts {
    /// Its Cache-Control.
    pub control: CacheControl,
    /// Whether there was any Cache-Control.
    pub has_control: bool,
    /// Expires, seconds since 1970; one that is no date lies in the past (section 5.3).
    pub expires: Option<u64>,
    /// Date, seconds since 1970.
    pub date: Option<u64>,
    /// Age in seconds.
    pub age: u64,
    /// It sets a cookie.
    pub sets_cookie: bool,
    /// `Vary: *`
    pub varies_by_all: bool,
    /// It has a Vary.
    pub varies: bool,
}

/// How long a reply may be used, in seconds from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// It is fresh for so long.
    pub fresh: u64,
    /// And may be used for so long while a newer one is fetched.
    pub while_revalidate: u64,
    /// And for so long where no newer one can be had.
    pub if_error: u64,
}

/// The largest number of seconds that means anything (RFC 9111 section 1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

impl CacheControl {
    /// Reads one more field value into it. Of a directive that comes twice, the one that keeps
    /// less counts (section 4.2.1).
    pub fn read(&mut self, value: &[u8]) {
        for directive in directives(value) {
            let (name, argument) = split_directive(directive);
            self.note(name, argument);
        }
    }

    fn note(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        // A malformed number of seconds is taken for the shortest time (section 4.2.1).
        let seconds = || argument.and_then(delta_seconds).unwrap_or(0);
        let least = |slot: &mut Option<u64>| {
            *slot = Some(slot.map_or(seconds(), |known| known.min(seconds())));
        };
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("private") {
            self.private = true;
        } else if is("public") {
            self.public = true;
        } else if is("must-revalidate") || is("proxy-revalidate") {
            self.must_revalidate = true;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-age") {
            least(&mut self.max_age);
        } else if is("s-maxage") {
            least(&mut self.s_maxage);
        } else if is("min-fresh") {
            self.min_fresh = Some(seconds());
        } else if is("max-stale") {
            self.max_stale = Some(argument.map_or(SECONDS_MAX, |_| seconds()));
        } else if is("stale-while-revalidate") {
            least(&mut self.stale_while_revalidate);
        } else if is("stale-if-error") {
            least(&mut self.stale_if_error);
        }
    }
}

impl ReplyFacts {
    /// Gathers them from a reply's fields.
    pub fn of<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> ReplyFacts {
        let mut facts = ReplyFacts::default();
        for (name, value) in fields {
            facts.note(name, value);
        }
        facts
    }

    fn note(&mut self, name: &[u8], value: &[u8]) {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        match name.len() {
            3 if is("age") => self.age = delta_seconds(value).unwrap_or(0),
            4 if is("date") => self.date = date::parse(value),
            4 if is("vary") => {
                self.varies = true;
                self.varies_by_all |= elements(value).any(|element| element == b"*");
            }
            7 if is("expires") => self.expires = Some(date::parse(value).unwrap_or(0)),
            10 if is("set-cookie") => self.sets_cookie = true,
            13 if is("cache-control") => {
                self.has_control = true;
                self.control.read(value);
            }
            _ => {}
        }
    }

    /// Whether a shared cache may keep the reply to a GET (section 3), and for how long; `None`:
    /// it may not. `authorized` says whether the request had an Authorization field.
    ///
    /// Two decisions are stricter than the RFC: nothing is kept that sets a cookie, and no
    /// lifetime is guessed where none was given (section 4.2.2 would allow it).
    #[must_use]
    pub fn lifetime(&self, status: u16, authorized: bool, now: u64) -> Option<Lifetime> {
        let control = &self.control;
        let forbidden = (control.no_store && !control.must_understand)
            || control.private
            || self.varies_by_all
            || self.sets_cookie
            || !is_cacheable_status(status);
        // Section 3.5.
        let shared = control.public || control.s_maxage.is_some() || control.must_revalidate;
        if forbidden || (authorized && !shared) {
            return None;
        }
        let given = self.given_lifetime(now)?;
        let fresh = if control.no_cache { 0 } else { given.saturating_sub(self.current_age(now)) };
        // Sections 5.2.2.2 and 5.2.2.10: s-maxage implies proxy-revalidate.
        let stale_allowed =
            !control.must_revalidate && !control.no_cache && control.s_maxage.is_none();
        let stale = |time: Option<u64>| if stale_allowed { time.unwrap_or(0) } else { 0 };
        let lifetime = Lifetime {
            fresh,
            while_revalidate: stale(control.stale_while_revalidate),
            if_error: stale(control.stale_if_error),
        };
        // What is neither fresh now nor may be stale would be looked up in vain.
        (lifetime.fresh > 0 || lifetime.while_revalidate > 0).then_some(lifetime)
    }

    /// The age of a reply that has just arrived (section 4.2.3), without the time it was under way.
    #[must_use]
    pub fn current_age(&self, now: u64) -> u64 {
        let apparent = self.date.map_or(0, |date| now.saturating_sub(date));
        apparent.max(self.age)
    }

    /// Section 4.2.1.
    fn given_lifetime(&self, now: u64) -> Option<u64> {
        let expires = || Some(self.expires?.saturating_sub(self.date.unwrap_or(now)));
        self.control.s_maxage.or(self.control.max_age).or_else(expires)
    }
}

/// Statuses whose replies are kept: those that RFC 9110 section 15.1 calls cacheable by default,
/// and of the others those that a lifetime is commonly given for. Never 206, whose parts this cache
/// does not put together, nor 304.
#[must_use]
pub fn is_cacheable_status(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300..=302 | 307 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether a successful request of this method makes what is kept of its target stale (section
/// 4.4): all that are not safe.
#[must_use]
pub fn invalidates(method: Method, status: u16) -> bool {
    let safe = matches!(method, Method::Get | Method::Head | Method::Options | Method::Trace);
    !safe && (200..400).contains(&status)
}

/// Writes what tells the variants of one target apart: the values of these fields, in their order,
/// each with its length so that no value can pass for two (section 4.1). Values of one name are
/// joined; white space around their elements does not matter.
pub fn write_variant<'a>(
    out: &mut Vec<u8>,
    names: impl IntoIterator<Item = &'a str>,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
) {
    for name in names {
        let start = out.len();
        out.extend_from_slice(&[0; 5]);
        let mut present = 0;
        for (of, value) in fields.clone() {
            if of.eq_ignore_ascii_case(name.as_bytes()) {
                present = 1;
                for element in elements(value) {
                    out.extend_from_slice(element);
                    out.push(b',');
                }
            }
        }
        let len = (out.len() - start - 5) as u32;
        out[start] = present;
        out[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
    }
}

/// The elements of a list whose values may be quoted strings with commas in them.
fn directives(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = bytes.iter().position(|&byte| {
            let ends = byte == b',' && !quoted;
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
            ends
        });
        rest = end.map(|end| &bytes[end + 1..]);
        Some(trim(&bytes[..end.unwrap_or(bytes.len())]))
    })
    .filter(|directive| !directive.is_empty())
}

fn split_directive(directive: &[u8]) -> (&[u8], Option<&[u8]>) {
    match directive.iter().position(|&byte| byte == b'=') {
        Some(at) => (trim(&directive[..at]), Some(unquote(trim(&directive[at + 1..])))),
        None => (directive, None),
    }
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Digits only; what is too large is taken for the largest (section 1.2.2).
fn delta_seconds(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = value
        .iter()
        .fold(0u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(sum.min(SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

    fn facts(fields: &str) -> ReplyFacts {
        let lines = fields.split('|').filter_map(|line| line.split_once(':'));
        ReplyFacts::of(lines.map(|(name, value)| (name.trim().as_bytes(), value.trim().as_bytes())))
    }

    #[test]
    fn lifetimes_of_section_3_and_4_2() {
        for (fields, fresh) in [
            ("Cache-Control: max-age=60", Some(60)),
            ("cache-control: MAX-AGE=60", Some(60)),
            (r#"Cache-Control: max-age="60""#, Some(60)),
            ("Cache-Control: max-age=60, s-maxage=5", Some(5)),
            ("Cache-Control: max-age=60 | Cache-Control: max-age=5", Some(5)),
            ("Cache-Control: max-age=60 | Age: 50", Some(10)),
            ("Cache-Control: max-age=60 | Age: 70", None),
            ("Cache-Control: max-age=60 | Age: x", Some(60)),
            ("Cache-Control: max-age=60 | Date: Sun, 06 Nov 1994 08:49:27 GMT", Some(50)),
            ("Cache-Control: max-age=99999999999999999999", Some(SECONDS_MAX)),
            ("Cache-Control: max-age=-5", None),
            ("Cache-Control: max-age=1.5", None),
            ("Cache-Control: max-age", None),
            ("Cache-Control: no-store, max-age=60", None),
            ("Cache-Control: private, max-age=60", None),
            (r#"Cache-Control: private="x, y", max-age=60"#, None),
            (r#"Cache-Control: ext="no-store, private", max-age=60"#, Some(60)),
            (r#"Cache-Control: ext="a\", no-store", max-age=60"#, Some(60)),
            ("Cache-Control: no-cache, max-age=60", None),
            ("Cache-Control: max-age=60 | Vary: *", None),
            ("Cache-Control: max-age=60 | Vary: Accept", Some(60)),
            ("Cache-Control: max-age=60 | Set-Cookie: a=b", None),
            ("Expires: Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Expires: 0", None),
            ("Expires: Sun, 06 Nov 1994 08:50:37 GMT | Cache-Control: max-age=5", Some(5)),
            ("Content-Type: text/plain", None),
            ("Cache-Control: public", None),
        ] {
            let lifetime = facts(fields).lifetime(200, false, NOW);
            assert_eq!(lifetime.map(|lifetime| lifetime.fresh), fresh, "{fields}");
        }
    }

    #[test]
    fn replies_to_authorized_requests_are_kept_where_section_3_5_lets() {
        for (fields, kept) in [
            ("Cache-Control: max-age=60", false),
            ("Cache-Control: max-age=60, public", true),
            ("Cache-Control: s-maxage=60", true),
            ("Cache-Control: max-age=60, must-revalidate", true),
        ] {
            assert_eq!(facts(fields).lifetime(200, true, NOW).is_some(), kept, "{fields}");
        }
    }

    #[test]
    fn stale_replies_of_rfc_5861() {
        let stale = "max-age=1, stale-while-revalidate=10, stale-if-error=20";
        let of = |extra: &str| {
            let lifetime = facts(&format!("Cache-Control: {stale}{extra}"));
            lifetime.lifetime(200, false, NOW).map(|l| (l.fresh, l.while_revalidate, l.if_error))
        };
        assert_eq!(of(""), Some((1, 10, 20)));
        assert_eq!(of(", must-revalidate"), Some((1, 0, 0)));
        assert_eq!(of(", s-maxage=5"), Some((5, 0, 0)));
        assert_eq!(of(", no-cache"), None);
    }

    #[test]
    fn statuses() {
        let facts = facts("Cache-Control: max-age=60");
        for (status, kept) in [(200, true), (206, false), (304, false), (404, true), (500, false)] {
            assert_eq!(facts.lifetime(status, false, NOW).is_some(), kept, "{status}");
        }
        assert!(invalidates(Method::Post, 201) && invalidates(Method::Delete, 303));
        assert!(!invalidates(Method::Post, 500) && !invalidates(Method::Get, 200));
    }

    #[test]
    fn variants_differ_where_their_values_do() {
        let variant = |fields: &[(&str, &str)]| {
            let mut out = Vec::new();
            let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            write_variant(&mut out, ["accept", "x"], fields);
            out
        };
        assert_eq!(variant(&[("Accept", "a,b")]), variant(&[("ACCEPT", " a , b ")]));
        assert_eq!(variant(&[("Accept", "a"), ("Accept", "b")]), variant(&[("Accept", "a, b")]));
        let all = [
            variant(&[]),
            variant(&[("Accept", "")]),
            variant(&[("Accept", "a")]),
            variant(&[("Accept", "A")]),
            variant(&[("x", "a")]),
            variant(&[("Accept", "a"), ("x", "a")]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one), "{at}");
        }
    }

    #[test]
    fn requests_say_what_they_want() {
        let mut control = CacheControl::default();
        control.read(b"max-stale, min-fresh=5, only-if-cached");
        assert_eq!((control.max_stale, control.min_fresh), (Some(SECONDS_MAX), Some(5)));
        assert!(control.only_if_cached && !control.no_cache);
    }
}
