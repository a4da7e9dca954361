//! The io_uring driver.
//!
//! One ring belongs to one thread. Calls push submission queue entries; [`Uring::turn`] enters the
//! kernel once. What may be in flight on a socket is written in its record ([`socket`]), and
//! completions are matched in one place ([`complete`]).

mod buffers;
mod complete;
mod connect;
mod drop;
mod features;
mod install;
mod kernel;
mod socket;
mod sqe;
mod submit;
mod table;
#[cfg(test)]
mod tests;
mod token;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use io_uring::cqueue;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use slab::Slab;

use self::buffers::Buffers;
use self::features::{DEFER_TASKRUN, Features, INCREMENTAL, NO_SQARRAY, REGISTERED_RING, avoids};
use self::install::Question;
use self::kernel::{Entered, Ring};
use self::socket::{Flags, Socket};
use self::sqe::{Sqe, Target};
use self::table::{Table, table};
use self::token::Token;
use crate::address::Raw;
use crate::driver::next_driver_id;
use crate::{
    Address, Buffer, Completion, Driver, Errno, Feature, Full, Info, ListenerId, Op, Options,
    Payload, Pinned, Region, Sock, Stats, Then, Waker,
};

/// The io_uring driver. Made on the thread that uses it, and bound to it.
pub struct Uring {
    ring: Ring,
    buffers: ManuallyDrop<Buffers>,
    sockets: Vec<Socket>,
    listeners: Vec<Listener>,
    /// Zero-copy sends whose memory the kernel may still read.
    zero_copy: Slab<Vec<Pinned>>,
    /// Buffers that came before they were asked for, by their id.
    held: Vec<Held>,
    /// Receives that wait for a buffer, oldest first.
    starved: VecDeque<Sock>,
    /// Sockets and listeners that wait for room in the submission queue.
    stalled: VecDeque<Stalled>,
    /// Completions that need no kernel, for the next turn.
    ready: Vec<Completion>,
    batch: Vec<cqueue::Entry>,
    waker: Waker,
    wake: WakeRead,
    scratch: Box<Scratch>,
    /// Free slots for sockets that were not accepted.
    connect_slots: Vec<u32>,
    /// Where sockets are being connected to, by their slot.
    connecting: BTreeMap<u32, Box<Raw>>,
    /// Connections that the kernel had accepted beyond the limit before it could be told: they wait
    /// here as they would have in the backlog.
    surplus: VecDeque<(ListenerId, Sock)>,
    options: Options,
    features: Vec<Feature>,
    sockets_max: u32,
    live: u32,
    /// Payloads of which it is no longer known when the kernel is done with them.
    kept: Vec<Payload>,
    stats: Stats,
    id: u16,
    /// Only the thread that enabled the ring may use it.
    _not_send: PhantomData<*const ()>,
}

struct Listener {
    /// None once it has been left.
    fd: Option<OwnedFd>,
    armed: bool,
    paused: bool,
    leaving: bool,
}

#[derive(Clone, Copy, Default)]
struct Held {
    next: u16,
    offset: u32,
    len: u32,
}

