//! What each listener serves, made from the config.

use std::sync::Arc;
use std::time::Duration;

use ember_http::coding::Coding;
use ember_http::{
    HandlerId, Limits, Method, Methods, Prepared, Route, Site, SiteBuilder, SiteError,
    SlashStrategy,
};
use ipnet::IpNet;

use super::armed::OneReply;
use crate::admin;
use crate::application;
use crate::boot::ADMIN_LISTENER;
use crate::config::{self, Config, Encoding, Listener, Slashes};
use crate::files::Files;
use crate::rules::{self, Guard, redirect};

const GET: Methods = Methods::of(&[Method::Get]);
const GET_AND_HEAD: Methods = Methods::of(&[Method::Get, Method::Head]);

/// A handler of the dispatch loop.
#[derive(Clone, Debug)]
pub(crate) enum Handler {
    /// The counters of the whole server, for these clients; for all where there are none.
    Metrics {
        /// The networks that may ask.
        allow: Vec<IpNet>,
    },
    /// Whether the process lives: it does if it answers.
    Live,
    /// Whether it wants requests: not any more when it drains.
    Ready,
    /// Files.
    Files(ember::Handler),
    /// What the program itself serves.
    App(Handlers),
    /// The proxy of this number.
    Proxy(usize),
    /// The redirection of this number, where it depends on the request.
    Redirect(usize, ember::Handler),
    /// Preflights of a prepared route.
    Preflight(ember::Handler),
}

/// The handlers of one route of the program's own.
#[derive(Clone, Debug)]
pub(crate) struct Handlers(Vec<(Methods, ember::Handler)>);

impl Handlers {
    /// The handler of each set of methods.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Methods, ember::Handler)> {
        self.0.iter()
    }
}

/// The name of a route and the guard around its handler, where it has one.
type Guarded = Option<(String, Arc<Guard>)>;

/// The sites of all listeners; listeners with the same routes share one.
pub(crate) struct Sites {
    sites: Vec<Arc<Site>>,
    handlers: Vec<(Handler, Guarded)>,
    listeners: Vec<(String, usize)>,
    /// Of each listener, the admin's too.
    one_replies: Vec<Option<OneReply>>,
    half_close_ms: u32,
}

impl Sites {
    /// The sites of a config: one entry a listener, the admin listener last where there is one.
    ///
    /// # Errors
    /// What the tables cannot hold; the config's own check finds that first.
    pub(crate) fn new(config: &Config) -> Result<Sites, SiteError> {
        Self::with(config, &application::routes().collect::<Vec<_>>())
    }

    /// The same with these routes of a program.
    pub(super) fn with(config: &Config, own: &[&ember::Route]) -> Result<Sites, SiteError> {
        let mut sites = Sites {
            sites: Vec::new(),
            handlers: Vec::new(),
            listeners: Vec::new(),
            one_replies: Vec::new(),
            half_close_ms: ms(config.limits.half_close_timeout),
        };
        let mut known: Vec<((Vec<&str>, Slashes), usize)> = Vec::new();
        for listener in &config.listeners {
            if let Some(reply) = &listener.reply {
                let mut builder = SiteBuilder::new();
                builder.limits(limits(config));
                let (site, one) = OneReply::add(builder, &listener.name, reply)?;
                sites.listeners.push((listener.name.clone(), sites.sites.len()));
                sites.one_replies.push(Some(one));
                sites.sites.push(Arc::new(site));
                continue;
            }
            let what = (served(config, own, listener), listener.slashes);
            let site = match known.iter().find(|(of, _)| *of == what) {
                Some((_, site)) => *site,
                None => {
                    let site = sites.add_public(config, own, listener)?;
                    known.push((what, site));
                    site
                }
            };
            sites.listeners.push((listener.name.clone(), site));
            sites.one_replies.push(None);
        }
        if config.admin.is_some() {
            let site = sites.add_admin(config)?;
            sites.listeners.push((ADMIN_LISTENER.to_string(), site));
            sites.one_replies.push(None);
        }
        Ok(sites)
    }

    /// All sites.
    pub(crate) fn all(&self) -> &[Arc<Site>] {
        &self.sites
    }

    /// The handler of a number that a site gave.
    pub(crate) fn handler(&self, id: HandlerId) -> &Handler {
        &self.handlers[usize::from(id.0)].0
    }

    /// How long a handler may go on for a client that sends no more.
    pub(crate) fn half_close_ms(&self) -> u32 {
        self.half_close_ms
    }

    /// The names of the routes of each site, by their numbers.
    pub(crate) fn route_names(&self) -> Vec<Vec<String>> {
        let of =
            |site: &Arc<Site>| site.routes().iter().map(|info| info.route.name.clone()).collect();
        self.sites.iter().map(of).collect()
    }

    /// All handlers, in the order of their numbers, each with the name of its route and the guard
    /// around it where it has one.
    pub(crate) fn handlers(&self) -> &[(Handler, Guarded)] {
        &self.handlers
    }

