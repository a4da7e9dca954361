//! Replies of handlers.

use std::borrow::Cow;
use std::sync::Arc;

use ember_http::{FieldBlock, FieldError, ReplyContext, ReplyFraming, ReplyLength, date};

use crate::body::Body;

/// A text of the program, or one made for the reply.
pub type Text = Cow<'static, str>;

/// What a handler answers.
#[derive(Debug)]
pub struct Response {
    status: u16,
    block: Option<Block>,
    fields: Vec<(Text, Text)>,
    body: Body,
    after_sent: AfterSent,
}

/// Fields that were rendered before.
#[derive(Debug)]
enum Block {
    Owned(FieldBlock),
    Shared(Arc<FieldBlock>),
}

/// What is called when a reply has been sent.
#[derive(Default)]
pub struct AfterSent(Vec<Box<dyn FnOnce()>>);

/// What can be answered with.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be answered with",
    label = "not a reply",
    note = "replies are `Response`, `String`, `&'static str`, `Vec<u8>`, `Json<T>`, `Html<T>`, \
            `Redirect`, `()`, `(u16, R)`, `Result<R, E>` and what else implements `IntoResponse`"
)]
pub trait IntoResponse {
    /// The reply.
    fn into_response(self) -> Response;
}

/// A value told as JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

/// A page.
#[derive(Clone, Copy, Debug)]
pub struct Html<T>(pub T);

/// A redirect with 303 (See Other): look there, with GET. `(308, Redirect(…))` is another one.
#[derive(Clone, Debug)]
pub struct Redirect(pub String);

impl Response {
    /// An empty reply of this status.
    #[must_use]
    pub fn new(status: u16) -> Response {
        Response {
            status,
            block: None,
            fields: Vec::new(),
            body: Body::Empty,
            after_sent: AfterSent::default(),
        }
    }

    /// Plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<Text>) -> Response {
        let response = Response::new(status).header("Content-Type", "text/plain; charset=utf-8");
        response.with_body(match body.into() {
            Cow::Borrowed(text) => Body::Static(text.as_bytes()),
            Cow::Owned(text) => Body::Bytes(text.into_bytes()),
        })
    }

    /// With a further header field. A field that cannot stand in a reply (its name is no token,
    /// its value has control characters, or it is the server's own: `Date`, `Content-Length`,
    /// `Transfer-Encoding`, `Connection`) turns the reply into a 500 when it is sent.
    #[must_use]
    pub fn header(mut self, name: impl Into<Text>, value: impl Into<Text>) -> Response {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// With fields that were rendered before, in front of all others.
    #[must_use]
    pub fn with_block(mut self, block: FieldBlock) -> Response {
        self.block = Some(Block::Owned(block));
        self
    }

    /// The same with fields that other replies have too.
    #[must_use]
    pub fn with_shared_block(mut self, block: Arc<FieldBlock>) -> Response {
        self.block = Some(Block::Shared(block));
        self
    }

    /// The fields that were rendered before.
    #[must_use]
    pub fn block(&self) -> Option<&FieldBlock> {
        match self.block.as_ref()? {
            Block::Owned(block) => Some(block),
            Block::Shared(block) => Some(block),
        }
    }

    /// With this field in place of those of its name.
    #[must_use]
    pub fn set_header(mut self, name: impl Into<Text>, value: impl Into<Text>) -> Response {
        let (name, value) = (name.into(), value.into());
        self.fields.retain(|(of, _)| !of.eq_ignore_ascii_case(&name));
        self.fields.push((name, value));
        self
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn header_value(&self, name: &str) -> Option<&str> {
        let mut of = self.fields.iter().filter(|(of, _)| of.eq_ignore_ascii_case(name));
        of.next().map(|(_, value)| value.as_ref())
    }

    /// With a field `Vary` that names this request header, too.
    #[must_use]
    pub fn vary(mut self, name: &'static str) -> Response {
        let lists = self.fields.iter().filter(|(of, _)| of.eq_ignore_ascii_case("vary"));
        let known = lists.flat_map(|(_, list)| list.split(',')).map(str::trim);
        if !known.clone().any(|of| of == "*" || of.eq_ignore_ascii_case(name)) {
            self.fields.push((Cow::Borrowed("Vary"), Cow::Borrowed(name)));
        }
        self
    }

    /// With a cookie.
    #[must_use]
    pub fn cookie<'c>(self, cookie: impl Into<cookie::Cookie<'c>>) -> Response {
        self.header("Set-Cookie", cookie.into().to_string())
    }

    /// Calls this when the whole reply has been handed to the kernel; not if it cannot be.
    #[must_use]
    pub fn on_sent(mut self, call: impl FnOnce() + 'static) -> Response {
        self.after_sent.0.push(Box::new(call));
        self
    }

    /// Takes out what is to be called when the reply has been sent.
    #[must_use]
    pub fn take_after_sent(&mut self) -> AfterSent {
        std::mem::take(&mut self.after_sent)
    }

    /// With these bytes as its body.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Response {
        self.with_body(Body::Bytes(body.into()))
    }

    /// With this body.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Response {
        self.body = body;
        self
    }

    /// The fields, for changing them.
    pub fn headers_mut(&mut self) -> &mut Vec<(Text, Text)> {
        &mut self.fields
    }

    /// The fields in order.
    #[must_use]
    pub fn headers(&self) -> &[(Text, Text)] {
        &self.fields
    }

    /// Another status.
    pub fn set_status(&mut self, status: u16) {
        self.status = status;
    }

    /// What follows the head.
    #[must_use]
    pub fn body_ref(&self) -> &Body {
        &self.body
    }

    /// Takes the body out.
    pub fn take_body(&mut self) -> Body {
        std::mem::take(&mut self.body)
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Writes the head of the reply to the request that the context is of behind what `out` holds.
    /// The framing tells how the body follows.
    ///
    /// # Errors
    /// A field that cannot stand in a reply; `out` is as it was.
    pub fn write_head(
        &self,
        out: &mut Vec<u8>,
        context: ReplyContext,
        date: &[u8; date::LEN],
    ) -> Result<ReplyFraming, FieldError> {
        let fields = self.fields.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
        let length = match self.body.len() {
            Some(len) => ReplyLength::Known(len),
            None => ReplyLength::Unknown,
        };
        let block = self.block();
        context.write_head_with(out, self.status, date, block.as_slice(), fields, length)
    }
}

