//! What a program serves.

use std::any::TypeId;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ember_http::Method;
use ipnet::IpNet;

use crate::cache::RouteCache;
use crate::context::Shared;
use crate::error::Result;
use crate::extract::{self, State, ThreadState};
use crate::handler::{IntoHandler, Middleware};
use crate::hooks::{AfterEndpoint, BeforeEndpoint, Hooks, Sent, ThreadInfo, WhenSent};
use crate::prepared::Prepared;
use crate::program::Program;
use crate::request::Request;
use crate::response::Response;
use crate::table::{Table, Wrap, wrap_by};

/// Routes, state and hooks: what `emberd::run` takes.
///
/// ```
/// use std::time::Duration;
///
/// use ember::testing::Client;
/// use ember::{App, Error, Path, Prepared, Request, Response, Scope, State};
///
/// struct Greetings(&'static str);
///
/// async fn greet(State(words): State<Greetings>, Path(name): Path<String>) -> String {
///     format!("{} {name}", words.0)
/// }
///
/// async fn elsewhere(request: &Request) -> ember::Result<String> {
///     request.url_for("greeting", &[("name", "a b")])
/// }
///
/// let app = App::new()
///     .state(Greetings("Hello,"))
///     .prepared("/health", Prepared::json(r#"{"status":"ok"}"#))
///     .get("/where", elsewhere)
///     .get("/version", async |_: &Request| env!("CARGO_PKG_VERSION")).prepare()
///     .scope(
///         Scope::new("/v1")
///             .get("/greet/{name}", greet).name("greeting")
///             .delete("/greet/{name}", async |_: &Request| Error::new(403, "stay"))
///             .timeout(Duration::from_secs(1))
///             .max_body_all(64 << 10),
///     );
/// let client = Client::new(app);
/// assert_eq!(client.get("/v1/greet/you").text(), "Hello, you");
/// assert_eq!(client.get("/where").text(), "/v1/greet/a%20b");
/// assert_eq!(client.send("DELETE", "/v1/greet/you", &[], "").status(), 403);
/// assert_eq!(client.send("PUT", "/v1/greet/you", &[], "").status(), 405);
/// assert_eq!(client.get("/version").text(), env!("CARGO_PKG_VERSION"));
/// ```
#[derive(Default)]
pub struct App {
    table: Table,
    shared: Shared,
    hooks: Hooks,
    before_endpoint: Vec<Wrap>,
    after_endpoint: Vec<Wrap>,
    after_sent: Vec<Wrap>,
}

/// Routes with a prefix, hosts, limits and middleware in common.
///
/// ```
/// use ember::testing::Client;
/// use ember::{App, Next, Request, Response, Scope};
///
/// async fn stamp(request: Request, next: Next<'_>) -> Response {
///     next.run(request).await.header("X-Stamp", "1")
/// }
///
/// let inner = Scope::new("/inner").get("/", async |_: &Request| "inner");
/// let api = Scope::new("/api").host("api.example.org").wrap_all(stamp).scope(inner);
/// let client = Client::new(App::new().scope(api));
/// let of = |host| client.send("GET", "/api/inner", &[("Host", host)], "");
/// assert_eq!(of("api.example.org").header("x-stamp"), Some("1"));
/// assert_eq!(of("example.org").status(), 404);
/// ```
#[derive(Debug)]
pub struct Scope {
    prefix: String,
    hosts: Vec<String>,
    table: Table,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident $method:ident)+) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name<M>(self, pattern: &str, handler: impl IntoHandler<M>) -> Self {
            self.on(&[Method::$method], pattern, handler)
        }
    )+};
}

