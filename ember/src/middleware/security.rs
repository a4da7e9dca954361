//! Header fields that keep browsers from harm.

use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::{Response, Text};

/// Adds fields to every reply that has not said otherwise itself.
///
/// ```
/// use ember::middleware::SecurityHeaders;
/// use ember::testing::Client;
/// use ember::{App, Request, Response};
///
/// let app = App::new()
///     .get("/", async |_: &Request| Response::text(200, "x").header("X-Frame-Options", "DENY"))
///     .wrap_all(SecurityHeaders::new().set("Content-Security-Policy", "default-src 'self'"));
/// let reply = Client::new(app).get("/");
/// assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
/// assert_eq!(reply.headers("x-frame-options").collect::<Vec<_>>(), ["DENY"]);
/// assert_eq!(reply.header("content-security-policy"), Some("default-src 'self'"));
/// ```
#[derive(Clone, Debug)]
pub struct SecurityHeaders(Vec<(Text, Text)>);

impl SecurityHeaders {
    /// `nosniff`, no frames of other origins, no referrer to them, and isolation of the window. A
    /// content security policy and HSTS depend on the site: [`SecurityHeaders::set`] them.
    #[must_use]
    pub fn new() -> SecurityHeaders {
        let fields = [
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "SAMEORIGIN"),
            ("Referrer-Policy", "strict-origin-when-cross-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
        ];
        SecurityHeaders(fields.map(|(name, value)| (name.into(), value.into())).to_vec())
    }

    /// With this field, in place of the one of its name.
    #[must_use]
    pub fn set(mut self, name: impl Into<Text>, value: impl Into<Text>) -> SecurityHeaders {
        let (name, value) = (name.into(), value.into());
        self.0.retain(|(of, _)| !of.eq_ignore_ascii_case(&name));
        self.0.push((name, value));
        self
    }
}

impl Default for SecurityHeaders {
    fn default() -> Self {
        SecurityHeaders::new()
    }
}

impl Middleware for SecurityHeaders {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let mut response = next.run(request).await;
        for (name, value) in &self.0 {
            if response.header_value(name).is_none() {
                response = response.header(name.clone(), value.clone());
            }
        }
        response
    }
}
