//! What no value shows alone: routes that are in each other's way, listeners that cannot both be,
//! replies that would be wrong for some requests, and what is legal but unwise.

use std::time::Duration;

use ember_http::{Method, Methods};

use super::check::{Checked, Written};
use super::model::{Address, Config, Listener, Reply};
use super::report::{Finding, Severity};
use super::source::Place;
use super::suggest;
use crate::files::tree;
use crate::rules::redirect::{Target, pattern_params};
use crate::worker::Sites;

/// Everything found about a config whose single values are well.
pub(crate) fn check(config: &Config, checked: &Checked) -> Vec<Finding> {
    let mut cross = Cross { config, checked, findings: Vec::new() };
    cross.ring();
    cross.workers();
    cross.tune();
    cross.bodies();
    cross.files();
    cross.listeners();
    cross.replies();
    cross.routes();
    cross.proxies();
    cross.redirects();
    cross.rules();
    cross.unwise();
    cross.sites();
    cross.findings
}

struct Cross<'a> {
    config: &'a Config,
    checked: &'a Checked,
    findings: Vec<Finding>,
}

/// A route of any kind and where it was written.
struct Route<'a> {
    name: &'a str,
    path: &'a str,
    hosts: &'a [String],
    /// All below the path is meant.
    is_prefix: bool,
    at: String,
}

impl Route<'_> {
    /// Whether both are for all hosts, or for one and the same.
    fn shares_a_host(&self, other: &Route<'_>) -> bool {
        self.hosts.is_empty() && other.hosts.is_empty()
            || self.hosts.iter().any(|host| other.hosts.contains(host))
    }

    /// The key that has its path.
    fn key(&self) -> &'static str {
        if self.at.starts_with("proxy") { "prefix" } else { "path" }
    }
}

impl<'a> Cross<'a> {
    fn written(&self, path: &str) -> Option<Written> {
        self.checked.places.get(path).copied()
    }

    /// The place of a value, or of the nearest table around it that was written.
    fn value(&self, path: &str) -> Option<Place> {
        self.near(path, |written| written.value)
    }

    fn key(&self, path: &str) -> Option<Place> {
        self.near(path, |written| written.key)
    }

