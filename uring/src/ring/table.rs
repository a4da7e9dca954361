//! How the ring's table of sockets is shared out.

use crate::Options;

/// The ring's file table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) len: u32,
    /// Its first slots, which accepted sockets are put into: more than the limit, for a multishot
    /// accept does not know of that.
    pub(super) accepts: u32,
    /// The limit.
    pub(super) sockets_max: u32,
}

/// Listeners whose final completions are reckoned with.
const LISTENERS_USUAL: u32 = 64;

/// Shares out a table that the kernel caps by this process's limit of descriptors.
///
/// A multishot accept goes on until the backlog is empty or the completion queue full, so one turn
/// brings at most a queue of connections beyond the limit, and each listener's final one. There is
/// room for these, or for as many of them as the limit of descriptors allows.
pub(super) fn table(options: &Options, descriptors: u32) -> Table {
    // Who connects as often as it accepts, as a proxy does, gets half of it.
    let part = if options.connects_max < options.sockets_max { 4 } else { 2 };
    let connects = options.connects_max.min(descriptors / part);
    let burst = options.cq_entries.saturating_add(LISTENERS_USUAL);
    let room = descriptors - connects;
    let sockets_max = options.sockets_max.min(room - burst.min(descriptors / 16)).max(1);
    let accepts = sockets_max + burst.min(room.saturating_sub(sockets_max));
    Table { len: accepts + connects, accepts, sockets_max }
}

impl Options {
    /// How many of [`Options::sockets_max`] there can be where a process may have so many
    /// descriptors.
    #[must_use]
    pub fn sockets_within(&self, descriptors: u32) -> u32 {
        table(self, descriptors).sockets_max
    }

    /// The limit of descriptors by which all of [`Options::sockets_max`] fit.
    #[must_use]
    pub fn descriptors_wanted(&self) -> u32 {
        let beside = self.connects_max.saturating_add(self.cq_entries + LISTENERS_USUAL);
        self.sockets_max.saturating_add(beside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(sockets_max: u32) -> Options {
        Options { sockets_max, connects_max: 1024, cq_entries: 4096, ..Options::default() }
    }

    #[test]
    fn a_burst_has_room_beyond_the_limit() {
        let table = table(&options(100), 1 << 20);
        assert_eq!(table.sockets_max, 100);
        assert_eq!(table.accepts, 100 + 4096 + LISTENERS_USUAL);
        assert_eq!(table.len, table.accepts + 1024);
    }

    #[test]
    fn all_fit_where_as_many_descriptors_are_allowed_as_wanted() {
        for sockets_max in [1, 100, 10_000, 65_536, 1 << 20] {
            let options = options(sockets_max);
            assert_eq!(options.sockets_within(options.descriptors_wanted()), sockets_max);
        }
    }

    #[test]
    fn few_descriptors_are_shared_out_and_never_exceeded() {
        for descriptors in [1, 2, 10, 64, 1024, 5000, 66_000] {
            let table = table(&options(65_536), descriptors);
            assert!(table.sockets_max >= 1 && table.accepts >= table.sockets_max);
            assert!(table.len <= descriptors.max(2), "{table:?} of {descriptors}");
            let beyond = table.accepts - table.sockets_max;
            assert!(descriptors < 64 || beyond > 0, "{table:?} of {descriptors}");
        }
    }
}
