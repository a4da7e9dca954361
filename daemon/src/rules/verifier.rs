//! Threads that verify passwords, so that no ring computes for a tenth of a second.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use futures_channel::oneshot;

use super::password::Hash;

/// Guessing costs the machine so many CPUs at most.
const THREADS: usize = 2;
/// Who comes when so many wait is told to come again.
const WAITING_MAX: usize = 128;
const STACK: usize = 256 << 10;

/// One password to be verified.
pub(super) struct Work {
    pub(super) hash: Hash,
    pub(super) password: Vec<u8>,
    /// What it is remembered by.
    pub(super) digest: [u8; 32],
    pub(super) answer: oneshot::Sender<bool>,
}

/// Digests of what was right. When there are too many, it begins anew.
#[derive(Debug, Default)]
pub(super) struct Remembered(HashSet<[u8; 32]>);

static QUEUE: OnceLock<SyncSender<Work>> = OnceLock::new();

/// Starts them, once.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start() -> io::Result<()> {
    let (sender, receiver) = sync_channel(WAITING_MAX);
    if QUEUE.set(sender).is_err() {
        return Ok(());
    }
    let receiver: &'static Mutex<Receiver<Work>> = Box::leak(Box::new(Mutex::new(receiver)));
    for number in 0..THREADS {
        let name = format!("passwords-{number}");
        thread::Builder::new().name(name).stack_size(STACK).spawn(move || verify_all(receiver))?;
    }
    Ok(())
}

/// Has a password verified; false where too many wait.
pub(super) fn begin(work: Work) -> bool {
    QUEUE.get().is_some_and(|queue| queue.try_send(work).is_ok())
}

fn verify_all(receiver: &Mutex<Receiver<Work>>) {
    // Many connections may bring the same right password before the first is verified.
    let mut right = Remembered::default();
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // Whoever asked may be gone: nothing is computed for them.
        if work.answer.is_canceled() {
            continue;
        }
        let known = right.has(&work.digest);
        let is_right = known || work.hash.verify(&work.password);
        if is_right && !known {
            right.add(work.digest);
        }
        let _ = work.answer.send(is_right);
    }
}

impl Remembered {
    const MAX: usize = 4096;

    pub(super) fn has(&self, digest: &[u8; 32]) -> bool {
        self.0.contains(digest)
    }

    pub(super) fn add(&mut self, digest: [u8; 32]) {
        if self.0.len() >= Self::MAX {
            self.0.clear();
        }
        self.0.insert(digest);
    }
}
