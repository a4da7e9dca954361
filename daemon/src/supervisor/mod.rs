//! The supervisor: it owns the listening sockets and the counters, and keeps workers running.

pub(crate) mod link;