#[derive(Clone, Copy)]
enum Stalled {
    Socket(Sock),
    Listener(u32),
    Wake,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WakeRead {
    Idle,
    Armed,
}

/// Memory that small operations write to.
#[derive(Default)]
struct Scratch {
    counter: u64,
    peeked: u8,
}

/// A buffer that came unasked is held; more than this many on one socket stop its receive.
const HELD_MAX: u16 = 4;
/// The end of a list of held buffers.
const HELD_END: u16 = u16::MAX;

impl Uring {
    /// Makes a ring for the calling thread.
    ///
    /// # Errors
    /// `ENOSYS`, `EPERM` or `ENOMEM` when the kernel has or allows no io_uring; an
    /// [`io::ErrorKind::InvalidInput`] names a bad option.
    pub fn new(options: Options) -> io::Result<Uring> {
        let id = next_driver_id();
        let mut options = checked(options)?;
        let (mut ring, setup) = Ring::new(&options)?;
        let mut features = Features::new(ring.io_uring(), &options)?;
        let deferred = options.sqpoll_cpu.is_none();
        features.note(DEFER_TASKRUN, deferred, setup.defer, "coop_taskrun");
        features.note(NO_SQARRAY, true, setup.no_sqarray, "an indirection an entry");
        let Table { len, accepts, sockets_max } = table(&options, descriptors_max()?);
        options.direct = features.direct(ring.io_uring(), options.direct, len)?;
        if options.direct {
            ring.limit_accepts(accepts)?;
        }
        if !features.zero_copy(options.zero_copy_min.is_some()) {
            options.zero_copy_min = None;
        }
        if features.min_wait(ring.io_uring(), !options.min_wait.is_zero()) {
            ring.set_min_wait(options.min_wait, options.min_completions);
        }
        let mut buffers = Buffers::new(id, options.buffers, options.buffer_size)?;
        let shared = options.incremental && !avoids(&options.avoid, INCREMENTAL);
        let shared = buffers.register(ring.io_uring(), shared)?;
        features.note(INCREMENTAL, options.incremental, shared, "a buffer a receive");
        features.busy_poll(ring.io_uring(), &options);
        features.sqpoll(&options);
        features.restrict(ring.io_uring(), &options);
        ring.enable()?;
        let own_fd = !avoids(&options.avoid, REGISTERED_RING) && ring.register_own_fd().is_ok();
        features.note(REGISTERED_RING, true, own_fd, "a look-up an enter");
        // Only shutdowns go to the kernel's workers, and none of them waits for anything.
        let _ = ring.io_uring().submitter().register_iowq_max_workers(&mut [1, 2]);
        let mut driver = Uring {
            ring,
            buffers: ManuallyDrop::new(buffers),
            sockets: Vec::with_capacity(accepts as usize),
            listeners: Vec::new(),
            zero_copy: Slab::new(),
            held: vec![Held::default(); usize::from(options.buffers)],
            starved: VecDeque::new(),
            stalled: VecDeque::new(),
            ready: Vec::new(),
            batch: Vec::new(),
            waker: Waker::new()?,
            wake: WakeRead::Idle,
            scratch: Box::default(),
            connect_slots: (accepts..len).rev().collect(),
            connecting: BTreeMap::new(),
            surplus: VecDeque::new(),
            options,
            features: features.into_found(),
            sockets_max,
            live: 0,
            kept: Vec::new(),
            stats: Stats::default(),
            id,
            _not_send: PhantomData,
        };
        driver.arm_wake();
        Ok(driver)
    }

    fn target(&self, slot: u32) -> Target {
        Target { direct: self.options.direct, slot }
    }

    /// The record of a live socket.
    #[inline]
    fn live(&mut self, sock: Sock) -> Option<&mut Socket> {
        match self.sockets.get_mut(sock.slot as usize) {
            Some(socket) if socket.generation == sock.generation && socket.has(Flags::OPEN) => {
                Some(socket)
            }
            _ => {
                self.stats.stale_calls += 1;
                None
            }
        }
    }

    /// Takes a slot into use.
    fn open(&mut self, slot: u32) -> Sock {
        let slots = self.sockets.len().max(slot as usize + 1);
        self.sockets.resize_with(slots, Default::default);
        self.sockets[slot as usize].open(slot)
    }

    fn sock(&self, slot: u32) -> Sock {
        Sock { slot, generation: self.sockets[slot as usize].generation }
    }

    /// Does what waited for room, and gives buffers to receives that found none.
    fn catch_up(&mut self) {
        for _ in 0..self.stalled.len() {
            match self.stalled.pop_front() {
                Some(Stalled::Socket(sock)) => {
                    if let Some(socket) = self.live(sock) {
                        socket.flags.clear(Flags::STALLED);
                        self.settle(sock.slot);
                    }
                }
                Some(Stalled::Listener(listener)) => {
                    let entry = &self.listeners[listener as usize];
                    match (entry.paused, entry.armed) {
                        (false, _) => self.arm_accept(listener),
                        (true, true) => self.pause_accept(listener),
                        (true, false) if entry.leaving => self.finish_leaving(listener),
                        (true, false) => {}
                    }
                }
                Some(Stalled::Wake) => self.arm_wake(),
                None => break,
            }
        }
        let mut buffers = self.buffers.available();
        while buffers > 0
            && let Some(sock) = self.starved.pop_front()
        {
            let Some(socket) = self.sockets.get_mut(sock.slot as usize) else { continue };
            if socket.generation == sock.generation && socket.has(Flags::STARVED) {
                socket.flags.clear(Flags::STARVED);
                self.settle(sock.slot);
                buffers -= 1;
            }
        }
    }

