//! Signals as something to poll: no handler runs anywhere.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the supervisor does on which signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// TERM.
    Drain,
    /// INT.
    Stop,
    /// HUP.
    Reload,
    /// USR2.
    Upgrade,
    /// CHLD.
    ChildEnded,
}

/// The signals that this process takes.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals and takes them by descriptor. To be called before any other thread is
    /// started, since those inherit the mask; so does a program that is executed in place, where
    /// a signal that came in between waits.
    pub(crate) fn take() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in
            [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGCHLD]
        {
            set.add(signal);
        }
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }

    /// The next signal that waits.
    pub(crate) fn next(&self) -> io::Result<Option<Asked>> {
        loop {
            let Some(info) = self.0.read_signal()? else { return Ok(None) };
            match Signal::try_from(info.ssi_signo.cast_signed()) {
                Ok(Signal::SIGTERM) => return Ok(Some(Asked::Drain)),
                Ok(Signal::SIGINT) => return Ok(Some(Asked::Stop)),
                Ok(Signal::SIGHUP) => return Ok(Some(Asked::Reload)),
                Ok(Signal::SIGUSR2) => return Ok(Some(Asked::Upgrade)),
                Ok(Signal::SIGCHLD) => return Ok(Some(Asked::ChildEnded)),
                _ => {}
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
