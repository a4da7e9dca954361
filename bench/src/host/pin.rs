//! CPU affinity and the limit of open files.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// Pins the calling thread. A CPU that is not there is not worth failing for: the run's record
/// says what the threads were allowed.
pub fn this_thread(cpu: usize) {
    to(&[cpu]);
}

/// Lets the calling thread, and what it starts, run on these CPUs only.
pub fn to(cpus: &[usize]) {
    let mut set = CpuSet::new();
    let known = cpus.iter().filter(|cpu| set.set(**cpu).is_ok()).count();
    if known > 0
        && let Err(error) = sched_setaffinity(Pid::from_raw(0), &set)
    {
        eprintln!("cannot run on CPUs {cpus:?} alone ({error}): going on unpinned");
    }
}

/// The CPUs that the calling thread may run on.
pub fn allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// Raises the soft limit of open files to `wanted`, or to the hard limit if that is less.
pub fn raise_open_files(wanted: u64) {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        // Where this fails, opening the connections fails later and says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}
