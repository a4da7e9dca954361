//! Requests as handlers see them.

use std::any::{Any, TypeId};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use ember_http::{BodyKind, HandlerId, Method, OwnedRequest, RouteId, Site, Version};
use ember_uring::PeerAddr;

use crate::body::BodyFeed;
use crate::context::Local;
use crate::error::Error;
use crate::rt::{self, Command, TaskId};

/// Requests whose memory a thread keeps for the next ones.
const SPARES_MAX: usize = 64;

/// A request.
///
/// Its memory goes back to the thread when it is dropped, and is used again.
pub struct Request(Option<Box<Parts>>);

struct Parts {
    head: OwnedRequest,
    /// Stays from one use to the next: the site rarely changes.
    site: Arc<Site>,
    task: TaskId,
    feed: Option<BodyFeed>,
    body: Vec<u8>,
    peer: PeerCell,
    extensions: Vec<(TypeId, Box<dyn Any>)>,
    local: Option<Rc<Local>>,
}

/// The address of a request's client, once it is asked for.
#[derive(Clone, Default)]
pub struct PeerCell(Rc<PeerState>);

#[derive(Default)]
struct PeerState {
    /// Outer: whether it was told. Inner: whether there is one.
    address: RefCell<Option<Option<PeerAddr>>>,
    asked: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes go in and out of requests as they are")]
    static SPARES: RefCell<Vec<Box<Parts>>> = const { RefCell::new(Vec::new()) };
}

impl Request {
    /// A copy of what the protocol has read. `task` is the place of the handler's future.
    #[must_use]
    pub fn of_head(
        head: &ember_http::Request<'_>,
        site: &Arc<Site>,
        task: TaskId,
        feed: Option<BodyFeed>,
    ) -> Request {
        let spare = SPARES.with_borrow_mut(Vec::pop);
        let mut parts = spare.unwrap_or_else(|| {
            Box::new(Parts {
                head: OwnedRequest::new(),
                site: Arc::clone(site),
                task,
                feed: None,
                body: Vec::new(),
                peer: PeerCell::default(),
                extensions: Vec::new(),
                local: None,
            })
        });
        parts.head.copy_from(head);
        if !Arc::ptr_eq(&parts.site, site) {
            parts.site = Arc::clone(site);
        }
        parts.task = task;
        parts.feed = feed;
        Request(Some(parts))
    }

    fn parts(&self) -> &Parts {
        self.0.as_ref().expect("taken by drop alone")
    }

    fn parts_mut(&mut self) -> &mut Parts {
        self.0.as_mut().expect("taken by drop alone")
    }

