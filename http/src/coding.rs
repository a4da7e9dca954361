//! Content codings and which of them a client takes (RFC 9110 sections 8.4.1 and 12.5.3).

use crate::bytes::{TOKEN, all, elements, trim};

/// A content coding that a representation can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coding {
    /// Zstandard (RFC 8878).
    Zstd,
    /// Brotli (RFC 7932).
    Brotli,
    /// gzip (RFC 1952).
    Gzip,
    /// The representation as it is.
    Identity,
}

impl Coding {
    /// The name in `Content-Encoding` and `Accept-Encoding`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Zstd => "zstd",
            Coding::Brotli => "br",
            Coding::Gzip => "gzip",
            Coding::Identity => "identity",
        }
    }

    fn is_named(self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(self.as_str().as_bytes())
            || (self == Coding::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
    }
}

/// Weights in thousandths.
const WEIGHT_MAX: u16 = 1000;

/// Which of the codings on offer the client wants most, by position; among equals the one that
/// stands first. `Identity` is always on offer, whether listed or not: `None` stands for it when
/// it is not in the list. A client that refuses all of them is sent the representation as it is,
/// which the RFC prefers to a 406.
///
/// `values` are the values of the Accept-Encoding field lines. A field that cannot be read is taken
/// as not sent.
pub fn negotiate<'v>(
    values: impl Iterator<Item = &'v [u8]> + Clone,
    offered: &[Coding],
) -> Option<usize> {
    let mut best: Option<(usize, u16)> = None;
    for (index, &coding) in offered.iter().enumerate() {
        let weight = weight(values.clone(), coding)?;
        if weight > best.map_or(0, |(_, weight)| weight) {
            best = Some((index, weight));
        }
    }
    let identity = weight(values, Coding::Identity)?;
    match best {
        // Whoever names identity with a higher weight than all others wants it.
        Some((index, weight)) if weight >= identity || offered[index] == Coding::Identity => {
            Some(index)
        }
        _ => offered.iter().position(|&coding| coding == Coding::Identity),
    }
}

/// The weight that the client gives to a coding, or `None` if the field cannot be read.
fn weight<'v>(values: impl Iterator<Item = &'v [u8]>, coding: Coding) -> Option<u16> {
    let mut named = None;
    let mut any = None;
    for element in values.flat_map(elements) {
        let (name, weight) = weighted(element)?;
        if coding.is_named(name) {
            named = Some(named.unwrap_or(0).max(weight));
        } else if name == b"*" {
            any = Some(weight);
        }
    }
    // Identity is acceptable unless excluded by name or by `*;q=0`; unnamed it comes last.
    let unnamed = if coding == Coding::Identity && any != Some(0) { 1 } else { any.unwrap_or(0) };
    Some(named.unwrap_or(unnamed))
}

/// `name [ OWS ";" OWS "q=" qvalue ]`, the weight in thousandths.
fn weighted(element: &[u8]) -> Option<(&[u8], u16)> {
    let Some(semicolon) = element.iter().position(|&byte| byte == b';') else {
        return all(element, TOKEN).then_some((element, WEIGHT_MAX));
    };
    let name = trim(&element[..semicolon]);
    let parameter = trim(&element[semicolon + 1..]);
    let [b'q' | b'Q', b'=', digits @ ..] = parameter else { return None };
    (!name.is_empty() && all(name, TOKEN)).then_some((name, qvalue(digits)?))
}

/// `0[.ddd]` or `1[.000]` (RFC 9110 section 12.4.2).
fn qvalue(digits: &[u8]) -> Option<u16> {
    let (whole, fraction) = match digits {
        [whole] => (*whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        _ => return None,
    };
    let mut weight = match whole {
        b'0' => 0,
        b'1' => WEIGHT_MAX,
        _ => return None,
    };
    let mut unit = 100;
    for digit in fraction {
        if !digit.is_ascii_digit() {
            return None;
        }
        weight += u16::from(digit - b'0') * unit;
        unit /= 10;
    }
    (weight <= WEIGHT_MAX).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    fn chosen(field: &str) -> Option<Coding> {
        negotiate([field.as_bytes()].into_iter(), &ALL).map(|index| ALL[index])
    }

    #[test]
    fn the_clients_weights_decide_and_then_our_order() {
        // RFC 9110 section 12.5.3.
        for (field, coding) in [
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, deflate, br", Some(Coding::Brotli)),
            ("gzip", Some(Coding::Gzip)),
            ("X-GZIP", Some(Coding::Gzip)),
            ("compress", None),
            ("", None),
            ("*", Some(Coding::Zstd)),
            ("*;q=0", None),
            ("zstd;q=0, *", Some(Coding::Brotli)),
            ("gzip;q=1.0, br;q=0.5", Some(Coding::Gzip)),
            ("gzip;q=0.001", Some(Coding::Gzip)),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0.5, identity;q=0.5", Some(Coding::Gzip)),
            ("identity;q=0", None),
            ("gzip;q=0.000", None),
            ("br ; q=0.2 , gzip\t;\tQ=0.3", Some(Coding::Gzip)),
        ] {
            assert_eq!(chosen(field), coding, "{field}");
        }
    }

    #[test]
    fn a_field_that_cannot_be_read_is_as_if_not_sent() {
        for field in [
            "gzip;q=2",
            "gzip;q=1.001",
            "gzip;q=0.1234",
            "gzip;x=1",
            "g zip",
            "gzip;q=",
            ";q=1",
            "gzip;q=.5",
            "gzip;q=1.5",
        ] {
            assert_eq!(chosen(field), None, "{field}");
        }
    }

    #[test]
    fn identity_may_be_in_the_list() {
        let offered = [Coding::Gzip, Coding::Identity];
        let index = |field: &'static str| negotiate([field.as_bytes()].into_iter(), &offered);
        assert_eq!(index("gzip"), Some(0));
        assert_eq!(index("br"), Some(1));
        assert_eq!(index("gzip;q=0.1, identity"), Some(1));
        assert_eq!(index("identity;q=0, gzip;q=0"), Some(1));
    }

    #[test]
    fn several_lines_are_one_list() {
        let values = [&b"gzip;q=0.1"[..], b"br"];
        assert_eq!(negotiate(values.into_iter(), &ALL), Some(1));
    }
}
