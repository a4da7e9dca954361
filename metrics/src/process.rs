//! The `process_*` numbers, added over the processes of a server.

use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::catalogue::Family;

/// What `/proc` says about a set of processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Processes {
    /// User and system time, children that ended included: when a worker ends, its time stays in
    /// the sum as its parent's child time, so the sum never goes down.
    pub cpu: Duration,
    /// Open descriptors, of the processes that may be looked into.
    pub open_fds: u64,
    /// The soft limit of descriptors of those processes.
    pub max_fds: u64,
    /// Address space in bytes.
    pub virtual_bytes: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Unix time in seconds at which the oldest one started.
    pub start_seconds: Option<f64>,
}

impl Processes {
    /// Reads `/proc` for these processes. One that has ended meanwhile is left out.
    pub fn read(pids: &[u32]) -> Self {
        let mut all = Self::default();
        for pid in pids {
            let Some(stat) = Stat::read(*pid) else { continue };
            all.cpu += stat.cpu;
            all.virtual_bytes += stat.virtual_bytes;
            all.resident_bytes += stat.resident_bytes;
            all.threads += stat.threads;
            let earlier = all.start_seconds.map_or(stat.start, |start| start.min(stat.start));
            all.start_seconds = Some(earlier);
            if let Some((open, max)) = descriptors(*pid) {
                all.open_fds += open;
                all.max_fds += max;
            }
        }
        // The oldest start was counted from boot.
        all.start_seconds =
            all.start_seconds.and_then(|start| boot_time().map(|boot| boot + start));
        all
    }

    /// The samples of the catalogue's `process_*` families.
    pub(crate) fn samples(&self) -> impl Iterator<Item = (Family, f64)> {
        let known = self.start_seconds.map(|_| {
            [
                (Family::ProcessCpu, self.cpu.as_secs_f64()),
                (Family::ProcessOpenFds, self.open_fds as f64),
                (Family::ProcessMaxFds, self.max_fds as f64),
                (Family::ProcessVirtualMemory, self.virtual_bytes as f64),
                (Family::ProcessResidentMemory, self.resident_bytes as f64),
                (Family::ProcessStartTime, self.start_seconds.unwrap_or_default()),
                (Family::ProcessThreads, self.threads as f64),
            ]
        });
        known.into_iter().flatten()
    }
}

/// One `/proc/PID/stat`.
struct Stat {
    cpu: Duration,
    threads: u64,
    /// Seconds from boot to the start of the process.
    start: f64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Fields are numbered as in proc_pid_stat(5).
    fn parse(line: &str) -> Option<Self> {
        // The second field is the command in parentheses, which may hold any character.
        let after_command = &line[line.rfind(')')? + 1..];
        let fields: Vec<&str> = after_command.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok()??.max(1) as f64;
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok()??.cast_unsigned();
        // utime, stime, cutime and cstime; the last two are of children waited for.
        let ticks = (14..=17).map(field).sum::<Option<u64>>()?;
        Some(Self {
            cpu: Duration::from_secs_f64(ticks as f64 / ticks_per_second),
            threads: field(20)?,
            start: field(22)? as f64 / ticks_per_second,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
        })
    }
}

/// Open descriptors and the soft limit; none where this process may not look.
fn descriptors(pid: u32) -> Option<(u64, u64)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let max = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some((open, max))
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn commands_with_odd_characters_are_read() {
        let line = "77 (a) b (c)) S 1 77 77 0 -1 4194304 9 0 0 0 100 50 25 25 20 0 3 0 500 \
                    8192000 250 184";
        let stat = Stat::parse(line).unwrap();
        let ticks = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
        assert_eq!(stat.cpu, Duration::from_secs_f64(200.0 / ticks));
        assert_eq!((stat.threads, stat.virtual_bytes), (3, 8_192_000));
        assert_eq!(stat.start, 500.0 / ticks);
        assert!(Stat::parse("77 (short) S 1").is_none());
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn own_numbers_are_plausible() {
        let kept = fs::File::open("/dev/null").unwrap();
        let own = Processes::read(&[std::process::id()]);
        assert!(own.resident_bytes > 100_000 && own.virtual_bytes > own.resident_bytes);
        assert!(own.threads >= 1 && own.open_fds >= 4 && own.max_fds >= own.open_fds);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let start = own.start_seconds.unwrap();
        assert!(start < now + 2.0 && start > now - 86_400.0, "{start} {now}");
        drop(kept);
    }

    #[test]
    fn the_start_is_that_of_the_oldest() {
        let own = std::process::id();
        let first = Processes::read(&[1]).start_seconds;
        let Some(first) = first else { return println!("skipped: process 1 is hidden") };
        for pids in [[1, own], [own, 1]] {
            assert_eq!(Processes::read(&pids).start_seconds, Some(first));
        }
        assert!(own == 1 || Processes::read(&[own]).start_seconds.unwrap() > first);
    }

    #[test]
    fn numbers_are_added_over_processes() {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let one = Processes::read(&[child.id()]);
        let both = Processes::read(&[child.id(), std::process::id()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(both.resident_bytes > one.resident_bytes);
        assert!(both.threads > one.threads && both.open_fds > one.open_fds);
        assert_eq!(Processes::read(&[child.id()]), Processes::default());
        assert_eq!(Processes::default().samples().count(), 0);
    }
}
