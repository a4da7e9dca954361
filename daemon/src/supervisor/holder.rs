//! Who has the address that a listener wants: read from /proc, as far as it lets us.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pid: u32,
    name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, self.name)
    }
}

/// Who listens on a TCP address that overlaps `address`.
pub(crate) fn of_tcp(address: SocketAddr) -> Option<Holder> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables.iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| listening_inode(line, address))
    })?;
    of_inode(inode)
}

/// Who listens on the unix socket at `path`.
pub(crate) fn of_unix(path: &Path) -> Option<Holder> {
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    let inode = table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // Connections that wait to be accepted are listed under the same path.
        const ACCEPTS: &str = "00010000";
        let listens = words.get(3) == Some(&ACCEPTS) && words.get(7).copied() == path.to_str();
        listens.then(|| words[6].parse().ok())?
    })?;
    of_inode(inode)
}

/// The inode of a line of /proc/net/tcp{,6} if it is in the way of `address`.
fn listening_inode(line: &str, address: SocketAddr) -> Option<u64> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    const LISTEN: &str = "0A";
    if words.get(3) != Some(&LISTEN) {
        return None;
    }
    let (ip, port) = words[1].split_once(':')?;
    let ip = parse_ip(ip)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // A socket on [::] holds the IPv4 port too, unless it was made IPv6 only, which this table
    // does not show; bind() has found it in the way.
    let overlaps = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
    if port != address.port() || !overlaps {
        return None;
    }
    words.get(9)?.parse().ok()
}

/// Addresses there are the words of the network's bytes, printed as host integers.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    if hex.len() == 8 {
        return Some(Ipv4Addr::from(word(0)?).into());
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(index * 8)?);
    }
    let ip = Ipv6Addr::from(bytes);
    Some(ip.to_ipv4_mapped().map_or(ip.into(), IpAddr::from))
}

/// The first process that has the socket open, of those whose descriptors we may see.
fn of_inode(inode: u64) -> Option<Holder> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find_map(|pid| {
        let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let has_it = descriptors
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == &*link));
        if !has_it {
            return None;
        }
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Holder { pid, name: name.trim_end().to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn finds_this_process_on_both_families() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let holder = of_tcp(listener.local_addr().unwrap()).unwrap();
            assert_eq!(holder.pid, std::process::id());
        }
    }

    #[test]
    fn a_connection_is_not_a_listener() {
        let line = "  1: 0100007F:1F90 0100007F:D2A0 01 00000000:00000000 00:00000000 00000000 \
                    0 0 4711 1 0000000000000000 20 4 30 10 -1";
        let address = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(listening_inode(line, address), None);
        assert_eq!(listening_inode(&line.replace(" 01 ", " 0A "), address), Some(4711));
        let other = "127.0.0.2:8080".parse().unwrap();
        assert_eq!(listening_inode(&line.replace(" 01 ", " 0A "), other), None);
    }
}
