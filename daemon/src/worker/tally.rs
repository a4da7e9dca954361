//! What a thread counts, written to its page in shared memory.
//!
//! Prepared hits are gathered over a turn and written once before the kernel is entered: by then
//! no client has the reply yet, so whoever has seen a reply finds it counted.

use ember_affinity::WorkerPlan;
use ember_http::{Method, Persist, Reason, Refusal, RouteId, Site, VariantId};
use ember_metrics::{
    Chain, Counter, Gauge, Histogram, Key, Method as MethodLabel, NameId, Names, Page, PathKind,
    SendResult,
};
use ember_uring::{Op, Outcome, Stats};
use nix::time::{ClockId, clock_gettime};

use super::desk::About;
use super::replies::Fallthrough;
use super::site::Sites;
use crate::boot::ADMIN_LISTENER;
use crate::proxy::{self, Note};

/// The `route` label of requests that no route answers.
const UNMATCHED: &str = "unmatched";

/// Which request of a listener with one reply was answered, for its counters.
pub(crate) struct OneReplyKey {
    pub(crate) site: usize,
    pub(crate) route: RouteId,
    pub(crate) method: Option<Method>,
    pub(crate) status: u16,
}

/// Why a connection was closed; the name is the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The peer ended it between requests.
    Peer,
    /// The peer ended it in the middle of a request.
    Truncated,
    /// Our last reply ended it, since the request or a limit asked for that.
    Reply,
    /// A malformed request ended it.
    Refused,
    /// Nothing came for the idle timeout.
    Idle,
    /// A head or body was too slow, or a reply was not read.
    Timeout,
    /// The connection broke.
    Reset,
    /// The server is draining.
    Drain,
    /// The client went away while its request was being answered.
    Cancelled,
    /// A reply that had begun could not be completed.
    Aborted,
}

impl Closed {
    const ALL: [Closed; 10] = [
        Closed::Peer,
        Closed::Truncated,
        Closed::Reply,
        Closed::Refused,
        Closed::Idle,
        Closed::Timeout,
        Closed::Reset,
        Closed::Drain,
        Closed::Cancelled,
        Closed::Aborted,
    ];

    fn name(self) -> &'static str {
        match self {
            Closed::Peer => "peer",
            Closed::Truncated => "truncated",
            Closed::Reply => "reply",
            Closed::Refused => "refused",
            Closed::Idle => "idle",
            Closed::Timeout => "timeout",
            Closed::Reset => "reset",
            Closed::Drain => "drain",
            Closed::Cancelled => "cancelled",
            Closed::Aborted => "aborted",
        }
    }
}

/// What accepting waits for; the name is the `reason` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// A connection of this thread's share of the limit.
    Limit,
    /// A descriptor.
    Descriptors,
    /// Memory of the kernel's.
    Memory,
}

impl Pause {
    const ALL: [Pause; 3] = [Pause::Limit, Pause::Descriptors, Pause::Memory];

    fn name(self) -> &'static str {
        match self {
            Pause::Limit => "limit",
            Pause::Descriptors => "descriptors",
            Pause::Memory => "memory",
        }
    }
}

/// The `reason` label of a copied reply.
fn fallthrough_name(why: Fallthrough) -> &'static str {
    match why {
        Fallthrough::BlocksBusy => "blocks_busy",
        Fallthrough::RegionFull => "region_full",
    }
}

/// Gives numbers to all label values that workers use, so that they mean the same in all of them.
pub(super) fn intern<'a>(
    names: &mut Names,
    listeners_and_routes: impl IntoIterator<Item = &'a str>,
) {
    for name in listeners_and_routes {
        names.intern(name);
    }
    names.intern(UNMATCHED);
    names.intern(ADMIN_LISTENER);
    let reasons = Closed::ALL.iter().map(|r| r.name());
    let reasons = reasons.chain(Pause::ALL.map(Pause::name));
    let errors = Reason::ALL.iter().map(|r| r.name());
    let copies = [Fallthrough::BlocksBusy, Fallthrough::RegionFull].map(fallthrough_name);
    let ops = Op::ALL.iter().map(|op| op.name());
    let outcomes = Outcome::ALL.iter().map(|outcome| outcome.name());
    for name in reasons.chain(errors).chain(copies).chain(ops).chain(outcomes) {
        names.intern(name);
    }
}

