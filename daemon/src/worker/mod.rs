//! A worker: one ring thread for each of its CPUs, and the loop that each of them runs.

mod armed;
mod backend;
mod clock;
mod connection;
mod desk;
mod functions;
mod hooks;
mod outflow;
mod replies;
mod scribe;
#[cfg(test)]
mod simulation;
mod site;
mod streams;
mod tally;
mod tasks;
mod thread;
mod timers;

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread as threads;

use ember::rt::Runtime;
use ember_affinity::pin_thread;
use ember_metrics::Names;
use ember_uring::Driver;

use crate::access_log::{AccessLog, Recorder};
use crate::application;
use crate::boot::{AccessSink, Boot, Seat, ThreadBoot};
use crate::config::Config;
use crate::proxy::Proxies;
use crate::rules::{self, rate::Table};
use backend::Opened;
use clock::Clock;
use functions::{Functions, Services};
use hooks::ThreadHooks;
use scribe::{Scribe, Subject};
pub(crate) use site::{Handler, Sites, coding};
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

/// Runs a worker until it is told to leave and all of its threads have.
///
/// # Errors
/// What keeps a thread from starting, and the failures of [`crate::boot::Control::serve`].
pub fn run(boot: Boot) -> io::Result<()> {
    let Boot {
        config,
        worker,
        plan,
        pages,
        limits,
        names,
        threads: boots,
        control,
        access_log,
        ..
    } = boot;
    if !config.files.is_empty() {
        // Before any thread is bound to a CPU, which its children would be too.
        crate::files::helpers::start()?;
    }
    rules::start(&config)?;
    let sites = Arc::new(Sites::new(&config).map_err(io::Error::other)?);
    let backend = Arc::new(OnceLock::new());
    let scribe =
        Scribe::start(Subject { pages: Arc::clone(&pages), backend: Arc::clone(&backend) })?;
    let proxies = Proxies::new(&config, &names);
    let limits = Table::new(limits, &config.trusted_proxies).map(Arc::new);
    let names_of_routes = Names::clone(&names);
    let services =
        Services { scribe, proxies: Arc::clone(&proxies), limits, names: names_of_routes };
    let functions = Arc::new(Functions::new(&sites, &services));
    let access_log = match (&config.log.access, access_log) {
        (Some(settings), Some(AccessSink(sink))) => {
            let trusted = config.trusted_proxies.clone();
            Some(AccessLog::start(settings, sink, sites.route_names(), trusted)?)
        }
        _ => None,
    };
    for (index, boot) in boots.into_iter().enumerate() {
        let sample = config.log.access.as_ref().map_or(1.0, |access| access.sample);
        // Any seed will do that differs between threads.
        let seed = (u64::from(std::process::id()) << 32) | (index as u64 + 1);
        let recorder = access_log.as_ref().map(|log| log.recorder(sample, seed));
        let seat = control.seat(index);
        let start = Start {
            config: Arc::clone(&config),
            sites: Arc::clone(&sites),
            names: Names::clone(&names),
            pages: Arc::clone(&pages),
            plan: plan.clone(),
            functions: Arc::clone(&functions),
            recorder,
            backend: Arc::clone(&backend),
            proxies: (index == 0).then(|| Arc::clone(&proxies)),
            worker,
            thread: index,
            boot,
            seat,
        };
        threads::Builder::new().name(thread_name(worker, index)).spawn(move || {
            if let Err(error) = start.serve() {
                tracing::error!(worker, thread = index, "worker {worker}, thread {index}: {error}");
            }
        })?;
    }
    drop(functions);
    let served = control.serve();
    // What waits to be written is.
    drop(access_log);
    served
}

/// What a ring thread starts from.
struct Start {
    config: Arc<Config>,
    sites: Arc<Sites>,
    names: Names,
    pages: Arc<ember_metrics::Pages>,
    plan: ember_affinity::WorkerPlan,
    functions: Arc<Functions>,
    recorder: Option<Recorder>,
    backend: Arc<OnceLock<(String, String)>>,
    /// For the one thread that checks their upstreams.
    proxies: Option<Arc<Proxies>>,
    worker: u16,
    thread: usize,
    boot: ThreadBoot,
    seat: Seat,
}

impl Start {
    fn serve(self) -> io::Result<()> {
        if let Some(cpu) = self.boot.cpu {
            pin_thread(cpu)?;
        }
        // Said before the seat is left: the process may end as soon as it is.
        let worker = self.worker;
        let tell = |error: &io::Error| tracing::error!(worker, "worker {worker}: {error}");
        match backend::open(&self.config, self.boot.connections_max).inspect_err(tell)? {
            (Opened::Uring(driver), why) => self.serve_on(*driver, &why),
            (Opened::Epoll(driver), why) => self.serve_on(*driver, &why),
        }
    }

    fn serve_on<D: Driver>(self, driver: D, why: &str) -> io::Result<()> {
        let Start {
            sites,
            backend: chosen,
            names,
            pages,
            plan,
            functions,
            proxies,
            recorder,
            worker,
            thread,
            boot,
            seat,
            ..
        } = self;
        let page = pages.page(boot.page)?;
        let mut tally = Tally::new(page, names, worker, &plan, &sites);
        tally.limit_in_flight(boot.in_flight_max);
        let waker = driver.waker();
        let runtime = Runtime::new({
            let waker = waker.clone();
            move || waker.wake()
        });
        if let Some(proxies) = proxies {
            let _entered = runtime.enter();
            proxies.start_checks(worker == 0);
        }
        let info = driver.info();
        // All threads of a worker open the same driver; the first one's word will do.
        let _ = chosen.set((info.backend.to_owned(), why.to_owned()));
        let sockets_max = info.sockets_max as usize;
        let clock = Clock::System;
        let listeners = Vec::new();
        let parts = Parts {
            sites,
            tally,
            functions,
            runtime,
            recorder,
            seat,
            listeners,
            sockets_max,
            clock,
        };
        let hooks = application::hooks().map(|hooks| ThreadHooks::new(hooks, worker, thread));
        let mut ring = Thread::new(driver, parts)?;
        if let Some(hooks) = &hooks {
            ring.before_start(hooks)?;
        }
        ring.listen(boot.listeners)?;
        ring.seat.ready(move || waker.wake(), backend::describe(&info, why));
        ring.run(hooks.as_ref())
    }
}
