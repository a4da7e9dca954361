//! One ring thread: its connections, and the loop that serves them.

mod timeouts;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ember::net::StreamEvent;
use ember::rt::{Command, Runtime, TaskId};
use ember::{BodyFeed, Request, Response};
use ember_http::{After, BodyKind, Conn, Event, Input, Memo, Persist, Phase};
use ember_metrics::{Chain, PathKind};
use ember_uring::{
    Buffer, Completion, Driver, Errno, Full, ListenerId, Op, Payload, PeerAddr, Piece, Sock, Then,
};

use super::armed::{self, Prepaid, Talk};
use super::clock::Clock;
use super::connection::NO_LISTENER;
pub(super) use super::connection::{Connection, Stage};
use super::desk::{About, Desk, Noting};
use super::functions::{Answers, Functions, Slots};
use super::hooks::ThreadHooks;
use super::replies::{Outgoing, Replies};
use super::site::Sites;
use super::streams::Client;
use super::tally::{Closed, Pause, Tally};
use super::tasks::{Later, Polled, Started, Task};
use super::timers::{TICK_MS, Tick, Wheel};
use crate::access_log::Recorder;
use crate::boot::{Order, Seat};

/// After so long without a try to accept again, though descriptors were short.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What a thread is made of besides its driver.
pub(crate) struct Parts {
    pub(crate) sites: Arc<Sites>,
    pub(crate) tally: Tally,
    pub(crate) functions: Arc<Functions>,
    pub(crate) runtime: Runtime,
    pub(crate) recorder: Option<Recorder>,
    pub(crate) seat: Seat,
    /// The driver's listeners, in their order, and which one of the config each is.
    pub(crate) listeners: Vec<(ListenerId, usize)>,
    pub(crate) sockets_max: usize,
    pub(crate) clock: Clock,
}

/// What one site needs in this thread.
pub(super) struct Served {
    pub(super) replies: Replies,
    pub(super) memo: Memo,
}

/// How a conversation on received bytes ended.
pub(super) enum Next {
    /// Send what there is, then receive.
    Receive,
    /// Send what there is, then arm the one reply ahead of the next request.
    Arm,
    /// Send what there is, then wait for the handler.
    Wait(TaskId),
    /// Send what there is, then close.
    Close(Closed),
    /// Send what there is, then read on for a while before closing.
    Linger(Closed),
}

/// One ring thread.
pub(crate) struct Thread<D> {
    pub(super) driver: D,
    pub(super) sites: Arc<Sites>,
    pub(super) served: Vec<Served>,
    pub(super) connections: Vec<Connection>,
    open: usize,
    pub(super) wheel: Wheel,
    pub(super) tally: Tally,
    functions: Arc<Functions>,
    pub(super) runtime: Runtime,
    pub(super) recorder: Option<Recorder>,
    pub(super) slots: Slots,
    /// Requests under way, by the places of their handlers' futures.
    pub(super) tasks: Vec<Option<Task>>,
    pub(super) clients: Vec<Client>,
    pub(super) commands: Vec<Command>,
    pub(super) seat: Seat,
    order: Order,
    pub(super) listeners: Vec<(ListenerId, usize)>,
    /// Listeners that stopped for want of descriptors or memory.
    paused: Vec<ListenerId>,
    paused_until: Option<Instant>,
    sockets_max: usize,
    /// What a full queue gave back.
    deferred: VecDeque<(Sock, Payload, Then)>,
    pub(super) out: Outgoing,
    pub(super) clock: Clock,
    started: Instant,
    pub(super) now: Instant,
    due: Vec<u32>,
    idle_closed: bool,
}

