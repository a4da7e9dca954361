//! Routes while they are being declared.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ember_http::{Method, Methods};

use crate::cache::RouteCache;
use crate::handler::{Handler, IntoHandler, Middleware, Next};
use crate::prepared::Prepared;
use crate::request::Request;
use crate::response::Response;

/// Puts something around a handler.
pub(crate) type Wrap = Arc<dyn Fn(Handler) -> Handler + Send + Sync>;

/// The routes of an app or a scope, and what is around all of them.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) routes: Vec<Declared>,
    around: Vec<Wrap>,
    answers_options: bool,
    body_bytes_max: Option<u64>,
    /// Of the route that was declared last.
    last: Option<(usize, usize)>,
}

/// One pattern.
pub(crate) struct Declared {
    pub(crate) pattern: String,
    pub(crate) name: Option<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) body_bytes_max: Option<u64>,
    pub(crate) entries: Vec<Entry>,
}

/// What some methods of it are answered by.
pub(crate) struct Entry {
    pub(crate) methods: Methods,
    pub(crate) answer: Answer,
    around: Vec<Wrap>,
}

pub(crate) enum Answer {
    Prepared(Prepared),
    /// A handler that is called once, at the start.
    Once(Handler),
    Handler(Handler),
}

/// Ends the work of what takes too long.
struct Timeout(Duration);

impl Middleware for Timeout {
    async fn handle(&self, request: Request, next: Next<'_>) -> Response {
        match crate::time::timeout(self.0, next.run(request)).await {
            Ok(response) => response,
            Err(elapsed) => {
                crate::response::IntoResponse::into_response(crate::Error::from(elapsed))
            }
        }
    }
}

pub(crate) fn wrap_by<M: Middleware>(middleware: M) -> Wrap {
    let middleware = Arc::new(middleware);
    Arc::new(move |handler: Handler| handler.wrap(Of(Arc::clone(&middleware))))
}

/// A middleware that several handlers have.
struct Of<M>(Arc<M>);

impl<M: Middleware> Middleware for Of<M> {
    fn handle(&self, request: Request, next: Next<'_>) -> impl Future<Output = Response> {
        self.0.handle(request, next)
    }
}

impl Table {
    pub(crate) fn prepared(&mut self, pattern: &str, reply: Prepared) {
        self.add(pattern, Methods::of(&[Method::Get]), Answer::Prepared(reply));
    }

    pub(crate) fn on<M>(
        &mut self,
        methods: &[Method],
        pattern: &str,
        handler: impl IntoHandler<M>,
    ) {
        self.add(pattern, Methods::of(methods), Answer::Handler(handler.into_handler()));
    }

    fn add(&mut self, pattern: &str, methods: Methods, answer: Answer) {
        let entry = Entry { methods, answer, around: Vec::new() };
        let same = |route: &Declared| route.pattern == pattern && route.hosts.is_empty();
        let at = self.routes.iter().position(same).unwrap_or_else(|| {
            self.routes.push(Declared {
                pattern: pattern.to_owned(),
                name: None,
                hosts: Vec::new(),
                body_bytes_max: None,
                entries: Vec::new(),
            });
            self.routes.len() - 1
        });
        self.routes[at].entries.push(entry);
        self.last = Some((at, self.routes[at].entries.len() - 1));
    }

    fn last(&mut self) -> (&mut Declared, usize) {
        let (route, entry) = self.last.expect("a route that was added before");
        (&mut self.routes[route], entry)
    }

    pub(crate) fn last_route(&mut self) -> &mut Declared {
        self.last().0
    }

    pub(crate) fn last_entry(&mut self) -> &mut Entry {
        let (route, entry) = self.last();
        &mut route.entries[entry]
    }

    pub(crate) fn wrap_all<M: Middleware>(&mut self, middleware: M) {
        self.answers_options |= middleware.answers_options();
        self.around.push(wrap_by(middleware));
    }

    pub(crate) fn timeout_all(&mut self, time: Duration) {
        self.around.push(wrap_by(Timeout(time)));
    }

