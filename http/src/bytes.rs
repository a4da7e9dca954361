//! Classes of bytes, and the scans over them that a head's parsing is made of: 16 bytes a step, in
//! what the architecture always has (SSE2, NEON).

use wide::u8x16;

/// The byte may stand in a token (RFC 9110 section 5.6.2).
pub(crate) const TOKEN: u8 = 1;
/// The byte may stand in a request target, of whichever form.
pub(crate) const TARGET: u8 = 2;
/// The byte may stand in a path as it is.
pub(crate) const PATH: u8 = 4;
/// The byte may stand in a query as it is.
pub(crate) const QUERY: u8 = 8;
/// The target needs a closer look: `%`, `.` and `?`, and what only a query may have.
pub(crate) const CLOSER: u8 = 16;
/// The byte may stand in an entity tag between its quotes (RFC 9110 section 8.8.3).
pub(crate) const ETAG: u8 = 32;
/// The byte may stand in a registered name of a host (RFC 3986 section 3.2.2), `%` left out.
pub(crate) const HOST: u8 = 64;

pub(crate) const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        table[at] = class_of(at as u8);
        at += 1;
    }
    table
}

const fn class_of(byte: u8) -> u8 {
    let mut class = 0;
    let sub_delimiter =
        matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.')
        || matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~')
    {
        class |= TOKEN;
    }
    // RFC 3986 section 3.3, and four that browsers leave bare in paths (WHATWG URL).
    let path = unreserved
        || sub_delimiter
        || matches!(byte, b':' | b'@' | b'/' | b'%' | b'[' | b']' | b'|' | b'^');
    // RFC 3986 section 3.4, and what browsers leave bare in queries.
    let query = path || matches!(byte, b'?' | b'{' | b'}' | b'`' | b'\\');
    if path {
        class |= PATH;
    }
    if query {
        class |= QUERY | TARGET;
    }
    if matches!(byte, b'%' | b'.' | b'?') || (query && !path) {
        class |= CLOSER;
    }
    if byte == 0x21 || (byte >= 0x23 && byte != 0x7f) {
        class |= ETAG;
    }
    if unreserved || sub_delimiter {
        class |= HOST;
    }
    class
}

/// Whether every byte is of the class.
pub(crate) fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| CLASS[byte as usize] & class != 0)
}

/// Bytes looked at in one step of the scans below.
const LANES: usize = 16;

/// Where the first byte lies that ends a run of visible characters, blanks and obs-text: any
/// control character but HTAB (RFC 9110 section 5.5).
#[inline]
pub(crate) fn find_control(bytes: &[u8], at: usize) -> Option<usize> {
    find(bytes, at, |lanes| {
        let below_space = in_range(lanes, 0, 0x1f);
        let control = below_space & !lanes.simd_eq(u8x16::splat(b'\t'));
        control | lanes.simd_eq(u8x16::splat(0x7f))
    })
}

/// Where the first byte lies that is no token's.
#[inline]
pub(crate) fn find_token_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        // What field names are made of; the other token characters are rare, and looked up.
        at = find(bytes, at, |lanes| !(letters(lanes) | lanes.simd_eq(u8x16::splat(b'-'))))?;
        if CLASS[bytes[at] as usize] & TOKEN == 0 {
            return Some(at);
        }
        at += 1;
    }
}

/// Where the first byte lies that is no target's, and whether any before it needs a closer look:
/// said of some that do not, since letters, digits, `-`, `/` and `_` are what most targets are.
#[inline]
pub(crate) fn find_target_end(bytes: &[u8], at: usize) -> Option<(usize, bool)> {
    let plain_end = find(bytes, at, |lanes| {
        let plain = letters(lanes) | in_range(lanes, b'-', b'9');
        let plain = plain & !lanes.simd_eq(u8x16::splat(b'.'));
        !(plain | lanes.simd_eq(u8x16::splat(b'_')))
    })?;
    if bytes[plain_end] == b' ' {
        return Some((plain_end, false));
    }
    let end = find(bytes, plain_end, |lanes| {
        let fragment = in_range(lanes, b'"', b'#');
        let angle = (lanes & u8x16::splat(!2)).simd_eq(u8x16::splat(b'<'));
        !in_range(lanes, b'!', b'~') | fragment | angle
    })?;
    Some((end, end != plain_end))
}

