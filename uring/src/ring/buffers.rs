//! The provided buffer ring: memory the kernel receives into.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::{BufRingEntry, IOU_PBUF_RING_INC};
use memmap2::{MmapMut, MmapOptions};

use crate::Buffer;

/// The one buffer group of a driver.
pub(super) const GROUP: u16 = 0;

/// All receive buffers of a driver.
///
/// Only as many as the traffic needs are with the kernel at a time: it hands them out in turn, and
/// so would touch every one of them sooner or later. The rest waits on a stack.
pub(super) struct Buffers {
    driver: u16,
    /// INVARIANT: `count` entries, shared with the kernel from registration on.
    entries: NonNull<BufRingEntry>,
    /// INVARIANT: `count * size` bytes. Buffer `id` is the kernel's from the moment its entry is
    /// published until a completion names it, and then its `Buffer`'s until that is given back.
    data: NonNull<u8>,
    _entries_map: MmapMut,
    _data_map: MmapMut,
    count: u16,
    size: u32,
    tail: u16,
    published: u16,
    /// Buffers that the kernel has, or will have at the next publishing.
    with_kernel: u16,
    /// How many it should have.
    target: u16,
    spare: Vec<u16>,
    /// With incremental use: how much of each buffer is taken. Empty without.
    parts: Vec<Part>,
}

/// A buffer that several receives share.
#[derive(Clone, Copy, Default)]
struct Part {
    /// Where the next receive will be.
    start: u32,
    /// Receives in it that have not been given back.
    lent: u32,
    /// The kernel is done with it.
    full: bool,
}

/// How many buffers the kernel is given at first.
const TARGET_MIN: u16 = 16;

impl Buffers {
    /// Maps the memory; nothing of it is touched yet.
    pub(super) fn new(driver: u16, count: u16, size: u32) -> io::Result<Buffers> {
        if !count.is_power_of_two() || count > 32768 || size == 0 {
            let why = "buffers must be a power of two, at most 32768, and their size above zero";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let entries_len = usize::from(count) * size_of::<BufRingEntry>();
        let mut entries_map = MmapOptions::new().len(entries_len).map_anon()?;
        let mut data_map = MmapOptions::new().len(usize::from(count) * size as usize).map_anon()?;
        let entries = NonNull::new(entries_map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        let data = NonNull::new(data_map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Buffers {
            driver,
            entries: entries.cast(),
            data,
            _entries_map: entries_map,
            _data_map: data_map,
            count,
            size,
            tail: 0,
            published: 0,
            with_kernel: 0,
            target: count.min(TARGET_MIN),
            spare: (0..count).rev().collect(),
            parts: Vec::new(),
        })
    }

    /// Makes the ring known to the kernel (since 5.19), for several receives to share a buffer if
    /// that is wanted (since 6.12). Whether they do.
    pub(super) fn register(&mut self, ring: &IoUring, incremental: bool) -> io::Result<bool> {
        let incremental = incremental && self.register_with(ring, IOU_PBUF_RING_INC as u16).is_ok();
        if incremental {
            self.parts = vec![Part::default(); usize::from(self.count)];
        } else {
            self.register_with(ring, 0)?;
        }
        self.refill();
        self.publish();
        Ok(incremental)
    }

    fn register_with(&mut self, ring: &IoUring, flags: u16) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        let submitter = ring.submitter();
        // SAFETY: The mapping holds `count` entries and stays until nothing is in flight, or for
        // ever: the driver joins every receive before it drops the buffers, or leaks them.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, flags) }
    }

    /// A completion has named this buffer: it is the caller's now. With incremental use the kernel
    /// may go on with `more` of it behind these bytes.
    #[inline]
    pub(super) fn take(&mut self, id: u16, len: u32, more: bool) -> Buffer {
        debug_assert!(self.with_kernel > 0 && id < self.count && len <= self.size);
        if let Some(part) = self.parts.get_mut(usize::from(id)) {
            let offset = part.start;
            part.start += len;
            part.lent += 1;
            part.full = !more;
            self.with_kernel -= u16::from(!more);
            return Buffer { driver: self.driver, id, offset, len };
        }
        self.with_kernel -= 1;
        Buffer { driver: self.driver, id, offset: 0, len }
    }

    /// The bytes of a buffer.
    #[inline]
    pub(super) fn bytes(&self, buffer: &Buffer) -> &[u8] {
        assert_eq!(buffer.driver, self.driver, "a buffer of another driver");
        let start = usize::from(buffer.id) * self.size as usize + buffer.offset as usize;
        // SAFETY: `id` and `offset` come from `take`, so the range lies within the data.
        let data = unsafe { self.data.add(start) };
        // SAFETY: The kernel has written these bytes and given the buffer up; it does not get it
        // back before `give_back` consumes the only `Buffer` of this name.
        unsafe { std::slice::from_raw_parts(data.as_ptr(), buffer.len as usize) }
    }

    /// Takes a buffer back; the kernel gets it at the next [`Buffers::publish`].
    #[inline]
    pub(super) fn give_back(&mut self, buffer: Buffer) {
        assert_eq!(buffer.driver, self.driver, "a buffer of another driver");
        if let Some(part) = self.parts.get_mut(usize::from(buffer.id)) {
            part.lent -= 1;
            if part.lent > 0 || !part.full {
                return;
            }
            *part = Part::default();
        }
        if self.with_kernel < self.target {
            self.add(buffer.id);
        } else {
            self.spare.push(buffer.id);
        }
    }

    /// Gives the kernel everything added since the last time, in one store.
    #[inline]
    pub(super) fn publish(&mut self) {
        if self.tail != self.published {
            self.published = self.tail;
            // SAFETY: The entries are mapped and the tail lies in the first of them.
            let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
            // SAFETY: The kernel reads the tail with acquire order; it is aligned and ours to write.
            let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// Buffers that a receive may find at the next turn.
    #[inline]
    pub(super) fn available(&self) -> usize {
        usize::from(self.with_kernel)
    }

    /// The kernel ran low or out: twice as many from now on, as far as there are any.
    #[cold]
    pub(super) fn grow(&mut self) {
        self.target = self.target.saturating_mul(2).min(self.count);
        self.refill();
    }

    /// Whether the kernel has less than half of what it should, so that the next burst might find
    /// nothing.
    #[inline]
    pub(super) fn is_low(&self) -> bool {
        self.with_kernel < self.target / 2 && !self.spare.is_empty()
    }

    fn refill(&mut self) {
        while self.with_kernel < self.target
            && let Some(id) = self.spare.pop()
        {
            self.add(id);
        }
    }

    #[inline]
    fn add(&mut self, id: u16) {
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: `at` is below `count`.
        let entry = unsafe { self.entries.add(at) };
        // SAFETY: The kernel does not read past the published tail, and no more than `count`
        // buffers exist, so this entry is not one it may still read.
        let entry = unsafe { &mut *entry.as_ptr() };
        let start = usize::from(id) * self.size as usize;
        entry.set_addr(self.data.as_ptr() as u64 + start as u64);
        entry.set_len(self.size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.with_kernel += 1;
    }
}
