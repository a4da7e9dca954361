//! What a thread knows of one connection, and the small steps that its parts share.

use ember::AfterSent;
use ember::net::StreamId;
use ember::rt::TaskId;
use ember_http::{After, Conn, Event, Input, ReplyContext, VariantId};
use ember_uring::{Buffer, Driver, Payload, PeerAddr, Sock, Then};

use super::armed::Prepaid;
use super::desk::{Desk, Noting};
use super::outflow::Outflow;
use super::tally::Closed;
use super::thread::{Next, Served, Thread, ticks_of};
use super::timers::Tick;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No connection is here.
    Free,
    /// A receive is in flight, or a reply with a receive behind it.
    Open,
    /// A request is under way; the task says what is in flight.
    Dispatched(TaskId),
    /// A reply is going out by a plain send. A receive may be in flight beside it, and what comes
    /// is kept until the reply is out. Then the connection goes on, or closes.
    Flushing { receiving: bool, close: bool },
    /// The last reply is on its way; the close behind it too.
    Closing,
    /// A last reply has been sent or is on its way, and what still comes is read and forgotten.
    Lingering { receiving: bool },
    /// It is a stream of a handler or a task.
    Client(StreamId),
}

pub(super) struct Connection {
    pub(super) conn: Conn,
    pub(super) sock: Option<Sock>,
    pub(super) listener: u16,
    pub(super) stage: Stage,
    pub(super) outflow: Outflow,
    pub(super) deadline: Tick,
    /// Where its entry in the wheel comes up; the deadline may have moved on since.
    pub(super) wakes: Tick,
    pub(super) closed: Closed,
    /// The last prepared reply, to name the route if its chain breaks.
    pub(super) last: Option<VariantId>,
    /// Of a listener with one reply.
    pub(super) prepaid: Prepaid,
    /// Its other end, once somebody has asked.
    pub(super) peer: Option<Box<PeerAddr>>,
    /// Who wants to know when what goes out is out.
    pub(super) after_sent: Option<Box<AfterSent>>,
}

/// The listener of sockets that came from none.
pub(super) const NO_LISTENER: u16 = u16::MAX;

impl Connection {
    pub(super) fn free() -> Self {
        Connection {
            conn: Conn::new(0),
            sock: None,
            listener: NO_LISTENER,
            stage: Stage::Free,
            outflow: Outflow::default(),
            deadline: 0,
            wakes: 0,
            closed: Closed::Peer,
            last: None,
            prepaid: Prepaid::No,
            peer: None,
            after_sent: None,
        }
    }
}

