//! Wakers of the tasks of one thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Wake;

/// What wakers on other threads see of a runtime.
pub(crate) struct Shared {
    woken: Mutex<Vec<u32>>,
    /// The host has been told, and has not looked since.
    told: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// The waker of one place.
pub(crate) struct TaskWaker {
    id: u32,
    /// It stands in a queue.
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Shared {
    pub(crate) fn new(wake: Box<dyn Fn() + Send + Sync>) -> Shared {
        Shared { woken: Mutex::default(), told: AtomicBool::new(false), wake }
    }

    /// Moves what other threads have woken behind what is ready.
    pub(crate) fn take(&self, ready: &mut VecDeque<u32>) {
        // Whoever wakes after this tells the host again.
        if self.told.swap(false, Ordering::AcqRel) {
            ready.extend(self.woken.lock().unwrap_or_else(PoisonError::into_inner).drain(..));
        }
    }

    fn wake_from_afar(&self, id: u32) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        if !self.told.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

impl TaskWaker {
    pub(crate) fn new(id: u32, shared: Arc<Shared>) -> TaskWaker {
        TaskWaker { id, queued: AtomicBool::new(false), shared }
    }

    /// It has been taken from the queue.
    pub(crate) fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        // A thread that ends has no current runtime any more; then the long way is right too.
        let here = super::CURRENT
            .try_with(|current| match &*current.borrow() {
                Some(inner) if Arc::ptr_eq(&inner.shared, &self.shared) => {
                    inner.ready.borrow_mut().push_back(self.id);
                    true
                }
                _ => false,
            })
            .unwrap_or(false);
        if !here {
            self.shared.wake_from_afar(self.id);
        }
    }
}
