//! The access log: one line a request, written off the hot path.
//!
//! A ring thread appends a record to a bounded buffer of its own, which is a copy of a few dozen
//! bytes and of the request's head; it never waits for the file. A writer thread takes the
//! buffers, makes lines and writes them. When a buffer is full its lines are dropped and counted
//! (`emberd_access_log_dropped_total`), and the requests go on.

mod lines;
mod record;
mod sink;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use ipnet::IpNet;

use crate::config::AccessLog as Settings;
use lines::Lines;
pub(crate) use record::Entry;
pub(crate) use sink::Sink;

/// How long a line may wait in a buffer that is not half full.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// The writer of one worker. The lines so far are written when it is dropped.
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

/// One ring thread's way to it.
pub(crate) struct Recorder {
    feed: Arc<Feed>,
    writer: Thread,
    /// Of 2^32 requests so many are logged.
    sample: u64,
    random: u64,
}

struct Shared {
    feeds: Mutex<Vec<Arc<Feed>>>,
    stop: AtomicBool,
    buffer_bytes: usize,
}

/// The records of one thread that have not been written.
struct Feed {
    records: Mutex<Vec<u8>>,
    capacity: usize,
    dropped: AtomicU64,
}

impl AccessLog {
    /// Starts the writer.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(
        settings: &Settings,
        sink: Sink,
        names: Vec<Vec<String>>,
        trusted: Vec<IpNet>,
    ) -> io::Result<AccessLog> {
        let buffer_bytes = usize::try_from(settings.buffer).unwrap_or(usize::MAX);
        let shared = Shared { feeds: Mutex::default(), stop: AtomicBool::new(false), buffer_bytes };
        let shared = Arc::new(shared);
        let lines = Lines::new(settings, names, trusted);
        let writer = thread::Builder::new().name("access-log".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || write_on(&shared, &lines, sink)
        })?;
        Ok(AccessLog { shared, writer: Some(writer) })
    }

    /// A recorder for a ring thread; `sample` is the part of the requests that is logged.
    pub(crate) fn recorder(&self, sample: f64, seed: u64) -> Recorder {
        let feed = Arc::new(Feed {
            records: Mutex::default(),
            capacity: self.shared.buffer_bytes,
            dropped: AtomicU64::new(0),
        });
        lock(&self.shared.feeds).push(Arc::clone(&feed));
        let writer = self.writer.as_ref().expect("it runs until it is dropped").thread().clone();
        let sample = (sample.clamp(0.0, 1.0) * f64::from(u32::MAX)).ceil() as u64;
        Recorder { feed, writer, sample, random: seed | 1 }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(writer) = self.writer.take() {
            writer.thread().unpark();
            // Its panic was told already.
            let _ = writer.join();
        }
    }
}

impl Recorder {
    /// Logs a request, or drops it where the buffer is full.
    pub(crate) fn record(&mut self, entry: &Entry<'_>) {
        if self.sample < u64::from(u32::MAX) {
            // Xorshift: which requests are logged must not follow from anything in them.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            if self.random & u64::from(u32::MAX) >= self.sample {
                return;
            }
        }
        let mut records = lock(&self.feed.records);
        let before = records.len();
        entry.encode(&mut records);
        if records.len() > self.feed.capacity {
            records.truncate(before);
            self.feed.dropped.fetch_add(u64::from(entry.count), Ordering::Relaxed);
        } else if before < self.feed.capacity / 2 && records.len() >= self.feed.capacity / 2 {
            drop(records);
            self.writer.unpark();
        }
    }

    /// Lines dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        self.feed.dropped.swap(0, Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address as lines tell it; `unix` for a client that has none.
fn told(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "unix".to_owned(), |address| address.to_string())
}

fn write_on(shared: &Shared, lines: &Lines, mut sink: Sink) {
    let mut records = Vec::new();
    let mut out = Vec::new();
    loop {
        let stop = shared.stop.load(Ordering::Acquire);
        let feeds: Vec<_> = lock(&shared.feeds).clone();
        for feed in feeds {
            records.clear();
            // The buffers change places: neither side allocates once they have grown.
            std::mem::swap(&mut *lock(&feed.records), &mut records);
            lines.make(&records, &mut out);
            if let Err(error) = sink.write(&out) {
                tracing::warn!("the access log: {error}; its lines are lost");
            }
            out.clear();
        }
        if stop {
            return;
        }
        thread::park_timeout(FLUSH_EVERY);
    }
}
