//! What completions mean: the one place where they are matched.

use io_uring::cqueue;

use super::socket::{Flags, Socket};
use super::token::Token;
use super::{HELD_END, Held, Stalled, Uring, WakeRead, has_connection};
use crate::{Buffer, Chain, Completion, Errno, ListenerId, Op, Outcome, Then};

/// The result of a zero-copy notification says so when the kernel had to copy.
const ZC_COPIED: u32 = 1 << 31;

impl Uring {
    /// Acts on one completion.
    #[inline]
    pub(super) fn complete(&mut self, cqe: &cqueue::Entry, out: &mut Vec<Completion>) {
        let token = Token::decode(cqe.user_data());
        let (result, flags) = (cqe.result(), cqe.flags());
        match token.op {
            Op::Recv => self.on_recv(token, result, flags, out),
            Op::Send => self.on_send(token.slot, Op::Send, result, out),
            Op::SendZc => self.on_send_zc(token, result, flags, out),
            Op::Accept => self.on_accept(token.slot, result, flags, out),
            Op::Close => self.on_close(token, result, out),
            Op::Shutdown => self.on_shutdown(token, result, out),
            Op::Peek => self.on_peek(token, result, out),
            Op::Install => self.on_install(token, result, out),
            Op::Wake => self.on_wake(result, out),
            Op::Cancel => self.on_cancel(token, result),
            Op::Connect => self.on_connect(token, result, out),
        }
    }

    #[inline]
    fn on_recv(&mut self, token: Token, result: i32, flags: u32, out: &mut Vec<Completion>) {
        let slot = token.slot;
        let socket = &mut self.sockets[slot as usize];
        debug_assert_eq!(socket.generation, token.generation, "a receive outlived its socket");
        if !cqueue::more(flags) {
            socket.flags.clear(Flags::RECV);
        }
        if socket.has(Flags::CHAIN) && socket.then == Then::Recv {
            // It ran, so the send before it has gone out: this retires the whole chain, and a
            // silent send's payload with it.
            let chain = if socket.has(Flags::PEEK) { Chain::RecvReply } else { Chain::ReplyRecv };
            self.stats.chains[chain as usize].completed += 1;
            if socket.has(Flags::SILENT) {
                let payload = socket.payload.take();
                if self.ring.cut {
                    self.kept.extend(payload);
                }
            }
            let done = Flags::CHAIN.and(Flags::SILENT).and(Flags::SEND).and(Flags::PEEK);
            socket.flags.clear(done);
        }
        let taken = cqueue::buffer_select(flags);
        if result > 0 {
            let Some(id) = taken else { unreachable!("received without a buffer") };
            self.stats.count(Op::Recv, Outcome::Ok);
            let buffer = self.buffers.take(id, result as u32, cqueue::buffer_more(flags));
            let socket = &mut self.sockets[slot as usize];
            let flags = socket.flags;
            let replying = flags.any(Flags::SEND) && socket.then == Then::Recv;
            let wanted = flags.any(Flags::WANT)
                && !flags.any(Flags::CLOSING.and(Flags::FAILED))
                && !replying
                && socket.held_count == 0;
            if wanted {
                socket.flags.clear(Flags::WANT);
                out.push(Completion::Received { sock: token.sock(), buffer });
            } else {
                self.hold(slot, buffer);
            }
        } else {
            if let Some(id) = taken {
                let unused = self.buffers.take(id, 0, cqueue::buffer_more(flags));
                self.buffers.give_back(unused);
            }
            self.on_recv_nothing(token, result);
        }
    }

    /// A receive ended without bytes.
    #[cold]
    fn on_recv_nothing(&mut self, token: Token, result: i32) {
        let socket = &mut self.sockets[token.slot as usize];
        let outcome = match Errno::from_raw(-result) {
            _ if result == 0 => {
                socket.flags.set(Flags::ENDED);
                Outcome::Ended
            }
            Errno::ENOBUFS => {
                self.stats.buffers_exhausted += 1;
                self.buffers.grow();
                if socket.has(Flags::WANT) && !socket.has(Flags::CLOSING) {
                    socket.flags.set(Flags::STARVED);
                    self.starved.push_back(token.sock());
                }
                Outcome::NoBuffers
            }
            Errno::ECANCELED => {
                socket.flags.clear(Flags::CANCELLED);
                Outcome::Cancelled
            }
            Errno::EINTR | Errno::EAGAIN => Outcome::Failed,
            error => {
                socket.fail(Op::Recv, error);
                Outcome::of(error)
            }
        };
        self.stats.count(Op::Recv, outcome);
        self.settle(token.slot);
    }

