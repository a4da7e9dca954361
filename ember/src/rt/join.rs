//! Waiting for a spawned task.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use super::Inner;

/// The end of a task to be waited for. Dropping it leaves the task running.
pub struct JoinHandle<T>(Rc<RefCell<Outcome<T>>>);

/// The task was aborted, or panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted;

struct Outcome<T> {
    state: State<T>,
    /// Of the one who joins.
    joiner: Option<Waker>,
    /// Of the task itself, to end it.
    task: Option<Waker>,
}

enum State<T> {
    Running,
    Aborting,
    Done(Option<T>),
    Gone,
}

struct Task<T, F> {
    future: F,
    outcome: Reporter<T>,
}

/// Tells the joiner that the task is gone, however that came.
struct Reporter<T>(Weak<RefCell<Outcome<T>>>);

pub(super) fn spawn<T: 'static>(
    inner: &Inner,
    future: impl Future<Output = T> + 'static,
) -> JoinHandle<T> {
    let outcome = Outcome { state: State::Running, joiner: None, task: None };
    let outcome = Rc::new(RefCell::new(outcome));
    let reporter = Reporter(Rc::downgrade(&outcome));
    let mut task = Task { future: Some(Box::pin(future)), outcome: reporter };
    let id = inner.spawn(Box::pin(std::future::poll_fn(move |cx| task.poll(cx))));
    outcome.borrow_mut().task = Some(inner.waker(id));
    JoinHandle(outcome)
}

impl<T, F: Future<Output = T>> Task<T, Option<Pin<Box<F>>>> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        if self.outcome.is_aborting() {
            self.future = None;
            return Poll::Ready(());
        }
        let polled = future.as_mut().poll(cx);
        polled.map(|value| {
            self.future = None;
            self.outcome.report(State::Done(Some(value)));
        })
    }
}

impl<T> Reporter<T> {
    fn is_aborting(&self) -> bool {
        self.0.upgrade().is_some_and(|outcome| matches!(outcome.borrow().state, State::Aborting))
    }

    fn report(&self, state: State<T>) {
        let Some(outcome) = self.0.upgrade() else { return };
        let joiner = {
            let mut outcome = outcome.borrow_mut();
            outcome.state = state;
            outcome.task = None;
            outcome.joiner.take()
        };
        if let Some(joiner) = joiner {
            joiner.wake();
        }
    }
}

impl<T> Drop for Reporter<T> {
    fn drop(&mut self) {
        let done = self.0.upgrade().is_some_and(|o| matches!(o.borrow().state, State::Done(_)));
        if !done {
            self.report(State::Gone);
        }
    }
}

impl<T> JoinHandle<T> {
    /// Ends the task at its next suspension: its future is dropped.
    pub fn abort(&self) {
        let task = {
            let mut outcome = self.0.borrow_mut();
            if !matches!(outcome.state, State::Running) {
                return;
            }
            outcome.state = State::Aborting;
            outcome.task.clone()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.0.borrow().state, State::Done(_) | State::Gone)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut outcome = self.0.borrow_mut();
        match &mut outcome.state {
            State::Running | State::Aborting => {
                outcome.joiner = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Done(value) => Poll::Ready(value.take().ok_or(Aborted)),
            State::Gone => Poll::Ready(Err(Aborted)),
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task was aborted or panicked")
    }
}

impl std::error::Error for Aborted {}
