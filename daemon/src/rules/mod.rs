//! What is asked of requests before a route's handler sees them, and done to its replies: limits of
//! rate, methods, who may ask, pages of other origins, header fields.
//!
//! A [`Guard`] stands around a handler. It asks in the order of what a refusal costs: the method, the
//! rate, then who it is; expensive password hashes are verified by threads of their own
//! ([`verifier`]). Rates are counted in memory that all workers share ([`rate`]).

pub(crate) mod auth;
mod cors;
pub(crate) mod password;
pub(crate) mod rate;
pub(crate) mod redirect;
mod verifier;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ember::{Handler, Request, Response, Slot, Text};
use ember_http::{Method, Methods};
use ember_metrics::{Key, NameId};

use crate::config::{self, Config};
use crate::proxy::counted;
use auth::{Auth, Verdict};
use cors::{Asked, Cors};
use rate::{Limit, Table};

/// Slots of a guarded handler that a thread keeps for its next calls.
const SLOTS_MAX: usize = 256;

/// The rules of one route.
#[derive(Debug)]
pub(crate) struct Guard {
    methods: Methods,
    /// Whether it answers OPTIONS that are no preflights.
    answers_options: bool,
    limit: Option<Limit>,
    auth: Option<Arc<Auth>>,
    cors: Option<Cors>,
    /// Names in lower case.
    removed: Vec<String>,
    added: Vec<(Text, Text)>,
    /// Added where the reply has them not.
    defaults: Vec<(Text, Text)>,
}

thread_local! {
    /// Free slots of each guarded handler.
    static SLOTS: RefCell<Vec<Vec<Slot>>> = const { RefCell::new(Vec::new()) };
}

/// Starts what verifies passwords, where some are to be.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn start(config: &Config) -> io::Result<()> {
    let files = config.files.iter().map(|route| &route.rules);
    let proxies = config.proxies.iter().map(|route| &route.rules);
    let redirects = config.redirects.iter().map(|route| &route.rules);
    let mut all = files.chain(proxies).chain(redirects);
    let has_users =
        |rules: &config::Rules| rules.auth.as_ref().is_some_and(|it| !it.users.is_empty());
    if all.any(has_users) { verifier::start() } else { Ok(()) }
}

impl Guard {
    /// What these rules ask for of a route that answers these methods, if anything.
    pub(crate) fn new(route: &str, rules: &config::Rules, methods: Methods) -> Option<Guard> {
        if *rules == config::Rules::default() {
            return None;
        }
        let methods = rules.methods(methods);
        let text = |(name, value): &(String, String)| -> (Text, Text) {
            (name.clone().into(), value.clone().into())
        };
        Some(Guard {
            methods,
            answers_options: !methods.contains(Method::Options),
            limit: rules.rate_limit.as_ref().map(|limit| Limit::new(route, limit)),
            auth: rules.auth.as_ref().map(|auth| Arc::new(Auth::new(auth))),
            cors: rules.cors.as_ref().map(|cors| Cors::new(cors, methods)),
            removed: rules.remove_headers.clone(),
            added: rules.headers.iter().map(text).collect(),
            defaults: rules.defaults().iter().map(text).collect(),
        })
    }

    /// A handler that does this before and behind the inner one. `name` is the route's.
    pub(crate) fn around(
        self: &Arc<Self>,
        inner: Handler,
        table: Option<Arc<Table>>,
        name: NameId,
    ) -> Handler {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new((Arc::clone(self), inner, table));
        Handler::new(move |request: Request| {
            let shared = Arc::clone(&shared);
            async move {
                let (guard, inner, table) = &*shared;
                let asked = guard.cors.as_ref().map(|cors| cors.asked(&request));
                let refused = guard.refusal(&request, asked.as_ref(), table.as_deref(), name).await;
                let mut response = match refused {
                    Some(response) => response,
                    None => call(number, inner, request).await,
                };
                guard.finish(&mut response, asked.as_ref());
                response
            }
        })
    }

    /// The reply to a request that does not come to the handler.
    async fn refusal(
        &self,
        request: &Request,
        asked: Option<&Asked>,
        table: Option<&Table>,
        name: NameId,
    ) -> Option<Response> {
        if asked.is_some_and(Asked::is_preflight) {
            return Some(Response::new(204));
        }
        let method = request.method();
        if !self.methods.contains(method) {
            let mut served = self.methods;
            if self.answers_options {
                served = served.union(Methods::of(&[Method::Options]));
            }
            let answered = method == Method::Options;
            let response = if answered {
                Response::new(204)
            } else {
                Response::text(405, "405 Method Not Allowed\n")
            };
            return Some(response.header("Allow", served.allow()));
        }
        if let (Some(limit), Some(table)) = (&self.limit, table)
            && let Err(wait_s) = limit.check(table, request).await
        {
            counted::count(Key::rate_limited(name));
            let response = Response::text(429, "429 Too Many Requests\n");
            return Some(response.header("Retry-After", wait_s.to_string()));
        }
        let auth = self.auth.as_ref()?;
        match auth.check(request.header("authorization")).await {
            Verdict::Allowed => None,
            Verdict::Denied => Some(auth.challenge()),
            Verdict::Busy => {
                let response = Response::text(503, "503 too many passwords at a time\n");
                Some(response.header("Retry-After", "1"))
            }
        }
    }

    fn finish(&self, response: &mut Response, asked: Option<&Asked>) {
        let fields = response.headers_mut();
        if !self.removed.is_empty() {
            fields.retain(|(name, _)| !self.removed.iter().any(|it| name.eq_ignore_ascii_case(it)));
        }
        fields.extend(self.added.iter().cloned());
        for (name, value) in &self.defaults {
            if !fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                fields.push((name.clone(), value.clone()));
            }
        }
        if let (Some(cors), Some(asked)) = (&self.cors, asked) {
            cors.allow(fields, asked);
        }
    }

    /// What is asked of requests, in words, for `emberd explain`.
    pub(crate) fn words(&self) -> String {
        let mut words = Vec::new();
        if let Some(limit) = &self.limit {
            words.push(format!("at most {}", limit.words()));
        }
        if self.auth.is_some() {
            words.push("for those who say who they are: else 401".to_owned());
        }
        if self.cors.is_some() {
            words.push("preflights answered here".to_owned());
        }
        words.join("; ")
    }
}

/// For a prepared route whose preflights are answered beside it.
pub(crate) fn preflights(config: &config::Cors, methods: Methods) -> Handler {
    let cors = Arc::new(Cors::new(config, methods));
    Handler::new(move |request: Request| {
        let cors = Arc::clone(&cors);
        async move {
            let asked = cors.asked(&request);
            let mut response = Response::new(204);
            if !asked.is_preflight() {
                let served = methods.union(Methods::of(&[Method::Options]));
                response = response.header("Allow", served.allow());
            }
            cors.allow(response.headers_mut(), &asked);
            response
        }
    })
}

/// Calls a handler in memory that its last call has left.
async fn call(number: usize, inner: &Handler, request: Request) -> Response {
    let free = SLOTS.with_borrow_mut(|all| all.get_mut(number).and_then(Vec::pop));
    let mut slot = free.unwrap_or_else(|| inner.slot());
    slot.start(request);
    let response = poll_fn(|cx| slot.poll(cx)).await;
    SLOTS.with_borrow_mut(|all| {
        if all.len() <= number {
            all.resize_with(number + 1, Vec::new);
        }
        if all[number].len() < SLOTS_MAX {
            all[number].push(slot);
        }
    });
    response
}
