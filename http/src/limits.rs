//! The named limits of a connection. All are on by default.

/// What a connection may cost. Sizes in bytes, times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest request target; a longer one is answered 414.
    pub target_bytes_max: usize,
    /// Longest request head, the request line and the empty line included; a longer one is
    /// answered 431. At most 65535.
    pub head_bytes_max: usize,
    /// Most field lines of a head; more are answered 431.
    pub fields_max: usize,
    /// Longest body, after the framing is taken off, of a route that names no limit of its own; a
    /// longer one is answered 413.
    pub body_bytes_max: u64,
    /// Most bytes of chunk extensions of one body, all chunks together.
    pub chunk_extension_bytes_max: u32,
    /// Most bytes of one body's trailer section.
    pub trailer_bytes_max: u32,
    /// How much of a body that nobody wants is read so that the connection can go on; a longer
    /// one costs the connection.
    pub discard_bytes_max: u64,
    /// How many bytes are read and thrown away after the last reply, so that a reset does not
    /// destroy it on its way (RFC 9112 section 9.6).
    pub linger_bytes_max: u64,
    /// Requests answered on one connection; the last reply says `Connection: close`.
    pub requests_max: u32,
    /// Age of a connection, after which the next reply says `Connection: close`.
    pub age_ms_max: u32,
    /// Time for a whole head, from its first byte, or from the accept for the first head.
    pub head_ms_max: u32,
    /// Time between two pieces of a body.
    pub body_ms_max: u32,
    /// Time between two requests.
    pub idle_ms_max: u32,
    /// Time in which the client takes nothing of a reply.
    pub write_ms_max: u32,
    /// Time spent in lingering close.
    pub linger_ms_max: u32,
    /// Lowest rate of a body, averaged since its start, in bytes a second; 0 turns it off.
    pub body_rate_min: u32,
    /// Lowest rate of a reply, averaged since its start, in bytes a second; 0 turns it off.
    pub write_rate_min: u32,
    /// Time before the lowest rates count.
    pub rate_grace_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            target_bytes_max: 8 << 10,
            head_bytes_max: 16 << 10,
            fields_max: 100,
            body_bytes_max: 4 << 20,
            chunk_extension_bytes_max: 4 << 10,
            trailer_bytes_max: 8 << 10,
            discard_bytes_max: 256 << 10,
            linger_bytes_max: 1 << 20,
            requests_max: 1_000_000,
            age_ms_max: 3_600_000,
            head_ms_max: 10_000,
            body_ms_max: 10_000,
            idle_ms_max: 30_000,
            write_ms_max: 30_000,
            linger_ms_max: 5_000,
            body_rate_min: 240,
            write_rate_min: 240,
            rate_grace_ms: 10_000,
        }
    }
}
