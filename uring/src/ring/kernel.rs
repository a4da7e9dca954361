//! The ring itself: making it, pushing entries, and the one system call a turn.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue};

use super::sqe::Sqe;
use crate::Options;

/// A ring, and how to enter it.
pub(super) struct Ring {
    ring: IoUring,
    /// The registered index of the ring's own descriptor, or the descriptor.
    enter_fd: RawFd,
    enter_flags: u32,
    sqpoll: bool,
    min_wait_usec: u32,
    pub(super) enters: u64,
    pub(super) submitted: u64,
    pub(super) overflows: u64,
}

/// How an enter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// As asked, or interrupted, or timed out.
    Fine,
    /// The kernel wants completions to be read first, or lacks memory for a moment.
    Busy,
}

const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct EventsArg {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_usec: u32,
    timespec: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// The set-ups to try, the best first. Each is served; what is missing is only dearer.
const SETUPS: [Setup; 4] = [
    Setup { name: "defer_taskrun, no_sqarray", defer: true, no_sqarray: true },
    Setup { name: "defer_taskrun", defer: true, no_sqarray: false },
    Setup { name: "coop_taskrun, no_sqarray", defer: false, no_sqarray: true },
    Setup { name: "coop_taskrun", defer: false, no_sqarray: false },
];

/// One way of making a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) name: &'static str,
    pub(super) defer: bool,
    no_sqarray: bool,
}

