//! Both ends of the simulated connections.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::SimOptions;
use super::random::Random;
use crate::ready::Event;
use crate::{Address, Delivery, Errno, ListenerId};

/// The clients' side of a simulated network.
#[derive(Clone)]
pub struct SimNet {
    net: Rc<RefCell<Net>>,
}

/// The client's end of a simulated connection. Dropping it closes.
pub struct SimClient {
    net: Rc<RefCell<Net>>,
    connection: usize,
}

impl SimNet {
    pub(super) fn new(net: Rc<RefCell<Net>>) -> SimNet {
        SimNet { net }
    }

    /// Connects: the driver may accept it from now on.
    ///
    /// # Panics
    /// When the driver has no such listener yet.
    #[must_use]
    pub fn connect(&self, listener: ListenerId) -> SimClient {
        let mut net = self.net.borrow_mut();
        let connection = net.connections.insert(Connection::default());
        net.listeners[listener.index()].backlog.push_back(connection);
        SimClient { net: Rc::clone(&self.net), connection }
    }

    /// Takes the next connection that the driver has begun: the harness is the server. Refuse it
    /// with [`SimClient::reset`], accept it with [`SimClient::welcome`].
    #[must_use]
    pub fn next_connect(&self) -> Option<(Address, SimClient)> {
        let (address, connection) = self.net.borrow_mut().outgoing.pop_front()?;
        Some((address, SimClient { net: Rc::clone(&self.net), connection }))
    }

    /// The simulated time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.net.borrow().now
    }

    /// Lets time pass between two turns.
    pub fn advance(&self, time: Duration) {
        self.net.borrow_mut().now += time;
    }

    /// Connections of which either end is still open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.net.borrow().connections.len()
    }

    /// A number from one to `max`, so that a harness follows the same seed.
    #[must_use]
    pub fn random(&self, max: usize) -> usize {
        self.net.borrow_mut().random.up_to(max)
    }
}

impl SimClient {
    /// Lets a connection that the driver has begun succeed.
    pub fn welcome(&mut self) {
        self.change(|connection| {
            connection.connecting = false;
            connection.news_out = true;
        });
    }

    /// Sends; the server gets it late and in parts.
    pub fn write(&mut self, bytes: &[u8]) {
        self.change(|connection| {
            connection.inbound.extend(bytes);
            connection.news_in = true;
        });
    }

    /// Takes everything that has arrived.
    pub fn read(&mut self) -> Vec<u8> {
        self.read_some(usize::MAX)
    }

    /// Takes at most so much, which makes room in the window.
    pub fn read_some(&mut self, max: usize) -> Vec<u8> {
        self.change(|connection| {
            let len = connection.outbound.len().min(max);
            connection.taken = connection.taken.wrapping_add(len as u32);
            connection.news_out |= len > 0;
            connection.outbound.drain(..len).collect()
        })
    }

    /// Sends no more.
    pub fn shutdown(&mut self) {
        self.change(|connection| {
            connection.inbound_ends = true;
            connection.news_in = true;
        });
    }

    /// Breaks the connection: the server sees a reset.
    pub fn reset(mut self) {
        self.change(Connection::break_off);
    }

    /// Whether the server has closed its side, and everything has been read.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        let net = self.net.borrow();
        let connection = &net.connections[self.connection];
        connection.outbound_ends && connection.outbound.is_empty()
    }

    /// Whether the connection broke.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.net.borrow().connections[self.connection].broken
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Connection) -> T) -> T {
        change(&mut self.net.borrow_mut().connections[self.connection])
    }
}

impl Drop for SimClient {
    fn drop(&mut self) {
        let mut net = self.net.borrow_mut();
        let connection = &mut net.connections[self.connection];
        connection.client_gone = true;
        connection.inbound_ends = true;
        connection.news_in = true;
        connection.news_out = true;
        net.forget_if_over(self.connection);
    }
}