    /// Keeps bytes that nobody has asked for yet.
    #[cold]
    fn hold(&mut self, slot: u32, buffer: Buffer) {
        let socket = &mut self.sockets[slot as usize];
        if socket.has(Flags::CLOSING.and(Flags::FAILED)) {
            self.buffers.give_back(buffer);
            self.settle(slot);
            return;
        }
        let Buffer { id, offset, len, .. } = buffer;
        self.held[usize::from(id)] = Held { next: HELD_END, offset, len };
        if socket.held_count == 0 {
            socket.held_first = id;
        } else {
            self.held[usize::from(socket.held_last)].next = id;
        }
        socket.held_last = id;
        socket.held_count += 1;
        self.hold_back(slot);
        self.settle(slot);
    }

    fn unhold(&mut self, slot: u32) -> Option<Buffer> {
        let socket = &mut self.sockets[slot as usize];
        socket.held_count = socket.held_count.checked_sub(1)?;
        let id = socket.held_first;
        let Held { next, offset, len } = self.held[usize::from(id)];
        socket.held_first = next;
        Some(Buffer { driver: self.id, id, offset, len })
    }

    pub(super) fn drop_held(&mut self, slot: u32) {
        while let Some(buffer) = self.unhold(slot) {
            self.buffers.give_back(buffer);
        }
    }

    /// Answers a receive by what came before it was asked for; false when there is nothing.
    pub(super) fn deliver_held(&mut self, slot: u32) -> bool {
        let sock = self.sock(slot);
        let socket = &mut self.sockets[slot as usize];
        if socket.held_count > 0 {
            socket.flags.clear(Flags::WANT);
            if let Some(buffer) = self.unhold(slot) {
                self.ready.push(Completion::Received { sock, buffer });
            }
            true
        } else if socket.has(Flags::ENDED) {
            socket.flags.clear(Flags::WANT.and(Flags::ENDED));
            self.ready.push(Completion::Ended { sock });
            true
        } else {
            false
        }
    }

    /// A send completed. One that was to be silent did so because it failed or fell short, and
    /// speaks for its successors: theirs will not come.
    fn on_send(&mut self, slot: u32, op: Op, result: i32, out: &mut Vec<Completion>) {
        let sock = self.sock(slot);
        let socket = &mut self.sockets[slot as usize];
        let chain = chain_of(socket);
        let silent = socket.has(Flags::SILENT);
        socket.flags.clear(Flags::SEND.and(Flags::SILENT).and(Flags::PEEK));
        if silent {
            match socket.then {
                Then::Recv => socket.flags.clear(Flags::RECV),
                Then::Shutdown => socket.flags.clear(Flags::SHUT),
                Then::Close => socket.flags.clear(Flags::CLOSE.and(Flags::SHUT)),
                Then::Nothing => {}
            }
        }
        let len = socket.payload.as_ref().map_or(0, |payload| payload.len());
        let left = len - socket.sent as usize;
        let outcome = if result > 0 && result as usize == left {
            socket.payload = None;
            if socket.then == Then::Nothing && !socket.has(Flags::CLOSING) {
                out.push(Completion::Sent { sock });
            }
            Outcome::Ok
        } else if op == Op::SendZc && is_refusal(result) && !socket.has(Flags::COPY) {
            socket.flags.set(Flags::COPY);
            if !socket.has(Flags::CLOSING) {
                socket.flags.set(Flags::RESEND);
            }
            Outcome::Failed
        } else if result > 0 || result == -(Errno::EINTR as i32) {
            socket.sent += result.max(0) as u32;
            self.stats.short_sends += 1;
            if !socket.has(Flags::CLOSING) {
                socket.flags.set(Flags::RESEND);
            }
            Outcome::Short
        } else {
            let error = if result == 0 { Errno::EPIPE } else { Errno::from_raw(-result) };
            socket.payload = None;
            socket.fail(op, error);
            Outcome::of(error)
        };
        if outcome != Outcome::Ok
            && let Some(chain) = chain
        {
            socket.flags.clear(Flags::CHAIN);
            self.stats.chains[chain as usize].broken += 1;
        }
        self.stats.count(op, outcome);
        self.settle(slot);
    }

