//! A small server on the simulated driver, under many seeds: whatever breaks, replies match
//! requests in order, every operation ends once, and nothing is left over.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ember_uring::{
    Completion, Driver, ListenerId, Options, Pinned, Region, Sim, SimClient, SimNet, SimOptions,
    Sock, Then,
};

const BUFFERS: u16 = 4;
const CLIENTS: usize = 12;
/// A turn that makes no progress at all is followed by one that does, long before this many.
const TURNS_MAX: usize = 20_000;

/// What a request asks for: its reply is the same four bytes, and then what the first one says.
const KEEP: u8 = 0;
const LAST: u8 = 1;
const LINGER: u8 = 2;

#[derive(Default)]
struct Connection {
    carry: Vec<u8>,
    /// What could not be queued yet.
    retry: Option<Retry>,
    lingering: bool,
    closing: bool,
}

enum Retry {
    Recv,
    Send(ember_uring::Payload, Then),
}

struct Server {
    driver: Sim,
    listener: ListenerId,
    connections: HashMap<Sock, Connection>,
    filler: Pinned,
}

impl Server {
    fn turn(&mut self) {
        let mut out = Vec::new();
        self.driver.turn(Some(Duration::from_millis(10)), &mut out).unwrap();
        for completion in out {
            self.handle(completion);
        }
        let waiting: Vec<_> = self.connections.keys().copied().collect();
        for sock in waiting {
            match self.connections.get_mut(&sock).and_then(|c| c.retry.take()) {
                Some(Retry::Recv) => self.recv(sock),
                Some(Retry::Send(payload, then)) => self.send(sock, payload, then),
                None => {}
            }
        }
    }

    fn handle(&mut self, completion: Completion) {
        match completion {
            Completion::Accepted { listener, sock } => {
                assert_eq!(listener, self.listener);
                assert!(self.connections.insert(sock, Connection::default()).is_none());
                self.recv(sock);
            }
            Completion::AcceptPaused { listener, .. } => self.driver.resume(listener),
            Completion::Received { sock, buffer } => {
                let bytes = self.driver.bytes(&buffer).to_vec();
                self.driver.give_back(buffer);
                self.received(sock, &bytes);
            }
            Completion::Sent { sock } => {
                let connection = self.connections.get_mut(&sock).expect("a live connection");
                assert!(connection.lingering, "only a lingering close reports its send");
                self.recv(sock);
            }
            Completion::Ended { sock } | Completion::Failed { sock, .. } => self.close(sock),
            Completion::Closed { sock } => {
                assert!(self.connections.remove(&sock).is_some(), "closed once");
            }
            other => panic!("unasked: {other:?}"),
        }
    }

    fn received(&mut self, sock: Sock, bytes: &[u8]) {
        let connection = self.connections.get_mut(&sock).expect("a live connection");
        assert!(!connection.closing, "nothing but the end after a close");
        if connection.lingering {
            return self.recv(sock);
        }
        connection.carry.extend(bytes);
        let whole = connection.carry.len() / 4 * 4;
        if whole == 0 {
            return self.recv(sock);
        }
        let mut reply: Vec<u8> = connection.carry.drain(..whole).collect();
        let end = reply.chunks(4).position(|request| request[0] != KEEP);
        let kind = end.map_or(KEEP, |at| reply[at * 4]);
        if let Some(at) = end {
            reply.truncate(at * 4 + 4);
        }
        let then = match kind {
            LAST => Then::Close,
            LINGER => {
                connection.lingering = true;
                Then::Shutdown
            }
            _ => Then::Recv,
        };
        let filler = ember_uring::Piece::Pinned(self.filler.clone());
        let pieces = vec![ember_uring::Piece::Owned(reply), filler];
        self.send(sock, pieces.into(), then);
    }

    fn recv(&mut self, sock: Sock) {
        if self.driver.recv(sock).is_err() {
            self.later(sock, Retry::Recv);
        }
    }

    fn send(&mut self, sock: Sock, payload: ember_uring::Payload, then: Then) {
        if let Err(full) = self.driver.send(sock, payload, then) {
            self.later(sock, Retry::Send(full.0, then));
        }
    }

    fn later(&mut self, sock: Sock, what: Retry) {
        self.connections.get_mut(&sock).expect("a live connection").retry = Some(what);
    }

    fn close(&mut self, sock: Sock) {
        let connection = self.connections.get_mut(&sock).expect("a live connection");
        assert!(!connection.closing, "closed twice");
        connection.closing = true;
        connection.retry = None;
        self.driver.close(sock);
    }
}

/// A client, what it will still send, and what it has got.
struct Talk {
    client: Option<SimClient>,
    requests: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
}

const FILLER: &[u8] = b"...and so on, for a while";