#[derive(Default)]
struct Connection {
    /// The driver's slot, once it watches.
    slot: Option<u32>,
    /// Begun by the driver, and not yet accepted by the harness.
    connecting: bool,
    /// From the client to the server; the first `arrived` of them are there.
    inbound: VecDeque<u8>,
    arrived: usize,
    inbound_ends: bool,
    end_arrived: bool,
    outbound: VecDeque<u8>,
    /// How many bytes the client has read, modulo 2^32.
    taken: u32,
    outbound_ends: bool,
    broken: bool,
    client_gone: bool,
    server_gone: bool,
    /// Something has changed that the driver has not been told.
    news_in: bool,
    news_out: bool,
}

impl Connection {
    fn break_off(&mut self) {
        self.broken = true;
        self.inbound.clear();
        self.arrived = 0;
        self.outbound.clear();
        self.outbound_ends = true;
        self.news_in = true;
        self.news_out = true;
    }
}

#[derive(Default)]
struct Listener {
    backlog: VecDeque<usize>,
    watched: bool,
}

pub(super) struct Net {
    options: SimOptions,
    random: Random,
    now: Duration,
    listeners: Vec<Listener>,
    connections: Slab<Connection>,
    outgoing: VecDeque<(Address, usize)>,
}

/// How long a turn takes in which something happened.
const STEP_MAX_US: usize = 200;

impl Net {
    pub(super) fn new(options: SimOptions) -> Net {
        let random = Random::new(options.seed);
        let (listeners, connections) = (Vec::new(), Slab::new());
        let (now, outgoing) = (Duration::ZERO, VecDeque::new());
        Net { options, random, now, listeners, connections, outgoing }
    }

    pub(super) fn listen(&mut self) {
        self.listeners.push(Listener { watched: true, ..Listener::default() });
    }

    pub(super) fn watch(&mut self, listener: usize, on: bool) {
        self.listeners[listener].watched = on;
    }

    /// The last descriptor of a listening socket is closed: what nobody accepted is reset.
    pub(super) fn stops_listening(&mut self, listener: usize) {
        for at in std::mem::take(&mut self.listeners[listener].backlog) {
            self.connections[at].break_off();
            self.connections[at].server_gone = true;
            self.forget_if_over(at);
        }
    }

    pub(super) fn refuses(&mut self) -> bool {
        self.random.chance(self.options.full)
    }

    pub(super) fn accept(&mut self, listener: usize) -> Result<usize, Errno> {
        if self.listeners[listener].backlog.is_empty() {
            return Err(Errno::EAGAIN);
        }
        if self.random.chance(self.options.exhausted) {
            return Err(Errno::EMFILE);
        }
        self.listeners[listener].backlog.pop_front().ok_or(Errno::EAGAIN)
    }

    pub(super) fn connect(&mut self, address: &Address) -> usize {
        let connection = Connection { connecting: true, ..Connection::default() };
        let connection = self.connections.insert(connection);
        self.outgoing.push_back((address.clone(), connection));
        connection
    }

    pub(super) fn connected(&mut self, connection: usize) -> Option<Result<(), Errno>> {
        let connection = &self.connections[connection];
        if connection.broken || connection.client_gone {
            Some(Err(Errno::ECONNREFUSED))
        } else {
            (!connection.connecting).then_some(Ok(()))
        }
    }

    pub(super) fn add(&mut self, connection: usize, slot: u32) {
        let connection = &mut self.connections[connection];
        connection.slot = Some(slot);
        connection.news_in = true;
    }

    /// Whether the connection is broken, or breaks now.
    fn breaks(&mut self, connection: usize) -> bool {
        let breaks = self.random.chance(self.options.reset);
        let connection = &mut self.connections[connection];
        if breaks && !connection.broken {
            connection.break_off();
        }
        connection.broken
    }

    pub(super) fn recv(&mut self, connection: usize, memory: &mut [u8]) -> Result<usize, Errno> {
        let len = self.peek(connection)?.min(memory.len());
        let connection = &mut self.connections[connection];
        for (byte, from) in memory.iter_mut().zip(connection.inbound.drain(..len)) {
            *byte = from;
        }
        connection.arrived -= len;
        Ok(len)
    }

