//! What is served: routes, hosts, limits and the prepared replies. Read-only once built, so that
//! all threads share one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;

use crate::limits::Limits;
use crate::method::{Method, Methods};
use crate::prepared::{self, Prepared, Rendered};
use crate::reply::Persist;
use crate::route::{Answers, HandlerId, Route, RouteId, RouteInfo, SiteError, SlashStrategy};
use crate::router::{Lookup, ParamSpan, Table};
use crate::status;
use crate::target::normalise;
use crate::variant::{Kind, PreparedEntry, Variant, VariantId};

/// Collects what a [`Site`] is made of.
#[derive(Default)]
pub struct SiteBuilder {
    limits: Limits,
    slashes: SlashStrategy,
    routes: Vec<(Route, Source)>,
}

enum Source {
    Prepared(Box<Prepared>),
    Dynamic(Methods, HandlerId),
}

impl SiteBuilder {
    /// A builder with default limits and without routes.
    #[must_use]
    pub fn new() -> SiteBuilder {
        SiteBuilder::default()
    }

    /// Sets the limits.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = limits;
        self
    }

    /// Sets the strategy for slashes at the end of paths.
    pub fn slashes(&mut self, strategy: SlashStrategy) -> &mut Self {
        self.slashes = strategy;
        self
    }

    /// Adds a route that is answered with these bytes. Its pattern has no parameters; as a prefix
    /// it gives the one reply for all paths below.
    pub fn prepared(&mut self, route: Route, reply: Prepared) -> RouteId {
        self.push(route, Source::Prepared(Box::new(reply)))
    }

    /// Adds a route that is dispatched to a handler. GET brings HEAD with it.
    pub fn dynamic(&mut self, route: Route, methods: Methods, handler: HandlerId) -> RouteId {
        self.push(route, Source::Dynamic(methods, handler))
    }

    fn push(&mut self, route: Route, source: Source) -> RouteId {
        self.routes.push((route, source));
        // `build` refuses a site with more routes than numbers.
        RouteId(self.routes.len().wrapping_sub(1) as u16)
    }

    /// Compiles the routes and renders the replies.
    pub fn build(self) -> Result<Site, SiteError> {
        if self.routes.len() > usize::from(u16::MAX) {
            return Err(SiteError::TooMany);
        }
        let mut site = Site::empty(self.limits, self.slashes);
        for (route, source) in self.routes {
            site.add(route, source)?;
        }
        site.add_errors()?;
        Ok(site)
    }
}

/// Replies of the protocol, and those that a worker needs for handlers that fail.
const ERRORS: [u16; 17] =
    [400, 403, 404, 408, 412, 413, 414, 417, 421, 429, 431, 500, 501, 502, 503, 504, 505];

/// Routes, limits and rendered replies.
pub struct Site {
    /// Tells sites apart, so that what was remembered of one is not used for another.
    pub(crate) id: u64,
    pub(crate) limits: Limits,
    pub(crate) slashes: SlashStrategy,
    any_host: Table,
    hosts: FxHashMap<Box<str>, Table>,
    /// By the part behind the star, the dot included; the longest first.
    wildcards: Vec<(Box<str>, Table)>,
    routes: Vec<RouteInfo>,
    pub(crate) prepared: Vec<PreparedEntry>,
    variants: Vec<Variant>,
    errors: u16,
    methods: Methods,
}

impl Site {
    fn empty(limits: Limits, slashes: SlashStrategy) -> Site {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        Site {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            limits,
            slashes,
            any_host: Table::new(),
            hosts: FxHashMap::default(),
            wildcards: Vec::new(),
            routes: Vec::new(),
            prepared: Vec::new(),
            variants: Vec::new(),
            errors: 0,
            methods: Methods::of(&[Method::Options]),
        }
    }

    /// The limits of its connections.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All routes, by number.
    #[must_use]
    pub fn routes(&self) -> &[RouteInfo] {
        &self.routes
    }

    /// A route.
    #[must_use]
    pub fn route(&self, id: RouteId) -> &RouteInfo {
        &self.routes[usize::from(id.0)]
    }

    /// All rendered replies, by number.
    #[must_use]
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// How many rendered replies there are.
    #[must_use]
    pub fn variant_count(&self) -> usize {
        self.variants.len()
    }

    /// The numbers of all rendered replies.
    pub fn variant_ids(&self) -> impl Iterator<Item = VariantId> + use<> {
        (0..self.variants.len() as u16).map(VariantId)
    }

