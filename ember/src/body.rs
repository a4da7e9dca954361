//! Bodies of requests, as they arrive, and of replies, as they are made.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ember_uring::Piece;

use crate::error::Error;
use crate::net::Stream;
use crate::rt::{self, Command, TaskId};

/// Bytes of a request's body that are held for a handler which does not take them, before the
/// client is not read from any more.
pub(crate) const BUFFERED_BYTES_MAX: usize = 128 << 10;

/// What a reply is made of besides its head.
#[derive(Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes.
    Bytes(Vec<u8>),
    /// Bytes of the program.
    Static(&'static [u8]),
    /// Bytes that the driver holds already, such as shared ones of a cache.
    Piece(Piece),
    /// Pieces that are made while the reply goes out.
    Stream(Pin<Box<dyn BodyStream>>),
    /// With status 101, or 2xx to a CONNECT: the protocol that the connection speaks from then
    /// on.
    Upgrade(Upgrade),
}

/// Pieces of a body, one after another, made when the last one is on its way.
pub trait BodyStream {
    /// The next piece, or `None` behind the last one. An error breaks the connection off, which
    /// tells the client that the body is not complete.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Piece>>>;

    /// The length of all pieces together, where it is known beforehand.
    fn length(&self) -> Option<u64> {
        None
    }
}

type Speaker = Box<dyn FnOnce(Stream) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Takes the connection over.
pub struct Upgrade(Speaker);

impl Upgrade {
    /// Runs `speak` with the connection, as a task of its own, once the reply's head is out.
    pub fn new<F: Future<Output = ()> + 'static>(
        speak: impl FnOnce(Stream) -> F + 'static,
    ) -> Upgrade {
        Upgrade(Box::new(|stream| Box::pin(speak(stream))))
    }

    /// Begins.
    pub fn start(self, stream: Stream) {
        drop(rt::spawn((self.0)(stream)));
    }
}

impl Body {
    /// A body that a stream gives.
    #[must_use]
    pub fn stream(stream: impl BodyStream + 'static) -> Body {
        Body::Stream(Box::pin(stream))
    }

    /// A body of what a stream of the `futures` crates gives, taken as fast as the client takes it.
    ///
    /// ```
    /// use ember::extract::BodyStream;
    /// use ember::testing::Client;
    /// use ember::{App, Body, Response};
    ///
    /// async fn echo(body: BodyStream) -> Response {
    ///     Response::new(200).with_body(Body::from_stream(body))
    /// }
    ///
    /// let client = Client::new(App::new().post("/echo", echo));
    /// assert_eq!(client.post("/echo", "hello").text(), "hello");
    /// ```
    #[must_use]
    pub fn from_stream<S, T, E>(stream: S) -> Body
    where
        S: futures_core::Stream<Item = Result<T, E>> + 'static,
        T: Into<Vec<u8>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Body::stream(Pieces { stream: Box::pin(stream), length: None })
    }

    /// The same where the length of all is known; the client is told it.
    #[must_use]
    pub fn from_stream_of<S, T, E>(length: u64, stream: S) -> Body
    where
        S: futures_core::Stream<Item = Result<T, E>> + 'static,
        T: Into<Vec<u8>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Body::stream(Pieces { stream: Box::pin(stream), length: Some(length) })
    }

    /// The length, where it is known.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        match self {
            Body::Empty | Body::Upgrade(_) => Some(0),
            Body::Bytes(bytes) => Some(bytes.len() as u64),
            Body::Static(bytes) => Some(bytes.len() as u64),
            Body::Piece(piece) => Some(piece.len() as u64),
            Body::Stream(stream) => stream.length(),
        }
    }

    /// Whether it is known to have no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// A stream of the `futures` crates as a body.
struct Pieces<S> {
    stream: Pin<Box<S>>,
    length: Option<u64>,
}

impl<S, T, E> BodyStream for Pieces<S>
where
    S: futures_core::Stream<Item = Result<T, E>>,
    T: Into<Vec<u8>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece>>> {
        let piece = |piece: Result<T, E>| match piece {
            Ok(bytes) => Ok(Piece::Owned(bytes.into())),
            Err(error) => Err(io::Error::other(error)),
        };
        self.stream.as_mut().poll_next(cx).map(|next| next.map(piece))
    }

    fn length(&self) -> Option<u64> {
        self.length
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.len()) {
            (Body::Upgrade(_), _) => f.write_str("Upgrade"),
            (_, Some(len)) => write!(f, "Body({len} bytes)"),
            (_, None) => f.write_str("Body(stream)"),
        }
    }
}

/// The body of a request under way: written by the host, read by the handler.
#[derive(Clone)]
pub struct BodyFeed(Rc<RefCell<Feed>>);

struct Feed {
    task: TaskId,
    pieces: VecDeque<Vec<u8>>,
    buffered: usize,
    ended: bool,
    failed: Option<Error>,
    /// Somebody waits for bytes: the client may be asked for them.
    wanted: bool,
    /// The host has stopped receiving for want of room.
    full: bool,
    reader: Option<Waker>,
}

impl BodyFeed {
    /// A body of which nothing has come.
    #[must_use]
    pub fn new(task: TaskId) -> BodyFeed {
        BodyFeed(Rc::new(RefCell::new(Feed {
            task,
            pieces: VecDeque::new(),
            buffered: 0,
            ended: false,
            failed: None,
            wanted: false,
            full: false,
            reader: None,
        })))
    }

    /// Bytes have come.
    pub fn push(&self, bytes: &[u8]) {
        let mut feed = self.0.borrow_mut();
        feed.buffered += bytes.len();
        match feed.pieces.back_mut() {
            Some(last) if last.len() + bytes.len() <= 16 << 10 => last.extend_from_slice(bytes),
            _ => feed.pieces.push_back(bytes.to_vec()),
        }
        feed.wake();
    }

    /// All have come.
    pub fn end(&self) {
        let mut feed = self.0.borrow_mut();
        feed.ended = true;
        feed.wake();
    }

    /// No more will come.
    pub fn fail(&self, error: Error) {
        let mut feed = self.0.borrow_mut();
        feed.failed = Some(error);
        feed.wake();
    }

    /// Whether the host should receive more. If not, [`Command::Body`] comes when it should.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let mut feed = self.0.borrow_mut();
        feed.full = feed.buffered >= BUFFERED_BYTES_MAX;
        !feed.full
    }

    /// Whether the handler has asked for bytes.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0.borrow().wanted
    }

    /// The next piece, `None` at the end.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<crate::Result<Vec<u8>>>> {
        let mut feed = self.0.borrow_mut();
        if let Some(piece) = feed.pieces.pop_front() {
            feed.buffered -= piece.len();
            if feed.full && feed.buffered < BUFFERED_BYTES_MAX / 2 {
                feed.full = false;
                rt::current().command(Command::Body { task: feed.task });
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        if let Some(error) = &feed.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        if feed.ended {
            return Poll::Ready(None);
        }
        if !std::mem::replace(&mut feed.wanted, true) {
            rt::current().command(Command::Body { task: feed.task });
        }
        feed.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(crate) async fn next(&self) -> Option<crate::Result<Vec<u8>>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Feed {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl fmt::Debug for BodyFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let feed = self.0.borrow();
        f.debug_struct("BodyFeed").field("buffered", &feed.buffered).finish_non_exhaustive()
    }
}