impl Ring {
    /// Makes a ring that is still disabled, with the best set-up that the kernel takes.
    pub(super) fn new(options: &Options) -> io::Result<(Ring, Setup)> {
        let mut refused = io::Error::from_raw_os_error(libc::ENOSYS);
        for setup in SETUPS {
            // The kernel's thread submits, so there is no task whose run could be deferred.
            if setup.defer && options.sqpoll_cpu.is_some() {
                continue;
            }
            match build(options, setup) {
                Ok(ring) => {
                    let enter_fd = ring.as_raw_fd();
                    let ring = Ring {
                        ring,
                        enter_fd,
                        enter_flags: 0,
                        sqpoll: options.sqpoll_cpu.is_some(),
                        min_wait_usec: 0,
                        enters: 0,
                        submitted: 0,
                        overflows: 0,
                    };
                    return Ok((ring, setup));
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    /// Enables the ring: from now on it belongs to this thread.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        self.ring.submitter().register_enable_rings()
    }

    /// Registers the ring's own descriptor, which saves a lookup an enter. Since 5.18.
    pub(super) fn register_own_fd(&mut self) -> io::Result<()> {
        let fd = self.ring.as_raw_fd();
        let mut update = RsrcUpdate { offset: u32::MAX, reserved: 0, data: fd as u64 };
        // SAFETY: The argument is one live `struct io_uring_rsrc_update`, which the kernel fills.
        let made = unsafe {
            libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_RING_FDS, &raw mut update, 1)
        };
        if made != 1 {
            return Err(io::Error::last_os_error());
        }
        self.enter_fd = update.offset as RawFd;
        self.enter_flags |= ENTER_REGISTERED_RING;
        Ok(())
    }

    pub(super) fn set_min_wait(&mut self, wait: Duration) {
        self.min_wait_usec = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
    }

    /// For registering things.
    pub(super) fn io_uring(&self) -> &IoUring {
        &self.ring
    }

    /// Whether `count` entries can be pushed, after handing over what is queued if need be. An
    /// operation and its successors must be reserved together, for a chain ends where a
    /// submission does.
    #[inline]
    pub(super) fn reserve(&mut self, count: usize) -> bool {
        let queue = self.ring.submission();
        if queue.capacity() - queue.len() >= count {
            return true;
        }
        drop(queue);
        self.flush(count)
    }

    #[cold]
    fn flush(&mut self, count: usize) -> bool {
        if self.enter(0, None, false).is_err() {
            return false;
        }
        let queue = self.ring.submission();
        queue.capacity() - queue.len() >= count
    }

    /// Queues an entry for which room has been reserved.
    #[inline]
    pub(super) fn push(&mut self, sqe: &Sqe) {
        // SAFETY: The memory an entry points to stays until its completion: that is what the
        // constructors of `Sqe` ask for.
        let pushed = unsafe { self.ring.submission().push(sqe.entry()) };
        assert!(pushed.is_ok(), "pushed without reserving");
    }

    /// Hands over everything queued, runs what the kernel has deferred for this thread, and waits
    /// for at least `min_complete` completions or the end of `wait`.
    pub(super) fn enter(
        &mut self,
        min_complete: u32,
        wait: Option<Duration>,
        events: bool,
    ) -> io::Result<Entered> {
        let queued = self.ring.submission().len() as u32;
        let mut flags = self.enter_flags;
        if events {
            flags |= ENTER_GETEVENTS;
        }
        if self.sqpoll {
            if self.ring.submission().need_wakeup() {
                flags |= ENTER_SQ_WAKEUP;
            } else if !events {
                std::thread::yield_now();
                return Ok(Entered::Fine);
            }
        }
        let timespec = wait.map(|wait| Timespec {
            seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(wait.subsec_nanos()),
        });
        let arg = EventsArg {
            sigmask: 0,
            sigmask_size: 0,
            min_wait_usec: if min_complete == 0 { 0 } else { self.min_wait_usec },
            timespec: timespec.as_ref().map_or(0, |timespec| &raw const *timespec as u64),
        };
        let extended = events && (timespec.is_some() || arg.min_wait_usec > 0);
        let (pointer, size) = if extended {
            flags |= ENTER_EXT_ARG;
            (&raw const arg, size_of::<EventsArg>())
        } else {
            (std::ptr::null(), 0)
        };
        self.enters += 1;
        // SAFETY: The argument, if any, lives until the call returns; entries in the queue are
        // sound by `push`.
        let taken = unsafe {
            let enter = libc::SYS_io_uring_enter;
            libc::syscall(enter, self.enter_fd, queued, min_complete, flags, pointer, size)
        };
        if taken >= 0 {
            self.submitted += taken as u64;
            return Ok(Entered::Fine);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Interrupted or timed out: what was queued has been taken all the same.
            Some(libc::EINTR | libc::ETIME) => Ok(Entered::Fine),
            Some(libc::EBUSY | libc::EAGAIN) => Ok(Entered::Busy),
            _ => Err(error),
        }
    }

    /// Moves all completions into `batch`.
    #[inline]
    pub(super) fn collect(&mut self, batch: &mut Vec<cqueue::Entry>) {
        batch.extend(self.ring.completion());
        if self.ring.submission().cq_overflow() {
            self.overflows += 1;
        }
    }
}

impl Drop for Ring {
    /// The registration is the thread's and would keep the ring, and every socket in its table,
    /// until the thread ends.
    fn drop(&mut self) {
        if self.enter_flags & ENTER_REGISTERED_RING != 0 {
            let fd = self.ring.as_raw_fd();
            let mut update = RsrcUpdate { offset: self.enter_fd as u32, reserved: 0, data: 0 };
            // SAFETY: The argument is one live `struct io_uring_rsrc_update`.
            let gone = unsafe {
                let register = libc::SYS_io_uring_register;
                libc::syscall(register, fd, UNREGISTER_RING_FDS, &raw mut update, 1)
            };
            debug_assert_eq!(gone, 1, "the ring was not registered by this thread");
        }
    }
}

fn build(options: &Options, setup: Setup) -> io::Result<IoUring> {
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    builder.dontfork().setup_clamp().setup_cqsize(options.cq_entries).setup_r_disabled();
    // One bad entry must not keep the rest from being taken. Since 5.18.
    builder.setup_submit_all().setup_single_issuer();
    match options.sqpoll_cpu {
        Some(cpu) => {
            builder.setup_sqpoll(SQPOLL_IDLE_MS).setup_sqpoll_cpu(cpu);
        }
        None if setup.defer => {
            builder.setup_coop_taskrun().setup_defer_taskrun();
        }
        None => {
            builder.setup_coop_taskrun().setup_taskrun_flag();
        }
    }
    if setup.no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(options.entries)
}

/// How long the kernel's submitting thread spins before it sleeps.
const SQPOLL_IDLE_MS: u32 = 20;
