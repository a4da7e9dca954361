//! Files that are sent as they lie in the page cache.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};

/// A file and its mapping, which nothing in user space ever reads: the bytes go from the page cache
/// to the socket by a send. So when the file is truncated meanwhile, the kernel fails that send
/// with `EFAULT`, and no process is sent `SIGBUS`.
///
/// What is changed in place is seen in place: a send under way may carry some of either.
///
/// Keep a mapping for as long as the file is asked for: sending from one that is in use costs what
/// sendfile(2) costs, while one made anew for each reply costs its page faults besides, twice as much
/// for 64 KiB (`examples/filesend.rs` measures these and the other ways).
pub struct Mapping {
    file: File,
    map: MmapRaw,
}

/// A range of a [`Mapping`].
#[derive(Clone)]
pub struct Mapped {
    mapping: Arc<Mapping>,
    /// INVARIANT: offset and length lie within the mapping.
    offset: usize,
    len: u32,
}

impl Mapping {
    /// Maps the first `len` bytes of a file.
    ///
    /// # Errors
    /// When the kernel refuses, also where `len` is zero.
    pub fn new(file: File, len: usize) -> io::Result<Mapping> {
        let map = MmapOptions::new().len(len).map_raw_read_only(&file)?;
        Ok(Mapping { file, map })
    }

    /// The length of the mapping; the file may have become shorter.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nothing empty can be mapped")]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads a range into the page cache and enters it into the page table, so that sending it waits
    /// for no disk: for another thread than one with a ring to serve. Since 5.14.
    ///
    /// # Errors
    /// `EFAULT` where the file has become shorter than that, `EINVAL` on an older kernel.
    pub fn populate(&self, range: Range<usize>) -> io::Result<()> {
        self.map.advise_range(Advice::PopulateRead, range.start, range.len())
    }

    /// Where an offset lies. Only the kernel may look there.
    fn address(&self, offset: usize) -> *const u8 {
        self.map.as_ptr().wrapping_add(offset)
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Mapped {
    /// A range of a mapping.
    ///
    /// # Panics
    /// When the range does not lie within the mapping, or is of 4 GiB or more.
    #[must_use]
    pub fn new(mapping: &Arc<Mapping>, range: Range<usize>) -> Mapped {
        let (start, end) = (range.start, range.end);
        assert!(start <= end && end <= mapping.len(), "{start}..{end} of {}", mapping.len());
        let Ok(len) = u32::try_from(end - start) else { panic!("{start}..{end} is too long") };
        Mapped { mapping: Arc::clone(mapping), offset: start, len }
    }

    /// How many bytes it is.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins, for the kernel to read from. The mapping keeps the address valid; whether
    /// the file still has bytes there, only the kernel can find out safely.
    pub(crate) fn address(&self) -> *const u8 {
        self.mapping.address(self.offset)
    }

    /// The bytes after the first `skip`, read from the file: for a driver without a kernel.
    ///
    /// # Errors
    /// When the file has become too short.
    pub(crate) fn read(&self, skip: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let (at, len) = (out.len(), self.len().saturating_sub(skip));
        out.resize(at + len, 0);
        self.mapping.file.read_exact_at(&mut out[at..], (self.offset + skip) as u64)
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = self.offset..self.offset + self.len();
        f.debug_tuple("Mapped").field(&range).finish()
    }
}
