//! Who asks.

use std::net::{IpAddr, SocketAddr};

use ember_uring::PeerAddr;
use ipnet::IpNet;

use super::FromRequest;
use crate::error::Result;
use crate::request::Request;

/// The client's address. What proxies say of it (`Forwarded`, RFC 7239, or `X-Forwarded-For`) is
/// believed of the networks of [`App::trusted_proxies`](crate::App::trusted_proxies) alone: the
/// rightmost address that is none of theirs counts, since everything left of it may be made up.
///
/// ```
/// use ember::App;
/// use ember::extract::ClientAddr;
/// use ember::testing::Client;
///
/// async fn who(ClientAddr(address): ClientAddr) -> String {
///     address.map_or("a unix socket".into(), |address| address.to_string())
/// }
///
/// let said = &[("X-Forwarded-For", "203.0.113.9, 198.51.100.7, 127.0.0.2")];
/// let client = Client::new(App::new().get("/who", who));
/// assert_eq!(client.send("GET", "/who", said, "").text(), "127.0.0.1");
/// let app = App::new().trusted_proxies(["127.0.0.0/8".parse().unwrap()]).get("/who", who);
/// assert_eq!(Client::new(app).send("GET", "/who", said, "").text(), "198.51.100.7");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddr(pub Option<IpAddr>);

impl FromRequest for ClientAddr {
    async fn from_request(request: &mut Request) -> Result<Self> {
        request.client_addr().await.map(ClientAddr)
    }
}

impl Request {
    /// The address of the client as [`ClientAddr`] has it; none over a unix socket without trusted
    /// proxies.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn client_addr(&self) -> Result<Option<IpAddr>> {
        let peer = match self.peer().await? {
            PeerAddr::Inet(address) => Some(address.ip().to_canonical()),
            PeerAddr::Unix => None,
        };
        let trusted = self.local().map_or(&[][..], |local| &local.shared.trusted);
        // Only a proxy of this host can open the socket's file.
        let from_proxy = peer.map_or(!trusted.is_empty(), |peer| is_in(trusted, peer));
        Ok(if from_proxy { forwarded(self, trusted).or(peer) } else { peer })
    }
}

fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// The rightmost address in what proxies said that is no proxy's own.
fn forwarded(request: &Request, trusted: &[IpNet]) -> Option<IpAddr> {
    let head = request.head();
    let standard: Vec<&[u8]> = head.field_values("forwarded").collect();
    let chain: Vec<Option<IpAddr>> = if standard.is_empty() {
        let lines: Vec<&[u8]> = head.field_values("x-forwarded-for").collect();
        elements(&lines).map(parse).collect()
    } else {
        elements(&standard).map(|element| parse(parameter(element, "for")?)).collect()
    };
    // A proxy that hides its client ends what can be believed.
    let mut last = None;
    for address in chain.into_iter().rev() {
        last = Some(address?);
        if !is_in(trusted, address?) {
            break;
        }
    }
    last
}

fn elements<'a>(lines: &[&'a [u8]]) -> impl Iterator<Item = &'a str> {
    let lines: Vec<&str> = lines.iter().filter_map(|line| std::str::from_utf8(line).ok()).collect();
    lines.into_iter().flat_map(|line| line.split(',')).map(str::trim).filter(|e| !e.is_empty())
}

fn parameter<'a>(element: &'a str, wanted: &str) -> Option<&'a str> {
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let mut of = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted));
    of.next().map(|(_, value)| value.trim().trim_matches('"'))
}

/// An address, with a port or without.
fn parse(node: &str) -> Option<IpAddr> {
    let bare = node.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(node);
    let address = bare.parse().ok();
    address.or_else(|| node.parse().ok().map(|a: SocketAddr| a.ip())).map(|a| a.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_as_the_rfc_has_them() {
        let element = "proto=https;For=\"[2001:db8::1]:4711\"; by=x";
        assert_eq!(parse(parameter(element, "for").unwrap()), "2001:db8::1".parse().ok());
        assert_eq!(parse("192.0.2.1:80"), "192.0.2.1".parse().ok());
        assert_eq!(parse("::ffff:192.0.2.1"), "192.0.2.1".parse().ok());
        assert_eq!(parse("_hidden"), None);
        assert_eq!(parse("unknown"), None);
    }
}
