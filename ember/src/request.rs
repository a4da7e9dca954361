//! Requests as handlers see them.

use ember_http::Method;

/// A whole request.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    path: String,
    query: Option<Vec<u8>>,
    params: Vec<(String, String)>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    /// Takes over what the protocol has read of a request; its body follows through
    /// [`Request::push_body`].
    #[must_use]
    pub fn of_head(head: &ember_http::Request<'_>) -> Request {
        let names = &head.route_info().params;
        let value = |name: &String| head.param(name).map(|value| value.into_owned());
        Request {
            method: head.method(),
            path: head.path().to_owned(),
            query: head.query().map(<[u8]>::to_vec),
            params: names.iter().filter_map(|name| Some((name.clone(), value(name)?))).collect(),
            fields: head.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            body: Vec::new(),
        }
    }

    /// Appends to the body. The protocol bounds it by the route's limit.
    pub fn push_body(&mut self, bytes: &[u8]) {
        self.body.extend_from_slice(bytes);
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The path, decoded once and without dot segments.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A parameter of the route's pattern.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// What stands behind the `?` of the target, as it was sent.
    #[must_use]
    pub fn query(&self) -> Option<&[u8]> {
        self.query.as_deref()
    }

    /// The value of the first header field of that name, whatever its case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let named = |of: &[u8]| of.eq_ignore_ascii_case(name.as_bytes());
        self.fields.iter().find(|(of, _)| named(of)).map(|(_, value)| value.as_slice())
    }

    /// The header fields in order, as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// The body without its framing; empty where there is none.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body read as JSON.
    ///
    /// # Errors
    /// 400 with the place, where it is none or does not fit the type.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> crate::Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|error| crate::Error::new(400, format!("the body: {error}")))
    }
}
