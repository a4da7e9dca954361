//! The trait that every driver implements, and the words it is spoken in.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use crate::{Address, Delivery, Info, Payload, Pinned, Region, Stats, Waker};

/// A connected socket of one driver.
///
/// The slot is reused after [`Completion::Closed`]; the generation tells the old name from the new
/// one, so that a late call on a dead socket does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sock {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl Sock {
    /// The slot, dense from zero: an index for the caller's own table of connections.
    #[inline]
    #[must_use]
    pub fn slot(self) -> u32 {
        self.slot
    }

    /// How often the slot had been used before, modulo 2^24.
    #[inline]
    #[must_use]
    pub fn generation(self) -> u32 {
        self.generation
    }
}

/// A listening socket of one driver, numbered from zero in the order of [`Driver::accept`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(crate) u32);

impl ListenerId {
    /// The number, dense from zero.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bytes received, in memory lent by the driver: read with [`Driver::bytes`], and always returned
/// with [`Driver::give_back`]. A buffer that is dropped instead is lost to the driver for good.
#[derive(Debug)]
#[must_use = "a buffer must be given back to its driver"]
pub struct Buffer {
    pub(crate) driver: u16,
    pub(crate) id: u16,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Buffer {
    /// How many bytes were received; at least one.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a received buffer is never empty")]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

/// What follows once everything of a send has gone out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Then {
    /// Report [`Completion::Sent`].
    #[default]
    Nothing,
    /// Receive: [`Completion::Received`] or [`Completion::Ended`] is the only report.
    Recv,
    /// Shut down the writing side, then report [`Completion::Sent`]: the start of a lingering close.
    Shutdown,
    /// Close: [`Completion::Closed`] is the only report.
    Close,
}

/// The operations that a driver submits, for statistics and failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Accepting on a listener.
    Accept,
    /// Receiving.
    Recv,
    /// Sending by copy.
    Send,
    /// Sending without a copy.
    SendZc,
    /// Shutting down one or both directions.
    Shutdown,
    /// Closing a socket.
    Close,
    /// Cancelling other operations.
    Cancel,
    /// Looking for the first byte of an armed pair.
    Peek,
    /// Making an ordinary descriptor of a socket, to ask about its peer.
    Install,
    /// Waiting for another thread's [`Waker`].
    Wake,
    /// Connecting to an address.
    Connect,
}

impl Op {
    /// All operations, in the order of their numbers.
    pub const ALL: [Op; 11] = [
        Op::Accept,
        Op::Recv,
        Op::Send,
        Op::SendZc,
        Op::Shutdown,
        Op::Close,
        Op::Cancel,
        Op::Peek,
        Op::Install,
        Op::Wake,
        Op::Connect,
    ];

    /// The name used as a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Accept => "accept",
            Op::Recv => "recv",
            Op::Send => "send",
            Op::SendZc => "send_zc",
            Op::Shutdown => "shutdown",
            Op::Close => "close",
            Op::Cancel => "cancel",
            Op::Peek => "peek",
            Op::Install => "install",
            Op::Wake => "wake",
            Op::Connect => "connect",
        }
    }
}

/// The address of the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// IPv4 or IPv6.
    Inet(SocketAddr),
    /// A unix socket; clients are rarely bound, so there is no name.
    Unix,
}

/// The queue is full even after a flush; what could not be queued comes back.
#[derive(Debug)]
pub struct Full<T>(pub T);

/// What has happened.
///
/// For one socket at most one of `Received`, `Ended` and `Failed` answers a `recv` (or a
/// [`Then::Recv`]); completions of one socket come in the order of its events.
#[derive(Debug)]
pub enum Completion {
    /// A connection came in. Nothing is in flight on it.
    Accepted {
        /// Where.
        listener: ListenerId,
        /// Its name from now on.
        sock: Sock,
    },
    /// Accepting has stopped: no descriptors, no memory, or a full socket table.
    /// [`Driver::resume`] starts it again.
    AcceptPaused {
        /// Where.
        listener: ListenerId,
        /// Why; `ENFILE` when the driver's own table is full.
        error: Errno,
    },
    /// Bytes came in.
    Received {
        /// On which socket.
        sock: Sock,
        /// The bytes; give the buffer back.
        buffer: Buffer,
    },
    /// The peer sends no more; no receive is in flight.
    Ended {
        /// On which socket.
        sock: Sock,
    },
    /// Everything of a [`Then::Nothing`] or [`Then::Shutdown`] send has been handed to the kernel.
    Sent {
        /// On which socket.
        sock: Sock,
    },
    /// The peer reset the connection, or the kernel refused. Nothing is in flight any more; the
    /// caller must [`Driver::close`] the socket.
    Failed {
        /// On which socket.
        sock: Sock,
        /// What failed.
        op: Op,
        /// Why.
        error: Errno,
    },
    /// The socket is closed and its name is dead.
    Closed {
        /// Which one.
        sock: Sock,
    },
    /// The answer to [`Driver::peer`].
    Peer {
        /// Of which socket.
        sock: Sock,
        /// The address of its other end.
        address: io::Result<Box<PeerAddr>>,
    },
    /// The answer to [`Driver::delivery`].
    Delivery {
        /// Of which socket.
        sock: Sock,
        /// How far its bytes have come.
        delivery: Result<Delivery, Errno>,
    },
    /// The socket of [`Driver::connect`] is connected; nothing is in flight on it.
    Connected {
        /// Which one.
        sock: Sock,
    },
    /// A [`Waker`] was used.
    Woken,
}

