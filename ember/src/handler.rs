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
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::context::{Local, Shared};
use crate::error::Error;
use crate::extract::{BodyNeed, FromRequest};
use crate::request::Request;
use crate::response::{IntoResponse, Response};

/// A handler without its type.
#[derive(Clone)]
pub struct Handler {
    make: Arc<dyn Fn() -> Box<dyn Call> + Send + Sync>,
    shared: Option<Arc<Shared>>,
}

/// The memory of one call of a handler.
pub struct Slot {
    call: Box<dyn Call>,
    local: Option<Rc<Local>>,
}

/// A function that can be a handler. It is implemented for
///
/// - `fn(&Request) -> R` and `async fn(&Request) -> R`, called when the whole body is there,
/// - `async fn(Request) -> R`, called at once: it receives the body itself,
/// - `async fn(E1, …, E8) -> R`, where each `E` implements
///   [`FromRequest`](crate::extract::FromRequest): called when what they want has come,
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
/// Marks `async fn(E1, …) -> R`.
pub struct Extracting<E, R>(PhantomData<(E, R)>);
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

/// A call with a middleware around it, whose future has the inner call until it ends.
struct Wrapped<S, F> {
    start: S,
    make_inner: Arc<dyn Fn() -> Box<dyn Call> + Send + Sync>,
    /// None while the future has it, and after that was dropped.
    inner: Option<Box<dyn Call>>,
    future: Pin<Box<Option<F>>>,
}

/// What a middleware lets a request through to.
pub struct Next<'a>(&'a mut dyn Call);

/// Work around handlers: it sees the request first and the reply last. `async fn(Request, Next<'_>)
/// -> R` is one, too.
///
/// Like handlers, the futures of middleware live in memory that is used again.
pub trait Middleware: Send + Sync + 'static {
    /// Answers; by what [`Next::run`] gives, or by itself.
    fn handle(&self, request: Request, next: Next<'_>) -> impl Future<Output = Response>;

    /// Whether it answers OPTIONS on every path that it stands in front of.
    fn answers_options(&self) -> bool {
        false
    }
}

impl<H, R> Middleware for H
where
    H: AsyncFn(Request, Next<'_>) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        self(request, next).await.into_response()
    }
}

impl Next<'_> {
    /// Calls the handler, or the next middleware. Dropping this future ends their work.
    pub async fn run(self, request: Request) -> Response {
        /// Drops the inner future with the outer one.
        struct Running<'a>(&'a mut dyn Call);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                self.0.clear();
            }
        }
        // A handler's panic is an answer, too: it goes out through all that is around it.
        let failed = || Error::new(500, "the handler failed").into_response();
        let running = Running(self.0);
        if catch_unwind(AssertUnwindSafe(|| running.0.start(request))).is_err() {
            return failed();
        }
        std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| running.0.poll(cx))) {
            Ok(polled) => polled,
            Err(_) => Poll::Ready(failed()),
        })
        .await
    }
}

impl Handler {
    /// A handler that owns its request. The future need not be `Send`: it stays on its thread.
    pub fn new<S, F>(start: S) -> Handler
    where
        S: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + 'static,
    {
        Handler::of(move || start.clone())
    }

