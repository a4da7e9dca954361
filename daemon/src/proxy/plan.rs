//! What is sent to an upstream for one request: worked out once, sent as often as it is tried.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ember::{Error, PeerAddr, Request};
use ember_http::upstream::{
    HopOptions, RequestBody, RequestHead, encode_path, field, has_dot_segments,
};
use ember_http::{Method, Version};

use super::upload::Upload;
use super::{Proxy, balance};
use crate::config::{Balance, HashBy, HostRule};

/// What the Via field of requests calls this program (RFC 9110 section 7.6.3).
const VIA: &[u8] = b"1.1 emberd";

/// A request as it goes out.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) method: Method,
    /// The whole head; without the value of Host where that depends on the upstream.
    pub(super) head: Vec<u8>,
    /// Where the value of Host is missing.
    pub(super) host_at: Option<usize>,
    pub(super) upload: Upload,
    /// The client wants to change to WebSocket, and may.
    pub(super) upgrade: bool,
    /// What the upstream is chosen by.
    pub(super) hash: Option<u64>,
    /// Who asks, and by which address, for upstreams that are told in front of the connection.
    pub(super) client: Option<PeerAddr>,
}

/// What is changed of a request whose reply is to be kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ForCache<'a> {
    /// Conditions and ranges are left out: the whole reply is wanted.
    pub(super) whole: bool,
    /// Asked as GET, whatever the method was.
    pub(super) get: bool,
    /// The entity tag of what is there already.
    pub(super) etag: Option<&'a [u8]>,
    /// Its date of modification.
    pub(super) last_modified: Option<&'a [u8]>,
}

impl Plan {
    /// What to send for a request, whose body is taken out of it.
    pub(super) async fn of(proxy: &Arc<Proxy>, request: &mut Request) -> Result<Plan, Error> {
        Plan::with(proxy, request, ForCache::default()).await
    }

    /// The same with changes.
    pub(super) async fn with(
        proxy: &Arc<Proxy>,
        request: &mut Request,
        change: ForCache<'_>,
    ) -> Result<Plan, Error> {
        let rules = &proxy.rules;
        let hashes_ip = rules.balance == Balance::Hash && rules.hash_by == HashBy::Ip;
        let tells = rules.forwarded != crate::config::Forwarded::Off
            || rules.proxy_protocol != crate::config::ProxyProtocol::Off
            || !rules.trusted.is_empty();
        let client = if tells || hashes_ip { Some(request.peer().await?) } else { None };
        let method = if change.get { Method::Get } else { request.method() };
        let mut plan = Plan {
            method,
            head: Vec::with_capacity(request.head().head_bytes().len() + 256),
            host_at: None,
            upload: Upload::nothing(),
            upgrade: rules.websocket && wants_websocket(request),
            hash: None,
            client,
        };
        plan.hash = plan.hash_of(proxy, request);
        plan.write_head(proxy, request, change)?;
        if !change.get && request.has_body() {
            let length = request.content_length();
            plan.upload = Upload::new(request.take_body(), length);
        }
        Ok(plan)
    }

    /// The head for one upstream.
    pub(super) fn head_for(&self, upstream: &str) -> Vec<u8> {
        let Some(at) = self.host_at else { return self.head.clone() };
        // A unix socket has no authority of its own.
        let host = if upstream.starts_with("unix:") { "localhost" } else { upstream };
        [&self.head[..at], host.as_bytes(), &self.head[at..]].concat()
    }

    fn hash_of(&self, proxy: &Proxy, request: &Request) -> Option<u64> {
        if proxy.rules.balance != Balance::Hash {
            return None;
        }
        Some(match &proxy.rules.hash_by {
            HashBy::Ip => match self.ip() {
                Some(IpAddr::V4(ip)) => balance::hash(&ip.octets()),
                Some(IpAddr::V6(ip)) => balance::hash(&ip.octets()),
                None => 0,
            },
            HashBy::Path => balance::hash(request.path().as_bytes()),
            HashBy::Header(name) => balance::hash(request.header(name).unwrap_or_default()),
        })
    }

