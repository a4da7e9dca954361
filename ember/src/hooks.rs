//! What runs when a server starts and stops, and around its handlers.
//!
//! ```
//! use ember::{App, Request, Response};
//! use ember::testing::Client;
//!
//! let app = App::new()
//!     .before_server_start(async |thread| {
//!         println!("thread {} of worker {}", thread.thread(), thread.worker());
//!         Ok(())
//!     })
//!     .before_endpoint(async |request: &mut Request| {
//!         if request.header("x-key").is_none() {
//!             return Err(ember::Error::new(401, "no key"));
//!         }
//!         Ok(())
//!     })
//!     .after_endpoint(async |response: &mut Response| {
//!         response.headers_mut().push(("X-Seen".into(), "yes".into()));
//!     })
//!     .after_response_sent(|sent| println!("{} {}", sent.status, sent.route))
//!     .get("/", async |_: &Request| "in");
//! let client = Client::new(app);
//! assert_eq!(client.get("/").status(), 401);
//! let reply = client.send("GET", "/", &[("X-Key", "1")], "");
//! assert_eq!((reply.text(), reply.header("x-seen")), ("in", Some("yes")));
//! ```

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use ember_http::Method;

use crate::context::{Local, Shared};
use crate::error::Result;
use crate::extract::{State, ThreadState, no_state};
use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::{IntoResponse, Response};

type Hook = Arc<dyn Fn(ThreadInfo) -> Pin<Box<dyn Future<Output = Result<()>>>> + Send + Sync>;

/// The hooks of a server's start and stop.
#[derive(Clone, Default)]
pub struct Hooks {
    before_start: Vec<Hook>,
    after_start: Vec<Hook>,
    before_stop: Vec<Hook>,
    shared: Arc<Shared>,
}

/// The thread that a hook runs on.
#[derive(Clone)]
pub struct ThreadInfo {
    worker: u16,
    thread: usize,
    local: Rc<Local>,
}

/// A reply that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// The name of the route.
    pub route: String,
    /// The request's method.
    pub method: Method,
    /// The reply's status.
    pub status: u16,
}

pub(crate) struct BeforeEndpoint<H>(pub(crate) H);
pub(crate) struct AfterEndpoint<H>(pub(crate) H);
pub(crate) struct WhenSent<H>(pub(crate) Arc<H>);

impl ThreadInfo {
    /// The number of its worker process, from zero.
    #[must_use]
    pub fn worker(&self) -> u16 {
        self.worker
    }

    /// Its number in that process, from zero.
    #[must_use]
    pub fn thread(&self) -> usize {
        self.thread
    }

    /// Whether it is the first thread of the first worker: what should happen once, is its work.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.worker == 0 && self.thread == 0
    }

    /// The app's state of this type.
    ///
    /// # Errors
    /// 500 where the app has none.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<State<T>> {
        self.local.state().ok_or_else(no_state::<T>)
    }

    /// This thread's state of this type.
    ///
    /// # Errors
    /// 500 where the app has none.
    pub fn thread_state<T: 'static>(&self) -> Result<ThreadState<T>> {
        self.local.state().ok_or_else(no_state::<T>)
    }
}

fn hook(hook: impl AsyncFn(ThreadInfo) -> Result<()> + Send + Sync + 'static) -> Hook {
    let hook = Arc::new(hook);
    Arc::new(move |thread| {
        let hook = Arc::clone(&hook);
        Box::pin(async move { hook(thread).await })
    })
}

async fn run(hooks: &[Hook], thread: &ThreadInfo) -> Result<()> {
    for hook in hooks {
        hook(thread.clone()).await?;
    }
    Ok(())
}

impl Hooks {
    pub(crate) fn add_before_start(
        &mut self,
        of: impl AsyncFn(ThreadInfo) -> Result<()> + Send + Sync + 'static,
    ) {
        self.before_start.push(hook(of));
    }

    pub(crate) fn add_after_start(
        &mut self,
        of: impl AsyncFn(ThreadInfo) -> Result<()> + Send + Sync + 'static,
    ) {
        self.after_start.push(hook(of));
    }

    pub(crate) fn add_before_stop(
        &mut self,
        of: impl AsyncFn(ThreadInfo) -> Result<()> + Send + Sync + 'static,
    ) {
        self.before_stop.push(hook(of));
    }

    pub(crate) fn set_shared(&mut self, shared: &Arc<Shared>) {
        self.shared = Arc::clone(shared);
    }

    /// Whether something runs before the server starts.
    #[must_use]
    pub fn has_before_start(&self) -> bool {
        !self.before_start.is_empty()
    }

    /// Whether something runs once the server accepts connections.
    #[must_use]
    pub fn has_after_start(&self) -> bool {
        !self.after_start.is_empty()
    }

    /// Whether something runs before the server stops.
    #[must_use]
    pub fn has_before_stop(&self) -> bool {
        !self.before_stop.is_empty()
    }

    /// What hooks on this thread are told of it.
    #[must_use]
    pub fn thread(&self, worker: u16, thread: usize) -> ThreadInfo {
        ThreadInfo { worker, thread, local: Local::of(&self.shared) }
    }

    /// Runs what comes before the start, one after another.
    ///
    /// # Errors
    /// Of the first that fails.
    pub async fn before_start(&self, thread: ThreadInfo) -> Result<()> {
        run(&self.before_start, &thread).await
    }

    /// Runs what comes after the start.
    ///
    /// # Errors
    /// Of the first that fails.
    pub async fn after_start(&self, thread: ThreadInfo) -> Result<()> {
        run(&self.after_start, &thread).await
    }

    /// Runs what comes before the stop.
    ///
    /// # Errors
    /// Of the first that fails.
    pub async fn before_stop(&self, thread: ThreadInfo) -> Result<()> {
        run(&self.before_stop, &thread).await
    }
}

impl<H> Middleware for BeforeEndpoint<H>
where
    H: AsyncFn(&mut Request) -> Result<()> + Send + Sync + 'static,
{
    async fn handle(&self, mut request: Request, next: Next<'_>) -> Response {
        match (self.0)(&mut request).await {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        }
    }
}

impl<H> Middleware for AfterEndpoint<H>
where
    H: AsyncFn(&mut Response) + Send + Sync + 'static,
{
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let mut response = next.run(request).await;
        (self.0)(&mut response).await;
        response
    }
}

impl<H: Fn(&Sent) + Send + Sync + 'static> Middleware for WhenSent<H> {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let (route, method) = (request.route().to_owned(), request.method());
        let response = next.run(request).await;
        let (hook, status) = (Arc::clone(&self.0), response.status());
        response.on_sent(move || hook(&Sent { route, method, status }))
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("before_start", &self.before_start.len())
            .field("after_start", &self.after_start.len())
            .field("before_stop", &self.before_stop.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ThreadInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadInfo")
            .field("worker", &self.worker)
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}
