//! Completions out of readiness: the part that the epoll driver and the simulation share.
//!
//! An operation is tried when it is asked for and again when its socket becomes ready. There are no
//! chains; what would follow in one is done here, in the same order. What is tried, and how
//! readiness is learnt, is a [`System`]'s business: the kernel's or a simulated one's.

mod pool;
mod socket;
mod system;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use slab::Slab;

pub(crate) use self::system::{Event, System};

use self::pool::Pool;
use self::socket::Socket;
use crate::{
    Address, Buffer, Chain, Completion, Delivery, Driver, Errno, Full, Info, ListenerId, Op,
    Options, Outcome, Payload, Pinned, Region, Sock, Stats, Then, Waker,
};

/// A driver over sockets that say when they are ready.
pub struct Ready<S: System> {
    system: S,
    sockets: Slab<Socket<S::Socket>>,
    /// How often each slot has been used.
    generations: Vec<u32>,
    listeners: Vec<Listener<S::Listener>>,
    pool: Pool,
    /// Sockets with something to try.
    active: VecDeque<u32>,
    /// Sockets that wait for a buffer, oldest first.
    starved: VecDeque<Sock>,
    ready: Vec<Completion>,
    events: Vec<Event>,
    waker: Waker,
    sockets_max: u32,
    stats: Stats,
}

struct Listener<L> {
    /// None once it has been left.
    handle: Option<L>,
    paused: bool,
}

/// Connections taken from one listener before the other sockets have their turn.
const ACCEPTS_MAX: usize = 64;

impl<S: System> Ready<S> {
    pub(crate) fn over(system: S, options: &Options, waker: Waker, sockets_max: u32) -> Ready<S> {
        Ready {
            system,
            sockets: Slab::new(),
            generations: Vec::new(),
            listeners: Vec::new(),
            pool: Pool::new(options.buffers, options.buffer_size),
            active: VecDeque::new(),
            starved: VecDeque::new(),
            ready: Vec::new(),
            events: Vec::new(),
            waker,
            sockets_max,
            stats: Stats::default(),
        }
    }

    pub(crate) fn system(&self) -> &S {
        &self.system
    }

    /// Receive buffers that the caller does not have.
    #[must_use]
    pub fn buffers_free(&self) -> usize {
        self.pool.available()
    }

    fn live(&mut self, sock: Sock) -> Option<&mut Socket<S::Socket>> {
        let generation = self.generations.get(sock.slot as usize).copied();
        match self.sockets.get_mut(sock.slot as usize) {
            Some(socket) if generation == Some(sock.generation) => Some(socket),
            _ => {
                self.stats.stale_calls += 1;
                None
            }
        }
    }

    fn sock(&self, slot: u32) -> Sock {
        Sock { slot, generation: self.generations[slot as usize] }
    }

    /// Sees to it that a socket is tried in the next turn.
    fn activate(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        if !socket.active {
            socket.active = true;
            self.active.push_back(slot);
        }
    }

    fn count(&mut self, op: Op, outcome: Outcome) {
        self.stats.count(op, outcome);
    }

    /// Tries what is asked of a socket, as far as its readiness goes.
    fn progress(&mut self, slot: u32, out: &mut Vec<Completion>) {
        let socket = &mut self.sockets[slot as usize];
        if socket.closing {
            return self.finish(slot, out);
        }
        if socket.failed {
            return;
        }
        if socket.connecting {
            return self.try_connected(slot, out);
        }
        if socket.armed.is_some() && socket.readable {
            self.try_armed(slot, out);
        }
        if self.sockets[slot as usize].payload.is_some() {
            self.try_send(slot, out);
        }
        let socket = &self.sockets[slot as usize];
        let replying = socket.payload.is_some() && socket.then == Then::Recv;
        if socket.want && socket.readable && !replying && !socket.closing {
            self.try_recv(slot, out);
        }
        if self.sockets[slot as usize].closing {
            self.finish(slot, out);
        }
    }

    fn try_connected(&mut self, slot: u32, out: &mut Vec<Completion>) {
        let socket = &mut self.sockets[slot as usize];
        match self.system.connected(&socket.handle) {
            None => {}
            Some(Ok(())) => {
                socket.connecting = false;
                socket.writable = true;
                self.count(Op::Connect, Outcome::Ok);
                out.push(Completion::Connected { sock: self.sock(slot) });
            }
            Some(Err(error)) => self.fail(slot, Op::Connect, error, out),
        }
    }

