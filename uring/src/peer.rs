//! Who is at the other end of a descriptor.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getpeername};

use crate::PeerAddr;

/// The address of the other end of a connected socket.
pub(crate) fn peer_of(fd: RawFd) -> io::Result<PeerAddr> {
    let storage = getpeername::<SockaddrStorage>(fd)?;
    if let Some(v4) = storage.as_sockaddr_in() {
        Ok(PeerAddr::Inet(SocketAddr::V4(SocketAddrV4::from(*v4))))
    } else if let Some(v6) = storage.as_sockaddr_in6() {
        Ok(PeerAddr::Inet(SocketAddr::V6(SocketAddrV6::from(*v6))))
    } else if storage.family() == Some(AddressFamily::Unix) {
        Ok(PeerAddr::Unix)
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}
