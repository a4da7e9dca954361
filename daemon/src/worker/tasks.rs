//! Requests that their handlers answer later, and replies that are made while they go out.
//!
//! A handler is polled where its request was read; only one that suspends, or whose reply is a
//! stream, gets a [`Task`]. While a connection has one, its sends are plain and a receive may be
//! in flight beside them: for the request's body, or to notice that the client has gone.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use ember::net::StreamEvent;
use ember::rt::{Runtime, TaskId};
use ember::{Body, BodyFeed, BodyStream, Error, PeerCell, Response, Slot, Upgrade};
use ember_http::{After, Event, Phase, ReplyFraming};
use ember_uring::{Buffer, Driver, Payload, PeerAddr, Piece, Sock, Then};

use super::desk::{About, Begun, Desk};
use super::functions::{FunctionId, Slots};
use super::tally::Closed;
use super::thread::{Next, Stage, Thread, ticks_of};

/// Bytes of a streamed reply that go out at a time.
const BATCH_BYTES: usize = 64 << 10;

/// A request under way.
pub(super) struct Task {
    pub(super) sock: Sock,
    about: About,
    work: Work,
    /// While the request's body is arriving.
    body: Option<BodyFeed>,
    peer: PeerCell,
    /// A plain send is in flight.
    pub(super) sending: bool,
    /// A receive is in flight.
    pub(super) receiving: bool,
    /// The client sends no more.
    ended: bool,
    /// The handler has asked for its body while something was going out.
    wants_body: bool,
}

/// How far it is.
enum Work {
    /// The handler has it.
    Handling(FunctionId, Slot),
    /// The reply is there; what was sent before it is not out yet.
    Replying(Response),
    /// The reply's body is being made.
    Streaming(Begun, Pin<Box<dyn BodyStream>>, Option<u64>),
    /// The head that gives the connection over is going out.
    Upgrading(Begun, Upgrade),
}

/// A handler that was started and has not been polled, or has suspended.
pub(super) struct Started {
    pub(super) task: TaskId,
    pub(super) about: About,
    pub(super) function: FunctionId,
    pub(super) slot: Slot,
    pub(super) feed: Option<BodyFeed>,
    pub(super) peer: PeerCell,
}

/// What came of polling a handler where its request was read.
pub(super) enum Polled {
    /// The reply, with its body.
    Whole(About, Response),
    /// It needs a task.
    Later(TaskId, Box<Later>),
}

/// A request that cannot be answered at once.
pub(super) struct Later {
    about: About,
    work: Work,
    body: Option<BodyFeed>,
    peer: PeerCell,
}

impl Started {
    /// Polls the handler once.
    #[inline]
    pub(super) fn poll(mut self, runtime: &Runtime, slots: &mut Slots) -> Polled {
        let waker = runtime.waker(self.task);
        let polled = self.slot.poll(&mut Context::from_waker(&waker));
        let Started { task, about, function, slot, feed, peer } = self;
        let work = match polled {
            Poll::Pending => Work::Handling(function, slot),
            Poll::Ready(response) => {
                slots.put(function, slot);
                if !matches!(response.body_ref(), Body::Stream(_) | Body::Upgrade(_)) {
                    runtime.release(task);
                    return Polled::Whole(about, response);
                }
                Work::Replying(response)
            }
        };
        Polled::Later(task, Box::new(Later { about, work, body: feed, peer }))
    }

    /// The request is not to be answered by it any more.
    pub(super) fn give_up(mut self, runtime: &Runtime, slots: &mut Slots) {
        self.slot.clear();
        slots.put(self.function, self.slot);
        runtime.release(self.task);
    }
}

impl Task {
    pub(super) fn of(sock: Sock, later: Later) -> Task {
        let Later { about, work, body, peer } = later;
        Task {
            sock,
            about,
            work,
            body,
            peer,
            sending: false,
            receiving: false,
            ended: false,
            wants_body: false,
        }
    }
}

impl<D: Driver> Thread<D> {
    /// Lets everything go on that has been woken.
    pub(super) fn run_tasks(&mut self) {
        // What this wakes has its turn in a second round; what that wakes, after the kernel.
        for _ in 0..2 {
            for _ in 0..self.runtime.gather() {
                if let Some(task) = self.runtime.run_one() {
                    self.go_on(task);
                }
            }
            self.run_commands();
        }
    }

    pub(super) fn task(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(id.index())?.as_mut()
    }

    /// Keeps a request under way.
    pub(super) fn add_task(&mut self, id: TaskId, task: Task) {
        if id.index() >= self.tasks.len() {
            self.tasks.resize_with(id.index() + 1, || None);
        }
        self.tally.in_flight(true);
        self.tasks[id.index()] = Some(task);
    }

