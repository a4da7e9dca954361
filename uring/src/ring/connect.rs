//! Sockets that were not accepted: connected from here, or handed over.
//!
//! In the ring's table they live above the accepted ones, in slots that are chosen here.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};

use nix::sys::socket::SockFlag;

use super::Uring;
use super::socket::Flags;
use super::sqe::Sqe;
use super::token::Token;
use crate::{Address, Completion, Errno, Op, Sock};

impl Uring {
    /// Takes a slot for a socket of ours.
    pub(super) fn adopt_fd(&mut self, socket: OwnedFd) -> io::Result<Sock> {
        let slot = if self.options.direct {
            let slot = self.connect_slots.pop().ok_or(Errno::ENFILE)?;
            let submitter = self.ring.io_uring().submitter();
            if let Err(error) = submitter.register_files_update(slot, &[socket.as_raw_fd()]) {
                self.connect_slots.push(slot);
                return Err(error);
            }
            slot
        } else {
            // From here on the close operation closes it, or the driver's drop.
            socket.into_raw_fd() as u32
        };
        let sock = self.open(slot);
        self.sockets[slot as usize].flags.set(Flags::ADOPTED);
        self.stats.sockets += 1;
        Ok(sock)
    }

    pub(super) fn connect_to(&mut self, address: &Address) -> io::Result<Sock> {
        let raw = Box::new(address.raw()?);
        if !self.ring.reserve(1) {
            return Err(Errno::EAGAIN.into());
        }
        let sock = self.adopt_fd(address.socket(SockFlag::empty())?)?;
        let target = self.target(sock.slot);
        // SAFETY: The address is boxed and kept in `connecting` until the operation's completion.
        let sqe = unsafe { Sqe::connect(target, raw.as_ptr(), raw.len()) };
        self.connecting.insert(sock.slot, raw);
        self.ring.push(&sqe.user_data(Token::of(Op::Connect, sock)));
        self.sockets[sock.slot as usize].flags.set(Flags::CONNECT);
        Ok(sock)
    }

    pub(super) fn on_connect(&mut self, token: Token, result: i32, out: &mut Vec<Completion>) {
        self.count(Op::Connect, result);
        self.connecting.remove(&token.slot);
        let socket = &mut self.sockets[token.slot as usize];
        debug_assert_eq!(socket.generation, token.generation, "a connect outlived its socket");
        socket.flags.clear(Flags::CONNECT);
        if result < 0 {
            socket.fail(Op::Connect, Errno::from_raw(-result));
        } else if !socket.has(Flags::CLOSING) {
            out.push(Completion::Connected { sock: token.sock() });
        }
        self.settle(token.slot);
    }
}
