//! Requests passed on to upstream servers.
//!
//! A [`Proxy`] is one `[[proxy]]` of the config, shared by the threads of a worker: its upstreams
//! with what is known of their health and load, and its cache. Connections belong to threads
//! ([`pool`]). A request becomes a [`plan`] (what is sent), which is tried on one upstream after
//! another ([`attempt`]) until one replies; the reply's body then streams ([`reply`]).

mod attempt;
mod balance;
mod cache;
mod clock;
pub(crate) mod counted;
mod failure;
mod fetched;
mod health;
mod name_server;
mod plan;
mod pool;
mod probe;
mod reply;
mod resolve;
mod stored;
mod tunnel;
mod upload;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ember::{IntoResponse as _, Request, Response};
use ember_http::{Limits, Method};
use ember_metrics::{NameId, Names};

use crate::config::{self, Config};
use balance::{Candidate, Choice};
use cache::Cache;
pub(crate) use counted::{Note, take_notes};
use failure::Failure;
use health::{Health, HealthRules};
use plan::Plan;
use resolve::Addresses;

/// Bytes of the head of an upstream's reply.
const REPLY_HEAD_BYTES_MAX: usize = 60 << 10;

/// The proxies of a config, in its order.
#[derive(Debug, Default)]
pub(crate) struct Proxies {
    list: Vec<Arc<Proxy>>,
}

/// One `[[proxy]]`.
#[derive(Debug)]
pub(crate) struct Proxy {
    rules: config::Proxy,
    /// The prefix without a slash at its end.
    prefix: String,
    limits: Limits,
    upstreams: Vec<Upstream>,
    turn: AtomicU32,
    cache: Option<Cache>,
}

/// One server behind a proxy.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Its place among all upstreams of the process.
    place: usize,
    /// As the config has it.
    name: String,
    hash: u64,
    label: NameId,
    addresses: Arc<Addresses>,
    health: Health,
    /// Requests under way.
    load: AtomicU32,
}

/// A request under way to an upstream, which counts as its load.
#[derive(Debug)]
struct Loaded {
    proxy: Arc<Proxy>,
    at: usize,
}

impl Proxies {
    /// Those of a config. Looking up of names begins at once.
    pub(crate) fn new(config: &Config, names: &Names) -> Arc<Proxies> {
        let mut place = 0;
        let mut list = Vec::new();
        for rules in &config.proxies {
            let upstreams = rules.upstreams.iter().map(|upstream| {
                place += 1;
                Upstream::new(place - 1, upstream, rules, names)
            });
            list.push(Arc::new(Proxy {
                upstreams: upstreams.collect(),
                prefix: rules.prefix.trim_end_matches('/').to_owned(),
                limits: Limits { head_bytes_max: REPLY_HEAD_BYTES_MAX, ..Limits::default() },
                turn: AtomicU32::new(0),
                cache: rules.cache.as_ref().map(|cache| Cache::new(cache, names.id(&rules.name))),
                rules: rules.clone(),
            }));
        }
        let proxies = Proxies { list };
        resolve::keep_up(proxies.upstreams().map(|upstream| Arc::clone(&upstream.addresses)));
        Arc::new(proxies)
    }

    /// The handler of the proxy of this number.
    pub(crate) fn handler(&self, at: usize) -> ember::Handler {
        let proxy = Arc::clone(&self.list[at]);
        ember::Handler::new(move |request: Request| serve(Arc::clone(&proxy), request))
    }

    /// Starts what one thread of the worker does beside requests: the health checks. `tells` says
    /// whether this worker's word about upstreams goes into the metrics.
    pub(crate) fn start_checks(&self, tells: bool) {
        for proxy in &self.list {
            for at in 0..proxy.upstreams.len() {
                probe::start(Arc::clone(proxy), at, tells);
            }
        }
    }

    fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.list.iter().flat_map(|proxy| &proxy.upstreams)
    }
}

/// Answers a request.
async fn serve(proxy: Arc<Proxy>, request: Request) -> Response {
    if matches!(request.method(), Method::Connect | Method::Trace) {
        // The one asks for a tunnel to anywhere; the other would show what was added on the way.
        return ember::Error::new(405, "not passed on").into_response();
    }
    match &proxy.cache {
        Some(_) => cache::serve(proxy, request).await,
        None => pass_on(proxy, request).await,
    }
}

/// Answers a request without looking at a cache.
async fn pass_on(proxy: Arc<Proxy>, mut request: Request) -> Response {
    let plan = match Plan::of(&proxy, &mut request).await {
        Ok(plan) => plan,
        Err(error) => return error.into_response(),
    };
    drop(request);
    match attempt::fetch(&proxy, plan).await {
        Ok(fetched) => fetched.into_response(),
        Err(failure) => failure.into_response(),
    }
}

impl Proxy {
    /// The upstream to try next for a request of this hash; those of `tried` last.
    fn choose(self: &Arc<Self>, hash: Option<u64>, tried: u64) -> Result<Loaded, Failure> {
        let now_ms = clock::now_ms();
        let choice = match hash {
            Some(key) => Choice::Hash { key },
            None => {
                let turn = match self.upstreams.len() {
                    1 => 0,
                    _ => self.turn.fetch_add(1, Ordering::Relaxed),
                };
                Choice::LeastLoaded { turn: turn as usize }
            }
        };
        let candidates = self.upstreams.iter().enumerate().map(|(at, upstream)| Candidate {
            standing: upstream.health.standing(now_ms),
            load: upstream.load.load(Ordering::Relaxed),
            hash: upstream.hash,
            tried: at < 64 && tried & 1 << at != 0,
        });
        let at = balance::choose(candidates, choice).ok_or(Failure::NoneUp)?;
        self.upstreams[at].load.fetch_add(1, Ordering::Relaxed);
        Ok(Loaded { proxy: Arc::clone(self), at })
    }
}

impl Upstream {
    fn new(
        place: usize,
        upstream: &config::Upstream,
        rules: &config::Proxy,
        names: &Names,
    ) -> Upstream {
        let name = upstream.to_string();
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let check = rules.health.as_ref();
        let health = HealthRules {
            fails_max: rules.max_fails,
            out_ms: ms(rules.fail_time),
            rise: check.map_or(1, |check| check.rise),
            fall: check.map_or(1, |check| check.fall),
        };
        Upstream {
            place,
            hash: balance::hash(name.as_bytes()),
            label: names.id(&name),
            addresses: Addresses::of(upstream),
            health: Health::new(health),
            load: AtomicU32::new(0),
            name,
        }
    }
}

impl Loaded {
    fn upstream(&self) -> &Upstream {
        &self.proxy.upstreams[self.at]
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.upstream().load.fetch_sub(1, Ordering::Relaxed);
    }
}