    fn arm_accept(&mut self, listener: u32) {
        let entry = &mut self.listeners[listener as usize];
        if entry.armed || entry.paused {
            return;
        }
        if !self.ring.reserve(1) {
            self.stalled.push_back(Stalled::Listener(listener));
            return;
        }
        let Some(fd) = &entry.fd else { return };
        entry.armed = true;
        let sqe = Sqe::accept(fd.as_raw_fd(), self.options.direct);
        let token = Token { op: Op::Accept, generation: 0, slot: listener };
        self.ring.push(&sqe.user_data(token.encode()));
    }

    fn pause_accept(&mut self, listener: u32) {
        let entry = &mut self.listeners[listener as usize];
        entry.paused = true;
        if !entry.armed {
            return;
        }
        if !self.ring.reserve(1) {
            self.stalled.push_back(Stalled::Listener(listener));
        } else {
            let accept = Token { op: Op::Accept, generation: 0, slot: listener };
            let token = Token { op: Op::Cancel, generation: 0, slot: u32::MAX };
            self.ring.push(&Sqe::cancel(accept.encode()).user_data(token.encode()));
        }
    }
}

impl Driver for Uring {
    fn accept(&mut self, listener: OwnedFd) -> io::Result<ListenerId> {
        // The ring would not wait on a non-blocking listener, but complete with EAGAIN.
        set_blocking(&listener)?;
        let id = self.listeners.len() as u32;
        self.listeners.push(Listener {
            fd: Some(listener),
            armed: false,
            paused: false,
            leaving: false,
        });
        self.arm_accept(id);
        Ok(ListenerId(id))
    }

    fn pause(&mut self, listener: ListenerId) {
        self.pause_accept(listener.0);
    }

    fn leave(&mut self, listener: ListenerId) {
        // Nobody else can accept these.
        for (of, sock) in std::mem::take(&mut self.surplus) {
            if of == listener {
                self.live += 1;
                self.ready.push(Completion::Accepted { listener, sock });
            } else {
                self.surplus.push_back((of, sock));
            }
        }
        let entry = &mut self.listeners[listener.index()];
        entry.leaving = true;
        if entry.armed {
            self.pause_accept(listener.0);
        } else {
            entry.paused = true;
            entry.fd = None;
        }
    }

    fn is_listening(&self) -> bool {
        let told = |one: &Completion| matches!(one, Completion::Accepted { .. });
        self.listeners.iter().any(|listener| listener.fd.is_some()) || self.ready.iter().any(told)
    }

    fn resume(&mut self, listener: ListenerId) {
        if self.listeners[listener.index()].leaving {
            return;
        }
        while self.live < self.sockets_max
            && let Some((listener, sock)) = self.surplus.pop_front()
        {
            self.live += 1;
            self.ready.push(Completion::Accepted { listener, sock });
        }
        if self.live >= self.sockets_max {
            let error = Errno::ENFILE;
            self.ready.push(Completion::AcceptPaused { listener, error });
            return;
        }
        self.listeners[listener.index()].paused = false;
        self.arm_accept(listener.0);
    }

    #[inline]
    fn recv(&mut self, sock: Sock) -> Result<(), Full<()>> {
        self.receive(sock, false)
    }

    #[inline]
    fn recv_later(&mut self, sock: Sock) -> Result<(), Full<()>> {
        self.receive(sock, true)
    }

    #[inline]
    fn send(&mut self, sock: Sock, payload: Payload, then: Then) -> Result<(), Full<Payload>> {
        let Some(socket) = self.live(sock) else { return Ok(()) };
        debug_assert!(!socket.has(Flags::SEND), "two sends on {sock:?}");
        socket.payload = Some(payload);
        socket.sent = 0;
        socket.then = then;
        if self.push_send(sock.slot) {
            return Ok(());
        }
        match self.sockets[sock.slot as usize].payload.take() {
            Some(payload) => Err(Full(payload)),
            None => Ok(()),
        }
    }

