//! Byte ranges (RFC 9110 section 14).

use std::ops::Range;

use crate::bytes::trim;

/// Most ranges of one request; a field with more is ignored (RFC 9110 section 14.2).
const RANGES_MAX: usize = 16;

/// What a Range field asks of a representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Send the whole representation: there is no Range field, or it is to be ignored.
    Whole,
    /// Send one range with 206.
    One(Range<u64>),
    /// Send several ranges as multipart/byteranges with 206; sorted as asked for, overlaps merged.
    Many(Vec<Range<u64>>),
    /// Answer 416.
    Unsatisfiable,
}

/// Reads the value of a Range field against a representation of `len` bytes.
#[must_use]
pub fn resolve(value: &[u8], len: u64) -> Ranges {
    let Some(equals) = value.iter().position(|&byte| byte == b'=') else { return Ranges::Whole };
    if !value[..equals].eq_ignore_ascii_case(b"bytes") {
        return Ranges::Whole;
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut count = 0;
    for element in value[equals + 1..].split(|&byte| byte == b',').map(trim) {
        if element.is_empty() {
            continue;
        }
        count += 1;
        match spec(element, len) {
            _ if count > RANGES_MAX => return Ranges::Whole,
            None => return Ranges::Whole,
            Some(range) if range.is_empty() => {}
            Some(range) => merge(&mut ranges, range),
        }
    }
    match (count, ranges.as_slice()) {
        (0, _) => Ranges::Whole,
        (_, []) => Ranges::Unsatisfiable,
        (_, [one]) => Ranges::One(one.clone()),
        _ => Ranges::Many(ranges),
    }
}

/// One range of the set: empty if it cannot be satisfied, `None` if it is no range.
fn spec(element: &[u8], len: u64) -> Option<Range<u64>> {
    let dash = element.iter().position(|&byte| byte == b'-')?;
    let (first, last) = (&element[..dash], &element[dash + 1..]);
    if first.is_empty() {
        let suffix = position(last)?;
        return Some(len - suffix.min(len)..len);
    }
    let first = position(first)?;
    let last = if last.is_empty() { u64::MAX } else { position(last)? };
    if last < first {
        return None;
    }
    Some(first.min(len)..last.saturating_add(1).min(len))
}

/// Digits; a number too large to hold is as good as infinite.
fn position(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// Adds a range; one that overlaps or touches others swallows them, so that no byte is sent twice.
fn merge(ranges: &mut Vec<Range<u64>>, mut range: Range<u64>) {
    let mut place = None;
    let mut at = 0;
    while at < ranges.len() {
        let other = &ranges[at];
        if other.start > range.end || range.start > other.end {
            at += 1;
            continue;
        }
        range = other.start.min(range.start)..other.end.max(range.end);
        ranges.remove(at);
        place = place.or(Some(at));
        // The range has grown and may now reach one that was passed.
        at = 0;
    }
    let place = place.unwrap_or(ranges.len()).min(ranges.len());
    ranges.insert(place, range);
}

/// The value of Content-Range for one range.
#[must_use]
pub fn content_range(range: &Range<u64>, len: u64) -> String {
    format!("bytes {}-{}/{len}", range.start, range.end - 1)
}

/// The framing of a multipart/byteranges body.
#[derive(Clone, Debug)]
pub struct Multipart {
    boundary: String,
    /// The head of each part, the delimiter in front of it included.
    pub part_heads: Vec<String>,
    /// The closing delimiter.
    pub end: String,
    /// The length of the whole body.
    pub len: u64,
}

impl Multipart {
    /// Frames these ranges of a representation of `len` bytes. The boundary is made of `seed`,
    /// which should differ from one representation to the next and be hard to guess.
    #[must_use]
    pub fn new(ranges: &[Range<u64>], len: u64, content_type: Option<&str>, seed: u64) -> Self {
        let boundary = format!("ember{seed:016x}");
        let type_line = content_type.map_or(String::new(), |ct| format!("Content-Type: {ct}\r\n"));
        let part_heads: Vec<String> = ranges
            .iter()
            .enumerate()
            .map(|(index, range)| {
                let line_end = if index == 0 { "" } else { "\r\n" };
                let content_range = content_range(range, len);
                format!(
                    "{line_end}--{boundary}\r\n{type_line}Content-Range: {content_range}\r\n\r\n"
                )
            })
            .collect();
        let end = format!("\r\n--{boundary}--\r\n");
        let heads: usize = part_heads.iter().map(String::len).sum();
        let data: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let len = data + (heads + end.len()) as u64;
        Multipart { boundary, part_heads, end, len }
    }

    /// The value of Content-Type.
    #[must_use]
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_range() {
        // RFC 9110 section 14.1.2.
        let one = Ranges::One;
        for (value, expected) in [
            ("bytes=0-499", one(0..500)),
            ("bytes=500-999", one(500..1000)),
            ("bytes=-500", one(9500..10000)),
            ("bytes=9500-", one(9500..10000)),
            ("BYTES=0-0", one(0..1)),
            ("bytes=0-0,-1", Ranges::Many(vec![0..1, 9999..10000])),
            ("bytes= 0-0 , , -1", Ranges::Many(vec![0..1, 9999..10000])),
            ("bytes=0-99999", one(0..10000)),
            ("bytes=-99999", one(0..10000)),
            ("bytes=10000-", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=10000-10001, 0-0", one(0..1)),
            ("bytes=99999999999999999999-", Ranges::Unsatisfiable),
            ("bytes=0-99999999999999999999", one(0..10000)),
            ("bytes=500-600,601-999", one(500..1000)),
            ("bytes=5-6,0-1,1-5", one(0..7)),
            ("bytes=9-5", Ranges::Whole),
            ("bytes=", Ranges::Whole),
            ("bytes=,", Ranges::Whole),
            ("bytes=a-b", Ranges::Whole),
            ("bytes=1", Ranges::Whole),
            ("bytes=-", Ranges::Whole),
            ("bytes=+1-2", Ranges::Whole),
            ("seconds=1-2", Ranges::Whole),
            ("bytes 0-1", Ranges::Whole),
        ] {
            assert_eq!(resolve(value.as_bytes(), 10000), expected, "{value}");
        }
        assert_eq!(resolve(b"bytes=0-", 0), Ranges::Unsatisfiable);
        assert_eq!(resolve(b"bytes=-1", 0), Ranges::Unsatisfiable);
    }

    #[test]
    fn too_many_ranges_are_ignored() {
        let of = |count: u64| {
            let set: Vec<_> = (0..count).map(|at| format!("{0}-{0}", at * 2)).collect();
            resolve(format!("bytes={}", set.join(",")).as_bytes(), 1000)
        };
        assert!(matches!(of(16), Ranges::Many(ranges) if ranges.len() == 16));
        assert_eq!(of(17), Ranges::Whole);
    }

    #[test]
    fn a_multipart_body_is_as_long_as_it_says() {
        let multipart = Multipart::new(&[0..1, 5..9], 10, Some("text/plain"), 7);
        let body =
            format!("{}a{}bcde{}", multipart.part_heads[0], multipart.part_heads[1], multipart.end);
        assert_eq!(body.len() as u64, multipart.len);
        assert!(body.starts_with("--ember0000000000000007\r\nContent-Type: text/plain\r\n"));
        assert!(body.contains("\r\nContent-Range: bytes 5-8/10\r\n\r\nbcde\r\n--ember"));
        assert!(body.ends_with("--\r\n"));
    }
}
