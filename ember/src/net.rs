//! Streams on the worker thread's own ring: TCP and unix sockets.
//!
//! A [`Stream`] receives into memory that it uses again, one receive at a time and only while
//! somebody waits for bytes, and sends one payload at a time. It implements the traits of
//! `futures-io`, with the feature `tokio` those of `tokio::io`, and cheaper calls of its own.
//! Dropping it closes the socket.

mod connect;
#[cfg(feature = "tokio")]
mod sendable;
#[cfg(feature = "tokio")]
mod tokio_io;

use std::cell::{Ref, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub use connect::resolve;
pub use ember_uring::Address;
use ember_uring::{Errno, Payload};
#[cfg(feature = "tokio")]
pub use sendable::SendStream;

use crate::rt::{self, Command, Inner};

/// A stream of one runtime, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u32);

impl StreamId {
    pub(crate) fn new(at: usize) -> StreamId {
        StreamId(u32::try_from(at).expect("fewer than 2^32 streams"))
    }

    /// The place, dense from zero: an index for the host's own table.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What has become of a stream's commands.
#[derive(Debug)]
pub enum StreamEvent<'a> {
    /// It is connected.
    Connected,
    /// Bytes came in.
    Received(&'a [u8]),
    /// The peer sends no more.
    Ended,
    /// The payload has been handed to the kernel.
    Sent,
    /// An operation failed, and with it the stream.
    Failed(Errno),
    /// The socket is closed.
    Closed,
}

/// Bytes that [`futures_io::AsyncWrite`] takes at a time.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// A connected stream socket.
pub struct Stream {
    core: Rc<StreamCore>,
    runtime: Rc<Inner>,
}

/// What a stream and its runtime share.
pub(crate) struct StreamCore {
    id: StreamId,
    state: RefCell<State>,
}

struct State {
    connected: bool,
    received: Vec<u8>,
    /// How many of these were consumed.
    consumed: usize,
    receiving: bool,
    ended: bool,
    sending: bool,
    shut: bool,
    failed: Option<Errno>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Stream {
    /// Connects. [`crate::time::timeout`] bounds the wait; dropping the future gives up.
    ///
    /// # Errors
    /// Why the connection did not come about.
    ///
    /// # Panics
    /// Outside of a worker thread's handlers, tasks and hooks.
    pub async fn connect(address: &Address) -> io::Result<Stream> {
        let runtime = rt::current();
        let core = runtime.add_stream(false);
        runtime.command(Command::Connect { stream: core.id, address: address.clone() });
        let stream = Stream { core, runtime };
        poll_fn(|cx| stream.core.poll_connected(cx)).await?;
        Ok(stream)
    }

    pub(crate) fn of(core: Rc<StreamCore>, runtime: Rc<Inner>) -> Stream {
        Stream { core, runtime }
    }

    /// Waits for more bytes than the buffer holds already; how many came, zero at the end.
    ///
    /// # Errors
    /// Why the connection broke.
    pub async fn fill(&mut self) -> io::Result<usize> {
        let before = self.buffer().len();
        poll_fn(|cx| self.poll_fill(cx, before)).await
    }

    /// The same for a hand-written future: `before` is the length of the buffer that is not
    /// enough.
    ///
    /// # Errors
    /// Why the connection broke.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, before: usize) -> Poll<io::Result<usize>> {
        let mut state = self.core.state.borrow_mut();
        let now = state.received.len() - state.consumed;
        if now > before {
            return Poll::Ready(Ok(now - before));
        }
        if let Some(errno) = state.failed {
            return Poll::Ready(Err(errno.into()));
        }
        if state.ended {
            return Poll::Ready(Ok(0));
        }
        remember(&mut state.reader, cx);
        if !state.receiving {
            state.receiving = true;
            self.runtime.command(Command::Recv { stream: self.core.id });
        }
        Poll::Pending
    }

    /// What came in and was not consumed.
    #[must_use]
    pub fn buffer(&self) -> Ref<'_, [u8]> {
        Ref::map(self.core.state.borrow(), |state| &state.received[state.consumed..])
    }

    /// Takes the first `count` bytes out of the buffer.
    ///
    /// # Panics
    /// When it holds fewer.
    pub fn consume(&mut self, count: usize) {
        let mut state = self.core.state.borrow_mut();
        assert!(count <= state.received.len() - state.consumed, "no more than there is");
        state.consumed += count;
        if state.consumed == state.received.len() {
            state.received.clear();
            state.consumed = 0;
        }
    }

    /// Takes everything out that came in and was not consumed, without a copy where nothing was
    /// consumed of it.
    #[must_use]
    pub fn take_buffer(&mut self) -> Vec<u8> {
        let mut state = self.core.state.borrow_mut();
        let consumed = std::mem::take(&mut state.consumed);
        let mut bytes = std::mem::take(&mut state.received);
        bytes.drain(..consumed);
        bytes
    }

    /// Waits until what was sent before has gone out, then hands this over. Returns without
    /// waiting for it to go out; [`Stream::flush`] does.
    ///
    /// # Errors
    /// Why the connection broke.
    pub async fn send(&mut self, payload: impl Into<Payload>) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx)).await?;
        self.start_send(payload.into(), false);
        Ok(())
    }

    /// Waits until everything has gone out.
    ///
    /// # Errors
    /// Why the connection broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_writable(cx)).await
    }

    /// Waits until everything has gone out, then tells the peer that this was all.
    ///
    /// # Errors
    /// Why the connection broke.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Whether nothing is to be heard of the peer: no bytes that were not asked for, no end, no
    /// failure. Only as far as a receive is in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let state = self.core.state.borrow();
        state.received.is_empty() && !state.ended && state.failed.is_none()
    }

    /// Waits until the last payload has gone out: the next can be handed over.
    ///
    /// # Errors
    /// Why the connection broke.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.core.state.borrow_mut();
        if let Some(errno) = state.failed {
            return Poll::Ready(Err(errno.into()));
        }
        if state.sending {
            remember(&mut state.writer, cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn set_receiving(&self) {
        self.core.state.borrow_mut().receiving = true;
    }

    /// The host's name for it.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.core.id
    }

    fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_writable(cx))?;
        if !self.core.state.borrow().shut {
            self.start_send(Payload::Owned(Vec::new()), true);
            return self.poll_writable(cx);
        }
        Poll::Ready(Ok(()))
    }

    /// Hands a payload over; [`Stream::poll_writable`] has said that it can be.
    pub fn start_send(&self, payload: Payload, last: bool) {
        let mut state = self.core.state.borrow_mut();
        if state.shut || (payload.is_empty() && !last) {
            return;
        }
        debug_assert!(!state.sending, "one payload at a time");
        state.sending = true;
        state.shut = last;
        self.runtime.command(Command::Send { stream: self.core.id, payload, last });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.runtime.command(Command::Close { stream: self.core.id });
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.core.id.0).finish_non_exhaustive()
    }
}

