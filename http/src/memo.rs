//! What a thread remembers between requests: whole heads that led to a prepared reply, and the
//! memory that parsing reuses.

use crate::bytes::find_head_end;
use crate::carry::Carry;
use crate::head::Head;
use crate::method::Method;
use crate::router::ParamSpan;
use crate::site::Site;
use crate::variant::VariantId;

/// Heads remembered.
const ENTRIES: usize = 256;
/// Longest head that is remembered.
const HEAD_BYTES_MAX: usize = 2048;
/// Spare carry buffers kept.
const SPARES_MAX: usize = 8;
/// Largest spare carry buffer kept.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// A place in the memo. A connection remembers the place that it hit last.
pub(crate) type Place = u16;

/// A thread's memory of heads. Exactly the bytes of a head that was parsed, validated and led to a
/// prepared reply lead there again without parsing: nothing but those bytes, of a request without
/// body that keeps its connection open, decided. Bounded: a new head takes the place of an old one
/// that falls on the same entry.
pub struct Memo {
    entries: Vec<Entry>,
    /// The site that the entries are of.
    site: u64,
    pub(crate) scratch: Scratch,
    #[expect(clippy::vec_box, reason = "the boxes go in and out of connections as they are")]
    spares: Vec<Box<Carry>>,
}

/// Memory that parsing reuses.
pub(crate) struct Scratch {
    pub(crate) head: Head,
    pub(crate) path: String,
    pub(crate) params: Vec<ParamSpan>,
    /// The last head that was parsed, where it is wanted.
    pub(crate) last_head: Option<Vec<u8>>,
}

#[derive(Clone)]
struct Entry {
    /// Empty where nothing is remembered.
    head: Vec<u8>,
    hit: Hit,
}

/// What a remembered head leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) variant: VariantId,
    pub(crate) method: Method,
}

impl Default for Memo {
    fn default() -> Self {
        Memo::new()
    }
}

impl Memo {
    /// An empty memo.
    #[must_use]
    pub fn new() -> Memo {
        let nothing = Hit { variant: VariantId(0), method: Method::Get };
        Memo {
            entries: vec![Entry { head: Vec::new(), hit: nothing }; ENTRIES],
            site: 0,
            scratch: Scratch {
                head: Head::new(),
                path: String::new(),
                params: Vec::with_capacity(8),
                last_head: None,
            },
            spares: Vec::new(),
        }
    }

    /// Keeps a copy of each head that is parsed, for whoever wants to tell of requests that the
    /// protocol answers by itself.
    pub fn keep_heads(&mut self) {
        self.scratch.last_head = Some(Vec::new());
    }

    /// The last head that was parsed; empty if it could not be, or if none is kept.
    #[must_use]
    pub fn last_head(&self) -> &[u8] {
        self.scratch.last_head.as_deref().unwrap_or_default()
    }

    /// How many times in a row, but at most `limit` times, the entry's head stands at the
    /// beginning of the bytes, and how long it is.
    #[inline]
    pub(crate) fn run(
        &self,
        site: &Site,
        place: Place,
        bytes: &[u8],
        limit: u32,
    ) -> Option<(Hit, u32, usize)> {
        let entry = self.entries.get(usize::from(place))?;
        let head = entry.head.as_slice();
        if head.is_empty() || limit == 0 || self.site != site.id || !bytes.starts_with(head) {
            return None;
        }
        let mut count = 1;
        let mut rest = &bytes[head.len()..];
        while count < limit && rest.starts_with(head) {
            count += 1;
            rest = &rest[head.len()..];
        }
        Some((entry.hit, count, head.len()))
    }

    /// The place where the head that the bytes begin with would be, if it is whole.
    pub(crate) fn place(bytes: &[u8]) -> Option<Place> {
        let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
        let end = find_head_end(window)?;
        Some(place_of(&window[..end]))
    }

    /// Remembers a head; forgets all others if they were of another site.
    pub(crate) fn insert(&mut self, site: &Site, head: &[u8], hit: Hit) -> Option<Place> {
        if self.site != site.id {
            self.entries.iter_mut().for_each(|entry| entry.head.clear());
            self.site = site.id;
        }
        if head.len() > HEAD_BYTES_MAX {
            return None;
        }
        let place = place_of(head);
        let entry = &mut self.entries[usize::from(place)];
        entry.head.clear();
        entry.head.extend_from_slice(head);
        entry.hit = hit;
        Some(place)
    }

    /// An empty buffer for bytes that wait.
    pub(crate) fn take_spare(&mut self) -> Box<Carry> {
        self.spares.pop().unwrap_or_default()
    }

    /// Keeps a buffer for the next connection that needs one.
    pub(crate) fn give_back(&mut self, mut spare: Box<Carry>) {
        if self.spares.len() < SPARES_MAX && spare.capacity() <= SPARE_BYTES_MAX {
            spare.clear();
            self.spares.push(spare);
        }
    }
}

/// Eight bytes a step, multiplied and folded. Clashes cost time alone, since whole heads are
/// compared.
fn place_of(head: &[u8]) -> Place {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = head.len() as u64;
    let (words, rest) = head.as_chunks::<8>();
    for word in words {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    }
    for byte in rest {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(FACTOR);
    }
    (hash >> 56) as Place
}

const _: () = assert!(ENTRIES == 1 << 8, "a place is eight bits of a hash");
