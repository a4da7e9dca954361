//! Operations on sockets: what is pushed, in which chain.

use std::os::fd::AsRawFd;

use super::Stalled;
use super::socket::Flags;
use super::sqe::Sqe;
use super::token::Token;
use super::{HELD_MAX, Uring, WakeRead};
use crate::{Chain, Completion, Full, LinkForm, Op, Payload, Sock, Then};

/// One send takes at most this many bytes.
const SEND_MAX: usize = 1 << 30;

impl Uring {
    pub(super) fn arm_wake(&mut self) {
        if self.wake == WakeRead::Armed {
            return;
        }
        if !self.ring.reserve(1) {
            self.stalled.push_back(Stalled::Wake);
            return;
        }
        let fd = self.waker.event().as_raw_fd();
        // SAFETY: The counter is boxed and owned by the driver, which joins the read before it
        // frees anything.
        let sqe = unsafe { Sqe::read_counter(fd, &raw mut self.scratch.counter) };
        let token = Token { op: Op::Wake, generation: 0, slot: 0 };
        self.ring.push(&sqe.user_data(token.encode()));
        self.wake = WakeRead::Armed;
    }

    /// Receives; `poll_first` says not to try before there is something.
    #[inline]
    pub(super) fn receive(&mut self, sock: Sock, poll_first: bool) -> Result<(), Full<()>> {
        let Some(socket) = self.live(sock) else { return Ok(()) };
        debug_assert!(!socket.has(Flags::WANT), "two receives on {sock:?}");
        socket.flags.set(Flags::WANT);
        if socket.has(Flags::RECV) && socket.held_count == 0 {
            return Ok(());
        }
        if self.deliver_held(sock.slot) || self.push_recv(sock.slot, poll_first) {
            return Ok(());
        }
        self.sockets[sock.slot as usize].flags.clear(Flags::WANT);
        Err(Full(()))
    }

    /// Queues a receive; false when there is no room.
    #[inline]
    pub(super) fn push_recv(&mut self, slot: u32, poll_first: bool) -> bool {
        if !self.ring.reserve(1) {
            self.stats.sq_full += 1;
            return false;
        }
        self.queue_recv(slot, poll_first);
        true
    }

    /// Queues the payload in the socket's record, or what is left of it, and what follows it;
    /// false, and nothing done, when there is no room for all of it.
    #[inline]
    pub(super) fn push_send(&mut self, slot: u32) -> bool {
        let socket = &self.sockets[slot as usize];
        let Some(payload) = &socket.payload else { return true };
        if payload.is_empty() {
            return self.send_nothing(slot);
        }
        if !self.ring.reserve(3) {
            self.stats.sq_full += 1;
            return false;
        }
        if needs_more_sends(payload, socket.sent as usize) {
            // Goes on as after a short send, and what follows it goes with the last part.
            self.queue_send(slot, false, false);
            return true;
        }
        match socket.then {
            Then::Recv => self.queue_reply_recv(slot),
            Then::Nothing => self.queue_send(slot, false, false),
            Then::Shutdown => {
                self.queue_send(slot, true, true);
                self.queue_shutdown(slot, libc::SHUT_WR);
            }
            Then::Close => self.queue_last(slot),
        }
        true
    }

    /// Chain 2: one byte is there → the reply goes out → receive.
    pub(super) fn push_armed(&mut self, slot: u32) -> bool {
        if !self.ring.reserve(3) {
            self.stats.sq_full += 1;
            return false;
        }
        let token = Token::of(Op::Peek, self.sock(slot));
        let byte = &raw mut self.scratch.peeked;
        // SAFETY: The byte is boxed and owned by the driver, which joins every operation before it
        // frees anything. Nobody reads it.
        let peek = unsafe { Sqe::peek(self.target(slot), byte) };
        self.ring.push(&peek.linked(true).silent(true).user_data(token));
        self.sockets[slot as usize].flags.set(Flags::PEEK.and(Flags::SINGLE));
        self.queue_send(slot, true, true);
        self.queue_recv(slot, self.options.poll_first);
        self.sockets[slot as usize].flags.set(Flags::WANT);
        self.begin_chain(slot, Chain::RecvReply);
        true
    }

