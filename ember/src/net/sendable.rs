//! Streams for crates that ask for `Send`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use send_wrapper::SendWrapper;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// A [`Stream`] that may be *named* where a `Send` bound stands, as in
/// `redis::aio::MultiplexedConnection::new`. It stays on its thread all the same: using or dropping
/// it on another one panics. Run whatever drives it by [`crate::spawn`], never on another runtime.
#[derive(Debug)]
pub struct SendStream(SendWrapper<Stream>);

impl From<Stream> for SendStream {
    fn from(stream: Stream) -> SendStream {
        SendStream(SendWrapper::new(stream))
    }
}

impl SendStream {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut Stream> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl AsyncRead for SendStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(self.stream(), cx, out)
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self.stream(), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self.stream(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(self.stream(), cx)
    }
}
