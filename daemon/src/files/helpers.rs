//! Threads that wait for disks, so that no ring does.
//!
//! A few for the whole process: what is asked for again and again is in memory, and they have
//! nothing to do. They are started before the process's other threads are bound to CPUs, and so may
//! run on any that the process may use.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use futures_channel::oneshot;

/// Disks answer in parallel; more than this seldom helps, and one slow file system should not hold
/// up all others.
const THREADS: usize = 4;
/// Their work is shallow.
const STACK: usize = 256 << 10;

type Work = Box<dyn FnOnce() + Send>;

static QUEUE: OnceLock<Sender<Work>> = OnceLock::new();

/// Starts them, once.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start() -> io::Result<()> {
    let (sender, receiver) = channel();
    if QUEUE.set(sender).is_err() {
        return Ok(());
    }
    let receiver: &'static Mutex<Receiver<Work>> = Box::leak(Box::new(Mutex::new(receiver)));
    for number in 0..THREADS {
        let name = format!("files-{number}");
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || run_all(receiver))?;
    }
    Ok(())
}

/// Has something done by a helper. Dropping the future does not stop it.
///
/// # Errors
/// What the work gave; `Other` where there are no helpers, or theirs panicked.
pub(super) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    begin(work).await.map_err(|_| lost())?
}

/// The same, as what is to be polled.
pub(super) fn begin<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> oneshot::Receiver<T> {
    let (sender, receiver) = oneshot::channel();
    let work: Work = Box::new(move || {
        // Whoever asked may be gone.
        let _ = sender.send(work());
    });
    if let Some(queue) = QUEUE.get() {
        // They never end, so there is somebody to take it.
        let _ = queue.send(work);
    }
    receiver
}

/// A helper did not give an answer.
pub(super) fn lost() -> io::Error {
    io::Error::other("a thread that reads files failed")
}

fn run_all(receiver: &Mutex<Receiver<Work>>) {
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // The panic has been told; the next file may do better.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    }
}