macro_rules! routing {
    ($type:ident) => {
        impl $type {
            /// A route that is rendered once. Behind middleware it is answered by a handler, so
            /// that the middleware sees each request.
            #[must_use]
            pub fn prepared(mut self, pattern: &str, reply: Prepared) -> Self {
                self.table.prepared(pattern, reply);
                self
            }

            methods! {
                /// A handler for GET and HEAD.
                get Get
                /// A handler for POST.
                post Post
                /// A handler for PUT.
                put Put
                /// A handler for PATCH.
                patch Patch
                /// A handler for DELETE.
                delete Delete
                /// A handler for OPTIONS, which are answered with `Allow` otherwise.
                options Options
                /// A handler for HEAD alone, where that of GET does too much.
                head Head
            }

            /// A handler for these methods.
            #[must_use]
            pub fn on<M>(
                mut self,
                methods: &[Method],
                pattern: &str,
                handler: impl IntoHandler<M>,
            ) -> Self {
                self.table.on(methods, pattern, handler);
                self
            }

            /// The routes of a scope.
            #[must_use]
            pub fn scope(mut self, scope: Scope) -> Self {
                let Scope { prefix, hosts, table } = scope;
                self.table.absorb(table, &prefix, &hosts);
                self
            }

            /// The name by which [`Request::url_for`] finds the path of the route added last. It is
            /// also its name in metrics, which is the pattern otherwise.
            ///
            /// # Panics
            /// Where no route has been added yet; so do all that speak of the last one.
            #[must_use]
            pub fn name(mut self, name: &str) -> Self {
                self.table.last_route().name = Some(name.to_owned());
                self
            }

            /// The longest body in bytes that the path of the route added last takes, with any
            /// method; a longer one is answered 413.
            #[must_use]
            pub fn max_body(mut self, bytes: u64) -> Self {
                self.table.last_route().body_bytes_max = Some(bytes);
                self
            }

            /// How long the handler added last may take until its reply begins. Its work is ended
            /// then, and the client is told 503.
            #[must_use]
            pub fn timeout(mut self, time: Duration) -> Self {
                self.table.last_entry().timeout(time);
                self
            }

            /// A middleware around the handler added last, outside of those that it has already.
            #[must_use]
            pub fn wrap(mut self, middleware: impl Middleware) -> Self {
                self.table.last_entry().wrap(middleware);
                self
            }

            /// Keeps replies of the route added last: of all its handlers, those for GET and HEAD are
            /// asked only where the cache has no answer. The cache stands inside of all middleware,
            /// whenever that is added, so that what is kept is checked all the same.
            ///
            /// # Panics
            /// Where no route has been added yet.
            #[must_use]
            pub fn cache(mut self, cache: impl RouteCache) -> Self {
                self.table.last_route().cache(&cache);
                self
            }

            /// Calls the handler added last once, when the server starts, and answers with its
            /// reply as by a prepared route from then on. Its pattern has no parameters.
            #[must_use]
            pub fn prepare(mut self) -> Self {
                self.table.last_entry().prepare();
                self
            }

            /// A middleware around all routes, those added later too, outside of what each has and
            /// of those that are around all of them already.
            #[must_use]
            pub fn wrap_all(mut self, middleware: impl Middleware) -> Self {
                self.table.wrap_all(middleware);
                self
            }

            /// How long each handler may take; see [`Self::timeout`].
            #[must_use]
            pub fn timeout_all(mut self, time: Duration) -> Self {
                self.table.timeout_all(time);
                self
            }

            /// The longest body in bytes for routes without a limit of their own.
            #[must_use]
            pub fn max_body_all(mut self, bytes: u64) -> Self {
                self.table.max_body_all(bytes);
                self
            }
        }
    };
}

routing!(App);
routing!(Scope);

impl Scope {
    /// No routes, below this prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Scope {
        Scope { prefix: prefix.to_owned(), hosts: Vec::new(), table: Table::default() }
    }

    /// For this host (too): `example.org`, or `*.example.org` for every host below it.
    #[must_use]
    pub fn host(mut self, host: &str) -> Scope {
        self.hosts.push(host.to_owned());
        self
    }
}

impl App {
    /// No routes.
    #[must_use]
    pub fn new() -> App {
        App::default()
    }

