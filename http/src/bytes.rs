//! Classes of bytes, and the scans over them that a head's parsing is made of.

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

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Whether every byte is of the class.
pub(crate) fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|&byte| CLASS[byte as usize] & class != 0)
}

/// Where the first byte lies that ends a run of visible characters, blanks and obs-text: any
/// control character but HTAB (RFC 9110 section 5.5). Eight bytes a step.
#[inline]
pub(crate) fn find_control(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let is_delete = delete.wrapping_sub(ONES) & !delete;
        // A borrow can only spoil bytes above the first one found, so that the first is exact.
        let found = (below_space | is_delete) & HIGHS;
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if bytes[at] != b'\t' {
            return Some(at);
        }
        at += 1;
    }
    while let Some(&byte) = bytes.get(at) {
        if is_control(byte) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Where the first byte lies that is no token's. Eight letters and hyphens a step, which is what
/// field names are made of.
#[inline]
pub(crate) fn find_token_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        if let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_le_bytes(*eight);
            // Sums of seven-bit numbers do not carry from byte to byte.
            let lower = (word | (ONES * 0x20)) & !HIGHS;
            let from_a = lower + ONES * u64::from(0x80 - b'a');
            let past_z = lower + ONES * u64::from(0x7f - b'z');
            let not_hyphen = ((word ^ (ONES * u64::from(b'-'))) & !HIGHS) + ONES * 0x7f;
            let common = ((from_a & !past_z) | !not_hyphen) & !word & HIGHS;
            if common == HIGHS {
                at += 8;
                continue;
            }
            at += (common ^ HIGHS).trailing_zeros() as usize / 8;
        }
        let byte = *bytes.get(at)?;
        if CLASS[byte as usize] & TOKEN == 0 {
            return Some(at);
        }
        at += 1;
    }
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
        // Every byte at every place of a word and its neighbours, before and behind tabs.
        for byte in 0..=255u8 {
            for at in 0..20 {
                for fill in [b'a', b'\t', 0xff, 0x80, b' '] {
                    let mut bytes = [fill; 24];
                    bytes[at] = byte;
                    bytes[23] = b'\r';
                    for from in 0..3 {
                        let expected = (from..24).find(|&place| is_control(bytes[place]));
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
            for at in 0..20 {
                for fill in *b"azAZ-_09~" {
                    let mut bytes = [fill; 24];
                    bytes[at] = byte;
                    bytes[23] = b':';
                    for from in 0..3 {
                        let expected = (from..24).find(|&place| !all(&bytes[place..=place], TOKEN));
                        assert_eq!(find_token_end(&bytes, from), expected, "{byte} at {at}");
                    }
                }
            }
        }
        assert_eq!(find_token_end(b"Content-Length", 0), None);
        assert_eq!(find_token_end(b"", 0), None);
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
