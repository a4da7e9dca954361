//! The proxy's cache: replies to GET, kept by RFC 9111 as a shared cache or by the config's word.
//!
//! The storage is [`ember::cache`]: one per proxy and worker process, shared by its threads, so
//! that one request to an upstream serves all who ask a worker at the same time. A reply that is to
//! be kept is collected as a whole before anybody gets it; one that is larger than `max_object` is
//! streamed, and found not cacheable.
//!
//! The key is host, path and query. Where replies vary, the key leads to the names of the fields
//! that they vary by, and the values of these lead to the reply. The names come with a mark that
//! is part of the second key, so that forgetting the names forgets all variants.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ember::cache::{Found, Hit, Landing, Lead, Store, StoreLimits, Ttl};
use ember::{Error, IntoResponse as _, Request, Response};
use ember_http::Method;
use ember_http::caching::{CacheControl, invalidates, write_variant};
use ember_metrics::{CacheResult, Key, NameId};

use super::failure::Failure;
use super::fetched::Fetched;
use super::plan::{ForCache, Plan, path_for};
use super::stored::{Kept, Stored, Told};
use super::{Proxy, attempt, clock, counted, pass_on, stored};
use crate::config;

/// Look-ups for one request, before it goes its own way.
const ROUNDS_MAX: usize = 8;
/// How long the names that replies vary by are known.
const NAMES_TTL: Ttl = Ttl { fresh_ms: 365 * 24 * 3600 * 1000, stale_ms: 0, error_ms: 0 };

/// The cache of one proxy.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) rules: config::Cache,
    store: Arc<Store<Kept>>,
    label: NameId,
    marks: AtomicU64,
}

/// Where a request's reply is kept.
struct Place {
    base: Vec<u8>,
    /// The names that the base's replies vary by, as far as is known, and their mark.
    names: Option<(Vec<String>, u64)>,
}

impl Cache {
    pub(super) fn new(rules: &config::Cache, label: NameId) -> Cache {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let store = Store::new(StoreLimits {
            entries_max: rules.max_entries,
            bytes_max: bytes(rules.max_size),
            value_bytes_max: bytes(rules.max_object.min(rules.max_size)),
        });
        Cache { rules: rules.clone(), store, label, marks: AtomicU64::new(0) }
    }

    fn count(&self, result: CacheResult) {
        counted::count(Key::cache_requests(self.label, result));
    }

    /// Looks up what there is for a request, by its variant where replies vary.
    fn find(&self, place: &mut Place, request: &Request, now_ms: u64) -> Found<Kept> {
        let found = self.store.look_up(&place.base, now_ms);
        let Found::Fresh(Hit { value, .. }) = &found else { return found };
        let Kept::Varies { names, mark } = &**value else { return found };
        let key = variant_key(&place.base, names, *mark, request);
        place.names = Some((names.clone(), *mark));
        self.store.look_up(&key, now_ms)
    }

    /// What is fresh for a request, without any duty.
    fn peek(&self, place: &Place, request: &Request, now_ms: u64) -> Option<Hit<Kept>> {
        let hit = self.store.peek(&place.base, now_ms)?;
        let Kept::Varies { names, mark } = &*hit.value else { return Some(hit) };
        self.store.peek(&variant_key(&place.base, names, *mark, request), now_ms)
    }

    /// Keeps a reply that was fetched by a lead; where replies vary by more than was known, those
    /// who wait have to look again.
    fn keep(&self, lead: Lead<Kept>, place: &Place, request: &Request, reply: Kept, ttl: Ttl) {
        let now_ms = clock::now_ms();
        let bytes = reply.bytes();
        let mut names = reply.varies_by(&self.rules.vary);
        let known = place.names.as_ref();
        if let Some((known, _)) = known {
            names.retain(|name| !known.contains(name));
        }
        if names.is_empty() {
            return lead.store(Arc::new(reply), bytes, ttl, now_ms);
        }
        names.extend(known.iter().flat_map(|(known, _)| known.iter().cloned()));
        names.sort_unstable();
        let mark = self.marks.fetch_add(1, Ordering::Relaxed);
        let key = variant_key(&place.base, &names, mark, request);
        self.store.insert(&key, Arc::new(reply), bytes, ttl, now_ms);
        let names = Arc::new(Kept::Varies { names, mark });
        let bytes = names.bytes();
        match known {
            None => lead.store(names, bytes, NAMES_TTL, now_ms),
            Some(_) => self.store.insert(&place.base, names, bytes, NAMES_TTL, now_ms),
        }
    }
}

