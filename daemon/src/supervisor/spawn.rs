//! Starting a worker, and what there is of it afterwards.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::child;
use super::link::{DESCRIPTORS_MAX, Link};
use crate::config::LogLevel;

/// The hidden subcommand that makes a process a worker.
pub const SUBCOMMAND: &str = "__worker";

/// Variables that were meant for this process and must not reach its children.
pub(crate) const PRIVATE_VARIABLES: [&str; 6] = [
    super::upgrade::VARIABLE,
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
];

/// The first message to a worker. With it come the descriptors of the memory that holds
/// [`Shared`], of the counter pages and of rate limits; after it come [`SocketsMessage`]s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BootMessage {
    pub(crate) worker: u16,
    pub(crate) generation: u32,
    pub(crate) in_process: bool,
    pub(crate) node: Option<u32>,
    /// The level in force, which the config may not know of.
    pub(crate) log_level: LogLevel,
    pub(crate) threads: Vec<ThreadMessage>,
}

/// One thread of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ThreadMessage {
    pub(crate) cpu: Option<u32>,
    pub(crate) page: usize,
    /// The listener's index of each of its sockets.
    pub(crate) listeners: Vec<usize>,
}

/// So many of a worker's sockets, in the order of its threads.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct SocketsMessage(pub(crate) usize);

/// A worker's process, or the thread that takes its place.
#[derive(Debug)]
pub(crate) enum Process {
    /// A child by its number; it may have been started by the program before an upgrade.
    Child(Pid),
    /// The main thread of a worker in this process.
    Thread(Option<JoinHandle<io::Result<()>>>),
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Whether it ended as a worker does that was told to.
    pub(crate) well: bool,
    /// In words, to follow "worker 0".
    pub(crate) how: String,
}

/// A worker that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) link: Link,
}

/// Starts a worker. `sockets` are those of its threads one after the other.
pub(crate) fn start(
    message: &BootMessage,
    shared: BorrowedFd<'_>,
    [pages, limits]: [BorrowedFd<'_>; 2],
    sockets: &[BorrowedFd<'_>],
    serve: &child::Serve,
) -> io::Result<Started> {
    let (ours, theirs) = Link::pair()?;
    // The messages wait in the socket, so that nothing of a worker that cannot even be started
    // is left over.
    ours.send(message, &[shared, pages, limits])?;
    for some in sockets.chunks(DESCRIPTORS_MAX) {
        ours.send(&SocketsMessage(some.len()), some)?;
    }
    let process = if message.in_process {
        let serve = child::Serve::clone(serve);
        let name = format!("worker {}", message.worker);
        let run = move || child::run(theirs, &*serve);
        Process::Thread(Some(std::thread::Builder::new().name(name).spawn(run)?))
    } else {
        Process::Child(start_process(message.worker, theirs)?)
    };
    Ok(Started { process, link: ours })
}

fn start_process(worker: u16, link: Link) -> io::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(format!("emberd: worker {worker}")).arg(SUBCOMMAND);
    command.stdin(Stdio::from(OwnedFd::from(link)));
    // Ctrl-C at a terminal goes to the group in the foreground: what follows from it for the
    // workers is the supervisor's to say.
    command.process_group(0);
    for variable in PRIVATE_VARIABLES {
        command.env_remove(variable);
    }
    let child = command.spawn()?;
    // The child is waited for by its number, since a successor of this program knows no more.
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Memory without a file that holds `bytes`, to be read by descriptor.
pub(crate) fn memory(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// All of the memory behind a descriptor, wherever others that share it are reading.
pub(crate) fn read_memory(memory: &OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(memory.try_clone()?);
    let length = file.metadata()?.len();
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Process {
    /// How it ended, if it has. A thread that has let go of its channel (`linked` tells) is in
    /// its last moments, and is waited for.
    pub(crate) fn try_wait(&mut self, linked: bool) -> io::Result<Option<Ending>> {
        match self {
            Self::Child(pid) => match waitpid(*pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => Ok(None),
                Ok(status) => Ok(Ending::from_status(status)),
                // Somebody else has waited for it: it is gone, and nobody knows how.
                Err(Errno::ECHILD) => Ok(Some(Ending { well: false, how: "is gone".to_owned() })),
                Err(error) => Err(error.into()),
            },
            Self::Thread(handle) => {
                let Some(finished) = handle.take_if(|handle| !linked || handle.is_finished())
                else {
                    return Ok(None);
                };
                Ok(Some(match finished.join() {
                    Ok(Ok(())) => Ending { well: true, how: "ended".to_owned() },
                    Ok(Err(error)) => Ending { well: false, how: format!("failed: {error}") },
                    Err(_) => Ending { well: false, how: "panicked".to_owned() },
                }))
            }
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        match self {
            Self::Child(pid) => waitpid(*pid, None).map(drop).map_err(Into::into),
            Self::Thread(handle) => {
                // How a thread ended is told by try_wait().
                let _ = handle.take().map(JoinHandle::join);
                Ok(())
            }
        }
    }

    /// Ends it at once. A thread cannot be ended from outside.
    pub(crate) fn kill(&self) -> bool {
        match self {
            Self::Child(pid) => kill(*pid, Signal::SIGKILL).is_ok(),
            Self::Thread(_) => false,
        }
    }

    /// The number of the process of its own that it has.
    pub(crate) fn child(&self) -> Option<Pid> {
        match self {
            Self::Child(pid) => Some(*pid),
            Self::Thread(_) => None,
        }
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Child(pid) => pid.as_raw().cast_unsigned(),
            Self::Thread(_) => std::process::id(),
        }
    }
}

impl Ending {
    fn from_status(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(_, code) => {
                Some(Self { well: code == 0, how: format!("exited with status {code}") })
            }
            WaitStatus::Signaled(_, signal, dumped) => {
                let why = match signal {
                    Signal::SIGSYS => " (it made a system call that its filter forbids)",
                    _ if dumped => " (core dumped)",
                    _ => "",
                };
                let number = ExitStatus::from_raw(signal as i32).signal().unwrap_or_default();
                let how = format!("was killed by signal {number}, {}{why}", signal.as_str());
                Some(Self { well: false, how })
            }
            _ => None,
        }
    }
}

/// As process 1 of a container: takes note of the ends of orphans, so that they do not stay as
/// zombies. Stops at a process of our own, whose end others take note of, and gives its number.
pub(crate) fn reap_strangers(ours: &[Pid]) -> Option<Pid> {
    if std::process::id() != 1 {
        return None;
    }
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let ended = waitid(Id::All, peek).ok()?.pid()?;
        if ours.contains(&ended) {
            return Some(ended);
        }
        waitpid(ended, Some(WaitPidFlag::WNOHANG)).ok()?;
    }
}
