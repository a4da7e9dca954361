//! The handlers behind the routes that are not prepared, as one worker's threads call them.

use std::sync::Arc;

use ember::{Error, IntoResponse as _, PeerAddr, Request, Response, Slot};
use ember_http::{HandlerId, Method, Methods};
use ember_metrics::{Format, Names, PathKind};
use ipnet::IpNet;

use super::scribe::{Scribe, wanted_format};
use super::site::{Handler, Sites};
use crate::proxy::Proxies;
use crate::rules::rate::Table;

/// What the handlers of the config work with.
pub(crate) struct Services {
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) scribe: Scribe,
    /// Where rates are counted.
    pub(crate) limits: Option<Arc<Table>>,
    pub(crate) names: Names,
}

/// The handlers of all sites, for all threads.
pub(crate) struct Functions {
    list: Vec<ember::Handler>,
    answers: Vec<Answers>,
}

/// How the requests of one route are answered.
pub(crate) enum Answers {
    /// At once: the process lives if it answers.
    Live,
    /// At once: ready until it drains.
    Ready,
    /// By a function.
    By {
        /// Which path in the server that is.
        kind: PathKind,
        /// Also when the limit of requests under way is reached.
        always: bool,
        /// The functions of each set of methods.
        functions: Vec<(Methods, FunctionId)>,
    },
}

/// A function by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FunctionId(u16);

/// The memory of one thread's calls.
pub(crate) struct Slots {
    free: Vec<Vec<Slot>>,
}

/// Slots kept of each function; more calls at a time than that get theirs anew.
const FREE_SLOTS_MAX: usize = 256;

impl Functions {
    /// The functions that these sites' routes need.
    pub(crate) fn new(sites: &Sites, services: &Services) -> Functions {
        let mut functions = Functions { list: Vec::new(), answers: Vec::new() };
        for (handler, guard) in sites.handlers() {
            let guarded = |inner: ember::Handler| match guard {
                Some((name, guard)) => {
                    let name = services.names.id(name);
                    guard.around(inner, services.limits.clone(), name)
                }
                None => inner,
            };
            let answers = match handler {
                Handler::Live => Answers::Live,
                Handler::Ready => Answers::Ready,
                Handler::Metrics { allow } => {
                    let metrics = metrics(services.scribe.clone(), allow.clone());
                    // Whoever looks why the server is full must be told; scrapes have their own limit.
                    functions.one(PathKind::Dynamic, true, metrics)
                }
                Handler::Files(handler) => {
                    functions.one(PathKind::Files, false, guarded(handler.clone()))
                }
                Handler::Proxy(at) => {
                    functions.one(PathKind::Proxy, false, guarded(services.proxies.handler(*at)))
                }
                Handler::Redirect(_, handler) => {
                    functions.one(PathKind::Dynamic, false, guarded(handler.clone()))
                }
                Handler::Preflight(handler) => {
                    functions.one(PathKind::Dynamic, false, handler.clone())
                }
                Handler::App(handlers) => {
                    let each = handlers.iter();
                    let each = each.map(|(of, handler)| (*of, functions.add(handler.clone())));
                    let functions = each.collect();
                    Answers::By { kind: PathKind::Dynamic, always: false, functions }
                }
            };
            functions.answers.push(answers);
        }
        functions
    }

    fn add(&mut self, function: ember::Handler) -> FunctionId {
        self.list.push(function);
        FunctionId(self.list.len() as u16 - 1)
    }

    fn one(&mut self, kind: PathKind, always: bool, function: ember::Handler) -> Answers {
        let function = self.add(function);
        Answers::By { kind, always, functions: vec![(Methods::ANY, function)] }
    }

    /// How the requests of a route are answered.
    pub(crate) fn of(&self, handler: HandlerId) -> &Answers {
        &self.answers[usize::from(handler.0)]
    }

    /// No call is under way yet.
    pub(crate) fn slots(&self) -> Slots {
        Slots { free: self.list.iter().map(|_| Vec::new()).collect() }
    }
}

impl Answers {
    /// The function for a method; HEAD is answered by that of GET.
    pub(crate) fn function(&self, method: Method) -> Option<(PathKind, FunctionId)> {
        let Answers::By { kind, functions, .. } = self else { return None };
        let of = |method: Method| functions.iter().find(|(of, _)| of.contains(method));
        let get = || of(Method::Get).filter(|_| method == Method::Head);
        of(method).or_else(get).map(|(_, function)| (*kind, *function))
    }
}

impl Slots {
    pub(crate) fn take(&mut self, functions: &Functions, id: FunctionId) -> Slot {
        let free = self.free[usize::from(id.0)].pop();
        free.unwrap_or_else(|| functions.list[usize::from(id.0)].slot())
    }

    /// Takes back a slot in which nothing runs any more.
    pub(crate) fn put(&mut self, id: FunctionId, slot: Slot) {
        let free = &mut self.free[usize::from(id.0)];
        if free.len() < FREE_SLOTS_MAX {
            free.push(slot);
        }
    }
}

/// The counters of the whole server, for clients of these networks; for all where there are none.
fn metrics(scribe: Scribe, allow: Vec<IpNet>) -> ember::Handler {
    ember::Handler::new(move |request: Request| {
        let (scribe, allow) = (scribe.clone(), allow.clone());
        async move {
            if !allow.is_empty() {
                match request.peer().await {
                    Ok(peer) if is_allowed(&allow, &peer) => {}
                    _ => return Response::text(403, "not for this address\n"),
                }
            }
            let format = wanted_format(&request.head());
            let Some(answer) = scribe.ask(format) else {
                let busy = Response::text(503, "too many scrapes at a time\n");
                return busy.header("Retry-After", "1");
            };
            match answer.await {
                Ok(text) => told(format, text),
                Err(_) => Error::new(500, "the metrics cannot be rendered").into_response(),
            }
        }
    })
}

fn is_allowed(allow: &[IpNet], peer: &PeerAddr) -> bool {
    match peer {
        // Who can open the socket's file may ask; its permissions say who that is.
        PeerAddr::Unix => true,
        PeerAddr::Inet(address) => {
            let address = address.ip().to_canonical();
            allow.iter().any(|net| net.contains(&address))
        }
    }
}

fn told(format: Format, text: Vec<u8>) -> Response {
    Response::new(200)
        .header("Content-Type", format.content_type())
        .header("Cache-Control", "no-store")
        .header("Vary", "Accept")
        .body(text)
}
