//! What two readings show: rates and quantiles of what happened between them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Moment;
use super::scrape::{Families, Sample};

const REQUESTS: &str = "emberd_http_requests_total";
const BUCKETS: &str = "emberd_http_request_duration_seconds_bucket";

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Version, process, state, config, backend.
    pub(super) head: Vec<String>,
    pub(super) requests: f64,
    pub(super) bytes: f64,
    /// The share of replies with a status code of 500 or above; none without requests.
    pub(super) failed: Option<f64>,
    /// 50th, 90th and 99th percentile in seconds.
    pub(super) latency: [Option<f64>; 3],
    pub(super) in_flight: f64,
    pub(super) connections: f64,
    pub(super) accepted: f64,
    pub(super) closed: f64,
    /// Cores in use by workers.
    pub(super) cpu: f64,
    pub(super) resident: f64,
    pub(super) workers: Vec<Worker>,
    /// The busiest first.
    pub(super) routes: Vec<Route>,
    /// Linked sends by chain and outcome, a second.
    pub(super) chains: Vec<(String, f64)>,
    /// Cache look-ups by outcome, a second; where there are caches.
    pub(super) caches: Vec<(String, f64)>,
    /// Name, whether it is up, and requests a second; where there are any.
    pub(super) upstreams: Vec<(String, bool, f64)>,
}

/// A worker process.
#[derive(Clone, Debug, Default)]
pub(super) struct Worker {
    pub(super) worker: String,
    pub(super) generation: String,
    pub(super) pid: String,
    pub(super) state: String,
    pub(super) cpus: String,
    pub(super) connections: String,
    pub(super) restarts: String,
    /// These are of all generations' workers of this number.
    pub(super) cpu: f64,
    pub(super) accepted: f64,
    pub(super) operations: f64,
    pub(super) enters: f64,
}

/// A route.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    pub(super) route: String,
    pub(super) requests: f64,
    pub(super) bytes: f64,
    pub(super) latency: [Option<f64>; 3],
    pub(super) failed: Option<f64>,
}

impl View {
    /// What happened between two moments, and how it stands at the second.
    pub(super) fn between(before: &Moment, now: &Moment) -> Self {
        let took = now.at.saturating_duration_since(before.at).max(Duration::from_millis(1));
        let span =
            Span { before: &before.families, now: &now.families, seconds: took.as_secs_f64() };
        let gauge = |name| total(&now.families.sums(name, |_| Some(())));
        let requests = total(&span.rates(REQUESTS, |_| Some(())));
        let failed = total(&span.rates(REQUESTS, |it| is_failed(it).then_some(())));
        Self {
            head: head(&now.status),
            requests,
            bytes: total(&span.rates("emberd_http_response_bytes_total", |_| Some(()))),
            failed: share(failed, requests),
            latency: span.quantiles(|_| true),
            in_flight: gauge("emberd_http_requests_in_flight"),
            connections: gauge("emberd_connections_active"),
            accepted: total(&span.rates("emberd_connections_accepted_total", |_| Some(()))),
            closed: total(&span.rates("emberd_connections_closed_total", |_| Some(()))),
            cpu: total(&span.rates("emberd_worker_cpu_seconds_total", |_| Some(()))),
            resident: gauge("process_resident_memory_bytes"),
            workers: span.workers(&now.status),
            routes: span.routes(),
            chains: span.chains(),
            caches: span.by_label("emberd_cache_requests_total", "result"),
            upstreams: span.upstreams(),
        }
    }
}

/// Two readings and the time between them.
struct Span<'a> {
    before: &'a Families,
    now: &'a Families,
    seconds: f64,
}

