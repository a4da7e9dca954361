//! What is served: routes, limits and the templates of prepared replies, in read-only tables.

use std::collections::HashMap;
use std::fmt;

use crate::date;
use crate::head::Method;
use crate::path;
use crate::reply::{Persist, ReplyHead, has_body, is_field_byte};

/// A route's number, dense from zero in the order of their adding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u16);

impl RouteId {
    /// As an index into a table of routes.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What the builder's caller will know a dynamic route's handler by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandlerId(pub u16);

/// One rendering of a prepared route, numbered densely over the whole site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VariantId(pub u16);

impl VariantId {
    /// As an index into a table of variants.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What answers a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Rendered replies.
    Prepared,
    /// A handler.
    Dynamic(HandlerId),
}

/// Limits of what a peer may send.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The whole head, from the request line to the empty line, in bytes.
    pub head_len_max: usize,
    /// The request line, in bytes.
    pub request_line_len_max: usize,
    /// The body, framing not counted, in bytes.
    pub body_len_max: u64,
    /// Requests on one connection; the last one's reply says `Connection: close`.
    pub requests_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_len_max: 16 * 1024,
            request_line_len_max: 8 * 1024,
            body_len_max: 4 * 1024 * 1024,
            requests_max: u32::MAX,
        }
    }
}

/// What a prepared route answers.
#[derive(Clone, Debug, Default)]
pub struct PreparedSource {
    /// The status code; zero stands for 200.
    pub status: u16,
    /// `Content-Type`, where there is a body.
    pub content_type: Option<String>,
    /// Further header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a site cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteError {
    /// The path of the route named is not in the form of [`path`].
    Path(String),
    /// Two routes answer the same path; both are named.
    Duplicate(String, String),
    /// A header of the route named, which the server sets itself or whose bytes are not allowed.
    Header(String, String),
    /// The status of the route named is not a final one.
    Status(String, u16),
    /// There are more routes than can be numbered.
    TooMany,
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SiteError::Path(path) => write!(
                f,
                "route path {path:?} must begin with '/' and have no query, dot segments or encodings"
            ),
            SiteError::Duplicate(path, first) => {
                write!(f, "path {path:?} is already answered by route {first:?}")
            }
            SiteError::Header(route, name) => write!(
                f,
                "route {route:?}: header {name:?} is set by the server itself, or has bytes that a \
                 header cannot hold"
            ),
            SiteError::Status(route, status) => {
                write!(f, "route {route:?}: status {status} is not between 200 and 599")
            }
            SiteError::TooMany => {
                write!(f, "more than {} prepared routes", u16::MAX as usize / PER_ROUTE)
            }
        }
    }
}

impl std::error::Error for SiteError {}

/// Header fields that the server sets itself (RFC 9112, sections 6 and 9; RFC 9110, 6.6.1).
const OWN_HEADERS: [&str; 6] =
    ["connection", "content-length", "date", "keep-alive", "transfer-encoding", "content-type"];

/// Variants of one prepared route: GET and HEAD, each with every way to leave the connection.
const PER_ROUTE: usize = 2 * Persist::ALL.len();

#[derive(Debug)]
struct Route {
    name: String,
    kind: RouteKind,
    methods: Vec<Method>,
    allow: String,
    /// The first of its variants, where it is prepared.
    variants: u16,
}

/// One rendering in the store: the body is shared by all variants of its route.
#[derive(Debug)]
struct Stored {
    head: Box<[u8]>,
    date_at: Option<usize>,
    body: Option<u16>,
    route: RouteId,
    method: Method,
    status: u16,
    persist: Persist,
}

/// One rendering of a prepared route.
#[derive(Clone, Copy, Debug)]
pub struct Variant<'a> {
    stored: &'a Stored,
    body: &'a [u8],
}

impl<'a> Variant<'a> {
    /// From the status line to the empty line; the date in it is of no particular second.
    #[must_use]
    pub fn head(&self) -> &'a [u8] {
        &self.stored.head
    }

    /// The body; empty for HEAD.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Length of head and body in bytes; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a reply is never empty")]
    pub fn len(&self) -> usize {
        self.stored.head.len() + self.body.len()
    }

    /// Where in the head the [`date::LEN`] bytes of the `Date` value stand.
    #[must_use]
    pub fn date_at(&self) -> Option<usize> {
        self.stored.date_at
    }

    /// The route it belongs to.
    #[must_use]
    pub fn route(&self) -> RouteId {
        self.stored.route
    }

    /// The method it answers.
    #[must_use]
    pub fn method(&self) -> Method {
        self.stored.method
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.stored.status
    }

    /// How it leaves the connection.
    #[must_use]
    pub fn persist(&self) -> Persist {
        self.stored.persist
    }
}