    /// The guard of a handler.
    pub(crate) fn guard(&self, id: HandlerId) -> Option<&Guard> {
        self.handlers[usize::from(id.0)].1.as_ref().map(|(_, guard)| &**guard)
    }

    /// The names of the listeners, in the order of the config, the admin listener last.
    pub(crate) fn listener_names(&self) -> impl Iterator<Item = &str> {
        self.listeners.iter().map(|(name, _)| name.as_str())
    }

    /// The index of the site that a listener serves.
    pub(crate) fn of_listener(&self, listener: usize) -> usize {
        self.listeners[listener].1
    }

    /// The one reply of a listener that has but one.
    #[inline]
    pub(crate) fn one_reply(&self, listener: usize) -> Option<&OneReply> {
        self.one_replies[listener].as_ref()
    }

    /// The site that a listener serves.
    #[inline]
    pub(crate) fn site_of(&self, listener: usize) -> &Site {
        &self.sites[self.listeners[listener].1]
    }

    fn add_public(
        &mut self,
        config: &Config,
        own: &[&ember::Route],
        listener: &Listener,
    ) -> Result<usize, SiteError> {
        let mut builder = SiteBuilder::new();
        builder.limits(limits(config)).slashes(slashes(listener));
        for route in config.prepared.iter().filter(|r| listener.serves(&r.name)) {
            builder.prepared(on_hosts(&route.name, &route.path, &route.hosts), source(route));
            self.add_preflights(&mut builder, route);
        }
        for route in config.metrics.iter().filter(|r| listener.serves(&r.name)) {
            let handler = self.add_handler(Handler::Metrics { allow: route.allow.clone() });
            builder.dynamic(on_hosts(&route.name, &route.path, &route.hosts), GET, handler);
        }
        for route in config.files.iter().filter(|r| listener.serves(&r.name)) {
            let handler = Handler::Files(Files::new(route).handler());
            let (path, is_prefix) = route.route();
            let declared = Route { is_prefix, ..on_hosts(&route.name, path, &route.hosts) };
            self.add_guarded(&mut builder, declared, &route.rules, GET_AND_HEAD, handler);
        }
        for (at, proxy) in config.proxies.iter().enumerate() {
            if listener.serves(&proxy.name) {
                let hosts = proxy.hosts.clone();
                let mut route = Route { hosts, ..Route::prefix(&proxy.name, &proxy.prefix) };
                route.body_bytes_max = proxy.max_body;
                let handler = Handler::Proxy(at);
                self.add_guarded(&mut builder, route, &proxy.rules, Methods::ANY, handler);
            }
        }
        for (at, route) in config.redirects.iter().enumerate() {
            if listener.serves(&route.name) {
                self.add_redirect(&mut builder, at, route);
            }
        }
        for route in own.iter().filter(|r| listener.serves(&r.name)) {
            self.add_own(&mut builder, route);
        }
        self.sites.push(Arc::new(builder.build()?));
        Ok(self.sites.len() - 1)
    }

    fn add_redirect(&mut self, builder: &mut SiteBuilder, at: usize, route: &config::Redirect) {
        let declared = on_hosts(&route.name, &route.path, &route.hosts);
        match redirect::prepared(route) {
            Some(reply) => {
                builder.prepared(declared, reply);
            }
            None => {
                let handler = Handler::Redirect(at, redirect::handler(route));
                self.add_guarded(builder, declared, &route.rules, Methods::ANY, handler);
            }
        }
    }

    /// Adds a route with its rules around the handler.
    fn add_guarded(
        &mut self,
        builder: &mut SiteBuilder,
        route: Route,
        rules: &config::Rules,
        methods: Methods,
        handler: Handler,
    ) {
        let guard = Guard::new(&route.name, rules, methods).map(Arc::new);
        // Refusals of a guard follow the rules too.
        let methods = if guard.is_some() { Methods::ANY } else { methods };
        let id = self.add_handler(handler);
        self.handlers[usize::from(id.0)].1 = guard.map(|guard| (route.name.clone(), guard));
        builder.dynamic(route, methods, id);
    }

    /// What is prepared for pages of other origins has its preflights answered.
    fn add_preflights(&mut self, builder: &mut SiteBuilder, route: &config::Prepared) {
        let methods = route.rules.methods(GET_AND_HEAD);
        let cors = route.rules.cors.as_ref().filter(|_| !methods.contains(Method::Options));
        if let Some(cors) = cors {
            let handler = self.add_handler(Handler::Preflight(rules::preflights(cors, methods)));
            let declared = on_hosts(&route.name, &route.path, &route.hosts);
            builder.dynamic(declared, Methods::of(&[Method::Options]), handler);
        }
    }

