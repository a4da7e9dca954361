//! The worker's side of being started: from one inherited descriptor to a [`Boot`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use ember_metrics::{Names, Pages, Words};

use super::confine;
use super::link::Link;
use super::settings::Shared;
use super::spawn::{BootMessage, SUBCOMMAND, SocketsMessage};
use crate::access_log::Sink;
use crate::boot::{AccessSink, Boot, Control, Report, ThreadBoot};
use crate::log;
use tracing::error;

/// What a worker does once it is set up: the worker loop, with the handlers of whoever embeds
/// this server.
pub type Serve = Arc<dyn Fn(Boot) -> io::Result<()> + Send + Sync>;

/// The whole life of a worker process. The status is for the supervisor.
pub fn main(serve: &Serve) -> ExitCode {
    log::begin();
    let link = match Link::adopt_standard_input() {
        Ok(link) => link,
        Err(_) => {
            error!("{SUBCOMMAND} is for emberd itself to start");
            return ExitCode::from(2);
        }
    };
    match run(link, &**serve) {
        Ok(()) => ExitCode::SUCCESS,
        // The supervisor has been told why. Threads may still run; the process ends under them.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Sets up a worker and serves until the supervisor says otherwise.
pub(crate) fn run(
    link: Link,
    serve: &(dyn Fn(Boot) -> io::Result<()> + Send + Sync),
) -> io::Result<()> {
    // A second end of the same channel, for what goes wrong after the first is given away.
    let reports = Link::from(link.as_fd().try_clone_to_owned()?);
    let outcome = boot(link, &reports).and_then(serve);
    if let Err(error) = &outcome {
        // The supervisor sees the end in any case.
        let _ = reports.send(&Report::Failed { why: error.to_string() }, &[]);
    }
    outcome
}

fn boot(link: Link, reports: &Link) -> io::Result<Boot> {
    let (message, descriptors): (BootMessage, _) = link.receive()?.ok_or_else(cut_short)?;
    let [shared, pages, limits] = <[OwnedFd; 3]>::try_from(descriptors).map_err(|_| cut_short())?;
    let sockets = receive_sockets(&link, &message)?;
    let shared = Shared::read(&shared)?;
    if !message.in_process {
        log::follow(&shared.config.log);
        log::set_level(message.log_level);
    }
    let note = |text: String, warning| reports.send(&Report::Note { text, warning }, &[]);
    let access = shared.config.log.access.as_ref();
    let access_log = access.map(|access| Sink::open(&access.path)).transpose()?.map(AccessSink);
    settle(&message, &shared, note)?;
    let threads_before = |worker: usize| -> usize {
        shared.workers.iter().take(worker).map(|plan| plan.cpus.len()).sum()
    };
    let (first, all) = (threads_before(message.worker.into()), threads_before(usize::MAX));
    let connections = shared.config.limits.max_connections;
    let in_flight = shared.config.limits.max_in_flight;
    let plan = shared.workers.into_iter().nth(message.worker.into()).ok_or_else(cut_short)?;
    let names = Names::from_text(&shared.names)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut sockets = sockets.into_iter();
    let threads: Vec<ThreadBoot> = message
        .threads
        .iter()
        .enumerate()
        .map(|(nth, thread)| ThreadBoot {
            cpu: thread.cpu,
            listeners: thread.listeners.iter().copied().zip(&mut sockets).collect(),
            page: thread.page,
            connections_max: share(connections, all, first + nth),
            in_flight_max: share(in_flight, all, first + nth),
        })
        .collect();
    let fence = shared.confinement.fence && !message.in_process;
    Ok(Boot {
        config: Arc::new(shared.config),
        worker: message.worker,
        generation: message.generation,
        plan,
        pages: Arc::new(Pages::from_fd(pages)?),
        access_log,
        limits: Arc::new(Words::from_fd(limits)?),
        names: Arc::new(names),
        control: Control::new(link, threads.len(), fence.then_some(close_the_fence))?,
        threads,
    })
}

fn receive_sockets(link: &Link, message: &BootMessage) -> io::Result<Vec<OwnedFd>> {
    let wanted: usize = message.threads.iter().map(|thread| thread.listeners.len()).sum();
    let mut sockets = Vec::with_capacity(wanted);
    while sockets.len() < wanted {
        let (SocketsMessage(count), some) = link.receive()?.ok_or_else(cut_short)?;
        if count != some.len() || count == 0 {
            return Err(cut_short());
        }
        sockets.extend(some);
    }
    Ok(sockets)
}

/// Takes a worker's place on the machine and gives up everything else. Threads that are started
/// from this one later inherit it.
fn settle(
    message: &BootMessage,
    shared: &Shared,
    note: impl Fn(String, bool) -> io::Result<()>,
) -> io::Result<()> {
    if !message.in_process {
        let name = std::ffi::CString::new(format!("emberd/{}", message.worker))?;
        nix::sys::prctl::set_name(&name)?;
    }
    if let Some(node) = message.node
        && let Err(error) = ember_affinity::bind_memory(node)
    {
        note(format!("memory is not taken from node {node}: {error}"), false)?;
    }
    let nice = shared.config.workers.nice;
    // Priorities are of threads on Linux: in the supervisor's process too, this concerns the
    // worker only.
    if rustix::process::setpriority_process(None, nice.into()).is_err() {
        note(format!("no nice value of {nice}: that takes root or LimitNICE="), false)?;
    }
    let held = confine::give_up(&shared.confinement, &shared.config, message.in_process)?;
    let fence = shared.confinement.fence && !message.in_process;
    for warning in held.warnings {
        note(warning, true)?;
    }
    let holds: Vec<&str> =
        held.holds.iter().map(String::as_str).chain(fence.then_some("seccomp")).collect();
    note(format!("workers are confined: {}", holds.join(", ")), false)?;
    Ok(())
}

/// The last of it, when the rings have been set up.
fn close_the_fence() -> io::Result<()> {
    confine::forbid_what_serving_does_not_need()
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the supervisor did not say what to do")
}

/// The share that the `nth` of all threads has of a number.
fn share(number: u32, threads: usize, nth: usize) -> u32 {
    let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
    let rest = usize::try_from(number % threads).unwrap_or(usize::MAX);
    (number / threads + u32::from(nth < rest)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_nobody_gets_nothing() {
        for (number, threads) in [(65_536, 3), (7, 7), (10, 4), (1, 1)] {
            let shares = (0..threads).map(|nth| share(number, threads, nth));
            assert_eq!(shares.sum::<u32>(), number, "{number} over {threads}");
        }
        assert_eq!(share(2, 4, 3), 1);
    }
}
