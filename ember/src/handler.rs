//! Handlers: asynchronous functions from requests to replies, kept without their types.
//!
//! Each worker thread has a few *slots* of each handler. A slot owns the memory that a future of
//! the handler lives in, and is used again: starting a handler and polling it to its end in one
//! go allocates nothing. A future that suspends keeps its slot until it ends.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::Error;
use crate::request::Request;
use crate::response::{IntoResponse, Response};

/// A handler without its type.
#[derive(Clone)]
pub struct Handler(Arc<dyn Fn() -> Slot + Send + Sync>);

/// The memory of one call of a handler.
pub struct Slot(Box<dyn Call>);

/// A function that can be a handler. It is implemented for
///
/// - `fn(&Request) -> R` and `async fn(&Request) -> R`, called when the whole body is there,
/// - `async fn(Request) -> R`, called at once: it receives the body itself,
///
/// where `R` implements [`IntoResponse`]. `M` only keeps these apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler",
    label = "not a handler",
    note = "a handler is `fn(&Request) -> R`, `async fn(&Request) -> R`, `async fn(Request) -> R` \
            or `async fn(E1, E2, …) -> R`, where each `E` implements `FromRequest` and `R` \
            implements `IntoResponse`",
    note = "write the argument's type in closures: `|request: &Request| …`"
)]
pub trait IntoHandler<M> {
    /// The handler.
    fn into_handler(self) -> Handler;
}

/// Marks `fn(&Request) -> R`.
pub struct Plain<R>(PhantomData<R>);
/// Marks `async fn(&Request) -> R`.
pub struct Borrowing<R>(PhantomData<R>);
/// Marks `async fn(Request) -> R`.
pub struct Owning<R>(PhantomData<R>);
/// Marks what is a handler already.
pub struct Ready;

trait Call {
    fn start(&mut self, request: Request);
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response>;
    fn clear(&mut self);
}

struct Memory<S, F> {
    start: S,
    future: Pin<Box<Option<F>>>,
}

impl Handler {
    /// A handler that owns its request. The future need not be `Send`: it stays on its thread.
    pub fn new<S, F>(start: S) -> Handler
    where
        S: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + 'static,
    {
        Handler(Arc::new(move || {
            Slot(Box::new(Memory { start: start.clone(), future: Box::pin(None) }))
        }))
    }

    /// Answers a request in memory of its own. A handler that panics answers 500.
    pub async fn call(&self, request: Request) -> Response {
        let mut slot = self.slot();
        slot.start(request);
        poll_fn(move |cx| slot.poll(cx)).await
    }

    /// A new slot.
    #[must_use]
    pub fn slot(&self) -> Slot {
        (self.0)()
    }
}

impl Slot {
    /// Begins to answer a request; poll it then. A handler that panics answers 500.
    pub fn start(&mut self, request: Request) {
        let started = catch_unwind(AssertUnwindSafe(|| self.0.start(request)));
        if started.is_err() {
            self.clear();
        }
    }

    /// Goes on. The slot is free again when the reply is there.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response> {
        // What a panic leaves half done is dropped; what it shares is the handler's own business.
        match catch_unwind(AssertUnwindSafe(|| self.0.poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(response)) => Poll::Ready(response),
            Err(_) => {
                self.clear();
                Poll::Ready(Error::new(500, "the handler failed").into_response())
            }
        }
    }

    /// Drops the future: the request is not to be answered any more.
    pub fn clear(&mut self) {
        // A destructor may panic too.
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.clear()));
    }
}

impl<S, F> Call for Memory<S, F>
where
    S: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    fn start(&mut self, request: Request) {
        let future = (self.start)(request);
        self.future.set(Some(future));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response> {
        let Some(future) = self.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Error::new(500, "the handler failed").into_response());
        };
        let polled = future.poll(cx);
        if polled.is_ready() {
            self.future.set(None);
        }
        polled
    }

    fn clear(&mut self) {
        self.future.set(None);
    }
}

impl IntoHandler<Ready> for Handler {
    fn into_handler(self) -> Handler {
        self
    }
}

impl<H, R> IntoHandler<Plain<R>> for H
where
    H: Fn(&Request) -> R + Send + Sync + 'static,
    R: IntoResponse + 'static,
{
    fn into_handler(self) -> Handler {
        let function = Arc::new(self);
        Handler::new(move |mut request: Request| {
            let function = Arc::clone(&function);
            async move {
                match request.load().await {
                    Ok(()) => function(&request).into_response(),
                    Err(error) => error.into_response(),
                }
            }
        })
    }
}

impl<H, R> IntoHandler<Borrowing<R>> for H
where
    H: AsyncFn(&Request) -> R + Send + Sync + 'static,
    R: IntoResponse + 'static,
{
    fn into_handler(self) -> Handler {
        let function = Arc::new(self);
        Handler::new(move |mut request: Request| {
            let function = Arc::clone(&function);
            async move {
                match request.load().await {
                    Ok(()) => function(&request).await.into_response(),
                    Err(error) => error.into_response(),
                }
            }
        })
    }
}

impl<H, R> IntoHandler<Owning<R>> for H
where
    H: AsyncFn(Request) -> R + Send + Sync + 'static,
    R: IntoResponse + 'static,
{
    fn into_handler(self) -> Handler {
        let function = Arc::new(self);
        Handler::new(move |request: Request| {
            let function = Arc::clone(&function);
            async move { function(request).await.into_response() }
        })
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