    /// Moves a socket on towards what it is to do, as far as what is in flight allows. Idempotent.
    pub(super) fn settle(&mut self, slot: u32) {
        let flags = self.sockets[slot as usize].flags;
        if flags.any(Flags::CLOSING) {
            self.settle_closing(slot);
        } else if flags.any(Flags::FAILED) {
            self.settle_failed(slot);
        } else if flags.any(Flags::RESEND) {
            self.settle_short(slot);
        } else if flags.any(Flags::WANT)
            && !flags.any(Flags::STARVED)
            && !self.is_replying(slot)
            && !self.deliver_held(slot)
            && !flags.any(Flags::RECV)
            && !self.push_recv(slot, false)
        {
            self.stall(slot);
        }
    }

    /// Whether a reply is still going out: what comes meanwhile is not yet the caller's to see.
    fn is_replying(&self, slot: u32) -> bool {
        let socket = &self.sockets[slot as usize];
        socket.has(Flags::SEND) && socket.then == Then::Recv
    }

    /// Sends the rest once the cancelled successors of the short send have been joined.
    fn settle_short(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        let successor = match socket.then {
            Then::Recv if self.options.form == LinkForm::Linked => Flags::RECV,
            Then::Shutdown => Flags::SHUT,
            Then::Close => Flags::CLOSE,
            Then::Recv | Then::Nothing => Flags::default(),
        };
        if socket.has(Flags::SEND.and(successor)) {
            return;
        }
        socket.flags.clear(Flags::RESEND);
        if !self.push_send(slot) {
            self.sockets[slot as usize].flags.set(Flags::RESEND);
            self.stall(slot);
        }
    }

    /// Reports a failure once nothing else is in flight.
    fn settle_failed(&mut self, slot: u32) {
        let sock = self.sock(slot);
        let socket = &mut self.sockets[slot as usize];
        if socket.has(Flags::IN_FLIGHT) {
            self.cancel_rest(slot);
        } else if !socket.has(Flags::REPORTED) {
            socket.flags.set(Flags::REPORTED);
            socket.flags.clear(Flags::WANT);
            let (op, error) = socket.failure();
            self.drop_held(slot);
            self.ready.push(Completion::Failed { sock, op, error });
        }
    }

    /// Stops what is in flight; once it has been joined, closes.
    fn settle_closing(&mut self, slot: u32) {
        let flags = self.sockets[slot as usize].flags;
        if flags.any(Flags::CLOSE) && !flags.any(Flags::SEND) {
            return;
        }
        if flags.any(Flags::IN_FLIGHT) {
            self.cancel_rest(slot);
        } else if self.ring.reserve(1) {
            self.queue_close(slot);
        } else {
            self.stall(slot);
        }
    }

    /// Cancels whatever is in flight. A cancel finds only what waits for the socket, and misses an
    /// operation that is between two tries or two links; when it says so, or leaves something, a
    /// shutdown follows, which nothing survives. Where a close is on its way already, that shutdown
    /// might hit the slot's next user, so the cancel is tried again until it finds something.
    fn cancel_rest(&mut self, slot: u32) {
        let flags = self.sockets[slot as usize].flags;
        if !flags.any(Flags::IN_FLIGHT) || flags.any(Flags::SHUT.and(Flags::HAMMERED)) {
            return;
        }
        if !self.ring.reserve(1) {
            self.stall(slot);
            return;
        }
        if flags.any(Flags::CANCELLED) && !flags.any(Flags::CLOSE) {
            self.sockets[slot as usize].flags.set(Flags::HAMMERED);
            self.queue_shutdown(slot, libc::SHUT_RDWR);
        } else {
            self.sockets[slot as usize].flags.set(Flags::CANCELLED);
            let token = Token::of(Op::Cancel, self.sock(slot));
            self.ring.push(&Sqe::cancel_all(self.target(slot)).user_data(token));
        }
    }

