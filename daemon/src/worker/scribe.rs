//! The thread that renders `/metrics`, so that a scrape does not hold a ring thread up.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use ember_metrics::{Facts, Names, Pages};

use crate::boot::FactsView;

/// Scrapes that may wait; one more is answered with 503.
const JOBS_MAX: usize = 64;

/// What an answer belongs to: the number is the asking thread's own.
pub(crate) type Ticket = usize;

/// Where the answers for one ring thread are put.
pub(crate) struct Mailbox {
    answers: Mutex<Vec<(Ticket, Vec<u8>)>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// What the scribe needs to know of the server.
pub(crate) struct Subject {
    /// The counter pages of all workers.
    pub(crate) pages: Arc<Pages>,
    /// The label values in them.
    pub(crate) names: Names,
    /// The driver's name, and why it is that one.
    pub(crate) backend: (String, String),
    /// What the supervisor tells of the server.
    pub(crate) facts: FactsView,
}

/// A way to ask the scribe, for each ring thread one.
#[derive(Clone)]
pub(crate) struct Scribe {
    jobs: SyncSender<(Ticket, Arc<Mailbox>)>,
}

impl Mailbox {
    /// A mailbox whose owner is woken by `wake`.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Mailbox { answers: Mutex::default(), wake: Box::new(wake) })
    }

    /// Takes what has come.
    pub(crate) fn take(&self) -> Vec<(Ticket, Vec<u8>)> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, ticket: Ticket, text: Vec<u8>) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push((ticket, text));
        (self.wake)();
    }
}

impl Scribe {
    /// Starts the thread. It ends when the last handle has been dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(subject: Subject) -> io::Result<Scribe> {
        let (jobs, queue) = sync_channel(JOBS_MAX);
        thread::Builder::new()
            .name("scribe".to_string())
            .stack_size(256 * 1024)
            .spawn(move || serve(&subject, &queue))?;
        Ok(Scribe { jobs })
    }

    /// Asks for the metrics; whether the question was taken.
    pub(crate) fn ask(&self, ticket: Ticket, mailbox: &Arc<Mailbox>) -> bool {
        self.jobs.try_send((ticket, Arc::clone(mailbox))).is_ok()
    }
}

fn serve(subject: &Subject, queue: &Receiver<(Ticket, Arc<Mailbox>)>) {
    while let Ok((ticket, mailbox)) = queue.recv() {
        let mut facts = Facts::new();
        facts.build(env!("CARGO_PKG_VERSION"));
        facts.backend(&subject.backend.0, &subject.backend.1);
        facts.processes(&subject.facts.latest().pids);
        let text = ember_metrics::render(&subject.pages, &subject.names, &facts);
        mailbox.put(ticket, text.into_bytes());
    }
}