    fn try_armed(&mut self, slot: u32, out: &mut Vec<Completion>) {
        let socket = &mut self.sockets[slot as usize];
        let peeked = self.system.peek(&socket.handle);
        let chain = Chain::RecvReply as usize;
        match peeked {
            Ok(0) => {
                socket.armed = None;
                self.stats.chains[chain].broken += 1;
                self.count(Op::Peek, Outcome::Ended);
                out.push(Completion::Ended { sock: self.sock(slot) });
            }
            Ok(_) => {
                socket.payload = socket.armed.take().map(Payload::Pinned);
                socket.then = Then::Recv;
                socket.sent = 0;
                self.stats.chains[chain].completed += 1;
            }
            Err(Errno::EAGAIN) => socket.readable = false,
            Err(error) => {
                self.stats.chains[chain].broken += 1;
                self.fail(slot, Op::Peek, error, out);
            }
        }
    }

    fn try_send(&mut self, slot: u32, out: &mut Vec<Completion>) {
        loop {
            let socket = &mut self.sockets[slot as usize];
            let Some(payload) = &mut socket.payload else { return };
            if socket.sent == payload.len() {
                socket.payload = None;
                return self.on_sent(slot, out);
            }
            if !socket.writable {
                return;
            }
            match self.system.send(&socket.handle, payload, socket.sent) {
                Ok(len) => {
                    socket.sent += len;
                    let whole = socket.sent == payload.len();
                    self.stats.short_sends += u64::from(!whole);
                    self.count(Op::Send, if whole { Outcome::Ok } else { Outcome::Short });
                }
                Err(Errno::EAGAIN) => socket.writable = false,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    socket.payload = None;
                    return self.fail(slot, Op::Send, error, out);
                }
            }
        }
    }

    /// Everything has gone out: does what was to follow.
    fn on_sent(&mut self, slot: u32, out: &mut Vec<Completion>) {
        let sock = self.sock(slot);
        let socket = &mut self.sockets[slot as usize];
        match socket.then {
            Then::Nothing => out.push(Completion::Sent { sock }),
            Then::Recv => socket.want = true,
            Then::Close => socket.closing = true,
            Then::Shutdown => match self.system.shutdown(&socket.handle) {
                Ok(()) => {
                    self.count(Op::Shutdown, Outcome::Ok);
                    out.push(Completion::Sent { sock });
                }
                Err(error) => self.fail(slot, Op::Shutdown, error, out),
            },
        }
    }

    fn try_recv(&mut self, slot: u32, out: &mut Vec<Completion>) {
        let sock = self.sock(slot);
        let Some(mut buffer) = self.pool.take() else {
            self.stats.buffers_exhausted += 1;
            self.count(Op::Recv, Outcome::NoBuffers);
            self.starved.push_back(sock);
            return;
        };
        let socket = &mut self.sockets[slot as usize];
        let memory = self.pool.memory(&buffer);
        let size = memory.len();
        match self.system.recv(&socket.handle, memory) {
            Ok(0) => {
                socket.want = false;
                self.pool.give_back(buffer);
                self.count(Op::Recv, Outcome::Ended);
                out.push(Completion::Ended { sock });
            }
            Ok(len) => {
                socket.want = false;
                // There was no more; what comes later is a new event, but for the end.
                socket.readable = len == size || socket.hung_up;
                buffer.len = len as u32;
                self.count(Op::Recv, Outcome::Ok);
                out.push(Completion::Received { sock, buffer });
            }
            Err(error) => {
                self.pool.give_back(buffer);
                match error {
                    Errno::EAGAIN => socket.readable = false,
                    Errno::EINTR => self.activate(slot),
                    error => self.fail(slot, Op::Recv, error, out),
                }
            }
        }
    }

    fn fail(&mut self, slot: u32, op: Op, error: Errno, out: &mut Vec<Completion>) {
        self.count(op, Outcome::of(error));
        let sock = self.sock(slot);
        let socket = &mut self.sockets[slot as usize];
        if !socket.failed {
            socket.fail();
            out.push(Completion::Failed { sock, op, error });
        }
    }

    /// Closes: nothing is in flight outside of this process, so there is nothing to join.
    fn finish(&mut self, slot: u32, out: &mut Vec<Completion>) {
        let sock = self.sock(slot);
        let socket = self.sockets.remove(slot as usize);
        drop(socket);
        let generation = &mut self.generations[slot as usize];
        *generation = generation.wrapping_add(1);
        self.stats.sockets -= 1;
        self.count(Op::Close, Outcome::Ok);
        out.push(Completion::Closed { sock });
    }

    fn accept_from(&mut self, listener: u32, out: &mut Vec<Completion>) {
        for _ in 0..ACCEPTS_MAX {
            let entry = &self.listeners[listener as usize];
            let Some(handle) = entry.handle.as_ref().filter(|_| !entry.paused) else { return };
            let taken = self.system.accept(handle);
            match taken.and_then(|handle| self.open(handle)) {
                Ok(sock) => {
                    self.count(Op::Accept, Outcome::Ok);
                    out.push(Completion::Accepted { listener: ListenerId(listener), sock });
                    if self.sockets.len() >= self.sockets_max as usize {
                        return self.pause_accepting(listener, Errno::ENFILE, out);
                    }
                }
                Err(Errno::EAGAIN) => return,
                Err(error) => {
                    self.count(Op::Accept, Outcome::of(error));
                    let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
                    if exhausted.contains(&error) {
                        return self.pause_accepting(listener, error, out);
                    }
                }
            }
        }
    }

    fn open(&mut self, handle: S::Socket) -> Result<Sock, Errno> {
        let entry = self.sockets.vacant_entry();
        let slot = entry.key();
        self.system.add(&handle, slot as u32)?;
        entry.insert(Socket::new(handle));
        if self.generations.len() == slot {
            self.generations.push(0);
        }
        self.stats.sockets += 1;
        Ok(self.sock(slot as u32))
    }

    fn pause_accepting(&mut self, listener: u32, error: Errno, out: &mut Vec<Completion>) {
        let all = if error == Errno::ENFILE { 0..self.listeners.len() as u32 } else { 0..0 };
        for listener in all.chain([listener]) {
            let listener = ListenerId(listener);
            if !self.listeners[listener.index()].paused {
                self.pause(listener);
                out.push(Completion::AcceptPaused { listener, error });
            }
        }
    }

    fn on_event(&mut self, event: Event, out: &mut Vec<Completion>) {
        match event {
            Event::Acceptable(listener) => self.accept_from(listener, out),
            Event::Woken => {
                if self.waker.clear() {
                    self.count(Op::Wake, Outcome::Ok);
                    out.push(Completion::Woken);
                }
            }
            Event::Ready { slot, readable, writable, hung_up } => {
                // It may have been closed earlier in this very turn.
                let Some(socket) = self.sockets.get_mut(slot as usize) else { return };
                socket.readable |= readable || hung_up;
                socket.writable |= writable;
                socket.hung_up |= hung_up;
                if !socket.active {
                    self.progress(slot, out);
                }
            }
        }
    }

    fn run_active(&mut self, out: &mut Vec<Completion>) {
        while !self.pool.is_empty()
            && let Some(sock) = self.starved.pop_front()
        {
            let alive = self.generations.get(sock.slot as usize) == Some(&sock.generation);
            if alive && self.sockets.contains(sock.slot as usize) {
                self.progress(sock.slot, out);
            }
        }
        for _ in 0..self.active.len() {
            let Some(slot) = self.active.pop_front() else { return };
            if let Some(socket) = self.sockets.get_mut(slot as usize) {
                socket.active = false;
                self.progress(slot, out);
            }
        }
    }
}

