//! Replies that are rendered once.

use std::sync::Arc;

use ember_http::Prepared as Rendered;
use ember_uring::Piece;

use crate::body::Body;
use crate::handler::Handler;
use crate::response::Response;

/// The reply of a prepared route: rendered into pinned memory when the server starts, and answered
/// by linked chains without a handler.
#[derive(Clone, Debug)]
pub struct Prepared(Rendered);

impl Prepared {
    /// JSON, as it is.
    #[must_use]
    pub fn json(body: impl Into<Vec<u8>>) -> Prepared {
        Prepared::bytes("application/json", body)
    }

    /// Plain text in UTF-8.
    #[must_use]
    pub fn text(body: impl Into<String>) -> Prepared {
        Prepared::bytes("text/plain; charset=utf-8", body.into())
    }

    /// A page in UTF-8.
    #[must_use]
    pub fn html(body: impl Into<String>) -> Prepared {
        Prepared::bytes("text/html; charset=utf-8", body.into())
    }

    /// Bytes of any media type.
    #[must_use]
    pub fn bytes(content_type: &str, body: impl Into<Vec<u8>>) -> Prepared {
        Prepared(Rendered::new(content_type, body.into()))
    }

    /// A redirect with status 301, 302, 303, 307 or 308.
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Prepared {
        Prepared(Rendered::redirect(status, location))
    }

    /// With another status than 200.
    #[must_use]
    pub fn status(mut self, status: u16) -> Prepared {
        self.0.status = status;
        self
    }

    /// With a further header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Prepared {
        self.0.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The reply of a handler, whose body is this.
    pub(crate) fn of_reply(response: &Response, body: Vec<u8>) -> Prepared {
        let content_type = response.header_value("content-type").map(str::to_owned);
        let others = response.headers().iter();
        let others = others.filter(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        Prepared(Rendered {
            status: response.status(),
            content_type,
            fields: others.map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            ..Rendered::new("", body)
        })
    }

    /// A handler that gives this reply, for routes whose middleware must see each request.
    pub(crate) fn into_handler(self) -> Handler {
        let reply = Arc::new(self.0);
        Handler::new(move |_| {
            let mut response = Response::new(reply.status);
            if let Some(content_type) = &reply.content_type {
                response = response.header("Content-Type", content_type.clone());
            }
            for (name, value) in &reply.fields {
                response = response.header(name.clone(), value.clone());
            }
            let body = Body::Piece(Piece::Shared(Arc::clone(&reply.body)));
            std::future::ready(response.with_body(body))
        })
    }

    /// For the protocol's tables.
    #[must_use]
    pub fn into_inner(self) -> Rendered {
        self.0
    }
}
