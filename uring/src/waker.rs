//! Ending a waiting turn from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Ends a waiting turn of the driver it came from, from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<EventFd>,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Waker> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Waker { event: Arc::new(EventFd::from_value_and_flags(0, flags)?) })
    }

    /// Wakes the driver. Several calls before its next turn count as one.
    pub fn wake(&self) {
        // EAGAIN means that the counter is full of wake-ups nobody has looked at: woken already.
        let result = self.event.write(1);
        debug_assert!(matches!(result, Ok(_) | Err(Errno::EAGAIN)), "eventfd: {result:?}");
    }

    /// Takes back all wake-ups so far; whether there was one.
    pub(crate) fn clear(&self) -> bool {
        self.event.read().is_ok()
    }

    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
