//! Every driver with its clients, behind one face, so that one suite runs against all.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use ember_uring::{
    Address, Driver, Epoll, LinkForm, ListenerId, Options, Sim, SimClient, SimNet, SimOptions,
    Uring,
};

/// How a client sees its connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    Closed,
    Reset,
}

pub trait Client {
    fn write(&mut self, bytes: &[u8]);
    /// What has arrived, without waiting.
    fn read(&mut self) -> Vec<u8>;
    fn end(&mut self) -> End;
    fn shutdown(&mut self);
    fn reset(self);
}

pub trait World {
    type Driver: Driver;
    type Client: Client;

    fn driver(&mut self) -> &mut Self::Driver;
    fn listen(&mut self) -> ListenerId;
    fn connect(&mut self, listener: ListenerId) -> Self::Client;
    /// A server for the driver to connect to.
    fn serve(&mut self) -> Address;
    /// Refuses or takes the driver's next connection; `None` while there is none.
    fn serve_one(&mut self) -> Option<Self::Client>;
    /// An address where nobody listens.
    fn nowhere(&mut self) -> Address;
    /// Sees to it that a connection to nowhere fails.
    fn refuse_one(&mut self);
}

/// A driver on the kernel's sockets.
pub struct Real<D> {
    driver: D,
    addresses: Vec<SocketAddr>,
    server: Option<TcpListener>,
}

pub struct Tcp {
    stream: TcpStream,
    unread: Vec<u8>,
    end: End,
}

pub struct Simulated {
    driver: Sim,
    net: SimNet,
}

/// Small limits, so that they are met.
pub fn options() -> Options {
    Options { entries: 64, cq_entries: 256, sockets_max: 64, buffers: 32, ..Options::default() }
}

pub fn ring(form: LinkForm) -> Real<Uring> {
    real(Uring::new(Options { form, ..options() }).unwrap())
}

/// As on a kernel without direct descriptors' companions.
pub fn ring_ordinary() -> Real<Uring> {
    real(Uring::new(Options { direct: false, ..options() }).unwrap())
}

pub fn ring_try_first() -> Real<Uring> {
    real(Uring::new(Options { poll_first: false, ..options() }).unwrap())
}

pub fn ring_zero_copy() -> Real<Uring> {
    real(Uring::new(Options { zero_copy_min: Some(1), ..options() }).unwrap())
}

/// All that a kernel 6.1 lacks is missing.
pub fn ring_old() -> Real<Uring> {
    let newer = ["no_sqarray", "fixed_fd_install", "min_timeout", "incremental_buffers"];
    let avoid = newer.into_iter().chain(["registered_ring_fd"]).map(str::to_owned).collect();
    real(Uring::new(Options { avoid, ..options() }).unwrap())
}

/// Without the best set-up, as for a ring whose thread is not its own.
pub fn ring_coop() -> Real<Uring> {
    let avoid = vec!["defer_taskrun".to_owned()];
    real(Uring::new(Options { avoid, ..options() }).unwrap())
}

/// Everything that is opt-in and changes how things are done.
pub fn ring_opted_in() -> Real<Uring> {
    let min_wait = Duration::from_micros(50);
    let opted = Options {
        incremental: true,
        shutdown_last: true,
        restrict: true,
        min_wait,
        min_completions: 4,
        busy_poll: Some(min_wait),
        ..options()
    };
    real(Uring::new(opted).unwrap())
}

pub fn ring_sqpoll() -> Real<Uring> {
    real(Uring::new(Options { sqpoll_cpu: Some(0), ..options() }).unwrap())
}

pub fn epoll() -> Real<Epoll> {
    real(Epoll::new(&options()).unwrap())
}

pub fn sim(seed: u64) -> Simulated {
    let driver = Sim::new(&options(), SimOptions::gentle(seed)).unwrap();
    let net = driver.net();
    Simulated { driver, net }
}

fn real<D>(driver: D) -> Real<D> {
    Real::new(driver)
}

