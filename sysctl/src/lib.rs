//! The tuning plan of emberd: kernel and NIC knobs, journalled, verified and taken back.
//!
//! [`Plan::make`] reads the host and says what would be done; [`apply`](apply::apply) carries
//! that out with a journal written ahead; [`status`](status::status) reads it all back;
//! [`revert`](revert::revert) puts back what still holds our values. The host is behind a trait
//! ([`Host`]), so that trees of files can stand for machines that nobody has here.

pub mod alignment;
pub mod apply;
mod arfs;
pub mod audit;
pub mod ethtool;
pub mod findings;
pub mod host;
pub mod irqbalance;
pub mod irqs;
pub mod journal;
pub mod knobs;
mod maker;
pub mod netdev;
pub mod nic;
pub mod owners;
pub mod plan;
pub mod qdisc;
pub mod render;
pub mod revert;
mod session;
pub mod status;
pub mod target;
pub mod watch;
pub mod wishes;

pub use host::{Host, Live};
pub use plan::{Input, Plan};
pub use wishes::Wishes;
