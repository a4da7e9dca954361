//! Files as replies.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ember_http::conditional::{Validators, Verdict};
use ember_http::range::Ranges;
use ember_uring::Piece;

use crate::blocking;
use crate::body::{Body, BodyStream};
use crate::error::{Error, Result};
use crate::request::Request;
use crate::response::Response;

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// An open file to answer with. It is read on the blocking pool, so that no disk holds the thread
/// up, and no faster than the client takes it. Whole directories are the business of `[[files]]` in
/// the config.
///
/// ```
/// use ember::testing::Client;
/// use ember::{App, File, Request, Response, Result};
///
/// async fn manifest(request: &Request) -> Result<Response> {
///     let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).await?;
///     Ok(file.reply(request, "application/toml"))
/// }
///
/// let client = Client::new(App::new().get("/manifest", manifest));
/// let whole = client.get("/manifest");
/// assert!(whole.text().contains("[package]"));
/// let part = client.send("GET", "/manifest", &[("Range", "bytes=1-7")], "");
/// assert_eq!((part.status(), part.text()), (206, "package"));
/// let seen = [("If-None-Match", whole.header("etag").unwrap())];
/// assert_eq!(client.send("GET", "/manifest", &seen, "").status(), 304);
/// ```
#[derive(Debug)]
pub struct File {
    file: Arc<fs::File>,
    len: u64,
    modified: u64,
    etag: String,
}

impl File {
    /// Opens a regular file. Nothing is checked of the path: do not make it of what a client sent.
    ///
    /// # Errors
    /// 404 where there is none, 503 when the pool has too much to do.
    pub async fn open(path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref().to_owned();
        let opened = blocking(move || {
            let file = fs::File::open(path)?;
            let about = file.metadata()?;
            Ok::<_, io::Error>((file, about))
        });
        let (file, about) = match opened.await? {
            Ok((file, about)) if about.is_file() => (file, about),
            Ok(_) => return Err(Error::new(404, "no such file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(404, "no such file"));
            }
            Err(error) => return Err(error.into()),
        };
        let modified = u64::try_from(about.mtime()).unwrap_or(0);
        let etag = format!("\"{:x}-{:x}-{:x}\"", about.len(), modified, about.mtime_nsec());
        Ok(File { file: Arc::new(file), len: about.len(), modified, etag })
    }

    /// The reply: the whole, the range that was asked for, 304 or 412 as the request's conditions
    /// say.
    #[must_use]
    pub fn reply(self, request: &Request, content_type: &str) -> Response {
        let head = request.head();
        let validators = Validators { etag: Some(&self.etag), last_modified: Some(self.modified) };
        let status = match head.evaluate(&validators) {
            Verdict::Proceed => 200,
            Verdict::NotModified => 304,
            Verdict::Failed => 412,
        };
        let date = ember_http::date::format(self.modified);
        let date = String::from_utf8_lossy(&date).into_owned();
        let response = |status| {
            Response::new(status)
                .header("ETag", self.etag.clone())
                .header("Last-Modified", date.clone())
                .header("Accept-Ranges", "bytes")
        };
        if status != 200 {
            return response(status);
        }
        // Several ranges are answered with the whole, as a server may (RFC 9110 section 14.2).
        let (status, range) = match head.ranges(&validators, self.len) {
            Ranges::Whole | Ranges::Many(_) => (200, 0..self.len),
            Ranges::One(range) => (206, range),
            Ranges::Unsatisfiable => {
                return response(416).header("Content-Range", format!("bytes */{}", self.len));
            }
        };
        let mut response = response(status).header("Content-Type", content_type.to_owned());
        if status == 206 {
            let (first, last) = (range.start, range.end.saturating_sub(1));
            let told = format!("bytes {first}-{last}/{}", self.len);
            response = response.header("Content-Range", told);
        }
        let (at, left) = (range.start, range.end - range.start);
        let reading = Reading { file: self.file, at, left, read: None };
        response.with_body(Body::stream(reading))
    }
}

type Read = Pin<Box<dyn Future<Output = Result<io::Result<Vec<u8>>>>>>;

/// A part of a file under way.
struct Reading {
    file: Arc<fs::File>,
    at: u64,
    left: u64,
    read: Option<Read>,
}

impl BodyStream for Reading {
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (at, len) = (self.at, self.left.min(READ_BYTES as u64) as usize);
        let file = Arc::clone(&self.file);
        let read = self.read.get_or_insert_with(|| {
            Box::pin(blocking(move || {
                let mut bytes = vec![0; len];
                let read = file.read_at(&mut bytes, at)?;
                bytes.truncate(read);
                Ok(bytes)
            }))
        });
        let bytes = std::task::ready!(read.as_mut().poll(cx));
        self.read = None;
        let bytes = match bytes {
            Ok(Ok(bytes)) if bytes.is_empty() => {
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Poll::Ready(Some(Err(error))),
            Err(busy) => return Poll::Ready(Some(Err(io::Error::other(busy)))),
        };
        self.at += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Piece::Owned(bytes))))
    }

    fn length(&self) -> Option<u64> {
        Some(self.left)
    }
}
