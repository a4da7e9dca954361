//! What the tests of all drivers share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of this module")]

pub mod server;
pub mod trace;
pub mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use ember_uring::{Completion, Driver, ListenerId, Region, Sock};

/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A driver, and the completions nobody has looked at yet.
pub struct Bench<D> {
    pub driver: D,
    pub region: Region,
    out: std::collections::VecDeque<Completion>,
}

impl<D: Driver> Bench<D> {
    pub fn new(driver: D) -> Bench<D> {
        Bench { driver, region: Region::new(1 << 21).unwrap(), out: Default::default() }
    }

    /// A TCP listener of the driver on a free port.
    pub fn listen(&mut self) -> (ListenerId, SocketAddr) {
        self.listen_at("127.0.0.1:0")
    }

    pub fn listen_at(&mut self, address: &str) -> (ListenerId, SocketAddr) {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        (self.driver.accept(OwnedFd::from(listener)).unwrap(), address)
    }

    /// A client and its accepted socket.
    pub fn connected(&mut self) -> (TcpStream, Sock) {
        let (_, address) = self.listen();
        self.connected_to(address)
    }

    pub fn connected_to(&mut self, address: SocketAddr) -> (TcpStream, Sock) {
        let client = TcpStream::connect(address).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, self.accepted())
    }

    pub fn turn(&mut self, wait: Duration) {
        let mut out = Vec::new();
        self.driver.turn(Some(wait), &mut out).unwrap();
        self.out.extend(out);
    }

    /// The next completion, whatever it is.
    #[track_caller]
    pub fn next(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.out.pop_front() {
                return completion;
            }
            assert!(Instant::now() < deadline, "nothing completed");
            self.turn(Duration::from_millis(200));
        }
    }

    /// What has completed already, without waiting for more.
    pub fn pending(&mut self) -> Vec<Completion> {
        self.turn(Duration::ZERO);
        self.out.drain(..).collect()
    }

    #[track_caller]
    pub fn accepted(&mut self) -> Sock {
        match self.next() {
            Completion::Accepted { sock, .. } => sock,
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// The bytes of the next completion, which must be a receive on this socket.
    #[track_caller]
    pub fn received(&mut self, sock: Sock) -> Vec<u8> {
        match self.next() {
            Completion::Received { sock: on, buffer } => {
                assert_eq!(on, sock);
                let bytes = self.driver.bytes(&buffer).to_vec();
                self.driver.give_back(buffer);
                bytes
            }
            other => panic!("not received: {other:?}"),
        }
    }

    #[track_caller]
    pub fn ended(&mut self, sock: Sock) {
        match self.next() {
            Completion::Ended { sock: on } if on == sock => {}
            other => panic!("not ended: {other:?}"),
        }
    }

    #[track_caller]
    pub fn sent(&mut self, sock: Sock) {
        match self.next() {
            Completion::Sent { sock: on } if on == sock => {}
            other => panic!("not sent: {other:?}"),
        }
    }

    #[track_caller]
    pub fn closed(&mut self, sock: Sock) {
        match self.next() {
            Completion::Closed { sock: on } if on == sock => {}
            other => panic!("not closed: {other:?}"),
        }
    }

    /// Waits for the end of a socket, giving back and ignoring what comes before it.
    #[track_caller]
    pub fn drained(&mut self, sock: Sock) {
        loop {
            match self.next() {
                Completion::Closed { sock: on } if on == sock => return,
                Completion::Received { buffer, .. } => self.driver.give_back(buffer),
                _ => {}
            }
        }
    }
}

/// Reads exactly `len` bytes.
#[track_caller]
pub fn read(client: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads until the other side closes.
#[track_caller]
pub fn read_end(client: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    bytes
}

#[track_caller]
pub fn write(client: &mut impl Write, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
}

/// Makes the client's close a reset.
pub fn reset(client: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(client);
}

/// A unix listener in a directory of its own, and a way to connect.
pub fn unix_pair() -> (UnixListener, impl Fn() -> UnixStream) {
    use std::os::linux::net::SocketAddrExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ember-uring-test-{}-{count}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    (listener, move || UnixStream::connect_addr(&address).unwrap())
}
