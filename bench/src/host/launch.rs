//! Starting a server on chosen CPUs, in a group of its own, with room for its connections.
//!
//! What has to be set in the child before it becomes the server is set by this program itself,
//! started once more as `ember-bench __exec …`, which then turns into the server: so no code runs
//! between fork and exec here.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::pin;

/// What a started program gets.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The CPUs it may run on; none: all that we may.
    pub cpus: Vec<usize>,
    /// The `cgroup.procs` that it enters.
    pub group: Option<PathBuf>,
    /// Open files it may have, if the hard limit allows.
    pub open_files: u64,
}

/// Starts `command` in `place` through `launcher` (this program), its output going to `log`.
pub fn start(
    launcher: &Path,
    place: &Place,
    command: &[OsString],
    dir: &Path,
    log: &File,
) -> io::Result<Child> {
    let mut through = Command::new(launcher);
    through.arg("__exec").arg("--open-files").arg(place.open_files.to_string());
    if !place.cpus.is_empty() {
        let list: Vec<String> = place.cpus.iter().map(usize::to_string).collect();
        through.arg("--cpus").arg(list.join(","));
    }
    if let Some(group) = &place.group {
        through.arg("--group").arg(group);
    }
    through.arg("--").args(command).current_dir(dir);
    through.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    // A group of its own, so that a Ctrl-C for the benchmark does not stop the server first.
    through.process_group(0).spawn()
}

/// The child's side of [`start`]: takes its place and becomes `command`. Returns only on failure.
pub fn become_command(place: &Place, command: &[OsString]) -> io::Error {
    if let Some(group) = &place.group
        && let Err(error) = fs::write(group, "0")
    {
        return error;
    }
    pin::to(&place.cpus);
    pin::raise_open_files(place.open_files);
    // A benchmark that is killed leaves no server behind.
    if let Err(error) = set_pdeathsig(Signal::SIGTERM) {
        return error.into();
    }
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no command to become");
    };
    Command::new(program).args(arguments).exec()
}