impl AfterSent {
    /// Whether there is nothing to call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what another reply has.
    pub fn append(&mut self, mut other: AfterSent) {
        self.0.append(&mut other.0);
    }

    /// The reply has been sent. A call that panics hurts nobody.
    pub fn call(self) {
        for call in self.0 {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        }
    }
}

impl std::fmt::Debug for AfterSent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AfterSent").field(&self.0.len()).finish()
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        Response::text(200, self)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::text(200, self)
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        Response::new(200).header("Content-Type", "application/octet-stream").body(self)
    }
}

/// 204 (No Content).
impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::new(204)
    }
}

/// Another status than the reply's own.
impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        response.status = self.0;
        response
    }
}

impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => Response::new(200).header("Content-Type", "application/json").body(body),
            Err(error) => crate::Error::new(500, format!("the reply has no JSON form: {error}"))
                .into_response(),
        }
    }
}

impl<T: Into<String>> IntoResponse for Html<T> {
    fn into_response(self) -> Response {
        let response = Response::new(200).header("Content-Type", "text/html; charset=utf-8");
        response.body(self.0.into())
    }
}

impl IntoResponse for Redirect {
    fn into_response(self) -> Response {
        Response::new(303).header("Location", self.0)
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => error.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ember_http::Persist;

    use super::*;

    fn bytes(response: impl IntoResponse, head_only: bool) -> String {
        let context = ReplyContext { http10: false, head_only, persist: Persist::Default };
        let date = ember_http::date::format(784_111_777);
        let (mut response, mut out) = (response.into_response(), Vec::new());
        let framing = response.write_head(&mut out, context, &date).unwrap();
        if framing == ReplyFraming::Length {
            match response.take_body() {
                Body::Bytes(bytes) => out.extend_from_slice(&bytes),
                Body::Static(bytes) => out.extend_from_slice(bytes),
                other => panic!("{other:?}"),
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_become_whole_replies() {
        let reply = bytes((201, Json([1, 2])), false);
        assert!(reply.starts_with("HTTP/1.1 201 Created\r\n"), "{reply}");
        assert!(reply.contains("Content-Type: application/json\r\n"), "{reply}");
        assert!(reply.contains("Content-Length: 5\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\n[1,2]"), "{reply}");
        assert!(bytes("text", true).ends_with("\r\n\r\n"));
        assert!(bytes((), false).starts_with("HTTP/1.1 204 "));
        assert!(bytes(Redirect("/a".into()), false).contains("Location: /a\r\n"));
        let problem = bytes(Err::<(), _>(crate::Error::new(404, "no \"x\"")), false);
        assert!(problem.contains("application/problem+json"), "{problem}");
        assert!(problem.contains(r#""detail":"no \"x\"""#), "{problem}");
    }

    #[test]
    fn fields_cannot_end_the_head() {
        let context = ReplyContext { http10: false, head_only: false, persist: Persist::Default };
        let date = ember_http::date::format(0);
        for (name, value) in [("A", "b\r\nC: d"), ("A B", "c"), ("Content-Length", "5")] {
            let response = Response::new(200).header(name, value);
            let mut out = b"kept".to_vec();
            assert!(response.write_head(&mut out, context, &date).is_err(), "{name}");
            assert_eq!(out, b"kept");
        }
    }
}
