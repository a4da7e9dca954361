//! What can be chosen about a driver.

use std::time::Duration;

/// How a reply and the receive after it are submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LinkForm {
    /// `SEND --link--> RECV`: a client that does not read its replies is not read from.
    #[default]
    Linked,
    /// The same two operations side by side.
    Unlinked,
    /// One multishot receive for the life of the connection, and plain sends.
    Multishot,
}

/// Options of a driver. Sizes are upper limits: memory is touched only when it is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Entries of the submission queue; rounded up to a power of two.
    pub entries: u32,
    /// Entries of the completion queue; rounded up to a power of two.
    pub cq_entries: u32,
    /// Sockets at a time, at most; also capped by `RLIMIT_NOFILE`.
    pub sockets_max: u32,
    /// Receive buffers; a power of two, at most 32768.
    pub buffers: u16,
    /// Size of a receive buffer in bytes.
    pub buffer_size: u32,
    /// How a reply and the receive after it are submitted.
    pub form: LinkForm,
    /// Whether the receive after a reply goes to the poll without trying first.
    pub poll_first: bool,
    /// Whether a shutdown stands between a last reply and its close. The close ends the stream too,
    /// once all of the reply is queued for it; a shutdown before it is a visit to one of the
    /// kernel's workers, and makes a difference only where somebody else has a copy of the socket.
    pub shutdown_last: bool,
    /// Accepts into the ring's own file table rather than the process's (if the kernel can).
    pub direct: bool,
    /// Payloads of at least this many bytes are sent without a copy; `None`: never.
    pub zero_copy_min: Option<u32>,
    /// Busy-polls the NIC's queues this long before sleeping (NAPI); `None`: never.
    pub busy_poll: Option<Duration>,
    /// Lets a kernel thread on this CPU do the submitting (SQPOLL); `None`: no such thread.
    pub sqpoll_cpu: Option<u32>,
    /// Waits so long for [`Options::min_completions`] before it is content with the first; zero:
    /// not at all.
    pub min_wait: Duration,
    /// How many completions a turn waits for during [`Options::min_wait`].
    pub min_completions: u32,
    /// Lets several receives share a buffer, each taking what it needs of it.
    pub incremental: bool,
    /// Allows nothing on the ring but the operations that the driver uses.
    pub restrict: bool,
    /// Sockets at a time, at most, that are connected from here rather than accepted.
    pub connects_max: u32,
    /// Features of the kernel to do without, by the names that [`crate::Info`] gives them.
    pub avoid: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            entries: 256,
            cq_entries: 4096,
            sockets_max: 65536,
            buffers: 256,
            buffer_size: 8192,
            form: LinkForm::Linked,
            poll_first: false,
            shutdown_last: false,
            direct: true,
            zero_copy_min: None,
            busy_poll: None,
            sqpoll_cpu: None,
            min_wait: Duration::ZERO,
            min_completions: 1,
            incremental: false,
            restrict: false,
            connects_max: 1024,
            avoid: Vec::new(),
        }
    }
}
