//! Deadlines that are seldom met.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ember::time::{self, Sleep};

use super::clock;

/// Ends waits that take too long. A timer is set once and left alone while the deadline moves on:
/// when it comes up too early it is set again, which on a busy connection is rare.
#[derive(Default)]
pub(super) struct Watch {
    deadline_ms: u64,
    timer: Option<(Sleep, u64)>,
}

impl Watch {
    /// From now on, waiting may take this long.
    pub(super) fn start(&mut self, limit: Duration) {
        self.deadline_ms = clock::now_ms().saturating_add(limit.as_millis() as u64);
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now_ms = clock::now_ms();
            let left_ms = self.deadline_ms.saturating_sub(now_ms);
            match &mut self.timer {
                _ if left_ms == 0 => return Poll::Ready(()),
                Some((sleep, up_ms)) if *up_ms <= self.deadline_ms => {
                    if Pin::new(sleep).poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    self.timer = None;
                }
                _ => {
                    let sleep = time::sleep(Duration::from_millis(left_ms));
                    self.timer = Some((sleep, self.deadline_ms));
                }
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("deadline_ms", &self.deadline_ms).finish_non_exhaustive()
    }
}