impl<D> Real<D> {
    pub fn new(driver: D) -> Real<D> {
        Real { driver, addresses: Vec::new(), server: None }
    }

    pub fn into_driver(self) -> D {
        self.driver
    }
}

impl<D: Driver> World for Real<D> {
    type Driver = D;
    type Client = Tcp;

    fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    fn listen(&mut self) -> ListenerId {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Connections inherit it: large replies must not fit.
        nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::SndBuf, &16384).unwrap();
        self.addresses.push(listener.local_addr().unwrap());
        self.driver.accept(OwnedFd::from(listener)).unwrap()
    }

    fn connect(&mut self, listener: ListenerId) -> Tcp {
        let stream = TcpStream::connect(self.addresses[listener.index()]).unwrap();
        stream.set_nodelay(true).unwrap();
        Tcp::new(stream)
    }

    fn serve(&mut self) -> Address {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let address = server.local_addr().unwrap();
        self.server = Some(server);
        Address::Inet(address)
    }

    fn serve_one(&mut self) -> Option<Tcp> {
        let (stream, _) = self.server.as_ref()?.accept().ok()?;
        Some(Tcp::new(stream))
    }

    fn nowhere(&mut self) -> Address {
        // The port is free again when the listener goes.
        Address::Inet(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
    }

    fn refuse_one(&mut self) {}
}

impl Tcp {
    fn new(stream: TcpStream) -> Tcp {
        stream.set_nonblocking(true).unwrap();
        Tcp { stream, unread: Vec::new(), end: End::Open }
    }

    fn fill(&mut self) {
        let mut part = [0; 65536];
        while self.end == End::Open {
            match self.stream.read(&mut part) {
                Ok(0) => self.end = End::Closed,
                Ok(len) => self.unread.extend(&part[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.end = End::Reset,
            }
        }
    }
}

impl Client for Tcp {
    fn write(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).is_err() {
            self.end = End::Reset;
        }
    }

    fn read(&mut self) -> Vec<u8> {
        self.fill();
        std::mem::take(&mut self.unread)
    }

    fn end(&mut self) -> End {
        self.fill();
        if self.unread.is_empty() { self.end } else { End::Open }
    }

    fn shutdown(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    fn reset(self) {
        super::reset(self.stream);
    }
}

impl World for Simulated {
    type Driver = Sim;
    type Client = SimClient;

    fn driver(&mut self) -> &mut Sim {
        &mut self.driver
    }

    fn listen(&mut self) -> ListenerId {
        // A descriptor is asked for and never used.
        let any = std::fs::File::open("/dev/null").unwrap();
        self.driver.accept(OwnedFd::from(any)).unwrap()
    }

    fn connect(&mut self, listener: ListenerId) -> SimClient {
        self.net.connect(listener)
    }

    fn serve(&mut self) -> Address {
        Address::Unix("server".into())
    }

    fn serve_one(&mut self) -> Option<SimClient> {
        let (address, mut client) = self.net.next_connect()?;
        assert_eq!(address, self.serve());
        client.welcome();
        Some(client)
    }

    fn nowhere(&mut self) -> Address {
        Address::Unix("nowhere".into())
    }

    fn refuse_one(&mut self) {
        let (_, client) = self.net.next_connect().unwrap();
        client.reset();
    }
}

impl Client for SimClient {
    fn write(&mut self, bytes: &[u8]) {
        SimClient::write(self, bytes);
    }

    fn read(&mut self) -> Vec<u8> {
        SimClient::read(self)
    }

    fn end(&mut self) -> End {
        match (self.is_reset(), self.is_ended()) {
            (true, _) => End::Reset,
            (false, true) => End::Closed,
            (false, false) => End::Open,
        }
    }

    fn shutdown(&mut self) {
        SimClient::shutdown(self);
    }

    fn reset(self) {
        SimClient::reset(self);
    }
}

/// How long one turn of a waiting test takes at most.
pub const STEP: Duration = Duration::from_millis(5);
