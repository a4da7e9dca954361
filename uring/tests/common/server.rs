//! A small server over any driver, and clients that check its replies.
//!
//! A request is four bytes and its reply the same four, with a filler now and then between replies;
//! the first byte says what follows. Whatever breaks, replies must match requests in order.

use std::collections::HashMap;
use std::time::Duration;

use ember_uring::{Completion, Driver, ListenerId, Payload, Piece, Pinned, Sock, Then};

use super::world::{Client, End};

/// Numbers that follow from a seed.
pub struct Random(pub u64);

impl Random {
    /// A number from one to `max`.
    pub fn up_to(&mut self, max: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (self.0 >> 33) % max
    }
}

/// What a request asks for: its reply is the same four bytes, and then what the first one says.
const KEEP: u8 = 0;
const LAST: u8 = 1;
const LINGER: u8 = 2;

#[derive(Default)]
pub struct Connection {
    carry: Vec<u8>,
    /// What could not be queued yet.
    retry: Option<Retry>,
    lingering: bool,
    closing: bool,
}

enum Retry {
    Recv,
    Send(Payload, Then),
}

pub struct Server<D> {
    pub driver: D,
    listener: ListenerId,
    pub connections: HashMap<Sock, Connection>,
    pub filler: Pinned,
    /// How often a connection is closed for no reason, in a thousand turns.
    kills: u64,
    random: Random,
}

impl<D: Driver> Server<D> {
    pub fn new(
        driver: D,
        listener: ListenerId,
        filler: Pinned,
        kills: u64,
        seed: u64,
    ) -> Server<D> {
        let connections = HashMap::new();
        Server { driver, listener, connections, filler, kills, random: Random(seed) }
    }

    pub fn turn(&mut self, wait: Duration) {
        let mut out = Vec::new();
        self.driver.turn(Some(wait), &mut out).unwrap();
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
        if self.random.up_to(1000) <= self.kills {
            let open = self.connections.iter().find(|(_, connection)| !connection.closing);
            if let Some(sock) = open.map(|(sock, _)| *sock) {
                self.close(sock);
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
                if !connection.closing {
                    self.recv(sock);
                }
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
        // Collected before the close, in the same turn.
        if connection.closing {
            return;
        }
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
        let filler = Piece::Pinned(self.filler.clone());
        let pieces = vec![Piece::Owned(reply), filler];
        self.send(sock, pieces.into(), then);
    }

    fn recv(&mut self, sock: Sock) {
        if self.driver.recv(sock).is_err() {
            self.later(sock, Retry::Recv);
        }
    }

    fn send(&mut self, sock: Sock, payload: Payload, then: Then) {
        if let Err(full) = self.driver.send(sock, payload, then) {
            self.later(sock, Retry::Send(full.0, then));
        }
    }

    fn later(&mut self, sock: Sock, what: Retry) {
        self.connections.get_mut(&sock).expect("a live connection").retry = Some(what);
    }

    fn close(&mut self, sock: Sock) {
        let connection = self.connections.get_mut(&sock).expect("a live connection");
        if connection.closing {
            return;
        }
        connection.closing = true;
        connection.retry = None;
        self.driver.close(sock);
    }
}

/// A client, what it will still send, and what it has got.
pub struct Talk<C> {
    pub client: Option<C>,
    requests: Vec<u8>,
    sent: usize,
    got: Vec<u8>,
}

pub const FILLER: &[u8] = b"...and so on, for a while";

impl<C: Client> Talk<C> {
    pub fn new(client: C, number: u8, random: &mut Random) -> Talk<C> {
        let count = random.up_to(8) as u8;
        let mut requests: Vec<u8> = (0..count).flat_map(|n| [KEEP, number, n, b'?']).collect();
        let last = if random.up_to(2) == 1 { LAST } else { LINGER };
        requests.extend([last, number, count, b'!']);
        Talk { client: Some(client), requests, sent: 0, got: Vec::new() }
    }

    /// A step of a client that sends and reads as it likes, and goes away `leaves` times in a
    /// thousand. `complete`: unless something breaks, all replies must come.
    pub fn step(&mut self, random: &mut Random, leaves: u64, complete: bool) {
        let Some(client) = &mut self.client else { return };
        if self.sent < self.requests.len() {
            let part = (random.up_to(6) as usize).min(self.requests.len() - self.sent);
            client.write(&self.requests[self.sent..self.sent + part]);
            self.sent += part;
        }
        if random.up_to(3) == 1 {
            self.got.extend(client.read());
        }
        let end = client.end();
        if end != End::Open || random.up_to(1000) <= leaves {
            self.check(complete && end == End::Closed);
            let client = self.client.take();
            if random.up_to(2) == 1 {
                client.into_iter().for_each(C::reset);
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