    /// Takes a request out that is answered, or will not be.
    fn take_task(&mut self, id: TaskId) -> Option<Task> {
        let task = self.tasks.get_mut(id.index())?.take()?;
        self.runtime.release(id);
        self.tally.in_flight(false);
        Some(task)
    }

    /// The client has gone, or gets another reply: the handler's work ends here.
    pub(super) fn cancel(&mut self, id: TaskId) {
        if let Some(Task { work: Work::Handling(function, mut slot), .. }) = self.take_task(id) {
            slot.clear();
            self.slots.put(function, slot);
        }
    }

    /// The connection's stage has become this task: see what can be done.
    pub(super) fn settle_in(&mut self, id: TaskId) {
        self.go_on_unless_sending(id);
        self.receive_for(id);
    }

    /// A waker was used.
    fn go_on(&mut self, id: TaskId) {
        let waker = self.runtime.waker(id);
        let Some(task) = self.task(id) else { return };
        if let Work::Handling(_, slot) = &mut task.work
            && let Poll::Ready(response) = slot.poll(&mut Context::from_waker(&waker))
        {
            let work = std::mem::replace(&mut task.work, Work::Replying(response));
            if let Work::Handling(function, slot) = work {
                self.slots.put(function, slot);
            }
        }
        self.go_on_unless_sending(id);
    }

    fn go_on_unless_sending(&mut self, id: TaskId) {
        match self.task(id) {
            Some(Task { sending: false, work: Work::Replying(_), .. }) => self.reply_now(id),
            Some(Task { sending: false, work: Work::Streaming(..), .. }) => self.pump(id),
            _ => {}
        }
    }

    /// The plain send is out.
    pub(super) fn task_sent(&mut self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        task.sending = false;
        let sock = task.sock;
        if matches!(task.work, Work::Upgrading(..)) {
            return self.upgrade(id);
        }
        let wants_body = std::mem::take(&mut task.wants_body);
        let waits_for_a_handler = task.ended && matches!(task.work, Work::Handling(..));
        if waits_for_a_handler {
            let patience = ticks_of(self.sites.half_close_ms());
            self.set_deadline(sock, patience);
        } else if self.conn(sock).phase() == Phase::Body {
            self.resume_body(sock);
        } else {
            self.wheel_remove(sock);
        }
        if wants_body {
            self.ask_body(id);
        }
        self.go_on_unless_sending(id);
    }

    /// Sends what is on the desk, and nothing behind it yet.
    pub(super) fn send_for(&mut self, id: TaskId) {
        if let Some(payload) = self.take_out() {
            self.send_before(id, payload);
        }
    }

    /// Sends replies to what was pipelined before the request.
    pub(super) fn send_before(&mut self, id: TaskId, payload: Payload) {
        let Some(task) = self.task(id) else { return };
        task.sending = true;
        let sock = task.sock;
        let after = self.write_ticks(sock);
        self.set_deadline(sock, after);
        self.send(sock, payload, Then::Nothing);
    }

    /// Begins the reply: nothing else is in the way any more.
    fn reply_now(&mut self, id: TaskId) {
        let draining = self.is_draining();
        let Some(task) = self.task(id) else { return };
        let (sock, about) = (task.sock, task.about.clone());
        let nothing = Work::Replying(Response::new(500));
        let Work::Replying(response) = std::mem::replace(&mut task.work, nothing) else { return };
        if draining {
            self.conn(sock).drain();
        }
        let context = self.reply_context(sock);
        let mut begun = self.desk(about.site, sock).begin(response, context);
        match std::mem::take(&mut begun.body) {
            Body::Stream(stream) => {
                let left = stream.length();
                let Some(task) = self.task(id) else { return };
                task.work = Work::Streaming(begun, stream, left);
                self.pump(id);
            }
            Body::Upgrade(upgrade) => {
                let Some(task) = self.task(id) else { return };
                task.work = Work::Upgrading(begun, upgrade);
                self.send_for(id);
            }
            _ => self.finish(id, begun),
        }
    }

    /// The reply is complete on the desk.
    fn finish(&mut self, id: TaskId, begun: Begun) {
        let Some(Task { sock, about, receiving, ended, .. }) = self.take_task(id) else { return };
        self.desk(about.site, sock).count(&about, &begun);
        self.out.after_sent.append(begun.after_sent);
        let draining = self.is_draining();
        let close = begun.framing == ReplyFraming::UntilClose;
        let after = self.replied(sock, close);
        let why = if draining { Closed::Drain } else { Closed::Reply };
        let next = match after {
            After::Close => Next::Close(why),
            After::Linger => Next::Linger(why),
            After::Open if receiving => return self.flush(sock),
            After::Open if ended && !self.conn(sock).has_surplus() => Next::Close(Closed::Peer),
            After::Open => {
                self.forget_deadline(sock);
                self.converse(sock, None)
            }
        };
        if receiving { self.proceed_beside_receive(sock, next) } else { self.proceed(sock, next) }
    }

