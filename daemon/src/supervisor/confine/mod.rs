//! What a worker gives up before it serves.
//!
//! In this order, since each step needs what a later one takes away: nice value, user and
//! groups, capabilities, new privileges, files and ports (Landlock), and, when every ring thread
//! has been set up, system calls (seccomp). What a kernel does not offer is said and gone
//! without: serving with less around is better than not serving.

mod files;
mod syscalls;
mod user;

use std::io;
use std::path::Path;

use rustix::thread::{CapabilitySet, CapabilitySets};

pub(crate) use syscalls::forbid_what_serving_does_not_need;
pub(crate) use user::{Resolved, resolve};

use crate::config::Config;
use files::Reach;

/// How a worker is to be confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Confinement {
    /// Who to run as; none: as whoever started the server.
    pub(crate) user: Option<Resolved>,
    /// Whether to fence off files, ports and system calls.
    pub(crate) fence: bool,
}

/// What became of giving up: what holds, in a few words each, and what to warn of.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) holds: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Gives up what a worker has no use for once it has been handed its descriptors. Threads that
/// are started afterwards inherit all of it.
pub(crate) fn give_up(
    confinement: &Confinement,
    config: &Config,
    in_process: bool,
) -> io::Result<Held> {
    let mut held = Held::default();
    // The supervisor lives on in the worker's process, and user and capabilities are of the
    // whole process. As root it does not come to this: see `resolve`.
    if !in_process {
        held.holds.extend(become_ordinary(confinement)?);
    }
    rustix::thread::set_no_new_privs(true)?;
    held.holds.push("no new privileges".to_owned());
    if confinement.fence {
        let reach = Reach::of(config);
        let absent = |path: &Path| {
            format!("{} is not there, and workers will not see it appear", path.display())
        };
        held.warnings.extend(reach.missing().map(absent));
        held.holds.push(reach.fence_off()?);
    }
    Ok(held)
}

/// Does to a thread of its own what is done to workers, and says what holds: for `emberd doctor`.
pub(crate) fn rehearse(config: &Config) -> io::Result<Vec<String>> {
    let reach = Reach::of(config);
    let rehearsal = move || {
        rustix::thread::set_no_new_privs(true)?;
        let files = reach.fence_off()?;
        syscalls::forbid_to_this_thread()?;
        Ok(vec![files, "seccomp".to_owned()])
    };
    let thread = std::thread::Builder::new().spawn(rehearsal)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the rehearsal panicked")))
}

fn become_ordinary(confinement: &Confinement) -> io::Result<Vec<String>> {
    let mut holds = Vec::new();
    if let Some(user) = &confinement.user {
        drop_bounding_set();
        user.become_it()?;
        holds.push(format!("user {}", user.name));
    } else if !nix::unistd::geteuid().is_root() {
        holds.push(format!("user id {}", nix::unistd::geteuid()));
    }
    if !nix::unistd::geteuid().is_root() {
        drop_capabilities()?;
        holds.push("no capabilities".to_owned());
    }
    Ok(holds)
}

/// A program that a worker might be made to execute could not get any of them back, with or
/// without set-user-id bits. Needs CAP_SETPCAP, so that it fails where there is nothing to drop.
fn drop_bounding_set() {
    for capability in CapabilitySet::all() {
        // EINVAL: one that this kernel does not know.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

fn drop_capabilities() -> io::Result<()> {
    // EINVAL before Linux 4.3, which had none.
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, none)?)
}