/// An I/O driver: queues operations, and gives completions once a turn.
///
/// Calls that name a dead socket do nothing (they are counted in [`Stats::stale_calls`]).
pub trait Driver {
    /// Starts accepting on a listening socket, which the driver owns from now on.
    ///
    /// # Errors
    /// When the operation cannot be queued or the descriptor is not usable.
    fn accept(&mut self, listener: OwnedFd) -> io::Result<ListenerId>;

    /// Stops accepting; connections that were already taken may still be reported.
    fn pause(&mut self, listener: ListenerId);

    /// Accepts again after [`Driver::pause`] or [`Completion::AcceptPaused`].
    fn resume(&mut self, listener: ListenerId);

    /// Stops accepting for good, and closes the listening socket when nothing of it is in flight
    /// any more. Connections that were taken are still reported until [`Driver::is_listening`]
    /// says that this has come.
    fn leave(&mut self, listener: ListenerId);

    /// Whether a listening socket is still open here.
    fn is_listening(&self) -> bool;

    /// Asks for bytes. One at a time on a socket.
    ///
    /// # Errors
    /// [`Full`] when the queue is full even after a flush.
    fn recv(&mut self, sock: Sock) -> Result<(), Full<()>>;

    /// The same where nothing is expected to be there yet: no try is made before bytes come.
    ///
    /// # Errors
    /// As [`Driver::recv`].
    fn recv_later(&mut self, sock: Sock) -> Result<(), Full<()>> {
        self.recv(sock)
    }

    /// Sends a payload, and does what follows once all of it has gone out. One at a time on a
    /// socket; a receive may be in flight beside it, except with [`Then::Recv`] and
    /// [`Then::Close`].
    ///
    /// # Errors
    /// [`Full`] gives the payload back when the queue is full even after a flush.
    fn send(&mut self, sock: Sock, payload: Payload, then: Then) -> Result<(), Full<Payload>>;

    /// Arms a reply ahead of its request: it goes out as soon as the first byte of a request is
    /// there, and then what came is reported as [`Completion::Received`]; at end-of-file nothing
    /// is sent and [`Completion::Ended`] is reported. A peer that has its reply may go on before the
    /// receive runs, so what came can be several requests, one of them answered. Arm again only after the received bytes have
    /// been parsed. Nothing may be in flight on the socket.
    ///
    /// # Errors
    /// [`Full`] gives the reply back when the queue is full even after a flush.
    fn arm(&mut self, sock: Sock, reply: Pinned) -> Result<(), Full<Pinned>>;

    /// Cancels what is in flight, joins all of it, then closes; [`Completion::Closed`] follows, and
    /// nothing else but what was already collected.
    fn close(&mut self, sock: Sock);

    /// Asks for the address of the other end; [`Completion::Peer`] follows.
    fn peer(&mut self, sock: Sock);

    /// Asks how far the bytes of earlier sends have come; [`Completion::Delivery`] follows, unless
    /// the socket is closed before. For sends that do not report by themselves: it costs system
    /// calls, and is meant for when a time limit has come up.
    fn delivery(&mut self, sock: Sock);

    /// Takes over a connected stream socket that did not come from a listener.
    ///
    /// # Errors
    /// `ENFILE` when there are too many of them.
    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Sock>;

    /// Connects to a server: [`Completion::Connected`] follows, or [`Completion::Failed`]. The
    /// name may be closed meanwhile, and used for nothing else.
    ///
    /// # Errors
    /// When there is no descriptor, the address is no good, or the queue is full (`EAGAIN`).
    fn connect(&mut self, address: &Address) -> io::Result<Sock>;

    /// One turn: hands over everything queued, waits until something happens or `wait` is over
    /// (`None`: for ever, zero: not at all), and appends what has happened to `out`.
    ///
    /// # Errors
    /// Only for faults that the driver cannot outlive; interruptions and back-pressure of the
    /// kernel end the turn early instead.
    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()>;

    /// The bytes of a received buffer.
    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8];

    /// Returns a buffer to the driver.
    fn give_back(&mut self, buffer: Buffer);

    /// Makes the memory of a region known to the kernel, so that zero-copy sends from it are
    /// cheaper. All of it becomes resident and counts as locked memory.
    ///
    /// # Errors
    /// Without the feature, or when the locked-memory limit is too small; sends work all the same.
    fn register(&mut self, region: &Region) -> io::Result<()>;

    /// A handle by which another thread ends a waiting turn with [`Completion::Woken`].
    fn waker(&self) -> Waker;

    /// Counters since the start.
    fn stats(&self) -> &Stats;

    /// What runs, and with which features.
    fn info(&self) -> Info;
}

/// A number for a new driver, so that its buffers are not mistaken for another's.
pub(crate) fn next_driver_id() -> u16 {
    static DRIVERS: AtomicU16 = AtomicU16::new(0);
    DRIVERS.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_small() {
        assert!(size_of::<Completion>() <= 32, "{} bytes", size_of::<Completion>());
    }
}