impl Span<'_> {
    /// How fast counters grew, by what `key` makes of a sample.
    fn rates<K: Ord>(&self, name: &str, key: impl Fn(&Sample) -> Option<K>) -> BTreeMap<K, f64> {
        let before = self.before.sums(name, &key);
        let rate = |(key, value): (K, f64)| {
            let was = before.get(&key).copied().unwrap_or(0.0);
            // A counter that fell began anew.
            let grown = if value >= was { value - was } else { value };
            (key, grown / self.seconds)
        };
        self.now.sums(name, &key).into_iter().map(rate).collect()
    }

    fn by_label(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        self.rates(name, |it| Some(it.label(label).to_owned())).into_iter().collect()
    }

    /// Quantiles of the durations that were measured between the readings.
    fn quantiles(&self, of: impl Fn(&Sample) -> bool) -> [Option<f64>; 3] {
        let bound = |it: &Sample| it.label("le").parse().map(Bound).ok();
        let rates = self.rates(BUCKETS, |it| of(it).then(|| bound(it)).flatten());
        let buckets: Vec<(f64, f64)> = rates.into_iter().map(|(Bound(le), n)| (le, n)).collect();
        [0.5, 0.9, 0.99].map(|quantile| quantile_of(&buckets, quantile))
    }

    fn workers(&self, status: &Value) -> Vec<Worker> {
        let rate = |name, worker: &str| {
            total(&self.rates(name, |it| (it.label("worker") == worker).then_some(())))
        };
        let of_generation = |generation: &Value| -> Vec<Worker> {
            let worker = |it: &Value| {
                let worker = text(&it["worker"]);
                Worker {
                    generation: text(&generation["generation"]),
                    pid: text(&it["pid"]),
                    state: match generation["stage"].as_str() {
                        Some("leaving") => "leaving".to_owned(),
                        _ => text(&it["state"]),
                    },
                    cpus: list(&it["cpus"]),
                    connections: text(&it["connections"]),
                    restarts: text(&it["restarts"]),
                    cpu: rate("emberd_worker_cpu_seconds_total", &worker),
                    accepted: rate("emberd_connections_accepted_total", &worker),
                    operations: rate("emberd_uring_sqe_submitted_total", &worker),
                    enters: rate("emberd_uring_enter_total", &worker),
                    worker,
                }
            };
            generation["workers"].as_array().into_iter().flatten().map(worker).collect()
        };
        status["generations"].as_array().into_iter().flatten().flat_map(of_generation).collect()
    }

    fn routes(&self) -> Vec<Route> {
        let route = |it: &Sample| Some(it.label("route").to_owned());
        let bytes = self.rates("emberd_http_response_bytes_total", route);
        let failed = self.rates(REQUESTS, |it| is_failed(it).then(|| route(it)).flatten());
        let mut routes: Vec<Route> = self
            .rates(REQUESTS, route)
            .into_iter()
            .map(|(route, requests)| Route {
                requests,
                bytes: bytes.get(&route).copied().unwrap_or(0.0),
                latency: self.quantiles(|it| it.label("route") == route),
                failed: share(failed.get(&route).copied().unwrap_or(0.0), requests),
                route,
            })
            .collect();
        routes.sort_by(|one, other| other.requests.total_cmp(&one.requests));
        routes
    }

    fn chains(&self) -> Vec<(String, f64)> {
        let name = |it: &Sample| Some(format!("{} {}", it.label("chain"), it.label("result")));
        let mut chains: Vec<(String, f64)> =
            self.rates("emberd_prepared_sends_total", name).into_iter().collect();
        let fell = total(&self.rates("emberd_prepared_fallthrough_total", |_| Some(())));
        if !chains.is_empty() {
            chains.push(("fell through".to_owned(), fell));
        }
        chains
    }

    fn upstreams(&self) -> Vec<(String, bool, f64)> {
        let requests = self.by_label("emberd_upstream_requests_total", "upstream");
        let requests: BTreeMap<String, f64> = requests.into_iter().collect();
        let upstream = |it: &Sample| {
            let name = it.label("upstream").to_owned();
            let rate = requests.get(&name).copied().unwrap_or(0.0);
            (name, it.value > 0.0, rate)
        };
        self.now.of("emberd_upstream_up").iter().map(upstream).collect()
    }
}

/// The bound of a bucket.
#[derive(Clone, Copy, PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A quantile of cumulative buckets in the order of their bounds; within a bucket, durations are
/// taken as evenly spread.
fn quantile_of(buckets: &[(f64, f64)], quantile: f64) -> Option<f64> {
    let count = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let rank = quantile * count;
    let (mut bound, mut below) = (0.0, 0.0);
    for &(le, cumulative) in buckets {
        if cumulative >= rank {
            // Nothing is known of what lies below the first bound, or above the last.
            return Some(match (bound, le) {
                (bound, f64::INFINITY) => bound,
                (0.0, le) => le,
                _ => {
                    bound
                        + (le - bound) * (rank - below)
                            / (cumulative - below).max(f64::MIN_POSITIVE)
                }
            });
        }
        (bound, below) = (le, cumulative);
    }
    Some(bound)
}

fn head(status: &Value) -> Vec<String> {
    let latest = status["generations"].as_array().and_then(|all| all.last());
    let mut head = vec![
        format!("emberd {} (pid {})", text(&status["version"]), text(&status["pid"])),
        text(&status["state"]),
        format!("up {}", uptime(status["uptime_s"].as_f64().unwrap_or(0.0))),
        format!("config {}", text(&status["config"])),
    ];
    // What follows the name is for `emberd status`.
    let backend = latest.and_then(|it| it["backend"].as_str()).unwrap_or_default();
    head.extend(backend.split([' ', ':']).next().filter(|it| !it.is_empty()).map(str::to_owned));
    head
}

