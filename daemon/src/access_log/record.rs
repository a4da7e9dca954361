//! Requests on their way from a ring thread to the writer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ember_uring::PeerAddr;

/// Longest head that is kept with a record, in bytes; of a longer one the beginning.
const HEAD_BYTES_MAX: usize = 4096;

/// A request that has been answered, or several with the same bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry<'a> {
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// How many.
    pub(crate) count: u32,
    /// The site and its route; none where no route matched.
    pub(crate) route: Option<(u16, u16)>,
    /// The status code.
    pub(crate) status: u16,
    /// Bytes of one reply.
    pub(crate) bytes: u64,
    /// Microseconds from the request to its reply's hand-over; none where it was not measured.
    pub(crate) micros: Option<u64>,
    /// Which path in the server answered.
    pub(crate) kind: u8,
    /// The other end of the connection, where it is known.
    pub(crate) peer: Option<PeerAddr>,
    /// The request's head as it came; empty where it could not be read.
    pub(crate) head: &'a [u8],
}

const NO_ROUTE: u16 = u16::MAX;
const UNMEASURED: u64 = u64::MAX;

impl Entry<'_> {
    /// Appends it.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let head = &self.head[..self.head.len().min(HEAD_BYTES_MAX)];
        let (site, route) = self.route.unwrap_or((NO_ROUTE, NO_ROUTE));
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        for number in [site, route, self.status] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.micros.unwrap_or(UNMEASURED).to_le_bytes());
        out.push(self.kind);
        match &self.peer {
            None => out.push(0),
            Some(PeerAddr::Unix) => out.push(1),
            Some(PeerAddr::Inet(address)) => {
                match address.ip() {
                    IpAddr::V4(ip) => {
                        out.push(4);
                        out.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.push(6);
                        out.extend_from_slice(&ip.octets());
                    }
                }
                out.extend_from_slice(&address.port().to_le_bytes());
            }
        }
        out.extend_from_slice(&(head.len() as u16).to_le_bytes());
        out.extend_from_slice(head);
    }

    /// Takes the first one off.
    pub(super) fn decode<'a>(records: &mut &'a [u8]) -> Option<Entry<'a>> {
        let time_ms = u64::from_le_bytes(take(records)?);
        let count = u32::from_le_bytes(take(records)?);
        let site = u16::from_le_bytes(take(records)?);
        let route = u16::from_le_bytes(take(records)?);
        let status = u16::from_le_bytes(take(records)?);
        let bytes = u64::from_le_bytes(take(records)?);
        let micros = u64::from_le_bytes(take(records)?);
        let [kind, family] = take(records)?;
        let ip = match family {
            4 => Some(IpAddr::from(Ipv4Addr::from(take::<4>(records)?))),
            6 => Some(IpAddr::from(Ipv6Addr::from(take::<16>(records)?))),
            _ => None,
        };
        let peer = match ip {
            Some(ip) => {
                Some(PeerAddr::Inet(SocketAddr::new(ip, u16::from_le_bytes(take(records)?))))
            }
            None => (family == 1).then_some(PeerAddr::Unix),
        };
        let len = usize::from(u16::from_le_bytes(take(records)?));
        let (head, rest) = records.split_at_checked(len)?;
        *records = rest;
        Some(Entry {
            time_ms,
            count,
            route: (route != NO_ROUTE).then_some((site, route)),
            status,
            bytes,
            micros: (micros != UNMEASURED).then_some(micros),
            kind,
            peer,
            head,
        })
    }
}

fn take<const N: usize>(records: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = records.split_first_chunk::<N>()?;
    *records = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        let inet = |text: &str| Some(PeerAddr::Inet(text.parse().unwrap()));
        let peers = [None, Some(PeerAddr::Unix), inet("192.0.2.1:80"), inet("[2001:db8::1]:9")];
        let entries: Vec<Entry<'_>> = peers
            .into_iter()
            .enumerate()
            .map(|(at, peer)| Entry {
                time_ms: 1_700_000_000_000 + at as u64,
                count: 1 + at as u32,
                route: (at % 2 == 0).then_some((at as u16, 7)),
                status: 200,
                bytes: 1 << 40,
                micros: (at > 1).then_some(12),
                kind: at as u8,
                peer,
                head: b"GET / HTTP/1.1\r\n\r\n",
            })
            .collect();
        let mut records = Vec::new();
        for entry in &entries {
            entry.encode(&mut records);
        }
        let mut rest = records.as_slice();
        for entry in &entries {
            assert_eq!(Entry::decode(&mut rest).as_ref(), Some(entry));
        }
        assert_eq!(Entry::decode(&mut rest), None);
        for cut in 1..records.len() {
            let mut part = &records[..cut];
            while Entry::decode(&mut part).is_some() {}
        }
    }
}
