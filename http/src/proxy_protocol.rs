//! The PROXY protocol, versions 1 and 2: the line or block in front of a connection's first byte
//! by which a balancer tells for whom it connects.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What stands at the beginning of every header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its CRLF included.
const LINE_BYTES_MAX: usize = 107;
/// The longest block of version 2 that is read: addresses and type-length-values.
const BLOCK_BYTES_MAX: usize = 4096;

/// For whom a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// For the balancer itself, such as its health check; or of a family that has no such address.
    Local,
    /// For this client, who connected to that address.
    Client {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
}

/// The version that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// A binary block.
    V2,
}

/// The bytes are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotProxied;

impl std::fmt::Display for NotProxied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no PROXY header")
    }
}

impl std::error::Error for NotProxied {}

impl Proxied {
    /// Reads the header at the beginning of `bytes`: it and its length, or `None` if its end has
    /// not come yet.
    ///
    /// # Errors
    /// Whatever is no header of either version, as soon as that can be told.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, NotProxied> {
        let common = bytes.len().min(SIGNATURE.len());
        if bytes[..common] == SIGNATURE[..common] {
            return version_2(bytes);
        }
        version_1(bytes)
    }

    /// Writes a header.
    pub fn write(&self, version: ProxyVersion, out: &mut Vec<u8>) {
        match version {
            ProxyVersion::V1 => self.write_line(out),
            ProxyVersion::V2 => self.write_block(out),
        }
    }

    fn write_line(&self, out: &mut Vec<u8>) {
        let Proxied::Client { source, destination } = self else {
            out.extend_from_slice(b"PROXY UNKNOWN\r\n");
            return;
        };
        let (from, to) = same_family(source.ip(), destination.ip());
        let family = if from.is_ipv4() { '4' } else { '6' };
        // Writing to a Vec does not fail.
        let _ = write!(
            out,
            "PROXY TCP{family} {from} {to} {} {}\r\n",
            source.port(),
            destination.port()
        );
    }

    fn write_block(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(SIGNATURE);
        let Proxied::Client { source, destination } = self else {
            out.extend_from_slice(&[0x20, 0x00, 0, 0]);
            return;
        };
        match same_family(source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                out.extend_from_slice(&[0x21, 0x11, 0, 12]);
                out.extend_from_slice(&from.octets());
                out.extend_from_slice(&to.octets());
            }
            (from, to) => {
                out.extend_from_slice(&[0x21, 0x21, 0, 36]);
                out.extend_from_slice(&to_v6(from).octets());
                out.extend_from_slice(&to_v6(to).octets());
            }
        }
        out.extend_from_slice(&source.port().to_be_bytes());
        out.extend_from_slice(&destination.port().to_be_bytes());
    }
}

fn to_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Both in one family: as IPv4 where both can be that.
fn same_family(from: IpAddr, to: IpAddr) -> (IpAddr, IpAddr) {
    match (from.to_canonical(), to.to_canonical()) {
        pair @ (IpAddr::V4(_), IpAddr::V4(_)) => pair,
        (from, to) => (to_v6(from).into(), to_v6(to).into()),
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, NotProxied> {
    const START: &[u8] = b"PROXY ";
    let common = bytes.len().min(START.len());
    if bytes[..common] != START[..common] {
        return Err(NotProxied);
    }
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|two| two == b"\r\n") else {
        return if bytes.len() < LINE_BYTES_MAX { Ok(None) } else { Err(NotProxied) };
    };
    let line = std::str::from_utf8(&bytes[START.len()..end]).map_err(|_| NotProxied)?;
    let mut words = line.split(' ');
    let proxied = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => Proxied::Local,
        Some("TCP4") => client::<Ipv4Addr>(words)?,
        Some("TCP6") => client::<Ipv6Addr>(words)?,
        _ => return Err(NotProxied),
    };
    Ok(Some((proxied, end + 2)))
}

fn client<'a, A>(mut words: impl Iterator<Item = &'a str>) -> Result<Proxied, NotProxied>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut word = || words.next().ok_or(NotProxied);
    let address = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| NotProxied);
    let (from, to) = (address(word()?)?, address(word()?)?);
    let (from_port, to_port) = (port(word()?)?, port(word()?)?);
    if word().is_ok() {
        return Err(NotProxied);
    }
    Ok(Proxied::Client {
        source: SocketAddr::new(from, from_port),
        destination: SocketAddr::new(to, to_port),
    })
}

/// Digits without a sign and without zeros in front.
fn port(text: &str) -> Result<u16, NotProxied> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(NotProxied);
    }
    text.parse().map_err(|_| NotProxied)
}

