//! Replies of handlers.

use ember_http::date;
use ember_http::reply::ReplyHead;
use ember_http::{Method, Persist};

/// What a handler answers.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    content_type: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
}

impl Response {
    /// Plain text.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Response {
            status,
            content_type: "text/plain; charset=utf-8",
            fields: Vec::new(),
            body: body.into(),
        }
    }

    /// Rendered metrics.
    pub(crate) fn metrics(body: Vec<u8>) -> Self {
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        Response { status: 200, content_type, fields: vec![("Cache-Control", "no-store")], body }
    }

    /// The same with another field.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// The whole reply to a request of this method.
    pub(crate) fn to_bytes(
        &self,
        method: Method,
        persist: Persist,
        date: &[u8; date::LEN],
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 256);
        let mut head = ReplyHead::begin(&mut out, self.status, persist, date);
        head.field("Content-Type", self.content_type);
        for (name, value) in &self.fields {
            head.field(name, value);
        }
        head.end_with_body(&self.body, method == Method::Head);
        out
    }
}