    /// Lets a streamed body go on.
    fn pump(&mut self, id: TaskId) {
        let waker = self.runtime.waker(id);
        let Some(task) = self.task(id) else { return };
        let (sock, site) = (task.sock, task.about.site);
        let nothing = Work::Replying(Response::new(500));
        let work = std::mem::replace(&mut task.work, nothing);
        let Work::Streaming(mut begun, mut stream, mut left) = work else {
            task.work = work;
            return;
        };
        let mut cx = Context::from_waker(&waker);
        let mut desk = self.desk(site, sock);
        while desk.out.len() < BATCH_BYTES {
            // A stream is the program's own code.
            let next = catch_unwind(AssertUnwindSafe(|| stream.as_mut().poll_next(&mut cx)));
            match next.unwrap_or_else(|_| Poll::Ready(Some(Err(io::ErrorKind::Other.into())))) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(piece))) => {
                    if !desk.take_piece(&mut begun, piece, &mut left) {
                        return self.break_off(id, &begun);
                    }
                }
                Poll::Ready(Some(Err(_))) => return self.break_off(id, &begun),
                Poll::Ready(None) if left.is_some_and(|left| left > 0) => {
                    return self.break_off(id, &begun);
                }
                Poll::Ready(None) => {
                    desk.end_body(&mut begun);
                    return self.finish(id, begun);
                }
            }
        }
        if let Some(task) = self.task(id) {
            task.work = Work::Streaming(begun, stream, left);
        }
        self.send_for(id);
    }

    /// The reply cannot be completed: what there is of it goes out, and the closed connection tells
    /// the client that this is not all (RFC 9112 section 8).
    fn break_off(&mut self, id: TaskId, begun: &Begun) {
        let Some(Task { sock, about, receiving, .. }) = self.take_task(id) else { return };
        self.desk(about.site, sock).count(&about, begun);
        let next = Next::Close(Closed::Aborted);
        if receiving { self.proceed_beside_receive(sock, next) } else { self.proceed(sock, next) }
    }

    /// The head is out: the connection is the upgrade's from here.
    fn upgrade(&mut self, id: TaskId) {
        let Some(task) = self.take_task(id) else { return };
        let Work::Upgrading(begun, upgrade) = task.work else { return };
        let (sock, about) = (task.sock, task.about.clone());
        self.desk(about.site, sock).count(&about, &begun);
        self.forget_deadline(sock);
        let received = self.surplus(sock);
        let stream = self.hand_over(sock, &received);
        if task.receiving {
            self.runtime.stream_is_receiving(&stream);
        }
        if task.ended {
            self.runtime.stream_event(stream.id(), StreamEvent::Ended);
        }
        upgrade.start(stream);
    }

    /// Bytes came while the request is under way: of its body, or of what follows it.
    pub(super) fn task_received(&mut self, id: TaskId, sock: Sock, buffer: Buffer) {
        let Some(task) = self.task(id) else { return self.driver_give_back(buffer) };
        task.receiving = false;
        if task.body.is_some() {
            self.feed(id, sock, Some(&buffer));
        } else {
            self.keep(sock, &buffer);
        }
        self.driver_give_back(buffer);
        self.receive_for(id);
    }

    /// Gives the handler what has come of its request's body.
    fn feed(&mut self, id: TaskId, sock: Sock, buffer: Option<&Buffer>) {
        let Some(task) = self.task(id) else { return };
        let Some(feed) = task.body.clone() else { return };
        let (mut ended, mut next) = (false, None);
        let begun = !matches!(task.work, Work::Handling(..));
        self.read(sock, buffer, |event, desk| match event {
            Event::Body(bytes) => {
                feed.push(bytes);
                true
            }
            Event::BodyEnd => {
                feed.end();
                ended = true;
                true
            }
            // Behind the head of a final reply it would stand in that reply's body.
            Event::Continue if begun => true,
            Event::Continue => {
                desk.out.push(Piece::Owned(ember_http::CONTINUE.to_vec()));
                true
            }
            Event::Refuse(refusal) if begun => {
                // A reply is under way already; it cannot be taken back.
                let _ = refusal;
                next = Some(Next::Close(Closed::Refused));
                false
            }
            Event::Refuse(refusal) => {
                desk.refuse(&refusal, &[]);
                next = Some(match refusal.after {
                    After::Linger => Next::Linger(Closed::Refused),
                    After::Open | After::Close => Next::Close(Closed::Refused),
                });
                false
            }
            Event::Close => {
                next = Some(Next::Close(Closed::Truncated));
                false
            }
            _ => false,
        });
        if ended && let Some(task) = self.task(id) {
            task.body = None;
            // No limit of ours while the handler works, but one while something goes out.
            if !task.sending {
                self.wheel_remove(sock);
            }
        }
        if let Some(next) = next {
            feed.fail(Error::new(400, "the body was broken off"));
            let sending = self.task(id).is_some_and(|task| task.sending);
            self.cancel(id);
            return if sending {
                self.close(sock, Closed::Refused);
            } else {
                self.proceed(sock, next);
            };
        }
        if self.task(id).is_some_and(|task| !task.sending) {
            self.send_for(id);
        }
    }

    /// Receives, if that is of use: more of the body that there is room for, or to notice the
    /// client's end.
    pub(super) fn receive_for(&mut self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        if task.receiving || task.ended {
            return;
        }
        let (sock, is_body, sending) = (task.sock, task.body.is_some(), task.sending);
        let has_room = task.body.as_ref().is_none_or(BodyFeed::has_room);
        if !has_room || !is_body && self.conn(sock).has_surplus() {
            return;
        }
        if let Some(task) = self.task(id) {
            task.receiving = true;
        }
        if is_body && !sending {
            self.resume_body(sock);
        }
        // Nothing but the client's end is expected while it waits for its reply.
        if is_body { self.receive(sock) } else { self.receive_later(sock) }
    }

    /// The handler has asked for its body, or made room for more.
    pub(super) fn ask_body(&mut self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        if task.body.is_none() {
            return;
        }
        // The word to go on has to wait for what was sent before it.
        task.wants_body = task.sending;
        if task.sending {
            return;
        }
        let sock = task.sock;
        self.conn(sock).want_body();
        self.feed(id, sock, None);
        self.receive_for(id);
    }

    /// The client sends no more. It may be gone, or wait for the reply: only sending tells. So its
    /// handler has a while to answer, and a streamed reply finds out by itself.
    pub(super) fn task_ended(&mut self, id: TaskId, sock: Sock) {
        let patience = ticks_of(self.sites.half_close_ms());
        let Some(task) = self.task(id) else { return };
        task.receiving = false;
        task.ended = true;
        if let Some(feed) = &task.body {
            feed.fail(Error::new(400, "the client broke off"));
            self.cancel(id);
            return self.close(sock, Closed::Truncated);
        }
        let waits = !task.sending && matches!(task.work, Work::Handling(..));
        self.conn(sock).handle_eof();
        if waits {
            self.set_deadline(sock, patience);
        }
    }

    /// The handler wants to know who asks.
    pub(super) fn ask_peer(&mut self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        let (sock, cell) = (task.sock, task.peer.clone());
        match self.known_peer(sock) {
            Some(address) => cell.set(Some(address)),
            None => self.driver_peer(sock),
        }
    }

    /// The kernel has told who it is.
    pub(super) fn peer(&mut self, sock: Sock, address: io::Result<PeerAddr>) {
        let address = address.ok();
        self.remember_peer(sock, address.clone());
        if let Stage::Dispatched(id) = self.connection(sock).stage
            && let Some(task) = self.task(id)
        {
            task.peer.set(address);
        }
    }

    /// A deadline has come up while a request is under way.
    pub(super) fn task_timed_out(&mut self, id: TaskId, sock: Sock) {
        let Some(task) = self.task(id) else { return };
        let begun = !matches!(task.work, Work::Handling(..));
        if task.sending || begun || task.body.is_none() {
            let why = if task.ended { Closed::Cancelled } else { Closed::Timeout };
            self.cancel(id);
            return self.close(sock, why);
        }
        let receiving = task.receiving;
        if let Some(feed) = &task.body {
            feed.fail(Error::new(408, "the body came too slowly"));
        }
        self.cancel(id);
        self.refuse_for_time(sock, receiving);
    }
}

impl Desk<'_> {
    /// Puts a piece on the desk; whether it fits into the length that was told.
    fn take_piece(&mut self, begun: &mut Begun, piece: Piece, left: &mut Option<u64>) -> bool {
        let len = piece.len() as u64;
        if let Some(left) = left {
            let Some(rest) = left.checked_sub(len) else { return false };
            *left = rest;
        }
        if len > 0 {
            begun.bytes += self.piece(piece, begun.framing);
        }
        true
    }

    fn end_body(&mut self, begun: &mut Begun) {
        if begun.framing == ReplyFraming::Chunked {
            self.out.push(Piece::Owned(ember_http::LAST_CHUNK.to_vec()));
            begun.bytes += ember_http::LAST_CHUNK.len() as u64;
        }
    }
}