    /// A handler whose slots each have a function of their own.
    fn of<S, F>(make: impl Fn() -> S + Send + Sync + 'static) -> Handler
    where
        S: Fn(Request) -> F + 'static,
        F: Future<Output = Response> + 'static,
    {
        let make = Arc::new(move || -> Box<dyn Call> {
            Box::new(Memory { start: make(), future: Box::pin(None) })
        });
        Handler { make, shared: None }
    }

    /// A handler around `function`, to which each slot has a reference that it counts alone: no
    /// thread waits for another one's count.
    fn around<H, S, F>(function: H, start: impl Fn(Rc<Arc<H>>) -> S + Send + Sync + 'static) -> Self
    where
        H: Send + Sync + 'static,
        S: Fn(Request) -> F + 'static,
        F: Future<Output = Response> + 'static,
    {
        let function = Arc::new(function);
        Handler::of(move || start(Rc::new(Arc::clone(&function))))
    }

    /// The handler behind a middleware.
    #[must_use]
    pub fn wrap<M: Middleware>(self, middleware: M) -> Handler {
        let (inner, shared) = (self.make, self.shared);
        let middleware = Arc::new(middleware);
        let make = Arc::new(move || -> Box<dyn Call> {
            let (inner, middleware) = (Arc::clone(&inner), Rc::new(Arc::clone(&middleware)));
            let start = move |request: Request, mut call: Box<dyn Call>| {
                let middleware = Rc::clone(&middleware);
                async move {
                    let response = middleware.handle(request, Next(&mut *call)).await;
                    (response, call)
                }
            };
            Box::new(Wrapped { start, make_inner: inner, inner: None, future: Box::pin(None) })
        });
        Handler { make, shared }
    }

    /// The handler as a part of an app.
    pub(crate) fn within(mut self, shared: &Arc<Shared>) -> Handler {
        self.shared = Some(Arc::clone(shared));
        self
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
        Slot { call: (self.make)(), local: self.shared.as_ref().map(Local::of) }
    }
}

impl Slot {
    /// Begins to answer a request; poll it then. A handler that panics answers 500.
    pub fn start(&mut self, mut request: Request) {
        if let Some(local) = &self.local {
            request.set_local(local);
        }
        let started = catch_unwind(AssertUnwindSafe(|| self.call.start(request)));
        if started.is_err() {
            self.clear();
        }
    }

    /// Goes on. The slot is free again when the reply is there.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response> {
        // What a panic leaves half done is dropped; what it shares is the handler's own business.
        match catch_unwind(AssertUnwindSafe(|| self.call.poll(cx))) {
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
        let _ = catch_unwind(AssertUnwindSafe(|| self.call.clear()));
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

impl<S, F> Call for Wrapped<S, F>
where
    S: Fn(Request, Box<dyn Call>) -> F,
    F: Future<Output = (Response, Box<dyn Call>)>,
{
    fn start(&mut self, request: Request) {
        let inner = self.inner.take().unwrap_or_else(|| (self.make_inner)());
        let future = (self.start)(request, inner);
        self.future.set(Some(future));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Response> {
        let Some(future) = self.future.as_mut().as_pin_mut() else {
            return Poll::Ready(Error::new(500, "the handler failed").into_response());
        };
        let (response, inner) = std::task::ready!(future.poll(cx));
        self.future.set(None);
        self.inner = Some(inner);
        Poll::Ready(response)
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
        Handler::around(self, |function| {
            move |mut request: Request| {
                let function = Rc::clone(&function);
                async move {
                    match request.load().await {
                        Ok(()) => function(&request).into_response(),
                        Err(error) => error.into_response(),
                    }
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
        Handler::around(self, |function| {
            move |mut request: Request| {
                let function = Rc::clone(&function);
                async move {
                    match request.load().await {
                        Ok(()) => function(&request).await.into_response(),
                        Err(error) => error.into_response(),
                    }
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
        Handler::around(self, |function| {
            move |request: Request| {
                let function = Rc::clone(&function);
                async move { function(request).await.into_response() }
            }
        })
    }
}

/// What the extractors of one handler want of the body.
const fn wants_whole_body(needs: &[BodyNeed]) -> bool {
    let (mut whole, mut taken, mut at) = (false, 0, 0);
    while at < needs.len() {
        match needs[at] {
            BodyNeed::None => {}
            BodyNeed::Whole => whole = true,
            BodyNeed::Taken => {
                whole = true;
                taken += 1;
            }
            BodyNeed::Stream => {
                taken += 1;
                assert!(!whole && taken < 2, "two extractors of this handler want the body");
            }
        }
        assert!(taken < 2, "two extractors of this handler take the body");
        at += 1;
    }
    whole
}

macro_rules! extracting {
    ($($extractor:ident)+) => {
        impl<H, R, $($extractor),+> IntoHandler<Extracting<($($extractor,)+), R>> for H
        where
            H: AsyncFn($($extractor),+) -> R + Send + Sync + 'static,
            R: IntoResponse + 'static,
            $($extractor: FromRequest + 'static,)+
        {
            fn into_handler(self) -> Handler {
                let whole = const { wants_whole_body(&[$($extractor::BODY),+]) };
                Handler::around(self, move |function| move |mut request: Request| {
                    let function = Rc::clone(&function);
                    async move {
                        if whole && let Err(error) = request.load().await {
                            return error.into_response();
                        }
                        $(
                            #[allow(non_snake_case)]
                            let $extractor = match $extractor::from_request(&mut request).await {
                                Ok(value) => value,
                                Err(error) => return error.into_response(),
                            };
                        )+
                        // Its memory is of use to others while the handler works.
                        drop(request);
                        function($($extractor),+).await.into_response()
                    }
                })
            }
        }
    };
}

extracting!(E1);
extracting!(E1 E2);
extracting!(E1 E2 E3);
extracting!(E1 E2 E3 E4);
extracting!(E1 E2 E3 E4 E5);
extracting!(E1 E2 E3 E4 E5 E6);
extracting!(E1 E2 E3 E4 E5 E6 E7);
extracting!(E1 E2 E3 E4 E5 E6 E7 E8);

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
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