impl<S: System> Driver for Ready<S> {
    fn accept(&mut self, listener: OwnedFd) -> io::Result<ListenerId> {
        let id = self.listeners.len() as u32;
        let handle = self.system.listen(listener, id)?;
        self.listeners.push(Listener { handle: Some(handle), paused: false });
        Ok(ListenerId(id))
    }

    fn pause(&mut self, listener: ListenerId) {
        let entry = &mut self.listeners[listener.index()];
        entry.paused = true;
        if let Some(handle) = &entry.handle {
            self.system.watch(handle, listener.0, false);
        }
    }

    fn leave(&mut self, listener: ListenerId) {
        // What waits has been accepted as far as its clients can tell.
        let mut last = std::mem::take(&mut self.ready);
        self.accept_from(listener.0, &mut last);
        self.ready = last;
        self.pause(listener);
        self.listeners[listener.index()].handle = None;
    }

    fn is_listening(&self) -> bool {
        // What `leave` took last is told in the next turn.
        self.listeners.iter().any(|listener| listener.handle.is_some()) || !self.ready.is_empty()
    }

    fn resume(&mut self, listener: ListenerId) {
        if self.sockets.len() >= self.sockets_max as usize {
            let error = Errno::ENFILE;
            self.ready.push(Completion::AcceptPaused { listener, error });
            return;
        }
        let entry = &mut self.listeners[listener.index()];
        let Some(handle) = &entry.handle else { return };
        entry.paused = false;
        self.system.watch(handle, listener.0, true);
    }

