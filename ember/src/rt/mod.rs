//! The executor of one worker thread: tasks, timers, and what futures ask of the ring.
//!
//! A [`Runtime`] belongs to the loop that drives the ring, its *host*. The host polls the futures
//! of its connections itself and keeps them where it likes; the runtime gives them wakers and says
//! which are ready. Tasks of [`spawn`] are the runtime's own. Nothing here makes a
//! system call: what futures want of the ring is queued as [`Command`]s, which the host carries
//! out, and what came of it is told by [`Runtime::stream_event`] and its like.
//!
//! Wakers may be used on any thread. On the runtime's own they cost a push; on others a lock, and
//! one call of the host's `wake` for each turn of its loop.

mod join;
mod timers;
mod wake;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use ember_uring::{Address, Payload};

pub use join::{Aborted, JoinHandle};
pub(crate) use timers::TimerKey;
use timers::Timers;
use wake::{Shared, TaskWaker};

use crate::net::{StreamCore, StreamEvent, StreamId};

/// A task by its place. Places are used again; a waker that outlives its task wakes the next one
/// there, which futures must bear anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId(u32);

impl TaskId {
    /// The place, dense from zero: an index for the host's own table.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a future wants of the ring.
#[derive(Debug)]
pub enum Command {
    /// Connect a new stream.
    Connect {
        /// Which.
        stream: StreamId,
        /// Where to.
        address: Address,
    },
    /// Receive on a stream; one at a time.
    Recv {
        /// Which.
        stream: StreamId,
    },
    /// Send on a stream; one at a time.
    Send {
        /// Which.
        stream: StreamId,
        /// What.
        payload: Payload,
        /// Whether nothing will be sent behind it.
        last: bool,
    },
    /// The stream is not wanted any more.
    Close {
        /// Which.
        stream: StreamId,
    },
    /// Tell the request of this task its client's address.
    Peer {
        /// Whose.
        task: TaskId,
    },
    /// The request of this task has room for more of its body.
    Body {
        /// Whose.
        task: TaskId,
    },
}

/// The executor of one thread.
#[derive(Clone)]
pub struct Runtime(Rc<Inner>);

/// While it lives, the runtime is the thread's current one.
#[must_use]
pub struct Entered {
    before: Option<Rc<Inner>>,
}

pub(crate) struct Inner {
    tasks: RefCell<Tasks>,
    ready: RefCell<VecDeque<u32>>,
    shared: Arc<Shared>,
    timers: RefCell<Timers>,
    now_ms: Cell<u64>,
    commands: RefCell<Vec<Command>>,
    streams: RefCell<slab::Slab<Rc<StreamCore>>>,
}

#[derive(Default)]
struct Tasks {
    cells: Vec<TaskCell>,
    free: Vec<u32>,
    spawned: usize,
}

struct TaskCell {
    waker: Arc<TaskWaker>,
    future: Spawned,
}

enum Spawned {
    /// The host polls it, or nobody is here.
    Host,
    /// Being polled.
    Busy,
    Idle(Pin<Box<dyn Future<Output = ()>>>),
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Inner>>> = const { RefCell::new(None) };
}

/// The thread's runtime.
///
/// # Panics
/// Outside of a worker thread's handlers, tasks and hooks.
pub(crate) fn current() -> Rc<Inner> {
    CURRENT
        .with_borrow(Clone::clone)
        .expect("handlers and tasks of a worker thread alone can do this")
}

impl Runtime {
    /// A runtime whose host's waiting turn is ended by `wake`.
    #[must_use]
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Runtime {
        Runtime(Rc::new(Inner {
            tasks: RefCell::default(),
            ready: RefCell::default(),
            shared: Arc::new(Shared::new(Box::new(wake))),
            timers: RefCell::default(),
            now_ms: Cell::new(0),
            commands: RefCell::default(),
            streams: RefCell::default(),
        }))
    }

    /// Makes it the current one of this thread.
    pub fn enter(&self) -> Entered {
        Entered { before: CURRENT.replace(Some(Rc::clone(&self.0))) }
    }

    /// A place and a waker for a future that the host polls.
    #[must_use]
    pub fn reserve(&self) -> TaskId {
        TaskId(self.0.reserve())
    }

    /// Gives a place back.
    pub fn release(&self, task: TaskId) {
        self.0.tasks.borrow_mut().free.push(task.0);
    }

    /// The waker of a place.
    #[must_use]
    pub fn waker(&self, task: TaskId) -> Waker {
        self.0.waker(task.0)
    }

    /// Sets the clock, in milliseconds from any beginning, and wakes whoever waited for that.
    pub fn set_clock(&self, now_ms: u64) {
        self.0.now_ms.set(now_ms);
        while let Some(waker) = self.0.timers.borrow_mut().pop_due(now_ms) {
            waker.wake();
        }
    }

    /// When the next timer is due, on the same clock.
    #[must_use]
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.0.timers.borrow().next_deadline_ms()
    }

    /// Takes in what other threads have woken; how many tasks are ready.
    pub fn gather(&self) -> usize {
        let mut ready = self.0.ready.borrow_mut();
        self.0.shared.take(&mut ready);
        ready.len()
    }