/// One thread's counters.
pub(crate) struct Tally {
    page: Page,
    names: Names,
    worker: u16,
    cpu: Counter,
    cpu_ns: u64,
    in_flight: Gauge,
    under_way: u32,
    under_way_max: u32,
    listeners: Vec<ListenerCounters>,
    sites: Vec<SiteCounters>,
    hits: Vec<Hits>,
    driver: DriverCounters,
}

/// The series of one listener.
struct ListenerCounters {
    accepted: Counter,
    active: Gauge,
    /// Made when accepting waits for the first time.
    paused: Option<Gauge>,
    closed: [Option<Counter>; Closed::ALL.len()],
    name: NameId,
}

struct SiteCounters {
    variants: Vec<Option<VariantCounters>>,
    routes: Vec<NameId>,
    unmatched: NameId,
}

#[derive(Clone, Copy)]
struct VariantCounters {
    requests: Counter,
    bytes: Counter,
    duration: Histogram,
    sends: Counter,
    route: NameId,
    kind: PathKind,
}

/// Hits of one variant in this turn.
struct Hits {
    site: usize,
    variant: VariantId,
    method: Method,
    requests: u64,
    bytes: u64,
    sends: u64,
}

/// The driver's counters as far as they have been written.
struct DriverCounters {
    sqe: (Counter, u64),
    enter: (Counter, u64),
    overflow: (Counter, u64),
    exhausted: (Counter, u64),
    cqe: Vec<Option<(Counter, u64)>>,
}

impl Tally {
    /// Counters on `page` for these listeners, each by its name, and sites.
    pub(crate) fn new(
        mut page: Page,
        names: Names,
        worker: u16,
        plan: &WorkerPlan,
        sites: &Sites,
    ) -> Self {
        let mut listeners = Vec::new();
        for name in sites.listener_names() {
            let name = names.id(name);
            listeners.push(ListenerCounters {
                accepted: page.counter(Key::connections_accepted(name, worker)),
                active: page.gauge(Key::connections_active(name, worker)),
                paused: None,
                closed: [None; Closed::ALL.len()],
                name,
            });
        }
        let node = plan.node.and_then(|node| u16::try_from(node).ok());
        let driver = DriverCounters {
            sqe: (page.counter(Key::uring_sqe_submitted(worker)), 0),
            enter: (page.counter(Key::uring_enter(worker)), 0),
            overflow: (page.counter(Key::uring_cq_overflow(worker)), 0),
            exhausted: (page.counter(Key::uring_buffers_exhausted(worker)), 0),
            cqe: vec![None; Op::ALL.len() * Outcome::ALL.len()],
        };
        Tally {
            cpu: page.counter(Key::worker_cpu(worker, node)),
            cpu_ns: 0,
            in_flight: page.gauge(Key::http_requests_in_flight()),
            under_way: 0,
            under_way_max: u32::MAX,
            listeners,
            sites: sites.all().iter().map(|site| SiteCounters::new(site, &names)).collect(),
            hits: Vec::new(),
            driver,
            page,
            names,
            worker,
        }
    }

    /// A connection came in.
    pub(crate) fn accepted(&mut self, listener: usize) {
        let counters = &self.listeners[listener];
        self.page.add(counters.accepted, 1);
        self.page.up(counters.active);
    }

    /// A connection is closed.
    pub(crate) fn closed(&mut self, listener: usize, reason: Closed) {
        let counters = &mut self.listeners[listener];
        self.page.down(counters.active);
        let place = &mut counters.closed[reason as usize];
        let counter = *place.get_or_insert_with(|| {
            let reason = self.names.id(reason.name());
            self.page.counter(Key::connections_closed(counters.name, self.worker, reason))
        });
        self.page.add(counter, 1);
    }

