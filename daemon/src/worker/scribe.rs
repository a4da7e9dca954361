//! The thread that renders `/metrics`, so that a scrape does not hold a ring thread up.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use ember_http::Request;
use ember_metrics::{Facts, Format, Pages};
use futures_channel::oneshot;

/// Scrapes that may wait; one more is answered with 503.
const JOBS_MAX: usize = 64;

/// What the scribe needs to know of the server.
pub(crate) struct Subject {
    /// The counter pages of all workers, and what the supervisor tells of the server.
    pub(crate) pages: Arc<Pages>,
    /// The driver's name, and why it is that one.
    pub(crate) backend: Arc<OnceLock<(String, String)>>,
}

pub(super) type Job = (Format, oneshot::Sender<Vec<u8>>);

/// A way to ask the scribe.
#[derive(Clone)]
pub(crate) struct Scribe {
    jobs: SyncSender<Job>,
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

    /// Asks for the metrics; nothing where too many have asked already.
    pub(crate) fn ask(&self, format: Format) -> Option<oneshot::Receiver<Vec<u8>>> {
        let (sender, receiver) = oneshot::channel();
        self.jobs.try_send((format, sender)).ok().map(|()| receiver)
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
    while let Ok((format, asker)) = queue.recv() {
        let mut facts = Facts::new();
        if let Some((backend, reason)) = subject.backend.get() {
            facts.backend(backend, reason);
        }
        let text = ember_metrics::scrape_with(&subject.pages, format, &facts).into_bytes();
        // Whoever asked may be gone.
        let _ = asker.send(text);
    }
}
