//! What systemd is told, and what it gives: states, the watchdog, sockets, the descriptor store.
//!
//! Everything here does nothing where the service manager is another one, or none.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use sd_notify::{NotifyState, notify, notify_with_fds, watchdog_enabled};
use tracing::warn;

/// Begins the names under which systemd keeps our own sockets, so that they are not taken for
/// those of a .socket unit.
const KEPT: &str = "kept.";

/// The service manager, as far as it listens.
#[derive(Debug)]
pub(crate) struct Systemd {
    /// How often to say that this loop runs, and when next.
    watchdog: Option<(Duration, Instant)>,
}

impl Systemd {
    /// Looks at what the environment says.
    pub(crate) fn from_environment(now: Instant) -> Self {
        // Twice in the time after which systemd would act (sd_watchdog_enabled(3)).
        let interval = watchdog_enabled().map(|timeout| timeout / 2);
        Self { watchdog: interval.map(|interval| (interval, now)) }
    }

    /// The server serves, with the config that it was last told to load.
    pub(crate) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A reload begins (Type=notify-reload wants to know since when).
    pub(crate) fn reloading(&self) {
        if let Ok(since) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, since]);
        }
    }

    /// The server is on its way down.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// When the watchdog has to be fed.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.watchdog.map(|(_, due)| due)
    }

    /// Feeds the watchdog where it is time.
    pub(crate) fn feed_watchdog(&mut self, now: Instant) {
        if let Some((interval, due)) = &mut self.watchdog
            && *due <= now
        {
            *due = now + *interval;
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// Lets systemd keep our sockets over the end of this process: a restart of the service then
    /// loses no connection that waits. What it has already it does not take twice.
    pub(crate) fn keep<'a>(&self, sockets: impl Iterator<Item = (&'a str, BorrowedFd<'a>)>) {
        // Set where the unit has FileDescriptorStoreMax= (systemd 254).
        if std::env::var_os("FDSTORE").is_none() {
            return;
        }
        for (name, socket) in sockets {
            let name = kept_name(name);
            let state = [NotifyState::FdStore, NotifyState::FdName(&name)];
            if let Err(error) = notify_with_fds(&state, &[socket]) {
                warn!("systemd does not keep the socket {name}: {error}");
            }
        }
    }

    /// Lets systemd forget the sockets of a listener.
    pub(crate) fn forget(&self, name: &str) {
        let name = if is_kept(name) { name.to_owned() } else { kept_name(name) };
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
    }
}

/// The sockets that systemd passed, each with its name.
pub(crate) fn passed_sockets() -> Vec<(String, OwnedFd)> {
    let passed = match sd_listen_fds::get() {
        Ok(passed) => passed,
        Err(error) => {
            warn!("the sockets that systemd passes are not used: {error}");
            return Vec::new();
        }
    };
    let own = |(name, socket): (Option<String>, sd_listen_fds::OwnedFd)| {
        let inherited = socket.into_std();
        // What comes by number is not closed on exec; a copy is. systemd's sockets block, and
        // the drivers want to be told instead.
        let socket = inherited.as_fd().try_clone_to_owned().ok()?;
        rustix::io::ioctl_fionbio(&socket, true).ok()?;
        Some((name.unwrap_or_default(), socket))
    };
    passed.into_iter().filter_map(own).collect()
}

/// Whether a passed socket is one that an earlier run of ours let systemd keep.
pub(crate) fn is_kept(name: &str) -> bool {
    name.starts_with(KEPT)
}

/// A name for the descriptor store: 255 characters at most, none of them a colon or a control
/// character (sd_pid_notify_with_fds(3)).
fn kept_name(name: &str) -> String {
    let fit = |letter: char| if letter.is_ascii_graphic() && letter != ':' { letter } else { '_' };
    KEPT.chars().chain(name.chars().map(fit)).take(255).collect()
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        warn!("cannot tell systemd {state:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_the_store_are_what_it_takes() {
        assert_eq!(kept_name("web"), "kept.web");
        assert_eq!(kept_name("a:b c\n"), "kept.a_b_c_");
        assert_eq!(kept_name(&"x".repeat(400)).len(), 255);
        assert!(is_kept(&kept_name("web")) && !is_kept("web"));
    }
}
