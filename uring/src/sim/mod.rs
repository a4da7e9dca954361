//! A simulated network under a seed: the same driver as over epoll, on sockets that live in memory.
//!
//! Time is simulated too: a turn takes as long as it waits, and [`SimNet::now`] is the clock. Bytes
//! arrive late and split, windows fill, queues are refused, descriptors run out and connections
//! break, as often as [`SimOptions`] says. The same seed and the same calls give the same run.

mod net;
mod random;

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use self::net::Net;
pub use self::net::{SimClient, SimNet};
use crate::ready::{Event, Ready, System};
use crate::{Address, Delivery, Errno, Options, Payload, PeerAddr, Waker};

/// The simulation's driver.
pub type Sim = Ready<Simulated>;

/// What is simulated. Rates are chances out of a thousand.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Decides everything.
    pub seed: u64,
    /// An event is held back for another turn.
    pub delay: u32,
    /// Bytes arrive in parts rather than all at once.
    pub split: u32,
    /// A send is told to try later.
    pub stall: u32,
    /// A receive or send finds the connection reset.
    pub reset: u32,
    /// An accept finds no descriptor.
    pub exhausted: u32,
    /// An operation is refused as by a full queue.
    pub full: u32,
    /// Bytes that a client may leave unread before sends stall.
    pub window: usize,
}

impl SimOptions {
    /// Late and split, but nothing fails.
    #[must_use]
    pub fn gentle(seed: u64) -> SimOptions {
        let (delay, split, stall) = (250, 500, 100);
        let window = 64 << 10;
        SimOptions { seed, delay, split, stall, reset: 0, exhausted: 0, full: 0, window }
    }

    /// Everything fails now and then.
    #[must_use]
    pub fn rough(seed: u64) -> SimOptions {
        SimOptions { reset: 5, exhausted: 20, full: 20, window: 2 << 10, ..Self::gentle(seed) }
    }
}

/// The simulated sockets of one driver.
pub struct Simulated {
    net: Rc<RefCell<Net>>,
    waker: Waker,
}

/// The server's end of a simulated connection.
pub struct SimSocket {
    net: Rc<RefCell<Net>>,
    connection: usize,
}

/// A simulated listener; its descriptor is kept and never used.
pub struct SimListener {
    net: Rc<RefCell<Net>>,
    index: usize,
    _fd: OwnedFd,
}

impl Sim {
    /// Makes a driver on a network of its own.
    ///
    /// # Errors
    /// When there is no descriptor for the waker.
    pub fn new(options: &Options, sim: SimOptions) -> io::Result<Sim> {
        let net = Rc::new(RefCell::new(Net::new(sim)));
        let waker = Waker::new()?;
        let system = Simulated { net, waker: waker.clone() };
        Ok(Ready::over(system, options, waker, options.sockets_max))
    }

    /// The other side: where clients come from.
    #[must_use]
    pub fn net(&self) -> SimNet {
        SimNet::new(Rc::clone(&self.system().net))
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.net.borrow_mut().server_closes(self.connection);
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.net.borrow_mut().stops_listening(self.index);
    }
}

impl System for Simulated {
    type Socket = SimSocket;
    type Listener = SimListener;

    const NAME: &'static str = "sim";

    fn listen(&mut self, fd: OwnedFd, index: u32) -> io::Result<SimListener> {
        self.net.borrow_mut().listen();
        Ok(SimListener { net: Rc::clone(&self.net), index: index as usize, _fd: fd })
    }

    fn watch(&mut self, listener: &SimListener, _index: u32, on: bool) {
        self.net.borrow_mut().watch(listener.index, on);
    }

    fn accept(&mut self, listener: &SimListener) -> Result<SimSocket, Errno> {
        let connection = self.net.borrow_mut().accept(listener.index)?;
        Ok(SimSocket { net: Rc::clone(&self.net), connection })
    }

    fn adopt(&mut self, _fd: OwnedFd) -> io::Result<SimSocket> {
        // A descriptor of the real world has no place in this one.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn connect(&mut self, address: &Address) -> io::Result<SimSocket> {
        let connection = self.net.borrow_mut().connect(address);
        Ok(SimSocket { net: Rc::clone(&self.net), connection })
    }

    fn connected(&mut self, socket: &SimSocket) -> Option<Result<(), Errno>> {
        self.net.borrow_mut().connected(socket.connection)
    }

    fn add(&mut self, socket: &SimSocket, slot: u32) -> Result<(), Errno> {
        self.net.borrow_mut().add(socket.connection, slot);
        Ok(())
    }

    fn recv(&mut self, socket: &SimSocket, memory: &mut [u8]) -> Result<usize, Errno> {
        self.net.borrow_mut().recv(socket.connection, memory)
    }

    fn peek(&mut self, socket: &SimSocket) -> Result<usize, Errno> {
        self.net.borrow_mut().peek(socket.connection)
    }

    fn send(
        &mut self,
        socket: &SimSocket,
        what: &mut Payload,
        sent: usize,
    ) -> Result<usize, Errno> {
        let mut net = self.net.borrow_mut();
        match what {
            Payload::Pinned(pinned) => net.send(socket.connection, &pinned[sent..]),
            Payload::Owned(bytes) => net.send(socket.connection, &bytes[sent..]),
            Payload::Gather(gather) => {
                let rest = gather.copy(sent).map_err(|_| Errno::EFAULT)?;
                net.send(socket.connection, &rest)
            }
        }
    }

    fn shutdown(&mut self, socket: &SimSocket) -> Result<(), Errno> {
        self.net.borrow_mut().shutdown(socket.connection)
    }

    fn peer(&mut self, socket: &SimSocket) -> io::Result<PeerAddr> {
        let port = 1024 + (socket.connection % 60_000) as u16;
        Ok(PeerAddr::Inet(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
    }

    fn delivery(&mut self, socket: &SimSocket) -> Result<Delivery, Errno> {
        Ok(self.net.borrow().delivery(socket.connection))
    }

    fn wait(&mut self, wait: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let woken = self.waker.clear();
        if woken {
            // The driver clears it itself.
            self.waker.wake();
            events.push(Event::Woken);
        }
        self.net.borrow_mut().wait(if woken { Some(Duration::ZERO) } else { wait }, events);
        Ok(())
    }

    fn refuses(&mut self) -> bool {
        self.net.borrow_mut().refuses()
    }
}