/// Answers a request to a proxy that has a cache.
pub(super) async fn serve(proxy: Arc<Proxy>, request: Request) -> Response {
    let Some(cache) = &proxy.cache else { return pass_on(proxy, request).await };
    let method = request.method();
    let place = Place { base: base_key(&proxy, &request), names: None };
    if !matches!(method, Method::Get | Method::Head) {
        let response = pass_on(Arc::clone(&proxy), request).await;
        if invalidates(method, response.status()) {
            cache.store.remove(&place.base);
        }
        return response;
    }
    let mut control = CacheControl::default();
    request.head().field_values("cache-control").for_each(|value| control.read(value));
    // A reply to a request with Authorization is nobody else's, and whether it may be given is for
    // the upstream to say.
    if ["authorization", "upgrade"].iter().any(|name| request.header(name).is_some()) {
        cache.count(CacheResult::Bypass);
        let response = pass_on(Arc::clone(&proxy), request).await;
        return response.header("Cache-Status", "emberd; fwd=bypass");
    }
    // A part is no whole.
    if request.header("range").is_some() || control.no_store || control.only_if_cached {
        return serve_apart(&proxy, cache, &place, request, control).await;
    }
    serve_shared(&proxy, cache, place, request).await
}

/// Answers a request from what is fresh, or passes it on without keeping anything.
async fn serve_apart(
    proxy: &Arc<Proxy>,
    cache: &Cache,
    place: &Place,
    request: Request,
    control: CacheControl,
) -> Response {
    if !control.no_store
        && let Some(hit) = cache.peek(place, &request, clock::now_ms())
        && let Kept::Reply(reply) = &*hit.value
    {
        cache.count(CacheResult::Hit);
        return reply.response(&request, Told::Hit { age_ms: hit.age_ms, fresh_ms: hit.fresh_ms });
    }
    cache.count(CacheResult::Bypass);
    if control.only_if_cached {
        // RFC 9111 section 5.2.1.7.
        return Error::new(504, "not in the cache").into_response();
    }
    let response = pass_on(Arc::clone(proxy), request).await;
    response.header("Cache-Status", "emberd; fwd=bypass")
}

async fn serve_shared(
    proxy: &Arc<Proxy>,
    cache: &Cache,
    mut place: Place,
    mut request: Request,
) -> Response {
    for _ in 0..ROUNDS_MAX {
        match cache.find(&mut place, &request, clock::now_ms()) {
            Found::Fresh(hit) => {
                let Kept::Reply(reply) = &*hit.value else { continue };
                cache.count(CacheResult::Hit);
                let told = Told::Hit { age_ms: hit.age_ms, fresh_ms: hit.fresh_ms };
                return reply.response(&request, told);
            }
            Found::Stale { hit, refresh } => {
                let Kept::Reply(reply) = &*hit.value else { continue };
                cache.count(CacheResult::Stale);
                let response = reply.response(&request, stale_as(&hit));
                if let Some(lead) = refresh {
                    let plan = plan_for(proxy, &mut request, &lead).await;
                    if let Ok(plan) = plan {
                        let proxy = Arc::clone(proxy);
                        drop(ember::spawn(async move {
                            drop(fetch(&proxy, plan, lead, &place, &request).await);
                        }));
                    }
                }
                return response;
            }
            Found::Lead(lead) => {
                cache.count(CacheResult::Miss);
                let plan = match plan_for(proxy, &mut request, &lead).await {
                    Ok(plan) => plan,
                    Err(error) => return error.into_response(),
                };
                return fetch(proxy, plan, lead, &place, &request).await;
            }
            Found::Wait(wait) if cache.rules.coalesce => match wait.await {
                Landing::Value(value) => {
                    let Kept::Reply(reply) = &*value else { continue };
                    cache.count(CacheResult::Coalesced);
                    return reply.response(&request, Told::Collapsed);
                }
                Landing::Pass => break,
                Landing::Gone => {}
            },
            Found::Wait(_) | Found::Pass => break,
        }
    }
    cache.count(CacheResult::Bypass);
    let response = pass_on(Arc::clone(proxy), request).await;
    response.header("Cache-Status", "emberd; fwd=miss")
}