    fn near(&self, path: &str, place: impl Fn(Written) -> Place) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(written) = self.written(path) {
                return Some(place(written));
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// The path in the sources of the `index`th element that is left of a list.
    fn element(&self, list: &'static str, index: usize) -> String {
        let kept = self.checked.kept.get(list).and_then(|kept| kept.get(index));
        format!("{list}[{}]", kept.copied().unwrap_or(index))
    }

    fn error(&mut self, code: &'static str, place: Option<Place>, message: String) -> &mut Finding {
        let finding = Finding::nowhere(code, message);
        self.findings.push(Finding { place, ..finding });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    fn warn(&mut self, place: Option<Place>, message: &str, help: &str) {
        if let Some(place) = place {
            self.findings.push(Finding::warning("unwise", place, message).help(help));
        }
    }

    fn tune(&mut self) {
        let mut wishes = ember_sysctl::Wishes::default();
        for (name, value) in &self.config.tune.set {
            if let Err(message) = wishes.set(name, value) {
                let place = self.value(&format!("tune.set.{name}")).or(self.value("tune.set"));
                self.error("bad_value", place, format!("`tune.set`: {message}"));
            }
        }
    }

    fn ring(&mut self) {
        let buffers = self.config.ring.buffers;
        if !buffers.is_power_of_two() {
            let place = self.value("ring.buffers");
            let below = 1 << buffers.ilog2();
            let help = format!("write {below} or {}", below * 2);
            self.error(
                "bad_value",
                place,
                format!("`ring.buffers` is {buffers}: no power of two"),
            )
            .help = Some(help);
        }
    }

    fn bodies(&mut self) {
        for (index, prepared) in self.config.prepared.iter().enumerate() {
            let at = self.element("prepared", index);
            let why = match prepared.status {
                206 => "it is made for a Range, which a prepared route answers by itself",
                304 => "it is made for a condition, which a prepared route answers by itself",
                204 | 205 if !prepared.body.0.is_empty() => "such a reply has no body",
                _ => continue,
            };
            let place = self.value(&format!("{at}.status"));
            self.error(
                "bad_value",
                place,
                format!("status {} does not go here: {why}", prepared.status),
            );
        }
    }

    /// What is to be served is there.
    fn files(&mut self) {
        for (index, files) in self.config.files.iter().enumerate() {
            let at = self.element("files", index);
            let (key, found) = match &files.root {
                Some(root) => ("root", tree::is_directory(root)),
                None => ("file", tree::is_file(files.source(), files.symlinks)),
            };
            let Err(error) = found else { continue };
            let place = self.value(&format!("{at}.{key}"));
            let message = format!("`{at}.{key}` cannot be served: {error}");
            let looked = format!("looked for {}", files.source().display());
            self.error("unreadable", place, message).help = Some(looked);
        }
    }

    fn workers(&mut self) {
        let workers = &self.config.workers;
        if workers.in_process && workers.count.is_some_and(|count| count > 1) {
            let place = self.value("workers.in_process");
            let other = self.value("workers.count");
            let finding = self.error(
                "conflict",
                place,
                "`workers.in_process` is for one worker alone".to_owned(),
            );
            finding.other =
                other.map(|place| (place, "more than one is asked for here".to_owned()));
            finding.help = Some("take one of them out".to_owned());
        }
    }

    fn listeners(&mut self) {
        let listeners = &self.config.listeners;
        for (index, listener) in listeners.iter().enumerate() {
            let at = self.element("listener", index);
            for (first, earlier) in listeners[..index].iter().enumerate() {
                let first = self.element("listener", first);
                if listener.name == earlier.name {
                    let place = self.value(&format!("{at}.name"));
                    let other = self.value(&format!("{first}.name"));
                    let message = format!("two listeners are named \"{}\"", listener.name);
                    self.again("duplicate", place, other, message);
                }
                if clash(&listener.address, &earlier.address) {
                    let place = self.value(&format!("{at}.address"));
                    let other = self.value(&format!("{first}.address"));
                    let message = format!("{} is listened on already", listener.address);
                    self.again("duplicate", place, other, message);
                }
            }
            if listener.mode.is_some() && !matches!(listener.address, Address::Unix(_)) {
                let place = self.key(&format!("{at}.mode"));
                let message = format!("`{at}.mode` is for unix sockets, which have a file");
                self.error("conflict", place, message).help = Some("take it out".to_owned());
            }
        }
        if let Some(admin) = &self.config.admin {
            let same = listeners.iter().position(|other| clash(&other.address, &admin.listen));
            if let Some(index) = same {
                let other = self.value(&format!("{}.address", self.element("listener", index)));
                let place = self.value("admin.listen");
                let message = format!("{} is listened on already", admin.listen);
                self.again("duplicate", place, other, message);
            }
        }
    }

    fn again(
        &mut self,
        code: &'static str,
        place: Option<Place>,
        other: Option<Place>,
        message: String,
    ) {
        let finding = self.error(code, place, message);
        finding.label = "again here".to_owned();
        finding.other = other
            .filter(|other| Some(*other) != place)
            .map(|other| (other, "first here".to_owned()));
    }

    fn replies(&mut self) {
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let at = self.element("listener", index);
            let Some(reply) = &listener.reply else { continue };
            if listener.routes.is_some() {
                let place = self.key(&format!("{at}.routes"));
                let other = self.key(&format!("{at}.reply"));
                let message = format!("`{at}` has one reply for everything, so it has no routes");
                let finding = self.error("conflict", place, message);
                finding.other = other.map(|place| (place, "the one reply".to_owned()));
                finding.help = Some("take `routes` or `reply` out".to_owned());
            }
            if let Some((why, help)) = unsound(reply) {
                let place = self.value(&format!("{at}.reply.status"));
                let message = format!("status {} cannot answer every request: {why}", reply.status);
                self.error("unsound_reply", place, message).help = Some(help.to_owned());
            }
        }
    }

    fn route_list(&self) -> Vec<Route<'a>> {
        let config = self.config;
        let prepared = config.prepared.iter().enumerate().map(|(index, route)| Route {
            name: &route.name,
            path: &route.path,
            hosts: &route.hosts,
            is_prefix: false,
            at: self.element("prepared", index),
        });
        let metrics = config.metrics.iter().enumerate().map(|(index, route)| Route {
            name: &route.name,
            path: &route.path,
            hosts: &route.hosts,
            is_prefix: false,
            at: self.element("metrics", index),
        });
        let files = config.files.iter().enumerate().map(|(index, route)| {
            let ((path, is_prefix), at) = (route.route(), self.element("files", index));
            Route { name: &route.name, path, hosts: &route.hosts, is_prefix, at }
        });
        let proxies = config.proxies.iter().enumerate().map(|(index, route)| Route {
            name: &route.name,
            path: &route.prefix,
            hosts: &route.hosts,
            is_prefix: true,
            at: self.element("proxy", index),
        });
        let redirects = config.redirects.iter().enumerate().map(|(index, route)| Route {
            name: &route.name,
            path: &route.path,
            hosts: &route.hosts,
            is_prefix: false,
            at: self.element("redirect", index),
        });
        prepared.chain(metrics).chain(files).chain(proxies).chain(redirects).collect()
    }

