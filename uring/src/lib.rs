//! I/O drivers behind one completion-shaped trait: io_uring, epoll and a seeded simulation.
//!
//! A [`Driver`] accepts connections, receives into buffers it lends, and sends payloads it owns
//! until the last completion. Everything is batched: operations are queued by cheap calls, and one
//! [`Driver::turn`] hands them to the kernel, waits, and collects what has happened. The caller
//! names sockets by [`Sock`] and never sees a file descriptor or an address.
//!
//! The normal order of a keep-alive server is: [`Completion::Accepted`] → [`Driver::recv`] →
//! [`Completion::Received`] → [`Driver::give_back`] and [`Driver::send`] with [`Then::Recv`] →
//! [`Completion::Received`] → … → [`Then::Close`] or [`Driver::close`] → [`Completion::Closed`].

mod address;
mod delivery;
mod driver;
mod epoll;
mod mapping;
mod options;
mod payload;
mod peer;
mod ready;
mod region;
mod ring;
mod sim;
mod stats;
mod waker;

pub use address::Address;
pub use delivery::Delivery;
pub use driver::{Buffer, Completion, Driver, Full, ListenerId, Op, PeerAddr, Sock, Then};
pub use epoll::Epoll;
pub use mapping::{Mapped, Mapping};
pub use nix::errno::Errno;
pub use options::{LinkForm, Options};
pub use payload::{Gather, Payload, Piece};
pub use region::{Pinned, Region};
pub use ring::Uring;
pub use sim::{Sim, SimClient, SimNet, SimOptions};
pub use stats::{Chain, ChainStats, Feature, FeatureState, Info, Outcome, Stats};
pub use waker::Waker;
