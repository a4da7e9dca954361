//! Request methods (RFC 9110 section 9).

use std::fmt;

/// A request method. Methods are case-sensitive tokens; one that is not among the standard ones
/// is [`Method::Other`] and its bytes are in the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Method {
    /// GET
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// PATCH (RFC 5789)
    Patch,
    /// OPTIONS
    Options,
    /// CONNECT
    Connect,
    /// TRACE
    Trace,
    /// Any other token.
    Other,
}

impl Method {
    /// The standard methods, in the order in which `Allow` lists them.
    pub const STANDARD: [Method; 9] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Patch,
        Method::Options,
        Method::Connect,
        Method::Trace,
    ];

    /// The method that these bytes name. Case matters (RFC 9110 section 9.1).
    #[must_use]
    pub fn from_bytes(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"PATCH" => Method::Patch,
            b"OPTIONS" => Method::Options,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// The name as it stands in a request line; `OTHER` for a method that is not standard, which
    /// keeps metric labels bounded.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
            Method::Options => "OPTIONS",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other => "OTHER",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Methods(u16);

impl Methods {
    /// No method.
    pub const NONE: Methods = Methods(0);
    /// Every method, those that are not standard included; for proxies and for replies that do
    /// not depend on the method.
    pub const ANY: Methods = Methods((1 << 10) - 1);

    /// The set of these methods.
    #[must_use]
    pub const fn of(methods: &[Method]) -> Methods {
        let mut bits = 0;
        let mut at = 0;
        while at < methods.len() {
            bits |= 1 << methods[at] as u16;
            at += 1;
        }
        Methods(bits)
    }

    /// Whether the method is in the set.
    #[must_use]
    pub const fn contains(self, method: Method) -> bool {
        self.0 & (1 << method as u16) != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Methods) -> Methods {
        Methods(self.0 | other.0)
    }

    /// Whether the sets have a method in common.
    #[must_use]
    pub const fn intersects(self, other: Methods) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no method is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What a server does with the set: whoever answers GET answers HEAD, and OPTIONS is answered
    /// for every path by the protocol itself.
    #[must_use]
    pub(crate) const fn served(self) -> Methods {
        let mut served = self.union(Methods::of(&[Method::Options]));
        if served.contains(Method::Get) {
            served = served.union(Methods::of(&[Method::Head]));
        }
        served
    }

    /// The value of an `Allow` field.
    #[must_use]
    pub fn allow(self) -> String {
        let names: Vec<&str> = Method::STANDARD
            .into_iter()
            .filter(|&method| self.contains(method))
            .map(Method::as_str)
            .collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_methods_are_each_others_inverse() {
        for method in Method::STANDARD {
            assert_eq!(Method::from_bytes(method.as_str().as_bytes()), method);
        }
        assert_eq!(Method::from_bytes(b"get"), Method::Other);
        assert_eq!(Method::from_bytes(b"PROPFIND"), Method::Other);
    }

    #[test]
    fn allow_lists_what_is_served() {
        assert_eq!(Methods::of(&[Method::Get]).served().allow(), "GET, HEAD, OPTIONS");
        assert_eq!(Methods::of(&[Method::Post]).served().allow(), "POST, OPTIONS");
        assert!(Methods::ANY.contains(Method::Other));
    }
}
