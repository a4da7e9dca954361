//! Heads that were seen before: the exact bytes of whole, valid requests that led to a prepared
//! reply, so that the same bytes need neither be parsed nor routed again.
//!
//! Clients repeat themselves: a browser, a load balancer's health check or a benchmark sends the
//! same head for the same resource, byte for byte. A connection remembers the entry that it hit
//! last, and what comes in is compared with that one entry; nothing is hashed on the way.

use crate::site::VariantId;

/// Entries at most.
const ENTRIES_MAX: usize = 256;

/// Heads longer than this are not kept, in bytes.
const HEAD_LEN_MAX: usize = 2048;

/// The heads that one thread has seen. It belongs to one [`crate::Site`]: another site needs
/// another memo.
#[derive(Debug, Default)]
pub struct Memo {
    entries: Vec<Entry>,
    /// The entry hit last by anybody: the guess for a connection's first request.
    recent: u16,
    /// The next entry to be replaced once all are taken.
    next: u16,
}

#[derive(Debug)]
struct Entry {
    bytes: Box<[u8]>,
    hash: u32,
    variant: VariantId,
}

/// A connection's place in the memo.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    /// The entry hit last; `NONE` while there is none.
    entry: Option<u16>,
    /// The hash of the last head that was parsed in full.
    seen: u32,
}

impl Memo {
    /// An empty memo.
    #[must_use]
    pub fn new() -> Memo {
        Memo::default()
    }

    /// How many times in a row `bytes` begins with the head that this connection sent last, the
    /// reply it leads to, and how many bytes that is. No more than `count_max` are taken.
    #[inline]
    pub(crate) fn run(
        &mut self,
        place: &mut Place,
        bytes: &[u8],
        count_max: u32,
    ) -> Option<(VariantId, u32, usize)> {
        let guess = place.entry.unwrap_or(self.recent);
        let entry = self.entries.get(usize::from(guess))?;
        let len = entry.bytes.len();
        let mut at = 0;
        let mut count = 0;
        while count < count_max && bytes.len() - at >= len && bytes[at..at + len] == *entry.bytes {
            at += len;
            count += 1;
        }
        if count == 0 {
            return None;
        }
        if place.entry.is_none() {
            place.entry = Some(guess);
        }
        Some((entry.variant, count, at))
    }

    /// Learns a head that was parsed in full and led to `variant`. It is kept when the connection
    /// sends it the second time in a row, so that heads that come once cost no memory.
    pub(crate) fn learn(&mut self, place: &mut Place, head: &[u8], variant: VariantId) {
        if head.len() > HEAD_LEN_MAX {
            return;
        }
        let hash = hash(head);
        let known = self.entries.iter().position(|e| e.hash == hash && *e.bytes == *head);
        let entry = match known {
            Some(entry) => entry,
            None if place.seen == hash => self.insert(head, hash, variant),
            None => {
                place.seen = hash;
                return;
            }
        };
        self.recent = entry as u16;
        place.entry = Some(entry as u16);
    }

    fn insert(&mut self, head: &[u8], hash: u32, variant: VariantId) -> usize {
        let entry = Entry { bytes: head.into(), hash, variant };
        if self.entries.len() < ENTRIES_MAX {
            self.entries.push(entry);
            return self.entries.len() - 1;
        }
        let place = usize::from(self.next);
        self.next = (self.next + 1) % ENTRIES_MAX as u16;
        self.entries[place] = entry;
        place
    }
}

/// Spreads heads over the entries; equality is always decided by the bytes.
fn hash(bytes: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
    }
    (state >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    const B: &[u8] = b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn a_head_is_known_from_its_second_time() {
        let (mut memo, mut place) = (Memo::new(), Place::default());
        memo.learn(&mut place, A, VariantId(7));
        assert_eq!(memo.run(&mut place, A, 9), None);
        memo.learn(&mut place, A, VariantId(7));
        let three = [A, A, A, &A[..9]].concat();
        assert_eq!(memo.run(&mut place, &three, 9), Some((VariantId(7), 3, 3 * A.len())));
        assert_eq!(memo.run(&mut place, B, 9), None);
        assert_eq!(memo.run(&mut place, &A[..A.len() - 1], 9), None);
        assert_eq!(memo.run(&mut Place::default(), A, 9), Some((VariantId(7), 1, A.len())));
    }

    #[test]
    fn it_stays_bounded_and_exact() {
        let mut memo = Memo::new();
        for n in 0..3 * ENTRIES_MAX as u32 {
            let mut place = Place::default();
            let head = format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n");
            for _ in 0..2 {
                memo.learn(&mut place, head.as_bytes(), VariantId(n as u16));
            }
            let hit = memo.run(&mut place, head.as_bytes(), 9);
            assert_eq!(hit, Some((VariantId(n as u16), 1, head.len())));
        }
        assert_eq!(memo.entries.len(), ENTRIES_MAX);
        let mut place = Place::default();
        let long = vec![b'a'; HEAD_LEN_MAX + 1];
        memo.learn(&mut place, &long, VariantId(0));
        memo.learn(&mut place, &long, VariantId(0));
        assert_eq!(memo.run(&mut place, &long, 9), None);
    }
}