    pub(crate) fn max_body_all(&mut self, bytes: u64) {
        self.body_bytes_max = Some(bytes);
    }

    /// Takes in the routes of a scope.
    pub(crate) fn absorb(&mut self, mut inner: Table, prefix: &str, hosts: &[String]) {
        inner.settle();
        for mut route in inner.routes {
            route.pattern = join(prefix, &route.pattern);
            if route.hosts.is_empty() {
                route.hosts = hosts.to_vec();
            }
            let same = |of: &&mut Declared| of.pattern == route.pattern && of.hosts == route.hosts;
            match self.routes.iter_mut().find(same) {
                Some(known) => {
                    known.entries.append(&mut route.entries);
                    known.name = known.name.take().or(route.name);
                    known.body_bytes_max = known.body_bytes_max.or(route.body_bytes_max);
                }
                None => self.routes.push(route),
            }
        }
        self.last = None;
    }

    /// Gives each route what is around all of them.
    pub(crate) fn settle(&mut self) {
        let around = std::mem::take(&mut self.around);
        let limit = self.body_bytes_max.take();
        let answers_options = std::mem::take(&mut self.answers_options);
        for route in &mut self.routes {
            route.body_bytes_max = route.body_bytes_max.or(limit);
            let methods = route.entries.iter().fold(Methods::NONE, |all, e| all.union(e.methods));
            if answers_options && !methods.contains(Method::Options) {
                route.entries.push(Entry::options(methods));
            }
            for entry in &mut route.entries {
                entry.around.extend(around.iter().cloned());
            }
        }
    }
}

impl Declared {
    /// Keeps replies next to the handlers: what checks a request stands outside, whenever it was
    /// declared.
    pub(crate) fn cache(&mut self, cache: &impl RouteCache) {
        for entry in &mut self.entries {
            let reads = [Method::Get, Method::Head];
            if let Answer::Handler(handler) = &mut entry.answer
                && reads.iter().any(|of| entry.methods.contains(*of))
            {
                *handler = cache.wrap(handler.clone());
            }
        }
    }
}

impl Entry {
    /// What is answered to OPTIONS where a middleware does not answer it.
    fn options(methods: Methods) -> Entry {
        let mut allow = String::from("OPTIONS");
        for method in
            [Method::Get, Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete]
        {
            if methods.contains(method) {
                allow = format!("{allow}, {}", method.as_str());
            }
        }
        let answer = move |_: &Request| Response::new(204).header("Allow", allow.clone());
        Entry {
            methods: Methods::of(&[Method::Options]),
            answer: Answer::Handler(answer.into_handler()),
            around: Vec::new(),
        }
    }

    pub(crate) fn wrap(&mut self, middleware: impl Middleware) {
        self.around.push(wrap_by(middleware));
    }

    pub(crate) fn timeout(&mut self, time: Duration) {
        self.around.push(wrap_by(Timeout(time)));
    }

    pub(crate) fn prepare(&mut self) {
        let nothing = Answer::Prepared(Prepared::text(""));
        self.answer = match std::mem::replace(&mut self.answer, nothing) {
            Answer::Handler(handler) => Answer::Once(handler),
            prepared => prepared,
        };
    }

    /// The whole handler, with `hooks` inside of what is around it.
    pub(crate) fn assemble(self, hooks: &[Wrap]) -> Answer {
        let has_work = !self.around.is_empty();
        let handler = match self.answer {
            Answer::Prepared(reply) if has_work => reply.into_handler(),
            Answer::Handler(handler) => handler,
            other => return other,
        };
        let wraps = hooks.iter().chain(&self.around);
        Answer::Handler(wraps.fold(handler, |handler, wrap| wrap(handler)))
    }
}

/// A scope's prefix and a pattern in it.
fn join(prefix: &str, pattern: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    match pattern {
        "" | "/" if !prefix.is_empty() => prefix.to_owned(),
        _ if pattern.starts_with('/') => format!("{prefix}{pattern}"),
        _ => format!("{prefix}/{pattern}"),
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|route| &route.pattern)).finish()
    }
}
