//! What the driver remembers of a socket: one small record a slot.

use super::token::GENERATIONS;
use crate::{Errno, Op, Payload, Sock, Then};

/// One slot of the socket table.
#[derive(Debug, Default)]
pub(super) struct Socket {
    /// What is being sent. INVARIANT: stays until the last completion of the send.
    pub(super) payload: Option<Payload>,
    /// How much of it has gone out.
    pub(super) sent: u32,
    pub(super) generation: u32,
    pub(super) flags: Flags,
    pub(super) then: Then,
    failed_op: u8,
    failed_errno: u16,
    /// Buffers that came before they were asked for: a list through the held table.
    pub(super) held_first: u16,
    pub(super) held_last: u16,
    pub(super) held_count: u16,
}

/// What is in flight on a socket, and what is to be done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

impl Flags {
    /// The slot is in use.
    pub(super) const OPEN: Flags = Flags(1);
    /// A send is in flight.
    pub(super) const SEND: Flags = Flags(1 << 1);
    /// That send completes only if it fails, and then in the name of its successors too.
    pub(super) const SILENT: Flags = Flags(1 << 2);
    /// A receive is in flight.
    pub(super) const RECV: Flags = Flags(1 << 3);
    /// A shutdown is in flight.
    pub(super) const SHUT: Flags = Flags(1 << 4);
    /// A close is in flight.
    pub(super) const CLOSE: Flags = Flags(1 << 5);
    /// The first byte of an armed pair is waited for; silent like its send.
    pub(super) const PEEK: Flags = Flags(1 << 6);
    /// A descriptor is being made.
    pub(super) const INSTALL: Flags = Flags(1 << 7);
    /// A connect is in flight.
    pub(super) const CONNECT: Flags = Flags(1 << 19);
    /// Nobody but these operations keeps the kernel's memory or names in use.
    pub(super) const IN_FLIGHT: Flags = Flags(0b1111_1110 | 1 << 19);
    /// The socket was not accepted.
    pub(super) const ADOPTED: Flags = Flags(1 << 20);

    /// The caller asked for bytes.
    pub(super) const WANT: Flags = Flags(1 << 8);
    /// The end of the stream was seen.
    pub(super) const ENDED: Flags = Flags(1 << 9);
    /// Something failed, and is reported once nothing is in flight.
    pub(super) const FAILED: Flags = Flags(1 << 10);
    /// The caller asked for the end.
    pub(super) const CLOSING: Flags = Flags(1 << 11);
    /// The rest of a short send is to be sent once its successors have been joined.
    pub(super) const RESEND: Flags = Flags(1 << 12);
    /// A receive waits for a buffer.
    pub(super) const STARVED: Flags = Flags(1 << 13);
    /// The socket waits for room in the submission queue.
    pub(super) const STALLED: Flags = Flags(1 << 14);
    /// What is in flight has been asked to stop.
    pub(super) const CANCELLED: Flags = Flags(1 << 15);
    /// The socket has been armed once: a multishot receive would take the byte that is peeked for.
    pub(super) const SINGLE: Flags = Flags(1 << 18);
    /// Sends without a copy are refused here: unix sockets, or too much memory locked.
    pub(super) const COPY: Flags = Flags(1 << 21);
    /// The descriptor that is being made is to tell the peer's address.
    pub(super) const ASKED_PEER: Flags = Flags(1 << 23);
    /// It is to tell how far the bytes have come that were sent.
    pub(super) const ASKED_DELIVERY: Flags = Flags(1 << 24);
    /// What is in flight was submitted as a chain, which has neither gone through nor broken.
    pub(super) const CHAIN: Flags = Flags(1 << 22);
    /// A shutdown of both directions has been sent after what would not be cancelled.
    pub(super) const HAMMERED: Flags = Flags(1 << 17);
    /// The failure has been reported.
    pub(super) const REPORTED: Flags = Flags(1 << 16);

    #[inline]
    pub(super) const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether any of `other` is set.
    #[inline]
    pub(super) fn any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub(super) fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }

    #[inline]
    pub(super) fn clear(&mut self, other: Flags) {
        self.0 &= !other.0;
    }
}

impl Socket {
    #[inline]
    pub(super) fn has(&self, flags: Flags) -> bool {
        self.flags.any(flags)
    }

    /// Takes the slot into use.
    pub(super) fn open(&mut self, slot: u32) -> Sock {
        debug_assert!(self.flags == Flags::default(), "slot {slot} is in use: {:?}", self.flags);
        self.flags = Flags::OPEN;
        Sock { slot, generation: self.generation }
    }

    /// Frees the slot and makes its name invalid.
    pub(super) fn free(&mut self) {
        debug_assert!(!self.has(Flags::IN_FLIGHT), "freed in flight: {:?}", self.flags);
        let generation = (self.generation + 1) % GENERATIONS;
        *self = Socket { generation, ..Socket::default() };
    }

    /// Remembers the first failure.
    pub(super) fn fail(&mut self, op: Op, error: Errno) {
        if !self.has(Flags::FAILED) {
            self.flags.set(Flags::FAILED);
            self.failed_op = op as u8;
            self.failed_errno = error as u16;
        }
    }

    /// What failed first.
    pub(super) fn failure(&self) -> (Op, Errno) {
        (Op::ALL[usize::from(self.failed_op)], Errno::from_raw(i32::from(self.failed_errno)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_small() {
        assert!(size_of::<Socket>() <= 48, "{} bytes", size_of::<Socket>());
    }

    #[test]
    fn a_freed_slot_has_a_new_name() {
        let mut socket = Socket::default();
        let first = socket.open(7);
        socket.free();
        let second = socket.open(7);
        assert_eq!(first.slot, second.slot);
        assert_ne!(first, second);
    }
}
