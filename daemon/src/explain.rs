//! `emberd explain METHOD URL`: which route answers, by which path, or why not. The request goes
//! through the same machine as one from the network.

use std::fmt::Write as _;
use std::net::IpAddr;

use ember_http::{
    Conn, Event, Input, Memo, Reason, Request, Site, SiteError, VariantId, normalise_path,
};
use serde::Serialize;

use crate::cli::{ConfigArgs, Failure, say};
use crate::config::{Address, Config, Loaded, Reply};
use crate::files;
use crate::rules::{Guard, redirect};
use crate::worker::{Handler, Sites};

/// What one listener makes of the request.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Answer {
    listener: String,
    address: String,
    /// The path that routes are matched with.
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    /// As in the label `path_kind`.
    path_kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    why: String,
}

/// Where a request goes to.
struct Target<'a> {
    /// Host and port of an absolute URL.
    authority: Option<&'a str>,
    /// In origin form.
    origin: &'a str,
}

/// Explains one request, on each listener that it may come to.
///
/// # Errors
/// A refused config, or a URL that no request can have.
pub fn run(args: &ConfigArgs, method: &str, url: &str, json: bool) -> Result<(), Failure> {
    let Loaded { config, .. } = args.load()?;
    let target = target(url).map_err(Failure::Other)?;
    let answers = answers(&config, method, &target).map_err(Failure::Other)?;
    if json {
        return say(&format!("{}\n", serde_json::to_string_pretty(&answers).unwrap_or_default()));
    }
    let mut text = String::new();
    for answer in &answers {
        render(&mut text, method, target.origin, answer);
    }
    say(&text)
}

fn render(text: &mut String, method: &str, origin: &str, answer: &Answer) {
    let Answer { listener, address, path, route, path_kind, status, why } = answer;
    let _ = writeln!(text, "{method} {origin} on listener {listener} ({address})");
    if path != origin {
        let _ = writeln!(text, "  path    {path}");
    }
    match route {
        Some(route) => {
            let _ = writeln!(text, "  route   {route} ({path_kind})");
        }
        None => text.push_str("  route   none\n"),
    }
    if let Some(status) = status {
        let _ = writeln!(text, "  status  {status}");
    }
    let _ = writeln!(text, "  {why}");
}

fn target(url: &str) -> Result<Target<'_>, String> {
    if url.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Err("a URL has no spaces or control characters: write %20".to_owned());
    }
    let (authority, rest) = match url.strip_prefix("http://") {
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        None if url.starts_with('/') => (None, url),
        None => return Err(format!("\"{url}\" is neither a path nor an http:// URL")),
    };
    // A client keeps the fragment to itself.
    let origin = rest.split('#').next().unwrap_or_default();
    Ok(Target { authority, origin: if origin.is_empty() { "/" } else { origin } })
}

fn answers(config: &Config, method: &str, target: &Target<'_>) -> Result<Vec<Answer>, String> {
    let sites = Sites::new(config).map_err(|error: SiteError| error.to_string())?;
    let mut answers = Vec::new();
    for (index, listener) in config.listeners.iter().enumerate() {
        if target.authority.is_some_and(|authority| !reaches(authority, &listener.address)) {
            continue;
        }
        let site = &sites.all()[sites.of_listener(index)];
        let host = target.authority.unwrap_or("localhost");
        let head = format!("{method} {} HTTP/1.1\r\nHost: {host}\r\n\r\n", target.origin);
        let path = target.origin.split('?').next().and_then(normalise_path);
        let mut answer = Answer {
            listener: listener.name.clone(),
            address: listener.address.to_string(),
            path: path.unwrap_or_else(|| "none".to_owned()),
            route: None,
            path_kind: "error",
            status: None,
            why: String::new(),
        };
        if let Some(reply) = &listener.reply {
            answer.armed(&listener.name, reply);
            answers.push(answer);
            continue;
        }
        let (mut conn, mut memo) = (Conn::new(0), Memo::new());
        match conn.next(site, &mut memo, &mut Input::new(head.as_bytes(), 0)) {
            Event::Prepared { variant, .. } => answer.prepared(site, variant),
            Event::Request(request) => answer.dynamic(config, &sites, site, &request),
            Event::Refuse(refusal) => {
                let status = site.variant(refusal.variant).status();
                answer.by_protocol(config, status, refusal.reason, b"");
            }
            Event::Answer(made) => {
                answer.by_protocol(config, made.status, made.reason, &made.bytes);
            }
            _ => return Err("this is no whole request".to_owned()),
        }
        answers.push(answer);
    }
    if answers.is_empty() {
        let addresses: Vec<String> =
            config.listeners.iter().map(|listener| listener.address.to_string()).collect();
        let authority = target.authority.unwrap_or_default();
        return Err(format!("no listener is at {authority}; there are: {}", addresses.join(", ")));
    }
    Ok(answers)
}

