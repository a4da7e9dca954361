//! One ring thread: its connections, and the loop that serves them.

mod timeouts;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ember::Response;
use ember_http::{After, BodyKind, Conn, Event, Input, Memo, Persist, Phase, VariantId};
use ember_metrics::{Chain, Format};
use ember_uring::{
    Buffer, Completion, Driver, Errno, Full, ListenerId, Op, Payload, PeerAddr, Piece, Sock, Then,
};
use slab::Slab;

use super::armed::{self, Prepaid, Talk};
use super::clock::Clock;
use super::desk::{About, Desk};
use super::outflow::Outflow;
use super::replies::{Outgoing, Replies};
use super::scribe::{Mailbox, Scrape, Scribe, Ticket, wanted_format};
use super::site::{Handler, Sites};
use super::tally::{Closed, Tally};
use super::timers::{TICK_MS, Tick, Wheel};
use crate::boot::{Order, Seat};

/// After so long without a try to accept again, though descriptors were short.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a thread is made of besides its driver.
pub(crate) struct Parts {
    pub(crate) sites: Arc<Sites>,
    pub(crate) tally: Tally,
    pub(crate) scribe: Scribe,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) seat: Seat,
    /// The driver's listeners, in their order, and which one of the config each is.
    pub(crate) listeners: Vec<(ListenerId, usize)>,
    pub(crate) sockets_max: usize,
    pub(crate) clock: Clock,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No connection is here.
    Free,
    /// A receive is in flight, or a reply with a receive behind it.
    Open,
    /// A handler has the request; nothing is in flight.
    Dispatched(u32),
    /// The last reply is on its way; the close behind it too.
    Closing,
    /// A last reply has been sent or is on its way, and what still comes is read and forgotten.
    Lingering { receiving: bool },
}

struct Connection {
    conn: Conn,
    sock: Option<Sock>,
    listener: u16,
    stage: Stage,
    outflow: Outflow,
    deadline: Tick,
    /// Where its entry in the wheel comes up; the deadline may have moved on since.
    wakes: Tick,
    closed: Closed,
    /// The last prepared reply, to name the route if its chain breaks.
    last: Option<VariantId>,
    /// Of a listener with one reply.
    prepaid: Prepaid,
    gathered: Option<Box<Gathered>>,
}

/// A request that a handler answers later.
struct Pending {
    sock: Sock,
    about: About,
    /// Of a scrape.
    format: Format,
    /// What the scribe has been asked.
    question: Option<u32>,
}

/// A request whose body is being received for its handler.
struct Gathered {
    request: ember::Request,
    about: About,
}

/// What one site needs in this thread.
struct Served {
    replies: Replies,
    memo: Memo,
}

/// How a conversation on received bytes ended.
pub(super) enum Next {
    /// Send what there is, then receive.
    Receive,
    /// Send what there is, then arm the one reply ahead of the next request.
    Arm,
    /// Send what there is, then wait for the handler.
    Wait(u32),
    /// Send what there is, then close.
    Close(Closed),
    /// Send what there is, then read on for a while before closing.
    Linger(Closed),
}

/// One ring thread.
pub(crate) struct Thread<D> {
    driver: D,
    sites: Arc<Sites>,
    served: Vec<Served>,
    connections: Vec<Connection>,
    open: usize,
    wheel: Wheel,
    tally: Tally,
    scribe: Scribe,
    mailbox: Arc<Mailbox>,
    pending: Slab<Pending>,
    /// How many questions the scribe has been asked.
    questions: u32,
    seat: Seat,
    order: Order,
    listeners: Vec<(ListenerId, usize)>,
    /// Listeners that stopped for want of descriptors or memory.
    paused: Vec<ListenerId>,
    paused_until: Option<Instant>,
    /// What a full queue gave back.
    deferred: VecDeque<(Sock, Payload, Then)>,
    out: Outgoing,
    clock: Clock,
    started: Instant,
    now: Instant,
    due: Vec<u32>,
    idle_closed: bool,
}

