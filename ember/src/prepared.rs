//! Replies that are rendered once.

use ember_http::Prepared as Rendered;

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

    /// For the protocol's tables.
    #[must_use]
    pub fn into_inner(self) -> Rendered {
        self.0
    }
}
