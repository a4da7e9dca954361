//! The body of a request on its way to an upstream.

use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};

use ember::net::Stream;
use ember::{Error, Piece, RequestBody};
use ember_http::{LAST_CHUNK, chunk_head};
use ember_uring::Payload;

/// Bytes of a body that are kept so that it can be sent once more.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// A body that is passed on piece by piece: the next is taken from the client when the last one is
/// out.
pub(super) struct Upload {
    body: Option<RequestBody>,
    chunked: bool,
    /// Every piece so far; none when they are too many to be kept.
    kept: Option<Vec<Vec<u8>>>,
    kept_bytes: usize,
    /// Pieces of these that were sent this time.
    sent: usize,
    progress: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Pieces are to be taken from the client.
    Open,
    /// The client's body has ended; the last chunk is to be sent.
    Ended,
    /// All is sent.
    Sent,
}

/// Why a body cannot be passed on.
pub(super) enum Broken {
    /// The upstream does not take it.
    Upstream(io::Error),
    /// The client does not send it.
    Client(Error),
}

impl Upload {
    /// No body.
    pub(super) fn nothing() -> Upload {
        Upload {
            body: None,
            chunked: false,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            sent: 0,
            progress: 0,
            state: State::Sent,
        }
    }

    /// A body of this length; of unknown length if there is none.
    pub(super) fn new(body: RequestBody, length: Option<u64>) -> Upload {
        Upload {
            body: Some(body),
            chunked: length.is_none(),
            state: State::Open,
            ..Self::nothing()
        }
    }

    /// Whether it can be sent from its beginning.
    pub(super) fn can_start(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether everything was handed over.
    pub(super) fn is_sent(&self) -> bool {
        self.state == State::Sent
    }

    /// A number that grows whenever something was sent.
    pub(super) fn progress(&self) -> u64 {
        self.progress
    }

    /// Back to the beginning, for another try; see [`Upload::can_start`].
    pub(super) fn restart(&mut self) {
        self.sent = 0;
        if self.state == State::Sent && self.body.is_some() {
            self.state = State::Ended;
        }
    }

    /// Sends what can be sent; ready when all is handed over.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.state == State::Sent {
                return Poll::Ready(Ok(()));
            }
            ready!(stream.poll_writable(cx)).map_err(Broken::Upstream)?;
            if let Some(piece) = self.kept.as_ref().and_then(|kept| kept.get(self.sent)) {
                self.sent += 1;
                let again = piece.clone();
                self.send(stream, again);
                continue;
            }
            if self.state == State::Ended {
                if self.chunked {
                    stream.start_send(Payload::Owned(LAST_CHUNK.to_vec()), false);
                }
                self.state = State::Sent;
                self.progress += 1;
                return Poll::Ready(Ok(()));
            }
            let Some(body) = &mut self.body else { continue };
            match ready!(body.poll_next(cx)) {
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    self.keep(&piece);
                    self.send(stream, piece);
                }
                Some(Err(error)) => return Poll::Ready(Err(Broken::Client(error))),
                None => self.state = State::Ended,
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        self.kept_bytes += piece.len();
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.kept = None;
        }
        if let Some(kept) = &mut self.kept {
            kept.push(piece.to_vec());
            self.sent = kept.len();
        }
    }

    fn send(&mut self, stream: &Stream, piece: Vec<u8>) {
        self.progress += 1;
        if !self.chunked {
            return stream.start_send(Payload::Owned(piece), false);
        }
        let mut head = Vec::with_capacity(20);
        chunk_head(&mut head, piece.len());
        let pieces = vec![Piece::Owned(head), Piece::Owned(piece), Piece::Owned(b"\r\n".to_vec())];
        stream.start_send(Payload::from(pieces), false);
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("state", &self.state).finish_non_exhaustive()
    }
}