impl Talk {
    fn new(net: &SimNet, listener: ListenerId, number: u8) -> Talk {
        let count = net.random(8) as u8;
        let mut requests: Vec<u8> = (0..count).flat_map(|n| [KEEP, number, n, b'?']).collect();
        requests.extend([[LAST, LINGER][net.random(2) - 1], number, count, b'!']);
        Talk { client: Some(net.connect(listener)), requests, sent: 0, got: Vec::new() }
    }

    /// A step of a client that sends and reads as it likes, and sometimes goes away.
    fn step(&mut self, net: &SimNet, rough: bool) {
        let Some(client) = &mut self.client else { return };
        if self.sent < self.requests.len() {
            let part = net.random(6).min(self.requests.len() - self.sent);
            client.write(&self.requests[self.sent..self.sent + part]);
            self.sent += part;
        }
        if net.random(3) == 1 {
            let part = client.read_some(net.random(64));
            self.got.extend(part);
        }
        let over = client.is_ended() || client.is_reset();
        if over || rough && net.random(200) == 1 {
            self.check(over && !self.client.as_ref().is_some_and(SimClient::is_reset));
            let client = self.client.take();
            if net.random(2) == 1 {
                client.into_iter().for_each(SimClient::reset);
            }
        }
    }

    /// The replies are those to the requests, in order, all of them if nothing broke.
    fn check(&self, whole: bool) {
        let mut rest = self.got.as_slice();
        let mut replied = 0;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix(FILLER) {
                rest = after;
                continue;
            }
            if FILLER.starts_with(rest) {
                break;
            }
            let len = rest.len().min(4);
            let request = &self.requests[replied * 4..][..len];
            assert_eq!(&rest[..len], request, "reply {replied}");
            replied += usize::from(len == 4);
            rest = &rest[len..];
        }
        assert!(!whole || replied * 4 == self.requests.len(), "{replied} replies");
    }
}

fn run(seed: u64, rough: bool) {
    let sim = if rough { SimOptions::rough(seed) } else { SimOptions::gentle(seed) };
    let options =
        Options { buffers: BUFFERS, buffer_size: 16, sockets_max: 8, ..Options::default() };
    let mut driver = Sim::new(&options, sim).unwrap();
    let net = driver.net();
    let listener = driver.accept(OwnedFd::from(File::open("/dev/null").unwrap())).unwrap();
    let region = Region::new(4096).unwrap();
    let filler = region.alloc_from(FILLER).unwrap();
    let connections = HashMap::new();
    let mut server = Server { driver, listener, connections, filler };
    let mut talks: Vec<_> =
        (0..CLIENTS).map(|number| Talk::new(&net, listener, number as u8)).collect();
    for turn in 0.. {
        assert!(turn < TURNS_MAX, "no end in sight");
        server.turn();
        talks.iter_mut().for_each(|talk| talk.step(&net, rough));
        let idle = server.connections.is_empty() && net.connections() == 0;
        if idle && talks.iter().all(|talk| talk.client.is_none()) {
            break;
        }
    }
    assert_eq!(server.driver.stats().sockets, 0);
    assert_eq!(server.driver.buffers_free(), usize::from(BUFFERS));
    assert!(server.filler.is_unique(), "every payload has been given up");
}

#[test]
fn replies_match_requests_under_any_seed() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1000);
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..seeds, |seed: u64| seed..seed + 1);
    for seed in seeds {
        for rough in [false, true] {
            let run = std::panic::catch_unwind(|| run(seed, rough));
            if let Err(panic) = run {
                eprintln!("failed with SEED={seed}, rough={rough}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let trace = |seed| {
        let mut driver = Sim::new(&Options::default(), SimOptions::rough(seed)).unwrap();
        let net = driver.net();
        let listener = driver.accept(OwnedFd::from(File::open("/dev/null").unwrap())).unwrap();
        let mut clients: Vec<_> = (0..4).map(|_| net.connect(listener)).collect();
        let mut trace = Vec::new();
        for _ in 0..200 {
            let mut out = Vec::new();
            driver.turn(None, &mut out).unwrap();
            for completion in out {
                trace.push(format!("{:?} {completion:?}", net.now()).replace("driver", ""));
                match completion {
                    Completion::Accepted { sock, .. } => drop(driver.recv(sock)),
                    Completion::Received { sock, buffer } => {
                        driver.give_back(buffer);
                        drop(driver.recv(sock));
                    }
                    Completion::AcceptPaused { listener, .. } => driver.resume(listener),
                    _ => {}
                }
            }
            clients.iter_mut().for_each(|client| client.write(b"abc"));
        }
        // A buffer names its driver, which is another one each time.
        trace.iter().map(|line| line.split(", buffer").next().unwrap().to_owned()).collect()
    };
    let (once, again, other): (Vec<_>, Vec<_>, Vec<_>) = (trace(7), trace(7), trace(8));
    assert!(once.len() > 20);
    assert_eq!(once, again);
    assert_ne!(once, other);
}