    fn redirects(&mut self) {
        for (index, redirect) in self.config.redirects.iter().enumerate() {
            let at = self.element("redirect", index);
            if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
                let place = self.value(&format!("{at}.status"));
                let message = format!("status {} does not redirect", redirect.status);
                self.error("bad_value", place, message).help =
                    Some("it is 301, 302, 303, 307 or 308".to_owned());
            }
            let Ok(target) = Target::parse(&redirect.to) else { continue };
            let captured = pattern_params(&redirect.path).unwrap_or_default();
            for name in target.names().filter(|name| !captured.iter().any(|it| it == name)) {
                let place = self.value(&format!("{at}.to"));
                let message = format!("`{at}.path` captures no `{name}`");
                let help = match captured.as_slice() {
                    [] => format!("write {{{name}}} for a segment of `path`"),
                    all => {
                        format!("it captures: {}", suggest::list(all.iter().map(String::as_str)))
                    }
                };
                self.error("bad_value", place, message).help = Some(help);
            }
        }
    }

    /// Rules that would not do what they seem to.
    fn rules(&mut self) {
        let config = self.config;
        let files = config.files.iter().enumerate().map(|(at, it)| ("files", at, &it.rules));
        let proxies = config.proxies.iter().enumerate().map(|(at, it)| ("proxy", at, &it.rules));
        let redirects =
            config.redirects.iter().enumerate().map(|(at, it)| ("redirect", at, &it.rules));
        let prepared =
            config.prepared.iter().enumerate().map(|(at, it)| ("prepared", at, &it.rules));
        let all = files.chain(proxies).chain(redirects).chain(prepared);
        for (list, index, rules) in all {
            let at = self.element(list, index);
            if let Some(cors) = &rules.cors {
                let any = cors.origins.iter().any(|origin| origin == "*");
                let place = self.value(&format!("{at}.cors.origins"));
                if cors.origins.is_empty() {
                    self.error("bad_value", place, format!("`{at}.cors.origins` names none"));
                } else if any && cors.credentials {
                    let message = "with credentials, browsers take no `*`: every page could act \
                                   as its visitor";
                    self.error("conflict", place, message.to_owned()).help =
                        Some("name the origins, or take `credentials` out".to_owned());
                } else if list == "prepared" && !any {
                    let message = "a prepared reply is the same for all origins";
                    self.error("conflict", place, message.to_owned()).help =
                        Some("write origins = [\"*\"], or serve it by [[files]]".to_owned());
                }
            }
            let of_files = Methods::of(&[Method::Get, Method::Head]);
            let beyond = |name: &&String| !of_files.contains(Method::from_bytes(name.as_bytes()));
            if list == "files"
                && let Some(name) = rules.methods.iter().find(beyond)
            {
                let place = self.value(&format!("{at}.methods"));
                let message = format!("files are not there for {name}");
                self.error("bad_value", place, message).help =
                    Some("GET and HEAD are answered".to_owned());
            }
        }
    }

    fn routes(&mut self) {
        let routes = self.route_list();
        for (index, route) in routes.iter().enumerate() {
            for earlier in &routes[..index] {
                let same_listener = |listener: &&Listener| {
                    listener.serves(route.name) && listener.serves(earlier.name)
                };
                if (route.path, route.is_prefix) == (earlier.path, earlier.is_prefix)
                    && route.shares_a_host(earlier)
                    && let Some(listener) = self.config.listeners.iter().find(same_listener)
                {
                    let place = self.value(&format!("{}.{}", route.at, route.key()));
                    let other = self.value(&format!("{}.{}", earlier.at, earlier.key()));
                    let message =
                        format!("{} is routed twice on listener \"{}\"", route.path, listener.name);
                    self.again("duplicate", place, other, message);
                } else if route.name == earlier.name {
                    let place = self.value(&format!("{}.name", route.at));
                    let other = self.value(&format!("{}.name", earlier.at));
                    let message = format!("two routes are named \"{}\"", route.name);
                    self.again("duplicate", place, other, message);
                    if let Some(finding) = self.findings.last_mut() {
                        finding.help = Some("give each a `name` of its own".to_owned());
                    }
                }
            }
        }
        self.route_names(&routes);
    }

    fn proxies(&mut self) {
        for (index, proxy) in self.config.proxies.iter().enumerate() {
            let at = self.element("proxy", index);
            if proxy.upstreams.is_empty() {
                let place = self.value(&format!("{at}.upstreams"));
                self.error("bad_value", place, format!("`{at}.upstreams` names none")).help =
                    Some("name at least one, such as \"127.0.0.1:9000\"".to_owned());
            }
            for (nth, upstream) in proxy.upstreams.iter().enumerate() {
                if let Some(first) = proxy.upstreams[..nth].iter().position(|it| it == upstream) {
                    let place = self.value(&format!("{at}.upstreams[{nth}]"));
                    let other = self.value(&format!("{at}.upstreams[{first}]"));
                    self.again("duplicate", place, other, format!("{upstream} is named twice"));
                }
            }
            let Some(cache) = &proxy.cache else { continue };
            if cache.max_object > cache.max_size {
                let place = self.value(&format!("{at}.cache.max_object"));
                let message = "a reply of `max_object` bytes does not fit into `max_size`";
                self.error("bad_value", place, message.to_owned()).help =
                    Some("make `max_size` several times as large".to_owned());
            }
            if cache.overrides && cache.ttl.is_zero() && cache.stale.is_zero() {
                let place = self.value(&format!("{at}.cache.override"));
                let message = "with `override`, nothing is kept without `ttl` or `stale`";
                self.error("bad_value", place, message.to_owned()).help =
                    Some("say how long: ttl = \"1s\"".to_owned());
            }
        }
    }

    fn route_names(&mut self, routes: &[Route<'_>]) {
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let at = self.element("listener", index);
            for (nth, name) in listener.routes.iter().flatten().enumerate() {
                if routes.iter().any(|route| route.name == name) {
                    continue;
                }
                let place = self.value(&format!("{at}.routes[{nth}]"));
                let names = || routes.iter().map(|route| route.name);
                let help = match suggest::nearest(name, names()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None if routes.is_empty() => "there is no route".to_owned(),
                    None => format!("there are: {}", suggest::list(names())),
                };
                self.error("unknown_route", place, format!("there is no route \"{name}\"")).help =
                    Some(help);
            }
            let serves = routes.iter().any(|route| listener.serves(route.name));
            if listener.reply.is_none() && !serves {
                self.warn(
                    self.value(&format!("{at}.address")),
                    &format!("listener \"{}\" has no route: it answers 404 to all", listener.name),
                    "add [[prepared]], or `reply` for one answer to everything",
                );
            }
        }
        for route in routes {
            if !self.config.listeners.iter().any(|listener| listener.serves(route.name)) {
                self.warn(
                    self.value(&format!("{}.{}", route.at, route.key())),
                    &format!("route \"{}\" is on no listener", route.name),
                    "name it in the `routes` of one",
                );
            }
        }
    }

    /// The tables that workers route by can be made; what they refuse and this has not found
    /// must not wait for the start.
    fn sites(&mut self) {
        let sound = |finding: &Finding| finding.severity != Severity::Error;
        let all = self.checked.findings.iter().chain(&self.findings);
        if all.into_iter().all(sound)
            && let Err(error) = Sites::new(self.config)
        {
            let place = self.key("prepared[0]");
            self.error("bad_value", place, error.to_string());
        }
    }

    fn unwise(&mut self) {
        let config = self.config;
        for (index, metrics) in config.metrics.iter().enumerate() {
            let public = config
                .listeners
                .iter()
                .find(|listener| listener.serves(&metrics.name) && !listener.address.is_local());
            if let Some(listener) = public.filter(|_| metrics.allow.is_empty()) {
                let at = self.element("metrics", index);
                self.warn(
                    self.key(&at),
                    &format!("everybody who reaches {} may read the metrics", listener.address),
                    "say who may: allow = [\"127.0.0.0/8\", \"::1\"]",
                );
            }
        }
        if config.admin.as_ref().is_some_and(|admin| !admin.listen.is_local()) {
            self.warn(
                self.value("admin.listen"),
                "the admin pages can be reached from other machines",
                "listen on 127.0.0.1 or a unix socket, or keep others off by a firewall",
            );
        }
        if config.limits.header_timeout > Duration::from_secs(60) {
            self.warn(
                self.value("limits.header_timeout"),
                "a client may hold a connection for long with half a request",
                "10s is plenty for honest ones",
            );
        }
        if config.user.as_deref() == Some("root") || config.user.as_deref() == Some("0") {
            self.warn(
                self.value("user"),
                "workers would keep root's rights",
                "name an ordinary user: nothing in a worker needs root",
            );
        }
    }
}

