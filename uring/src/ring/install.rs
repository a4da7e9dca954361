//! Who is at the other end. The kernel has no such operation for direct descriptors, so an
//! ordinary one is made for a moment.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::Uring;
use super::socket::Flags;
use super::sqe::Sqe;
use super::token::Token;
use crate::peer::peer_of;
use crate::{Completion, Op, Sock};

impl Uring {
    pub(super) fn ask_peer(&mut self, sock: Sock) {
        if !self.options.direct {
            let address = peer_of(sock.slot as RawFd).map(Box::new);
            self.ready.push(Completion::Peer { sock, address });
        } else if self.ring.reserve(1) {
            let token = Token::of(Op::Install, sock);
            self.ring.push(&Sqe::install(sock.slot).user_data(token));
            self.sockets[sock.slot as usize].flags.set(Flags::INSTALL);
        } else {
            let address = Err(io::ErrorKind::WouldBlock.into());
            self.ready.push(Completion::Peer { sock, address });
        }
    }

    pub(super) fn on_install(&mut self, token: Token, result: i32, out: &mut Vec<Completion>) {
        self.count(Op::Install, result);
        let socket = &mut self.sockets[token.slot as usize];
        socket.flags.clear(Flags::INSTALL);
        let closing = socket.has(Flags::CLOSING);
        let address = if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            // SAFETY: The kernel has just made this descriptor for us.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            peer_of(fd.as_raw_fd()).map(Box::new)
        };
        if !closing {
            out.push(Completion::Peer { sock: token.sock(), address });
        }
        self.settle(token.slot);
    }
}
