//! Queries and bodies.

use std::pin::Pin;
use std::task::{Context, Poll};

use serde::de::DeserializeOwned;

use super::{BodyNeed, FromRequest};
use crate::error::{Error, Result};
use crate::request::{Request, RequestBody};
use crate::response::Json;

/// The query of the target, as `application/x-www-form-urlencoded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<T>(pub T);

/// A body that is `application/x-www-form-urlencoded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form<T>(pub T);

/// The body as it comes; also a [`futures_core::Stream`] of its pieces. The client is read from no
/// faster than they are taken.
///
/// ```
/// use ember::extract::BodyStream;
/// use ember::testing::Client;
///
/// async fn length(mut body: BodyStream) -> ember::Result<String> {
///     let mut len = 0;
///     while let Some(piece) = body.next().await {
///         len += piece?.len();
///     }
///     Ok(len.to_string())
/// }
///
/// let client = Client::new(ember::App::new().post("/length", length));
/// assert_eq!(client.post("/length", "12345").text(), "5");
/// ```
#[derive(Debug)]
pub struct BodyStream(RequestBody);

impl BodyStream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the client broke off or sent what is no body, or more than the limit.
    pub async fn next(&mut self) -> Option<Result<Vec<u8>>> {
        self.0.next().await
    }

    /// The same for a hand-written future.
    ///
    /// # Errors
    /// As [`BodyStream::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        self.0.poll_next(cx)
    }
}

impl futures_core::Stream for BodyStream {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(cx)
    }
}

impl FromRequest for BodyStream {
    const BODY: BodyNeed = BodyNeed::Stream;

    async fn from_request(request: &mut Request) -> Result<Self> {
        request.begin_body().await.map(BodyStream)
    }
}

impl<T: DeserializeOwned> FromRequest for Query<T> {
    async fn from_request(request: &mut Request) -> Result<Self> {
        let query = serde_urlencoded::from_bytes(request.query().unwrap_or_default());
        query.map(Query).map_err(|error| Error::new(400, format!("query: {error}")))
    }
}

impl<T: DeserializeOwned> FromRequest for Form<T> {
    const BODY: BodyNeed = BodyNeed::Whole;

    async fn from_request(request: &mut Request) -> Result<Self> {
        expect_type(request, "application/x-www-form-urlencoded", is_form)?;
        let form = serde_urlencoded::from_bytes(request.body());
        form.map(Form).map_err(|error| Error::new(422, format!("form: {error}")))
    }
}

impl<T: DeserializeOwned> FromRequest for Json<T> {
    const BODY: BodyNeed = BodyNeed::Whole;

    async fn from_request(request: &mut Request) -> Result<Self> {
        expect_type(request, "application/json", is_json)?;
        serde_json::from_slice(request.body()).map(Json).map_err(|error| {
            // What is JSON, but not what was wanted, is another matter (RFC 9110 section 15.5.21).
            let status = if error.is_data() { 422 } else { 400 };
            Error::new(status, format!("JSON: {error}"))
        })
    }
}

impl FromRequest for Vec<u8> {
    const BODY: BodyNeed = BodyNeed::Taken;

    async fn from_request(request: &mut Request) -> Result<Self> {
        Ok(request.take_loaded())
    }
}

impl FromRequest for String {
    const BODY: BodyNeed = BodyNeed::Taken;

    async fn from_request(request: &mut Request) -> Result<Self> {
        let text = String::from_utf8(request.take_loaded());
        text.map_err(|_| Error::new(400, "the body is no UTF-8"))
    }
}

fn expect_type(request: &Request, wanted: &str, is_it: fn(&str) -> bool) -> Result<()> {
    let content_type = request.header("content-type").unwrap_or_default();
    let media = std::str::from_utf8(content_type).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    if is_it(&media.to_ascii_lowercase()) {
        return Ok(());
    }
    Err(Error::new(415, format!("the body must be {wanted}")).header("Accept", wanted.to_owned()))
}

fn is_json(media: &str) -> bool {
    media == "application/json" || media.starts_with("application/") && media.ends_with("+json")
}

fn is_form(media: &str) -> bool {
    media == "application/x-www-form-urlencoded"
}
