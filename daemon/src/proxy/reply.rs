//! The body of a reply on its way from an upstream to the client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ember::net::Stream;
use ember::{BodyStream, Piece};
use ember_http::upstream::{Fault, ReplyBody, ReplyPiece};

use super::pool::{self, Connection};
use super::upload::Upload;
use super::{Loaded, clock};

/// A body that comes in.
#[derive(Debug)]
pub(super) struct Incoming {
    loaded: Loaded,
    /// Gone when it is kept for another request.
    connection: Option<Connection>,
    body: ReplyBody,
    upload: Upload,
    persists: bool,
}

/// The same as the body of a reply.
#[derive(Debug)]
pub(super) struct ReplyStream {
    incoming: Incoming,
    length: Option<u64>,
    /// Bytes that were taken of the body before.
    front: Vec<u8>,
}

/// No body, but its length: what HEAD is answered with.
pub(super) struct Announced(pub(super) u64);

impl Incoming {
    pub(super) fn new(
        loaded: Loaded,
        connection: Connection,
        body: ReplyBody,
        upload: Upload,
        persists: bool,
    ) -> Incoming {
        Incoming { loaded, connection: Some(connection), body, upload, persists }
    }

    /// The whole body, if all of it is there already.
    pub(super) fn try_whole(&mut self) -> Option<Vec<u8>> {
        let connection = self.connection.as_mut()?;
        if self.body.is_done() {
            self.finish();
            return Some(Vec::new());
        }
        let left = usize::try_from(self.body.length_left()?).ok()?;
        if connection.stream.buffer().len() < left {
            return None;
        }
        let bytes = self.decode().ok()?;
        self.body.is_done().then(|| {
            self.finish();
            bytes
        })
    }

    /// The connection itself, and how long it may make no headway.
    pub(super) fn into_stream(mut self) -> (Option<(Loaded, Stream)>, Duration) {
        let limit = self.loaded.proxy.rules.stall_timeout;
        let connection = self.connection.take();
        (connection.map(|connection| (self.loaded, connection.stream)), limit)
    }

    /// The next bytes of the body; `None` behind the last.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Vec<u8>>>> {
        let stall = self.loaded.proxy.rules.stall_timeout;
        loop {
            if self.body.is_done() {
                self.finish();
                return Poll::Ready(None);
            }
            match self.decode() {
                Ok(bytes) if !bytes.is_empty() => {
                    if self.body.is_done() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(_) if self.body.is_done() => continue,
                Ok(_) => {}
                Err(fault) => return Poll::Ready(Some(Err(self.fail(fault.as_str())))),
            }
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(Some(Err(io::ErrorKind::NotConnected.into())));
            };
            // An upstream may reply while it still takes the request's body.
            if !self.upload.is_sent() {
                let _ = self.upload.poll(cx, &connection.stream);
            }
            match connection.stream.poll_fill(cx, 0) {
                Poll::Ready(Ok(0)) => {
                    if let Err(fault) = self.body.handle_eof() {
                        return Poll::Ready(Some(Err(self.fail(fault.as_str()))));
                    }
                }
                Poll::Ready(Ok(_)) => connection.watch.start(stall),
                Poll::Ready(Err(error)) => {
                    self.loaded.upstream().health.failed(clock::now_ms());
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    ready!(connection.watch.poll(cx));
                    return Poll::Ready(Some(Err(self.fail("it stalls"))));
                }
            }
        }
    }

    /// Waiting for the body begins: what the watch had to do before is over.
    pub(super) fn start(&mut self) {
        let stall = self.loaded.proxy.rules.stall_timeout;
        if let Some(connection) = &mut self.connection {
            connection.watch.start(stall);
        }
    }

    /// Takes the framing off what has come in.
    fn decode(&mut self) -> Result<Vec<u8>, Fault> {
        let Some(connection) = &mut self.connection else { return Ok(Vec::new()) };
        let limits = &self.loaded.proxy.limits;
        let mut out = Vec::new();
        let mut at = 0;
        let whole = {
            let buffer = connection.stream.buffer();
            loop {
                if self.body.is_done() {
                    break false;
                }
                match self.body.decode(&buffer[at..], limits)? {
                    ReplyPiece::Data { skipped: 0, len } if at == 0 && len == buffer.len() => {
                        break true;
                    }
                    ReplyPiece::Data { skipped, len } => {
                        out.extend_from_slice(&buffer[at + skipped..][..len]);
                        at += skipped + len;
                    }
                    ReplyPiece::More => {
                        at = buffer.len();
                        break false;
                    }
                    ReplyPiece::End(len) => at += len,
                }
            }
        };
        if whole {
            return Ok(connection.stream.take_buffer());
        }
        connection.stream.consume(at);
        Ok(out)
    }

    /// The body has come as a whole: the connection is free, if it can be used again.
    fn finish(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // Bytes behind a reply answer no request of ours.
        if self.persists && self.upload.is_sent() && connection.stream.is_quiet() {
            pool::put(&self.loaded.proxy, self.loaded.upstream(), connection);
        }
    }

    fn fail(&mut self, why: &'static str) -> io::Error {
        self.loaded.upstream().health.failed(clock::now_ms());
        self.connection = None;
        io::Error::other(why)
    }
}

impl ReplyStream {
    pub(super) fn new(mut incoming: Incoming, length: Option<u64>) -> ReplyStream {
        incoming.start();
        ReplyStream { incoming, length, front: Vec::new() }
    }

    /// With these bytes in front, which are a part of the length.
    pub(super) fn behind(self, front: Vec<u8>) -> ReplyStream {
        ReplyStream { front, ..self }
    }
}

impl BodyStream for ReplyStream {
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece>>> {
        if !self.front.is_empty() {
            let front = std::mem::take(&mut self.front);
            return Poll::Ready(Some(Ok(Piece::Owned(front))));
        }
        let next = ready!(self.incoming.poll_bytes(cx));
        Poll::Ready(next.map(|bytes| bytes.map(Piece::Owned)))
    }

    fn length(&self) -> Option<u64> {
        self.length
    }
}

impl BodyStream for Announced {
    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Piece>>> {
        Poll::Ready(None)
    }

    fn length(&self) -> Option<u64> {
        Some(self.0)
    }
}
