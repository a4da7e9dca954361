//! What the kernel tells of a socket, which it does for ordinary descriptors alone: of a direct
//! one, an ordinary one is made for a moment.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::Uring;
use super::socket::Flags;
use super::sqe::Sqe;
use super::token::Token;
use crate::delivery::delivery_of;
use crate::peer::peer_of;
use crate::{Completion, Delivery, Op, Sock};

/// What is asked of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    /// Who is at the other end.
    Peer,
    /// How far the bytes have come that were sent.
    Delivery,
}

impl Question {
    fn answer(self, sock: Sock, fd: Result<RawFd, Errno>) -> Completion {
        match self {
            Question::Peer => {
                let address = fd.map_err(io::Error::from).and_then(peer_of).map(Box::new);
                Completion::Peer { sock, address }
            }
            Question::Delivery => Completion::Delivery { sock, delivery: fd.and_then(delivery_of) },
        }
    }
}

impl Uring {
    pub(super) fn ask(&mut self, sock: Sock, question: Question) {
        let asked = match question {
            Question::Peer => Flags::ASKED_PEER,
            Question::Delivery => Flags::ASKED_DELIVERY,
        };
        if !self.options.direct {
            let answer = question.answer(sock, Ok(sock.slot as RawFd));
            let answer = self.with_own(answer);
            self.ready.push(answer);
        } else if self.sockets[sock.slot as usize].has(Flags::INSTALL) {
            // One descriptor answers both questions.
            self.sockets[sock.slot as usize].flags.set(asked);
        } else if self.ring.reserve(1) {
            let token = Token::of(Op::Install, sock);
            self.ring.push(&Sqe::install(sock.slot).user_data(token));
            self.sockets[sock.slot as usize].flags.set(Flags::INSTALL.and(asked));
        } else {
            self.ready.push(question.answer(sock, Err(Errno::EAGAIN)));
        }
    }

    pub(super) fn on_install(&mut self, token: Token, result: i32, out: &mut Vec<Completion>) {
        self.count(Op::Install, result);
        let socket = &mut self.sockets[token.slot as usize];
        let flags = socket.flags;
        socket.flags.clear(Flags::INSTALL.and(Flags::ASKED_PEER).and(Flags::ASKED_DELIVERY));
        let fd = if result < 0 {
            Err(Errno::from_raw(-result))
        } else {
            // SAFETY: The kernel has just made this descriptor for us.
            Ok(unsafe { OwnedFd::from_raw_fd(result) })
        };
        if !flags.any(Flags::CLOSING) {
            for (asked, question) in
                [(Flags::ASKED_PEER, Question::Peer), (Flags::ASKED_DELIVERY, Question::Delivery)]
            {
                if flags.any(asked) {
                    let fd = fd.as_ref().map(AsRawFd::as_raw_fd).map_err(|error| *error);
                    let answer = question.answer(token.sock(), fd);
                    out.push(self.with_own(answer));
                }
            }
        }
        drop(fd);
        self.settle(token.slot);
    }

    /// Counts what the kernel has not been given yet: the rest of a send that is known to be in
    /// flight. Of a silent one only the socket's own buffer tells.
    fn with_own(&self, answer: Completion) -> Completion {
        match answer {
            Completion::Delivery { sock, delivery: Ok(delivery) } => {
                let socket = &self.sockets[sock.slot as usize];
                let in_flight = socket.has(Flags::SEND) && !socket.has(Flags::SILENT);
                let pending = delivery.pending.max(u32::from(in_flight));
                Completion::Delivery { sock, delivery: Ok(Delivery { pending, ..delivery }) }
            }
            other => other,
        }
    }
}
