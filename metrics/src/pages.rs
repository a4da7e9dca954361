//! Counter pages: per thread an append-only table of (key, value) in shared memory.
//!
//! The supervisor creates the memory and hands its descriptor to the workers. Each page has one
//! writer at a time, the thread that was given its number; anyone may read all of them at any
//! time. There is no lock: a word is written by one thread with plain relaxed stores, and an
//! entry's key is published by a release store of the page's count of entries.
//!
//! A page holds a bounded number of entries. What finds it full is counted in an entry of its
//! family in which every label says `other`; those entries are reserved at the head of the page.
//! The `route` of the hottest series is therefore known as long as routes are registered before
//! traffic makes others.
//!
//! Layout, in 64-bit words: a head of 8 words (mark, threads, capacity, turn of the board), then
//! one count a page; from the next 4 KiB boundary on the pages, `capacity` pairs of key and value
//! each, every page beginning on a 4 KiB boundary; at the end the two slots of the [`Board`].
//! Memory that was never used is never touched, so never resident.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::board::{self, Board};
use crate::catalogue::{BUCKETS_NS, CATALOGUE, Family, Kind};
use crate::key::{Key, PART_SUM};
use crate::shared::Words;

/// "EMBER" and the version of the layout. A reader refuses any other.
const MARK: u64 = u64::from_be_bytes(*b"EMBER\0\0\x01");
const HEAD_WORDS: usize = 8;
const TURN_WORD: usize = 3;
const BOUNDARY_WORDS: usize = 4096 / size_of::<u64>();

/// Entries a page has when nothing else is asked for: 64 KiB of address space a thread.
pub const CAPACITY_DEFAULT: usize = 4096;
/// Most entries a page may have.
pub const CAPACITY_MAX: usize = 1 << 20;
/// Most pages a memory may have.
pub const PAGES_MAX: usize = 1 << 14;

/// Entries at the head of a page that take what it has no room for.
const RESERVED: usize = reserved();
const HISTOGRAM_ENTRIES: usize = PART_SUM as usize + 1;

/// The counter memory of a server.
#[derive(Debug)]
pub struct Pages {
    shared: Arc<Words>,
    layout: Layout,
    /// Which pages have a writer in this process.
    taken: Arc<[AtomicBool]>,
}

/// The writer of one page. It belongs to one thread.
#[derive(Debug)]
pub struct Page {
    shared: Arc<Words>,
    /// Index of the word that counts this page's entries.
    count_at: usize,
    /// Index of the word at which its entries begin.
    entries_at: usize,
    capacity: usize,
    /// Where each key is; a histogram by its first part.
    found: HashMap<Key, u32>,
    taken: Arc<[AtomicBool]>,
    index: usize,
    /// Two threads that add to one word would lose counts: not Sync.
    one_thread: PhantomData<Cell<()>>,
}

/// Where a counter is in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u32);

/// Where a gauge is in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge(u32);

/// Where a histogram begins in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram(u32);

#[derive(Clone, Copy, Debug)]
struct Layout {
    threads: usize,
    capacity: usize,
}

