//! Replies of handlers.

use ember_http::{ReplyContext, ReplyFraming, ReplyLength, date};
use ember_metrics::Format;

/// What a handler answers.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    fields: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
}

impl Response {
    /// Plain text.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        let content_type = ("Content-Type", "text/plain; charset=utf-8");
        Response { status, fields: vec![content_type], body: body.into() }
    }

    /// Rendered metrics.
    pub(crate) fn metrics(format: Format, body: Vec<u8>) -> Self {
        let content_type = ("Content-Type", format.content_type());
        let fields = vec![content_type, ("Cache-Control", "no-store"), ("Vary", "Accept")];
        Response { status: 200, fields, body }
    }

    /// The same with another field.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// The whole reply to the request that the context is of.
    pub(crate) fn to_bytes(&self, context: ReplyContext, date: &[u8; date::LEN]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 256);
        let length = ReplyLength::Known(self.body.len() as u64);
        let fields = self.fields.iter().copied();
        let framing = context
            .write_head(&mut out, self.status, date, fields, length)
            .expect("the fields are constants of this program");
        if framing == ReplyFraming::Length {
            out.extend_from_slice(&self.body);
        }
        out
    }
}