    fn arm(&mut self, sock: Sock, reply: Pinned) -> Result<(), Full<Pinned>> {
        let Some(socket) = self.live(sock) else { return Ok(()) };
        debug_assert!(!socket.has(Flags::IN_FLIGHT), "armed in flight: {sock:?}");
        socket.payload = Some(Payload::Pinned(reply));
        socket.sent = 0;
        socket.then = Then::Recv;
        if self.push_armed(sock.slot) {
            return Ok(());
        }
        match self.sockets[sock.slot as usize].payload.take() {
            Some(Payload::Pinned(reply)) => Err(Full(reply)),
            _ => Ok(()),
        }
    }

    fn close(&mut self, sock: Sock) {
        let Some(socket) = self.live(sock) else { return };
        if socket.has(Flags::CLOSING) {
            return;
        }
        socket.flags.set(Flags::CLOSING);
        socket.flags.clear(Flags::WANT.and(Flags::STARVED).and(Flags::RESEND));
        self.drop_held(sock.slot);
        self.settle(sock.slot);
    }

    fn peer(&mut self, sock: Sock) {
        if self.live(sock).is_some() {
            self.ask(sock, Question::Peer);
        }
    }

    fn delivery(&mut self, sock: Sock) {
        if self.live(sock).is_some() {
            self.ask(sock, Question::Delivery);
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Sock> {
        // The ring would not wait on a non-blocking socket, but complete with EAGAIN.
        set_blocking(&socket)?;
        self.adopt_fd(socket)
    }

    fn connect(&mut self, address: &Address) -> io::Result<Sock> {
        self.connect_to(address)
    }

    fn turn(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        if !self.stalled.is_empty() || !self.starved.is_empty() {
            self.catch_up();
        }
        let wait = if self.ready.is_empty() { wait } else { Some(Duration::ZERO) };
        out.append(&mut self.ready);
        self.buffers.publish();
        let entered = match wait {
            Some(Duration::ZERO) => self.ring.enter(0, None, true)?,
            wait => self.ring.enter(1, wait, true)?,
        };
        // A busy kernel wants its completions read; what it has not taken goes in the next turn.
        debug_assert!(matches!(entered, Entered::Fine | Entered::Busy));
        let mut batch = std::mem::take(&mut self.batch);
        self.ring.collect(&mut batch);
        for cqe in batch.drain(..) {
            self.complete(&cqe, out);
        }
        self.batch = batch;
        out.append(&mut self.ready);
        if self.buffers.is_low() {
            self.buffers.grow();
        }
        self.stats.sqes_submitted = self.ring.submitted;
        self.stats.enters = self.ring.enters;
        self.stats.cq_overflows = self.ring.overflows;
        Ok(())
    }

    #[inline]
    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.buffers.bytes(buffer)
    }

    #[inline]
    fn give_back(&mut self, buffer: Buffer) {
        self.buffers.give_back(buffer);
    }

    fn register(&mut self, region: &Region) -> io::Result<()> {
        let index = self.ring.register_region(region)?;
        region.set_registered(self.id, index);
        Ok(())
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn info(&self) -> Info {
        Info { backend: "io_uring", features: self.features.clone(), sockets_max: self.sockets_max }
    }
}

/// Whether a connection waits to be accepted.
fn has_connection(listener: &OwnedFd) -> bool {
    let mut sources = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut sources, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn set_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) {
        fcntl(fd, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    }
    Ok(())
}

/// The longest chain must fit into the submission queue.
const ENTRIES_MIN: u32 = 4;

fn checked(options: Options) -> io::Result<Options> {
    if options.entries < ENTRIES_MIN || options.cq_entries < options.entries {
        let why = "entries must be at least 4, and cq_entries at least entries";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(options)
}

fn descriptors_max() -> io::Result<u32> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(u32::try_from(soft).unwrap_or(u32::MAX))
}

/// Accepted sockets at a time, after all limits.
pub(crate) fn sockets_max(options: &Options) -> io::Result<u32> {
    Ok(options.sockets_max.min(descriptors_max()?).max(1))
}
