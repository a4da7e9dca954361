//! Checks of who asks.

use std::fmt;

use subtle::{Choice, ConstantTimeEq};

use crate::error::Error;
use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::{IntoResponse, Response};

/// Lets requests through whose `Authorization: Bearer …` (RFC 6750) passes a check, and answers 401
/// to others.
///
/// ```
/// use ember::middleware::Bearer;
/// use ember::testing::Client;
/// use ember::{App, Request};
///
/// async fn is_known(token: &str) -> bool {
///     ember::time::yield_now().await; // as if a database were asked
///     token == "of the database"
/// }
///
/// let app = App::new()
///     .get("/a", async |_: &Request| "in").wrap(Bearer::tokens(["secret", "other"]))
///     .get("/b", async |_: &Request| "in").wrap(Bearer::check(is_known));
/// let client = Client::new(app);
/// let with = |path, token: &str| {
///     client.send("GET", path, &[("Authorization", &format!("Bearer {token}"))], "").status()
/// };
/// assert_eq!((with("/a", "other"), with("/a", "wrong")), (200, 401));
/// assert_eq!((with("/b", "of the database"), with("/b", "secret")), (200, 401));
/// assert_eq!(client.get("/a").header("www-authenticate"), Some("Bearer"));
/// ```
pub struct Bearer<C>(C);

/// The same for a key in a header field of its own, `X-API-Key` where no other is named.
///
/// ```
/// use ember::middleware::ApiKey;
/// use ember::testing::Client;
/// use ember::{App, Request};
///
/// let app = App::new().get("/", async |_: &Request| "in").wrap(ApiKey::keys(["k1", "k2"]));
/// let client = Client::new(app);
/// assert_eq!(client.send("GET", "/", &[("X-API-Key", "k2")], "").status(), 200);
/// assert_eq!(client.send("GET", "/", &[("X-API-Key", "k3")], "").status(), 401);
/// assert_eq!(client.get("/").status(), 401);
/// ```
pub struct ApiKey<C> {
    header: &'static str,
    check: C,
}

/// Secrets, to be compared in constant time.
#[derive(Clone)]
pub struct Secrets(Vec<Vec<u8>>);

/// A check of a secret, which may wait.
pub trait Check: Send + Sync + 'static {
    /// Whether it is one.
    fn passes(&self, secret: &str) -> impl Future<Output = bool>;
}

impl<C> Check for C
where
    C: AsyncFn(&str) -> bool + Send + Sync + 'static,
{
    async fn passes(&self, secret: &str) -> bool {
        self(secret).await
    }
}

impl Check for Secrets {
    async fn passes(&self, secret: &str) -> bool {
        // All are compared, so that time does not tell which one it was; their lengths it may.
        let matches = self.0.iter().map(|known| known.ct_eq(secret.as_bytes()));
        matches.fold(Choice::from(0), |any, one| any | one).into()
    }
}

impl Secrets {
    fn of<T: Into<String>>(secrets: impl IntoIterator<Item = T>) -> Secrets {
        let secrets = secrets.into_iter().map(|secret| secret.into().into_bytes());
        Secrets(secrets.filter(|secret| !secret.is_empty()).collect())
    }
}

impl Bearer<Secrets> {
    /// One of these tokens.
    pub fn tokens<T: Into<String>>(tokens: impl IntoIterator<Item = T>) -> Bearer<Secrets> {
        Bearer(Secrets::of(tokens))
    }
}

impl<C: Check> Bearer<C> {
    /// A token that passes this check.
    pub fn check(check: C) -> Bearer<C> {
        Bearer(check)
    }
}

impl ApiKey<Secrets> {
    /// One of these keys.
    pub fn keys<T: Into<String>>(keys: impl IntoIterator<Item = T>) -> ApiKey<Secrets> {
        ApiKey { header: "X-API-Key", check: Secrets::of(keys) }
    }
}

impl<C: Check> ApiKey<C> {
    /// A key that passes this check.
    pub fn check(check: C) -> ApiKey<C> {
        ApiKey { header: "X-API-Key", check }
    }

    /// In this header field.
    #[must_use]
    pub fn header(mut self, name: &'static str) -> ApiKey<C> {
        self.header = name;
        self
    }
}

impl<C: Check> Middleware for Bearer<C> {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let token = request.header("authorization").and_then(bearer);
        let (passes, challenge) = match token {
            Some(token) => (self.0.passes(token).await, "Bearer error=\"invalid_token\""),
            None => (false, "Bearer"),
        };
        if passes {
            return next.run(request).await;
        }
        let error = Error::new(401, "a valid bearer token is wanted");
        error.header("WWW-Authenticate", challenge).into_response()
    }
}

impl<C: Check> Middleware for ApiKey<C> {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let key = request.header(self.header).and_then(|key| std::str::from_utf8(key).ok());
        if let Some(key) = key
            && self.check.passes(key).await
        {
            return next.run(request).await;
        }
        Error::new(401, format!("a valid {} is wanted", self.header)).into_response()
    }
}

/// The token, behind the scheme in any case.
fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl<C> fmt::Debug for Bearer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

impl<C> fmt::Debug for ApiKey<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("header", &self.header).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}