impl Answer {
    fn prepared(&mut self, site: &Site, variant: VariantId) {
        let variant = site.variant(variant);
        self.route = variant.route().map(|route| site.route(route).route.name.clone());
        self.path_kind = "prepared";
        self.status = Some(variant.status());
        self.why = format!(
            "{} bytes of head and {} of body, rendered at start; sent from pinned memory without \
             a handler",
            variant.head().len(),
            variant.body().len()
        );
    }

    fn armed(&mut self, listener: &str, reply: &Reply) {
        self.route = Some(listener.to_owned());
        self.path_kind = "armed";
        self.status = Some(reply.status);
        self.why =
            "this listener has one reply for whatever is asked, sent by the ring as soon as \
                    a request begins"
                .to_owned();
    }

    fn dynamic(&mut self, config: &Config, sites: &Sites, site: &Site, request: &Request<'_>) {
        self.route = Some(site.route(request.route).route.name.clone());
        self.path_kind = "dynamic";
        self.why = match sites.handler(request.handler) {
            Handler::Metrics { allow } if allow.is_empty() => {
                "answered by the dispatch loop: the metrics, to everybody".to_owned()
            }
            Handler::Metrics { allow } => {
                let nets: Vec<String> = allow.iter().map(ToString::to_string).collect();
                let nets = nets.join(" ");
                format!("answered by the dispatch loop: the metrics, to {nets}; 403 to others")
            }
            Handler::Files(_) => {
                self.path_kind = "files";
                let route =
                    config.files.iter().find(|route| Some(&route.name) == self.route.as_ref());
                route.map(|route| files::explain(route, request)).unwrap_or_default()
            }
            Handler::App(_) => "answered by a handler of the program".to_owned(),
            Handler::Proxy(at) => {
                self.path_kind = "proxy";
                format!("passed on {}", crate::routes::passed_on(&config.proxies[*at]))
            }
            Handler::Redirect(at, _) => redirect::explain(&config.redirects[*at], request),
            Handler::Preflight(_) => "answered by the dispatch loop: what pages of other origins \
                                      may do"
                .to_owned(),
            Handler::Live | Handler::Ready => "answered by the dispatch loop".to_owned(),
        };
        let guarded = sites.guard(request.handler).map(Guard::words).unwrap_or_default();
        if !guarded.is_empty() {
            self.why = format!("{}; {guarded}", self.why);
        }
    }

    /// The protocol has answered by itself.
    fn by_protocol(&mut self, config: &Config, status: u16, reason: Reason, reply: &[u8]) {
        self.status = Some(status);
        self.why = match status {
            404 => not_found(config, &self.listener, &self.path),
            308 if reason == Reason::Slash => {
                format!("redirected to {}: `slashes` of the listener", field(reply, "Location"))
            }
            405 => format!("the path is there for other methods: {}", field(reply, "Allow")),
            _ => format!("answered by the protocol: {}", reason.name().replace('_', " ")),
        };
    }
}

/// The value of a field in a reply of ours.
fn field(reply: &[u8], name: &str) -> String {
    let reply = String::from_utf8_lossy(reply);
    let value = reply.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    value.unwrap_or("none").to_owned()
}

/// Why no route answers a path on a listener.
fn not_found(config: &Config, listener: &str, path: &str) -> String {
    let prepared = config.prepared.iter().map(|route| (&route.path, &route.name, &route.hosts));
    let metrics = config.metrics.iter().map(|route| (&route.path, &route.name, &route.hosts));
    let files = config.files.iter().filter_map(|route| {
        let path = route.path.as_ref()?;
        Some((path, &route.name, &route.hosts))
    });
    let proxies = config.proxies.iter().map(|route| (&route.prefix, &route.name, &route.hosts));
    let redirects = config.redirects.iter().map(|route| (&route.path, &route.name, &route.hosts));
    let routes: Vec<_> =
        prepared.chain(metrics).chain(files).chain(proxies).chain(redirects).collect();
    let served =
        |name: &str| config.listeners.iter().any(|it| it.name == listener && it.serves(name));
    if let Some((_, name, hosts)) = routes.iter().find(|(known, ..)| *known == path) {
        if served(name) {
            return format!("route {name} has this path, for {}: `hosts`", hosts.join(" and "));
        }
        return format!(
            "route {name} has this path, and \"{listener}\" does not serve it: `routes`"
        );
    }
    let other = match path.strip_suffix('/') {
        Some(shorter) => shorter.to_owned(),
        None => format!("{path}/"),
    };
    if routes.iter().any(|(known, name, _)| **known == other && served(name)) {
        return format!("no route has this path, but {other}, and slashes count: `slashes`");
    }
    let paths = routes.iter().map(|(known, ..)| known.as_str());
    match crate::config::nearest(path, paths) {
        Some(near) => format!("no route has this path; the nearest is {near}"),
        None => "no route has this path".to_owned(),
    }
}

