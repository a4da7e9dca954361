//! The bytes of an open file: small ones in memory, others mapped and sent from the page cache.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ember_uring::{Mapped, Mapping, Piece};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::helpers;
use super::tree::{Stamp, Wait};

/// Files up to this are kept in memory: there, sending them costs no page table and no descriptor.
/// Above, a mapping in use is as cheap (`cargo run --example filesend -p ember-uring`).
pub(super) const SMALL_MAX: u64 = 16 << 10;

/// Bytes that are read in ahead of a send at a time.
const BLOCK: u64 = 1 << 20;

/// How long what was read in counts as being in memory. Pages that are used seldom leave sooner when
/// memory is short; then one send waits for the disk, a block at most.
const WARM: Duration = Duration::from_secs(10);

/// Bytes read at a time where a file system has no mappings.
const READ_MAX: u64 = 256 << 10;

/// The content of a file.
#[derive(Debug)]
pub(super) enum Content {
    Small(Arc<[u8]>),
    Mapped(Blocks),
    /// Of a file system without mappings.
    Unmapped(Arc<File>),
}

/// A mapping, and when each of its blocks was read in.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    mapping: Arc<Mapping>,
    /// Milliseconds since `opened`, plus one; zero: never. Helpers write it when they are done.
    warmed: Arc<[AtomicU32]>,
    opened: Instant,
}

/// What is to be done before a range can be sent.
pub(super) enum Need {
    Nothing,
    /// These are to be read in.
    Blocks(Range<usize>),
}

impl Content {
    /// Takes in a file that was found with this stamp.
    ///
    /// # Errors
    /// Of the system; `WouldBlock` where a disk would have to be waited for.
    pub(super) fn of(file: File, stamp: &Stamp, wait: Wait) -> io::Result<Content> {
        if stamp.len <= SMALL_MAX {
            return read_small(&file, stamp.len as usize, wait).map(|b| Content::Small(b.into()));
        }
        let Ok(len) = usize::try_from(stamp.len) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        // A file system without mappings refuses; the file is still there to be read.
        Ok(match Mapping::new(file.try_clone()?, len) {
            Ok(mapping) => Content::Mapped(Blocks::new(mapping)),
            Err(_) => Content::Unmapped(Arc::new(file)),
        })
    }

    /// Bytes of memory that it takes.
    pub(super) fn memory(&self) -> usize {
        match self {
            Content::Small(bytes) => bytes.len(),
            Content::Mapped(blocks) => size_of_val(&*blocks.warmed),
            Content::Unmapped(_) => 0,
        }
    }

    /// The file, where it is still needed.
    pub(super) fn file(&self) -> Option<&File> {
        match self {
            Content::Small(_) => None,
            Content::Mapped(blocks) => Some(blocks.mapping.file()),
            Content::Unmapped(file) => Some(file),
        }
    }
}

impl Blocks {
    fn new(mapping: Mapping) -> Blocks {
        let count = (mapping.len() as u64).div_ceil(BLOCK) as usize;
        let warmed = (0..count).map(|_| AtomicU32::new(0)).collect();
        Blocks { mapping: Arc::new(mapping), warmed, opened: Instant::now() }
    }

    /// What stands between a range and its being sent without waiting.
    pub(super) fn need(&self, range: &Range<u64>) -> Need {
        let now = self.now();
        let cold = self.blocks(range).filter(|&block| self.is_cold(block, now));
        match cold.min() {
            None => Need::Nothing,
            Some(first) => {
                let start = first as u64 * BLOCK;
                let end = range.end.next_multiple_of(BLOCK).min(self.mapping.len() as u64);
                Need::Blocks(start as usize..end as usize)
            }
        }
    }

    /// Begins to read in what will be needed after this, if it is cold. A block each time.
    pub(super) fn need_after(&self, end: u64) -> Option<Range<usize>> {
        let next = end.next_multiple_of(BLOCK);
        match self.need(&(next..(next + 1).min(self.mapping.len() as u64))) {
            Need::Blocks(range) if next < self.mapping.len() as u64 => Some(range),
            _ => None,
        }
    }

    /// Reads a range in; by a helper.
    pub(super) async fn warm(&self, range: Range<usize>) -> io::Result<()> {
        let blocks = self.clone();
        helpers::run(move || blocks.populate(range)).await
    }

    /// The same without waiting for its end. A fault shows when it is to be sent.
    pub(super) fn warm_meanwhile(&self, range: Range<usize>) {
        let blocks = self.clone();
        drop(helpers::begin(move || blocks.populate(range)));
    }

    /// The part of the file, as it is sent.
    pub(super) fn piece(&self, range: &Range<u64>) -> Piece {
        Piece::Mapped(Mapped::new(&self.mapping, range.start as usize..range.end as usize))
    }

