//! Dropping a driver while operations are in flight.
//!
//! Everything is cancelled and joined. What cannot be joined in time keeps its memory for ever: a
//! leak is better than a kernel that writes where somebody else lives by now.

use std::mem::{self, ManuallyDrop};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::types::CancelBuilder;

use super::socket::Flags;
use super::{Uring, WakeRead};

/// How long the kernel may take to give everything back.
const JOIN_MAX: Duration = Duration::from_secs(2);
/// How long to wait for one completion before cancelling once more.
const JOIN_STEP: Duration = Duration::from_millis(20);

impl Drop for Uring {
    fn drop(&mut self) {
        for listener in &mut self.listeners {
            listener.paused = true;
        }
        let joined = self.join_all();
        if !self.options.direct {
            self.close_descriptors();
        }
        if joined {
            // SAFETY: Nobody uses the buffers after this: the driver is being dropped, and no
            // receive is in flight.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        } else {
            mem::forget(mem::take(&mut self.sockets));
            mem::forget(mem::take(&mut self.zero_copy));
            mem::forget(mem::take(&mut self.kept));
            mem::forget(mem::take(&mut self.scratch));
            self.ring.leak_regions();
            mem::forget(mem::take(&mut self.connecting));
        }
    }
}

impl Uring {
    /// Cancels and joins everything; false if something stayed in flight.
    fn join_all(&mut self) -> bool {
        let deadline = Instant::now() + JOIN_MAX;
        let mut out = Vec::new();
        loop {
            self.stalled.clear();
            self.starved.clear();
            // What is queued must be the kernel's before it can be cancelled.
            if self.ring.enter(0, None, true).is_err() {
                return false;
            }
            let everything = CancelBuilder::any();
            // Nothing to cancel is an error here, and fine: what is left is on its way.
            let none = Some(io_uring::types::Timespec::new());
            let _ = self.ring.io_uring().submitter().register_sync_cancel(none, everything);
            for slot in 0..self.sockets.len() as u32 {
                let socket = &mut self.sockets[slot as usize];
                socket.flags.clear(Flags::WANT.and(Flags::RESEND));
                if socket.has(Flags::IN_FLIGHT) && !socket.has(Flags::CLOSE) {
                    socket.flags.set(Flags::CLOSING);
                    self.settle(slot);
                }
            }
            if !self.is_in_flight() {
                return true;
            }
            if Instant::now() > deadline || self.ring.enter(1, Some(JOIN_STEP), true).is_err() {
                return false;
            }
            let mut batch = mem::take(&mut self.batch);
            self.ring.collect(&mut batch);
            for cqe in batch.drain(..) {
                self.complete(&cqe, &mut out);
            }
            self.batch = batch;
            out.clear();
            self.ready.clear();
        }
    }

    fn is_in_flight(&self) -> bool {
        self.wake == WakeRead::Armed
            || !self.zero_copy.is_empty()
            || self.listeners.iter().any(|listener| listener.armed)
            || self.sockets.iter().any(|socket| socket.has(Flags::IN_FLIGHT))
    }

    /// Direct descriptors go with their ring; ordinary ones do not.
    fn close_descriptors(&mut self) {
        for (slot, socket) in self.sockets.iter().enumerate() {
            if socket.has(Flags::OPEN) {
                // SAFETY: An open slot is a descriptor that the kernel made for this driver, and
                // nothing else closes it.
                drop(unsafe { OwnedFd::from_raw_fd(slot as RawFd) });
            }
        }
    }
}
