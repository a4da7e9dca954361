//! Routes as they are declared, and what is wrong with them.

use std::fmt;

use crate::method::Methods;
use crate::router::PatternError;

/// The number of a route, in the order in which the routes were added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u16);

impl RouteId {
    /// As an index into a table of routes.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What the site's maker knows a dynamic route's handler by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandlerId(pub u16);

/// What happens where a path has a route with, or without, a slash at its end only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlashStrategy {
    /// It is not found.
    #[default]
    Strict,
    /// 308 to the path that has the route.
    Redirect,
    /// The other path's route answers.
    Ignore,
}

/// A route, as it is declared.
#[derive(Clone, Debug)]
pub struct Route {
    /// What metrics call it.
    pub name: String,
    /// The pattern of its path (see [`Converter`](crate::Converter)).
    pub pattern: String,
    /// Whether the pattern is a prefix, which has no parameters: the path itself and all below it.
    pub is_prefix: bool,
    /// The hosts that it is for; all if there is none. `*.example.org` means every host below
    /// `example.org`.
    pub hosts: Vec<String>,
    /// The longest body that it takes; the site's limit if there is none.
    pub body_bytes_max: Option<u64>,
}

impl Route {
    /// A route for a pattern, on all hosts.
    #[must_use]
    pub fn new(name: &str, pattern: &str) -> Route {
        Route {
            name: name.to_owned(),
            pattern: pattern.to_owned(),
            is_prefix: false,
            hosts: Vec::new(),
            body_bytes_max: None,
        }
    }

    /// A route for a path and all below it, on all hosts.
    #[must_use]
    pub fn prefix(name: &str, path: &str) -> Route {
        Route { is_prefix: true, ..Route::new(name, path) }
    }

    /// For this host (too).
    #[must_use]
    pub fn host(mut self, host: &str) -> Route {
        self.hosts.push(host.to_owned());
        self
    }

    /// With a limit of its own for bodies.
    #[must_use]
    pub fn body_bytes_max(mut self, limit: u64) -> Route {
        self.body_bytes_max = Some(limit);
        self
    }
}

/// A route of a built site.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    /// The route as declared.
    pub route: Route,
    /// The methods that it answers, HEAD beside GET included.
    pub methods: Methods,
    /// The names of the path's parameters in order.
    pub params: Vec<String>,
    /// The longest body that it takes.
    pub body_bytes_max: u64,
    pub(crate) answers: Answers,
}

impl RouteInfo {
    /// Whether the route is answered without a handler.
    #[must_use]
    pub fn is_prepared(&self) -> bool {
        matches!(self.answers, Answers::Prepared(_))
    }
}

/// What answers a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// The prepared reply of this number.
    Prepared(u16),
    /// A handler.
    Handler(HandlerId),
}

/// Why a site cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SiteError {
    /// The pattern is not one.
    Pattern {
        /// The route's name.
        route: String,
        /// What is wrong.
        error: PatternError,
    },
    /// Two routes claim the same pattern, method and host.
    Clash {
        /// The later route's name.
        route: String,
        /// The earlier route's name.
        other: String,
    },
    /// A prepared route with a parameter or for a prefix other than `/`-and-all.
    PreparedPattern {
        /// The route's name.
        route: String,
    },
    /// A field that a prepared reply cannot have.
    Field {
        /// The route's name.
        route: String,
        /// The field's name.
        field: String,
    },
    /// A status that is not between 200 and 599, or a body with one that has none.
    Status {
        /// The route's name.
        route: String,
        /// The status.
        status: u16,
    },
    /// The host is not a name.
    Host {
        /// The route's name.
        route: String,
        /// The host.
        host: String,
    },
    /// More routes or prepared replies than their 16-bit numbers can tell apart.
    TooMany,
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SiteError::Pattern { route, error } => write!(f, "route `{route}`: {error}"),
            SiteError::Clash { route, other } => {
                write!(f, "route `{route}`: `{other}` has this path and method already")
            }
            SiteError::PreparedPattern { route } => {
                write!(f, "route `{route}`: a prepared reply has one path, without parameters")
            }
            SiteError::Field { route, field } => {
                write!(f, "route `{route}`: the field `{field}` is malformed or not yours to set")
            }
            SiteError::Status { route, status } => {
                write!(f, "route `{route}`: {status} is no status for this reply")
            }
            SiteError::Host { route, host } => {
                write!(f, "route `{route}`: `{host}` is not a host name")
            }
            SiteError::TooMany => f.write_str("more than 65,535 routes or rendered replies"),
        }
    }
}

impl std::error::Error for SiteError {}