    fn populate(&self, range: Range<usize>) -> io::Result<()> {
        match self.mapping.populate(range.clone()) {
            // Before Linux 5.14; then the send reads the pages in itself.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            other => other?,
        }
        self.is_warm(&range);
        Ok(())
    }

    fn is_warm(&self, range: &Range<usize>) {
        let now = self.now();
        for block in self.blocks(&(range.start as u64..range.end as u64)) {
            // Nothing is read by the order of these: a late one has a block read in twice.
            self.warmed[block].store(now, Ordering::Relaxed);
        }
    }

    fn is_cold(&self, block: usize, now: u32) -> bool {
        let at = self.warmed[block].load(Ordering::Relaxed);
        at == 0 || u128::from(now.wrapping_sub(at)) > WARM.as_millis()
    }

    fn blocks(&self, range: &Range<u64>) -> Range<usize> {
        let end = range.end.div_ceil(BLOCK).min(self.warmed.len() as u64);
        (range.start / BLOCK) as usize..end as usize
    }

    fn now(&self) -> u32 {
        (self.opened.elapsed().as_millis() as u32).wrapping_add(1).max(1)
    }
}

/// Reads a part of a file without a mapping; by a helper.
pub(super) async fn read_part(file: &Arc<File>, range: &Range<u64>) -> io::Result<Vec<u8>> {
    let file = Arc::clone(file);
    let Range { start, end } = range.start..range.end.min(range.start + READ_MAX);
    helpers::run(move || {
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    })
    .await
}

/// All of a small file. One that has changed since it was found is `Interrupted`: look again.
fn read_small(file: &File, len: usize, wait: Wait) -> io::Result<Vec<u8>> {
    // One byte more, to see whether it has grown.
    let mut bytes = vec![0; len + 1];
    let read = match wait {
        Wait::Allowed => read_to_end_at(file, &mut bytes)?,
        Wait::Never => {
            let into = &mut [io::IoSliceMut::new(&mut bytes)];
            match preadv2(file, into, 0, ReadWriteFlags::NOWAIT) {
                // A short read is as good as none: the rest is not in memory, or never was there.
                Ok(read) if read == len => read,
                _ => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
    };
    if read != len {
        return Err(io::ErrorKind::Interrupted.into());
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn read_to_end_at(file: &File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], read as u64) {
            Ok(0) => break,
            Ok(len) => read += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn blocks_are_read_in_as_far_as_they_are_cold() {
        let mut file = tempfile::tempfile().unwrap();
        let len = 5 * BLOCK / 2;
        file.write_all(&vec![1; len as usize]).unwrap();
        let blocks = Blocks::new(Mapping::new(file, len as usize).unwrap());
        let cold = |range: Range<u64>| match blocks.need(&range) {
            Need::Nothing => None,
            Need::Blocks(range) => Some(range.start as u64..range.end as u64),
        };
        assert_eq!(cold(0..1), Some(0..BLOCK));
        assert_eq!(cold(BLOCK - 1..BLOCK + 1), Some(0..2 * BLOCK));
        assert_eq!(cold(len - 1..len), Some(2 * BLOCK..len));
        blocks.is_warm(&(0..BLOCK as usize));
        assert_eq!(cold(0..BLOCK), None);
        assert_eq!(cold(0..len), Some(BLOCK..len));
        assert_eq!(blocks.need_after(BLOCK / 2), Some(BLOCK as usize..2 * BLOCK as usize));
        assert_eq!(blocks.need_after(len), None);
        blocks.is_warm(&(0..len as usize));
        assert_eq!(cold(0..len), None);
    }

    #[test]
    fn only_what_could_be_read_in_is_warm() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 3 * BLOCK as usize]).unwrap();
        let blocks = Blocks::new(Mapping::new(file, 3 * BLOCK as usize).unwrap());
        let block = BLOCK as usize;
        blocks.populate(0..block).unwrap();
        assert!(matches!(blocks.need(&(0..BLOCK)), Need::Nothing));
        blocks.mapping.file().set_len(BLOCK).unwrap();
        let gone = blocks.populate(block..2 * block).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
        assert!(matches!(blocks.need(&(BLOCK..2 * BLOCK)), Need::Blocks(_)));
    }

    #[test]
    fn a_small_file_that_has_changed_is_looked_at_again() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"four").unwrap();
        for wait in [Wait::Allowed, Wait::Never] {
            // Some file systems never read without waiting.
            match read_small(&file, 4, wait) {
                Ok(bytes) => assert_eq!(bytes, b"four"),
                Err(error) => {
                    assert_eq!((error.kind(), wait), (io::ErrorKind::WouldBlock, Wait::Never))
                }
            }
            assert!(read_small(&file, 3, wait).is_err());
            assert!(read_small(&file, 5, wait).is_err());
        }
    }
}
