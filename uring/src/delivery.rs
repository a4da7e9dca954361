//! How far the bytes of a socket have come on their way out.

use std::mem::{offset_of, size_of};
use std::os::fd::RawFd;

use nix::errno::Errno;

/// What has become of the bytes that were sent on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Bytes that the socket still holds since the peer has not taken them. As long as there are
    /// none, nothing of an earlier send is under way.
    pub pending: u32,
    /// How many bytes the peer has taken since the beginning, modulo 2^32; unknown for sockets
    /// other than TCP.
    pub taken: Option<u32>,
}

/// Asks the kernel.
pub(crate) fn delivery_of(fd: RawFd) -> Result<Delivery, Errno> {
    let mut pending: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ by another name, writes one int, and this is one.
    Errno::result(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut pending) })?;
    Ok(Delivery { pending: pending.max(0).cast_unsigned(), taken: taken_of(fd) })
}

/// `tcpi_bytes_acked`, which Linux has since 4.1.
fn taken_of(fd: RawFd) -> Option<u32> {
    const END: usize = offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();
    let mut info = [0_u64; size_of::<libc::tcp_info>().div_ceil(8)];
    let mut len = END as libc::socklen_t;
    let place = info.as_mut_ptr().cast();
    // SAFETY: The kernel writes at most `len` bytes, and the array is no shorter.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut len) };
    const PLACE: usize = offset_of!(libc::tcp_info, tcpi_bytes_acked) / 8;
    (result == 0 && len as usize == END).then(|| info[PLACE] as u32)
}

const _: () = assert!(offset_of!(libc::tcp_info, tcpi_bytes_acked) % 8 == 0);
