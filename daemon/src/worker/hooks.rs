//! The hooks of a program's start and stop, on each thread.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use ember::hooks::{Hooks, ThreadInfo};
use ember_uring::{Completion, Driver};

use super::thread::Thread;
use crate::boot::Order;

/// How often a thread that waits for its start looks for orders.
const LOOK_MS: u64 = 100;

/// How long the hooks of the stop may take.
const STOP: Duration = Duration::from_secs(5);

/// The hooks of one thread.
pub(super) struct ThreadHooks {
    hooks: &'static Hooks,
    worker: u16,
    thread: usize,
}

impl ThreadHooks {
    pub(super) fn new(hooks: &'static Hooks, worker: u16, thread: usize) -> ThreadHooks {
        ThreadHooks { hooks, worker, thread }
    }

    fn info(&self) -> ThreadInfo {
        self.hooks.thread(self.worker, self.thread)
    }

    /// Begins what is due once connections are accepted.
    pub(super) fn after_start(&self) {
        if !self.hooks.has_after_start() {
            return;
        }
        let (hooks, info, worker) = (self.hooks, self.info(), self.worker);
        drop(ember::spawn(async move {
            if let Err(error) = hooks.after_start(info).await {
                tracing::error!(worker, "worker {worker}: after_server_start: {error}");
            }
        }));
    }
}

impl<D: Driver> Thread<D> {
    /// Runs what is due before connections are accepted.
    pub(super) fn before_start(&mut self, hooks: &ThreadHooks) -> io::Result<()> {
        if !hooks.hooks.has_before_start() {
            return Ok(());
        }
        let _entered = self.runtime.enter();
        let (all, info) = (hooks.hooks, hooks.info());
        let result = self.drive(async move { all.before_start(info).await }, &mut Vec::new())?;
        result.map_err(|error| io::Error::other(format!("before_server_start: {error}")))
    }

    /// Runs what is due before the thread ends.
    pub(super) fn before_stop(
        &mut self,
        hooks: &ThreadHooks,
        done: &mut Vec<Completion>,
    ) -> io::Result<()> {
        if !hooks.hooks.has_before_stop() {
            return Ok(());
        }
        let (all, info, worker) = (hooks.hooks, hooks.info(), hooks.worker);
        let result = Rc::new(RefCell::new(None));
        let told = Rc::clone(&result);
        drop(ember::spawn(async move {
            let stop = ember::time::timeout(STOP, all.before_stop(info)).await;
            *told.borrow_mut() = Some(stop.unwrap_or_else(|elapsed| Err(elapsed.into())));
        }));
        while result.borrow().is_none() {
            self.turn(done)?;
        }
        if let Some(Err(error)) = result.take() {
            tracing::error!(worker, "worker {worker}: before_server_stop: {error}");
        }
        Ok(())
    }

    /// Accepts connections from now on.
    pub(super) fn listen(&mut self, sockets: Vec<(usize, OwnedFd)>) -> io::Result<()> {
        for (listener, socket) in sockets {
            let id = self.driver.accept(socket)?;
            self.listeners.push((id, listener));
        }
        Ok(())
    }

    /// Turns until the future is ready. An order to leave ends that: a start may wait for ever, as
    /// for a database that is away.
    fn drive<T: 'static>(
        &mut self,
        future: impl Future<Output = T> + 'static,
        done: &mut Vec<Completion>,
    ) -> io::Result<T> {
        let result = Rc::new(RefCell::new(None));
        let told = Rc::clone(&result);
        let work = ember::spawn(async move { *told.borrow_mut() = Some(future.await) });
        let look = ember::spawn(async {
            loop {
                ember::time::sleep(Duration::from_millis(LOOK_MS)).await;
            }
        });
        while !work.is_finished() {
            if matches!(self.seat.order(), Order::Drain { .. } | Order::Stop) {
                work.abort();
            }
            self.turn(done)?;
        }
        look.abort();
        let value = result.take();
        value.ok_or_else(|| io::Error::other("the start was broken off"))
    }
}