impl<D: Driver> Thread<D> {
    /// A thread over a driver that accepts already.
    ///
    /// # Errors
    /// When memory for the replies cannot be had.
    pub(crate) fn new(driver: D, parts: Parts) -> io::Result<Self> {
        let Parts { sites, tally, scribe, mailbox, seat, listeners, sockets_max, clock } = parts;
        let mut served = Vec::new();
        for site in sites.all() {
            let replies = Replies::new(Arc::clone(site))?;
            served.push(Served { replies, memo: Memo::new() });
        }
        let now = clock.now();
        Ok(Thread {
            driver,
            sites,
            served,
            connections: Vec::with_capacity(sockets_max),
            open: 0,
            wheel: Wheel::new(sockets_max),
            tally,
            scribe,
            mailbox,
            pending: Slab::new(),
            questions: 0,
            seat,
            order: Order::Serve,
            listeners,
            paused: Vec::new(),
            paused_until: None,
            deferred: VecDeque::new(),
            out: Outgoing::default(),
            clock,
            started: now,
            now,
            due: Vec::new(),
            idle_closed: false,
        })
    }

    /// Serves until it is told to leave and the last connection is closed.
    ///
    /// # Errors
    /// What the driver cannot outlive.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut done = Vec::with_capacity(256);
        while !self.finished() {
            self.turn(&mut done)?;
        }
        self.count(true);
        Ok(())
    }

    /// One turn: submits, waits, and acts on what has happened. `done` is scratch.
    pub(super) fn turn(&mut self, done: &mut Vec<Completion>) -> io::Result<()> {
        let wait = self.wait();
        self.driver.turn(wait, done)?;
        self.look_at_clock();
        let few = done.len() < 4;
        for completion in done.drain(..) {
            self.complete(completion);
        }
        self.retry();
        self.tick();
        self.count(few);
        Ok(())
    }

    /// That nothing is left of the connections that were.
    #[cfg(test)]
    pub(super) fn assert_nothing_left(&self) -> &D {
        assert_eq!(self.open, 0, "connections");
        let free = |connection: &Connection| {
            connection.stage == Stage::Free
                && connection.sock.is_none()
                && connection.gathered.is_none()
        };
        assert!(self.connections.iter().all(free), "a slot is not free");
        assert_eq!(self.wheel.len(), 0, "deadlines");
        assert!(self.pending.is_empty(), "requests that wait for a handler");
        assert!(self.out.is_empty(), "replies that nobody sends");
        &self.driver
    }

    fn look_at_clock(&mut self) {
        self.now = self.clock.now();
        let second = self.clock.wall_second();
        for served in &mut self.served {
            served.replies.set_clock(second);
        }
    }

    /// Writes the turn's counters; those of the driver where there is little to do, and in any
    /// case once a tick.
    fn count(&mut self, few: bool) {
        if self.tally.has_hits() {
            let elapsed_ns = self.clock.elapsed_ns(self.now);
            self.tally.write_hits(&self.sites, elapsed_ns);
        }
        if few {
            self.tally.write_driver(self.driver.stats());
            for served in &mut self.served {
                for (why, count) in served.replies.take_fallthroughs() {
                    self.tally.fell_through(why, count);
                }
            }
        }
    }

    /// How long a turn may wait.
    fn wait(&self) -> Option<Duration> {
        if !self.deferred.is_empty() {
            return Some(Duration::ZERO);
        }
        let tick = (self.wheel.len() > 0).then(|| {
            let next = u64::from(self.tick_now()) + 1;
            let passed = self.clock.now().saturating_duration_since(self.started);
            Duration::from_millis(next * TICK_MS).saturating_sub(passed)
        });
        let until = |at: Instant| at.saturating_duration_since(self.clock.now());
        let retry = self.paused_until.map(until);
        let drain = match self.order {
            Order::Drain { idle_at, deadline } => {
                Some(until(if self.idle_closed { deadline } else { idle_at.min(deadline) }))
            }
            _ => None,
        };
        [tick, retry, drain].into_iter().flatten().min()
    }

    /// The clock of the protocol's machines.
    fn now_ms(&self) -> u64 {
        (self.now - self.started).as_millis() as u64
    }

    /// How long a last reply may make no headway.
    fn write_ticks(&self, sock: Sock) -> Tick {
        let listener = self.connections[sock.slot() as usize].listener;
        ticks_of(self.sites.site_of(usize::from(listener)).limits().write_ms_max)
    }

    /// How long a connection is read from after its last reply.
    fn linger_ticks(&self, sock: Sock) -> Tick {
        let listener = self.connections[sock.slot() as usize].listener;
        ticks_of(self.sites.site_of(usize::from(listener)).limits().linger_ms_max)
    }

    fn tick_now(&self) -> Tick {
        ((self.now - self.started).as_millis() as u64 / TICK_MS) as Tick
    }

    pub(super) fn finished(&self) -> bool {
        match self.order {
            Order::Serve | Order::Unready => false,
            // Connections that were accepted meanwhile may still be reported.
            Order::Drain { deadline, .. } => {
                self.open == 0 && !self.driver.is_listening() || self.now >= deadline
            }
            Order::Stop => true,
        }
    }

    fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Received { sock, buffer } => self.received(sock, buffer),
            Completion::Accepted { listener, sock } => self.accepted(listener, sock),
            Completion::Sent { sock } => self.sent(sock),
            Completion::Ended { sock } => self.ended(sock),
            Completion::Failed { sock, op, error } => self.failed(sock, op, error),
            Completion::Closed { sock } => self.closed(sock),
            Completion::AcceptPaused { listener, .. } => self.accept_paused(listener),
            Completion::Peer { sock, address } => self.peer(sock, address.map(|a| *a)),
            Completion::Delivery { sock, delivery } => self.told(sock, delivery),
            // This loop never asks the driver to connect.
            Completion::Connected { sock } => self.driver.close(sock),
            Completion::Woken => self.woken(),
        }
    }

    fn accepted(&mut self, listener: ListenerId, sock: Sock) {
        let index = sock.slot() as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, Connection::free);
        }
        let listener = self.listeners[listener.index()].1;
        let (tick, now_ms) = (self.tick_now(), self.now_ms());
        let site = self.sites.site_of(listener);
        let conn = Conn::new(now_ms);
        let deadline = tick + conn.time_left(site, now_ms).map_or(1, ticks_of);
        let connection = &mut self.connections[index];
        debug_assert!(connection.stage == Stage::Free, "a slot is free before it is used again");
        *connection = Connection {
            conn,
            sock: Some(sock),
            listener: listener as u16,
            stage: Stage::Open,
            deadline,
            wakes: deadline,
            ..Connection::free()
        };
        self.open += 1;
        self.wheel.set(sock.slot(), deadline);
        self.tally.accepted(listener);
        self.begin(sock);
    }

    /// Waits for a request, with the reply armed ahead of it where the listener has but one.
    fn begin(&mut self, sock: Sock) {
        let now_ms = self.now_ms();
        let connection = &mut self.connections[sock.slot() as usize];
        let listener = usize::from(connection.listener);
        if let Some(one) = self.sites.one_reply(listener)
            && matches!(self.order, Order::Serve | Order::Unready)
            && !connection.conn.is_last(self.sites.site_of(listener), now_ms)
        {
            let id = one.variant(Persist::Default);
            let replies = &mut self.served[self.sites.of_listener(listener)].replies;
            if let Some(reply) = replies.pinned(id)
                && self.driver.arm(sock, reply).is_ok()
            {
                connection.last = Some(id);
                connection.prepaid = Prepaid::Armed;
                return;
            }
        }
        self.receive(sock);
    }

    /// Posts a receive, or ends the connection where the queue has no room even for that.
    fn receive(&mut self, sock: Sock) {
        if let Err(Full(())) = self.driver.recv(sock) {
            self.close(sock, Closed::Reset);
        }
    }

    #[inline]
    fn received(&mut self, sock: Sock, buffer: Buffer) {
        let index = sock.slot() as usize;
        match self.connections[index].stage {
            Stage::Open => {
                let next = self.converse(sock, Some(&buffer));
                self.driver.give_back(buffer);
                self.proceed(sock, next);
            }
            Stage::Lingering { .. } => {
                let next = self.converse(sock, Some(&buffer));
                self.driver.give_back(buffer);
                match next {
                    Next::Receive => {
                        self.connections[index].stage = Stage::Lingering { receiving: false };
                        self.linger(sock);
                    }
                    _ => {
                        self.connections[index].stage = Stage::Closing;
                        self.driver.close(sock);
                    }
                }
            }
            Stage::Free | Stage::Dispatched(_) | Stage::Closing => self.driver.give_back(buffer),
        }
    }

    /// Lets the connection's machine read what came, and gathers the replies.
    #[inline]
    fn converse(&mut self, sock: Sock, buffer: Option<&Buffer>) -> Next {
        let Self { driver, sites, served, connections, pending, tally, out, now, clock, .. } = self;
        let Connection { conn, listener, gathered, last, prepaid, .. } =
            &mut connections[sock.slot() as usize];
        let index = sites.of_listener(usize::from(*listener));
        let site = sites.all()[index].as_ref();
        let Served { replies, memo } = &mut served[index];
        let mut desk = Desk { index, replies, tally, out, now: *now, clock };
        let now_ms = (*now - self.started).as_millis() as u64;
        let bytes = buffer.map_or(&[][..], |buffer| driver.bytes(buffer));
        let mut input = Input::new(bytes, now_ms);
        let draining = !matches!(self.order, Order::Serve | Order::Unready);
        if draining {
            conn.drain();
        }
        if let Some(one) = sites.one_reply(usize::from(*listener)) {
            let talk = Talk { one, site, conn, memo, prepaid, now_ms };
            return armed::converse(talk, &mut input, &mut desk);
        }
        loop {
            let (after, why) = match conn.next(site, memo, &mut input) {
                Event::Prepared { variant, count, after, method, .. } => {
                    *last = Some(variant);
                    desk.prepared(variant, method, count);
                    (after, Closed::Reply)
                }
                Event::More => {
                    let last = draining && !desk.out.is_empty() && conn.phase() == Phase::Idle;
                    return if last { Next::Close(Closed::Drain) } else { Next::Receive };
                }
                Event::Refuse(refusal) => {
                    *gathered = None;
                    desk.refuse(&refusal);
                    (refusal.after, Closed::Refused)
                }
                Event::Answer(answer) => (desk.give(*answer), Closed::Reply),
                Event::Request(request) => {
                    let about = About::new(index, &request, desk.now);
                    let response = match sites.handler(about.handler) {
                        Handler::Metrics { .. } => {
                            let ticket = pending.insert(Pending {
                                sock,
                                about,
                                format: wanted_format(&request),
                                question: None,
                            });
                            desk.tally.in_flight(true);
                            // A body, which nobody wants, or what came behind the request.
                            conn.keep(memo, &mut input);
                            return Next::Wait(ticket as u32);
                        }
                        Handler::Live => Response::text(200, "alive\n"),
                        Handler::Ready if self.order == Order::Serve => {
                            Response::text(200, "ready\n")
                        }
                        Handler::Ready => Response::text(503, "draining\n"),
                        Handler::App(_) if request.body != BodyKind::None => {
                            let request = ember::Request::of_head(&request);
                            *gathered = Some(Box::new(Gathered { request, about }));
                            conn.want_body();
                            continue;
                        }
                        Handler::App(route) => route.call(&ember::Request::of_head(&request)),
                    };
                    desk.reply(&about, &response, conn.reply_context(site));
                    (conn.replied(site, false, now_ms), Closed::Reply)
                }
                Event::Continue => {
                    desk.out.push(Piece::Owned(ember_http::CONTINUE.to_vec()));
                    continue;
                }
                Event::Body(bytes) => {
                    if let Some(gathered) = gathered {
                        gathered.request.push_body(bytes);
                    }
                    continue;
                }
                Event::BodyEnd => {
                    let Some(Gathered { request, about }) = gathered.take().map(|it| *it) else {
                        continue;
                    };
                    let response = match sites.handler(about.handler) {
                        Handler::App(route) => route.call(&request),
                        _ => unreachable!("bodies are gathered for applications alone"),
                    };
                    desk.reply(&about, &response, conn.reply_context(site));
                    (conn.replied(site, false, now_ms), Closed::Reply)
                }
                Event::Wait => unreachable!("a connection that waits is not received from"),
                Event::Close => return Next::Close(Closed::Reply),
            };
            match after {
                After::Open => {}
                After::Close => return Next::Close(why),
                After::Linger => return Next::Linger(why),
            }
        }
    }

    /// Does what a conversation has come to.
    #[inline]
    fn proceed(&mut self, sock: Sock, next: Next) {
        let payload = self.out.take();
        if payload.is_none() {
            // What was received came behind whatever was sent before.
            self.connections[sock.slot() as usize].outflow.end();
        }
        match next {
            Next::Receive => {
                let connection = &mut self.connections[sock.slot() as usize];
                connection.stage = Stage::Open;
                self.extend_deadline(sock, payload.is_some());
                match payload {
                    Some(payload) => self.send(sock, payload, Then::Recv),
                    None => self.receive(sock),
                }
            }
            Next::Arm => {
                self.connections[sock.slot() as usize].stage = Stage::Open;
                self.extend_deadline(sock, payload.is_some());
                match payload {
                    Some(payload) => self.send(sock, payload, Then::Nothing),
                    None => self.begin(sock),
                }
            }
            Next::Wait(ticket) => {
                self.connections[sock.slot() as usize].stage = Stage::Dispatched(ticket);
                match payload {
                    // Replies to what was pipelined before it; the handler starts when they are out.
                    Some(payload) => {
                        let write = self.write_ticks(sock);
                        self.set_deadline(sock, write);
                        self.send(sock, payload, Then::Nothing);
                    }
                    None => self.start(ticket as usize),
                }
            }
            Next::Close(reason) => {
                let after = self.write_ticks(sock);
                self.set_closing(sock, Stage::Closing, reason, after);
                match payload {
                    Some(payload) => self.send(sock, payload, Then::Close),
                    None => self.driver.close(sock),
                }
            }
            Next::Linger(reason) => {
                let after = self.write_ticks(sock);
                let stage = Stage::Lingering { receiving: false };
                self.set_closing(sock, stage, reason, after);
                // Without one the last reply was an armed one, and is out.
                let payload = payload.unwrap_or_else(|| Payload::Owned(Vec::new()));
                self.send(sock, payload, Then::Shutdown);
            }
        }
    }

    fn set_closing(&mut self, sock: Sock, stage: Stage, reason: Closed, after: Tick) {
        let connection = &mut self.connections[sock.slot() as usize];
        connection.stage = stage;
        connection.closed = reason;
        self.set_deadline(sock, after);
    }

    fn set_deadline(&mut self, sock: Sock, after: Tick) {
        let deadline = self.tick_now() + after;
        let connection = &mut self.connections[sock.slot() as usize];
        connection.deadline = deadline;
        connection.wakes = deadline;
        self.wheel.set(sock.slot(), deadline);
    }

    /// The deadline that holds while the connection receives. It moves with every request; the
    /// entry in the wheel only where the new deadline is earlier.
    #[inline]
    fn extend_deadline(&mut self, sock: Sock, sending: bool) {
        let (now, now_ms) = (self.tick_now(), self.now_ms());
        let connection = &mut self.connections[sock.slot() as usize];
        let site = self.sites.site_of(usize::from(connection.listener));
        let mut left = connection.conn.time_left(site, now_ms).unwrap_or(site.limits().idle_ms_max);
        if sending {
            left = left.min(site.limits().write_ms_max);
        }
        let deadline = now + ticks_of(left);
        connection.deadline = deadline;
        if deadline < connection.wakes {
            connection.wakes = deadline;
            self.wheel.set(sock.slot(), deadline);
        }
    }

    #[inline]
    fn send(&mut self, sock: Sock, payload: Payload, then: Then) {
        let now_ms = self.now_ms();
        self.connections[sock.slot() as usize].outflow.begin(payload.len(), now_ms);
        if let Err(Full(payload)) = self.driver.send(sock, payload, then) {
            self.deferred.push_back((sock, payload, then));
        }
    }

    /// Tries again what the queue had no room for, in order.
    fn retry(&mut self) {
        while let Some((sock, payload, then)) = self.deferred.pop_front() {
            if let Err(Full(payload)) = self.driver.send(sock, payload, then) {
                self.deferred.push_front((sock, payload, then));
                break;
            }
        }
        if self.paused_until.is_some_and(|until| self.now >= until) {
            self.paused_until = None;
            if !matches!(self.order, Order::Drain { .. } | Order::Stop) {
                for listener in self.paused.drain(..) {
                    self.driver.resume(listener);
                }
            }
        }
    }

    fn sent(&mut self, sock: Sock) {
        let connection = &mut self.connections[sock.slot() as usize];
        connection.outflow.end();
        match connection.stage {
            Stage::Dispatched(ticket) => self.start(ticket as usize),
            Stage::Lingering { .. } => {
                let linger = self.linger_ticks(sock);
                self.set_deadline(sock, linger);
                self.linger(sock);
            }
            Stage::Open => self.begin(sock),
            Stage::Free | Stage::Closing => {}
        }
    }

    /// Reads on after a last reply, as long as it is worth it.
    fn linger(&mut self, sock: Sock) {
        let connection = &mut self.connections[sock.slot() as usize];
        if connection.stage == (Stage::Lingering { receiving: false }) {
            connection.stage = Stage::Lingering { receiving: true };
            self.receive(sock);
        }
    }

    fn ended(&mut self, sock: Sock) {
        let connection = &mut self.connections[sock.slot() as usize];
        if connection.stage == Stage::Open {
            let idle = connection.conn.phase() == Phase::Idle;
            connection.closed = if idle { Closed::Peer } else { Closed::Truncated };
        }
        connection.outflow.end();
        connection.stage = Stage::Closing;
        self.driver.close(sock);
    }

    fn failed(&mut self, sock: Sock, op: Op, _error: Errno) {
        let connection = &mut self.connections[sock.slot() as usize];
        if matches!(op, Op::Send | Op::SendZc)
            && let Some(variant) = connection.last
        {
            let site = self.sites.of_listener(usize::from(connection.listener));
            let chain = match connection.stage {
                Stage::Open if connection.prepaid == Prepaid::Armed => Chain::RecvReply,
                Stage::Closing => Chain::Last,
                _ => Chain::ReplyRecv,
            };
            let route = self.sites.all()[site].variant(variant).route();
            self.tally.send_failed(site, route, chain);
        }
        if let Stage::Dispatched(ticket) = connection.stage {
            self.forget(ticket as usize);
        }
        self.close(sock, Closed::Reset);
    }

    fn close(&mut self, sock: Sock, reason: Closed) {
        let connection = &mut self.connections[sock.slot() as usize];
        connection.stage = Stage::Closing;
        connection.closed = reason;
        self.wheel.remove(sock.slot());
        self.driver.close(sock);
    }

    fn closed(&mut self, sock: Sock) {
        let connection = &mut self.connections[sock.slot() as usize];
        let (listener, reason) = (usize::from(connection.listener), connection.closed);
        let unread = connection.prepaid == Prepaid::Begun;
        *connection = Connection::free();
        self.wheel.remove(sock.slot());
        self.open -= 1;
        self.tally.closed(listener, reason);
        if unread && let Some(one) = self.sites.one_reply(listener) {
            // Its reply went out all the same.
            let site = self.sites.of_listener(listener);
            self.tally.armed(&one.key(site, None), one.len(&self.sites.all()[site]));
        }
        if !self.paused.is_empty() {
            self.paused_until = Some(self.now); // a descriptor is free again
        }
    }

    fn accept_paused(&mut self, listener: ListenerId) {
        if !self.paused.contains(&listener) {
            self.paused.push(listener);
        }
        self.paused_until.get_or_insert(self.now + ACCEPT_RETRY);
    }

    /// Begins to answer a request whose handler answers later.
    fn start(&mut self, ticket: usize) {
        let Some(pending) = self.pending.get(ticket) else { return };
        self.wheel.remove(pending.sock.slot()); // no limit of ours while the handler works
        match self.sites.handler(pending.about.handler) {
            Handler::Metrics { allow } if !allow.is_empty() => self.driver.peer(pending.sock),
            Handler::Metrics { .. } => self.ask_scribe(ticket),
            Handler::Live | Handler::Ready | Handler::App(_) => {
                unreachable!("these answer at once")
            }
        }
    }

    fn peer(&mut self, sock: Sock, address: io::Result<PeerAddr>) {
        let Stage::Dispatched(ticket) = self.connections[sock.slot() as usize].stage else {
            return;
        };
        let Some(pending) = self.pending.get(ticket as usize) else { return };
        let Handler::Metrics { allow } = self.sites.handler(pending.about.handler) else { return };
        let allowed = match address {
            // Who can open the socket's file may ask; its permissions say who that is.
            Ok(PeerAddr::Unix) => true,
            Ok(PeerAddr::Inet(address)) => {
                let address = address.ip().to_canonical();
                allow.iter().any(|net| net.contains(&address))
            }
            Err(_) => false,
        };
        if allowed {
            self.ask_scribe(ticket as usize);
        } else {
            self.answer(ticket as usize, &Response::text(403, "not for this address\n"));
        }
    }

    fn ask_scribe(&mut self, ticket: usize) {
        let Some(pending) = self.pending.get_mut(ticket) else { return };
        self.questions = self.questions.wrapping_add(1);
        pending.question = Some(self.questions);
        let (at, question, format) = (ticket, self.questions, pending.format);
        if !self.scribe.ask(Ticket { at, question }, format, &self.mailbox) {
            let busy = Response::text(503, "too many scrapes at a time\n");
            self.answer(ticket, &busy.header("Retry-After", "1"));
        }
    }

    /// Sends a handler's reply and goes on with what came behind the request.
    fn answer(&mut self, ticket: usize, response: &Response) {
        let Some(Pending { sock, about, .. }) = self.forget(ticket) else { return };
        let draining = !matches!(self.order, Order::Serve | Order::Unready);
        let now_ms = self.now_ms();
        let Self { sites, served, connections, tally, out, now, clock, .. } = self;
        let site = sites.all()[about.site].as_ref();
        let replies = &mut served[about.site].replies;
        let connection = &mut connections[sock.slot() as usize];
        if draining {
            connection.conn.drain();
        }
        let mut desk = Desk { index: about.site, replies, tally, out, now: *now, clock };
        desk.reply(&about, response, connection.conn.reply_context(site));
        connection.last = None;
        let why = if draining { Closed::Drain } else { Closed::Reply };
        let next = match connection.conn.replied(site, false, now_ms) {
            After::Close => Next::Close(why),
            After::Linger => Next::Linger(why),
            After::Open => {
                connection.wakes = Tick::MAX; // it is not in the wheel
                self.converse(sock, None)
            }
        };
        self.proceed(sock, next);
    }

    fn forget(&mut self, ticket: usize) -> Option<Pending> {
        let pending = self.pending.try_remove(ticket)?;
        self.tally.in_flight(false);
        Some(pending)
    }

    fn woken(&mut self) {
        for Scrape { ticket, format, text } in self.mailbox.take() {
            // The place may have been given anew when its connection broke, perhaps to somebody
            // who may not ask.
            let asked = self.pending.get(ticket.at).and_then(|pending| pending.question);
            if asked == Some(ticket.question) {
                self.answer(ticket.at, &metrics_response(format, text));
            }
        }
        let order = self.seat.order();
        if order != self.order {
            let began = matches!(self.order, Order::Serve | Order::Unready);
            self.order = order;
            if began && matches!(order, Order::Drain { .. } | Order::Stop) {
                for (listener, _) in &self.listeners {
                    self.driver.leave(*listener);
                }
            }
        }
    }
}

impl Connection {
    fn free() -> Self {
        Connection {
            conn: Conn::new(0),
            sock: None,
            listener: 0,
            stage: Stage::Free,
            outflow: Outflow::default(),
            deadline: 0,
            wakes: 0,
            closed: Closed::Peer,
            last: None,
            prepaid: Prepaid::No,
            gathered: None,
        }
    }
}

/// Milliseconds in ticks, rounded up; at least one.
fn ticks_of(ms: u32) -> Tick {
    let ticks = u64::from(ms).div_ceil(TICK_MS).max(1);
    Tick::try_from(ticks).unwrap_or(Tick::MAX / 4).min(Tick::MAX / 4)
}

fn metrics_response(format: Format, text: Vec<u8>) -> Response {
    Response::new(200)
        .header("Content-Type", format.content_type())
        .header("Cache-Control", "no-store")
        .header("Vary", "Accept")
        .body(text)
}