    fn recv(&mut self, sock: Sock) -> Result<(), Full<()>> {
        if self.system.refuses() {
            self.stats.sq_full += 1;
            return Err(Full(()));
        }
        if let Some(socket) = self.live(sock) {
            debug_assert!(!socket.want, "two receives on {sock:?}");
            socket.want = true;
            if socket.readable {
                self.activate(sock.slot);
            }
        }
        Ok(())
    }

    fn send(&mut self, sock: Sock, payload: Payload, then: Then) -> Result<(), Full<Payload>> {
        if self.system.refuses() {
            self.stats.sq_full += 1;
            return Err(Full(payload));
        }
        if let Some(socket) = self.live(sock) {
            debug_assert!(socket.payload.is_none(), "two sends on {sock:?}");
            socket.payload = Some(payload);
            socket.then = then;
            socket.sent = 0;
            self.activate(sock.slot);
        }
        Ok(())
    }

    fn arm(&mut self, sock: Sock, reply: Pinned) -> Result<(), Full<Pinned>> {
        if self.system.refuses() {
            self.stats.sq_full += 1;
            return Err(Full(reply));
        }
        if let Some(socket) = self.live(sock) {
            debug_assert!(!socket.want && socket.payload.is_none(), "armed in flight: {sock:?}");
            socket.armed = Some(reply);
            self.stats.chains[Chain::RecvReply as usize].submitted += 1;
            self.activate(sock.slot);
        }
        Ok(())
    }

    fn close(&mut self, sock: Sock) {
        if let Some(socket) = self.live(sock) {
            socket.closing = true;
            self.activate(sock.slot);
        }
    }

    fn peer(&mut self, sock: Sock) {
        if self.live(sock).is_some() {
            let socket = &self.sockets[sock.slot as usize];
            let address = self.system.peer(&socket.handle).map(Box::new);
            self.ready.push(Completion::Peer { sock, address });
        }
    }

    fn delivery(&mut self, sock: Sock) {
        if self.live(sock).is_some() {
            let socket = &self.sockets[sock.slot as usize];
            let left = socket.payload.as_ref().map_or(0, |payload| payload.len() - socket.sent);
            let delivery = self.system.delivery(&socket.handle).map(|delivery| Delivery {
                pending: delivery.pending.saturating_add(u32::try_from(left).unwrap_or(u32::MAX)),
                ..delivery
            });
            self.ready.push(Completion::Delivery { sock, delivery });
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Sock> {
        let handle = self.system.adopt(socket)?;
        Ok(self.open(handle)?)
    }

    fn connect(&mut self, address: &Address) -> io::Result<Sock> {
        let handle = self.system.connect(address)?;
        let sock = self.open(handle)?;
        self.sockets[sock.slot as usize].connecting = true;
        self.activate(sock.slot);
        Ok(sock)
    }

    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        let before = out.len();
        out.append(&mut self.ready);
        self.run_active(out);
        let idle = out.len() == before && self.active.is_empty();
        let mut events = std::mem::take(&mut self.events);
        self.stats.enters += 1;
        self.system.wait(if idle { wait } else { Some(Duration::ZERO) }, &mut events)?;
        for event in events.drain(..) {
            self.on_event(event, out);
        }
        self.events = events;
        Ok(())
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.pool.bytes(buffer)
    }

    fn give_back(&mut self, buffer: Buffer) {
        self.pool.give_back(buffer);
    }

    fn register(&mut self, _region: &Region) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn info(&self) -> Info {
        Info { backend: S::NAME, features: Vec::new(), sockets_max: self.sockets_max }
    }
}
