//! What proxies and rules count. Handlers have no hold of their thread's page of counters: they leave notes,
//! which the thread's loop writes down before it enters the kernel again.

use std::cell::RefCell;

use ember_metrics::Key;

/// One thing to be written down.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    /// One more.
    Count(Key),
    /// It stands so now.
    Set(Key, i64),
}

thread_local! {
    static NOTES: RefCell<Vec<Note>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn count(key: Key) {
    NOTES.with_borrow_mut(|notes| notes.push(Note::Count(key)));
}

pub(super) fn set(key: Key, value: i64) {
    NOTES.with_borrow_mut(|notes| notes.push(Note::Set(key, value)));
}

/// Hands all notes of this thread to `write`.
pub(crate) fn take_notes(write: impl FnMut(Note)) {
    NOTES.with_borrow_mut(|notes| notes.drain(..).for_each(write));
}