    /// The request as the protocol sees it.
    #[must_use]
    pub fn head(&self) -> ember_http::Request<'_> {
        let parts = self.parts();
        parts.head.view(&parts.site)
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.head().method()
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head().version()
    }

    /// The path, decoded once and without dot segments.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head().path()
    }

    /// The name of the route that it came by.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.head().route_info().route.name
    }

    /// The number of that route in its site.
    #[must_use]
    pub fn route_id(&self) -> RouteId {
        self.parts().head.route
    }

    /// What the site knows that route's handler by.
    #[must_use]
    pub fn handler_id(&self) -> HandlerId {
        self.parts().head.handler
    }

    /// A parameter of the route's pattern, decoded.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        self.head().param(name)
    }

    /// A parameter of the route's pattern by its number.
    #[must_use]
    pub fn param_at(&self, at: usize) -> Option<Cow<'_, str>> {
        self.head().raw_param(at).map(ember_http::decode_part)
    }

    /// What stands behind the `?` of the target, as it was sent.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        self.head().query()
    }

    /// The host and port that the request is for.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        self.head().authority()
    }

    /// The value of the first header field of that name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.head().field(name)
    }

    /// The header fields in order, as they were sent.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.head().fields()
    }

    /// Whether it came with a body, be it empty.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.parts().head.body != BodyKind::None
    }

    /// The length that the body was said to have; none if there is no body, or it comes in chunks.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        match self.parts().head.body {
            BodyKind::Length(len) => Some(len),
            BodyKind::None | BodyKind::Chunked => None,
        }
    }

    /// Receives the whole body, which [`Request::body`] has from then on. The route's limit bounds
    /// it.
    ///
    /// # Errors
    /// When the client broke off or sent what is no body, or more than the limit.
    pub async fn load(&mut self) -> crate::Result<()> {
        let parts = self.parts_mut();
        if let Some(feed) = parts.feed.take() {
            while let Some(piece) = feed.next().await {
                let piece = piece?;
                if parts.body.is_empty() {
                    parts.body = piece;
                } else {
                    parts.body.extend_from_slice(&piece);
                }
            }
        }
        Ok(())
    }

    /// The body without its framing; empty where there is none. Handlers that take a reference to
    /// the request find it complete; those that own it must [`Request::load`] it first.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.parts().body
    }

    /// The next piece of the body, as it comes; `None` at its end. The client is read from no
    /// faster than pieces are taken.
    ///
    /// # Errors
    /// When the client broke off or sent what is no body, or more than the limit.
    pub async fn next_piece(&mut self) -> Option<crate::Result<Vec<u8>>> {
        let parts = self.parts_mut();
        if !parts.body.is_empty() {
            return Some(Ok(std::mem::take(&mut parts.body)));
        }
        parts.feed.as_ref()?.next().await
    }

    /// Takes the body out, to be read apart from the request.
    ///
    /// A client that waits for 100 (Continue) is told it when the body is read from, if no reply has
    /// begun by then.
    #[must_use]
    pub fn take_body(&mut self) -> RequestBody {
        let parts = self.parts_mut();
        RequestBody { loaded: std::mem::take(&mut parts.body), feed: parts.feed.take() }
    }

    /// The body read as JSON; it must have been loaded.
    ///
    /// # Errors
    /// 400 with the place, where it is none or does not fit the type.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> crate::Result<T> {
        serde_json::from_slice(self.body())
            .map_err(|error| Error::new(400, format!("the body: {error}")))
    }

    /// The path of the route of that name in this app, with these parameters, encoded as needed.
    ///
    /// # Errors
    /// When there is no such route, or a parameter of its pattern has no value.
    pub fn url_for(&self, name: &str, params: &[(&str, &str)]) -> crate::Result<String> {
        match &self.parts().local {
            Some(local) => local.shared.url_for(name, params),
            None => Err(Error::new(500, "the request is no app's")),
        }
    }

    pub(crate) fn set_local(&mut self, local: &Rc<Local>) {
        self.parts_mut().local = Some(Rc::clone(local));
    }

    pub(crate) fn local(&self) -> Option<&Rc<Local>> {
        self.parts().local.as_ref()
    }

    /// The body for an extractor: of a client that waits for 100 (Continue) the first piece is there
    /// already, since after the reply's head it could not be told to go on.
    pub(crate) async fn begin_body(&mut self) -> crate::Result<RequestBody> {
        let waits = self.parts().head.expects_continue;
        let mut body = self.take_body();
        if waits && let Some(piece) = body.next().await {
            body.loaded = piece?;
        }
        Ok(body)
    }

    /// Takes the whole body out; what [`Request::load`] has received.
    #[must_use]
    pub fn take_loaded(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.parts_mut().body)
    }

    /// The address of the other end of the connection. The kernel is asked once a connection.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn peer(&self) -> crate::Result<PeerAddr> {
        let parts = self.parts();
        let state = &parts.peer.0;
        let task = parts.task;
        poll_fn(|cx| {
            if let Some(address) = &*state.address.borrow() {
                let gone = || Error::new(503, "the connection is gone");
                return Poll::Ready(address.clone().ok_or_else(gone));
            }
            if !state.asked.replace(true) {
                rt::current().command(Command::Peer { task });
            }
            *state.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Where the host puts the client's address.
    #[must_use]
    pub fn peer_cell(&self) -> PeerCell {
        self.parts().peer.clone()
    }

    /// Keeps a value of its type with the request.
    pub fn insert<T: 'static>(&mut self, value: T) {
        let extensions = &mut self.parts_mut().extensions;
        extensions.retain(|(id, _)| *id != TypeId::of::<T>());
        extensions.push((TypeId::of::<T>(), Box::new(value)));
    }

    /// The value of this type that was kept with the request.
    #[must_use]
    pub fn get<T: 'static>(&self) -> Option<&T> {
        let extensions = &self.parts().extensions;
        let (_, value) = extensions.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        value.downcast_ref()
    }
}

/// A request's body, apart from its request.
#[derive(Debug)]
pub struct RequestBody {
    loaded: Vec<u8>,
    feed: Option<BodyFeed>,
}

impl RequestBody {
    /// The next piece, as it comes; `None` at the end.
    ///
    /// # Errors
    /// When the client broke off or sent what is no body, or more than the limit.
    pub async fn next(&mut self) -> Option<crate::Result<Vec<u8>>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same for a hand-written future.
    ///
    /// # Errors
    /// As [`RequestBody::next`].
    pub fn poll_next(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<crate::Result<Vec<u8>>>> {
        if !self.loaded.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.loaded))));
        }
        match &self.feed {
            Some(feed) => feed.poll_next(cx),
            None => Poll::Ready(None),
        }
    }
}

impl PeerCell {
    /// Tells the address; none where the kernel does not say.
    pub fn set(&self, address: Option<PeerAddr>) {
        *self.0.address.borrow_mut() = Some(address);
        let waiting = self.0.waiting.borrow_mut().take();
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    fn is_fresh(&self) -> bool {
        Rc::strong_count(&self.0) == 1
    }

    fn clear(&self) {
        *self.0.address.borrow_mut() = None;
        self.0.asked.set(false);
        *self.0.waiting.borrow_mut() = None;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Some(mut parts) = self.0.take() else { return };
        parts.feed = None;
        parts.extensions.clear();
        parts.local = None;
        parts.body = Vec::new();
        if parts.peer.is_fresh() {
            parts.peer.clear();
        } else {
            parts.peer = PeerCell::default();
        }
        // A thread that ends keeps nothing.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARES_MAX {
                spares.push(parts);
            }
        });
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(self.head().target()).into_owned();
        f.debug_struct("Request").field("method", &self.method()).field("target", &path).finish()
    }
}

impl fmt::Debug for PeerCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerCell").field(&self.0.address.borrow()).finish()
    }
}
