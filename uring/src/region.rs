//! Memory for replies that are sent again and again without being copied or allocated.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Bound, Deref, RangeBounds};
use std::ptr::NonNull;
use std::rc::Rc;

use memmap2::{Advice, MmapMut, MmapOptions};

/// An arena of one mapping: huge pages where there are any, locked where the limit allows.
///
/// Pages are touched when they are first written. The mapping goes when the region and everything
/// allocated from it have been dropped.
#[derive(Clone)]
pub struct Region {
    arena: Rc<Arena>,
}

/// Part of a [`Region`]. A clone is a reference: counted, not atomic, a nanosecond.
pub struct Pinned {
    /// INVARIANT: points to the initialised header of a live block, of whose count this is one.
    header: NonNull<Header>,
    offset: u32,
    len: u32,
}

impl Region {
    /// Maps `capacity` bytes.
    ///
    /// # Errors
    /// When the mapping is refused. Huge pages and locking are only tried.
    pub fn new(capacity: usize) -> io::Result<Region> {
        let capacity = capacity.max(1).next_multiple_of(PAGE);
        let (mut map, huge) = map(capacity)?;
        let locked = lock_on_fault(&mut map);
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        let space = RefCell::new(Space { end: 0, free: BTreeMap::new() });
        let registered = Cell::new(None);
        let capacity = map.len();
        let arena = Arena { base, capacity, _map: map, space, huge, locked, registered };
        Ok(Region { arena: Rc::new(arena) })
    }

    /// Allocates `len` zeroed or stale bytes, to be written through [`Pinned::get_mut`]; `None`
    /// when the region is full.
    #[must_use]
    pub fn alloc(&self, len: usize) -> Option<Pinned> {
        let len = u32::try_from(len).ok()?;
        let size = block_size(len)?;
        let (at, size) = self.arena.take(size)?;
        // SAFETY: `take` gives offsets of blocks that lie within the mapping.
        let block = unsafe { self.arena.base.add(at) };
        let header = block.cast::<Header>();
        let arena = Rc::into_raw(Rc::clone(&self.arena));
        let value = Header { refs: Cell::new(1), size, arena };
        // SAFETY: The block is ours alone, `ALIGN`ed, and longer than a header.
        unsafe { header.write(value) };
        Some(Pinned { header, offset: 0, len })
    }

    /// Allocates and fills.
    #[must_use]
    pub fn alloc_from(&self, bytes: &[u8]) -> Option<Pinned> {
        let mut pinned = self.alloc(bytes.len())?;
        pinned.get_mut()?.copy_from_slice(bytes);
        Some(pinned)
    }

    /// The size of the mapping in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.arena.capacity
    }

    /// Whether the mapping is of reserved huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.arena.huge
    }

    /// Whether the memory is locked.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.arena.locked
    }

    /// The whole mapping, for registering it with a ring.
    pub(crate) fn memory(&self) -> (NonNull<u8>, usize) {
        (self.arena.base, self.arena.capacity)
    }

    pub(crate) fn set_registered(&self, driver: u16, index: u16) {
        self.arena.registered.set(Some((driver, index)));
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("capacity", &self.capacity())
            .field("huge", &self.is_huge())
            .field("locked", &self.is_locked())
            .finish()
    }
}

impl Pinned {
    /// The bytes for writing, only while no clone and no send refers to the block.
    #[must_use]
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        if self.header().refs.get() != 1 {
            return None;
        }
        let data = self.data();
        // SAFETY: The range lies in the block (checked by `alloc` and `slice`), its bytes came
        // zeroed from the kernel or were written before, and the only reference is `self`.
        Some(unsafe { std::slice::from_raw_parts_mut(data, self.len as usize) })
    }

    /// Whether this is the only reference to the block: no send in flight refers to it.
    #[inline]
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.header().refs.get() == 1
    }

    /// Part of this part.
    ///
    /// # Panics
    /// When the range does not lie within.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Pinned {
        let start = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&at) => at + 1,
            Bound::Excluded(&at) => at,
            Bound::Unbounded => self.len as usize,
        };
        assert!(start <= end && end <= self.len as usize, "{start}..{end} of {}", self.len);
        let mut part = self.clone();
        part.offset += start as u32;
        part.len = (end - start) as u32;
        part
    }

    /// The index under which a driver has registered the region.
    pub(crate) fn registered(&self, driver: u16) -> Option<u16> {
        // SAFETY: A live block holds a count of its arena.
        let arena = unsafe { &*self.header().arena };
        arena.registered.get().filter(|&(of, _)| of == driver).map(|(_, index)| index)
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: See the field's invariant.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    fn data(&self) -> *mut u8 {
        let start = HEADER + self.offset as usize;
        // SAFETY: `alloc` and `slice` keep the range within the block.
        unsafe { self.header.cast::<u8>().add(start) }.as_ptr()
    }
}

impl Deref for Pinned {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let data = self.data();
        // SAFETY: The range lies in the block and is initialised; `get_mut` needs the only
        // reference mutably, so nobody writes while this one is borrowed.
        unsafe { std::slice::from_raw_parts(data, self.len as usize) }
    }
}

