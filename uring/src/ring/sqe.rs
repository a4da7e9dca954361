//! Submission queue entries, one constructor an operation.

use std::os::fd::RawFd;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, Fixed};
use io_uring::{opcode, types};

use super::buffers::GROUP;

/// An entry whose memory, if it points to any, outlives the operation.
#[derive(Clone)]
pub(super) struct Sqe(Entry);

/// Where a socket lives: the ring's own table, or the process's.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) direct: bool,
    pub(super) slot: u32,
}

/// Poll before trying: right after a reply there is rarely anything to receive.
const POLL_FIRST: u16 = 1;
const ZC_REPORT_USAGE: u16 = 1 << 3;

/// Builds an operation for either kind of descriptor.
macro_rules! on {
    ($target:expr, |$fd:ident| $build:expr) => {
        if $target.direct {
            let $fd = Fixed($target.slot);
            $build
        } else {
            let $fd = Fd($target.slot as RawFd);
            $build
        }
    };
}

impl Sqe {
    pub(super) fn entry(&self) -> &Entry {
        &self.0
    }

    #[inline]
    #[must_use]
    pub(super) fn user_data(self, user_data: u64) -> Sqe {
        Sqe(self.0.user_data(user_data))
    }

    /// The next entry starts only when this one has succeeded, in full.
    #[inline]
    #[must_use]
    pub(super) fn linked(mut self, linked: bool) -> Sqe {
        if linked {
            self.0 = self.0.flags(Flags::IO_LINK);
        }
        self
    }

    /// The next entry starts when this one is done, however it ended.
    #[must_use]
    pub(super) fn hard_linked(self) -> Sqe {
        Sqe(self.0.flags(Flags::IO_HARDLINK))
    }

    /// No completion if it succeeds.
    #[inline]
    #[must_use]
    pub(super) fn silent(mut self, silent: bool) -> Sqe {
        if silent {
            self.0 = self.0.flags(Flags::SKIP_SUCCESS);
        }
        self
    }

    pub(super) fn accept(listener: RawFd, direct: bool) -> Sqe {
        // Only descriptors of the process can leak into a child.
        let flags = if direct { 0 } else { libc::SOCK_CLOEXEC };
        let accept = opcode::AcceptMulti::new(Fd(listener)).allocate_file_index(direct);
        Sqe(accept.flags(flags).build())
    }

    /// A receive into whatever provided buffer the kernel picks.
    #[inline]
    pub(super) fn recv(target: Target, poll_first: bool) -> Sqe {
        let ioprio = if poll_first { POLL_FIRST } else { 0 };
        let none = std::ptr::null_mut();
        let entry = on!(target, |fd| {
            opcode::Recv::new(fd, none, 0).ioprio(ioprio).buf_group(GROUP).build()
        });
        Sqe(entry.flags(Flags::BUFFER_SELECT))
    }

    pub(super) fn recv_multishot(target: Target) -> Sqe {
        Sqe(on!(target, |fd| opcode::RecvMulti::new(fd, GROUP).build()))
    }

    /// A send of all `len` bytes: only then a short one breaks the chain.
    ///
    /// # Safety
    /// The bytes must stay as they are until the operation's last completion.
    #[inline]
    pub(super) unsafe fn send(target: Target, data: *const u8, len: u32) -> Sqe {
        Sqe(on!(target, |fd| opcode::Send::new(fd, data, len).flags(SEND_FLAGS).build()))
    }

    /// The same without a copy; completes twice.
    ///
    /// # Safety
    /// The bytes must stay as they are until the operation's notification.
    pub(super) unsafe fn send_zc(
        target: Target,
        data: *const u8,
        len: u32,
        registered: Option<u16>,
    ) -> Sqe {
        Sqe(on!(target, |fd| {
            opcode::SendZc::new(fd, data, len)
                .flags(SEND_FLAGS)
                .zc_flags(ZC_REPORT_USAGE)
                .buf_index(registered)
                .build()
        }))
    }

    /// A gathered send.
    ///
    /// # Safety
    /// The header and what it points to must stay as they are until the operation's completion.
    pub(super) unsafe fn sendmsg(target: Target, header: *const libc::msghdr) -> Sqe {
        let flags = SEND_FLAGS as u32;
        Sqe(on!(target, |fd| opcode::SendMsg::new(fd, header).flags(flags).build()))
    }

    /// The same without a copy; completes twice.
    ///
    /// # Safety
    /// The header and its vector must stay as they are until the operation's first completion, the
    /// bytes until its notification.
    pub(super) unsafe fn sendmsg_zc(target: Target, header: *const libc::msghdr) -> Sqe {
        let flags = SEND_FLAGS as u32;
        Sqe(on!(target, |fd| {
            opcode::SendMsgZc::new(fd, header).flags(flags).ioprio(ZC_REPORT_USAGE).build()
        }))
    }

    /// Waits until a byte can be received and leaves it there; at end-of-file it breaks the chain.
    ///
    /// # Safety
    /// The byte must stay writable until the operation's completion.
    pub(super) unsafe fn peek(target: Target, byte: *mut u8) -> Sqe {
        let flags = libc::MSG_PEEK | libc::MSG_WAITALL;
        Sqe(on!(target, |fd| opcode::Recv::new(fd, byte, 1).flags(flags).build()))
    }

    /// Reads a counter of eight bytes.
    ///
    /// # Safety
    /// The counter must stay writable until the operation's completion.
    pub(super) unsafe fn read_counter(fd: RawFd, counter: *mut u64) -> Sqe {
        Sqe(opcode::Read::new(Fd(fd), counter.cast(), 8).build())
    }

    /// Connects to an address.
    ///
    /// # Safety
    /// The address must stay as it is until the operation's completion.
    pub(super) unsafe fn connect(
        target: Target,
        address: *const libc::sockaddr,
        len: libc::socklen_t,
    ) -> Sqe {
        Sqe(on!(target, |fd| opcode::Connect::new(fd, address, len).build()))
    }

    pub(super) fn shutdown(target: Target, how: i32) -> Sqe {
        Sqe(on!(target, |fd| opcode::Shutdown::new(fd, how).build()))
    }

    pub(super) fn close(target: Target) -> Sqe {
        Sqe(on!(target, |fd| opcode::Close::new(fd).build()))
    }

    /// Cancels everything in flight on a socket; the result is how many that were, and none is no
    /// error.
    pub(super) fn cancel_all(target: Target) -> Sqe {
        let which = on!(target, |fd| CancelBuilder::fd(fd)).all();
        Sqe(opcode::AsyncCancel2::new(which).build())
    }

    /// Cancels the one operation with this `user_data`; silent unless it was not there.
    pub(super) fn cancel(user_data: u64) -> Sqe {
        let which = CancelBuilder::user_data(user_data);
        Sqe(opcode::AsyncCancel2::new(which).build()).silent(true)
    }

    /// Makes an ordinary descriptor of a direct one. Since 6.8.
    pub(super) fn install(slot: u32) -> Sqe {
        Sqe(opcode::FixedFdInstall::new(types::Fixed(slot), 0).build())
    }
}

const SEND_FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
