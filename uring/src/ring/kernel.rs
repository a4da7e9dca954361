//! The ring itself: making it, pushing entries, and the one system call a turn.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, squeue};

use super::features::{DEFER_TASKRUN, NO_SQARRAY, avoids};
use super::sqe::Sqe;
use crate::{Options, Region};

/// A ring, and how to enter it.
pub(super) struct Ring {
    ring: IoUring,
    /// The registered index of the ring's own descriptor, or the descriptor.
    enter_fd: RawFd,
    enter_flags: u32,
    sqpoll: bool,
    /// Entries that the kernel's thread must not see yet: it would cut a chain that is half
    /// pushed. Empty without such a thread.
    staged: Vec<Sqe>,
    /// The kernel once took less than all of what was queued, so that a chain may have been cut.
    pub(super) cut: bool,
    min_wait_usec: u32,
    min_completions: u32,
    /// Regions registered as fixed buffers. INVARIANT: dropped after the ring.
    regions: Vec<Region>,
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
const ENTER_SQ_WAIT: u32 = 1 << 2;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;
const REGISTER_FILE_ALLOC_RANGE: libc::c_uint = 25;

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

/// `struct io_uring_file_index_range`.
#[repr(C)]
struct IndexRange {
    offset: u32,
    len: u32,
    reserved: u64,
}

/// The set-ups to try, the best first. Each is served; what is missing is only dearer.
const SETUPS: [Setup; 4] = [
    Setup { defer: true, no_sqarray: true },
    Setup { defer: true, no_sqarray: false },
    Setup { defer: false, no_sqarray: true },
    Setup { defer: false, no_sqarray: false },
];

/// One way of making a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// Completions are prepared when this thread asks for them, and not before. Since 6.1.
    pub(super) defer: bool,
    /// Without the indirection of the submission queue. Since 6.6.
    pub(super) no_sqarray: bool,
}

