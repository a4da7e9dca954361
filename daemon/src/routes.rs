//! `emberd routes`: what is served, where, and how.

use std::borrow::Cow;
use std::fmt::Write as _;

use ember_http::{Method, Methods};
use serde::Serialize;

use crate::config::{Config, Prepared, Proxy};
use crate::rules::redirect;
use crate::worker::coding;

/// One route of a config.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Route<'a> {
    /// Its name in metrics.
    pub name: &'a str,
    /// What it matches; `*` for everything.
    pub path: Cow<'a, str>,
    /// The hosts that it is for; none: all.
    pub hosts: &'a [String],
    /// How it is answered, as in the label `path_kind`.
    pub kind: &'static str,
    /// The methods that it answers; none: all.
    pub methods: Vec<&'static str>,
    /// The names of the listeners that serve it.
    pub listeners: Vec<&'a str>,
    /// What it answers with, in a few words.
    pub answer: String,
}

/// All routes, in the order of the config.
pub fn of(config: &Config) -> Vec<Route<'_>> {
    let on = |name: &str| {
        let serving = config.listeners.iter().filter(|listener| listener.serves(name));
        serving.map(|listener| listener.name.as_str()).collect()
    };
    let prepared = config.prepared.iter().map(|route| Route {
        name: &route.name,
        path: Cow::Borrowed(&route.path),
        hosts: &route.hosts,
        kind: "prepared",
        methods: names(route.rules.methods(GET)),
        listeners: on(&route.name),
        answer: prepared_answer(route),
    });
    let metrics = config.metrics.iter().map(|route| Route {
        name: &route.name,
        path: Cow::Borrowed(&route.path),
        hosts: &route.hosts,
        kind: "dynamic",
        methods: names(GET),
        listeners: on(&route.name),
        answer: match route.allow.len() {
            0 => "metrics, to everybody".to_owned(),
            _ => {
                let nets: Vec<String> = route.allow.iter().map(ToString::to_string).collect();
                format!("metrics, to {}", nets.join(" "))
            }
        },
    });
    let files = config.files.iter().map(|route| Route {
        name: &route.name,
        path: match route.route() {
            (path, false) => path.into(),
            (prefix, true) => format!("{}/*", prefix.trim_end_matches('/')).into(),
        },
        hosts: &route.hosts,
        kind: "files",
        methods: names(route.rules.methods(GET)),
        listeners: on(&route.name),
        answer: route.source().display().to_string(),
    });
    let proxies = config.proxies.iter().map(|route| Route {
        name: &route.name,
        path: format!("{}/*", route.prefix.trim_end_matches('/')).into(),
        hosts: &route.hosts,
        kind: "proxy",
        methods: names(route.rules.methods(Methods::ANY)),
        listeners: on(&route.name),
        answer: passed_on(route),
    });
    let redirects = config.redirects.iter().map(|route| Route {
        name: &route.name,
        path: Cow::Borrowed(&route.path),
        hosts: &route.hosts,
        kind: if redirect::prepared(route).is_some() { "prepared" } else { "dynamic" },
        methods: names(route.rules.methods(Methods::ANY)),
        listeners: on(&route.name),
        answer: format!("{} to {}", route.status, route.to),
    });
    let armed = config.listeners.iter().filter_map(|listener| {
        let reply = listener.reply.as_ref()?;
        Some(Route {
            name: &listener.name,
            path: Cow::Borrowed("*"),
            hosts: &[],
            kind: "armed",
            methods: Vec::new(),
            listeners: vec![&listener.name],
            answer: format!("{} without body", reply.status),
        })
    });
    prepared.chain(metrics).chain(files).chain(proxies).chain(redirects).chain(armed).collect()
}

const GET: Methods = Methods::of(&[Method::Get, Method::Head]);

/// The names of methods; none for all.
fn names(methods: Methods) -> Vec<&'static str> {
    let standard = Method::STANDARD.into_iter().filter(|method| methods.contains(*method));
    if methods == Methods::ANY { Vec::new() } else { standard.map(Method::as_str).collect() }
}

/// Where a proxy passes requests on to.
pub(crate) fn passed_on(proxy: &Proxy) -> String {
    let upstreams: Vec<String> = proxy.upstreams.iter().map(ToString::to_string).collect();
    let cached = if proxy.cache.is_some() { ", cached" } else { "" };
    format!("to {}{cached}", upstreams.join(" "))
}

fn prepared_answer(route: &Prepared) -> String {
    let bytes = route.body.0.len();
    let mut answer = format!("{} {}, {bytes} bytes", route.status, route.content_type);
    for (encoding, bytes) in &route.coded {
        let name = coding(*encoding).as_str();
        let _ = write!(answer, ", {name} {}", bytes.0.len());
    }
    answer
}

/// As a table for people.
pub fn human(config: &Config) -> String {
    let routes = of(config);
    let header = ["PATH", "KIND", "METHODS", "NAME", "LISTENERS", "ANSWER"].map(str::to_owned);
    let rows = routes.iter().map(|route| {
        let methods = if route.methods.is_empty() { "all".into() } else { route.methods.join(",") };
        let listeners =
            if route.listeners.is_empty() { "none".into() } else { route.listeners.join(",") };
        [
            match route.hosts {
                [] => route.path.clone().into(),
                hosts => format!("{} on {}", route.path, hosts.join(",")),
            },
            route.kind.into(),
            methods,
            route.name.into(),
            listeners,
            route.answer.clone(),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for listener in &config.listeners {
        let _ = writeln!(text, "listener {}: {}", listener.name, listener.address);
    }
    text
}

/// For programs.
pub fn json(config: &Config) -> String {
    format!("{}\n", serde_json::to_string_pretty(&of(config)).unwrap_or_default())
}
