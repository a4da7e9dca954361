//! One connected socket: what is asked of it, and what it is ready for.

use crate::{Payload, Pinned, Then};

pub(super) struct Socket<S> {
    pub(super) handle: S,
    /// Worth trying: the system has said so, and no try has found the contrary since.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer sends no more, or the connection is gone: no further event will say so.
    pub(super) hung_up: bool,
    /// It is in the list of sockets to try.
    pub(super) active: bool,
    pub(super) connecting: bool,
    pub(super) want: bool,
    pub(super) closing: bool,
    pub(super) failed: bool,
    pub(super) then: Then,
    pub(super) sent: usize,
    pub(super) payload: Option<Payload>,
    pub(super) armed: Option<Pinned>,
}

impl<S> Socket<S> {
    pub(super) fn new(handle: S) -> Socket<S> {
        Socket {
            handle,
            readable: false,
            writable: true,
            hung_up: false,
            active: false,
            connecting: false,
            want: false,
            closing: false,
            failed: false,
            then: Then::Nothing,
            sent: 0,
            payload: None,
            armed: None,
        }
    }

    /// Drops everything that was asked for.
    pub(super) fn fail(&mut self) {
        self.failed = true;
        self.want = false;
        self.payload = None;
        self.armed = None;
    }
}
