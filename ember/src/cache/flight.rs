//! One fetch under way, and who waits for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::lock;

/// What came of a fetch.
#[derive(Debug)]
pub enum Landing<V> {
    /// The value.
    Value(Arc<V>),
    /// It is not cacheable: fetch it for yourself.
    Pass,
    /// The one who fetched gave up: look it up again.
    Gone,
}

pub(super) struct Flight<V>(Mutex<State<V>>);

enum State<V> {
    /// The wakers of those who wait, each at its place.
    Airborne(Vec<Option<Waker>>),
    Landed(Landing<V>),
}

/// Waits for somebody else's fetch. Wakers are those of the thread that waits, so that it is woken
/// wherever the fetch ends.
#[must_use = "a wait does nothing unless it is awaited"]
pub struct Wait<V> {
    flight: Arc<Flight<V>>,
    place: Option<usize>,
}

impl<V> Flight<V> {
    pub(super) fn new() -> Flight<V> {
        Flight(Mutex::new(State::Airborne(Vec::new())))
    }

    /// Tells everybody.
    pub(super) fn land(&self, landing: Landing<V>) {
        let before = std::mem::replace(&mut *lock(&self.0), State::Landed(landing));
        if let State::Airborne(waiting) = before {
            waiting.into_iter().flatten().for_each(Waker::wake);
        }
    }
}

impl<V> Wait<V> {
    pub(super) fn new(flight: Arc<Flight<V>>) -> Wait<V> {
        Wait { flight, place: None }
    }
}

impl<V> Future for Wait<V> {
    type Output = Landing<V>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landing<V>> {
        let this = &mut *self;
        match &mut *lock(&this.flight.0) {
            State::Landed(landing) => Poll::Ready(landing.clone()),
            State::Airborne(waiting) => {
                let place = *this.place.get_or_insert_with(|| {
                    waiting.push(None);
                    waiting.len() - 1
                });
                match &mut waiting[place] {
                    Some(waker) => waker.clone_from(cx.waker()),
                    empty => *empty = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl<V> Drop for Wait<V> {
    fn drop(&mut self) {
        if let (Some(place), State::Airborne(waiting)) = (self.place, &mut *lock(&self.flight.0)) {
            waiting[place] = None;
        }
    }
}

impl<V> Clone for Landing<V> {
    fn clone(&self) -> Self {
        match self {
            Landing::Value(value) => Landing::Value(Arc::clone(value)),
            Landing::Pass => Landing::Pass,
            Landing::Gone => Landing::Gone,
        }
    }
}

impl<V> fmt::Debug for Wait<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("place", &self.place).finish_non_exhaustive()
    }
}
