//! What can be sent.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::{Mapped, Pinned};

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

impl From<Piece> for Payload {
    fn from(piece: Piece) -> Payload {
        match piece {
            Piece::Pinned(pinned) => Payload::Pinned(pinned),
            Piece::Owned(bytes) => Payload::Owned(bytes),
            piece @ (Piece::Shared(_) | Piece::Mapped(_)) => Payload::from(vec![piece]),
        }
    }
}

/// One piece of a gathered send.
#[derive(Debug)]
pub enum Piece {
    /// Part of a [`crate::Region`].
    Pinned(Pinned),
    /// A buffer of its own.
    Owned(Vec<u8>),
    /// Bytes that others have too, in other threads as well.
    Shared(Arc<[u8]>),
    /// Part of a file, which user space never looks at.
    Mapped(Mapped),
}

impl Piece {
    /// How many bytes it is.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Piece::Pinned(pinned) => pinned.len(),
            Piece::Owned(bytes) => bytes.len(),
            Piece::Shared(bytes) => bytes.len(),
            Piece::Mapped(mapped) => mapped.len(),
        }
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; none of a file's, which may vanish while they are looked at.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Piece::Pinned(pinned) => Some(pinned),
            Piece::Owned(bytes) => Some(bytes),
            Piece::Shared(bytes) => Some(bytes),
            Piece::Mapped(_) => None,
        }
    }

    /// Where it begins.
    fn address(&self) -> *const u8 {
        match self {
            Piece::Pinned(pinned) => pinned.as_ptr(),
            Piece::Owned(bytes) => bytes.as_ptr(),
            Piece::Shared(bytes) => bytes.as_ptr(),
            Piece::Mapped(mapped) => mapped.address(),
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

    /// Copies what is left after the first `sent` bytes, for a driver without a kernel.
    ///
    /// # Errors
    /// When a file has become too short.
    pub(crate) fn copy(&self, sent: usize) -> io::Result<Vec<u8>> {
        let mut rest = Vec::with_capacity(self.len() - sent);
        let mut skip = sent;
        for piece in &self.0.pieces {
            let at = skip.min(piece.len());
            match piece {
                Piece::Mapped(mapped) => mapped.read(at, &mut rest)?,
                other => rest.extend_from_slice(&other.bytes().unwrap_or_default()[at..]),
            }
            skip -= at;
        }
        Ok(rest)
    }

    /// Whether one call of the kernel cannot take all that is left after the first `sent` bytes.
    pub(crate) fn needs_more_calls(&self, sent: usize) -> bool {
        self.0.pieces.len() > PIECES_MAX && self.rest(sent).count() > PIECES_MAX
    }

    /// All the pieces, where every one is part of a region.
    pub(crate) fn pinned(&self) -> Option<Vec<Pinned>> {
        let pinned = |piece: &Piece| match piece {
            Piece::Pinned(pinned) => Some(pinned.clone()),
            _ => None,
        };
        self.0.pieces.iter().map(pinned).collect()
    }

    /// What is left after the first `sent` bytes, piece by piece. The addresses in it are good as
    /// long as the gather itself lives and is not changed.
    fn rest(&self, sent: usize) -> impl Iterator<Item = libc::iovec> {
        let mut skip = sent;
        self.0.pieces.iter().filter_map(move |piece| {
            let (at, len) = (skip.min(piece.len()), piece.len());
            skip -= at;
            let iov_base = piece.address().wrapping_add(at).cast_mut().cast();
            (at < len).then_some(libc::iovec { iov_base, iov_len: len - at })
        })
    }

    /// As much of the rest as the kernel takes in one call.
    fn vector(&mut self, sent: usize) -> &mut [libc::iovec] {
        let mut vector = std::mem::take(&mut self.0.vector);
        vector.clear();
        vector.extend(self.rest(sent).take(PIECES_MAX));
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
    fn from(pieces: Vec<Piece>) -> Gather {
        let len = pieces.iter().map(Piece::len).sum();
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
        assert!(size_of::<Piece>() <= 32);
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
    fn a_vector_is_no_longer_than_the_kernel_takes() {
        let pieces = (0..3000).map(|n| Piece::Owned(vec![n as u8; 2])).collect::<Vec<_>>();
        let mut gather = Gather::from(pieces);
        assert_eq!((gather.len(), joined(gather.vector(0))), (6000, 2 * PIECES_MAX));
        assert!(gather.needs_more_calls(0));
        let rest = 6000 - 2 * PIECES_MAX;
        assert!(!gather.needs_more_calls(rest));
        assert_eq!(joined(gather.vector(rest)), 2 * PIECES_MAX);
        assert_eq!(gather.copy(5999).unwrap(), [2999u16 as u8]);
    }
}
