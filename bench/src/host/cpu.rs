//! CPU time of a thread, and of a whole server.
//!
//! The total is exact everywhere: the scheduler counts nanoseconds. How it divides into user and
//! system time is, on kernels with tick accounting (the usual build), a sample: each timer tick
//! charges whichever side it interrupts. The share is then known to within its sampling error,
//! [`CpuTime::user_error_us`], and many rounds are worth more than one.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::gettid;

use super::group::{Group, tree_of};

/// The clock of one thread's CPU time.
#[derive(Debug)]
pub struct ThreadClock(PathBuf);

impl ThreadClock {
    /// That of the calling thread; it can be read from any other.
    pub fn of_this_thread() -> Self {
        Self(PathBuf::from(format!("/proc/self/task/{}/schedstat", gettid())))
    }

    /// CPU time so far; zero once the thread has ended.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(schedstat_ns(&self.0).unwrap_or(0))
    }
}

/// CPU time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTime {
    /// All of it; exact.
    pub total_us: f64,
    /// The user part, as far as the kernel's accounting knows it.
    pub user_us: f64,
}

impl CpuTime {
    /// The time since an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total_us: self.total_us - earlier.total_us,
            user_us: (self.user_us - earlier.user_us).max(0.0),
        }
    }

    /// The standard error of `user_us` where a tick of `hz` a second takes the sample.
    pub fn user_error_us(self, hz: f64) -> f64 {
        let ticks = self.total_us / 1e6 * hz;
        if ticks < 1.0 {
            return self.total_us;
        }
        // One tick more than seen, so that "none seen" does not read as "surely none".
        let share = ((self.user_us / self.total_us * ticks + 1.0) / (ticks + 1.0)).min(1.0);
        (share * (1.0 - share) / ticks).sqrt() * self.total_us
    }
}

/// Where a server's CPU time is read.
#[derive(Debug)]
pub enum Account<'a> {
    /// cgroup v2 `cpu.stat`: every process that was ever in the group, ended ones too.
    Group(&'a Group),
    /// `/proc`, summed over the live processes below this one.
    Tree(u32),
}

impl Account<'_> {
    /// The name of the source, for the record.
    pub fn source(&self) -> &'static str {
        match self {
            Self::Group(_) => "cgroup v2 cpu.stat",
            Self::Tree(_) => "/proc/PID/task/TID/schedstat, stat",
        }
    }

    /// The time so far.
    pub fn read(&self) -> CpuTime {
        match self {
            Self::Group(group) => group.cpu_time(),
            Self::Tree(root) => {
                tree_of(*root).into_iter().map(process_time).fold(CpuTime::default(), |sum, one| {
                    CpuTime {
                        total_us: sum.total_us + one.total_us,
                        user_us: sum.user_us + one.user_us,
                    }
                })
            }
        }
    }
}

/// CPU time in microseconds that anything at all, a hypervisor's other guests included, took on
/// these CPUs since the machine started; of all CPUs where none are named.
pub fn busy_us(cpus: &[usize]) -> f64 {
    busy_us_of(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpus)
}

/// The lines `cpuN user nice system idle iowait irq softirq steal …`, in hundredths of a second
/// (proc(5); USER_HZ is 100 on every architecture of today).
fn busy_us_of(stat: &str, cpus: &[usize]) -> f64 {
    let busy = |line: &str| -> Option<f64> {
        let (name, times) = line.split_once(' ')?;
        let cpu: usize = name.strip_prefix("cpu")?.parse().ok()?;
        let times: Vec<f64> =
            times.split_ascii_whitespace().map_while(|time| time.parse().ok()).collect();
        let wanted = cpus.is_empty() || cpus.contains(&cpu);
        wanted.then(|| times.iter().take(8).sum::<f64>() - times[3] - times[4])
    };
    stat.lines().filter_map(busy).sum::<f64>() * 10_000.0
}

/// The total from the scheduler's nanoseconds; the ticks of `stat` only divide it.
fn process_time(pid: u32) -> CpuTime {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return CpuTime::default() };
    let total_ns: u64 =
        tasks.filter_map(|task| schedstat_ns(&task.ok()?.path().join("schedstat"))).sum();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let total_us = total_ns as f64 / 1000.0;
    let user_share = user_share(&stat).unwrap_or(0.0);
    CpuTime { total_us, user_us: total_us * user_share }
}

/// utime / (utime + stime), fields 14 and 15 of `/proc/PID/stat` (proc(5)).
fn user_share(stat: &str) -> Option<f64> {
    // The second field, the name, may hold anything: count from the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    (user + system > 0.0).then(|| user / (user + system))
}

fn schedstat_ns(path: &std::path::Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_share_is_found_behind_any_name() {
        let stat = "12 (a) b (c)) S 1 12 12 0 -1 4194560 100 0 0 0 25 75 0 0 20 0 1 0 5 0 0";
        assert_eq!(user_share(stat), Some(0.25));
        assert_eq!(user_share("12 (x) S 1 1"), None);
    }

    #[test]
    fn busy_time_is_what_is_not_idle_on_the_cpus_asked_for() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 0 50 700 30 1 2 3 0 0\n\
            cpu1 10 0 0 990 0 0 0 0 0 0\nintr 5 1\n";
        assert_eq!(busy_us_of(stat, &[0]), 1_560_000.0);
        assert_eq!(busy_us_of(stat, &[]), 1_660_000.0);
    }

    #[test]
    fn a_threads_clock_runs_while_it_works() {
        let clock = ThreadClock::of_this_thread();
        let begin = clock.elapsed();
        let mut sum = 0u64;
        // Until the clock has moved: bounded by the test runner, not by a guess of the speed.
        while clock.elapsed() == begin {
            sum = (0..100_000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
        assert!(clock.elapsed() > begin);
    }

    #[test]
    fn sampling_error_falls_with_the_root_of_the_ticks() {
        let short = CpuTime { total_us: 1e6, user_us: 0.1e6 };
        let long = CpuTime { total_us: 100e6, user_us: 10e6 };
        let relative = |time: CpuTime| time.user_error_us(250.0) / time.user_us;
        let ratio = relative(short) / relative(long);
        assert!((9.0..11.0).contains(&ratio), "{ratio}");
    }
}