fn uptime(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds as u64);
    humantime::format_duration(whole).to_string()
}

fn is_failed(sample: &Sample) -> bool {
    // "none": the connection was closed without a reply.
    sample.label("code").starts_with('5') || sample.label("code") == "none"
}

fn total<K>(sums: &BTreeMap<K, f64>) -> f64 {
    // The sum of nothing is -0.0.
    sums.values().sum::<f64>() + 0.0
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn list(values: &Value) -> String {
    let words: Vec<String> = values.as_array().into_iter().flatten().map(text).collect();
    words.join(",")
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::*;

    /// A second in which `/hello` was asked 100 times and `/slow` 10 times.
    pub(in crate::top) fn a_second() -> View {
        let at = Instant::now();
        let status = json!({
            "version": "1.2.3", "pid": 7, "state": "serving", "uptime_s": 3661.5,
            "config": "site.toml",
            "generations": [{
                "generation": 2, "stage": "serving", "backend": "io_uring (available): x",
                "workers": [{ "worker": 0, "pid": 8, "state": "ready", "node": null,
                              "cpus": [0, 1], "restarts": 3, "connections": 12 }],
            }],
        });
        let before = "emberd_http_requests_total{route=\"/hello\",code=\"200\"} 900\n";
        let now = "emberd_http_requests_total{route=\"/hello\",code=\"200\"} 1000\n\
             emberd_http_requests_total{route=\"/slow\",code=\"200\"} 6\n\
             emberd_http_requests_total{route=\"/slow\",code=\"503\"} 4\n\
             emberd_http_response_bytes_total{route=\"/hello\"} 20480\n\
             emberd_http_request_duration_seconds_bucket{route=\"/hello\",le=\"1e-05\"} 90\n\
             emberd_http_request_duration_seconds_bucket{route=\"/hello\",le=\"0.001\"} 100\n\
             emberd_http_request_duration_seconds_bucket{route=\"/hello\",le=\"+Inf\"} 100\n\
             emberd_http_requests_in_flight 2\n\
             emberd_connections_active{worker=\"0\"} 12\n\
             emberd_connections_accepted_total{worker=\"0\"} 5\n\
             emberd_worker_cpu_seconds_total{worker=\"0\"} 0.5\n\
             emberd_uring_sqe_submitted_total{worker=\"0\"} 220\n\
             emberd_uring_enter_total{worker=\"0\"} 110\n\
             emberd_prepared_sends_total{route=\"/hello\",chain=\"reply_recv\",result=\"linked\"} 100\n\
             emberd_cache_requests_total{cache=\"api\",result=\"hit\"} 7\n\
             emberd_upstream_up{upstream=\"one\"} 0\n\
             emberd_upstream_requests_total{upstream=\"one\",code=\"200\"} 9\n\
             process_resident_memory_bytes 10485760\n";
        let moment =
            |text, at| Moment { at, status: status.clone(), families: Families::parse(text) };
        View::between(&moment(before, at), &moment(now, at + Duration::from_secs(1)))
    }

    #[test]
    fn rates_are_of_what_happened_between() {
        let view = a_second();
        assert_eq!((view.requests, view.in_flight, view.connections), (110.0, 2.0, 12.0));
        assert_eq!(view.failed, Some(4.0 / 110.0));
        let routes: Vec<(&str, f64)> =
            view.routes.iter().map(|it| (it.route.as_str(), it.requests)).collect();
        assert_eq!(routes, [("/hello", 100.0), ("/slow", 10.0)]);
        assert_eq!(view.routes[1].failed, Some(0.4));
        assert_eq!(view.routes[1].latency, [None; 3], "unmeasured");
        let [p50, p90, p99] = view.routes[0].latency;
        assert_eq!((p50, p90), (Some(1e-5), Some(1e-5)), "the first bound is all that is known");
        assert!((p99.unwrap() - 0.000_901).abs() < 1e-6, "{p99:?}");
        assert_eq!(view.workers[0].operations / view.workers[0].enters, 2.0);
        assert_eq!(view.chains[0], ("reply_recv linked".to_owned(), 100.0));
        assert_eq!(view.upstreams, [("one".to_owned(), false, 9.0)]);
        assert_eq!(view.head[2], "up 1h 1m 1s");
    }

    #[test]
    fn a_counter_that_fell_began_anew() {
        let (before, now) = (Families::parse("a 100\n"), Families::parse("a 30\n"));
        let span = Span { before: &before, now: &now, seconds: 2.0 };
        assert_eq!(total(&span.rates("a", |_| Some(()))), 15.0);
    }
}