/// Whether a request to `authority` may come to a listener: the port must be its own, and an
/// address must be one that it listens on. What a name resolves to is not looked at.
fn reaches(authority: &str, address: &Address) -> bool {
    let Address::Tcp(listens) = address else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, Some(80)),
    };
    let host = host.trim_matches(['[', ']']);
    let ip: Option<IpAddr> = if host == "localhost" { None } else { host.parse().ok() };
    let heard = |ip: IpAddr| listens.ip() == ip || listens.ip().is_unspecified();
    port == Some(listens.port()) && ip.is_none_or(heard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn explain(set: &[&str], method: &str, url: &str) -> Vec<(Option<u16>, &'static str, String)> {
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        let config = load(&Sources { set, ..Sources::default() }).unwrap().config;
        let answers = answers(&config, method, &target(url).unwrap()).unwrap();
        answers.into_iter().map(|answer| (answer.status, answer.path_kind, answer.why)).collect()
    }

    #[test]
    fn each_way_of_being_answered() {
        for (method, url, status, kind, why) in [
            ("GET", "/hello", Some(200), "prepared", "13 of body"),
            ("HEAD", "/hello?x#y", Some(200), "prepared", "0 of body"),
            ("GET", "/x/../h%65llo", Some(200), "prepared", "13 of body"),
            ("GET", "/metrics", None, "dynamic", "127.0.0.0/8"),
            ("POST", "/hello", Some(405), "error", "GET, HEAD"),
            ("GET", "/helo", Some(404), "error", "the nearest is /hello"),
            ("GET", "/%zz", Some(400), "error", "path"),
            ("GET", "http://localhost:8080", Some(404), "error", "no route"),
        ] {
            let [answer] = &explain(&[], method, url)[..] else { panic!("{method} {url}") };
            assert_eq!((answer.0, answer.1), (status, kind), "{method} {url}");
            assert!(answer.2.contains(why), "{method} {url}: {}", answer.2);
        }
        let slashes = |how: &str| {
            let [(status, kind, why)] =
                &explain(&[&format!("listener.0.slashes={how}")], "GET", "/hello/")[..]
            else {
                panic!("one listener")
            };
            format!("{} {kind}: {why}", status.unwrap())
        };
        assert!(slashes("strict").starts_with("404 error: no route has this path, but /hello,"));
        assert!(slashes("ignore").starts_with("200 prepared: "));
        assert_eq!(
            slashes("redirect"),
            "308 error: redirected to /hello: `slashes` of the listener"
        );
        let hosts = ["prepared.0.hosts=a.example,*.b.example"];
        for (url, status) in [
            ("/health", 404),
            ("http://a.example:8080/health", 200),
            ("http://A.Example:8080/health", 200),
            ("http://b.example:8080/health", 404),
            ("http://x.b.example:8080/health", 200),
        ] {
            let [answer] = &explain(&hosts, "GET", url)[..] else { panic!("{url}") };
            assert_eq!(answer.0, Some(status), "{url}: {}", answer.2);
            let told = answer.2.contains("for a.example and *.b.example");
            assert_eq!(told, status == 404, "{url}: {}", answer.2);
        }
        let hidden = explain(&["listener.0.routes=/health"], "GET", "/hello");
        assert!(hidden[0].2.contains("does not serve it"), "{}", hidden[0].2);
        let one = explain(&["listener.0.reply.status=204"], "POST", "/any");
        assert_eq!((one[0].0, one[0].1), (Some(204), "armed"));
    }

    #[test]
    fn a_url_chooses_its_listeners() {
        let web = Address::Tcp("0.0.0.0:8080".parse().unwrap());
        let local = Address::Tcp("[::1]:80".parse().unwrap());
        for (authority, reaches_web, reaches_local) in [
            ("example.org:8080", true, false),
            ("10.0.0.1:8080", true, false),
            ("localhost", false, true),
            ("[::1]", false, true),
            ("[::2]:80", false, false),
            ("127.0.0.1:99999", false, false),
        ] {
            assert_eq!(reaches(authority, &web), reaches_web, "{authority}");
            assert_eq!(reaches(authority, &local), reaches_local, "{authority}");
        }
        assert!(target("ftp://x/").is_err() && target("/a b").is_err());
    }
}