    /// A zero-copy send completes twice: what it did, and that its memory is free.
    fn on_send_zc(&mut self, token: Token, result: i32, flags: u32, out: &mut Vec<Completion>) {
        if cqueue::notif(flags) {
            self.stats.zero_copy_copied += u64::from(result as u32 & ZC_COPIED != 0);
            self.zero_copy.remove(token.generation as usize);
            return;
        }
        if !cqueue::more(flags) {
            self.zero_copy.remove(token.generation as usize);
        }
        self.on_send(token.slot, Op::SendZc, result, out);
    }

    fn on_accept(&mut self, listener: u32, result: i32, flags: u32, out: &mut Vec<Completion>) {
        self.count(Op::Accept, result);
        let ended = !cqueue::more(flags);
        if ended {
            self.listeners[listener as usize].armed = false;
        }
        let id = ListenerId(listener);
        if let Ok(slot) = u32::try_from(result) {
            let sock = self.open(slot);
            self.stats.sockets += 1;
            let beyond = self.live >= self.sockets_max;
            if beyond && !self.listeners[listener as usize].leaving {
                self.surplus.push_back((id, sock));
            } else {
                self.live += 1;
                out.push(Completion::Accepted { listener: id, sock });
            }
            if self.live >= self.sockets_max {
                self.on_full_table(out);
            } else if self.listeners[listener as usize].paused {
                // It came before the cancel, or there was no room for one.
                self.pause_accept(listener);
            }
        } else {
            let error = Errno::from_raw(-result);
            let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
            let paused = &mut self.listeners[listener as usize].paused;
            if exhausted.contains(&error) && !*paused {
                *paused = true;
                out.push(Completion::AcceptPaused { listener: id, error });
            }
            if exhausted.contains(&error) && self.listeners[listener as usize].leaving {
                self.listeners[listener as usize].fd = None;
            }
        }
        if ended && self.listeners[listener as usize].leaving {
            self.finish_leaving(listener);
        } else {
            self.arm_accept(listener);
        }
    }

    /// An accept of a listener that is left has ended. The kernel wakes one waiter for each
    /// connection, and it may have been this accept, after it was cancelled: then the connection
    /// waits, and no other process that shares the socket knows. So as long as any waits, it is
    /// accepted once more; the first try of that needs no waking.
    #[cold]
    pub(super) fn finish_leaving(&mut self, listener: u32) {
        let entry = &mut self.listeners[listener as usize];
        if entry.fd.as_ref().is_some_and(has_connection) {
            entry.paused = false;
            self.arm_accept(listener);
            self.pause_accept(listener);
        } else {
            entry.fd = None;
        }
    }

    /// The next connection would be taken from the backlog only to be dropped.
    #[cold]
    fn on_full_table(&mut self, out: &mut Vec<Completion>) {
        for listener in 0..self.listeners.len() as u32 {
            if !self.listeners[listener as usize].paused {
                self.pause_accept(listener);
                let listener = ListenerId(listener);
                out.push(Completion::AcceptPaused { listener, error: Errno::ENFILE });
            }
        }
    }

    fn on_close(&mut self, token: Token, result: i32, out: &mut Vec<Completion>) {
        self.count(Op::Close, result);
        let socket = &mut self.sockets[token.slot as usize];
        debug_assert_eq!(socket.generation, token.generation, "a close outlived its socket");
        socket.flags.clear(Flags::CLOSE);
        if result == -(Errno::ECANCELED as i32) {
            self.settle(token.slot);
            return;
        }
        self.stats.chains[Chain::Last as usize].completed += u64::from(socket.has(Flags::CHAIN));
        socket.flags.clear(Flags::SILENT.and(Flags::SEND).and(Flags::CHAIN));
        let adopted = socket.has(Flags::ADOPTED);
        socket.free();
        self.stats.sockets -= 1;
        if !adopted {
            self.live -= 1;
        } else if self.options.direct {
            self.connect_slots.push(token.slot);
        }
        out.push(Completion::Closed { sock: token.sock() });
    }

