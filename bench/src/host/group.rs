//! A server's processes: a cgroup of their own where that can be had, else the tree in `/proc`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cpu::CpuTime;

/// How long killed processes may take to leave a group.
const EMPTY_WAIT: Duration = Duration::from_secs(3);

/// A cgroup v2 that this process made, removed when dropped together with whoever is in it.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
}

impl Group {
    /// Makes a group under the root of the cgroup v2 hierarchy. Needs root, or a delegated tree.
    pub fn create() -> io::Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let root = mount_point().ok_or_else(|| io::Error::other("no cgroup v2 is mounted"))?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("ember-bench-{}-{serial}", std::process::id()));
        fs::create_dir(&path)?;
        let group = Self { path };
        // Some sandboxes let the directory be made and nothing be put in it.
        fs::OpenOptions::new().write(true).open(group.procs_path())?;
        fs::read_to_string(group.path.join("cpu.stat"))?;
        Ok(group)
    }

    /// The file that a process writes itself into.
    pub fn procs_path(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The processes in it.
    pub fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.procs_path()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The CPU time of all processes that are or were in it.
    pub fn cpu_time(&self) -> CpuTime {
        let text = fs::read_to_string(self.path.join("cpu.stat")).unwrap_or_default();
        parse_cpu_stat(&text)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let until = Instant::now() + EMPTY_WAIT;
        while fs::remove_dir(&self.path).is_err() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn parse_cpu_stat(text: &str) -> CpuTime {
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    CpuTime { total_us: value("usage_usec"), user_us: value("user_usec") }
}

/// Where cgroup v2 is mounted: alone, or beside v1 in a hybrid set-up.
fn mount_point() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.find(|fields| fields.get(2) == Some(&"cgroup2")).map(|fields| PathBuf::from(fields[1]))
}

/// A process and all below it, by the parents that `/proc` tells.
pub fn tree_of(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> =
        processes().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree.retain(|pid| Path::new("/proc").join(pid.to_string()).exists());
    tree
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpu_stat_is_read_by_name() {
        let text = "usage_usec 1500\nuser_usec 400\nsystem_usec 1100\nnice_usec 0\n";
        assert_eq!(parse_cpu_stat(text), CpuTime { total_us: 1500.0, user_us: 400.0 });
    }

    #[test]
    fn the_tree_holds_children_of_children() {
        // The inner shell waits for `cat`, which waits for its input to end.
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'cat; :'; :"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let until = Instant::now() + Duration::from_secs(20);
        while tree_of(shell.id()).len() < 3 && Instant::now() < until {
            thread::yield_now();
        }
        assert_eq!(tree_of(shell.id()).len(), 3);
        drop(shell.stdin.take());
        shell.wait().expect("the shell ends when its input does");
    }
}