    /// A rendered reply.
    #[inline]
    #[must_use]
    pub fn variant(&self, id: VariantId) -> &Variant {
        &self.variants[usize::from(id.0)]
    }

    /// The rendered reply for an error status; that of 500 for a status that has none.
    #[must_use]
    pub fn error(&self, status: u16, head_only: bool, persist: Persist) -> VariantId {
        let place = |status| ERRORS.iter().position(|&error| error == status);
        let at = place(status).or_else(|| place(500)).unwrap_or_default();
        let kind = if head_only { Kind::HeadOnly } else { Kind::Whole };
        VariantId(self.errors + at as u16 * 6 + kind as u16 * 3 + persist as u16)
    }

    /// The methods that some route answers.
    #[must_use]
    pub fn methods(&self) -> Methods {
        self.methods
    }

    /// Finds the route of a normalised path. A host's own routes come before those of wider
    /// patterns and these before those for all hosts.
    pub(crate) fn find(
        &self,
        method: Method,
        host: &[u8],
        path: &str,
        params: &mut Vec<ParamSpan>,
    ) -> Lookup {
        if !self.has_hosts() {
            return self.any_host.find(method, path, params);
        }
        let host = std::str::from_utf8(host).unwrap_or_default().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let exact = self.hosts.get(host);
        let below = self.wildcards.iter().filter(|(suffix, _)| is_below(host, suffix));
        let tables = exact.into_iter().chain(below.map(|(_, table)| table)).chain([&self.any_host]);
        let mut allowed = Methods::NONE;
        for table in tables {
            match table.find(method, path, params) {
                Lookup::Route(route) => return Lookup::Route(route),
                Lookup::OtherMethods(methods) => allowed = allowed.union(methods),
                Lookup::Nothing => {}
            }
        }
        if allowed.is_empty() { Lookup::Nothing } else { Lookup::OtherMethods(allowed) }
    }

    /// Whether any route is for some hosts only.
    pub(crate) fn has_hosts(&self) -> bool {
        !self.hosts.is_empty() || !self.wildcards.is_empty()
    }

    fn add(&mut self, route: Route, source: Source) -> Result<(), SiteError> {
        let name = || route.name.clone();
        let id = self.routes.len() as u16;
        let methods = match &source {
            Source::Prepared(prepared) => prepared.methods,
            Source::Dynamic(methods, _) => *methods,
        };
        // OPTIONS is answered by the protocol unless a route asks for it.
        let methods = if methods.contains(Method::Get) {
            methods.union(Methods::of(&[Method::Head]))
        } else {
            methods
        };
        let params = self.add_to_tables(&route, methods, id)?;
        let answers = match source {
            Source::Prepared(_) if !params.is_empty() => {
                return Err(SiteError::PreparedPattern { route: name() });
            }
            Source::Prepared(prepared) => {
                Answers::Prepared(self.render(&route.name, *prepared, RouteId(id))?)
            }
            Source::Dynamic(_, handler) => Answers::Handler(handler),
        };
        self.methods = self.methods.union(methods);
        let body_bytes_max = route.body_bytes_max.unwrap_or(self.limits.body_bytes_max);
        self.routes.push(RouteInfo { route, methods, params, body_bytes_max, answers });
        Ok(())
    }

    fn add_to_tables(
        &mut self,
        route: &Route,
        methods: Methods,
        id: u16,
    ) -> Result<Vec<String>, SiteError> {
        let name = || route.name.clone();
        let mut params = Vec::new();
        let all = [String::new()];
        let hosts = if route.hosts.is_empty() { &all[..] } else { &route.hosts };
        for host in hosts {
            let table = self
                .table(host)
                .ok_or_else(|| SiteError::Host { route: name(), host: host.clone() })?;
            let added = if route.is_prefix {
                table.add_prefix(&route.pattern, methods, id).map(|added| added.map(|()| vec![]))
            } else {
                table.add(&route.pattern, methods, id)
            };
            let added = added.map_err(|error| SiteError::Pattern { route: name(), error })?;
            params = added.map_err(|clash| SiteError::Clash {
                route: name(),
                other: self
                    .routes
                    .get(usize::from(clash.other))
                    .map_or_else(name, |other| other.route.name.clone()),
            })?;
        }
        Ok(params)
    }

