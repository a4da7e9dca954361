//! Timers of the worker thread, in steps of a millisecond.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::rt::{self, Inner, TimerKey};

/// A wait; see [`sleep`].
#[must_use = "a wait does nothing unless it is awaited"]
pub struct Sleep {
    runtime: Rc<Inner>,
    deadline_ms: u64,
    timer: Option<TimerKey>,
}

/// A future did not end within its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for at least this long.
///
/// # Panics
/// Outside of a worker thread's handlers, tasks and hooks.
pub fn sleep(duration: Duration) -> Sleep {
    let runtime = rt::current();
    let wait_ms = u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX / 2);
    // The clock stands still within a turn: it may be almost a millisecond old.
    let more = u64::from(!duration.is_zero());
    let deadline_ms = runtime.now_ms().saturating_add(wait_ms).saturating_add(more);
    Sleep { runtime, deadline_ms, timer: None }
}

/// The future's output, or [`Elapsed`] if it does not end within this time. It is dropped then,
/// which ends its work.
///
/// # Errors
/// [`Elapsed`].
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = sleep(duration);
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed)),
    })
    .await
}

/// Lets the thread's other work go on before this future does.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.runtime.now_ms() >= self.deadline_ms {
            return Poll::Ready(());
        }
        match self.timer {
            Some(timer) => self.runtime.update_timer(timer, cx.waker()),
            None => {
                self.timer = Some(self.runtime.set_timer(self.deadline_ms, cx.waker().clone()));
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.runtime.cancel_timer(timer);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline_ms", &self.deadline_ms).finish_non_exhaustive()
    }
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time is over")
    }
}

impl std::error::Error for Elapsed {}
