//! Where to connect to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, setsockopt, socket,
    sockopt,
};

use crate::Errno;

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Inet(SocketAddr),
    /// A unix socket by its path.
    Unix(PathBuf),
}

/// The same as the kernel wants it.
pub(crate) enum Raw {
    Inet(SockaddrStorage),
    Unix(UnixAddr),
}

impl Address {
    pub(crate) fn raw(&self) -> Result<Raw, Errno> {
        match self {
            Address::Inet(address) => Ok(Raw::Inet(SockaddrStorage::from(*address))),
            Address::Unix(path) => UnixAddr::new(path).map(Raw::Unix),
        }
    }

    /// A socket that can be connected to this address. Small requests are not held back.
    pub(crate) fn socket(&self, flags: SockFlag) -> io::Result<OwnedFd> {
        let family = match self {
            Address::Inet(SocketAddr::V4(_)) => AddressFamily::Inet,
            Address::Inet(SocketAddr::V6(_)) => AddressFamily::Inet6,
            Address::Unix(_) => AddressFamily::Unix,
        };
        let fd = socket(family, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)?;
        if family != AddressFamily::Unix {
            setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        }
        Ok(fd)
    }
}

impl Raw {
    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            Raw::Inet(address) => address.as_ptr(),
            Raw::Unix(address) => SockaddrLike::as_ptr(address),
        }
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        match self {
            Raw::Inet(address) => address.len(),
            Raw::Unix(address) => address.len(),
        }
    }
}
