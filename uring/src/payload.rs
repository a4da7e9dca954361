//! What can be sent.

use std::fmt;

use crate::Pinned;

/// The bytes of one send. The driver owns them until the last completion.
#[derive(Debug)]
pub enum Payload {
    /// Part of a [`crate::Region`]: nothing is allocated or copied.
    Pinned(Pinned),
    /// A buffer of its own.
    Owned(Vec<u8>),
    /// Several pieces, sent in order as if they were one.
    Gather(Gather),
}

impl Payload {
    /// How many bytes there are to send.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Payload::Pinned(pinned) => pinned.len(),
            Payload::Owned(bytes) => bytes.len(),
            Payload::Gather(gather) => gather.len(),
        }
    }

    /// Whether there is nothing to send.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Pinned> for Payload {
    #[inline]
    fn from(pinned: Pinned) -> Payload {
        Payload::Pinned(pinned)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload::Owned(bytes)
    }
}

impl From<Vec<Piece>> for Payload {
    fn from(pieces: Vec<Piece>) -> Payload {
        Payload::Gather(Gather::from(pieces))
    }
}

/// One piece of a gathered send.
#[derive(Debug)]
pub enum Piece {
    /// Part of a [`crate::Region`].
    Pinned(Pinned),
    /// A buffer of its own.
    Owned(Vec<u8>),
}

impl Piece {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Piece::Pinned(pinned) => pinned,
            Piece::Owned(bytes) => bytes,
        }
    }
}

/// Several pieces that are sent in order as if they were one.
pub struct Gather(Box<Inner>);

struct Inner {
    pieces: Vec<Piece>,
    len: usize,
    /// Made anew for every submission; lives here so that its address stays while the kernel may
    /// look at it.
    vector: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gather").field(&self.0.pieces).finish()
    }
}

/// The kernel takes no more pieces in one call (`UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

impl Gather {
    /// How many bytes there are to send.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.0.pieces
    }

    /// What is left after the first `sent` bytes, piece by piece.
    pub(crate) fn rest(&self, sent: usize) -> impl Iterator<Item = &[u8]> {
        let mut skip = sent;
        self.0.pieces.iter().filter_map(move |piece| {
            let bytes = piece.bytes();
            let rest = &bytes[skip.min(bytes.len())..];
            skip = skip.saturating_sub(bytes.len());
            (!rest.is_empty()).then_some(rest)
        })
    }

    /// The vector of what is left after the first `sent` bytes. The addresses in it are good as
    /// long as the gather itself lives and is not changed.
    pub(crate) fn vector(&mut self, sent: usize) -> &mut [libc::iovec] {
        let mut vector = std::mem::take(&mut self.0.vector);
        vector.clear();
        vector.extend(self.rest(sent).map(|rest| {
            let iov_base = rest.as_ptr().cast_mut().cast();
            libc::iovec { iov_base, iov_len: rest.len() }
        }));
        self.0.vector = vector;
        &mut self.0.vector
    }

    /// A message header over that vector, good as long.
    pub(crate) fn header(&mut self, sent: usize) -> *const libc::msghdr {
        let vector = self.vector(sent);
        let (msg_iov, msg_iovlen) = (vector.as_mut_ptr(), vector.len());
        self.0.header.msg_iov = msg_iov;
        self.0.header.msg_iovlen = msg_iovlen as _;
        &raw const self.0.header
    }
}

impl From<Vec<Piece>> for Gather {
    /// Pieces past the kernel's limit of 1024 are copied together into one.
    fn from(mut pieces: Vec<Piece>) -> Gather {
        if pieces.len() > PIECES_MAX {
            let tail = pieces.split_off(PIECES_MAX - 1);
            let joined = tail.iter().flat_map(|piece| piece.bytes().iter().copied()).collect();
            pieces.push(Piece::Owned(joined));
        }
        let len = pieces.iter().map(|piece| piece.bytes().len()).sum();
        // SAFETY: A message header is plain C data, for which all zeroes mean "nothing".
        let header = unsafe { std::mem::zeroed() };
        Gather(Box::new(Inner { pieces, len, vector: Vec::new(), header }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_small() {
        assert!(size_of::<Payload>() <= 24);
        assert!(size_of::<Option<Payload>>() <= 24);
    }

    fn joined(vector: &[libc::iovec]) -> usize {
        vector.iter().map(|part| part.iov_len).sum()
    }

    #[test]
    fn a_vector_goes_on_where_a_short_send_stopped() {
        let pieces = vec![Piece::Owned(vec![1; 3]), Piece::Owned(vec![]), Piece::Owned(vec![2; 4])];
        let mut gather = Gather::from(pieces);
        for sent in 0..=7 {
            assert_eq!(joined(gather.vector(sent)), 7 - sent, "after {sent}");
        }
        assert_eq!(gather.vector(3).len(), 1);
    }

    #[test]
    fn too_many_pieces_are_joined() {
        let pieces = (0..3000).map(|n| Piece::Owned(vec![n as u8; 2])).collect::<Vec<_>>();
        let mut gather = Gather::from(pieces);
        assert_eq!(gather.len(), 6000);
        assert_eq!(gather.pieces().len(), PIECES_MAX);
        assert_eq!(joined(gather.vector(0)), 6000);
    }
}
