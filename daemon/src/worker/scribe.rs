//! The thread that renders `/metrics`, so that a scrape does not hold a ring thread up.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use ember_http::Request;
use ember_metrics::{Facts, Format, Pages};

/// Scrapes that may wait; one more is answered with 503.
const JOBS_MAX: usize = 64;

/// What an answer belongs to, in the asking thread's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Where the thread keeps the request.
    pub(crate) at: usize,
    /// Which question it is: places are given anew.
    pub(crate) question: u32,
}

/// Where the answers for one ring thread are put.
pub(crate) struct Mailbox {
    answers: Mutex<Vec<Scrape>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// An answer of the scribe.
pub(crate) struct Scrape {
    /// What it belongs to.
    pub(crate) ticket: Ticket,
    /// The format that was asked for.
    pub(crate) format: Format,
    /// The metrics.
    pub(crate) text: Vec<u8>,
}

/// What the scribe needs to know of the server.
pub(crate) struct Subject {
    /// The counter pages of all workers, and what the supervisor tells of the server.
    pub(crate) pages: Arc<Pages>,
    /// The driver's name, and why it is that one.
    pub(crate) backend: Arc<OnceLock<(String, String)>>,
}

pub(super) type Job = (Ticket, Format, Arc<Mailbox>);

/// A way to ask the scribe, for each ring thread one.
#[derive(Clone)]
pub(crate) struct Scribe {
    jobs: SyncSender<Job>,
}

impl Mailbox {
    /// A mailbox whose owner is woken by `wake`.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Mailbox { answers: Mutex::default(), wake: Box::new(wake) })
    }

    /// Takes what has come.
    pub(crate) fn take(&self) -> Vec<Scrape> {
        std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn put(&self, scrape: Scrape) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(scrape);
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

    /// One whose questions a test answers.
    #[cfg(test)]
    pub(super) fn of_test() -> (Scribe, Receiver<Job>) {
        let (jobs, queue) = sync_channel(JOBS_MAX);
        (Scribe { jobs }, queue)
    }

    /// Asks for the metrics; whether the question was taken.
    pub(crate) fn ask(&self, ticket: Ticket, format: Format, mailbox: &Arc<Mailbox>) -> bool {
        self.jobs.try_send((ticket, format, Arc::clone(mailbox))).is_ok()
    }
}

/// The format that a request asks for.
pub(crate) fn wanted_format(request: &Request<'_>) -> Format {
    let values = request.field_values("accept");
    let values: Vec<&str> = values.filter_map(|value| std::str::from_utf8(value).ok()).collect();
    // Several fields mean what their values mean in one list (RFC 9110, section 5.3).
    Format::negotiate(Some(&values.join(",")))
}

fn serve(subject: &Subject, queue: &Receiver<Job>) {
    while let Ok((ticket, format, mailbox)) = queue.recv() {
        let mut facts = Facts::new();
        if let Some((backend, reason)) = subject.backend.get() {
            facts.backend(backend, reason);
        }
        let text = ember_metrics::scrape_with(&subject.pages, format, &facts).into_bytes();
        mailbox.put(Scrape { ticket, format, text });
    }
}
