//! Bytes that must outlive the buffer they were received in: parts of heads, and what came behind
//! a request that is still being answered.

/// A head below this is parsed anew with each piece that arrives.
const CHEAP_BYTES: usize = 1024;

/// Bytes kept.
#[derive(Debug, Default)]
pub(crate) struct Carry {
    bytes: Vec<u8>,
    start: usize,
    /// The length that was last found to be an incomplete head.
    parsed: usize,
}

impl Carry {
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.parsed = self.parsed.saturating_sub(self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Marks bytes as consumed; they can still be seen from the place that is given back.
    pub(crate) fn consume(&mut self, used: usize) -> usize {
        let from = self.start;
        self.start += used;
        self.parsed = 0;
        from
    }

    pub(crate) fn bytes_from(&self, from: usize) -> &[u8] {
        &self.bytes[from..]
    }

    pub(crate) fn was_parsed(&mut self) {
        self.parsed = self.bytes.len();
    }

    /// Whether an incomplete head may have become more than that. A long head that drips in is not
    /// parsed again for every byte, which would cost the square of its length, but at each end of
    /// a line and each quarter of growth.
    pub(crate) fn is_worth_parsing(&self, head_bytes_max: usize) -> bool {
        let len = self.bytes.len() - self.start;
        let new = &self.bytes[self.parsed.max(self.start)..];
        len < CHEAP_BYTES || len >= head_bytes_max || new.len() >= len / 4 || new.contains(&b'\n')
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.parsed = 0;
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}