    pub(super) fn peek(&mut self, connection: usize) -> Result<usize, Errno> {
        if self.breaks(connection) {
            return Err(Errno::ECONNRESET);
        }
        let connection = &self.connections[connection];
        match connection.arrived {
            0 if connection.end_arrived => Ok(0),
            0 => Err(Errno::EAGAIN),
            len => Ok(len),
        }
    }

    pub(super) fn send(&mut self, connection: usize, bytes: &[u8]) -> Result<usize, Errno> {
        if self.breaks(connection) {
            return Err(Errno::ECONNRESET);
        }
        let stalls = self.random.chance(self.options.stall);
        let part = self.random.up_to(bytes.len());
        let window = self.options.window;
        let connection = &mut self.connections[connection];
        if connection.outbound_ends {
            return Err(Errno::EPIPE);
        }
        if connection.client_gone {
            // The first send after the peer's close provokes a reset; the next one meets it.
            connection.break_off();
            return Ok(bytes.len());
        }
        let room = window.saturating_sub(connection.outbound.len());
        if stalls || room == 0 {
            connection.news_out |= stalls;
            return Err(Errno::EAGAIN);
        }
        let len = part.min(room);
        connection.outbound.extend(&bytes[..len]);
        Ok(len)
    }

    pub(super) fn delivery(&self, connection: usize) -> Delivery {
        let connection = &self.connections[connection];
        let pending = connection.outbound.len() as u32;
        Delivery { pending, taken: Some(connection.taken) }
    }

    pub(super) fn shutdown(&mut self, connection: usize) -> Result<(), Errno> {
        let connection = &mut self.connections[connection];
        if connection.broken {
            return Err(Errno::ENOTCONN);
        }
        connection.outbound_ends = true;
        Ok(())
    }

    pub(super) fn server_closes(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.server_gone = true;
        connection.outbound_ends = true;
        connection.slot = None;
        if !connection.inbound.is_empty() {
            // Closing on unread bytes resets the connection; what the client has not read is lost.
            connection.break_off();
        }
        self.forget_if_over(at);
    }

    fn forget_if_over(&mut self, at: usize) {
        let connection = &self.connections[at];
        if connection.client_gone && connection.server_gone {
            self.connections.remove(at);
        }
    }

    /// Lets something arrive, and tells of some of what has changed, in any order.
    pub(super) fn wait(&mut self, wait: Option<Duration>, events: &mut Vec<Event>) {
        let first = events.len();
        let mut held_back = false;
        for (index, listener) in self.listeners.iter().enumerate() {
            if listener.watched && !listener.backlog.is_empty() {
                if self.random.chance(self.options.delay) {
                    held_back = true;
                } else {
                    events.push(Event::Acceptable(index as u32));
                }
            }
        }
        for (_, connection) in &mut self.connections {
            if !(connection.news_in || connection.news_out) {
                continue;
            }
            let Some(slot) = connection.slot else { continue };
            if self.random.chance(self.options.delay) {
                held_back = true;
                continue;
            }
            events.push(tell(connection, slot, &mut self.random, self.options.split));
        }
        self.random.shuffle(&mut events[first..]);
        let step = Duration::from_micros(self.random.up_to(STEP_MAX_US) as u64);
        let quiet = events.len() == first && !held_back;
        self.now += if quiet { wait.unwrap_or(step) } else { step.min(wait.unwrap_or(step)) };
    }
}

/// The event for what has changed; some of the bytes may arrive only later.
fn tell(connection: &mut Connection, slot: u32, random: &mut Random, split: u32) -> Event {
    let rest = connection.inbound.len() - connection.arrived;
    let part = if rest > 1 && random.chance(split) { random.up_to(rest - 1) } else { rest };
    connection.arrived += part;
    connection.news_in = part < rest;
    connection.end_arrived = connection.inbound_ends && part == rest;
    let writable = std::mem::take(&mut connection.news_out);
    let hung_up = connection.end_arrived || connection.broken;
    Event::Ready { slot, readable: connection.arrived > 0 || hung_up, writable, hung_up }
}
