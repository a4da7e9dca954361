//! The way down: readiness first, then no new connections, then none at all.

use std::time::{Duration, Instant};

use super::door::{ClientId, Reply};
use super::run::Supervisor;
use crate::boot::Tell;
use tracing::info;

/// How long connections on which nothing is under way are kept when the server ends: long
/// enough for a request that its client has just sent.
const IDLE_GRACE: Duration = Duration::from_millis(500);

/// How the end goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Still serving, but saying "not ready", until then.
    Unready(Instant),
    /// All workers have been told to leave.
    Leaving,
}

impl Ending {
    /// The moment at which something is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        match self {
            Self::Unready(until) => Some(*until),
            Self::Leaving => None,
        }
    }
}

impl Supervisor {
    /// Begins to drain; asked a second time, cuts the drain short.
    pub(super) fn drain(&mut self, by: &str, client: Option<ClientId>) {
        let now = Instant::now();
        match self.ending {
            Some(Ending::Leaving) if client.is_none() => return self.stop(by),
            Some(Ending::Unready(_)) => self.leave(now),
            Some(Ending::Leaving) => {}
            None => {
                let unready_for =
                    self.serving().map_or(Duration::ZERO, |serving| serving.settings.unready_for);
                info!("draining, asked by {by}");
                self.systemd.stopping();
                self.abandon_change("the server is draining");
                if unready_for.is_zero() {
                    self.leave(now);
                } else {
                    self.ending = Some(Ending::Unready(now + unready_for));
                    for generation in &mut self.generations {
                        generation.tell(Tell::Unready, now);
                    }
                }
            }
        }
        if let Some(client) = client {
            let message = "draining".to_owned();
            self.answer(client, &Reply { ok: true, message, status: None });
        }
    }

    /// Ends every connection and leaves.
    pub(super) fn stop(&mut self, by: &str) {
        info!("stopping, asked by {by}");
        self.systemd.stopping();
        self.abandon_change("the server is stopping");
        self.tell_all_to_leave(Tell::Stop, Instant::now());
    }

    /// Does what is due on the way down.
    pub(super) fn go_on_ending(&mut self, now: Instant) {
        if matches!(self.ending, Some(Ending::Unready(until)) if until <= now) {
            self.leave(now);
        }
    }

    fn leave(&mut self, now: Instant) {
        let drain_timeout =
            self.serving().map_or(Duration::ZERO, |serving| serving.settings.drain_timeout);
        let deadline_ms = drain_timeout.as_millis().try_into().unwrap_or(u64::MAX);
        let idle_ms = IDLE_GRACE.min(drain_timeout / 2).as_millis().try_into().unwrap_or(0);
        self.tell_all_to_leave(Tell::Drain { idle_ms, deadline_ms }, now);
    }

    fn tell_all_to_leave(&mut self, tell: Tell, now: Instant) {
        self.ending = Some(Ending::Leaving);
        // While anybody holds a listening socket, the kernel goes on taking connections for it.
        // The workers close theirs when they stop accepting.
        self.sockets.close();
        for generation in &mut self.generations {
            generation.tell(tell, now);
        }
        self.sweep();
    }
}