    fn ip(&self) -> Option<IpAddr> {
        match &self.client {
            Some(PeerAddr::Inet(address)) => Some(address.ip().to_canonical()),
            _ => None,
        }
    }

    fn write_head(
        &mut self,
        proxy: &Proxy,
        request: &Request,
        change: ForCache<'_>,
    ) -> Result<(), Error> {
        let head = request.head();
        let path = path_for(proxy, &head);
        let host: &[u8] = match &proxy.rules.host {
            HostRule::Keep => head.authority(),
            HostRule::Upstream => b"",
            HostRule::Set(host) => host.as_bytes(),
        };
        let body = match (request.content_length(), request.has_body()) {
            _ if change.get => RequestBody::None,
            (Some(length), _) => RequestBody::Length(length),
            (None, true) => RequestBody::Chunked,
            // RFC 9110 section 8.6: methods that give a body a meaning say that there is none.
            _ => match self.method {
                Method::Post | Method::Put | Method::Patch => RequestBody::Length(0),
                _ => RequestBody::None,
            },
        };
        let line = RequestHead {
            method: if change.get { b"GET" } else { head.method_bytes() },
            path: &path,
            query: head.query(),
            host,
            body,
            upgrade: self.upgrade.then_some(b"websocket"),
        };
        let trusted = self.is_trusted(proxy);
        let drop = |name: &[u8]| is_identity(name) || change.whole && is_conditional(name);
        let out = &mut self.head;
        line.write(out, head.fields(), drop).map_err(|error| Error::new(400, error.to_string()))?;
        if proxy.rules.host == HostRule::Upstream {
            let host_at = out.windows(8).position(|window| window == b"\r\nHost: ");
            self.host_at = host_at.map(|at| at + 8);
        }
        self.tell_client(proxy, &head, trusted);
        let out = &mut self.head;
        if let Some(etag) = change.etag {
            field(out, b"If-None-Match", etag);
        }
        if let Some(date) = change.last_modified {
            field(out, b"If-Modified-Since", date);
        }
        field(out, b"Via", VIA);
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn is_trusted(&self, proxy: &Proxy) -> bool {
        let trusted = &proxy.rules.trusted;
        match &self.client {
            _ if trusted.is_empty() => false,
            // Who can open the socket's file is a part of this machine.
            Some(PeerAddr::Unix) => true,
            _ => self.ip().is_some_and(|ip| trusted.iter().any(|net| net.contains(&ip))),
        }
    }

    /// Writes who asks. What a client says of itself counts only if it is trusted.
    fn tell_client(&mut self, proxy: &Proxy, head: &ember_http::Request<'_>, trusted: bool) {
        let told = |name: &'static str| head.field_values(name).filter(move |_| trusted);
        let (forwarded, ip) = (proxy.rules.forwarded, self.ip());
        let out = &mut self.head;
        if !forwarded.has_x() {
            // Of no use to an upstream that goes by the other form; of trusted ones it may.
            for name in ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"] {
                told(name).for_each(|value| field(out, name.as_bytes(), value));
            }
        } else {
            out.extend_from_slice(b"X-Forwarded-For: ");
            for value in told("X-Forwarded-For") {
                out.extend_from_slice(value);
                out.extend_from_slice(b", ");
            }
            // Writing to a Vec does not fail.
            let _ = match ip {
                Some(ip) => write!(out, "{ip}\r\n"),
                None => write!(out, "unknown\r\n"),
            };
            let proto = told("X-Forwarded-Proto").next().unwrap_or(b"http");
            field(out, b"X-Forwarded-Proto", proto);
            let host = told("X-Forwarded-Host").next().unwrap_or(head.authority());
            field(out, b"X-Forwarded-Host", host);
        }
        told("Forwarded").for_each(|value| field(out, b"Forwarded", value));
        if forwarded.has_standard() {
            write_forwarded(out, ip, head.authority());
        }
    }
}

