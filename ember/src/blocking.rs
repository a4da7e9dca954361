//! Work that would hold a worker thread, on threads of its own.

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use futures_channel::oneshot;

use crate::error::{Error, Result};

/// Jobs of [`blocking`] that wait, for each of its threads.
const QUEUED_PER_THREAD_MAX: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads and a bounded queue before them. The threads start when the first
/// job comes, run on every CPU that the process may use, and end with the pool.
pub struct BlockingPool {
    threads: usize,
    queued_max: usize,
    queue: OnceLock<Option<SyncSender<Job>>>,
}

/// Does CPU work, or what waits in the kernel, on the process's own pool: one thread for each CPU,
/// and 64 jobs for each that wait. Dropping the future does not end work that has begun; work that
/// has not is not done any more.
///
/// # Errors
/// 503 when the queue is full, 500 when the work panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    static POOL: OnceLock<BlockingPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let threads = cpus();
        BlockingPool::new(threads, threads * QUEUED_PER_THREAD_MAX)
    });
    pool.run(work).await
}

impl BlockingPool {
    /// A pool of so many threads, with so many jobs waiting at most.
    #[must_use]
    pub fn new(threads: usize, queued_max: usize) -> BlockingPool {
        BlockingPool { threads: threads.max(1), queued_max, queue: OnceLock::new() }
    }

    /// Does this work on one of the threads.
    ///
    /// # Errors
    /// 503 when the queue is full, 500 when the work panics or no thread can be started.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !sender.is_canceled() {
                let _ = sender.send(work());
            }
        });
        let queue = self.queue.get_or_init(|| start(self.threads, self.queued_max));
        let Some(queue) = queue else {
            return Err(Error::new(500, "no thread can be started for this work"));
        };
        match queue.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Error::new(503, "too much work is waiting")),
            Err(TrySendError::Disconnected(_)) => return Err(Error::new(500, "the pool is gone")),
        }
        receiver.await.map_err(|_| Error::new(500, "the work failed"))
    }
}

/// CPUs of the process, wherever the calling thread itself is pinned to.
fn cpus() -> usize {
    match rustix::thread::sched_getaffinity(Some(rustix::process::getpid())) {
        Ok(set) => (set.count() as usize).max(1),
        Err(_) => thread::available_parallelism().map_or(1, NonZeroUsize::get),
    }
}

fn start(threads: usize, queued_max: usize) -> Option<SyncSender<Job>> {
    let (sender, jobs) = sync_channel(queued_max);
    let jobs = Arc::new(Mutex::new(jobs));
    let started = (0..threads)
        .filter(|at| {
            let jobs = Arc::clone(&jobs);
            let thread = thread::Builder::new().name(format!("blocking-{at}"));
            thread.spawn(move || serve(&jobs)).is_ok()
        })
        .count();
    (started > 0).then_some(sender)
}

/// A thread begins with the CPUs of the one that made it: of a worker, which is pinned. It takes
/// those of the process's first thread, which is not.
pub(crate) fn use_every_cpu() {
    if let Ok(all) = rustix::thread::sched_getaffinity(Some(rustix::process::getpid())) {
        // Where that is not allowed, it works on one CPU.
        let _ = rustix::thread::sched_setaffinity(None, &all);
    }
}

fn serve(jobs: &Mutex<Receiver<Job>>) {
    use_every_cpu();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // Its sender is dropped by the panic, which the one who waits notices.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingPool")
            .field("threads", &self.threads)
            .field("queued_max", &self.queued_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::{Context, Poll, Wake};

    use super::*;

    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn wait_for<T>(future: impl Future<Output = T>) -> T {
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            thread::park();
        }
    }

    #[test]
    fn work_is_done_elsewhere_and_panics_are_told() {
        let here = thread::current().id();
        assert_ne!(wait_for(blocking(move || thread::current().id())), Ok(here));
        let failed = wait_for(blocking(|| -> u32 { panic!("asked for") }));
        assert_eq!(failed.map_err(|error| error.status()), Err(500));
        assert_eq!(wait_for(blocking(|| 7)), Ok(7), "the thread lives on");
    }

    #[test]
    fn a_full_queue_is_told_and_work_that_nobody_awaits_is_not_begun() {
        let pool = BlockingPool::new(1, 1);
        let (release, held) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut cx = Context::from_waker(&waker);
        let mut first = Box::pin(pool.run(move || {
            began.send(()).unwrap();
            held.recv()
        }));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        begun.recv().unwrap();
        let (did, done) = mpsc::channel();
        let mut second = Box::pin(pool.run(move || did.send(())));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        let third = wait_for(pool.run(|| ()));
        assert_eq!(third.map_err(|error| error.status()), Err(503));
        drop(second);
        release.send(()).unwrap();
        assert_eq!(wait_for(first), Ok(Ok(())));
        assert!(done.recv().is_err(), "dropped before it began");
    }
}