/// Whether two addresses cannot both be listened on.
fn clash(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => one == other && one.port() != 0,
        _ => one == other,
    }
}

/// Why a reply that goes out before the request was read would be wrong for some, and the mend.
fn unsound(reply: &Reply) -> Option<(&'static str, &'static str)> {
    let has = |name: &str| reply.headers.iter().any(|(header, _)| header == name);
    match reply.status {
        206 => Some(("it answers a Range with a part of a body", "use 204 or 200")),
        304 => Some(("it answers a conditional request only", "use 204 or 200")),
        301 | 302 | 303 | 307 | 308 if !has("location") => {
            Some(("a redirection says where to", "add headers = { location = \"…\" }"))
        }
        401 if !has("www-authenticate") => {
            Some(("it names how to authenticate", "add headers = { www-authenticate = \"…\" }"))
        }
        405 if !has("allow") => {
            Some(("it names the methods that are allowed", "add headers = { allow = \"…\" }"))
        }
        407 => Some(("it is a proxy's answer", "use 403")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_would_be_wrong_for_some_requests() {
        for (status, header, sound) in [
            (200, "", true),
            (204, "", true),
            (503, "retry-after", true),
            (308, "location", true),
            (308, "", false),
            (304, "", false),
            (206, "", false),
            (405, "", false),
            (405, "allow", true),
            (401, "", false),
            (407, "", false),
        ] {
            let headers = vec![(header.to_owned(), "x".to_owned())];
            let why = unsound(&Reply { status, headers });
            assert_eq!(why.is_none(), sound, "{status} {header}: {why:?}");
        }
    }
}