/// Where the first byte lies that is not of a host's name as nearly all are: letters, digits, `-`
/// and `.`.
#[inline]
pub(crate) fn find_host_end(bytes: &[u8], at: usize) -> Option<usize> {
    find(bytes, at, |lanes| {
        let digits = in_range(lanes, b'0', b'9');
        !(letters(lanes) | digits | in_range(lanes, b'-', b'.'))
    })
}

/// Behind the first empty line.
#[inline]
pub(crate) fn find_head_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        // The two bytes in the middle of CRLF CRLF stand nowhere else in a head.
        at = find_pair(bytes, at, b'\n', b'\r')?;
        if at > 0 && bytes[at - 1] == b'\r' && bytes.get(at + 2) == Some(&b'\n') {
            return Some(at + 3);
        }
        at += 1;
    }
}

/// The first byte from `at` on whose lane is set.
#[inline(always)]
fn find(bytes: &[u8], mut at: usize, wanted: impl Fn(u8x16) -> u8x16) -> Option<usize> {
    while let Some(lanes) = bytes.get(at..).and_then(<[u8]>::first_chunk::<LANES>) {
        let found = wanted(u8x16::new(*lanes)).to_bitmask();
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        at += LANES;
    }
    find_in_rest(bytes, at, wanted)
}

