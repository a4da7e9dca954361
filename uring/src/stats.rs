//! Counters and facts that a driver gives about itself.

use crate::Op;

/// How an operation ended, coarse enough for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// It did what was asked.
    Ok,
    /// A receive found the end of the stream.
    Ended,
    /// A send stopped part of the way.
    Short,
    /// It was cancelled, by us or because the chain before it failed.
    Cancelled,
    /// No receive buffer was free.
    NoBuffers,
    /// The peer reset or closed the connection.
    Reset,
    /// Descriptors or memory were used up.
    Exhausted,
    /// Anything else.
    Failed,
}

impl Outcome {
    /// All outcomes, in the order of their numbers.
    pub const ALL: [Outcome; 8] = [
        Outcome::Ok,
        Outcome::Ended,
        Outcome::Short,
        Outcome::Cancelled,
        Outcome::NoBuffers,
        Outcome::Reset,
        Outcome::Exhausted,
        Outcome::Failed,
    ];

    /// The name used as a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Ended => "eof",
            Outcome::Short => "short",
            Outcome::Cancelled => "cancelled",
            Outcome::NoBuffers => "no_buffers",
            Outcome::Reset => "reset",
            Outcome::Exhausted => "exhausted",
            Outcome::Failed => "failed",
        }
    }

    /// The outcome for an error.
    #[must_use]
    pub fn of(error: crate::Errno) -> Outcome {
        use crate::Errno;
        match error {
            Errno::ECANCELED => Outcome::Cancelled,
            Errno::ENOBUFS => Outcome::NoBuffers,
            Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTCONN | Errno::ECONNABORTED => {
                Outcome::Reset
            }
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Outcome::Exhausted,
            _ => Outcome::Failed,
        }
    }
}

/// The chains of linked operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Chain {
    /// Chain 1: reply, then receive.
    ReplyRecv,
    /// Chain 2: receive, then an armed reply.
    RecvReply,
    /// Chain 3: last reply, shutdown, close.
    Last,
}

/// How often a chain was submitted and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainStats {
    /// Submitted.
    pub submitted: u64,
    /// Went through to its end.
    pub completed: u64,
    /// Was cut off by a failure, a short send, an end-of-file or a cancel.
    pub broken: u64,
}

/// Counters since the driver's start.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Operations handed to the kernel.
    pub sqes_submitted: u64,
    /// Calls of `io_uring_enter`, or of whatever the driver waits with.
    pub enters: u64,
    /// Completions by [`Op`] and [`Outcome`].
    pub cqes: [[u64; Outcome::ALL.len()]; Op::ALL.len()],
    /// Turns in which the completion queue was found to have overflown.
    pub cq_overflows: u64,
    /// Receives that found no free buffer.
    pub buffers_exhausted: u64,
    /// Linked chains, by [`Chain`].
    pub chains: [ChainStats; 3],
    /// Sends that went out in part and were continued.
    pub short_sends: u64,
    /// Operations that had to wait for room in the submission queue.
    pub sq_full: u64,
    /// Zero-copy notifications that said the kernel copied after all.
    pub zero_copy_copied: u64,
    /// Sockets in use.
    pub sockets: u64,
    /// Calls that named a dead socket.
    pub stale_calls: u64,
}

impl Stats {
    /// Completions of one operation with one outcome.
    #[must_use]
    pub fn cqe(&self, op: Op, outcome: Outcome) -> u64 {
        self.cqes[op as usize][outcome as usize]
    }

    /// Counters of one chain.
    #[must_use]
    pub fn chain(&self, chain: Chain) -> ChainStats {
        self.chains[chain as usize]
    }

    #[inline]
    pub(crate) fn count(&mut self, op: Op, outcome: Outcome) {
        self.cqes[op as usize][outcome as usize] += 1;
    }
}

/// Whether a feature of the kernel is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeatureState {
    /// It is there and used.
    Used,
    /// It is there, and was not asked for.
    Unused,
    /// The kernel lacks or refuses it; this is done instead.
    Absent {
        /// What is done instead.
        instead: &'static str,
    },
}

/// One feature of the kernel, by the name that its documentation uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The name.
    pub name: &'static str,
    /// Whether it is used.
    pub state: FeatureState,
}

/// What runs, and with which features.
#[derive(Clone, Debug)]
pub struct Info {
    /// `io_uring`, `epoll` or `sim`.
    pub backend: &'static str,
    /// The kernel's features that matter to this driver.
    pub features: Vec<Feature>,
    /// Sockets at a time, at most, after all limits.
    pub sockets_max: u32,
}