    /// A state that handlers take as [`State`], one for all threads.
    #[must_use]
    pub fn state<T: Send + Sync + 'static>(mut self, state: T) -> App {
        let state = Arc::new(state);
        let make = move || -> Box<dyn std::any::Any> {
            Box::new(State(extract::Shared::new(Arc::clone(&state))))
        };
        self.shared.states.push((TypeId::of::<State<T>>(), Box::new(make)));
        self
    }

    /// A state that handlers take as [`ThreadState`], made for each thread when it is wanted first.
    /// It needs no locks, and may hold what cannot leave its thread, such as connections.
    #[must_use]
    pub fn thread_state<T: 'static>(mut self, make: impl Fn() -> T + Send + Sync + 'static) -> App {
        let make = move || -> Box<dyn std::any::Any> { Box::new(ThreadState(Rc::new(make()))) };
        self.shared.states.push((TypeId::of::<ThreadState<T>>(), Box::new(make)));
        self
    }

    /// The networks of proxies that are believed; see [`ClientAddr`](extract::ClientAddr).
    #[must_use]
    pub fn trusted_proxies(mut self, networks: impl IntoIterator<Item = IpNet>) -> App {
        self.shared.trusted.extend(networks);
        self
    }

    /// The path of a named route.
    ///
    /// # Errors
    /// When there is no such route, or a parameter of its pattern has no value.
    pub fn url_for(&self, name: &str, params: &[(&str, &str)]) -> Result<String> {
        let named = self.table.routes.iter();
        let names = named.filter_map(|r| Some((r.name.clone()?, r.pattern.clone()))).collect();
        Shared { names, ..Shared::default() }.url_for(name, params)
    }

    /// Runs on each thread before it accepts connections. A failure ends the start of the server.
    #[must_use]
    pub fn before_server_start<H>(mut self, hook: H) -> App
    where
        H: AsyncFn(ThreadInfo) -> Result<()> + Send + Sync + 'static,
    {
        self.hooks.add_before_start(hook);
        self
    }

    /// Runs on each thread once it accepts connections.
    #[must_use]
    pub fn after_server_start<H>(mut self, hook: H) -> App
    where
        H: AsyncFn(ThreadInfo) -> Result<()> + Send + Sync + 'static,
    {
        self.hooks.add_after_start(hook);
        self
    }

    /// Runs on each thread when its last connection is closed and it will accept no more.
    #[must_use]
    pub fn before_server_stop<H>(mut self, hook: H) -> App
    where
        H: AsyncFn(ThreadInfo) -> Result<()> + Send + Sync + 'static,
    {
        self.hooks.add_before_stop(hook);
        self
    }

    /// Runs before each handler, inside of the middleware; an error is the reply.
    #[must_use]
    pub fn before_endpoint<H>(mut self, hook: H) -> App
    where
        H: AsyncFn(&mut Request) -> Result<()> + Send + Sync + 'static,
    {
        self.before_endpoint.push(wrap_by(BeforeEndpoint(hook)));
        self
    }

    /// Runs after each handler, and may change its reply.
    #[must_use]
    pub fn after_endpoint<H>(mut self, hook: H) -> App
    where
        H: AsyncFn(&mut Response) + Send + Sync + 'static,
    {
        self.after_endpoint.push(wrap_by(AfterEndpoint(hook)));
        self
    }

    /// Is called when the reply of a handler has been handed to the kernel as a whole.
    #[must_use]
    pub fn after_response_sent<H>(mut self, hook: H) -> App
    where
        H: Fn(&Sent) + Send + Sync + 'static,
    {
        self.after_sent.push(wrap_by(WhenSent(Arc::new(hook))));
        self
    }

    /// Puts it together.
    ///
    /// # Errors
    /// When a handler that is to be prepared fails, or waits for what is not there yet.
    pub fn build(self) -> Result<Program> {
        let App { mut table, mut shared, hooks, before_endpoint, after_endpoint, after_sent } =
            self;
        table.settle();
        let named = table.routes.iter();
        shared.names = named.filter_map(|r| Some((r.name.clone()?, r.pattern.clone()))).collect();
        let near: Vec<Wrap> = before_endpoint.into_iter().chain(after_endpoint).collect();
        Program::new(table.routes, &near, &after_sent, Arc::new(shared), hooks)
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("routes", &self.table).finish_non_exhaustive()
    }
}
