//! A worker: one ring thread for each of its CPUs, and the loop that each of them runs.

mod replies;
mod scribe;
mod site;
mod tally;
mod thread;
mod timers;

use std::io;
use std::sync::Arc;
use std::thread as threads;

use ember_affinity::pin_thread;
use ember_metrics::Names;
use ember_uring::{Driver, LinkForm, Options, Uring};

use crate::boot::{Boot, Seat, ThreadBoot};
use crate::config::{self, Config};
use scribe::{Mailbox, Scribe, Subject};
use site::Sites;
use tally::Tally;
use thread::{Parts, Thread};

/// Names of kernel threads are cut at 15 bytes; `w` and `t` leave room for large numbers.
fn thread_name(worker: u16, thread: usize) -> String {
    format!("emberd-w{worker}t{thread}")
}

/// Gives numbers to the label values that the workers of a config use.
pub fn intern(names: &mut Names, config: &Config) {
    let of_config = site::label_names(config);
    tally::intern(names, of_config.iter().map(String::as_str));
}

/// Whether the workers can serve this config together with the program's own routes.
///
/// # Errors
/// What they cannot, for people.
pub fn check(config: &Config) -> Result<(), String> {
    Sites::new(config).map(drop).map_err(|error| error.to_string())
}

/// Runs a worker until it is told to leave and all of its threads have.
///
/// # Errors
/// What keeps a thread from starting, and the failures of [`crate::boot::Control::serve`].
pub fn run(boot: Boot) -> io::Result<()> {
    let Boot { config, worker, plan, pages, names, threads: boots, control, .. } = boot;
    let sites = Arc::new(Sites::new(&config).map_err(io::Error::other)?);
    let scribe = Scribe::start(Subject {
        pages: Arc::clone(&pages),
        names: Names::clone(&names),
        backend: ("io_uring".to_string(), "asked for".to_string()),
        facts: control.facts(),
    })?;
    for (index, boot) in boots.into_iter().enumerate() {
        let seat = control.seat(index);
        let start = Start {
            config: Arc::clone(&config),
            sites: Arc::clone(&sites),
            names: Names::clone(&names),
            pages: Arc::clone(&pages),
            plan: plan.clone(),
            scribe: scribe.clone(),
            worker,
            boot,
            seat,
        };
        threads::Builder::new().name(thread_name(worker, index)).spawn(move || {
            if let Err(error) = start.serve() {
                eprintln!("emberd: worker {worker}, thread {index}: {error}");
            }
        })?;
    }
    drop(scribe);
    control.serve()
}

/// What a ring thread starts from.
struct Start {
    config: Arc<Config>,
    sites: Arc<Sites>,
    names: Names,
    pages: Arc<ember_metrics::Pages>,
    plan: ember_affinity::WorkerPlan,
    scribe: Scribe,
    worker: u16,
    boot: ThreadBoot,
    seat: Seat,
}

impl Start {
    fn serve(self) -> io::Result<()> {
        if let Some(cpu) = self.boot.cpu {
            pin_thread(cpu)?;
        }
        let driver = Uring::new(options(&self.config))?;
        self.serve_on(driver)
    }

    fn serve_on<D: Driver>(self, mut driver: D) -> io::Result<()> {
        let Start { sites, names, pages, plan, scribe, worker, boot, mut seat, .. } = self;
        let mut listeners = Vec::new();
        for (listener, socket) in boot.listeners {
            listeners.push((driver.accept(socket)?, listener));
        }
        let page = pages.page(boot.page)?;
        let tally = Tally::new(page, names, worker, &plan, &sites);
        let waker = driver.waker();
        let mailbox = Mailbox::new({
            let waker = waker.clone();
            move || waker.wake()
        });
        let info = driver.info();
        seat.ready(move || waker.wake(), describe(&info));
        let sockets_max = info.sockets_max as usize;
        let parts = Parts { sites, tally, scribe, mailbox, seat, listeners, sockets_max };
        Thread::new(driver, parts)?.run()
    }
}

fn options(config: &Config) -> Options {
    Options {
        sockets_max: config.limits.max_connections,
        buffers: config.ring.buffers,
        buffer_size: config.ring.buffer_size,
        form: match config.ring.form {
            config::LinkForm::Linked => LinkForm::Linked,
            config::LinkForm::Unlinked => LinkForm::Unlinked,
            config::LinkForm::Multishot => LinkForm::Multishot,
        },
        poll_first: config.ring.poll_first,
        ..Options::default()
    }
}

/// The text of the start-up line about the driver.
fn describe(info: &ember_uring::Info) -> String {
    use ember_uring::FeatureState;
    let used = info.features.iter().filter(|f| f.state == FeatureState::Used);
    let used: Vec<&str> = used.map(|f| f.name).collect();
    let mut text = format!("{}: {}", info.backend, used.join(", "));
    for feature in &info.features {
        if let FeatureState::Absent { instead } = &feature.state {
            text.push_str(&format!("; no {} ({instead})", feature.name));
        }
    }
    text
}
