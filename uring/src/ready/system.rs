//! What a driver over readiness needs of the world.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::{Address, Delivery, Errno, Payload, PeerAddr};

/// Non-blocking sockets, and a way to wait until they are worth trying. Readiness is
/// edge-triggered: an event tells of a change once.
pub trait System {
    /// A connected socket; closed when dropped.
    type Socket;
    /// A listening socket.
    type Listener;

    /// The backend's name.
    const NAME: &'static str;

    /// Takes a listening socket, to be watched as `index`.
    fn listen(&mut self, fd: OwnedFd, index: u32) -> io::Result<Self::Listener>;
    /// Watches a listener or stops it.
    fn watch(&mut self, listener: &Self::Listener, index: u32, on: bool);
    /// Takes one connection.
    fn accept(&mut self, listener: &Self::Listener) -> Result<Self::Socket, Errno>;
    /// Takes over a connected socket.
    fn adopt(&mut self, fd: OwnedFd) -> io::Result<Self::Socket>;
    /// Begins to connect.
    fn connect(&mut self, address: &Address) -> io::Result<Self::Socket>;
    /// How connecting ended; `None` while it has not.
    fn connected(&mut self, socket: &Self::Socket) -> Option<Result<(), Errno>>;
    /// Watches a socket from now on.
    fn add(&mut self, socket: &Self::Socket, slot: u32) -> Result<(), Errno>;
    /// Receives; zero is the end.
    fn recv(&mut self, socket: &Self::Socket, memory: &mut [u8]) -> Result<usize, Errno>;
    /// Whether there is a byte, without taking it; zero is the end.
    fn peek(&mut self, socket: &Self::Socket) -> Result<usize, Errno>;
    /// Sends some of a payload after its first `sent` bytes.
    fn send(
        &mut self,
        socket: &Self::Socket,
        what: &mut Payload,
        sent: usize,
    ) -> Result<usize, Errno>;
    /// Shuts down the writing side.
    fn shutdown(&mut self, socket: &Self::Socket) -> Result<(), Errno>;
    /// The address of the other end.
    fn peer(&mut self, socket: &Self::Socket) -> io::Result<PeerAddr>;
    /// How far the bytes that were sent have come.
    fn delivery(&mut self, socket: &Self::Socket) -> Result<Delivery, Errno>;
    /// Waits for events, and appends them.
    fn wait(&mut self, wait: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;
    /// Whether to refuse an operation as a full queue would.
    fn refuses(&mut self) -> bool {
        false
    }
}

/// What has become worth trying.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A connection waits on the listener with this index.
    Acceptable(u32),
    /// Somebody used the waker.
    Woken,
    /// The socket in this slot.
    Ready {
        /// The slot.
        slot: u32,
        /// Bytes, an end or an error may be received.
        readable: bool,
        /// Bytes may be sent.
        writable: bool,
        /// The peer sends no more.
        hung_up: bool,
    },
}
