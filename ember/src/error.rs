//! Errors of handlers, told as problem details.

use std::fmt;

use crate::response::{IntoResponse, Response, Text};

/// What a handler gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that the client is told of, as a problem details object (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: u16,
    detail: String,
    fields: Vec<(Text, Text)>,
}

impl Error {
    /// An error with a status code between 400 and 599 (any other is told as 500) and what the
    /// client should know.
    #[must_use]
    pub fn new(status: u16, detail: impl Into<String>) -> Error {
        let status = if (400..=599).contains(&status) { status } else { 500 };
        Error { status, detail: detail.into(), fields: Vec::new() }
    }

    /// With a header field, such as `Retry-After`.
    #[must_use]
    pub fn header(mut self, name: impl Into<Text>, value: impl Into<Text>) -> Error {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// What the client is told.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.detail)
    }
}

impl std::error::Error for Error {}

/// 500. What went wrong is logged; the client is not told, since it may name what is not its own.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        tracing::error!("a handler failed: {error}");
        Error::new(500, "the handler failed")
    }
}

/// 503: the time for it was over.
impl From<crate::time::Elapsed> for Error {
    fn from(_: crate::time::Elapsed) -> Error {
        Error::new(503, "it took too long")
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let title = ember_http::status::phrase(self.status);
        let problem = serde_json::json!({
            "title": title,
            "status": self.status,
            "detail": self.detail,
        });
        let mut response = Response::new(self.status)
            .header("Content-Type", "application/problem+json")
            .body(problem.to_string());
        response.headers_mut().extend(self.fields);
        response
    }
}
