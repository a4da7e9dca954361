//! Which interfaces an operator's remote session goes over, so that the plan does not cut it.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

use crate::host::Host;

/// Where SSH servers listen; a session elsewhere names itself in SSH_CONNECTION.
const SSH_PORT: u16 = 22;
/// The state ESTABLISHED in /proc/net/tcp.
const ESTABLISHED: &str = "01";

/// The interfaces that hold the local addresses of remote sessions.
pub(crate) fn nics(host: &dyn Host) -> Vec<String> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    if let Ok(connection) = std::env::var("SSH_CONNECTION") {
        // client address, client port, server address, server port
        let server = connection.split_ascii_whitespace().nth(2);
        addresses.extend(server.and_then(|address| address.parse::<IpAddr>().ok()));
    }
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        addresses.extend(host.read(file).unwrap_or_default().lines().skip(1).filter_map(local));
    }
    interfaces_of(&addresses)
}

/// The local address of an established connection to the SSH port.
fn local(line: &str) -> Option<IpAddr> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    let is_ssh = u16::from_str_radix(port, 16).ok()? == SSH_PORT;
    (is_ssh && *fields.get(3)? == ESTABLISHED).then(|| parse_address(address)).flatten()
}

/// The kernel prints addresses as words in the machine's own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let mut bytes = [0u8; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(IpAddr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

fn interfaces_of(addresses: &[IpAddr]) -> Vec<String> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut names = Vec::new();
    for interface in interfaces {
        let Some(storage) = interface.address else { continue };
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        let holds = v4.or(v6).is_some_and(|address| addresses.contains(&address));
        if holds && !names.contains(&interface.interface_name) {
            names.push(interface.interface_name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_connections_to_the_ssh_port_count() {
        let line = |local: &str, state: &str| {
            format!("   0: {local} 0200000A:C350 {state} 00000000:00000000 00:00000000 00000000")
        };
        let loopback: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
        let hex = format!("{loopback:08X}");
        assert_eq!(
            local(&line(&format!("{hex}:0016"), "01")),
            Some("127.0.0.1".parse().expect("ip"))
        );
        assert_eq!(local(&line(&format!("{hex}:0016"), "0A")), None);
        assert_eq!(local(&line(&format!("{hex}:0050"), "01")), None);
        assert_eq!(interfaces_of(&["127.0.0.1".parse().expect("ip")]), ["lo"]);
        assert_eq!(parse_address("xyz"), None);
    }
}
