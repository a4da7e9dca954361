//! System calls out of reach (seccomp).
//!
//! An allow-list, installed when the rings are set up. What is not on it fails with EPERM and
//! does not kill: a library that tries a newer call first must be able to fall back.

use std::io;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter, apply_filter_all_threads,
};

/// What serving needs: rings and sockets that exist, memory, threads, clocks, files to read
/// (which Landlock bounds), connections to upstreams. Not: other programs, other users, new
/// rings, new listening sockets, mounts, namespaces, tracing, kernel modules.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // The drivers.
    libc::SYS_io_uring_enter, libc::SYS_io_uring_register,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_ppoll, libc::SYS_eventfd2,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
    // Sockets.
    libc::SYS_connect, libc::SYS_accept4, libc::SYS_shutdown,
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg,
    libc::SYS_sendfile, libc::SYS_splice,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    // Files.
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_close, libc::SYS_read, libc::SYS_readv,
    libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_write, libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs,
    libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_getdents64,
    libc::SYS_readlinkat, libc::SYS_getcwd, libc::SYS_fcntl, libc::SYS_dup,
    libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_fadvise64, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_flock, libc::SYS_memfd_create,
    // Memory.
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect,
    libc::SYS_madvise, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mincore,
    libc::SYS_membarrier, libc::SYS_get_mempolicy, libc::SYS_set_mempolicy, libc::SYS_mbind,
    // Threads and signals.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_futex,
    libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_getcpu,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack, libc::SYS_tgkill, libc::SYS_restart_syscall, libc::SYS_prctl,
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid,
    // Clocks and numbers.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_getrandom, libc::SYS_getrusage,
    libc::SYS_prlimit64, libc::SYS_sysinfo, libc::SYS_uname,
];

/// Older forms of calls above, which other architectures never had.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
    libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_getdents, libc::SYS_dup2, libc::SYS_time,
    libc::SYS_arch_prctl,
];

#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// Leaves every thread of this process the system calls that serving needs.
///
/// # Errors
/// A kernel without seccomp filters: every one that has io_uring can be built with them, and
/// serving without the filter where it is asked for would not be told apart from serving with.
pub(crate) fn forbid_what_serving_does_not_need() -> io::Result<()> {
    install(apply_filter_all_threads)
}

/// The same for the calling thread alone.
pub(super) fn forbid_to_this_thread() -> io::Result<()> {
    install(apply_filter)
}

fn install(
    apply: impl Fn(seccompiler::BpfProgramRef<'_>) -> Result<(), seccompiler::Error>,
) -> io::Result<()> {
    let refused = |error: &dyn std::fmt::Display| {
        let mend = "set workers.sandbox = false to serve without";
        io::Error::other(format!("no seccomp filter can be installed: {error}; {mend}"))
    };
    let programs = [missing(), allowed()];
    for program in programs {
        apply(&program.map_err(|error| refused(&error))?).map_err(|error| refused(&error))?;
    }
    Ok(())
}

/// clone3(2) takes its flags from memory, where no filter sees them. The C library goes back to
/// clone(2) where a kernel has only that; of two filters the later one's EPERM would win, so
/// [`allowed`] lets the call through.
fn missing() -> Result<BpfProgram, BackendError> {
    let rules = [(libc::SYS_clone3, Vec::new())].into_iter().collect();
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, absent, arch()?)?.try_into()
}

fn allowed() -> Result<BpfProgram, BackendError> {
    let plain = ALLOWED.iter().chain(ALLOWED_HERE).chain(&[libc::SYS_clone3]);
    let plain = plain.map(|call| (*call, Vec::new()));
    let bounded = [
        (libc::SYS_socket, sockets()?),
        (libc::SYS_clone, threads()?),
        (libc::SYS_ioctl, ioctls()?),
    ];
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let rules = plain.chain(bounded).collect();
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch()?)?.try_into()
}

fn arch() -> Result<seccompiler::TargetArch, BackendError> {
    std::env::consts::ARCH.try_into()
}

/// Streams and datagrams of the internet and of this host: nothing raw, no netlink, none of the
/// rarely used families that kernel bugs are found in.
fn sockets() -> Result<Vec<SeccompRule>, BackendError> {
    const TYPE_MASK: u64 = 0xf;
    let mut rules = Vec::new();
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let family = condition(0, SeccompCmpOp::Eq, word(family))?;
            let kind = condition(1, SeccompCmpOp::MaskedEq(TYPE_MASK), word(kind))?;
            rules.push(SeccompRule::new(vec![family, kind])?);
        }
    }
    Ok(rules)
}

/// Threads of this process: neither other processes nor namespaces.
fn threads() -> Result<Vec<SeccompRule>, BackendError> {
    const NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    let mask = SeccompCmpOp::MaskedEq(word(libc::CLONE_THREAD | NAMESPACES));
    let only = condition(0, mask, word(libc::CLONE_THREAD))?;
    Ok(vec![SeccompRule::new(vec![only])?])
}

/// All but those that put words into a terminal's mouth.
fn ioctls() -> Result<Vec<SeccompRule>, BackendError> {
    let not = |request| condition(1, SeccompCmpOp::Ne, request);
    Ok(vec![SeccompRule::new(vec![not(libc::TIOCSTI)?, not(libc::TIOCLINUX)?])?])
}

fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn word(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;

    use super::*;

    #[test]
    fn a_filtered_thread_serves_and_can_do_little_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let tried = std::thread::spawn(move || {
            // This thread only: the test's others go on.
            forbid_to_this_thread().unwrap();
            (
                TcpStream::connect(address).is_ok(),
                std::thread::spawn(|| 1).join().is_ok(),
                Command::new("/bin/true").spawn().err().and_then(|error| error.raw_os_error()),
                TcpListener::bind("127.0.0.1:0").err().and_then(|error| error.raw_os_error()),
            )
        });
        let refused = Some(libc::EPERM);
        assert_eq!(tried.join().unwrap(), (true, true, refused, refused));
    }
}
