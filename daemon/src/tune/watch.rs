//! The watch over what was applied: at times, and soon after a link has changed.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ember_sysctl::journal::Contents;
use ember_sysctl::watch::{Drift, Watch};
use ember_sysctl::{Live, Plan};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use super::{Ground, start};
use crate::config::Config;

/// How often everything is read back without an occasion.
const PERIOD: Duration = Duration::from_secs(60);
/// How long a driver is given after a change of its link to settle.
const SETTLE: Duration = Duration::from_secs(2);
/// The multicast group of changes of links (RTMGRP_LINK of linux/rtnetlink.h).
const LINK_CHANGES: u32 = 1;

/// Looks at the host when it is due.
#[derive(Debug)]
pub(crate) struct Watcher {
    config: Config,
    watch: Watch,
    host: Live,
    /// Tells of links that change; without it the period has to do.
    links: Option<OwnedFd>,
    due: Instant,
    last: Drift,
}

/// What was seen.
pub(crate) struct Seen {
    /// How the host stands.
    pub(crate) drift: Drift,
    /// Something to tell people, where that has changed.
    pub(crate) line: Option<String>,
}

/// Watches what the program before this one has applied, or what a reload makes the plan.
///
/// # Errors
/// Where there is no plan.
pub(crate) fn resume(config: &Config) -> Result<Option<Watcher>, String> {
    if !config.tune.apply {
        return Ok(None);
    }
    let ground = Ground::of_config(config)?;
    let plan = Plan::make(&ground.host, ground.input()).map_err(|error| error.to_string())?;
    let journal = Contents::look(&ground.host, &config.state_dir);
    let journal = journal.map_err(|error| error.to_string())?;
    Ok(Watcher::new(config.clone(), Watch::new(&plan, journal.as_ref())))
}

impl Watcher {
    pub(super) fn new(config: Config, watch: Watch) -> Option<Watcher> {
        let host = Live::open().ok()?;
        let last = Drift::default();
        Some(Watcher { config, watch, host, links: link_changes().ok(), due: Instant::now(), last })
    }

    /// What is not as planned, by the last look.
    pub(crate) fn drifted(&self) -> Vec<&str> {
        self.last.names()
    }

    /// What to poll for reading.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.links.as_ref().map(AsFd::as_fd)
    }

    /// When to look.
    pub(crate) fn next_due(&self) -> Instant {
        self.due
    }

    /// Takes the news of links: what they say does not matter, that they came does.
    pub(crate) fn hear(&mut self, now: Instant) {
        let Some(links) = &self.links else { return };
        let mut news = [0; 4096];
        while recv(links.as_raw_fd(), &mut news, MsgFlags::MSG_DONTWAIT).is_ok_and(|len| len > 0) {}
        self.due = self.due.min(now + SETTLE);
    }

    /// Looks, if it is time to. Applies again what has drifted where the config asks for that.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Seen> {
        if now < self.due {
            return None;
        }
        self.due = now + PERIOD;
        let mut drift = self.watch.look(&self.host);
        let mut line = self.news(&drift);
        if !drift.names().is_empty() && self.config.tune.reapply {
            match start::tune(&self.config) {
                Ok((told, watch)) => {
                    self.watch = watch;
                    drift = self.watch.look(&self.host);
                    line = line.map(|line| format!("{line}; applied again: {told}"));
                }
                Err(error) => line = line.map(|line| format!("{line}; not applied again: {error}")),
            }
        }
        self.last.clone_from(&drift);
        Some(Seen { drift, line })
    }

    fn news(&self, drift: &Drift) -> Option<String> {
        let (before, now) = (self.last.names(), drift.names());
        match (before == now, now.is_empty()) {
            (true, _) => None,
            (false, true) => Some("tuning: as planned again".to_owned()),
            (false, false) => Some(format!(
                "tuning has drifted: {}; `emberd tune status` says how, `emberd tune apply` sets \
                 it again",
                now.join(", ")
            )),
        }
    }
}

fn link_changes() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkRoute;
    let links = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(links.as_raw_fd(), &NetlinkAddr::new(0, LINK_CHANGES))?;
    Ok(links)
}
