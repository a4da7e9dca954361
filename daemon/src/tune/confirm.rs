//! The way back when an operator may cut the branch they sit on: a process beside the session
//! takes everything back unless it hears a word in time.
//!
//! The word goes over a pipe. When the session dies, and with it the process that applied, the
//! pipe ends without the word, and the way back is taken at once.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ember_sysctl::journal::JournalError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What is sent when the operator has confirmed.
const WORD: &[u8] = b"keep";
/// How long to wait for an apply that is still under way, and how often to look.
const FREE_TIMEOUT: Duration = Duration::from_secs(30);
const FREE_LOOK: Duration = Duration::from_millis(100);

/// The process that will take everything back.
pub(super) struct Guard {
    child: Child,
    wait: Duration,
}

impl Guard {
    /// Starts it, before anything is changed.
    pub(super) fn start(state_dir: &Path, wait: Duration) -> io::Result<Guard> {
        // The process should outlive the terminal, so it has none of the three streams.
        let child = Command::new(std::env::current_exe()?)
            .args(["tune", "revert", "--unless-confirmed", &wait.as_secs().to_string()])
            .env("EMBERD_STATE_DIR", state_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Guard { child, wait })
    }

    /// Asks the operator, and says what came of it.
    pub(super) fn ask(self) -> String {
        eprintln!(
            "press Enter within {} s to keep this; else it is taken back",
            self.wait.as_secs()
        );
        let deadline = Instant::now() + self.wait;
        let stdin = io::stdin();
        let pressed = readable_before(deadline)
            && stdin.lock().read_line(&mut String::new()).is_ok_and(|len| len > 0);
        if pressed {
            self.keep();
            return "kept\n".to_owned();
        }
        // Without the word the pipe ends here, and the way back begins.
        let mut child = self.child;
        drop(child.stdin.take());
        match child.wait() {
            Ok(status) if status.success() => "not confirmed: taken back\n".to_owned(),
            _ => {
                "not confirmed, and not all could be taken back: `emberd tune status`\n".to_owned()
            }
        }
    }

    /// Lets what was applied stand.
    pub(super) fn keep(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            // It may have begun already; what it has done then is told by status.
            let _ = pipe.write_all(WORD);
        }
        let _ = self.child.wait();
    }
}

/// In the guarding process: whether the word came in time. It leaves the session first, so that
/// the end of a terminal does not end it.
pub(super) fn wait_for_word(wait: Duration) -> bool {
    let _ = nix::unistd::setsid();
    if !readable_before(Instant::now() + wait) {
        return false;
    }
    let mut heard = Vec::new();
    let _ = io::stdin().lock().read_to_end(&mut heard);
    heard == WORD
}

/// Tries until another process lets go of the lock.
pub(super) fn when_free<T>(
    mut attempt: impl FnMut() -> Result<T, JournalError>,
) -> Result<T, JournalError> {
    let deadline = Instant::now() + FREE_TIMEOUT;
    loop {
        match attempt() {
            Err(JournalError::Locked(_)) if Instant::now() < deadline => thread::sleep(FREE_LOOK),
            done => return done,
        }
    }
}

fn readable_before(deadline: Instant) -> bool {
    let stdin = io::stdin();
    let mut sources = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut sources, timeout) {
            Ok(count) => return count > 0,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}
