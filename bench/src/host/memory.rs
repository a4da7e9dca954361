//! Resident memory of a set of processes.

use std::fs;

use serde::{Deserialize, Serialize};

/// Bytes over all processes of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident set sizes, summed: pages that two processes share count twice.
    pub rss: u64,
    /// Proportional set sizes, summed: shared pages are divided among those who share them.
    pub pss: u64,
    /// What only one process each has.
    pub private: u64,
    /// The highest resident set size of each process, summed.
    pub peak_rss: u64,
}

impl Memory {
    /// Of all these processes; one that has ended counts nothing.
    pub fn of(pids: &[u32]) -> Self {
        pids.iter().fold(Self::default(), |sum, pid| {
            let rollup = read(*pid, "smaps_rollup");
            let status = read(*pid, "status");
            Self {
                rss: sum.rss + kib(&rollup, "Rss:"),
                pss: sum.pss + kib(&rollup, "Pss:"),
                private: sum.private
                    + kib(&rollup, "Private_Clean:")
                    + kib(&rollup, "Private_Dirty:"),
                peak_rss: sum.peak_rss + kib(&status, "VmHWM:"),
            }
        })
    }
}

fn read(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

/// The bytes of a line `name   123 kB`.
fn kib(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .unwrap_or(0)
        * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_names_only() {
        let text = "Rss:                1234 kB\nPss:                 600 kB\nPss_Dirty:   5 kB\n";
        assert_eq!(kib(text, "Rss:"), 1234 * 1024);
        assert_eq!(kib(text, "Pss:"), 600 * 1024);
        assert_eq!(kib(text, "Swap:"), 0);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = Memory::of(&[std::process::id()]);
        assert!(memory.pss > 0 && memory.rss >= memory.pss && memory.rss >= memory.private);
        assert!(memory.peak_rss > 0);
    }
}