    /// The table of a host pattern, made if there is none; the empty pattern is that of all hosts.
    fn table(&mut self, host: &str) -> Option<&mut Table> {
        if host.is_empty() {
            return Some(&mut self.any_host);
        }
        let host = normalise_host(host)?;
        let name = host.strip_prefix('*').unwrap_or(&host);
        if name.len() == host.len() {
            return Some(self.hosts.entry(name.into()).or_insert_with(Table::new));
        }
        let at = match self.wildcards.iter().position(|(suffix, _)| **suffix == *name) {
            Some(at) => at,
            None => {
                let at = self.wildcards.partition_point(|(suffix, _)| suffix.len() >= name.len());
                self.wildcards.insert(at, (name.into(), Table::new()));
                at
            }
        };
        Some(&mut self.wildcards[at].1)
    }

    fn render(&mut self, name: &str, reply: Prepared, route: RouteId) -> Result<u16, SiteError> {
        let status = reply.status;
        let bodiless = status::is_bodiless(status);
        if !(200..=599).contains(&status) || (bodiless && !reply.body.is_empty()) {
            return Err(SiteError::Status { route: name.to_owned(), status });
        }
        if let Some(field) = prepared::bad_field(&reply) {
            let field = field.to_owned();
            return Err(SiteError::Field { route: name.to_owned(), field });
        }
        let first = self.variants.len() as u16;
        let rendered = Rendered::new(reply);
        let conditional = rendered.is_conditional();
        let kinds: &[Kind] = if conditional {
            &[Kind::Whole, Kind::HeadOnly, Kind::NotModified, Kind::HeadNotModified]
        } else {
            &[Kind::Whole, Kind::HeadOnly]
        };
        for representation in &rendered.representations {
            for &kind in kinds {
                for persist in Persist::ALL {
                    let (head, status) = match kind {
                        Kind::NotModified | Kind::HeadNotModified => {
                            (rendered.not_modified(representation, persist), 304)
                        }
                        _ => (rendered.head(representation, persist), status),
                    };
                    let body = match kind {
                        Kind::Whole => representation.body.clone(),
                        _ => Arc::from([]),
                    };
                    let of = (status, kind.method(), Some(route), persist);
                    self.push_variant(head, body, of)?;
                }
            }
        }
        self.prepared.push(PreparedEntry { rendered, first, kinds: kinds.len() as u16 });
        Ok(self.prepared.len() as u16 - 1)
    }

    fn push_variant(
        &mut self,
        head: prepared::Head,
        body: Arc<[u8]>,
        (status, method, route, persist): (u16, Method, Option<RouteId>, Persist),
    ) -> Result<(), SiteError> {
        if self.variants.len() > usize::from(u16::MAX) {
            return Err(SiteError::TooMany);
        }
        let prepared::Head { bytes: head, date_at } = head;
        self.variants.push(Variant { head, date_at, body, status, method, route, persist });
        Ok(())
    }

    fn add_errors(&mut self) -> Result<(), SiteError> {
        if self.variants.len() + ERRORS.len() * 6 > usize::from(u16::MAX) {
            return Err(SiteError::TooMany);
        }
        self.errors = self.variants.len() as u16;
        for status in ERRORS {
            let text = format!("{status} {}\n", status::phrase(status));
            for (body, method) in [(text.as_str(), Method::Get), ("", Method::Head)] {
                for persist in Persist::ALL {
                    let mut head = prepared::Head::new(status, persist);
                    head.field("Content-Type", "text/plain; charset=utf-8");
                    head.field("Content-Length", &text.len().to_string());
                    let body = Arc::from(body.as_bytes());
                    self.push_variant(head.end(), body, (status, method, None, persist))?;
                }
            }
        }
        Ok(())
    }
}

fn is_below(host: &str, suffix: &str) -> bool {
    host.len() > suffix.len() && host.ends_with(suffix)
}

/// The pattern of a host written by hand (see [`Route::hosts`]), in the form in which hosts are
/// compared; `None` if it is none.
#[must_use]
pub fn normalise_host(pattern: &str) -> Option<String> {
    let host = pattern.to_ascii_lowercase();
    let bare = match host.strip_prefix('*') {
        Some(below) => below.strip_prefix('.')?,
        None => &host,
    };
    let whole = crate::target::host_without_port(bare.as_bytes()) == Some(bare.as_bytes());
    (!bare.is_empty() && !bare.contains('*') && whole).then_some(host)
}

/// A path written by hand, in the form in which routes are compared; `None` if it is no path.
#[must_use]
pub fn normalise_path(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    normalise(path.as_bytes(), &mut String::new()).ok().map(str::to_owned)
}