async fn plan_for(
    proxy: &Arc<Proxy>,
    request: &mut Request,
    lead: &Lead<Kept>,
) -> Result<Plan, Error> {
    let previous = lead.previous().and_then(|previous| previous.hit.value.reply());
    let change = ForCache {
        whole: true,
        get: true,
        etag: previous.and_then(|reply| reply.etag.as_deref()).map(str::as_bytes),
        last_modified: previous.and_then(|reply| reply.modified.as_deref()).map(str::as_bytes),
    };
    Plan::with(proxy, request, change).await
}

/// Fetches a reply, keeps it if that may be, and answers with it.
async fn fetch(
    proxy: &Arc<Proxy>,
    plan: Plan,
    lead: Lead<Kept>,
    place: &Place,
    request: &Request,
) -> Response {
    let fetched = match attempt::fetch(proxy, plan).await {
        Ok(fetched) if is_failing(fetched.status) && usable(&lead).is_some() => {
            drop(fetched);
            return give_stale(lead, request);
        }
        Ok(fetched) => fetched,
        Err(Failure::Client(error)) => return error.into_response(),
        Err(_) if usable(&lead).is_some() => return give_stale(lead, request),
        Err(failure) => {
            // Those who wait are told the same, rather than trying one after another.
            let reply = Stored::of_failure(&failure);
            lead.share(Arc::new(Kept::Reply(reply)));
            return failure.into_response();
        }
    };
    if fetched.status == 304
        && let Some(reply) = lead.previous().and_then(|previous| previous.hit.value.reply())
    {
        let fresh = reply.refreshed(&fetched);
        return settle(proxy, lead, place, request, fetched.facts, fresh, Told::Revalidated);
    }
    collect(proxy, fetched, lead, place, request).await
}

/// Collects the body of a reply that may be kept; streams any other.
async fn collect(
    proxy: &Arc<Proxy>,
    mut fetched: Fetched,
    lead: Lead<Kept>,
    place: &Place,
    request: &Request,
) -> Response {
    let Some(cache) = &proxy.cache else { return fetched.into_response() };
    let pass_ms = cache.rules.pass_time.as_millis() as u64;
    let most = cache.rules.max_object;
    if lifetime(cache, request, &fetched).is_none() || fetched.length().is_some_and(|l| l > most) {
        if is_keepable_for_others(cache, request, &fetched) {
            drop(lead); // the next one's may be kept
        } else {
            lead.pass(pass_ms, clock::now_ms());
        }
        return fetched.into_response().header("Cache-Status", "emberd; fwd=miss");
    }
    let mut body = Vec::with_capacity(fetched.length().unwrap_or(0) as usize);
    loop {
        match fetched.next_bytes().await {
            None => break,
            Some(Ok(bytes)) => body.extend_from_slice(&bytes),
            Some(Err(_)) if usable(&lead).is_some() => return give_stale(lead, request),
            Some(Err(error)) => {
                let error = Error::new(502, format!("the reply broke off: {error}"));
                let reply = Stored::of_error(&error);
                lead.share(Arc::new(Kept::Reply(reply)));
                return error.into_response();
            }
        }
        if body.len() as u64 > most {
            lead.pass(pass_ms, clock::now_ms());
            let response = fetched.into_response_behind(body);
            return response.header("Cache-Status", "emberd; fwd=miss");
        }
    }
    let facts = fetched.facts;
    let reply = Stored::new(fetched, body);
    settle(proxy, lead, place, request, facts, reply, Told::Fetched)
}