fn version_2(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, NotProxied> {
    if let Some(&version) = bytes.get(12)
        && !matches!(version, 0x20 | 0x21)
    {
        return Err(NotProxied);
    }
    let Some(start) = bytes.first_chunk::<16>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([start[14], start[15]]));
    if len > BLOCK_BYTES_MAX {
        return Err(NotProxied);
    }
    let Some(block) = bytes.get(16..16 + len) else { return Ok(None) };
    let proxied = match (start[12], start[13]) {
        (0x20, _) => Proxied::Local,
        // Families without an address of ours: unix sockets, datagrams, unspecified.
        (_, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Proxied::Local,
        (_, 0x11) => {
            let block = block.first_chunk::<12>().ok_or(NotProxied)?;
            let ip =
                |at: usize| Ipv4Addr::new(block[at], block[at + 1], block[at + 2], block[at + 3]);
            addresses(ip(0).into(), ip(4).into(), &block[8..])
        }
        (_, 0x21) => {
            let block = block.first_chunk::<36>().ok_or(NotProxied)?;
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&block[at..at + 16]);
                Ipv6Addr::from(octets)
            };
            addresses(ip(0).into(), ip(16).into(), &block[32..])
        }
        _ => return Err(NotProxied),
    };
    Ok(Some((proxied, 16 + len)))
}

fn addresses(from: IpAddr, to: IpAddr, ports: &[u8]) -> Proxied {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Proxied::Client {
        source: SocketAddr::new(from, port(0)),
        destination: SocketAddr::new(to, port(2)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(source: &str, destination: &str) -> Proxied {
        Proxied::Client {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    /// Parses in every split; an incomplete header must say so.
    fn parsed(bytes: &[u8]) -> Result<Option<(Proxied, usize)>, NotProxied> {
        let whole = Proxied::parse(bytes);
        if let Ok(Some((_, len))) = whole {
            for at in 0..len {
                assert_eq!(Proxied::parse(&bytes[..at]), Ok(None), "cut at {at}");
            }
        }
        whole
    }

    #[test]
    fn lines_of_version_1() {
        for (line, proxied) in [
            ("PROXY TCP4 1.2.3.4 5.6.7.8 11 65535\r\n", client("1.2.3.4:11", "5.6.7.8:65535")),
            ("PROXY TCP6 ::1 2001:db8::2 0 80\r\n", client("[::1]:0", "[2001:db8::2]:80")),
            ("PROXY UNKNOWN\r\n", Proxied::Local),
            ("PROXY UNKNOWN ffff:f whatever\r\n", Proxied::Local),
        ] {
            let with_rest = format!("{line}GET / HTTP/1.1\r\n");
            assert_eq!(parsed(with_rest.as_bytes()), Ok(Some((proxied, line.len()))), "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP5 1.2.3.4 5.6.7.8 11 12\r\n",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 11 12\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 12 13\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 011 12\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 12\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 11 65536\r\n",
            "PROXY TCP4 ::1 ::2 11 12\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 11 12\r\n",
            &long,
        ] {
            assert_eq!(parsed(line.as_bytes()), Err(NotProxied), "{line:?}");
        }
    }

    #[test]
    fn blocks_of_version_2() {
        let block = |head: [u8; 4], rest: &[u8]| [&SIGNATURE[..], &head, rest].concat();
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 1, 0];
        let with_tlv = [&four[..], &[4, 0, 1, 9]].concat();
        for (bytes, proxied) in [
            (block([0x21, 0x11, 0, 12], &four), client("1.2.3.4:11", "5.6.7.8:256")),
            (block([0x21, 0x11, 0, 16], &with_tlv), client("1.2.3.4:11", "5.6.7.8:256")),
            (block([0x20, 0x00, 0, 0], &[]), Proxied::Local),
            (block([0x20, 0x11, 0, 12], &four), Proxied::Local),
            (block([0x21, 0x00, 0, 2], &[1, 2]), Proxied::Local),
        ] {
            assert_eq!(parsed(&bytes), Ok(Some((proxied, bytes.len()))), "{bytes:?}");
        }
        for bytes in [
            block([0x11, 0x11, 0, 12], &four),
            block([0x22, 0x11, 0, 12], &four),
            block([0x21, 0x41, 0, 12], &four),
            block([0x21, 0x11, 0, 11], &four[..11]),
            block([0x21, 0x21, 0, 12], &four),
            block([0x21, 0x11, 0xff, 0xff], &four),
        ] {
            assert_eq!(parsed(&bytes), Err(NotProxied), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mixed = client("1.2.3.4:11", "[2001:db8::1]:80");
        let as_six = client("[::ffff:1.2.3.4]:11", "[2001:db8::1]:80");
        for (proxied, read) in [
            (client("1.2.3.4:11", "5.6.7.8:9"), None),
            (client("[::1]:11", "[2001:db8::1]:9"), None),
            (client("[::ffff:1.2.3.4]:11", "5.6.7.8:9"), Some(client("1.2.3.4:11", "5.6.7.8:9"))),
            (mixed, Some(as_six)),
            (Proxied::Local, None),
        ] {
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let mut out = Vec::new();
                proxied.write(version, &mut out);
                let expected = read.unwrap_or(proxied);
                assert_eq!(parsed(&out), Ok(Some((expected, out.len()))), "{version:?}");
            }
        }
    }
}
