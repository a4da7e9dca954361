//! The start-up lines: what runs, on what, where, and how it is reached.

use std::fs;
use std::time::{Duration, Instant};

use ember_affinity::WorkerPlan;
use ember_metrics::Family;

use super::change::Kind;
use super::generation::Generation;
use super::run::Supervisor;
use super::settings::Settings;
use super::sockets::{Address, Wanted};
use tracing::info;

impl Supervisor {
    /// The first line: version, kernel and config.
    pub(super) fn tell_version(&self) {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        info!("version {version}, Linux {}, config {}", kernel.trim_end(), self.source.name());
    }

    /// The lines of a generation that serves from now on.
    pub(super) fn tell_started(&self, kind: Kind, number: u32, began: Instant) {
        let Some(generation) = self.generations.iter().find(|it| it.number == number) else {
            return;
        };
        if kind != Kind::Reload {
            self.tell_generation(generation);
        }
        let took = in_ms(began.elapsed());
        let status = match kind {
            Kind::Start => format!("ready in {took}"),
            Kind::Reload => format!("reloaded in {took}: generation {number} serves"),
            Kind::Upgrade => {
                let version = env!("CARGO_PKG_VERSION");
                format!("upgraded to version {version} in {took}: generation {number} serves")
            }
        };
        info!(generation = number, "{status}");
        self.systemd.ready(&status);
    }

    /// The last line: what all of it came to.
    pub(super) fn tell_ended(&self) {
        let requests = self.counters.total(Family::HttpRequests);
        let connections = self.counters.total(Family::ConnectionsAccepted);
        let up = in_words(self.started.elapsed());
        info!(
            requests,
            connections, "ended after {up}: {requests} requests on {connections} connections"
        );
    }

    fn tell_generation(&self, generation: &Generation) {
        let settings = &generation.settings;
        info!(generation = generation.number, "backend: {}", generation.backend);
        info!("placement: {}", placement(settings));
        for note in &generation.notes {
            info!("{note}");
        }
        info!("routes: {}", routes(settings));
        for wanted in &settings.wanted {
            let url = self.url(wanted).unwrap_or_default();
            info!(listener = wanted.name, url, "listening on {url} ({})", wanted.name);
        }
        for url in self.metrics_urls(settings) {
            info!(url, "metrics at {url}");
        }
    }

    /// Where a listener is reached, as something to give to a client.
    pub(super) fn url(&self, wanted: &Wanted) -> Option<String> {
        self.sockets.bound(wanted).map(|bound| match bound {
            Address::Tcp(address) => format!("http://{address}"),
            other => other.to_string(),
        })
    }

    fn metrics_urls(&self, settings: &Settings) -> Vec<String> {
        let config = &settings.config;
        let (listeners, admin) = settings.wanted.split_at(config.listeners.len());
        let public = config.listeners.iter().zip(listeners).flat_map(|(listener, wanted)| {
            let served = config.metrics.iter().filter(|route| listener.serves(&route.name));
            served.filter_map(|route| Some(format!("{}{}", self.url(wanted)?, route.path)))
        });
        let admin =
            admin.iter().filter_map(|wanted| Some(format!("{}/metrics", self.url(wanted)?)));
        public.chain(admin).collect()
    }
}

fn placement(settings: &Settings) -> String {
    let worker = |(plan, index): (&WorkerPlan, usize)| {
        let cpus: Vec<String> = plan.cpus.iter().map(u32::to_string).collect();
        let node = plan.node.map(|node| format!(" of node {node}")).unwrap_or_default();
        format!("worker {index} on CPU {}{node}", cpus.join(","))
    };
    let workers: Vec<String> = settings.workers.iter().zip(0..).map(worker).collect();
    let how = if settings.in_process { " (in the supervisor's process)" } else { "" };
    let grounds = &settings.grounds;
    let nics = grounds.nics.iter().map(ToString::to_string);
    let parts: Vec<String> =
        [workers.join("; ") + how].into_iter().chain(nics).chain(grounds.granted.clone()).collect();
    parts.join("; ")
}

fn routes(settings: &Settings) -> String {
    let config = &settings.config;
    let armed = config.listeners.iter().filter(|listener| listener.reply.is_some()).count();
    let kinds = [
        ("prepared", config.prepared.len()),
        ("armed", armed),
        ("files", config.files.len()),
        ("metrics", config.metrics.len()),
        ("proxy", config.proxies.len()),
        ("redirect", config.redirects.len()),
    ];
    let kinds = kinds.iter().filter(|(_, count)| *count > 0);
    let words: Vec<String> = kinds.map(|(kind, count)| format!("{count} {kind}")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// A duration to the second, or to the millisecond below one.
fn in_words(time: Duration) -> String {
    let whole = match time.as_secs() {
        0 => Duration::from_millis(time.as_millis().try_into().unwrap_or_default()),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(whole).to_string()
}

fn in_ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
