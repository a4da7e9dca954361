//! Who a client is, where proxies stand between it and us.
//!
//! A connection comes from its peer. Where the peer is a proxy that the config trusts, the peer says
//! in `X-Forwarded-For` or `Forwarded` (RFC 7239) whom it asks for; that may again be a trusted
//! proxy, and so on from the right. The first address that is not one is the client: whatever
//! stands to the left of it, anybody may have written.

use std::net::IpAddr;

use ember_uring::PeerAddr;
use ipnet::IpNet;

/// The client's address; none of a unix socket's peer that does not say for whom it asks. Such a
/// peer is trusted: the permissions of the socket's file say who it can be.
pub(crate) fn client_address<'f>(
    peer: &PeerAddr,
    trusted: &[IpNet],
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
) -> Option<IpAddr> {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    let mut client = match peer {
        PeerAddr::Unix => None,
        PeerAddr::Inet(address) => Some(address.ip().to_canonical()),
    };
    if client.is_some_and(|address| !is_trusted(&address)) {
        return client;
    }
    for hop in hops(fields).iter().rev() {
        // What cannot be read cannot be trusted to be anybody.
        let Some(address) = hop else { break };
        client = Some(*address);
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// The addresses in the fields, from left to right; none for what is no address. Where both kinds
/// of field are there, `Forwarded` is what the newer proxy wrote.
fn hops<'f>(fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) -> Vec<Option<IpAddr>> {
    let (mut plain, mut standard) = (Vec::new(), Vec::new());
    for (name, value) in fields {
        let Ok(value) = std::str::from_utf8(value) else { continue };
        if name.eq_ignore_ascii_case(b"x-forwarded-for") {
            plain.extend(value.split(',').map(|hop| address(hop.trim())));
        } else if name.eq_ignore_ascii_case(b"forwarded") {
            standard.extend(value.split(',').map(forwarded_for));
        }
    }
    if standard.is_empty() { plain } else { standard }
}

/// The `for` of one element (RFC 7239 section 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(node.trim().trim_matches('"'))
}

/// An address with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']')?.0.parse::<IpAddr>().ok().map(|a| a.to_canonical());
    }
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    host.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, fields: &[(&str, &str)]) -> Option<String> {
        let peer = match peer {
            "unix" => PeerAddr::Unix,
            address => PeerAddr::Inet(format!("{address}:1").parse().unwrap()),
        };
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        client_address(&peer, &trusted, fields).map(|address| address.to_string())
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let x = "X-Forwarded-For";
        let is = |address: &str| Some(address.to_owned());
        assert_eq!(client("192.0.2.1", &[(x, "198.51.100.7")]), is("192.0.2.1"));
        assert_eq!(client("10.0.0.1", &[(x, "198.51.100.7")]), is("198.51.100.7"));
        // The client wrote the first two itself.
        let spoofed = "1.1.1.1, 10.9.9.9, 198.51.100.7, 10.0.0.2";
        assert_eq!(client("10.0.0.1", &[(x, spoofed)]), is("198.51.100.7"));
        let lines = [(x, "1.1.1.1"), ("x-forwarded-for", "198.51.100.7:4711")];
        assert_eq!(client("10.0.0.1", &lines), is("198.51.100.7"));
        assert_eq!(client("10.0.0.1", &[(x, "198.51.100.7, unknown")]), is("10.0.0.1"));
        assert_eq!(client("10.0.0.1", &[]), is("10.0.0.1"));
        assert_eq!(client("10.0.0.1", &[(x, "10.0.0.3")]), is("10.0.0.3"));
        assert_eq!(client("unix", &[(x, "198.51.100.7")]), is("198.51.100.7"));
        assert_eq!(client("unix", &[]), None);
    }

    #[test]
    fn the_standard_field_is_read() {
        let is = |address: &str| Some(address.to_owned());
        for value in [
            "for=198.51.100.7;proto=http, for=10.0.0.9",
            "For=\"198.51.100.7:80\"",
            "proto=http; for=198.51.100.7",
        ] {
            assert_eq!(client("10.0.0.1", &[("Forwarded", value)]), is("198.51.100.7"), "{value}");
        }
        let six = [("forwarded", "for=\"[2001:db9::1]:443\"")];
        assert_eq!(client("10.0.0.1", &six), is("2001:db9::1"));
        assert_eq!(client("[2001:db8::5]", &six), is("2001:db9::1"));
        assert_eq!(client("10.0.0.1", &[("Forwarded", "for=_hidden")]), is("10.0.0.1"));
    }
}