impl<D: Driver> Thread<D> {
    /// The place of a socket, made where there was none.
    pub(super) fn connection(&mut self, sock: Sock) -> &mut Connection {
        let index = sock.slot() as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, Connection::free);
        }
        &mut self.connections[index]
    }

    pub(super) fn conn(&mut self, sock: Sock) -> &mut Conn {
        &mut self.connections[sock.slot() as usize].conn
    }

    fn site_index(&self, sock: Sock) -> usize {
        self.sites.of_listener(usize::from(self.connections[sock.slot() as usize].listener))
    }

    /// How long a last reply may make no headway.
    pub(super) fn write_ticks(&self, sock: Sock) -> Tick {
        ticks_of(self.sites.all()[self.site_index(sock)].limits().write_ms_max)
    }

    /// The same for streams of handlers and tasks.
    pub(super) fn client_write_ticks(&self) -> Tick {
        self.sites.all().first().map_or(1, |site| ticks_of(site.limits().write_ms_max))
    }

    /// How long a connection is read from after its last reply.
    pub(super) fn linger_ticks(&self, sock: Sock) -> Tick {
        ticks_of(self.sites.all()[self.site_index(sock)].limits().linger_ms_max)
    }

    pub(super) fn set_deadline(&mut self, sock: Sock, after: Tick) {
        let deadline = self.tick_now() + after;
        let connection = &mut self.connections[sock.slot() as usize];
        connection.deadline = deadline;
        connection.wakes = deadline;
        self.wheel.set(sock.slot(), deadline);
    }

    pub(super) fn wheel_remove(&mut self, sock: Sock) {
        self.wheel.remove(sock.slot());
        self.forget_deadline(sock);
    }

    /// It is not in the wheel: the next deadline puts it there.
    pub(super) fn forget_deadline(&mut self, sock: Sock) {
        self.connections[sock.slot() as usize].wakes = Tick::MAX;
    }

    /// Where replies of a site's requests are put together.
    pub(super) fn desk(&mut self, site: usize, sock: Sock) -> Desk<'_> {
        let Self { served, tally, out, now, clock, recorder, connections, .. } = self;
        let log = recorder.as_mut().map(|recorder| Noting {
            recorder,
            peer: connections.get(sock.slot() as usize).and_then(|it| it.peer.as_deref()),
        });
        let replies = &mut served[site].replies;
        Desk { index: site, replies, tally, out, now: *now, clock, log }
    }

    pub(super) fn take_out(&mut self) -> Option<Payload> {
        self.out.take()
    }

    pub(super) fn reply_context(&self, sock: Sock) -> ReplyContext {
        let site = &self.sites.all()[self.site_index(sock)];
        self.connections[sock.slot() as usize].conn.reply_context(site)
    }

    /// The reply to the connection's dispatched request is complete.
    pub(super) fn replied(&mut self, sock: Sock, close: bool) -> After {
        let now_ms = self.now_ms();
        let site = self.site_index(sock);
        let connection = &mut self.connections[sock.slot() as usize];
        connection.last = None;
        connection.conn.replied(&self.sites.all()[site], close, now_ms)
    }

    /// Keeps what came for the time when the request under way is answered.
    pub(super) fn keep(&mut self, sock: Sock, buffer: &Buffer) {
        let (now_ms, site) = (self.now_ms(), self.site_index(sock));
        let mut input = Input::new(self.driver.bytes(buffer), now_ms);
        let conn = &mut self.connections[sock.slot() as usize].conn;
        conn.keep(&mut self.served[site].memo, &mut input);
    }

    /// Lets the connection's machine read what came, as long as `each` of its events says so.
    pub(super) fn read(
        &mut self,
        sock: Sock,
        buffer: Option<&Buffer>,
        mut each: impl FnMut(Event<'_>, &mut Desk<'_>) -> bool,
    ) {
        let (now_ms, index) = (self.now_ms(), self.site_index(sock));
        let Self { driver, sites, served, connections, tally, out, now, clock, recorder, .. } =
            self;
        let Served { replies, memo } = &mut served[index];
        let Connection { conn, peer, .. } = &mut connections[sock.slot() as usize];
        let log = recorder.as_mut().map(|recorder| Noting { recorder, peer: peer.as_deref() });
        let mut desk = Desk { index, replies, tally, out, now: *now, clock, log };
        let bytes = buffer.map_or(&[][..], |buffer| driver.bytes(buffer));
        let mut input = Input::new(bytes, now_ms);
        while each(conn.next(&sites.all()[index], memo, &mut input), &mut desk) {}
    }

    /// What came behind the request under way.
    pub(super) fn surplus(&mut self, sock: Sock) -> Vec<u8> {
        self.conn(sock).take_surplus()
    }

    /// The body is read on; a pause that was the handler's does not count.
    pub(super) fn resume_body(&mut self, sock: Sock) {
        let now_ms = self.now_ms();
        self.conn(sock).resume_body(now_ms);
        self.forget_deadline(sock);
        self.extend_deadline(sock, false);
    }

    pub(super) fn driver_give_back(&mut self, buffer: Buffer) {
        self.driver.give_back(buffer);
    }

    pub(super) fn driver_peer(&mut self, sock: Sock) {
        self.driver.peer(sock);
    }

    pub(super) fn known_peer(&self, sock: Sock) -> Option<PeerAddr> {
        self.connections[sock.slot() as usize].peer.as_deref().cloned()
    }

    pub(super) fn remember_peer(&mut self, sock: Sock, address: Option<PeerAddr>) {
        self.connection(sock).peer = address.map(Box::new);
    }

    /// Sends a complete reply while a receive is in flight; the connection goes on behind it.
    pub(super) fn flush(&mut self, sock: Sock) {
        let stage = match self.take_out() {
            Some(payload) => {
                let after = self.write_ticks(sock);
                self.set_deadline(sock, after);
                self.send(sock, payload, Then::Nothing);
                Stage::Flushing { receiving: true, close: false }
            }
            None => {
                self.forget_deadline(sock);
                self.extend_deadline(sock, false);
                Stage::Open
            }
        };
        self.connection(sock).stage = stage;
    }

    /// Does what a conversation has come to while a receive is in flight.
    pub(super) fn proceed_beside_receive(&mut self, sock: Sock, next: Next) {
        match next {
            Next::Close(reason) => {
                let (payload, after) = (self.take_out(), self.write_ticks(sock));
                let stage = Stage::Flushing { receiving: true, close: true };
                match payload {
                    Some(payload) => {
                        self.set_closing(sock, stage, reason, after);
                        self.send(sock, payload, Then::Nothing);
                    }
                    None => self.close(sock, reason),
                }
            }
            Next::Linger(reason) => {
                let after = self.write_ticks(sock);
                let stage = Stage::Lingering { receiving: true };
                self.set_closing(sock, stage, reason, after);
                let payload = self.take_out().unwrap_or_else(|| Payload::Owned(Vec::new()));
                self.send(sock, payload, Then::Shutdown);
            }
            Next::Receive | Next::Arm | Next::Wait(_) => self.flush(sock),
        }
    }

    /// The plain send of a complete reply is out.
    pub(super) fn flushed(&mut self, sock: Sock, receiving: bool, close: bool) {
        if close {
            return self.driver.close(sock);
        }
        self.forget_deadline(sock);
        if receiving {
            self.connection(sock).stage = Stage::Open;
            self.extend_deadline(sock, false);
        } else {
            let next = self.converse(sock, None);
            self.proceed(sock, next);
        }
    }
}
