//! Channels between the tasks of one thread, with back-pressure.
//!
//! ```
//! use ember::channel;
//! use ember::testing::Client;
//! use ember::{App, Request};
//!
//! async fn sum(_: &Request) -> String {
//!     let (sender, mut receiver) = channel::bounded(2);
//!     ember::spawn(async move {
//!         for number in 1..=10 {
//!             if sender.send(number).await.is_err() {
//!                 return; // nobody receives any more
//!             }
//!         }
//!     });
//!     let mut sum = 0;
//!     while let Some(number) = receiver.recv().await {
//!         sum += number;
//!     }
//!     sum.to_string()
//! }
//!
//! assert_eq!(Client::new(App::new().get("/", sum)).get("/").text(), "55");
//! ```

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The end that values go into. There may be several.
pub struct Sender<T>(Rc<RefCell<State<T>>>);

/// The end that values come out of; also a [`futures_core::Stream`].
pub struct Receiver<T>(Rc<RefCell<State<T>>>);

/// The receiver is gone; here is the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed<T>(pub T);

struct State<T> {
    values: VecDeque<T>,
    capacity: usize,
    senders: usize,
    is_received: bool,
    receiver: Option<Waker>,
    waiting: Vec<Waker>,
}

/// A channel that holds this many values at most; whoever sends more waits.
///
/// # Panics
/// When that is none.
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel holds at least one value");
    let state = State {
        values: VecDeque::new(),
        capacity,
        senders: 1,
        is_received: true,
        receiver: None,
        waiting: Vec::new(),
    };
    let state = Rc::new(RefCell::new(state));
    (Sender(Rc::clone(&state)), Receiver(state))
}

impl<T> Sender<T> {
    /// Sends, when there is room.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), Closed<T>> {
        let mut value = Some(value);
        poll_fn(|cx| {
            let mut state = self.0.borrow_mut();
            if state.is_received && state.values.len() >= state.capacity {
                state.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            drop(state);
            Poll::Ready(value.take().map_or(Ok(()), |value| self.try_send(value)))
        })
        .await
    }

    /// Sends if there is room, and gives the value back otherwise.
    ///
    /// # Errors
    /// When there is no room, or the receiver is gone.
    pub fn try_send(&self, value: T) -> Result<(), Closed<T>> {
        let receiver = {
            let mut state = self.0.borrow_mut();
            if !state.is_received || state.values.len() >= state.capacity {
                return Err(Closed(value));
            }
            state.values.push_back(value);
            state.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.0.borrow().is_received
    }
}

impl<T> Receiver<T> {
    /// The next value; `None` when all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The same for a hand-written future.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.borrow_mut();
        if let Some(value) = state.values.pop_front() {
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
            return Poll::Ready(Some(value));
        }
        if state.senders == 0 {
            return Poll::Ready(None);
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> futures_core::Stream for Receiver<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.poll_recv(cx)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.borrow_mut().senders += 1;
        Sender(Rc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut state = self.0.borrow_mut();
            state.senders -= 1;
            if state.senders == 0 { state.receiver.take() } else { None }
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (values, waiting) = {
            let mut state = self.0.borrow_mut();
            state.is_received = false;
            (std::mem::take(&mut state.values), std::mem::take(&mut state.waiting))
        };
        drop(values);
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queued", &self.0.borrow().values.len()).finish()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.0.borrow().values.len()).finish()
    }
}

impl<T> fmt::Display for Closed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no room, or nobody receives")
    }
}

impl<T: fmt::Debug> std::error::Error for Closed<T> {}