    fn on_shutdown(&mut self, token: Token, result: i32, out: &mut Vec<Completion>) {
        self.count(Op::Shutdown, result);
        let Some(socket) = self.sockets.get_mut(token.slot as usize) else { return };
        // That of a last chain is silent, and its failure changes nothing.
        if socket.generation != token.generation || !socket.has(Flags::SHUT) {
            return;
        }
        socket.flags.clear(Flags::SHUT);
        if socket.has(Flags::SILENT) && socket.then != Then::Recv {
            socket.flags.clear(Flags::SILENT.and(Flags::SEND));
            socket.payload = None;
        }
        if socket.then == Then::Close && !socket.has(Flags::FAILED.and(Flags::RESEND)) {
            socket.flags.set(Flags::CLOSING);
        }
        let asked = socket.then == Then::Shutdown
            && !socket.has(Flags::CLOSING.and(Flags::FAILED).and(Flags::RESEND));
        if asked && result < 0 {
            socket.fail(Op::Shutdown, Errno::from_raw(-result));
        } else if asked {
            socket.then = Then::Nothing;
            out.push(Completion::Sent { sock: token.sock() });
        }
        self.settle(token.slot);
    }

    /// An armed pair found the end of the stream, or failed: nothing was sent.
    fn on_peek(&mut self, token: Token, result: i32, out: &mut Vec<Completion>) {
        self.count(Op::Peek, result);
        let socket = &mut self.sockets[token.slot as usize];
        debug_assert_eq!(socket.generation, token.generation, "a peek outlived its socket");
        let chain = Flags::PEEK.and(Flags::SEND).and(Flags::SILENT).and(Flags::RECV);
        socket.flags.clear(chain.and(Flags::WANT).and(Flags::CHAIN));
        socket.payload = None;
        self.stats.chains[Chain::RecvReply as usize].broken += 1;
        if result < 0 {
            socket.fail(Op::Peek, Errno::from_raw(-result));
        } else if !socket.has(Flags::CLOSING) {
            out.push(Completion::Ended { sock: token.sock() });
        }
        self.settle(token.slot);
    }

    /// A cancel that found something needs no answer: what it found gives one.
    fn on_cancel(&mut self, token: Token, result: i32) {
        self.count(Op::Cancel, result);
        let socket = self.sockets.get(token.slot as usize);
        if result <= 0 && socket.is_some_and(|socket| socket.generation == token.generation) {
            self.settle(token.slot);
        }
    }

    fn on_wake(&mut self, result: i32, out: &mut Vec<Completion>) {
        self.count(Op::Wake, result);
        self.wake = WakeRead::Idle;
        if result > 0 {
            out.push(Completion::Woken);
        }
        if result != -(Errno::ECANCELED as i32) {
            self.stalled.push_back(Stalled::Wake);
        }
    }

    pub(super) fn count(&mut self, op: Op, result: i32) {
        let outcome = match result {
            0.. => Outcome::Ok,
            error => Outcome::of(Errno::from_raw(-error)),
        };
        self.stats.count(op, outcome);
    }
}

/// Whether a zero-copy send failed for being one.
fn is_refusal(result: i32) -> bool {
    let refusals = [Errno::EOPNOTSUPP, Errno::ENOMEM, Errno::ENOBUFS];
    refusals.contains(&Errno::from_raw(-result))
}

/// The chain that a socket's operations were submitted as.
fn chain_of(socket: &Socket) -> Option<Chain> {
    match socket.then {
        _ if !socket.has(Flags::CHAIN) => None,
        Then::Recv if socket.has(Flags::PEEK) => Some(Chain::RecvReply),
        Then::Recv => Some(Chain::ReplyRecv),
        Then::Close => Some(Chain::Last),
        Then::Nothing | Then::Shutdown => None,
    }
}