    /// Whether something is ready or wanted on this thread.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.0.ready.borrow().is_empty() || !self.0.commands.borrow().is_empty()
    }

    /// Takes one ready task. The runtime's own is polled; one of the host's is given to it.
    pub fn run_one(&self) -> Option<TaskId> {
        let id = self.0.ready.borrow_mut().pop_front()?;
        let (waker, mut future) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let cell = &mut tasks.cells[id as usize];
            cell.waker.taken();
            match std::mem::replace(&mut cell.future, Spawned::Busy) {
                Spawned::Host => {
                    cell.future = Spawned::Host;
                    return Some(TaskId(id));
                }
                Spawned::Busy => return None,
                Spawned::Idle(future) => (Waker::from(Arc::clone(&cell.waker)), future),
            }
        };
        let mut cx = Context::from_waker(&waker);
        // A task that panics ends; its join handle says so.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
        let over = !matches!(polled, Ok(std::task::Poll::Pending));
        if over {
            // Dropped before its place is free: the drop may spawn.
            drop(future);
            let mut tasks = self.0.tasks.borrow_mut();
            tasks.cells[id as usize].future = Spawned::Host;
            tasks.spawned -= 1;
            tasks.free.push(id);
        } else {
            self.0.tasks.borrow_mut().cells[id as usize].future = Spawned::Idle(future);
        }
        None
    }

    /// How many spawned tasks have not ended.
    #[must_use]
    pub fn spawned(&self) -> usize {
        self.0.tasks.borrow().spawned
    }

    /// Moves what futures want of the ring behind what `out` holds.
    pub fn take_commands(&self, out: &mut Vec<Command>) {
        out.append(&mut self.0.commands.borrow_mut());
    }

    /// A stream over a socket that the host has already, such as that of an upgraded connection.
    #[must_use]
    pub fn adopt_stream(&self, received: &[u8]) -> (StreamId, crate::net::Stream) {
        let core = self.0.add_stream(true);
        core.preset(received);
        (core.id(), crate::net::Stream::of(core, Rc::clone(&self.0)))
    }

    /// A receive is in flight already on a stream that was adopted.
    pub fn stream_is_receiving(&self, stream: &crate::net::Stream) {
        stream.set_receiving();
    }

    /// Tells a stream what has become of its commands; nothing happens if it is gone.
    pub fn stream_event(&self, stream: StreamId, event: StreamEvent<'_>) {
        let core = self.0.streams.borrow().get(stream.index()).cloned();
        if let Some(core) = core {
            core.handle(event);
        }
    }

    /// The stream's socket is closed: its place may be used again.
    pub fn stream_closed(&self, stream: StreamId) {
        let core = self.0.streams.borrow_mut().try_remove(stream.index());
        if let Some(core) = core {
            core.handle(StreamEvent::Closed);
        }
    }

    /// Drops all spawned tasks, as the end of the thread does.
    pub fn shut_down(&self) {
        let futures: Vec<Spawned> = {
            let mut tasks = self.0.tasks.borrow_mut();
            tasks.spawned = 0;
            let cells = tasks.cells.iter_mut();
            cells.map(|cell| std::mem::replace(&mut cell.future, Spawned::Host)).collect()
        };
        drop(futures);
    }
}

impl Inner {
    fn reserve(&self) -> u32 {
        let mut tasks = self.tasks.borrow_mut();
        if let Some(id) = tasks.free.pop() {
            return id;
        }
        let id = u32::try_from(tasks.cells.len()).expect("fewer than 2^32 tasks");
        let waker = Arc::new(TaskWaker::new(id, Arc::clone(&self.shared)));
        tasks.cells.push(TaskCell { waker, future: Spawned::Host });
        id
    }

    fn waker(&self, id: u32) -> Waker {
        Waker::from(Arc::clone(&self.tasks.borrow().cells[id as usize].waker))
    }

    /// Begins a task; it is polled in this turn of the loop or the next.
    pub(crate) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>) -> u32 {
        let id = self.reserve();
        {
            let mut tasks = self.tasks.borrow_mut();
            tasks.cells[id as usize].future = Spawned::Idle(future);
            tasks.spawned += 1;
        }
        self.waker(id).wake();
        id
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    pub(crate) fn set_timer(&self, deadline_ms: u64, waker: Waker) -> TimerKey {
        self.timers.borrow_mut().set(deadline_ms, waker)
    }

    pub(crate) fn update_timer(&self, key: TimerKey, waker: &Waker) {
        self.timers.borrow_mut().update(key, waker);
    }

    pub(crate) fn cancel_timer(&self, key: TimerKey) {
        self.timers.borrow_mut().cancel(key);
    }

    pub(crate) fn command(&self, command: Command) {
        self.commands.borrow_mut().push(command);
    }

    pub(crate) fn add_stream(&self, connected: bool) -> Rc<StreamCore> {
        let mut streams = self.streams.borrow_mut();
        let entry = streams.vacant_entry();
        let core = Rc::new(StreamCore::new(StreamId::new(entry.key()), connected));
        entry.insert(Rc::clone(&core));
        core
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

/// Runs a future on the current worker thread. It ends when it ends: dropping the handle leaves it
/// running.
///
/// # Panics
/// Outside of a worker thread's handlers, tasks and hooks.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    join::spawn(&current(), future)
}

#[cfg(test)]
pub(crate) mod tests;