    /// Accepting on a listener waits.
    pub(crate) fn paused(&mut self, listener: usize, why: Pause) {
        let counters = &mut self.listeners[listener];
        let gauge = *counters.paused.get_or_insert_with(|| {
            self.page.gauge(Key::connections_paused(counters.name, self.worker))
        });
        self.page.set(gauge, 1);
        let reason = self.names.id(why.name());
        let key = Key::connections_pauses(counters.name, self.worker, reason);
        let counter = self.page.counter(key);
        self.page.add(counter, 1);
    }

    /// It goes on.
    pub(crate) fn resumed(&mut self, listener: usize) {
        if let Some(gauge) = self.listeners[listener].paused {
            self.page.set(gauge, 0);
        }
    }

    /// `count` prepared replies of together `bytes` bytes are about to go out as one send.
    #[inline]
    pub(crate) fn hit(
        &mut self,
        site: usize,
        (variant, method): (VariantId, Method),
        count: u32,
        bytes: usize,
    ) {
        let (count, bytes) = (u64::from(count), bytes as u64);
        if let Some(last) = self.hits.last_mut()
            && last.variant == variant
            && last.method == method
            && last.site == site
        {
            last.requests += count;
            last.bytes += bytes;
            last.sends += 1;
        } else {
            self.hits.push(Hits { site, variant, method, requests: count, bytes, sends: 1 });
        }
    }

    /// Writes the hits of this turn, which took so long from the reading of the request's
    /// completion to here, where the reply is handed to the kernel.
    #[inline]
    pub(crate) fn write_hits(&mut self, sites: &Sites, elapsed_ns: u64) {
        for hits in self.hits.drain(..) {
            let place = &mut self.sites[hits.site];
            let counters = match place.variants[hits.variant.index()] {
                Some(counters) => counters,
                None => {
                    place.variant(&mut self.page, sites.all()[hits.site].as_ref(), hits.variant)
                }
            };
            let rendered = sites.all()[hits.site].variant(hits.variant);
            let requests = if rendered.method() == hits.method {
                counters.requests
            } else {
                // A reply to any method, which was rendered once.
                let (method, status) = (label(hits.method), rendered.status());
                self.page.counter(Key::http_requests(counters.route, method, status, counters.kind))
            };
            self.page.add(requests, hits.requests);
            self.page.add(counters.bytes, hits.bytes);
            self.page.add(counters.sends, hits.sends);
            self.page.observe_many(counters.duration, elapsed_ns, hits.requests);
        }
    }

    /// Whether hits wait to be written.
    #[inline]
    pub(crate) fn has_hits(&self) -> bool {
        !self.hits.is_empty()
    }

    /// A linked pair or last words broke before the reply had gone out.
    pub(crate) fn send_failed(&mut self, site: usize, route: Option<RouteId>, chain: Chain) {
        let name = match route {
            Some(route) => self.sites[site].routes[route.index()],
            None => self.sites[site].unmatched,
        };
        let key = Key::prepared_sends(name, chain, SendResult::Failed);
        let counter = self.page.counter(key);
        self.page.add(counter, 1);
    }

    /// A handler's reply of `bytes` bytes goes out.
    pub(crate) fn replied(&mut self, about: &About, status: u16, bytes: u64, elapsed_ns: u64) {
        let name = self.sites[about.site].routes[about.route.index()];
        let method = label(about.method);
        self.count(name, method, status, about.kind, bytes as usize, elapsed_ns);
    }

    /// The protocol answered a request itself: of a route, where it is a part of a prepared reply.
    pub(crate) fn answered(&mut self, site: usize, answer: &ember_http::Answer, elapsed_ns: u64) {
        let (name, kind) = match answer.route {
            Some(route) => (self.sites[site].routes[route.index()], PathKind::Prepared),
            None => (self.names.id(UNMATCHED), PathKind::Error),
        };
        let (method, status) = (label(answer.method), answer.status);
        self.count(name, method, status, kind, answer.bytes.len(), elapsed_ns);
    }

