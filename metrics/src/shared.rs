//! Memory that several processes map: a sealed memfd, seen as a slice of atomic words.
//!
//! This is the crate's only file with unsafe code.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::slice;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

/// Words in memory that several processes share: a mapping of a memfd whose size can never change
/// again.
#[derive(Debug)]
pub struct Words {
    file: File,
    // INVARIANT: maps all of `file`, whose seals forbid to shrink and to grow it.
    map: MmapRaw,
}

impl Words {
    /// So many words of zero in a new memfd. Nothing is resident before it is touched.
    ///
    /// # Errors
    /// The system's refusal of a memfd.
    pub fn create(name: &str, words: usize) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(name, flags)?;
        let bytes = words.checked_mul(size_of::<u64>()).and_then(|n| i64::try_from(n).ok());
        ftruncate(&fd, bytes.ok_or(io::ErrorKind::InvalidInput)?)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(fixed_size() | SealFlag::F_SEAL_SEAL))?;
        Self::from_fd(fd)
    }

    /// Maps what another process created.
    ///
    /// # Errors
    /// `InvalidData` where the descriptor is no memfd of a fixed size.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let foreign = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS)
            .map_err(|_| foreign("the descriptor of shared memory is no memfd"))?;
        if !SealFlag::from_bits_retain(seals).contains(fixed_size()) {
            return Err(foreign("the memfd of shared memory is not sealed"));
        }
        let file = File::from(fd);
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if bytes == 0 {
            return Err(foreign("the memfd of shared memory is empty"));
        }
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        Ok(Self { file, map })
    }

    /// The descriptor, to be handed to another process.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        let words = self.map.len() / size_of::<u64>();
        // SAFETY: `map` is one live mapping of `map.len()` bytes, page-aligned, readable and
        // writable, of a file that cannot shrink (INVARIANT above), so every word in it can be
        // accessed for as long as `self` lives. Any bits are a valid AtomicU64, and everybody
        // who maps the file, in this process or another, accesses it through such a slice only.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), words) }
    }
}

fn fixed_size() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_mappings_see_each_other() {
        let one = Words::create("test", 1024).unwrap();
        let two = Words::from_fd(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((one.len(), two.len()), (1024, 1024));
        one[1023].store(7, Ordering::Relaxed);
        assert_eq!(two[1023].load(Ordering::Relaxed), 7);
    }

    #[test]
    fn the_size_is_fixed() {
        let shared = Words::create("test", 512).unwrap();
        assert!(ftruncate(shared.as_fd(), 0).is_err());
        assert!(ftruncate(shared.as_fd(), 8192).is_err());
    }

    #[test]
    fn what_could_shrink_is_refused() {
        let loose = memfd_create("test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&loose, 4096).unwrap();
        let error = Words::from_fd(loose).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let null = File::open("/dev/null").unwrap();
        let error = Words::from_fd(null.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