/// What is served.
#[derive(Debug)]
pub struct Site {
    routes: Vec<Route>,
    exact: HashMap<Box<[u8]>, RouteId>,
    variants: Vec<Stored>,
    bodies: Vec<Box<[u8]>>,
    limits: Limits,
}

impl Site {
    /// A builder without routes.
    #[must_use]
    pub fn builder() -> SiteBuilder {
        SiteBuilder::default()
    }

    /// How many variants there are.
    #[must_use]
    pub fn variant_count(&self) -> usize {
        self.variants.len()
    }

    /// All variants' numbers.
    pub fn variant_ids(&self) -> impl Iterator<Item = VariantId> + use<> {
        (0..self.variants.len() as u16).map(VariantId)
    }

    /// A variant.
    ///
    /// # Panics
    /// When the number is of another site.
    #[must_use]
    pub fn variant(&self, id: VariantId) -> Variant<'_> {
        let stored = &self.variants[id.index()];
        let body = stored.body.map_or(&[][..], |body| &self.bodies[usize::from(body)]);
        Variant { stored, body }
    }

    /// How many routes there are.
    #[must_use]
    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// The configured name or path of a route.
    ///
    /// # Panics
    /// When the number is of another site.
    #[must_use]
    pub fn route_name(&self, id: RouteId) -> &str {
        &self.routes[id.index()].name
    }

    /// What answers a route.
    ///
    /// # Panics
    /// When the number is of another site.
    #[must_use]
    pub fn route_kind(&self, id: RouteId) -> RouteKind {
        self.routes[id.index()].kind
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The route that answers a path in the form of [`path`].
    #[must_use]
    pub fn route(&self, path: &[u8]) -> Option<RouteId> {
        self.exact.get(path).copied()
    }

    pub(crate) fn allows(&self, id: RouteId, method: Method) -> bool {
        self.routes[id.index()].methods.contains(&method)
    }

    pub(crate) fn allow(&self, id: RouteId) -> &str {
        &self.routes[id.index()].allow
    }

    /// The variant of a prepared route for a method that it allows.
    pub(crate) fn variant_for(&self, id: RouteId, method: Method, persist: Persist) -> VariantId {
        let of_method = if method == Method::Head { Persist::ALL.len() } else { 0 };
        VariantId(self.routes[id.index()].variants + (of_method + persist as usize) as u16)
    }
}

/// Collects what a [`Site`] is made of.
#[derive(Debug, Default)]
pub struct SiteBuilder {
    routes: Vec<Route>,
    exact: HashMap<Box<[u8]>, RouteId>,
    variants: Vec<Stored>,
    bodies: Vec<Box<[u8]>>,
    limits: Limits,
}

impl SiteBuilder {
    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a prepared route, answered for GET and HEAD.
    ///
    /// # Errors
    /// When the path, a header or the status is not possible, or the path is taken.
    pub fn prepared(
        &mut self,
        name: &str,
        path: &str,
        source: PreparedSource,
    ) -> Result<RouteId, SiteError> {
        let status = if source.status == 0 { 200 } else { source.status };
        if !(200..=599).contains(&status) {
            return Err(SiteError::Status(name.to_string(), status));
        }
        for (field, value) in &source.headers {
            if !is_settable(field, value) {
                return Err(SiteError::Header(name.to_string(), field.clone()));
            }
        }
        if let Some(value) = &source.content_type
            && !value.bytes().all(is_field_byte)
        {
            return Err(SiteError::Header(name.to_string(), "content-type".to_string()));
        }
        let first = u16::try_from(self.variants.len()).map_err(|_| SiteError::TooMany)?;
        if usize::from(u16::MAX - first) < PER_ROUTE {
            return Err(SiteError::TooMany);
        }
        let methods = vec![Method::Get, Method::Head];
        let id = self.add(name, path, RouteKind::Prepared, methods, first)?;
        self.render(id, status, source);
        Ok(id)
    }

    /// Adds a route that a handler answers. HEAD is added where GET is.
    ///
    /// # Errors
    /// When the path is not possible or taken.
    pub fn dynamic(
        &mut self,
        name: &str,
        path: &str,
        methods: &[Method],
        handler: HandlerId,
    ) -> Result<RouteId, SiteError> {
        let mut methods = methods.to_vec();
        if methods.contains(&Method::Get) && !methods.contains(&Method::Head) {
            methods.push(Method::Head);
        }
        self.add(name, path, RouteKind::Dynamic(handler), methods, 0)
    }

    /// The finished tables.
    #[must_use]
    pub fn build(self) -> Site {
        let SiteBuilder { routes, exact, variants, bodies, limits } = self;
        Site { routes, exact, variants, bodies, limits }
    }

