//! Header fields and cookies.

use cookie::Cookie;

use super::FromRequest;
use crate::error::Result;
use crate::request::Request;

/// All header fields, in order.
///
/// ```
/// use ember::extract::Headers;
/// use ember::testing::Client;
///
/// async fn agent(headers: Headers) -> String {
///     headers.get("user-agent").unwrap_or("somebody").to_owned()
/// }
///
/// let client = Client::new(ember::App::new().get("/agent", agent));
/// assert_eq!(client.get("/agent").text(), "somebody");
/// let reply = client.send("GET", "/agent", &[("User-Agent", "x/1")], "");
/// assert_eq!(reply.text(), "x/1");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of this name, whatever its case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut of = self.0.iter().filter(|field| field.0.eq_ignore_ascii_case(name));
        of.next().map(|(_, value)| value.as_str())
    }

    /// All values of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(of).map(|(_, value)| value.as_str())
    }

    /// All fields. Bytes that are no UTF-8 stand as U+FFFD.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The cookies that the client sent (RFC 6265); those that are none are left out.
///
/// ```
/// use ember::extract::Cookies;
/// use ember::testing::Client;
/// use ember::{Cookie, IntoResponse, Response};
///
/// async fn visits(cookies: Cookies) -> Response {
///     let before: u32 = cookies.get("visits").and_then(|v| v.parse().ok()).unwrap_or(0);
///     let cookie = Cookie::build(("visits", (before + 1).to_string())).http_only(true).path("/");
///     format!("{before}").into_response().cookie(cookie)
/// }
///
/// let client = Client::new(ember::App::new().get("/", visits));
/// let reply = client.send("GET", "/", &[("Cookie", "a=b; visits=7")], "");
/// assert_eq!(reply.text(), "7");
/// assert_eq!(reply.header("set-cookie"), Some("visits=8; HttpOnly; Path=/"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cookies(Vec<Cookie<'static>>);

impl Cookies {
    /// The value of the first cookie of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|cookie| cookie.name() == name).map(Cookie::value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Cookie<'static>> {
        self.0.iter()
    }
}

/// The last event that a client of server-sent events has seen, when it connects again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEventId(pub Option<String>);

impl FromRequest for Headers {
    async fn from_request(request: &mut Request) -> Result<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Headers(request.headers().map(|(name, value)| (text(name), text(value))).collect()))
    }
}

impl FromRequest for Cookies {
    async fn from_request(request: &mut Request) -> Result<Self> {
        let mut cookies = Vec::new();
        for line in request.head().field_values("cookie") {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            cookies.extend(Cookie::split_parse(line.to_owned()).flatten());
        }
        Ok(Cookies(cookies))
    }
}

impl FromRequest for LastEventId {
    async fn from_request(request: &mut Request) -> Result<Self> {
        let id = request.header("last-event-id").map(String::from_utf8_lossy);
        Ok(LastEventId(id.map(std::borrow::Cow::into_owned)))
    }
}