impl Ring {
    /// Makes a ring that is still disabled, with the best set-up that the kernel takes.
    pub(super) fn new(options: &Options) -> io::Result<(Ring, Setup)> {
        let avoids = |name| avoids(&options.avoid, name);
        let mut refused = io::Error::from_raw_os_error(libc::ENOSYS);
        for setup in SETUPS {
            // The kernel's thread submits, so there is no task whose run could be deferred.
            if setup.defer && (options.sqpoll_cpu.is_some() || avoids(DEFER_TASKRUN))
                || setup.no_sqarray && avoids(NO_SQARRAY)
            {
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
                        staged: Vec::new(),
                        cut: false,
                        min_wait_usec: 0,
                        min_completions: 1,
                        regions: Vec::new(),
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

    /// A waiting turn waits this long for so many completions, and only then for the first.
    pub(super) fn set_min_wait(&mut self, wait: Duration, completions: u32) {
        self.min_wait_usec = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
        self.min_completions = completions.max(1);
    }

    /// Keeps the ring's own choice of slots at accept below `len`. Since 6.0.
    pub(super) fn limit_accepts(&self, len: u32) -> io::Result<()> {
        let mut range = IndexRange { offset: 0, len, reserved: 0 };
        let fd = self.ring.as_raw_fd();
        // SAFETY: The argument is one live `struct io_uring_file_index_range`.
        let set = unsafe {
            let register = libc::SYS_io_uring_register;
            libc::syscall(register, fd, REGISTER_FILE_ALLOC_RANGE, &raw mut range, 0)
        };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Makes a region's memory known as fixed buffers, and keeps it. Gives its index.
    pub(super) fn register_region(&mut self, region: &Region) -> io::Result<u16> {
        if self.regions.is_empty() {
            // A table once and for all: a second registration would need the first undone.
            self.ring.submitter().register_buffers_sparse(REGIONS_MAX)?;
        }
        let index = self.regions.len() as u32;
        if index >= REGIONS_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let (base, len) = region.memory();
        let memory = [libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len }];
        let submitter = self.ring.submitter();
        self.regions.push(region.clone());
        // SAFETY: `regions` keeps the memory until the ring is gone, or for ever.
        match unsafe { submitter.register_buffers_update(index, &memory, None) } {
            Ok(()) => Ok(index as u16),
            Err(error) => {
                self.regions.pop();
                Err(error)
            }
        }
    }

    /// Keeps the regions for ever, for the kernel may still read them.
    pub(super) fn leak_regions(&mut self) {
        std::mem::forget(std::mem::take(&mut self.regions));
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
        self.has_room(count) || self.flush(count)
    }

    #[inline]
    fn has_room(&mut self, count: usize) -> bool {
        let queue = self.ring.submission();
        queue.capacity() - queue.len() >= count + self.staged.len()
    }

    #[cold]
    fn flush(&mut self, count: usize) -> bool {
        self.enter(0, None, false).is_ok() && self.has_room(count)
    }

    /// Queues an entry for which room has been reserved.
    #[inline]
    pub(super) fn push(&mut self, sqe: &Sqe) {
        if self.sqpoll {
            self.staged.push(sqe.clone());
            return;
        }
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
        if self.sqpoll {
            self.unstage();
        }
        let queued = self.ring.submission().len() as u32;
        let min_complete = if min_complete == 0 { 0 } else { self.min_completions };
        let mut flags = self.enter_flags;
        if events {
            flags |= ENTER_GETEVENTS;
        }
        if self.sqpoll {
            if self.ring.submission().need_wakeup() {
                flags |= ENTER_SQ_WAKEUP;
            } else if events && !self.ring.completion().is_empty() {
                // The kernel's thread does all there is to do.
                return Ok(Entered::Fine);
            }
            if !events {
                flags |= ENTER_SQ_WAIT;
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
            self.cut |= (taken as u32) < queued;
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

    /// Shows the kernel's thread everything at once.
    fn unstage(&mut self) {
        let mut queue = self.ring.submission();
        for sqe in self.staged.drain(..) {
            // SAFETY: As in `push`.
            let pushed = unsafe { queue.push(sqe.entry()) };
            assert!(pushed.is_ok(), "pushed without reserving");
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

/// How many regions can be registered.
const REGIONS_MAX: u32 = 16;

/// How long the kernel's submitting thread spins before it sleeps.
const SQPOLL_IDLE_MS: u32 = 20;

#[cfg(test)]
mod tests {
    use io_uring::{IoUring, opcode, squeue, types};

    use super::super::features::restrictions;

    /// A ring that allows what the driver does.
    fn restricted() -> Option<IoUring> {
        let ring = IoUring::builder().setup_r_disabled().build(8).unwrap();
        if let Err(error) = ring.submitter().register_restrictions(&mut restrictions()) {
            println!("skipped: this kernel restricts no ring: {error}");
            return None;
        }
        ring.submitter().register_enable_rings().unwrap();
        Some(ring)
    }

    fn result_of(ring: &mut IoUring, entry: &squeue::Entry) -> i32 {
        // SAFETY: the entries of this test name no memory of this process but a constant text.
        unsafe { ring.submission().push(entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    }

    #[test]
    fn a_restricted_ring_opens_nothing_makes_no_socket_and_registers_no_file() {
        let Some(mut ring) = restricted() else { return };
        let root = c"/".as_ptr();
        let here = types::Fd(libc::AT_FDCWD);
        let refused = [
            ("openat", opcode::OpenAt::new(here, root).build()),
            ("unlinkat", opcode::UnlinkAt::new(here, root).build()),
            ("mkdirat", opcode::MkDirAt::new(here, root).build()),
            ("socket", opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build()),
            ("splice", opcode::Splice::new(types::Fd(0), -1, types::Fd(1), -1, 0).build()),
            ("nop", opcode::Nop::new().build()),
        ];
        for (name, entry) in refused {
            assert_eq!(result_of(&mut ring, &entry), -libc::EACCES, "{name}");
        }
        let registered = ring.submitter().register_eventfd(0).unwrap_err();
        assert_eq!(registered.raw_os_error(), Some(libc::EACCES));
        // What the driver does is answered by the operation itself.
        let shutdown = opcode::Shutdown::new(types::Fd(-1), libc::SHUT_WR).build();
        assert_eq!(result_of(&mut ring, &shutdown), -libc::EBADF);
    }
}