/// Keeps a reply as long as it may be kept, and answers with it.
fn settle(
    proxy: &Proxy,
    lead: Lead<Kept>,
    place: &Place,
    request: &Request,
    facts: ember_http::caching::ReplyFacts,
    reply: Stored,
    told: Told,
) -> Response {
    let response = reply.response(request, told);
    let ttl = proxy.cache.as_ref().and_then(|cache| ttl(cache, request, reply.status, &facts));
    match (&proxy.cache, ttl) {
        (Some(cache), Some(ttl)) => cache.keep(lead, place, request, Kept::Reply(reply), ttl),
        _ => drop(lead),
    }
    response
}

fn lifetime(cache: &Cache, request: &Request, fetched: &Fetched) -> Option<Ttl> {
    ttl(cache, request, fetched.status, &fetched.facts)
}

/// For how long a reply to this request may be kept; none: it may not.
fn ttl(
    cache: &Cache,
    request: &Request,
    status: u16,
    facts: &ember_http::caching::ReplyFacts,
) -> Option<Ttl> {
    let rules = &cache.rules;
    let ms = |time: Duration| time.as_millis() as u64;
    let own = Ttl {
        fresh_ms: ms(rules.ttl),
        stale_ms: ms(rules.stale),
        error_ms: ms(rules.stale_if_error),
    };
    let cookie = request.header("cookie").is_some();
    stored::ttl(own, rules.overrides, cookie, status, facts, clock::unix_seconds())
}

/// Whether it was only for the request's own sake that its reply is not kept.
fn is_keepable_for_others(cache: &Cache, request: &Request, fetched: &Fetched) -> bool {
    let own = Ttl { fresh_ms: cache.rules.ttl.as_millis() as u64, ..Ttl::default() };
    let now = clock::unix_seconds();
    request.header("cookie").is_some()
        && stored::ttl(own, cache.rules.overrides, false, fetched.status, &fetched.facts, now)
            .is_some()
}

/// What there is, if it may be used where nothing newer can be had.
fn usable(lead: &Lead<Kept>) -> Option<&Hit<Kept>> {
    let previous = lead.previous().filter(|previous| previous.usable_on_error)?;
    previous.hit.value.reply().map(|_| &previous.hit)
}

/// Answers with what there is, and gives it to those who wait.
fn give_stale(lead: Lead<Kept>, request: &Request) -> Response {
    let Some((value, told)) = usable(&lead).map(|hit| (Arc::clone(&hit.value), stale_as(hit)))
    else {
        return Error::new(502, "no upstream has replied").into_response();
    };
    let response = match &*value {
        Kept::Reply(reply) => reply.response(request, told),
        Kept::Varies { .. } => Error::new(502, "no upstream has replied").into_response(),
    };
    lead.share(value);
    response
}

fn stale_as(hit: &Hit<Kept>) -> Told {
    Told::Stale { age_ms: hit.age_ms, stale_ms: hit.stale_ms }
}

/// The failures that RFC 5861 section 4 lets a stale reply stand in for.
fn is_failing(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

/// Host, path and query, as the upstream is asked.
fn base_key(proxy: &Proxy, request: &Request) -> Vec<u8> {
    let head = request.head();
    let path = path_for(proxy, &head);
    let mut key = Vec::with_capacity(64 + path.len());
    key.extend(head.authority().iter().map(u8::to_ascii_lowercase));
    key.push(b'\n');
    key.extend_from_slice(&path);
    if let Some(query) = head.query() {
        key.push(b'?');
        key.extend_from_slice(query);
    }
    key
}

fn variant_key(base: &[u8], names: &[String], mark: u64, request: &Request) -> Vec<u8> {
    let mut key = Vec::with_capacity(base.len() + 64);
    key.extend_from_slice(base);
    key.push(b'\n');
    key.extend_from_slice(&mark.to_be_bytes());
    write_variant(&mut key, names.iter().map(String::as_str), request.head().fields());
    key
}