impl futures_io::AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_fill(cx, 0))?;
        let count = {
            let buffer = self.buffer();
            let count = buffer.len().min(out.len());
            out[..count].copy_from_slice(&buffer[..count]);
            count
        };
        self.consume(count);
        Poll::Ready(Ok(count))
    }
}

impl futures_io::AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_writable(cx))?;
        if self.core.state.borrow().shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = bytes.len().min(WRITE_BYTES_MAX);
        self.start_send(Payload::Owned(bytes[..count].to_vec()), false);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writable(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown(cx)
    }
}

impl StreamCore {
    pub(crate) fn new(id: StreamId, connected: bool) -> StreamCore {
        let state = State {
            connected,
            received: Vec::new(),
            consumed: 0,
            receiving: false,
            ended: false,
            sending: false,
            shut: false,
            failed: None,
            reader: None,
            writer: None,
        };
        StreamCore { id, state: RefCell::new(state) }
    }

    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    /// Bytes that were received before the stream was made.
    pub(crate) fn preset(&self, received: &[u8]) {
        self.state.borrow_mut().received.extend_from_slice(received);
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if let Some(errno) = state.failed {
            return Poll::Ready(Err(errno.into()));
        }
        if !state.connected {
            remember(&mut state.writer, cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn handle(&self, event: StreamEvent<'_>) {
        let mut state = self.state.borrow_mut();
        let (reads, writes) = match event {
            StreamEvent::Connected => {
                state.connected = true;
                (false, true)
            }
            StreamEvent::Received(bytes) => {
                state.receiving = false;
                if state.consumed > 0 {
                    let consumed = std::mem::take(&mut state.consumed);
                    state.received.drain(..consumed);
                }
                state.received.extend_from_slice(bytes);
                (true, false)
            }
            StreamEvent::Ended => {
                state.receiving = false;
                state.ended = true;
                (true, false)
            }
            StreamEvent::Sent => {
                state.sending = false;
                (false, true)
            }
            StreamEvent::Failed(errno) => {
                state.failed.get_or_insert(errno);
                (true, true)
            }
            StreamEvent::Closed => {
                state.failed.get_or_insert(Errno::ENOTCONN);
                (true, true)
            }
        };
        let reader = reads.then(|| state.reader.take()).flatten();
        let writer = writes.then(|| state.writer.take()).flatten();
        drop(state);
        for waker in reader.into_iter().chain(writer) {
            waker.wake();
        }
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