impl Pages {
    /// New memory for so many threads with so many entries each. Entries cost 16 bytes when
    /// they are used, nothing before.
    ///
    /// # Errors
    /// Numbers beyond [`PAGES_MAX`] or [`CAPACITY_MAX`] or too small to work with, or the
    /// system's refusal of a memfd.
    pub fn create(threads: usize, capacity: usize) -> io::Result<Self> {
        let layout = Layout::new(threads, capacity).ok_or_else(|| {
            let why = format!("no counter pages of {threads} threads with {capacity} entries");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        let shared = Words::create("emberd-counters", layout.words())?;
        shared[1].store(threads as u64, Ordering::Relaxed);
        shared[2].store(capacity as u64, Ordering::Relaxed);
        shared[0].store(MARK, Ordering::Release);
        Ok(Self::new(shared, layout))
    }

    /// The memory that another process, or this one before an upgrade, has created.
    ///
    /// # Errors
    /// `InvalidData` where the descriptor is of anything else, or of another layout.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let shared = Words::from_fd(fd)?;
        let word = |index: usize| shared.get(index).map_or(0, |word| word.load(Ordering::Acquire));
        let number = |index| usize::try_from(word(index)).unwrap_or(usize::MAX);
        let layout = (word(0) == MARK).then(|| Layout::new(number(1), number(2))).flatten();
        match layout {
            Some(layout) if layout.words() == shared.len() => Ok(Self::new(shared, layout)),
            _ => {
                let why = "the memory is not counter pages of this layout";
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }

    /// The descriptor to hand to other processes.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.as_fd()
    }

    /// How many pages there are.
    pub fn threads(&self) -> usize {
        self.layout.threads
    }

    /// How many entries each page can hold.
    pub fn capacity(&self) -> usize {
        self.layout.capacity
    }

    /// The writer of a page. A thread that takes the place of another goes on with its counters;
    /// gauges begin at zero again, since what they told of went with the other thread.
    ///
    /// A page must have one writer at a time over all processes: two would lose counts. Within a
    /// process this is checked; over processes the supervisor sees to it by giving pages out.
    ///
    /// # Errors
    /// `InvalidInput` for a page that is not there, `ResourceBusy` for one that has a writer.
    pub fn page(&self, index: usize) -> io::Result<Page> {
        let Some(taken) = self.taken.get(index) else {
            let why = format!("no counter page {index}: there are {}", self.layout.threads);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        };
        if taken.swap(true, Ordering::AcqRel) {
            let why = format!("counter page {index} has a writer already");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        let mut page = Page {
            shared: Arc::clone(&self.shared),
            count_at: HEAD_WORDS + index,
            entries_at: self.layout.entries_at(index),
            capacity: self.layout.capacity,
            found: HashMap::new(),
            taken: Arc::clone(&self.taken),
            index,
            one_thread: PhantomData,
        };
        page.resume();
        Ok(page)
    }

    /// Sets the gauges of a page to zero, for the supervisor to call when the page's writer died
    /// and no other takes its place.
    pub fn reset_gauges(&self, index: usize) {
        for entry in self.entries(index) {
            if Key::from_bits(entry[0].load(Ordering::Relaxed)).is_kind(Kind::Gauge) {
                entry[1].store(0, Ordering::Relaxed);
            }
        }
    }

    /// The sum of a family of counters or gauges over some pages, whatever the labels.
    pub fn sum(&self, family: Family, pages: impl IntoIterator<Item = usize>) -> i64 {
        let entries = pages.into_iter().flat_map(|index| self.entries(index));
        let values = entries.map(|[key, value]| {
            let of_family = Key::from_bits(key.load(Ordering::Relaxed)).family() == Some(family);
            if of_family { value.load(Ordering::Relaxed) } else { 0 }
        });
        values.fold(0, u64::wrapping_add).cast_signed()
    }

    /// Puts a board up in place of the one before. For one process to call, the supervisor: at
    /// start, when names or processes change, and when a fact does.
    ///
    /// # Errors
    /// `InvalidInput` for a board of more than [`crate::BOARD_BYTES_MAX`]; the old one stays.
    pub fn post(&self, board: &Board) -> io::Result<()> {
        let slots = &self.shared[self.layout.board_at()..];
        if board::write(&self.shared[TURN_WORD], slots, &board.to_text()) {
            return Ok(());
        }
        let why = "the names and facts of the metrics are too many to share";
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }

    /// The board as it is now; an empty one where none was put up.
    pub fn board(&self) -> Board {
        let slots = &self.shared[self.layout.board_at()..];
        let text = board::read(&self.shared[TURN_WORD], slots);
        text.and_then(|text| Board::from_text(&text)).unwrap_or_default()
    }

    /// The published entries of a page. Touches no memory beyond them.
    pub(crate) fn entries(&self, index: usize) -> impl Iterator<Item = &[AtomicU64; 2]> {
        let published = match self.shared.get(HEAD_WORDS + index) {
            Some(count) if index < self.layout.threads => count.load(Ordering::Acquire),
            _ => 0,
        };
        let count = usize::try_from(published).unwrap_or(usize::MAX).min(self.layout.capacity);
        let at = self.layout.entries_at(index.min(self.layout.threads - 1));
        self.shared[at..at + 2 * count].as_chunks().0.iter()
    }

    fn new(shared: Words, layout: Layout) -> Self {
        let taken = (0..layout.threads).map(|_| AtomicBool::new(false)).collect();
        Self { shared: Arc::new(shared), layout, taken }
    }
}

impl Page {
    /// The counter of a key, made now if it was not there.
    pub fn counter(&mut self, key: Key) -> Counter {
        debug_assert!(key.is_kind(Kind::Counter), "{key:?} is no counter");
        Counter(self.find_or_append(key, 1))
    }

    /// The gauge of a key, made now if it was not there.
    pub fn gauge(&mut self, key: Key) -> Gauge {
        debug_assert!(key.is_kind(Kind::Gauge), "{key:?} is no gauge");
        Gauge(self.find_or_append(key, 1))
    }

    /// The histogram of a key, made now if it was not there.
    pub fn histogram(&mut self, key: Key) -> Histogram {
        debug_assert!(key.is_kind(Kind::Histogram), "{key:?} is no histogram");
        Histogram(self.find_or_append(key, HISTOGRAM_ENTRIES))
    }

    /// Adds to a counter: one relaxed load and one relaxed store.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        self.add_at(counter.0, n);
    }

    /// Sets a counter that somebody else counts, such as the kernel. It must not go down.
    #[inline]
    pub fn set_counter(&self, counter: Counter, value: u64) {
        self.value(counter.0).store(value, Ordering::Relaxed);
    }

    /// Adds one to a gauge.
    #[inline]
    pub fn up(&self, gauge: Gauge) {
        self.add_at(gauge.0, 1);
    }

    /// Takes one from a gauge.
    #[inline]
    pub fn down(&self, gauge: Gauge) {
        self.add_at(gauge.0, u64::MAX);
    }

    /// Sets a gauge.
    #[inline]
    pub fn set(&self, gauge: Gauge, value: i64) {
        self.value(gauge.0).store(value.cast_unsigned(), Ordering::Relaxed);
    }

    /// Counts one duration.
    #[inline]
    pub fn observe(&self, histogram: Histogram, duration_ns: u64) {
        self.observe_many(histogram, duration_ns, 1);
    }

    /// Counts `n` events that took the same time each.
    #[inline]
    pub fn observe_many(&self, histogram: Histogram, duration_ns: u64, n: u64) {
        let bucket = BUCKETS_NS.partition_point(|&bound_ns| bound_ns < duration_ns) as u32;
        self.add_at(histogram.0 + bucket, n);
        self.add_at(histogram.0 + u32::from(PART_SUM), duration_ns.wrapping_mul(n));
    }

    /// What a counter stands at, as a base for counts that begin at zero with each writer:
    /// `page.set_counter(counter, base + stats.enters)`.
    pub fn value_of(&self, counter: Counter) -> u64 {
        self.value(counter.0).load(Ordering::Relaxed)
    }

    #[inline]
    fn add_at(&self, entry: u32, n: u64) {
        let value = self.value(entry);
        value.store(value.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    fn value(&self, entry: u32) -> &AtomicU64 {
        &self.shared[self.entries_at + 2 * entry as usize + 1]
    }

    fn key(&self, entry: usize) -> &AtomicU64 {
        &self.shared[self.entries_at + 2 * entry]
    }

    fn count(&self) -> usize {
        self.shared[self.count_at].load(Ordering::Relaxed) as usize
    }

    fn find_or_append(&mut self, key: Key, entries: usize) -> u32 {
        if let Some(&entry) = self.found.get(&key) {
            return entry;
        }
        let at = self.count();
        let entry = if at + entries <= self.capacity {
            self.append(key, entries);
            at as u32
        } else {
            self.found[&Key::overflow(key.family().unwrap_or(Family::HttpRequests))]
        };
        self.found.insert(key, entry);
        entry
    }

    /// Writes keys first and the count last, so that no reader sees a value without its key.
    fn append(&mut self, key: Key, entries: usize) {
        let at = self.count();
        for part in 0..entries {
            let key = if entries == 1 { key } else { key.with_part(part as u8) };
            self.key(at + part).store(key.to_bits(), Ordering::Relaxed);
            self.value((at + part) as u32).store(0, Ordering::Relaxed);
        }
        self.found.insert(key, at as u32);
        self.shared[self.count_at].store((at + entries) as u64, Ordering::Release);
    }

    /// Takes up what an earlier writer left; begins anew where that makes no sense.
    fn resume(&mut self) {
        if !self.read_back() || !self.reserve() {
            self.found.clear();
            self.shared[self.count_at].store(0, Ordering::Release);
            self.reserve();
        }
    }

    /// Whether every entry is whole. Gauges are set to zero on the way.
    fn read_back(&mut self) -> bool {
        let count = self.count();
        if count > self.capacity {
            return false;
        }
        let mut at = 0;
        while at < count {
            let mut key = Key::from_bits(self.key(at).load(Ordering::Relaxed));
            let Some(family) = key.family() else {
                // A newer version wrote it, before a downgrade.
                at += 1;
                continue;
            };
            let kind = family.description().kind;
            let entries = entries_of(kind);
            if kind == Kind::Histogram {
                key = key.split_part().0;
                let whole = (0..entries).all(|part| {
                    at + part < count
                        && self.key(at + part).load(Ordering::Relaxed)
                            == key.with_part(part as u8).to_bits()
                });
                if !whole {
                    return false;
                }
            }
            if kind == Kind::Gauge {
                self.value(at as u32).store(0, Ordering::Relaxed);
            }
            self.found.insert(key, at as u32);
            at += entries;
        }
        true
    }

    /// Sees to it that each family has its overflow entry: a page of an older version lacks
    /// those of newer families. False where there is no room.
    fn reserve(&mut self) -> bool {
        CATALOGUE.iter().all(|line| {
            let (key, entries) = (Key::overflow(line.family), entries_of(line.kind));
            if !self.found.contains_key(&key) && self.count() + entries <= self.capacity {
                self.append(key, entries);
            }
            self.found.contains_key(&key)
        })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.taken[self.index].store(false, Ordering::Release);
    }
}

impl Layout {
    fn new(threads: usize, capacity: usize) -> Option<Self> {
        let possible = (1..=PAGES_MAX).contains(&threads)
            && (RESERVED + HISTOGRAM_ENTRIES..=CAPACITY_MAX).contains(&capacity);
        possible.then_some(Self { threads, capacity })
    }

    fn page_words(self) -> usize {
        (2 * self.capacity).next_multiple_of(BOUNDARY_WORDS)
    }

    fn entries_at(self, index: usize) -> usize {
        (HEAD_WORDS + self.threads).next_multiple_of(BOUNDARY_WORDS) + index * self.page_words()
    }

    fn words(self) -> usize {
        self.board_at() + 2 * board::SLOT_WORDS
    }

    fn board_at(self) -> usize {
        self.entries_at(self.threads)
    }
}

const fn entries_of(kind: Kind) -> usize {
    match kind {
        Kind::Counter | Kind::Gauge => 1,
        Kind::Histogram => HISTOGRAM_ENTRIES,
    }
}

const fn reserved() -> usize {
    let mut entries = 0;
    let mut family = 0;
    while family < CATALOGUE.len() {
        entries += entries_of(CATALOGUE[family].kind);
        family += 1;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Method, PathKind};
    use crate::names::NameId;

    fn total(pages: &Pages, key: Key) -> u64 {
        let entries = (0..pages.threads()).flat_map(|index| pages.entries(index));
        let of_key = entries.filter(|entry| entry[0].load(Ordering::Relaxed) == key.to_bits());
        of_key.map(|entry| entry[1].load(Ordering::Relaxed)).sum()
    }

    fn requests(route: u16) -> Key {
        Key::http_requests(NameId(route), Method::Get, 200, PathKind::Prepared)
    }

    #[test]
    fn a_successor_goes_on_with_the_counters_but_not_the_gauges() {
        let pages = Pages::create(2, 512).unwrap();
        let active = Key::connections_active(NameId(3), 0);
        let duration = Key::http_request_duration(NameId(9), PathKind::Prepared);
        let mut page = pages.page(1).unwrap();
        let (counter, gauge) = (page.counter(requests(9)), page.gauge(active));
        let histogram = page.histogram(duration);
        page.add(counter, 40);
        page.up(gauge);
        page.observe(histogram, 10_000);
        drop(page);

        let there = Pages::from_fd(pages.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut page = there.page(1).unwrap();
        assert_eq!(page.counter(requests(9)), counter);
        assert_eq!(page.histogram(duration), histogram);
        page.add(counter, 2);
        page.observe(histogram, 10_001);
        assert_eq!(total(&pages, requests(9)), 42);
        assert_eq!(total(&pages, active), 0);
        assert_eq!(total(&pages, duration.with_part(0)), 1);
        assert_eq!(total(&pages, duration.with_part(1)), 1);
        assert_eq!(total(&pages, duration.with_part(PART_SUM)), 20_001);
    }

    #[test]
    fn a_page_has_one_writer() {
        let pages = Pages::create(1, 512).unwrap();
        let first = pages.page(0).unwrap();
        assert_eq!(pages.page(0).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        pages.page(0).unwrap();
        assert_eq!(pages.page(1).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_full_page_counts_in_the_overflow_entry() {
        let pages = Pages::create(1, RESERVED + HISTOGRAM_ENTRIES + 3).unwrap();
        let mut page = pages.page(0).unwrap();
        for route in 0..200 {
            let counter = page.counter(requests(route));
            page.add(counter, 1);
        }
        let own: u64 = (0..200).map(|route| total(&pages, requests(route))).sum();
        assert_eq!(own, HISTOGRAM_ENTRIES as u64 + 3);
        assert_eq!(own + total(&pages, Key::overflow(Family::HttpRequests)), 200);
        let duration = page.histogram(Key::http_request_duration(NameId(5), PathKind::Files));
        page.observe_many(duration, u64::MAX, 3);
        let overflow = Key::overflow(Family::HttpRequestDuration);
        assert_eq!(total(&pages, overflow.with_part(PART_SUM - 1)), 3);
    }

    #[test]
    fn gauges_go_up_and_down_over_threads() {
        let pages = Pages::create(2, 512).unwrap();
        let key = Key::http_requests_in_flight();
        let (mut one, mut two) = (pages.page(0).unwrap(), pages.page(1).unwrap());
        let (a, b) = (one.gauge(key), two.gauge(key));
        one.set(a, 5);
        two.down(b);
        let sum = pages.entries(0).chain(pages.entries(1));
        let sum = sum.filter(|entry| entry[0].load(Ordering::Relaxed) == key.to_bits());
        let sum = sum.fold(0u64, |sum, entry| sum.wrapping_add(entry[1].load(Ordering::Relaxed)));
        assert_eq!(sum.cast_signed(), 4);
        pages.reset_gauges(0);
        pages.reset_gauges(1);
        assert_eq!(total(&pages, key), 0);
    }

    #[test]
    fn damage_is_survived() {
        let pages = Pages::create(2, 512).unwrap();
        let mut page = pages.page(0).unwrap();
        let counter = page.counter(requests(1));
        page.add(counter, 1);
        drop(page);
        let counts = [u64::MAX, 1 << 40, 513, 512, 30, 0];
        for count in counts {
            pages.shared[HEAD_WORDS].store(count, Ordering::Relaxed);
            assert!(pages.entries(0).count() <= 512);
            let mut page = pages.page(0).unwrap();
            let counter = page.counter(requests(1));
            page.add(counter, 1);
            drop(page);
            assert!(total(&pages, requests(1)) >= 1, "{count}");
        }
        for word in 0..pages.shared.len() {
            let noise = (word as u64).wrapping_mul(0x0001_0203_0405_0607);
            pages.shared[word].store(noise, Ordering::Relaxed);
        }
        assert!(pages.entries(0).count() <= 512);
        pages.reset_gauges(0);
        crate::scrape(&pages, crate::Format::OpenMetrics);
        pages.page(0).unwrap();
        let again = Pages::from_fd(pages.as_fd().try_clone_to_owned().unwrap());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn other_layouts_are_refused() {
        let pages = Pages::create(3, 512).unwrap();
        for (word, value) in [(0, MARK + 1), (1, 2), (1, 4), (1, u64::MAX), (2, 1 << 20), (2, 0)] {
            let before = pages.shared[word].swap(value, Ordering::Relaxed);
            let again = Pages::from_fd(pages.as_fd().try_clone_to_owned().unwrap());
            assert_eq!(again.unwrap_err().kind(), io::ErrorKind::InvalidData);
            pages.shared[word].store(before, Ordering::Relaxed);
        }
        assert!(Pages::create(0, 512).is_err() && Pages::create(1, 1).is_err());
        assert!(Pages::create(usize::MAX, usize::MAX).is_err());
    }
}