    /// The protocol refused a request.
    pub(crate) fn refused(&mut self, refusal: &Refusal, bytes: usize, elapsed_ns: u64) {
        let name = self.names.id(UNMATCHED);
        let reason = refusal.reason;
        let status = reason.status();
        let method = refusal.method.map_or(MethodLabel::Other, label);
        self.count(name, method, status, PathKind::Error, bytes, elapsed_ns);
        if reason.is_parse_error() {
            self.malformed(reason);
        }
    }

    /// A request could not be read.
    pub(crate) fn malformed(&mut self, reason: Reason) {
        let counter = self.page.counter(Key::parse_errors(self.names.id(reason.name())));
        self.page.add(counter, 1);
    }

    /// An armed reply of `bytes` bytes turned out to have answered a request. Nobody measured
    /// when.
    pub(crate) fn armed(&mut self, of: &OneReplyKey, bytes: usize) {
        let name = self.sites[of.site].routes[of.route.index()];
        let method = of.method.map_or(MethodLabel::Other, label);
        let keys = [
            (Key::http_requests(name, method, of.status, PathKind::Armed), 1),
            (Key::http_response_bytes(name), bytes as u64),
            (Key::prepared_sends(name, Chain::RecvReply, SendResult::Queued), 1),
        ];
        for (key, count) in keys {
            let counter = self.page.counter(key);
            self.page.add(counter, count);
        }
    }

    /// `count` replies of an armed listener, of together `bytes` bytes, go out after their requests,
    /// since those came together with another.
    pub(crate) fn answered_plainly(
        &mut self,
        of: &OneReplyKey,
        persist: Persist,
        count: u32,
        bytes: usize,
        elapsed_ns: u64,
    ) {
        let name = self.sites[of.site].routes[of.route.index()];
        let method = of.method.map_or(MethodLabel::Other, label);
        let chain = if persist.closes() { Chain::Last } else { Chain::ReplyRecv };
        let keys = [
            (Key::http_requests(name, method, of.status, PathKind::Prepared), u64::from(count)),
            (Key::http_response_bytes(name), bytes as u64),
            (Key::prepared_sends(name, chain, SendResult::Queued), 1),
        ];
        for (key, count) in keys {
            let counter = self.page.counter(key);
            self.page.add(counter, count);
        }
        let duration = self.page.histogram(Key::http_request_duration(name, PathKind::Prepared));
        self.page.observe_many(duration, elapsed_ns, u64::from(count));
    }

    /// A request went to a handler that answers later, or one of these was answered.
    pub(crate) fn in_flight(&mut self, more: bool) {
        if more {
            self.page.up(self.in_flight);
            self.under_way += 1;
        } else {
            self.page.down(self.in_flight);
            self.under_way -= 1;
        }
    }

    /// Handlers may have so many requests at a time.
    pub(crate) fn limit_in_flight(&mut self, under_way_max: u32) {
        self.under_way_max = under_way_max;
    }

