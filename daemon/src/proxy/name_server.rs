//! Asking for the addresses of a name, and for how long the answer holds.

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::time::Duration;

/// How long an answer holds whose lifetime is not told: the C library tells none.
const LIFETIME_UNKNOWN: Duration = Duration::from_secs(30);

/// The addresses of a name, and for how long they hold.
pub(super) fn look_up(name: &str) -> io::Result<(Vec<IpAddr>, Duration)> {
    let mut addresses: Vec<IpAddr> = (name, 0).to_socket_addrs()?.map(|to| to.ip()).collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok((addresses, LIFETIME_UNKNOWN))
}
