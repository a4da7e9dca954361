//! Bodies of `multipart/form-data`.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{BodyNeed, FromRequest};
use crate::error::{Error, Result};
use crate::request::{Request, RequestBody};

/// The fields of a `multipart/form-data` body, one after another, as they come.
///
/// ```
/// use ember::extract::Multipart;
/// use ember::testing::Client;
///
/// async fn upload(mut form: Multipart) -> ember::Result<String> {
///     let mut told = String::new();
///     while let Some(mut field) = form.next_field().await? {
///         told += field.name().unwrap_or_default();
///         while let Some(piece) = field.next().await? {
///             told += &format!(" {}", piece.len());
///         }
///     }
///     Ok(told)
/// }
///
/// let client = Client::new(ember::App::new().post("/upload", upload));
/// let kind = [("Content-Type", "multipart/form-data; boundary=x")];
/// let body = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n12345\r\n--x--\r\n";
/// assert_eq!(client.send("POST", "/upload", &kind, body).text(), "a 5");
/// ```
pub struct Multipart {
    parser: multer::Multipart<'static>,
    source: Source,
}

/// One field of a [`Multipart`]. What is left of it is skipped when the next one is asked for.
pub struct Field<'a> {
    field: multer::Field<'static>,
    source: &'a mut Source,
}

/// Where the parser's bytes come from: it wants a stream that is `Send`, which the body of a thread
/// is not, so the bytes change hands here.
struct Source {
    body: RequestBody,
    pipe: Arc<Mutex<Pipe>>,
}

#[derive(Default)]
struct Pipe {
    pieces: VecDeque<io::Result<Vec<u8>>>,
    ended: bool,
    reader: Option<Waker>,
}

struct Outlet(Arc<Mutex<Pipe>>);

impl Multipart {
    /// The next field; `None` behind the last.
    ///
    /// # Errors
    /// When the body is no such one, or is broken off.
    pub async fn next_field(&mut self) -> Result<Option<Field<'_>>> {
        let Multipart { parser, source } = self;
        let field = source.drive(parser.next_field()).await?;
        Ok(field.map(|field| Field { field, source }))
    }
}

impl Field<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.field.name()
    }

    /// The name of the file that it was, as the client says: not to be used as a path.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// Its media type.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.field.content_type().map(|mime| mime.as_ref())
    }

    /// The next piece; `None` at its end.
    ///
    /// # Errors
    /// When the body is broken off.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let piece = self.source.drive(self.field.chunk()).await?;
        Ok(piece.map(|bytes| bytes.to_vec()))
    }

    /// All of it, bounded by the route's limit for bodies.
    ///
    /// # Errors
    /// When the body is broken off.
    pub async fn bytes(mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// All of it as text.
    ///
    /// # Errors
    /// When the body is broken off, or the field is no UTF-8.
    pub async fn text(self) -> Result<String> {
        let text = String::from_utf8(self.bytes().await?);
        text.map_err(|_| Error::new(400, "multipart: the field is no UTF-8"))
    }
}

impl Source {
    /// Runs the parser, and hands it bytes while it has none.
    async fn drive<T>(&mut self, parsing: impl Future<Output = multer::Result<T>>) -> Result<T> {
        let mut parsing = pin!(parsing);
        let parsed = poll_fn(|cx| {
            loop {
                if let Poll::Ready(parsed) = parsing.as_mut().poll(cx) {
                    return Poll::Ready(parsed);
                }
                let piece = std::task::ready!(self.body.poll_next(cx));
                let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
                match piece {
                    Some(piece) => pipe.pieces.push_back(piece.map_err(io::Error::other)),
                    None => pipe.ended = true,
                }
                if let Some(reader) = pipe.reader.take() {
                    reader.wake();
                }
            }
        });
        parsed.await.map_err(|error| Error::new(400, format!("multipart: {error}")))
    }
}

impl futures_core::Stream for Outlet {
    type Item = io::Result<Vec<u8>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match pipe.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(piece)),
            None if pipe.ended => Poll::Ready(None),
            None => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl FromRequest for Multipart {
    const BODY: BodyNeed = BodyNeed::Stream;

    async fn from_request(request: &mut Request) -> Result<Self> {
        let content_type = request.header("content-type").unwrap_or_default();
        let content_type = std::str::from_utf8(content_type).unwrap_or_default();
        let boundary = multer::parse_boundary(content_type)
            .map_err(|_| Error::new(415, "the body must be multipart/form-data"))?;
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        let parser = multer::Multipart::new(Outlet(Arc::clone(&pipe)), boundary);
        Ok(Multipart { parser, source: Source { body: request.begin_body().await?, pipe } })
    }
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Multipart")
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field").field("name", &self.name()).finish_non_exhaustive()
    }
}
