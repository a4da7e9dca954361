//! Changing over from one generation to the next: a reload, or the second half of an upgrade.
//!
//! The order is what loses nothing: the new config is checked, what it listens on is bound, its
//! workers accept, and only then are the old ones told to leave. Until that moment everything
//! can be taken back.

use std::time::{Duration, Instant};

use super::door::{ClientId, Reply};
use super::generation::{Generation, Stage, State};
use super::run::Supervisor;
use super::settings::Settings;
use super::sockets::Mark;
use crate::boot::Tell;
use crate::log;
use tracing::{error, info, warn};

/// Generations that may be on their way out at a time; a change waits for the oldest when there
/// are more. Each is a whole set of processes.
pub(super) const LEAVING_MAX: usize = 4;

/// What systemd shows after a change that was refused.
const SERVES_AGAIN: &str = "a change was refused; the config before it is in force";

/// A change that is under way or has to wait.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: Kind,
    /// Who waits for its outcome.
    pub(super) clients: Vec<ClientId>,
    /// The state of the sockets before, once they have been touched.
    mark: Option<Mark>,
    pub(super) began: Instant,
}

/// What leads from one generation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server's start.
    Start,
    /// The config was read again.
    Reload,
    /// This program took over from another one.
    Upgrade,
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Upgrade => "upgrade",
        }
    }
}

impl Change {
    pub(super) fn new(kind: Kind, clients: Vec<ClientId>) -> Self {
        Self { kind, clients, mark: None, began: Instant::now() }
    }
}

impl Supervisor {
    /// Reads the config again and changes over to it, now or after the change that is under way.
    pub(super) fn reload(&mut self, by: &str, client: Option<ClientId>) {
        if self.ending.is_some() {
            return self.refuse(client, "the server is draining");
        }
        info!("reloading, asked by {by}");
        match &mut self.pending {
            // One reload after all who have asked by now does for all of them.
            Some(pending) => pending.clients.extend(client),
            None => self.pending = Some(Change::new(Kind::Reload, client.into_iter().collect())),
        }
        self.begin_pending();
    }

    /// Begins the change that waits, if it can begin.
    pub(super) fn begin_pending(&mut self) {
        let leaving = |it: &&Generation| it.stage == Stage::Leaving;
        if self.change.is_some() || self.generations.iter().filter(leaving).count() >= LEAVING_MAX {
            return;
        }
        let Some(change) = self.pending.take() else { return };
        self.systemd.reloading();
        self.change = Some(change);
        match self.source.load(&mut self.counters.names) {
            Ok(settings) => self.begin(settings),
            Err(report) => self.change_failed(&report),
        }
    }

    /// Starts a generation of this program's own beside those that it took over.
    pub(super) fn begin_upgrade(&mut self) {
        if self.change.is_none() {
            // The upgrade has failed, and this is the old program again.
            self.watch_tuning();
            self.systemd.ready(SERVES_AGAIN);
            return;
        }
        self.systemd.reloading();
        match self.source.load(&mut self.counters.names) {
            Ok(settings) => self.begin(settings),
            Err(report) => self.change_failed(&report),
        }
    }

    /// Starts a generation with these settings for the change that is under way.
    pub(super) fn begin(&mut self, settings: Settings) {
        if let Err(why) = self.try_begin(settings) {
            self.drop_starting();
            self.change_failed(&why);
        }
    }

    fn try_begin(&mut self, settings: Settings) -> Result<(), String> {
        let now = Instant::now();
        if let Some(change) = &mut self.change {
            change.mark = Some(self.sockets.mark());
        }
        self.sockets
            .prepare(&settings.wanted, &settings.slots())
            .map_err(|error| error.to_string())?;
        let mut pages = self.counters.take(settings.threads())?.into_iter();
        self.last_number += 1;
        let number = self.last_number;
        self.generations.push(Generation::new(number, settings, &mut pages));
        let Some(generation) = self.generations.last_mut() else { return Ok(()) };
        for at in 0..generation.workers.len() {
            let memories = self.counters.memories();
            generation
                .start_worker(at, &self.sockets, memories, &self.serve, now)
                .map_err(|error| format!("cannot start worker {at}: {error}"))?;
        }
        Ok(())
    }