    /// Adds a route of the program's own.
    fn add_own(&mut self, builder: &mut SiteBuilder, route: &ember::Route) {
        let mut declared = Route::new(&route.name, &route.pattern);
        declared.hosts.clone_from(&route.hosts);
        declared.body_bytes_max = route.body_bytes_max;
        match &route.kind {
            ember::RouteKind::Prepared(reply) => {
                builder.prepared(declared, reply.clone().into_inner());
            }
            ember::RouteKind::Handlers(handlers) => {
                let methods = handlers.iter().fold(Methods::NONE, |all, (of, _)| all.union(*of));
                let handler = self.add_handler(Handler::App(Handlers(handlers.clone())));
                builder.dynamic(declared, methods, handler);
            }
        }
    }

    fn add_admin(&mut self, config: &Config) -> Result<usize, SiteError> {
        let mut builder = SiteBuilder::new();
        builder.limits(limits(config));
        let routes = [
            ("/metrics", Handler::Metrics { allow: Vec::new() }),
            ("/healthz", Handler::Live),
            ("/readyz", Handler::Ready),
        ];
        for (path, handler) in routes {
            let handler = self.add_handler(handler);
            builder.dynamic(Route::new(path, path), GET, handler);
        }
        builder.prepared(Route::new(admin::STATUS_PAGE, "/"), admin::status_page());
        self.sites.push(Arc::new(builder.build()?));
        Ok(self.sites.len() - 1)
    }

    fn add_handler(&mut self, handler: Handler) -> HandlerId {
        self.handlers.push((handler, None));
        HandlerId(self.handlers.len() as u16 - 1)
    }
}

/// The names that stand in labels: of listeners and of routes, the admin's among them.
pub(crate) fn label_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> =
        ["/metrics", "/healthz", "/readyz", admin::STATUS_PAGE].map(String::from).to_vec();
    names.extend(config.listeners.iter().map(|l| l.name.clone()));
    names.extend(config.prepared.iter().map(|r| r.name.clone()));
    names.extend(config.metrics.iter().map(|r| r.name.clone()));
    names.extend(config.files.iter().map(|r| r.name.clone()));
    names.extend(config.proxies.iter().map(|proxy| proxy.name.clone()));
    let upstreams = config.proxies.iter().flat_map(|proxy| &proxy.upstreams);
    names.extend(upstreams.map(ToString::to_string));
    names.extend(config.redirects.iter().map(|redirect| redirect.name.clone()));
    names.extend(application::routes().map(|r| r.name.clone()));
    names
}

fn served<'a>(config: &'a Config, own: &[&'a ember::Route], listener: &Listener) -> Vec<&'a str> {
    let prepared = config.prepared.iter().map(|r| r.name.as_str());
    let metrics = config.metrics.iter().map(|r| r.name.as_str());
    let files = config.files.iter().map(|r| r.name.as_str());
    let own = own.iter().map(|r| r.name.as_str());
    let proxies = config.proxies.iter().map(|r| r.name.as_str());
    let redirects = config.redirects.iter().map(|r| r.name.as_str());
    prepared
        .chain(metrics)
        .chain(files)
        .chain(proxies)
        .chain(redirects)
        .chain(own)
        .filter(|name| listener.serves(name))
        .collect()
}

fn slashes(listener: &Listener) -> SlashStrategy {
    match listener.slashes {
        Slashes::Strict => SlashStrategy::Strict,
        Slashes::Redirect => SlashStrategy::Redirect,
        Slashes::Ignore => SlashStrategy::Ignore,
    }
}

fn on_hosts(name: &str, path: &str, hosts: &[String]) -> Route {
    Route { hosts: hosts.to_vec(), ..Route::new(name, path) }
}

/// A coding of the config, as the protocol calls it.
pub(crate) fn coding(encoding: Encoding) -> Coding {
    match encoding {
        Encoding::Zstd => Coding::Zstd,
        Encoding::Br => Coding::Brotli,
        Encoding::Gzip => Coding::Gzip,
    }
}

fn source(route: &config::Prepared) -> Prepared {
    Prepared {
        status: route.status,
        content_type: Some(route.content_type.clone()).filter(|t| !t.is_empty()),
        fields: route.rules.rendered(&route.headers),
        methods: route.rules.methods(GET),
        coded: route.coded.iter().map(|(of, bytes)| (coding(*of), bytes.0[..].into())).collect(),
        last_modified: route.last_modified,
        ..Prepared::new("", route.body.0.clone())
    }
}

fn limits(config: &Config) -> Limits {
    let head_bytes_max = config.limits.max_header as usize;
    let defaults = Limits::default();
    Limits {
        head_bytes_max,
        target_bytes_max: head_bytes_max.min(defaults.target_bytes_max),
        body_bytes_max: config.limits.max_body,
        head_ms_max: ms(config.limits.header_timeout),
        body_ms_max: ms(config.limits.body_timeout),
        idle_ms_max: ms(config.limits.idle_timeout),
        write_ms_max: ms(config.limits.write_timeout),
        requests_max: config.limits.max_requests,
        age_ms_max: ms(config.limits.max_age),
        body_rate_min: config.limits.min_body_rate,
        write_rate_min: config.limits.min_write_rate,
        rate_grace_ms: ms(config.limits.rate_grace),
        ..defaults
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX / 4)
}
