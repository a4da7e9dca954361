//! Cross-origin requests (the Fetch standard's CORS protocol).

use std::time::Duration;

use crate::handler::{Middleware, Next};
use crate::request::Request;
use crate::response::{Response, Text};

/// Lets pages of other origins read replies. Its fields stand in every reply, errors included, and
/// preflights are answered by it.
///
/// ```
/// use ember::middleware::Cors;
/// use ember::testing::Client;
/// use ember::{App, Error, Request};
///
/// let cors = Cors::of(["https://example.org"]).methods(["GET", "PUT"]).credentials();
/// let app = App::new()
///     .get("/a", async |_: &Request| "a")
///     .get("/b", async |_: &Request| Error::new(404, "no b"))
///     .wrap_all(cors);
/// let client = Client::new(app);
/// let origin = ("Origin", "https://example.org");
/// for path in ["/a", "/b"] {
///     let reply = client.send("GET", path, &[origin], "");
///     assert_eq!(reply.header("access-control-allow-origin"), Some("https://example.org"));
/// }
/// let preflight = [origin, ("Access-Control-Request-Method", "PUT")];
/// let reply = client.send("OPTIONS", "/a", &preflight, "");
/// assert_eq!(reply.status(), 204);
/// assert_eq!(reply.header("access-control-allow-methods"), Some("GET, PUT"));
/// let other = client.send("GET", "/a", &[("Origin", "https://example.com")], "");
/// assert_eq!(other.header("access-control-allow-origin"), None);
/// assert_eq!(other.header("vary"), Some("Origin"));
/// ```
#[derive(Clone, Debug)]
pub struct Cors {
    /// None for all.
    origins: Option<Vec<String>>,
    methods: String,
    headers: Option<String>,
    exposed: Option<String>,
    credentials: bool,
    max_age: Duration,
}

impl Cors {
    /// For pages of these origins.
    pub fn of<T: Into<String>>(origins: impl IntoIterator<Item = T>) -> Cors {
        let origins = origins.into_iter().map(Into::into).collect();
        Cors { origins: Some(origins), ..Cors::any() }
    }

    /// For all pages, which are given no credentials.
    #[must_use]
    pub fn any() -> Cors {
        Cors {
            origins: None,
            methods: "GET, HEAD, POST, PUT, PATCH, DELETE".into(),
            headers: None,
            exposed: None,
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }

    /// The methods that pages may use.
    #[must_use]
    pub fn methods<'a>(mut self, methods: impl IntoIterator<Item = &'a str>) -> Cors {
        self.methods = list(methods);
        self
    }

    /// The header fields that pages may send; those that they ask for otherwise.
    #[must_use]
    pub fn headers<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Cors {
        self.headers = Some(list(names));
        self
    }

    /// The header fields of replies that pages may read besides the harmless ones.
    #[must_use]
    pub fn expose<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Cors {
        self.exposed = Some(list(names));
        self
    }

    /// Pages may send cookies and the like.
    ///
    /// # Panics
    /// When all origins are let in: the standard forbids both together.
    #[must_use]
    pub fn credentials(mut self) -> Cors {
        assert!(self.origins.is_some(), "credentials are for named origins: use Cors::of");
        self.credentials = true;
        self
    }

    /// How long browsers may remember the answer to a preflight.
    #[must_use]
    pub fn max_age(mut self, time: Duration) -> Cors {
        self.max_age = time;
        self
    }

    /// What `Access-Control-Allow-Origin` says to this request.
    fn allows(&self, request: &Request) -> Option<Text> {
        let origin = request.header("origin")?;
        match &self.origins {
            None => Some("*".into()),
            Some(origins) => {
                let known = origins.iter().find(|known| known.as_bytes() == origin)?;
                Some(known.clone().into())
            }
        }
    }

    fn preflight(&self, request: &Request, allowed: bool) -> Response {
        let mut response = Response::new(204);
        if allowed {
            let seconds = self.max_age.as_secs().to_string();
            response = response
                .header("Access-Control-Allow-Methods", self.methods.clone())
                .header("Access-Control-Max-Age", seconds);
            let asked = request.header("access-control-request-headers");
            let asked = asked.and_then(|names| std::str::from_utf8(names).ok());
            if let Some(names) = self.headers.as_deref().or(asked) {
                response = response.header("Access-Control-Allow-Headers", names.to_owned());
            }
        }
        response.vary("Access-Control-Request-Method").vary("Access-Control-Request-Headers")
    }
}

impl Middleware for Cors {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        let origin = self.allows(&request);
        let is_preflight = request.method() == crate::Method::Options
            && request.header("origin").is_some()
            && request.header("access-control-request-method").is_some();
        let mut response = if is_preflight {
            self.preflight(&request, origin.is_some())
        } else {
            next.run(request).await
        };
        if let Some(origin) = origin {
            response = response.set_header("Access-Control-Allow-Origin", origin);
            if self.credentials {
                response = response.set_header("Access-Control-Allow-Credentials", "true");
            }
            if let (Some(names), false) = (&self.exposed, is_preflight) {
                response = response.header("Access-Control-Expose-Headers", names.clone());
            }
        }
        // What is said to one origin is not what is said to another.
        if self.origins.is_some() { response.vary("Origin") } else { response }
    }

    fn answers_options(&self) -> bool {
        true
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}
