//! Fields that concern one connection only (RFC 9110 section 7.6.1).

use crate::bytes::elements;

/// Most options of all Connection fields of a message that are heeded one by one; with more,
/// whatever is not known is taken for named.
const OPTIONS_MAX: usize = 16;

/// Whether a field of this name is never passed on, whatever Connection says: the hop-by-hop
/// fields of RFC 9110 section 7.6.1, old ones that were used so, and those of the framing, which is
/// made anew on each side.
#[must_use]
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    // Lengths leave a candidate or two, so that most names cost one comparison of numbers.
    let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
    match name.len() {
        2 => is("te"),
        7 => is("upgrade") || is("trailer"),
        10 => is("connection") || is("keep-alive"),
        14 => is("content-length") || is("http2-settings"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        _ => false,
    }
}

/// The options of a message's Connection fields.
#[derive(Clone, Copy, Debug)]
pub struct HopOptions<'a> {
    named: [&'a [u8]; OPTIONS_MAX],
    count: usize,
    overflow: bool,
    /// `close` is among them.
    pub close: bool,
    /// `keep-alive` is among them.
    pub keep_alive: bool,
    /// `upgrade` is among them.
    pub upgrade: bool,
}

impl<'a> HopOptions<'a> {
    /// Reads them from a message's fields.
    pub fn of(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> HopOptions<'a> {
        let mut options = HopOptions {
            named: [b""; OPTIONS_MAX],
            count: 0,
            overflow: false,
            close: false,
            keep_alive: false,
            upgrade: false,
        };
        for (name, value) in fields {
            if name.len() == 10 && name.eq_ignore_ascii_case(b"connection") {
                elements(value).for_each(|option| options.note(option));
            }
        }
        options
    }

    /// Whether a field of this name stays on its own connection.
    #[inline]
    #[must_use]
    pub fn keeps(&self, name: &[u8]) -> bool {
        is_hop_by_hop(name)
            || (self.count > 0 && self.names(name))
            || (self.overflow && !is_essential(name))
    }

    fn names(&self, name: &[u8]) -> bool {
        // Host belongs to the request, not to the connection: it cannot be taken away.
        let named = self.named[..self.count].iter().any(|of| name.eq_ignore_ascii_case(of));
        named && !name.eq_ignore_ascii_case(b"host")
    }

    fn note(&mut self, option: &'a [u8]) {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else if self.count < OPTIONS_MAX {
            self.named[self.count] = option;
            self.count += 1;
        } else {
            self.overflow = true;
        }
    }
}

/// What goes on even if a Connection field has more options than anybody honest sends.
fn is_essential(name: &[u8]) -> bool {
    const ESSENTIAL: [&[u8]; 5] =
        [b"host", b"content-type", b"content-encoding", b"authorization", b"set-cookie"];
    ESSENTIAL.iter().any(|of| name.eq_ignore_ascii_case(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_names_what_stays() {
        let fields: [(&[u8], &[u8]); 3] = [
            (b"Connection", b"close, X-A"),
            (b"X-A", b"1"),
            (b"cOnnection", b" Keep-Alive ,, upgrade, host"),
        ];
        let options = HopOptions::of(fields);
        assert!(options.close && options.keep_alive && options.upgrade);
        for (name, stays) in [
            ("x-a", true),
            ("X-B", false),
            ("Host", false),
            ("TE", true),
            ("Trailer", true),
            ("Upgrade", true),
            ("Proxy-Connection", true),
            ("Transfer-Encoding", true),
            ("Content-Length", true),
            ("Content-Type", false),
            ("Expect", false),
        ] {
            assert_eq!(options.keeps(name.as_bytes()), stays, "{name}");
        }
    }

    #[test]
    fn too_many_options_leave_nothing_but_the_essential() {
        let names: Vec<String> = (0..40).map(|at| format!("x-{at}")).collect();
        let value = names.join(",");
        let options = HopOptions::of([(&b"connection"[..], value.as_bytes())]);
        assert!(names.iter().all(|name| options.keeps(name.as_bytes())));
        assert!(!options.keeps(b"Host") && !options.keeps(b"authorization"));
    }
}
