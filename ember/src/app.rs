//! What a program serves.

use std::fmt;

use ember_http::{Method, Methods};

use crate::cache::RouteCache;
use crate::handler::{Handler, IntoHandler};
use crate::prepared::Prepared;

/// A list of routes.
#[derive(Clone, Debug, Default)]
pub struct App {
    routes: Vec<Route>,
}

/// One route of an [`App`].
#[derive(Clone, Debug)]
pub struct Route {
    /// The pattern of its path; also its name in metrics.
    pub pattern: String,
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

impl App {
    /// No routes.
    #[must_use]
    pub fn new() -> App {
        App::default()
    }

    /// A route that is rendered once.
    #[must_use]
    pub fn prepared(mut self, pattern: &str, reply: Prepared) -> App {
        self.routes.push(Route {
            pattern: pattern.to_owned(),
            body_bytes_max: None,
            kind: RouteKind::Prepared(reply),
        });
        self
    }

    /// A handler for GET and HEAD.
    #[must_use]
    pub fn get<M>(self, pattern: &str, handler: impl IntoHandler<M>) -> App {
        self.on(&[Method::Get], pattern, handler)
    }

    /// A handler for POST.
    #[must_use]
    pub fn post<M>(self, pattern: &str, handler: impl IntoHandler<M>) -> App {
        self.on(&[Method::Post], pattern, handler)
    }

    /// A handler for PUT.
    #[must_use]
    pub fn put<M>(self, pattern: &str, handler: impl IntoHandler<M>) -> App {
        self.on(&[Method::Put], pattern, handler)
    }

    /// A handler for PATCH.
    #[must_use]
    pub fn patch<M>(self, pattern: &str, handler: impl IntoHandler<M>) -> App {
        self.on(&[Method::Patch], pattern, handler)
    }

    /// A handler for DELETE.
    #[must_use]
    pub fn delete<M>(self, pattern: &str, handler: impl IntoHandler<M>) -> App {
        self.on(&[Method::Delete], pattern, handler)
    }

    /// A handler for these methods. Several calls with one pattern make one route.
    #[must_use]
    pub fn on<M>(mut self, methods: &[Method], pattern: &str, handler: impl IntoHandler<M>) -> App {
        let entry = (Methods::of(methods), handler.into_handler());
        let same = self.routes.iter_mut().find_map(|route| match &mut route.kind {
            RouteKind::Handlers(handlers) if route.pattern == pattern => Some(handlers),
            _ => None,
        });
        match same {
            Some(handlers) => handlers.push(entry),
            None => self.routes.push(Route {
                pattern: pattern.to_owned(),
                body_bytes_max: None,
                kind: RouteKind::Handlers(vec![entry]),
            }),
        }
        self
    }

    /// The longest body in bytes that the route added last takes; a longer one is answered 413.
    ///
    /// # Panics
    /// Where no route has been added yet.
    #[must_use]
    pub fn max_body(mut self, bytes: u64) -> App {
        self.routes.last_mut().expect("a route to limit").body_bytes_max = Some(bytes);
        self
    }

    /// Keeps replies of the route added last: of all its handlers, those for GET and HEAD are asked
    /// only where the cache has no answer.
    ///
    /// # Panics
    /// Where no route has been added yet, or that is a prepared one.
    #[must_use]
    pub fn cache(mut self, cache: impl RouteCache) -> App {
        let route = self.routes.last_mut().expect("a route whose replies to keep");
        let RouteKind::Handlers(handlers) = &mut route.kind else {
            panic!("{}: a prepared route needs no cache", route.pattern)
        };
        for (methods, handler) in handlers {
            if methods.contains(Method::Get) || methods.contains(Method::Head) {
                *handler = cache.wrap(handler.clone());
            }
        }
        self
    }

    /// The routes in the order of their adding.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

impl fmt::Debug for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteKind::Prepared(_) => f.write_str("Prepared"),
            RouteKind::Handlers(handlers) => f.debug_list().entries(handlers).finish(),
        }
    }
}
