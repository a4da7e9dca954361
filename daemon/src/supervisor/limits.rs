//! Limits of the processes: raised as far as this user may, or else the config is cut to fit.
//!
//! They are set on the supervisor and inherited by the workers.

use std::fs;
use std::io;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

use crate::config::Config;

/// Descriptors of a worker that are no connections: rings, sockets handed to it, files, upstreams.
const DESCRIPTORS_RESERVED: rlim_t = 512;

/// Makes room for the connections that the config wants, and where that cannot be, lowers their
/// number and says so. A ring's table of sockets is bounded by this limit too.
pub(super) fn make_room_for_connections(config: &mut Config) -> Option<String> {
    let max = config.limits.max_connections;
    let ring = config.driver_options(max);
    let wanted = rlim_t::from(ring.descriptors_wanted()) + DESCRIPTORS_RESERVED;
    let open_files = match raise(Resource::RLIMIT_NOFILE, wanted, descriptors_max()) {
        Ok(open_files) => open_files,
        Err(error) => return Some(format!("the limit of open files is not known: {error}")),
    };
    let in_a_table = ring.sockets_within(u32::try_from(open_files).unwrap_or(u32::MAX));
    let fitting = cut_to_fit(max.min(in_a_table), open_files).unwrap_or(in_a_table);
    if fitting == max {
        return None;
    }
    let warning = format!(
        "limits.max_connections is lowered from {max} to {fitting}: this process may open \
         {open_files} files; raise LimitNOFILE= of the service, or `ulimit -n`, to {wanted}"
    );
    config.limits.max_connections = fitting;
    Some(warning)
}

/// Lets the workers lock as much memory as this user may.
pub(super) fn make_room_for_locked_memory() {
    // The driver says what it could not lock.
    let _ = raise(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

/// How many connections fit, where it is fewer than wanted.
fn cut_to_fit(connections: u32, open_files: rlim_t) -> Option<u32> {
    let room = open_files.saturating_sub(DESCRIPTORS_RESERVED).max(1);
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    (room < connections).then_some(room)
}

/// Raises the soft limit to `wanted`, and for that the hard one up to `ceiling` where this user
/// may; gives what the soft limit then is.
fn raise(resource: Resource, wanted: rlim_t, ceiling: rlim_t) -> io::Result<rlim_t> {
    let (soft, hard) = getrlimit(resource)?;
    if soft >= wanted {
        return Ok(soft);
    }
    let most = wanted.min(ceiling);
    if most > hard && setrlimit(resource, most, most).is_ok() {
        return Ok(most);
    }
    let soft = wanted.min(hard);
    setrlimit(resource, soft, hard)?;
    Ok(soft)
}

/// What the kernel lets any process have.
fn descriptors_max() -> rlim_t {
    let text = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    text.trim_end().parse().unwrap_or(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_cut_to_what_fits_and_no_further() {
        assert_eq!(cut_to_fit(65_536, 65_536 + DESCRIPTORS_RESERVED), None);
        assert_eq!(cut_to_fit(65_536, 65_535 + DESCRIPTORS_RESERVED), Some(65_535));
        assert_eq!(cut_to_fit(65_536, 1_024), Some(512));
        assert_eq!(cut_to_fit(65_536, 100), Some(1));
        assert_eq!(cut_to_fit(u32::MAX, RLIM_INFINITY), None);
    }

    #[test]
    fn a_limit_is_raised_as_far_as_it_goes_and_never_lowered() {
        // Of this test's process; more than before harms nobody.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise(Resource::RLIMIT_NOFILE, 1, hard).unwrap(), soft);
        let wanted = hard.min(soft + 1);
        assert_eq!(raise(Resource::RLIMIT_NOFILE, wanted, hard).unwrap(), wanted);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (wanted, hard));
    }
}
