//! A bridge to a tokio runtime on threads of its own, for crates that insist on one.
//!
//! Whatever can run on the worker's ring should: a hop to other threads and back costs two
//! wake-ups. Clients that take any stream (`connect_raw` of tokio-postgres, the connections of
//! hyper) need no bridge.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Threads of the runtime.
const THREADS: usize = 2;

/// Ends the work when nobody awaits it any more.
struct Running<T>(JoinHandle<T>);

/// Runs a future on the process's tokio runtime, which starts with the first of them: two threads,
/// with timers and I/O. Dropping the returned future ends the work.
///
/// # Errors
/// 500 when the future panics or the runtime cannot be started.
pub async fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let running = Running(handle()?.spawn(future));
    running.await.map_err(|_| Error::new(500, "the work failed"))
}

/// The runtime's handle, for `spawn_blocking`, `enter` and the like.
///
/// # Errors
/// 500 when the runtime cannot be started.
pub fn handle() -> Result<Handle> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(THREADS).thread_name("tokio").enable_all();
        builder.on_thread_start(crate::blocking::use_every_cpu).build()
    });
    match runtime {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(error) => Err(Error::new(500, format!("no tokio runtime: {error}"))),
    }
}

impl<T> Future for Running<T> {
    type Output = std::result::Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