/// RFC 7239 section 4: names of IPv6 and hosts with a colon are quoted.
fn write_forwarded(out: &mut Vec<u8>, ip: Option<IpAddr>, host: &[u8]) {
    let _ = match ip {
        Some(IpAddr::V4(ip)) => write!(out, "Forwarded: for={ip}"),
        Some(IpAddr::V6(ip)) => write!(out, "Forwarded: for=\"[{ip}]\""),
        None => write!(out, "Forwarded: for=unknown"),
    };
    // A Host was checked to be one when it was parsed: it has neither quotes nor backslashes.
    out.extend_from_slice(b";host=\"");
    out.extend_from_slice(host);
    out.extend_from_slice(b"\";proto=http\r\n");
}

/// The path that an upstream gets. One with dot segments is passed on as what it means, since that
/// is what the route was found by; any other as it was sent.
pub(super) fn path_for<'a>(proxy: &Proxy, head: &ember_http::Request<'a>) -> Cow<'a, [u8]> {
    let raw = head.raw_path();
    let path: Cow<'a, [u8]> = match has_dot_segments(raw) {
        true => Cow::Owned(encode_path(head.path())),
        false => Cow::Borrowed(raw),
    };
    if !proxy.rules.strip_prefix {
        return path;
    }
    let prefix = proxy.prefix.as_bytes();
    let path = match path.strip_prefix(prefix) {
        Some([] | [b'/', ..]) => path,
        // Its prefix is there, but encoded.
        _ => Cow::Owned(encode_path(head.path())),
    };
    let cut = prefix.len().min(path.len());
    match path {
        _ if path.len() <= cut => Cow::Borrowed(b"/"),
        Cow::Borrowed(path) => Cow::Borrowed(&path[cut..]),
        Cow::Owned(path) => Cow::Owned(path[cut..].to_vec()),
    }
}

/// Fields by which a proxy says who asks, in any spelling that a gateway to CGI takes for them.
fn is_identity(name: &[u8]) -> bool {
    const FIELDS: [&[u8]; 6] = [
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"forwarded",
        b"x-real-ip",
    ];
    if !matches!(name.first(), Some(b'x' | b'X' | b'f' | b'F')) {
        return false;
    }
    let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    FIELDS.iter().any(|field| field.len() == name.len() && name.iter().zip(*field).all(same))
}

fn is_conditional(name: &[u8]) -> bool {
    const FIELDS: [&[u8]; 6] = [
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
        b"if-range",
        b"range",
    ];
    matches!(name.first(), Some(b'i' | b'I' | b'r' | b'R'))
        && FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
}

/// RFC 6455 section 4.2.1.
fn wants_websocket(request: &Request) -> bool {
    let head = request.head();
    head.method() == Method::Get
        && head.version() == Version::Http11
        && head.field("upgrade").is_some_and(|to| to.eq_ignore_ascii_case(b"websocket"))
        && HopOptions::of(head.fields()).upgrade
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_says_of_itself_is_known_in_every_spelling() {
        for (name, known) in [
            ("X-Forwarded-For", true),
            ("x_forwarded_for", true),
            ("FORWARDED", true),
            ("X-Real-IP", true),
            ("X-Forwarded-Foo", false),
            ("From", false),
            ("Accept", false),
        ] {
            assert_eq!(is_identity(name.as_bytes()), known, "{name}");
        }
    }

    #[test]
    fn forwarded_is_quoted_where_it_must_be() {
        let told = |ip: Option<&str>, host: &str| {
            let mut out = Vec::new();
            write_forwarded(&mut out, ip.map(|ip| ip.parse().unwrap()), host.as_bytes());
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            told(Some("192.0.2.1"), "a:80"),
            "Forwarded: for=192.0.2.1;host=\"a:80\";proto=http\r\n"
        );
        assert_eq!(
            told(Some("2001:db8::1"), "a"),
            "Forwarded: for=\"[2001:db8::1]\";host=\"a\";proto=http\r\n"
        );
        assert!(told(None, "a").starts_with("Forwarded: for=unknown;"));
    }
}
