//! Binding of the calling thread to a CPU and of its memory to a NUMA node, and giving up what the
//! process no longer needs of it.
//!
//! The only file of this crate with `unsafe` in it: neither std nor nix wraps set_mempolicy(2),
//! and asking hwloc for it would keep a topology alive in every worker; madvise(2) on a range of
//! addresses is unsafe by nature.

use std::io;

use core_affinity::CoreId;

/// The highest NUMA node that [`bind_memory`] takes; the kernel's MAX_NUMNODES is at most 1024.
const NODES_MAX: u32 = 1024;

/// Pins the calling thread to one CPU. Threads that it starts later inherit this.
///
/// # Errors
/// `InvalidInput` for a CPU that the C library's fixed mask cannot name, else what
/// sched_setaffinity(2) said: EINVAL for a CPU that is offline or outside the cpuset.
pub fn pin_thread(cpu: u32) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as u32 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("CPU {cpu} is beyond the {} that can be pinned to", libc::CPU_SETSIZE),
        ));
    }
    if core_affinity::set_for_current(CoreId { id: cpu as usize }) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the calling thread take new memory from a NUMA node, and from others only when that
/// node has none left. Threads that it starts later inherit this; pages already touched stay.
///
/// Preferred and not bound: with MPOL_BIND a full node would have the OOM killer end the worker
/// while another node has memory left.
///
/// # Errors
/// ENOSYS on a kernel without NUMA, EPERM in a sandbox that forbids set_mempolicy(2), EINVAL for
/// a node that does not exist or that the cpuset leaves out.
pub fn bind_memory(node: u32) -> io::Result<()> {
    if node >= NODES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("NUMA node {node} is beyond the highest possible, {}", NODES_MAX - 1),
        ));
    }
    const WORD_BITS: u32 = libc::c_ulong::BITS;
    let mut mask = [0 as libc::c_ulong; (NODES_MAX / WORD_BITS) as usize];
    mask[(node / WORD_BITS) as usize] = 1 << (node % WORD_BITS);
    // The kernel reads one bit less than it is told (man 2 set_mempolicy, BUGS of get_mempolicy).
    let bits = libc::c_ulong::from(NODES_MAX) + 1;
    // SAFETY: the mask is alive for the call and has NODES_MAX bits, which is all that the kernel
    // reads of it when told of one bit more; the call writes no memory of ours.
    let done = unsafe {
        libc::syscall(libc::SYS_set_mempolicy, libc::MPOL_PREFERRED, mask.as_ptr(), bits)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets go of the pages of program text that only the start needed: they leave the resident set
/// of this process, stay in the page cache, and come back one by one where code runs again.
///
/// # Errors
/// When /proc/self/maps cannot be read, or what madvise(2) said.
pub fn release_start_up_text() -> io::Result<()> {
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let Some((start, len)) = text_mapping(line) else { continue };
        // SAFETY: the range is one mapping of this process, private, of a file, and neither
        // writable now nor meant to be: its pages are the file's bytes and are read again from
        // there when they are next touched.
        let done = unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(start), len, libc::MADV_DONTNEED)
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Start and length of a line of /proc/self/maps, if it is private text of a file. Data that the
/// dynamic linker has written and then sealed is no text and is left alone.
fn text_mapping(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_text = words.next()? == "r-xp" && words.nth(3)?.starts_with('/');
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    is_text.then(|| (start, end.saturating_sub(start)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CpuSet, sched_getaffinity};
    use nix::unistd::Pid;

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect()
    }

    #[test]
    fn text_is_let_go_and_comes_back() {
        assert_eq!(
            text_mapping("7f00-7f10 r-xp 00001000 fe:00 42    /usr/lib/libx.so"),
            Some((0x7f00, 0x10))
        );
        for line in [
            "7f00-7f10 r--p 00001000 fe:00 42 /usr/lib/libx.so",
            "7f00-7f10 rw-p 00001000 fe:00 42 /usr/lib/libx.so",
            "7f00-7f10 r-xp 00000000 00:00 0",
            "7f00-7f10 r-xp 00000000 00:00 0 [vdso]",
            "",
        ] {
            assert_eq!(text_mapping(line), None, "{line}");
        }
        release_start_up_text().expect("madvise");
        release_start_up_text().expect("madvise again");
    }

    #[test]
    fn a_pinned_thread_may_run_on_that_cpu_only() {
        let cpu = *allowed().last().expect("a CPU");
        let seen = std::thread::spawn(move || {
            pin_thread(cpu as u32).expect("pin");
            allowed()
        });
        assert_eq!(seen.join().expect("thread"), [cpu]);
    }

    #[test]
    fn impossible_cpus_and_nodes_are_errors() {
        assert!(pin_thread(1_000_000).is_err());
        std::thread::spawn(|| assert!(pin_thread(1023).is_err())).join().expect("thread");
        assert!(bind_memory(5_000).is_err());
    }

    #[test]
    fn memory_is_bound_to_the_first_node() {
        let policy = std::thread::spawn(|| {
            bind_memory(0).map(|()| std::fs::read_to_string("/proc/thread-self/numa_maps"))
        });
        match policy.join().expect("thread") {
            Ok(Ok(maps)) => {
                assert!(maps.contains("prefer:0") || maps.contains("prefer="), "{maps}")
            }
            Ok(Err(error)) => println!("skipped: no numa_maps to look at: {error}"),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                println!("skipped: this kernel has no NUMA policies");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