impl Clone for Pinned {
    #[inline]
    fn clone(&self) -> Pinned {
        let refs = &self.header().refs;
        // Two billion clones need more memory than there is, unless some were forgotten.
        assert!(refs.get() < u32::MAX / 2, "too many references to one block");
        refs.set(refs.get() + 1);
        Pinned { header: self.header, offset: self.offset, len: self.len }
    }
}

impl Drop for Pinned {
    #[inline]
    fn drop(&mut self) {
        let header = self.header();
        let refs = header.refs.get() - 1;
        header.refs.set(refs);
        if refs == 0 {
            free(self.header);
        }
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("len", &self.len).finish_non_exhaustive()
    }
}

struct Arena {
    base: NonNull<u8>,
    capacity: usize,
    /// Owns what `base` points to; never looked at itself.
    _map: MmapMut,
    space: RefCell<Space>,
    huge: bool,
    locked: bool,
    registered: Cell<Option<(u16, u16)>>,
}

struct Space {
    end: usize,
    /// Offsets of free blocks by their size.
    free: BTreeMap<u32, Vec<usize>>,
}

#[repr(C)]
struct Header {
    refs: Cell<u32>,
    size: u32,
    /// INVARIANT: from `Rc::into_raw`; the block holds one count until it is freed.
    arena: *const Arena,
}

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;
/// A cache line, so that two replies never share one.
const ALIGN: usize = 64;
const HEADER: usize = size_of::<Header>();

impl Arena {
    /// The offset and the size of a block of at least `size` bytes.
    fn take(&self, size: u32) -> Option<(usize, u32)> {
        let mut space = self.space.borrow_mut();
        // A block up to a quarter larger will do: replies come in few sizes, again and again.
        let fitting = size..=size.saturating_add(size / 4);
        if let Some((&found, blocks)) = space.free.range_mut(fitting).find(|(_, at)| !at.is_empty())
            && let Some(at) = blocks.pop()
        {
            return Some((at, found));
        }
        let at = space.end;
        let end = at.checked_add(size as usize).filter(|&end| end <= self.capacity)?;
        space.end = end;
        Some((at, size))
    }
}

fn block_size(len: u32) -> Option<u32> {
    let size = (len as usize + HEADER).next_multiple_of(ALIGN);
    u32::try_from(size).ok()
}

#[cold]
fn free(header: NonNull<Header>) {
    // SAFETY: The last reference is going, so the header is still initialised and nobody else's.
    let Header { size, arena, .. } = unsafe { header.read() };
    // SAFETY: The pointer came from `Rc::into_raw`, and this block's count is given up here.
    let arena = unsafe { Rc::from_raw(arena) };
    let at = header.as_ptr() as usize - arena.base.as_ptr() as usize;
    arena.space.borrow_mut().free.entry(size).or_default().push(at);
}

fn map(capacity: usize) -> io::Result<(MmapMut, bool)> {
    if capacity >= HUGE_PAGE {
        let rounded = capacity.next_multiple_of(HUGE_PAGE);
        if let Ok(map) = MmapOptions::new().len(rounded).huge(Some(21)).map_anon() {
            return Ok((map, true));
        }
    }
    let map = MmapOptions::new().len(capacity).map_anon()?;
    if capacity >= HUGE_PAGE {
        // Transparent huge pages are only a hint; many kernels are built without them.
        let _ = map.advise(Advice::HugePage);
    }
    Ok((map, false))
}

/// Locks pages as they are touched; `mlock` would touch them all now.
fn lock_on_fault(map: &mut MmapMut) -> bool {
    // SAFETY: The range is the mapping's own, and locking changes no byte of it.
    unsafe { libc::mlock2(map.as_mut_ptr().cast(), map.len(), libc::MLOCK_ONFAULT as _) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_needs_the_only_reference() {
        let region = Region::new(1).unwrap();
        let mut one = region.alloc_from(b"hello, world").unwrap();
        assert_eq!(&*one.slice(7..), b"world");
        let two = one.slice(..5);
        assert!(one.get_mut().is_none());
        drop(two);
        one.get_mut().unwrap()[0] = b'J';
        assert_eq!(&*one, b"Jello, world");
    }

    #[test]
    fn blocks_come_back() {
        let region = Region::new(PAGE).unwrap();
        for round in 0..3 {
            let mut blocks = Vec::new();
            while let Some(block) = region.alloc(100 + round) {
                blocks.push(block);
            }
            assert_eq!(blocks.len(), PAGE / 128, "round {round}");
        }
        assert!(region.alloc(PAGE).is_none(), "a header and a page do not fit into a page");
    }

    #[test]
    fn memory_outlives_its_region() {
        let pinned = Region::new(PAGE).unwrap().alloc_from(b"still here").unwrap();
        assert_eq!(&*pinned.clone(), b"still here");
    }

    #[test]
    fn blocks_do_not_overlap() {
        let region = Region::new(1 << 16).unwrap();
        let sizes = [1, 47, 48, 49, 64, 1000, 5000];
        let made: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(at, &len)| region.alloc_from(&vec![at as u8; len]).unwrap())
            .collect();
        for (at, pinned) in made.iter().enumerate() {
            assert!(pinned.iter().all(|&byte| byte == at as u8), "block {at}");
        }
    }
}