    /// The new generation serves: the old ones leave.
    pub(super) fn generation_is_ready(&mut self, number: u32) {
        let now = Instant::now();
        let Some(at) = self.generations.iter().position(|it| it.number == number) else { return };
        self.generations[at].stage = Stage::Serving;
        let Some(change) = self.change.take() else { return };
        for closed in self.sockets.retain(&self.generations[at].settings.wanted) {
            self.systemd.forget(&closed);
        }
        self.systemd.keep(self.sockets.named());
        // It has shown what it can, and there is no way back any more.
        self.predecessor = None;
        self.unsettled = true;
        for old in &mut self.generations[..at] {
            if old.stage != Stage::Leaving {
                old.tell(leave_for_another(old.settings.drain_timeout), now);
            }
        }
        self.counters.note_change(true);
        self.last_error = None;
        // Before anybody hears that it serves: metrics need the names of its routes.
        self.share_facts();
        if change.kind != Kind::Start {
            log::follow(&self.generations[at].settings.config.log);
            self.watch_tuning();
        }
        self.tell_started(change.kind, number, change.began);
        let noun = change.kind.noun();
        for client in change.clients {
            let message = format!("{noun} done: generation {number} serves");
            self.answer(client, &Reply { ok: true, message, status: None });
        }
        self.sweep();
    }

    /// A worker of the new generation ended before all were ready.
    pub(super) fn generation_failed(&mut self, number: u32, obituary: &str) {
        if self.generations.iter().any(|it| it.number == number && it.stage == Stage::Starting) {
            self.drop_starting();
            self.change_failed(obituary);
        }
    }

    /// Takes back the change that is under way, since something more urgent came.
    pub(super) fn abandon_change(&mut self, why: &str) {
        self.drop_starting();
        let starting = self.change.as_ref().is_some_and(|change| change.kind == Kind::Start);
        if starting {
            // It was asked to end before it had begun: nothing has failed.
            self.exit = Some(0);
        }
        if self.change.is_some() {
            self.change_failed(why);
        }
        if let Some(pending) = self.pending.take() {
            for client in pending.clients {
                self.refuse(Some(client), why);
            }
        }
    }

    /// Says that something that was asked for will not be done.
    pub(super) fn refuse(&mut self, client: Option<ClientId>, why: &str) {
        warn!("{why}");
        if let Some(client) = client {
            self.answer(client, &Reply { ok: false, message: why.to_owned(), status: None });
        }
    }

    /// Ends the workers of a generation that never got to serve.
    fn drop_starting(&mut self) {
        let now = Instant::now();
        for generation in &mut self.generations {
            if generation.stage != Stage::Starting {
                continue;
            }
            generation.tell(Tell::Stop, now);
            for worker in &mut generation.workers {
                if let State::Running(running) = &mut worker.state {
                    running.process.kill();
                }
            }
        }
    }

    fn change_failed(&mut self, why: &str) {
        let Some(change) = self.change.take() else { return };
        if let Some(mark) = change.mark {
            self.sockets.roll_back(mark);
        }
        self.counters.note_change(false);
        self.last_error = Some(why.to_owned());
        let noun = change.kind.noun();
        match change.kind {
            Kind::Start if self.exit.is_some() => {}
            Kind::Start => {
                error!("{why}");
                self.exit = Some(1);
            }
            Kind::Reload => {
                error!("the {noun} is refused, and the old config goes on: {why}");
                self.systemd.ready(SERVES_AGAIN);
            }
            Kind::Upgrade => return self.go_back(why, change.clients),
        }
        self.share_facts();
        for client in change.clients {
            let message = format!("{noun} refused: {why}");
            self.answer(client, &Reply { ok: false, message, status: None });
        }
        self.sweep();
    }
}

/// How workers leave that have successors. Connections on which nothing is under way are kept
/// for half of the time: their clients may be about to send, and get a reply that says goodbye.
fn leave_for_another(drain_timeout: Duration) -> Tell {
    let deadline_ms = drain_timeout.as_millis().try_into().unwrap_or(u64::MAX);
    Tell::Drain { idle_ms: deadline_ms / 2, deadline_ms }
}
