//! Which CPUs the kernel, the container and the boot line leave to this process, and how much
//! memory.

use std::fs;
use std::path::Path;

use crate::cpu_set::CpuSet;

/// The limits of this process. `None` means that nothing is known to be left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Allowed by sched_setaffinity(2) and the cgroup's cpuset, which the kernel folds into one.
    pub allowed: Option<CpuSet>,
    /// Online now.
    pub online: Option<CpuSet>,
    /// Taken out of the scheduler's hands at boot (`isolcpus=`): only for who asks by number.
    pub isolated: CpuSet,
    /// How many CPUs' worth of time the cgroup grants (`cpu.max`, or the v1 quota).
    pub quota_cpus: Option<f64>,
    /// How much memory the cgroup grants (`memory.max`, or the v1 limit).
    pub memory_bytes: Option<u64>,
}

/// Above this a v1 limit is none: the kernel prints the largest number of pages that it knows.
const MEMORY_UNLIMITED: u64 = 1 << 60;

impl Limits {
    /// Reads them from /proc and /sys below `root`.
    pub fn read(root: &Path) -> Limits {
        let status = text(root, "proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let list = |path| text(root, path).and_then(|list| list.parse::<CpuSet>().ok());
        Limits {
            allowed: allowed.and_then(|list| list.parse().ok()),
            online: list("sys/devices/system/cpu/online"),
            isolated: list("sys/devices/system/cpu/isolated").unwrap_or_default(),
            quota_cpus: of_cgroup(root, "cpu", quota_v1, quota_v2).into_iter().reduce(f64::min),
            memory_bytes: of_cgroup(root, "memory", memory_v1, memory_v2).into_iter().min(),
        }
    }

    /// What of `cpus` may be pinned to when asked for by number: isolated ones included.
    pub fn permitted(&self, cpus: &CpuSet) -> CpuSet {
        let within = |cpus: CpuSet, limit: &Option<CpuSet>| match limit {
            Some(limit) => cpus.intersection(limit),
            None => cpus,
        };
        within(within(cpus.clone(), &self.allowed), &self.online)
    }

    /// What of `cpus` may be used unasked.
    pub fn usable(&self, cpus: &CpuSet) -> CpuSet {
        self.permitted(cpus).difference(&self.isolated)
    }
}

/// What the cgroup grants, in words; none where it grants all.
pub fn words(limits: &Limits) -> Option<String> {
    let time = limits.quota_cpus.map(|cpus| format!("{cpus} CPUs' time"));
    let memory = limits.memory_bytes.map(|bytes| format!("{} MiB of memory", bytes >> 20));
    let granted: Vec<String> = time.into_iter().chain(memory).collect();
    (!granted.is_empty()).then(|| format!("the cgroup grants {}", granted.join(" and ")))
}

fn text(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

/// The limits of a controller on the way from this process's cgroup up to the root.
fn of_cgroup<T>(
    root: &Path,
    controller: &str,
    v1: fn(&Path, &str) -> Option<T>,
    v2: fn(&Path, &str) -> Option<T>,
) -> Vec<T> {
    let groups = text(root, "proc/self/cgroup").unwrap_or_default();
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let version_1 = controllers.split(',').any(|name| name == controller);
        if !version_1 && !controllers.is_empty() {
            continue;
        }
        let mounts = match version_1 {
            true => [format!("sys/fs/cgroup/{controller}"), format!("sys/fs/cgroup/{controllers}")],
            false => ["sys/fs/cgroup".to_owned(), "sys/fs/cgroup/unified".to_owned()],
        };
        let limit = if version_1 { v1 } else { v2 };
        for mount in mounts {
            let groups = Path::new(path.trim_start_matches('/')).ancestors();
            let directories = groups.map(|group| format!("{mount}/{}", group.display()));
            limits.extend(directories.filter_map(|directory| limit(root, &directory)));
        }
    }
    limits
}

fn quota_v2(root: &Path, directory: &str) -> Option<f64> {
    let line = text(root, &format!("{directory}/cpu.max"))?;
    let (quota, period) = line.trim().split_once(' ')?;
    ratio(quota, period)
}

fn quota_v1(root: &Path, directory: &str) -> Option<f64> {
    let quota = text(root, &format!("{directory}/cpu.cfs_quota_us"))?;
    let period = text(root, &format!("{directory}/cpu.cfs_period_us"))?;
    ratio(quota.trim(), period.trim())
}

/// `max` is no number, and none.
fn memory_v2(root: &Path, directory: &str) -> Option<u64> {
    text(root, &format!("{directory}/memory.max"))?.trim().parse().ok()
}

fn memory_v1(root: &Path, directory: &str) -> Option<u64> {
    let limit = text(root, &format!("{directory}/memory.limit_in_bytes"))?;
    limit.trim().parse().ok().filter(|bytes| *bytes < MEMORY_UNLIMITED)
}

/// `max` and -1 stand for "no quota" and read as none.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test's own, removed when it is done.
    struct Tree(std::path::PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Tree {
            let root =
                std::env::temp_dir().join(format!("ember-limits-{name}-{}", std::process::id()));
            for (path, contents) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
                fs::write(path, contents).expect("write");
            }
            Tree(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn limits_come_from_proc_and_sys() {
        let tree = Tree::new(
            "all",
            &[
                ("proc/self/status", "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\n"),
                ("proc/self/cgroup", "0::/system.slice/emberd.service\n"),
                ("sys/devices/system/cpu/online", "0-5\n"),
                ("sys/devices/system/cpu/isolated", "4-5\n"),
                ("sys/fs/cgroup/system.slice/cpu.max", "250000 100000\n"),
                ("sys/fs/cgroup/system.slice/emberd.service/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
                ("sys/fs/cgroup/system.slice/emberd.service/memory.max", "268435456\n"),
            ],
        );
        let limits = Limits::read(&tree.0);
        let machine: CpuSet = "0-15".parse().expect("list");
        assert_eq!(limits.permitted(&machine).to_string(), "0-5");
        assert_eq!(limits.usable(&machine).to_string(), "0-3");
        assert_eq!(limits.quota_cpus, Some(2.5));
        assert_eq!(limits.memory_bytes, Some(256 << 20));
    }

    #[test]
    fn limits_of_version_1_count_and_the_largest_number_is_none() {
        let files = |quota| {
            [
                ("proc/self/cgroup", "5:memory:/web\n4:cpu,cpuacct:/web\n1:name=systemd:/\n"),
                ("sys/fs/cgroup/memory/web/memory.limit_in_bytes", "67108864\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/cpu/web/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu/web/cpu.cfs_period_us", "100000\n"),
            ]
        };
        let tree = Tree::new("v1", &files("150000\n"));
        assert_eq!(Limits::read(&tree.0).quota_cpus, Some(1.5));
        assert_eq!(Limits::read(&tree.0).memory_bytes, Some(64 << 20));
        let unlimited = "sys/fs/cgroup/memory/web/memory.limit_in_bytes";
        fs::write(tree.0.join(unlimited), "9223372036854771712\n").expect("write");
        assert_eq!(Limits::read(&tree.0).memory_bytes, None);
        let tree = Tree::new("v1-none", &files("-1\n"));
        assert_eq!(Limits::read(&tree.0).quota_cpus, None);
    }

    #[test]
    fn nothing_readable_limits_nothing() {
        let machine: CpuSet = "0-3".parse().expect("list");
        assert_eq!(Limits::read(Path::new("/nonexistent")).usable(&machine), machine);
    }
}
