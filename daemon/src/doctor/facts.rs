//! What the kernel says of itself and of this process, read from /proc and /sys.

use std::fs;
use std::path::Path;

use ember_affinity::Limits;

/// What was read; none where the kernel does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// As `uname -r` prints it.
    pub(super) release: String,
    pub(super) effective_uid: u32,
    /// Effective capabilities, a bit each.
    pub(super) capabilities: u64,
    /// 0: none, 1: strict, 2: a filter.
    pub(super) seccomp: u32,
    /// `kernel.io_uring_disabled`
    pub(super) io_uring_disabled: Option<u32>,
    pub(super) open_files: Limit,
    /// In bytes.
    pub(super) locked_memory: Limit,
    /// 20 minus the lowest nice value that may be set.
    pub(super) nice: Limit,
    pub(super) somaxconn: Option<u32>,
    /// `net.ipv4.ip_unprivileged_port_start`
    pub(super) unprivileged_port_start: Option<u16>,
    /// Names of the security modules.
    pub(super) lsm: Option<String>,
    /// The memory limit of the cgroup in bytes; none where there is no limit.
    pub(super) memory_max: Option<u64>,
}

/// A resource limit; none is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: Option<u64>,
    pub(super) hard: Option<u64>,
}

/// Bits of `CapEff`, by linux/capability.h.
#[derive(Clone, Copy, Debug)]
pub(super) enum Capability {
    NetBindService = 10,
    IpcLock = 14,
    SysNice = 23,
}

impl Facts {
    /// Reads them below `root`.
    pub(super) fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        let trimmed = |path: &str| text(path).map(|text| text.trim().to_owned());
        let status = text("proc/self/status").unwrap_or_default();
        let limits = text("proc/self/limits").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let effective = field("Uid:").and_then(|ids| ids.split_ascii_whitespace().nth(1));
        Self {
            release: trimmed("proc/sys/kernel/osrelease").unwrap_or_default(),
            effective_uid: effective.and_then(|id| id.parse().ok()).unwrap_or(u32::MAX),
            capabilities: field("CapEff:")
                .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
                .unwrap_or(0),
            seccomp: field("Seccomp:").and_then(|mode| mode.trim().parse().ok()).unwrap_or(0),
            io_uring_disabled: number(trimmed("proc/sys/kernel/io_uring_disabled")),
            open_files: limit(&limits, "Max open files"),
            locked_memory: limit(&limits, "Max locked memory"),
            nice: limit(&limits, "Max nice priority"),
            somaxconn: number(trimmed("proc/sys/net/core/somaxconn")),
            unprivileged_port_start: number(trimmed(
                "proc/sys/net/ipv4/ip_unprivileged_port_start",
            )),
            lsm: trimmed("sys/kernel/security/lsm"),
            memory_max: Limits::read(root).memory_bytes,
        }
    }

    pub(super) fn can(&self, capability: Capability) -> bool {
        self.capabilities >> capability as u32 & 1 == 1
    }

    /// Major and minor version.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.release.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

fn number<T: std::str::FromStr>(text: Option<String>) -> Option<T> {
    text?.parse().ok()
}

/// A line of /proc/self/limits: name, soft, hard, unit.
fn limit(limits: &str, name: &str) -> Limit {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut values = line.split_ascii_whitespace().map(|value| value.parse().ok());
    Limit { soft: values.next().flatten(), hard: values.next().flatten() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_host_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
        write("proc/sys/kernel/io_uring_disabled", "2\n");
        write("proc/sys/net/core/somaxconn", "4096\n");
        write(
            "proc/self/status",
            "Name:\tx\nUid:\t0\t1000\t0\t0\nCapEff:\t0000000000000400\nSeccomp:\t2\n",
        );
        write(
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units\n\
             Max open files            1024                 524288               files\n\
             Max locked memory         unlimited            unlimited            bytes\n\
             Max nice priority         0                    30\n",
        );
        write("proc/self/cgroup", "0::/system.slice/emberd.service\n");
        write("sys/fs/cgroup/system.slice/memory.max", "33554432\n");
        write("sys/fs/cgroup/system.slice/emberd.service/memory.max", "max\n");
        let facts = Facts::read(root.path());
        assert_eq!(facts.version(), Some((6, 1)));
        assert_eq!((facts.effective_uid, facts.seccomp), (1000, 2));
        assert!(facts.can(Capability::NetBindService) && !facts.can(Capability::SysNice));
        assert_eq!(facts.open_files, Limit { soft: Some(1024), hard: Some(524_288) });
        assert_eq!(facts.locked_memory, Limit::default());
        assert_eq!(facts.nice.hard, Some(30));
        assert_eq!((facts.io_uring_disabled, facts.somaxconn), (Some(2), Some(4096)));
        assert_eq!(facts.memory_max, Some(32 << 20));
        assert_eq!((facts.lsm, facts.unprivileged_port_start), (None, None));
    }

    #[test]
    fn nothing_said_is_nothing_read() {
        let empty = tempfile::tempdir().unwrap();
        let facts = Facts::read(empty.path());
        assert_eq!(facts.version(), None);
        assert_eq!(facts, Facts { effective_uid: u32::MAX, ..Facts::default() });
    }
}