    fn add(
        &mut self,
        name: &str,
        path: &str,
        kind: RouteKind,
        methods: Vec<Method>,
        variants: u16,
    ) -> Result<RouteId, SiteError> {
        let plain = path::normalise(path).is_ok_and(|p| *p == *path.as_bytes());
        if !plain || path.contains(['?', '#']) || !path.is_ascii() {
            return Err(SiteError::Path(path.to_string()));
        }
        if let Some(first) = self.exact.get(path.as_bytes()) {
            let first = self.routes[first.index()].name.clone();
            return Err(SiteError::Duplicate(path.to_string(), first));
        }
        let id = RouteId(u16::try_from(self.routes.len()).map_err(|_| SiteError::TooMany)?);
        let allow = methods.iter().map(|m| m.name()).collect::<Vec<_>>().join(", ");
        self.exact.insert(path.as_bytes().into(), id);
        self.routes.push(Route { name: name.to_string(), kind, methods, allow, variants });
        Ok(id)
    }

    fn render(&mut self, route: RouteId, status: u16, source: PreparedSource) {
        let PreparedSource { content_type, headers, body, .. } = source;
        let kept = has_body(status) && !body.is_empty();
        let stored_body = kept.then_some(self.bodies.len() as u16);
        for method in [Method::Get, Method::Head] {
            for persist in Persist::ALL {
                let mut bytes = Vec::new();
                let mut head = ReplyHead::begin(&mut bytes, status, persist, &[b'0'; date::LEN]);
                if let Some(content_type) = content_type.as_deref().filter(|_| has_body(status)) {
                    head.field("Content-Type", content_type);
                }
                for (name, value) in &headers {
                    head.field(name, value);
                }
                head.end_with_body(&body, true);
                let mark = b"\r\nDate: ";
                let date_at = memchr::memmem::find(&bytes, mark).map(|at| at + mark.len());
                let body = stored_body.filter(|_| method == Method::Get);
                let head = bytes.into();
                self.variants.push(Stored { head, date_at, body, route, method, status, persist });
            }
        }
        if kept {
            self.bodies.push(body.into());
        }
    }
}

fn is_settable(name: &str, value: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty()
        && name.bytes().all(token)
        && value.bytes().all(is_field_byte)
        && !OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(body: &str) -> PreparedSource {
        PreparedSource {
            content_type: Some("text/plain".to_string()),
            body: body.into(),
            ..PreparedSource::default()
        }
    }

    #[test]
    fn variants_are_whole_replies() {
        let mut builder = Site::builder();
        builder.prepared("a", "/a", source("")).unwrap();
        let id = builder.prepared("b", "/b", source("hello")).unwrap();
        let site = builder.build();
        let get = site.variant(site.variant_for(id, Method::Get, Persist::Default));
        assert_eq!((get.route(), get.method(), get.status()), (id, Method::Get, 200));
        assert_eq!(get.body(), b"hello");
        let text = std::str::from_utf8(get.head()).unwrap();
        assert!(text.ends_with("Content-Type: text/plain\r\nContent-Length: 5\r\n\r\n"), "{text}");
        let at = get.date_at().unwrap();
        assert_eq!(&get.head()[at..at + date::LEN], [b'0'; date::LEN]);
        let head = site.variant(site.variant_for(id, Method::Head, Persist::Close));
        assert_eq!(
            (head.method(), head.persist(), head.body()),
            (Method::Head, Persist::Close, &[][..])
        );
        assert!(std::str::from_utf8(head.head()).unwrap().contains("Connection: close\r\n"));
        assert_eq!(site.variant_count(), 2 * PER_ROUTE);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let mut builder = Site::builder();
        builder.prepared("a", "/a", source("x")).unwrap();
        let duplicate = builder.dynamic("b", "/a", &[Method::Get], HandlerId(0));
        assert_eq!(duplicate, Err(SiteError::Duplicate("/a".into(), "a".into())));
        for path in ["", "a", "/a?b", "/a/../b", "/%41", "/\u{e9}"] {
            let error = builder.prepared("p", path, source(""));
            assert_eq!(error, Err(SiteError::Path(path.into())), "{path}");
        }
        for (name, value) in [("Date", "x"), ("content-length", "1"), ("A B", "x"), ("A", "b\r\nc")]
        {
            let headers = vec![(name.to_string(), value.to_string())];
            let error = builder.prepared("h", "/h", PreparedSource { headers, ..source("") });
            assert!(matches!(error, Err(SiteError::Header(..))), "{name}");
        }
        let error = builder.prepared("s", "/s", PreparedSource { status: 101, ..source("") });
        assert_eq!(error, Err(SiteError::Status("s".into(), 101)));
    }
}