    /// Remembers a socket until the submission queue has room.
    pub(super) fn stall(&mut self, slot: u32) {
        let sock = self.sock(slot);
        let socket = &mut self.sockets[slot as usize];
        if !socket.has(Flags::STALLED) {
            socket.flags.set(Flags::STALLED);
            self.stalled.push_back(Stalled::Socket(sock));
        }
    }

    /// Stops a multishot receive whose bytes nobody asks for.
    pub(super) fn hold_back(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        if socket.held_count < HELD_MAX
            || !socket.has(Flags::RECV)
            || socket.has(Flags::CANCELLED)
            || !self.ring.reserve(1)
        {
            return;
        }
        let recv = Token::of(Op::Recv, self.sock(slot));
        let token = Token::of(Op::Cancel, self.sock(slot));
        self.ring.push(&Sqe::cancel(recv).user_data(token));
        self.sockets[slot as usize].flags.set(Flags::CANCELLED);
    }

    #[inline]
    fn queue_recv(&mut self, slot: u32, poll_first: bool) {
        let token = Token::of(Op::Recv, self.sock(slot));
        let target = self.target(slot);
        let multishot = self.options.form == LinkForm::Multishot
            && !self.sockets[slot as usize].has(Flags::SINGLE);
        let sqe =
            if multishot { Sqe::recv_multishot(target) } else { Sqe::recv(target, poll_first) };
        self.ring.push(&sqe.user_data(token));
        let flags = &mut self.sockets[slot as usize].flags;
        flags.set(Flags::RECV);
        flags.clear(Flags::CANCELLED);
    }

    /// Chain 1, or what the chosen form does instead.
    #[inline]
    fn queue_reply_recv(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        socket.flags.set(Flags::WANT);
        let recv_due = !socket.has(Flags::RECV) && socket.held_count == 0;
        let linked = recv_due && self.options.form == LinkForm::Linked;
        // Other payloads than pinned ones are freed as soon as they have gone out.
        let silent = linked && matches!(socket.payload, Some(Payload::Pinned(_)));
        self.queue_send(slot, linked, silent);
        if recv_due {
            self.queue_recv(slot, self.options.poll_first);
        }
        if linked {
            self.begin_chain(slot, Chain::ReplyRecv);
        }
    }

    #[inline]
    fn begin_chain(&mut self, slot: u32, chain: Chain) {
        self.sockets[slot as usize].flags.set(Flags::CHAIN);
        self.stats.chains[chain as usize].submitted += 1;
    }

    /// Chain 3: the last reply, shutdown, close.
    fn queue_last(&mut self, slot: u32) {
        if self.sockets[slot as usize].has(Flags::RECV) {
            // A receive in flight keeps the socket alive: it must be joined before the close.
            self.queue_send(slot, true, true);
            self.queue_shutdown(slot, libc::SHUT_WR);
            return;
        }
        let token = Token::of(Op::Shutdown, self.sock(slot));
        let target = self.target(slot);
        self.queue_send(slot, true, true);
        if self.options.shutdown_last {
            // A peer that is gone already makes it fail; the close goes on all the same.
            let shutdown = Sqe::shutdown(target, libc::SHUT_WR).hard_linked().silent(true);
            self.ring.push(&shutdown.user_data(token));
        }
        self.queue_close(slot);
        self.begin_chain(slot, Chain::Last);
    }

