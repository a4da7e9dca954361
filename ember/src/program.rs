//! An app that is put together: what the daemon serves.

use std::fmt;
use std::sync::Arc;

use ember_http::{Method, Methods};

use crate::context::Shared;
use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::hooks::Hooks;
use crate::prepared::Prepared;
use crate::table::{Answer, Declared, Wrap};
use crate::testing;

/// An app that is put together.
#[derive(Debug, Default)]
pub struct Program {
    routes: Vec<Route>,
    hooks: Hooks,
}

/// One route of a [`Program`].
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name, in metrics too.
    pub name: String,
    /// The pattern of its path.
    pub pattern: String,
    /// The hosts that it is for; all if there is none.
    pub hosts: Vec<String>,
    /// The longest body that it takes in bytes; the config's limit if there is none.
    pub body_bytes_max: Option<u64>,
    /// What answers.
    pub kind: RouteKind,
}

/// What answers a route.
#[derive(Clone)]
pub enum RouteKind {
    /// A rendered reply.
    Prepared(Prepared),
    /// A handler for each set of methods.
    Handlers(Vec<(Methods, Handler)>),
}

impl Program {
    pub(crate) fn new(
        declared: Vec<Declared>,
        near: &[Wrap],
        outside: &[Wrap],
        shared: Arc<Shared>,
        mut hooks: Hooks,
    ) -> Result<Program> {
        hooks.set_shared(&shared);
        let mut routes = Vec::new();
        for route in declared {
            let Declared { pattern, name, hosts, body_bytes_max, entries } = route;
            let name = name.unwrap_or_else(|| pattern.clone());
            let mut handlers = Vec::new();
            let declared = |kind| Route {
                name: name.clone(),
                pattern: pattern.clone(),
                hosts: hosts.clone(),
                body_bytes_max,
                kind,
            };
            for entry in entries {
                let methods = entry.methods;
                match entry.assemble(near) {
                    Answer::Prepared(reply) => {
                        routes.push(declared(RouteKind::Prepared(reply)));
                    }
                    Answer::Once(handler) => {
                        let reply = once(&pattern, handler.within(&shared))?;
                        routes.push(declared(RouteKind::Prepared(reply)));
                    }
                    Answer::Handler(handler) => {
                        let handler = outside.iter().fold(handler, |handler, wrap| wrap(handler));
                        handlers.push((methods, handler.within(&shared)));
                    }
                }
            }
            if !handlers.is_empty() {
                routes.push(declared(RouteKind::Handlers(handlers)));
            }
        }
        Ok(Program { routes, hooks })
    }

    /// The routes in the order of their declaration.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// What runs when the server starts and stops.
    #[must_use]
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }
}

/// The reply of a handler that is called once.
fn once(pattern: &str, handler: Handler) -> Result<Prepared> {
    let wrong = |what: String| Error::new(500, format!("the route {pattern} to prepare: {what}"));
    if pattern.contains('{') {
        return Err(wrong("its pattern has parameters".into()));
    }
    let route = Route {
        name: pattern.to_owned(),
        pattern: pattern.to_owned(),
        hosts: Vec::new(),
        body_bytes_max: None,
        kind: RouteKind::Handlers(vec![(Methods::of(&[Method::Get]), handler)]),
    };
    let client = testing::Client::of(Program { routes: vec![route], hooks: Hooks::default() });
    let (response, body) = client.response(pattern).map_err(|error| wrong(error.to_string()))?;
    if response.status() >= 400 {
        return Err(wrong(format!("it answers {}", response.status())));
    }
    Ok(Prepared::of_reply(&response, body))
}

impl fmt::Debug for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteKind::Prepared(_) => f.write_str("Prepared"),
            RouteKind::Handlers(handlers) => f.debug_list().entries(handlers).finish(),
        }
    }
}
