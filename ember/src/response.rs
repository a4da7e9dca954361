//! Replies of handlers.

use ember_http::{FieldError, ReplyContext, ReplyFraming, ReplyLength, date};

/// What a handler answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What can be answered with.
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

/// A redirect with 303 (See Other): look there, with GET.
#[derive(Clone, Debug)]
pub struct Redirect(pub String);

impl Response {
    /// An empty reply of this status.
    #[must_use]
    pub fn new(status: u16) -> Response {
        Response { status, fields: Vec::new(), body: Vec::new() }
    }

    /// Plain text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        let response = Response::new(status).header("Content-Type", "text/plain; charset=utf-8");
        response.body(body.into())
    }

    /// With a further header field. A field that cannot stand in a reply (its name is no token,
    /// its value has control characters, or it is the server's own: `Date`, `Content-Length`,
    /// `Transfer-Encoding`, `Connection`) turns the reply into a 500 when it is sent.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Response {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Response {
        self.body = body.into();
        self
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The whole reply to the request that the context is of.
    ///
    /// # Errors
    /// A field that cannot stand in a reply.
    pub fn to_bytes(
        &self,
        context: ReplyContext,
        date: &[u8; date::LEN],
    ) -> Result<Vec<u8>, FieldError> {
        let mut out = Vec::with_capacity(self.body.len() + 256);
        let fields = self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let length = ReplyLength::Known(self.body.len() as u64);
        let framing = context.write_head(&mut out, self.status, date, fields, length)?;
        if framing == ReplyFraming::Length {
            out.extend_from_slice(&self.body);
        }
        Ok(out)
    }
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for &str {
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
        Response { status: self.0, ..self.1.into_response() }
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
        String::from_utf8(response.into_response().to_bytes(context, &date).unwrap()).unwrap()
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
            assert!(response.to_bytes(context, &date).is_err(), "{name}");
        }
    }
}