    /// Whether they have as many as they may.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.under_way >= self.under_way_max
    }

    /// A request was turned away for that.
    pub(crate) fn shed(&mut self, site: usize, route: RouteId) {
        let name = self.sites[site].routes[route.index()];
        let counter = self.page.counter(Key::http_requests_shed(name));
        self.page.add(counter, 1);
    }

    /// Lines of the access log were dropped.
    pub(crate) fn log_dropped(&mut self, count: u64) {
        if count > 0 {
            let counter = self.page.counter(Key::access_log_dropped(self.worker));
            self.page.add(counter, count);
        }
    }

    /// Replies had to be copied.
    pub(crate) fn fell_through(&mut self, why: Fallthrough, count: u64) {
        if count > 0 {
            let key = Key::prepared_fallthrough(self.names.id(fallthrough_name(why)));
            let counter = self.page.counter(key);
            self.page.add(counter, count);
        }
    }

    /// Writes what the thread's handlers have counted.
    pub(crate) fn write_notes(&mut self) {
        proxy::take_notes(|note| match note {
            Note::Count(key) => {
                let counter = self.page.counter(key);
                self.page.add(counter, 1);
            }
            Note::Set(key, value) => {
                let gauge = self.page.gauge(key);
                self.page.set(gauge, value);
            }
        });
        ember::cache::take_counts(|route, result, count| {
            let counter = self.page.counter(Key::cache_requests(self.names.id(route), result));
            self.page.add(counter, count);
        });
    }

    /// Writes what the driver has counted and the CPU time since the last call.
    pub(crate) fn write_driver(&mut self, stats: &Stats) {
        let driver = &mut self.driver;
        let now = [
            (&mut driver.sqe, stats.sqes_submitted),
            (&mut driver.enter, stats.enters),
            (&mut driver.overflow, stats.cq_overflows),
            (&mut driver.exhausted, stats.buffers_exhausted),
        ];
        for ((counter, written), value) in now {
            self.page.add(*counter, value - *written);
            *written = value;
        }
        for op in Op::ALL {
            for outcome in Outcome::ALL {
                let value = stats.cqe(op, outcome);
                if value == 0 {
                    continue;
                }
                let place = op as usize * Outcome::ALL.len() + outcome as usize;
                let (counter, written) = driver.cqe[place].get_or_insert_with(|| {
                    let (op, outcome) = (self.names.id(op.name()), self.names.id(outcome.name()));
                    (self.page.counter(Key::uring_cqe(self.worker, op, outcome)), 0)
                });
                self.page.add(*counter, value - *written);
                *written = value;
            }
        }
        if let Ok(time) = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
            let now_ns = time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64;
            self.page.add(self.cpu, now_ns.saturating_sub(self.cpu_ns));
            self.cpu_ns = now_ns;
        }
    }

    fn count(
        &mut self,
        route: NameId,
        method: MethodLabel,
        status: u16,
        kind: PathKind,
        bytes: usize,
        elapsed_ns: u64,
    ) {
        let requests = self.page.counter(Key::http_requests(route, method, status, kind));
        self.page.add(requests, 1);
        let sent = self.page.counter(Key::http_response_bytes(route));
        self.page.add(sent, bytes as u64);
        let duration = self.page.histogram(Key::http_request_duration(route, kind));
        self.page.observe(duration, elapsed_ns);
    }
}

impl SiteCounters {
    fn new(site: &Site, names: &Names) -> Self {
        let routes = site.routes().iter().map(|info| info.route.name.as_str());
        SiteCounters {
            variants: vec![None; site.variant_count()],
            routes: routes.map(|name| names.id(name)).collect(),
            unmatched: names.id(UNMATCHED),
        }
    }

    /// The series of a variant that is hit for the first time.
    #[cold]
    fn variant(&mut self, page: &mut Page, site: &Site, id: VariantId) -> VariantCounters {
        let variant = site.variant(id);
        let (name, kind) = match variant.route() {
            Some(route) => (self.routes[route.index()], PathKind::Prepared),
            None => (self.unmatched, PathKind::Error),
        };
        let (method, status) = (label(variant.method()), variant.status());
        let chain = if variant.persist().closes() { Chain::Last } else { Chain::ReplyRecv };
        let counters = VariantCounters {
            requests: page.counter(Key::http_requests(name, method, status, kind)),
            bytes: page.counter(Key::http_response_bytes(name)),
            duration: page.histogram(Key::http_request_duration(name, kind)),
            sends: page.counter(Key::prepared_sends(name, chain, SendResult::Queued)),
            route: name,
            kind,
        };
        self.variants[id.index()] = Some(counters);
        counters
    }
}

fn label(method: Method) -> MethodLabel {
    MethodLabel::from_token(method.as_str().as_bytes())
}