/// [`find`] where less than a step is left.
#[inline(never)]
fn find_in_rest(bytes: &[u8], at: usize, wanted: impl Fn(u8x16) -> u8x16) -> Option<usize> {
    let rest = bytes.get(at..)?;
    // The last step of the whole, so that nothing is copied.
    let (lanes, skipped) = match bytes.last_chunk::<LANES>() {
        Some(last) => (*last, LANES - rest.len()),
        None => {
            let mut lanes = [0; LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            (lanes, 0)
        }
    };
    let found = wanted(u8x16::new(lanes)).to_bitmask() >> skipped;
    let place = found.trailing_zeros() as usize;
    (place < rest.len()).then_some(at + place)
}

/// Where the first two bytes beside each other are these.
#[inline(always)]
fn find_pair(bytes: &[u8], mut at: usize, first: u8, second: u8) -> Option<usize> {
    let (firsts, seconds) = (u8x16::splat(first), u8x16::splat(second));
    while let Some(lanes) = bytes.get(at..).and_then(<[u8]>::first_chunk::<{ LANES + 1 }>) {
        let (Some(here), Some(next)) = (lanes.first_chunk(), lanes.last_chunk()) else { break };
        let found = u8x16::new(*here).simd_eq(firsts) & u8x16::new(*next).simd_eq(seconds);
        let found = found.to_bitmask();
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        at += LANES;
    }
    // The last step of the whole, of which bytes were looked at before without being found.
    if let Some(last) = bytes.last_chunk::<{ LANES + 1 }>()
        && let (Some(here), Some(next)) = (last.first_chunk(), last.last_chunk())
    {
        let found = u8x16::new(*here).simd_eq(firsts) & u8x16::new(*next).simd_eq(seconds);
        let start = bytes.len() - last.len();
        let found = found.to_bitmask() >> at.saturating_sub(start).min(LANES);
        return (found != 0).then(|| at + found.trailing_zeros() as usize);
    }
    let rest = bytes.get(at..)?;
    rest.windows(2).position(|two| two == [first, second]).map(|place| at + place)
}

#[inline(always)]
fn letters(lanes: u8x16) -> u8x16 {
    in_range(lanes | u8x16::splat(0x20), b'a', b'z')
}

#[inline(always)]
fn in_range(lanes: u8x16, from: u8, to: u8) -> u8x16 {
    let above = lanes - u8x16::splat(from);
    above.min(u8x16::splat(to - from)).simd_eq(above)
}

/// A control character other than HTAB.
pub(crate) fn is_control(byte: u8) -> bool {
    byte != b'\t' && (byte < 0x20 || byte == 0x7f)
}

/// The bytes without the optional white space around them (RFC 9110 section 5.6.3).
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The elements of a comma-separated list without parameters, empty ones left out as a recipient
/// must (RFC 9110 section 5.6.1.2).
pub(crate) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_control_is_a_search_byte_by_byte() {
        // Every byte at every place of two steps and their neighbours, before and behind tabs.
        for byte in 0..=255u8 {
            for at in 0..36 {
                for fill in [b'a', b'\t', 0xff, 0x80, b' '] {
                    let mut bytes = [fill; 40];
                    bytes[at] = byte;
                    bytes[39] = b'\r';
                    for from in 0..3 {
                        let expected = (from..40).find(|&place| is_control(bytes[place]));
                        assert_eq!(find_control(&bytes, from), expected, "{byte} at {at}");
                    }
                }
            }
        }
        assert_eq!(find_control(b"abcdefghij\tk", 0), None);
        assert_eq!(find_control(b"", 3), None);
    }

    #[test]
    fn find_token_end_is_a_search_byte_by_byte() {
        for byte in 0..=255u8 {
            for at in 0..36 {
                for fill in *b"azAZ-_09~" {
                    let mut bytes = [fill; 40];
                    bytes[at] = byte;
                    bytes[39] = b':';
                    for from in 0..3 {
                        let expected = (from..40).find(|&place| !all(&bytes[place..=place], TOKEN));
                        assert_eq!(find_token_end(&bytes, from), expected, "{byte} at {at}");
                    }
                }
            }
        }
        assert_eq!(find_token_end(b"Content-Length", 0), None);
        assert_eq!(find_token_end(b"", 0), None);
    }

    #[test]
    fn find_target_end_is_a_search_byte_by_byte() {
        for byte in 0..=255u8 {
            for at in 0..36 {
                for fill in *b"aZ09/_-.?%~" {
                    for len in [at + 1, at + 2, 40] {
                        let mut bytes = [fill; 40];
                        bytes[at] = byte;
                        let bytes = &bytes[..len];
                        for from in 0..3.min(len) {
                            let expected =
                                (from..len).find(|&place| !all(&bytes[place..=place], TARGET));
                            let found = find_target_end(bytes, from);
                            assert_eq!(found.map(|(end, _)| end), expected, "{byte} at {at}");
                            let Some((end, closer)) = found else { continue };
                            let needed =
                                bytes[from..end].iter().any(|&b| CLASS[b as usize] & CLOSER != 0);
                            assert!(closer || !needed, "{byte} at {at}");
                        }
                    }
                }
            }
        }
        assert_eq!(find_target_end(b"/hello HTTP", 0), Some((6, false)));
        assert_eq!(find_target_end(b"", 0), None);
    }

    #[test]
    fn find_host_end_is_a_search_byte_by_byte() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        for byte in 0..=255u8 {
            for at in 0..36 {
                let mut bytes = [b'a'; 36];
                bytes[at] = byte;
                let expected = (!plain(byte)).then_some(at);
                assert_eq!(find_host_end(&bytes, 0), expected, "{byte} at {at}");
                assert_eq!(find_host_end(&bytes[..=at], 0), expected, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn a_head_ends_behind_its_first_empty_line() {
        let marks: [&[u8]; 5] = [b"\r\n\r\n", b"\n\r", b"\r\n\r", b"\n\r\n", b"\r\n\r\r\n\r\n"];
        for (first, second) in marks.iter().flat_map(|first| marks.map(|second| (first, second))) {
            for before in 0..40 {
                for between in [0, 1, 5, 20] {
                    let [fill, gap] = [before, between].map(|len| vec![b'a'; len]);
                    let bytes = [&fill, *first, &gap, second, b"tail"].concat();
                    for len in 0..=bytes.len() {
                        let bytes = &bytes[..len];
                        let expected = bytes.windows(4).position(|four| four == b"\r\n\r\n");
                        let expected = expected.map(|place| place + 4);
                        assert_eq!(find_head_end(bytes), expected, "{}", bytes.escape_ascii());
                    }
                }
            }
        }
    }

    #[test]
    fn tokens_are_the_rfcs() {
        let of_rfc =
            b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        for byte in 0..=255u8 {
            assert_eq!(all(&[byte], TOKEN), of_rfc.contains(&byte), "{byte}");
        }
    }

    #[test]
    fn no_target_has_controls_spaces_or_a_fragment() {
        for byte in (0..=0x20).chain(0x7f..=0xff).chain(*b"\"<>#") {
            assert!(!all(&[byte], TARGET), "{byte}");
        }
    }

    #[test]
    fn lists_lose_their_empty_elements() {
        let found: Vec<_> = elements(b" ,a ,, b\t,c,").collect();
        assert_eq!(found, [&b"a"[..], b"b", b"c"]);
    }
}