    #[inline]
    fn queue_send(&mut self, slot: u32, linked: bool, silent: bool) {
        let sock = self.sock(slot);
        let target = self.target(slot);
        let socket = &mut self.sockets[slot as usize];
        let sent = socket.sent as usize;
        let copy = socket.has(Flags::COPY);
        let Some(payload) = &mut socket.payload else { return };
        let mut silent = silent;
        let mut token = Token::of(Op::Send, sock);
        let sqe = match payload {
            Payload::Pinned(pinned)
                if is_zero_copy(self.options.zero_copy_min, pinned.len()) && !copy =>
            {
                let rest = &pinned[sent..];
                let (data, len, index) = (rest.as_ptr(), rest.len(), pinned.registered(self.id));
                let entry = self.zero_copy.insert(vec![pinned.clone()]);
                // The kernel refuses a zero-copy send that is to be silent.
                silent = false;
                token = Token { op: Op::SendZc, generation: entry as u32, slot }.encode();
                // SAFETY: The clone in `zero_copy` keeps the bytes until the notification.
                unsafe { Sqe::send_zc(target, data, clamp(len), index) }
            }
            Payload::Pinned(pinned) => {
                let rest = &pinned[sent..];
                // SAFETY: The payload stays in the socket's record until the send's completion,
                // or, if it is silent, until that of its successor.
                unsafe { Sqe::send(target, rest.as_ptr(), clamp(rest.len())) }
            }
            Payload::Owned(bytes) => {
                let rest = &bytes[sent..];
                // SAFETY: As above; a vector's bytes do not move with it.
                unsafe { Sqe::send(target, rest.as_ptr(), clamp(rest.len())) }
            }
            Payload::Gather(gather)
                if !copy
                    && is_zero_copy(self.options.zero_copy_min, gather.len())
                    && let Some(pieces) = gather.pinned() =>
            {
                let entry = self.zero_copy.insert(pieces);
                silent = false;
                token = Token { op: Op::SendZc, generation: entry as u32, slot }.encode();
                let header = gather.header(sent);
                // SAFETY: Header and vector are boxed with the gather, which stays in the socket's
                // record until the first completion; the clones in `zero_copy` keep the bytes
                // until the notification.
                unsafe { Sqe::sendmsg_zc(target, header) }
            }
            Payload::Gather(gather) => {
                let header = gather.header(sent);
                // SAFETY: As above; header, vector and pieces are boxed with the gather. Pieces of
                // a file stay mapped as long; when it shrinks, the kernel fails the send.
                unsafe { Sqe::sendmsg(target, header) }
            }
        };
        self.ring.push(&sqe.linked(linked).silent(silent).user_data(token));
        let flags = &mut self.sockets[slot as usize].flags;
        flags.set(Flags::SEND);
        if silent {
            flags.set(Flags::SILENT);
        }
    }

    fn queue_shutdown(&mut self, slot: u32, how: i32) {
        let token = Token::of(Op::Shutdown, self.sock(slot));
        let sqe = Sqe::shutdown(self.target(slot), how);
        self.ring.push(&sqe.user_data(token));
        self.sockets[slot as usize].flags.set(Flags::SHUT);
    }

    fn queue_close(&mut self, slot: u32) {
        let token = Token::of(Op::Close, self.sock(slot));
        let sqe = Sqe::close(self.target(slot));
        self.ring.push(&sqe.user_data(token));
        self.sockets[slot as usize].flags.set(Flags::CLOSE);
    }

    /// An empty payload: only what follows it.
    fn send_nothing(&mut self, slot: u32) -> bool {
        let sock = self.sock(slot);
        if !self.ring.reserve(1) {
            return false;
        }
        let then = self.sockets[slot as usize].then;
        self.sockets[slot as usize].payload = None;
        match then {
            Then::Nothing => self.ready.push(Completion::Sent { sock }),
            Then::Recv => {
                self.sockets[slot as usize].flags.set(Flags::WANT);
                self.settle(slot);
            }
            Then::Shutdown => self.queue_shutdown(slot, libc::SHUT_WR),
            Then::Close => {
                self.sockets[slot as usize].flags.set(Flags::CLOSING);
                self.settle(slot);
            }
        }
        true
    }
}

/// Whether one send cannot take all that is left.
#[inline]
fn needs_more_sends(payload: &Payload, sent: usize) -> bool {
    payload.len() - sent > SEND_MAX
        || matches!(payload, Payload::Gather(gather) if gather.needs_more_calls(sent))
}

fn is_zero_copy(min: Option<u32>, len: usize) -> bool {
    min.is_some_and(|min| len >= min as usize)
}

fn clamp(len: usize) -> u32 {
    len.min(SEND_MAX) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_copy_starts_at_its_threshold() {
        assert!(!is_zero_copy(None, usize::MAX));
        assert!(!is_zero_copy(Some(1000), 999));
        assert!(is_zero_copy(Some(1000), 1000));
    }
}