impl<D: Driver> Thread<D> {
    /// A thread over a driver that accepts already.
    ///
    /// # Errors
    /// When memory for the replies cannot be had.
    pub(crate) fn new(driver: D, parts: Parts) -> io::Result<Self> {
        let Parts {
            sites,
            tally,
            functions,
            runtime,
            recorder,
            seat,
            listeners,
            sockets_max,
            clock,
        } = parts;
        let mut served = Vec::new();
        for site in sites.all() {
            let replies = Replies::new(Arc::clone(site))?;
            let mut memo = Memo::new();
            if recorder.is_some() {
                memo.keep_heads();
            }
            served.push(Served { replies, memo });
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
            slots: functions.slots(),
            functions,
            runtime,
            recorder,
            tasks: Vec::new(),
            clients: Vec::new(),
            commands: Vec::new(),
            seat,
            order: Order::Serve,
            listeners,
            paused: Vec::new(),
            paused_until: None,
            sockets_max,
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
    pub(crate) fn run(mut self, hooks: Option<&ThreadHooks>) -> io::Result<()> {
        let _entered = self.runtime.enter();
        let mut done = Vec::with_capacity(256);
        if let Some(hooks) = hooks {
            hooks.after_start();
        }
        while !self.finished() {
            self.turn(&mut done)?;
        }
        if let Some(hooks) = hooks {
            self.before_stop(hooks, &mut done)?;
        }
        self.runtime.shut_down();
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
        self.run_tasks();
        self.count(few);
        Ok(())
    }

    /// That nothing is left of the connections that were.
    #[cfg(test)]
    pub(super) fn assert_nothing_left(&self) -> &D {
        assert_eq!(self.open, 0, "connections");
        let free =
            |connection: &Connection| connection.stage == Stage::Free && connection.sock.is_none();
        assert!(self.connections.iter().all(free), "a slot is not free");
        assert_eq!(self.wheel.len(), 0, "deadlines");
        assert!(self.tasks.iter().all(Option::is_none), "requests under way");
        assert!(self.out.is_empty(), "replies that nobody sends");
        &self.driver
    }

    fn look_at_clock(&mut self) {
        self.now = self.clock.now();
        self.runtime.set_clock(self.now_ms());
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
        self.tally.write_notes();
        if few {
            if let Some(recorder) = &mut self.recorder {
                self.tally.log_dropped(recorder.take_dropped());
            }
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
        if !self.deferred.is_empty() || self.runtime.is_busy() {
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
        let timer = self.runtime.next_deadline_ms();
        let timer = timer.map(|at_ms| until(self.started + Duration::from_millis(at_ms)));
        [tick, retry, drain, timer].into_iter().flatten().min()
    }

    /// The clock of the protocol's machines.
    pub(super) fn now_ms(&self) -> u64 {
        (self.now - self.started).as_millis() as u64
    }

    pub(super) fn tick_now(&self) -> Tick {
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
            Completion::AcceptPaused { listener, error } => self.accept_paused(listener, error),
            Completion::Peer { sock, address } => self.peer(sock, address.map(|a| *a)),
            Completion::Delivery { sock, delivery } => self.told(sock, delivery),
            Completion::Connected { sock } => self.connected(sock),
            Completion::Woken => self.woken(),
        }
    }

    fn accepted(&mut self, listener: ListenerId, sock: Sock) {
        let listener = self.listeners[listener.index()].1;
        let (tick, now_ms) = (self.tick_now(), self.now_ms());
        let site = self.sites.site_of(listener);
        let conn = Conn::new(now_ms);
        let deadline = tick + conn.time_left(site, now_ms).map_or(1, ticks_of);
        let connection = self.connection(sock);
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
        if self.recorder.is_some() && self.sites.one_reply(listener).is_none() {
            // Lines tell who it was; an armed reply bears nothing beside it.
            self.driver.peer(sock);
        }
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
    pub(super) fn receive(&mut self, sock: Sock) {
        if let Err(Full(())) = self.driver.recv(sock) {
            self.close(sock, Closed::Reset);
        }
    }

    /// The same where nothing is expected to be there yet.
    pub(super) fn receive_later(&mut self, sock: Sock) {
        if let Err(Full(())) = self.driver.recv_later(sock) {
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
            Stage::Dispatched(task) => self.task_received(task, sock, buffer),
            Stage::Flushing { close, .. } => {
                if !close {
                    self.keep(sock, &buffer);
                }
                self.driver.give_back(buffer);
                self.connections[index].stage = Stage::Flushing { receiving: false, close };
            }
            Stage::Client(stream) => self.stream_received(stream, buffer),
            Stage::Free | Stage::Closing => self.driver.give_back(buffer),
        }
    }

    /// Lets the connection's machine read what came, and gathers the replies.
    #[inline]
    pub(super) fn converse(&mut self, sock: Sock, buffer: Option<&Buffer>) -> Next {
        let (draining, ready) = (self.is_draining(), self.order == Order::Serve);
        let Self { driver, sites, served, connections, tally, out, now, clock, .. } = self;
        let Self { functions, runtime, slots, recorder, .. } = self;
        let Connection { conn, listener, last, prepaid, peer, .. } =
            &mut connections[sock.slot() as usize];
        let index = sites.of_listener(usize::from(*listener));
        let site = &sites.all()[index];
        let Served { replies, memo } = &mut served[index];
        let log = recorder.as_mut().map(|recorder| Noting { recorder, peer: peer.as_deref() });
        let mut desk = Desk { index, replies, tally, out, now: *now, clock, log };
        let now_ms = (*now - self.started).as_millis() as u64;
        let bytes = buffer.map_or(&[][..], |buffer| driver.bytes(buffer));
        let mut input = Input::new(bytes, now_ms);
        if draining {
            conn.drain();
        }
        if let Some(one) = sites.one_reply(usize::from(*listener)) {
            let talk = Talk { one, site, conn, memo, prepaid, now_ms };
            return armed::converse(talk, &mut input, &mut desk);
        }
        // The handler whose request's body is being read.
        let mut started: Option<Started> = None;
        loop {
            let (after, why) = match conn.next(site, memo, &mut input) {
                Event::Prepared { variant, count, after, method, head } => {
                    *last = Some(variant);
                    desk.prepared(variant, method, count, head);
                    (after, Closed::Reply)
                }
                Event::More | Event::Wait if started.is_some() => {
                    let Some(handler) = started.take() else { continue };
                    match handler.poll(runtime, slots) {
                        Polled::Whole(about, response) => {
                            desk.reply(&about, response, conn.reply_context(site));
                            (conn.replied(site, false, now_ms), Closed::Reply)
                        }
                        Polled::Later(task, later) => return self.later(sock, task, *later),
                    }
                }
                Event::More => {
                    let last = draining && !desk.out.is_empty() && conn.phase() == Phase::Idle;
                    return if last { Next::Close(Closed::Drain) } else { Next::Receive };
                }
                Event::Refuse(refusal) => {
                    if let Some(handler) = started.take() {
                        handler.give_up(runtime, slots);
                    }
                    desk.refuse(&refusal, memo.last_head());
                    (refusal.after, Closed::Refused)
                }
                Event::Answer(answer) => (desk.give(*answer, memo.last_head()), Closed::Reply),
                Event::Request(request) => {
                    let answers = functions.of(request.handler);
                    let mut about = About {
                        site: index,
                        route: request.route,
                        kind: PathKind::Dynamic,
                        method: request.method(),
                        since: desk.now,
                        head: desk.log.as_ref().map(|_| request.head_bytes().into()),
                    };
                    let at_once = match answers {
                        Answers::Live => Some((200, "alive\n")),
                        Answers::Ready if ready => Some((200, "ready\n")),
                        Answers::Ready => Some((503, "draining\n")),
                        Answers::By { always: false, .. } if desk.tally.is_full() => {
                            about.kind = PathKind::Error;
                            desk.tally.shed(index, request.route);
                            Some((503, "too many requests under way\n"))
                        }
                        Answers::By { .. } => None,
                    };
                    let response = match (at_once, answers.function(about.method)) {
                        (Some((503, text)), _) => {
                            Response::text(503, text).header("Retry-After", "1")
                        }
                        (Some((status, text)), _) => Response::text(status, text),
                        // The protocol lets no other method through.
                        (None, None) => Response::new(405),
                        (None, Some((kind, function))) => {
                            about.kind = kind;
                            let task = runtime.reserve();
                            let has_body = request.body != BodyKind::None;
                            let feed = has_body.then(|| BodyFeed::new(task));
                            let request = Request::of_head(&request, site, task, feed.clone());
                            let cell = request.peer_cell();
                            if let Some(peer) = &*peer {
                                cell.set(Some(PeerAddr::clone(peer)));
                            }
                            let mut slot = slots.take(functions, function);
                            slot.start(request);
                            let handler = Started { task, about, function, slot, feed, peer: cell };
                            if has_body {
                                // What has come of the body is read before the handler looks.
                                started = Some(handler);
                                continue;
                            }
                            match handler.poll(runtime, slots) {
                                Polled::Whole(whole, response) => {
                                    about = whole;
                                    response
                                }
                                Polled::Later(task, later) => {
                                    conn.keep(memo, &mut input);
                                    return self.later(sock, task, *later);
                                }
                            }
                        }
                    };
                    desk.reply(&about, response, conn.reply_context(site));
                    (conn.replied(site, false, now_ms), Closed::Reply)
                }
                Event::Continue => {
                    desk.out.push(Piece::Owned(ember_http::CONTINUE.to_vec()));
                    continue;
                }
                Event::Body(bytes) => {
                    if let Some(Started { feed: Some(feed), .. }) = &started {
                        feed.push(bytes);
                    }
                    continue;
                }
                Event::BodyEnd => {
                    let Some(mut handler) = started.take() else { continue };
                    if let Some(feed) = handler.feed.take() {
                        feed.end();
                    }
                    match handler.poll(runtime, slots) {
                        Polled::Whole(about, response) => {
                            desk.reply(&about, response, conn.reply_context(site));
                            (conn.replied(site, false, now_ms), Closed::Reply)
                        }
                        Polled::Later(task, later) => {
                            conn.keep(memo, &mut input);
                            return self.later(sock, task, *later);
                        }
                    }
                }
                Event::Wait => unreachable!("a connection that waits is not conversed with"),
                Event::Close => {
                    if let Some(handler) = started.take() {
                        handler.give_up(runtime, slots);
                    }
                    return Next::Close(Closed::Reply);
                }
            };
            match after {
                After::Open => {}
                After::Close => return Next::Close(why),
                After::Linger => return Next::Linger(why),
            }
        }
    }

    /// Keeps a request whose handler has suspended, or whose reply is made while it goes out.
    fn later(&mut self, sock: Sock, id: TaskId, later: Later) -> Next {
        self.add_task(id, Task::of(sock, later));
        Next::Wait(id)
    }

    /// Does what a conversation has come to.
    #[inline]
    pub(super) fn proceed(&mut self, sock: Sock, next: Next) {
        let payload = self.out.take();
        if payload.is_none() {
            // What was received came behind whatever was sent before.
            self.connections[sock.slot() as usize].outflow.end();
        }
        match next {
            // Behind a linked receive nobody would hear that the reply is out.
            Next::Receive if !self.out.after_sent.is_empty() => {
                let after = self.write_ticks(sock);
                self.set_deadline(sock, after);
                self.connection(sock).stage = Stage::Flushing { receiving: false, close: false };
                let payload = payload.unwrap_or_else(|| Payload::Owned(Vec::new()));
                self.send(sock, payload, Then::Nothing);
            }
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
            Next::Wait(task) => {
                self.connections[sock.slot() as usize].stage = Stage::Dispatched(task);
                self.wheel_remove(sock);
                if let Some(payload) = payload {
                    // Replies to what was pipelined before it.
                    self.send_before(task, payload);
                }
                self.settle_in(task);
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

    pub(super) fn set_closing(&mut self, sock: Sock, stage: Stage, reason: Closed, after: Tick) {
        let connection = &mut self.connections[sock.slot() as usize];
        connection.stage = stage;
        connection.closed = reason;
        self.set_deadline(sock, after);
    }

    /// The deadline that holds while the connection receives. It moves with every request; the
    /// entry in the wheel only where the new deadline is earlier.
    #[inline]
    pub(super) fn extend_deadline(&mut self, sock: Sock, sending: bool) {
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
    pub(super) fn send(&mut self, sock: Sock, payload: Payload, then: Then) {
        let now_ms = self.now_ms();
        let connection = &mut self.connections[sock.slot() as usize];
        connection.outflow.begin(payload.len(), now_ms);
        if !self.out.after_sent.is_empty() {
            let after_sent = std::mem::take(&mut self.out.after_sent);
            connection.after_sent.get_or_insert_default().append(after_sent);
        }
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
            // At the limit only a connection's end is worth a try, and that sets the time anew.
            self.paused_until = None;
            if self.open < self.sockets_max {
                for listener in self.paused.drain(..) {
                    self.tally.resumed(self.listeners[listener.index()].1);
                    self.driver.resume(listener);
                }
            }
        }
    }

    fn sent(&mut self, sock: Sock) {
        let connection = &mut self.connections[sock.slot() as usize];
        connection.outflow.end();
        if let Some(after_sent) = connection.after_sent.take() {
            after_sent.call();
        }
        let connection = &self.connections[sock.slot() as usize];
        match connection.stage {
            Stage::Dispatched(task) => self.task_sent(task),
            Stage::Flushing { receiving, close } => self.flushed(sock, receiving, close),
            Stage::Client(stream) => self.stream_sent(stream, sock),
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
        match connection.stage {
            Stage::Dispatched(task) => return self.task_ended(task, sock),
            Stage::Flushing { close, .. } => {
                if !close {
                    connection.conn.handle_eof();
                }
                connection.stage = Stage::Flushing { receiving: false, close };
                return;
            }
            // The last reply is still going out.
            Stage::Lingering { .. } if connection.outflow.is_open() => {
                connection.stage = Stage::Flushing { receiving: false, close: true };
                return;
            }
            Stage::Client(stream) => {
                return self.runtime.stream_event(stream, StreamEvent::Ended);
            }
            _ => {}
        }
        if connection.stage == Stage::Open {
            let idle = connection.conn.phase() == Phase::Idle;
            connection.closed = if idle { Closed::Peer } else { Closed::Truncated };
        }
        connection.outflow.end();
        connection.stage = Stage::Closing;
        self.driver.close(sock);
    }

    fn failed(&mut self, sock: Sock, op: Op, error: Errno) {
        if let Stage::Client(stream) = self.connections[sock.slot() as usize].stage {
            return self.stream_failed(stream, sock, error);
        }
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
        if let Stage::Dispatched(task) = connection.stage {
            self.cancel(task);
        }
        self.close(sock, Closed::Reset);
    }

    pub(super) fn close(&mut self, sock: Sock, reason: Closed) {
        if let Stage::Dispatched(task) = self.connections[sock.slot() as usize].stage {
            self.cancel(task);
        }
        let connection = &mut self.connections[sock.slot() as usize];
        connection.stage = Stage::Closing;
        connection.closed = reason;
        self.wheel.remove(sock.slot());
        self.driver.close(sock);
    }

    fn closed(&mut self, sock: Sock) {
        let connection = &mut self.connections[sock.slot() as usize];
        let (listener, reason) = (connection.listener, connection.closed);
        let unread = connection.prepaid == Prepaid::Begun;
        let after_sent = connection.after_sent.take();
        if let Some(after_sent) = after_sent
            && matches!(reason, Closed::Reply | Closed::Drain)
        {
            // The last reply went out with the close behind it.
            after_sent.call();
        }
        let stage = std::mem::replace(connection, Connection::free()).stage;
        self.wheel.remove(sock.slot());
        if let Stage::Client(stream) = stage {
            self.stream_closed(stream);
        }
        if listener != NO_LISTENER {
            self.open -= 1;
            self.tally.closed(usize::from(listener), reason);
        }
        if unread && let Some(one) = self.sites.one_reply(usize::from(listener)) {
            // Its reply went out all the same.
            let site = self.sites.of_listener(usize::from(listener));
            self.tally.armed(&one.key(site, None), one.len(&self.sites.all()[site]));
        }
        if !self.paused.is_empty() {
            self.paused_until = Some(self.now); // a descriptor is free again
        }
    }

    fn accept_paused(&mut self, listener: ListenerId, error: Errno) {
        if self.is_draining() {
            return; // accepting is over
        }
        if !self.paused.contains(&listener) {
            self.paused.push(listener);
        }
        let why = match error {
            Errno::ENOMEM | Errno::ENOBUFS => Pause::Memory,
            _ if self.open >= self.sockets_max => Pause::Limit,
            _ => Pause::Descriptors,
        };
        self.tally.paused(self.listeners[listener.index()].1, why);
        self.paused_until.get_or_insert(self.now + ACCEPT_RETRY);
    }

    fn connected(&mut self, sock: Sock) {
        match self.connections[sock.slot() as usize].stage {
            Stage::Client(stream) => self.runtime.stream_event(stream, StreamEvent::Connected),
            _ => self.driver.close(sock),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        !matches!(self.order, Order::Serve | Order::Unready)
    }

    fn woken(&mut self) {
        let order = self.seat.order();
        if order != self.order {
            let began = matches!(self.order, Order::Serve | Order::Unready);
            self.order = order;
            if began && matches!(order, Order::Drain { .. } | Order::Stop) {
                for (listener, _) in &self.listeners {
                    self.driver.leave(*listener);
                }
                self.paused_until = None;
                for listener in self.paused.drain(..) {
                    self.tally.resumed(self.listeners[listener.index()].1);
                }
            }
        }
    }
}

/// Milliseconds in ticks, rounded up; at least one.
pub(super) fn ticks_of(ms: u32) -> Tick {
    let ticks = u64::from(ms).div_ceil(TICK_MS).max(1);
    Tick::try_from(ticks).unwrap_or(Tick::MAX / 4).min(Tick::MAX / 4)
}
