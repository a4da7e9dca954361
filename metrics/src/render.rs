//! From counter pages and facts to metric families and their text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::board::Board;
use crate::catalogue::{BUCKETS_NS, CATALOGUE, Description, FAMILIES, Family, Kind, Stored};
use crate::format::Format;
use crate::key::{Key, PART_SUM};
use crate::names::Names;
use crate::pages::Pages;
use crate::process::Processes;

/// What is known at the time of a scrape and not counted in pages.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    samples: Vec<(Family, Vec<String>, f64)>,
}

impl Facts {
    /// No facts.
    pub fn new() -> Self {
        Self::default()
    }

    /// A sample of a counter or gauge family, with the label values in the catalogue's order. It
    /// stands beside what the pages hold; the same labels there are added.
    ///
    /// # Panics
    /// When the number of labels is not the family's, or the family is a histogram: what is
    /// passed here is known when the program is written.
    pub fn add(&mut self, family: Family, labels: &[&str], value: f64) -> &mut Self {
        let description = family.description();
        assert_eq!(labels.len(), description.labels.len(), "labels of {}", description.name);
        assert_ne!(description.kind, Kind::Histogram, "{} is no fact", description.name);
        let labels = labels.iter().map(ToString::to_string).collect();
        self.samples.push((family, labels, value));
        self
    }

    pub(crate) fn samples(&self) -> &[(Family, Vec<String>, f64)] {
        &self.samples
    }

    /// `emberd_build_info`.
    pub fn build(&mut self, version: &str) -> &mut Self {
        self.add(Family::BuildInfo, &[version], 1.0)
    }

    /// `emberd_backend_info`: which driver runs, and why that one.
    pub fn backend(&mut self, backend: &str, reason: &str) -> &mut Self {
        self.add(Family::BackendInfo, &[backend, reason], 1.0)
    }

    /// The `process_*` families of all these processes together.
    pub fn processes(&mut self, pids: &[u32]) -> &mut Self {
        for (family, value) in Processes::read(pids).samples() {
            self.add(family, &[], value);
        }
        self
    }
}

/// All pages and facts in the Prometheus text format 0.0.4.
pub fn render(pages: &Pages, names: &Names, facts: &Facts) -> String {
    Format::Text.render(pages, names, facts)
}

/// The whole server as its supervisor's board describes it: what `/metrics` answers with, from
/// any of its processes.
pub fn scrape(pages: &Pages, format: Format) -> String {
    scrape_with(pages, format, &Facts::new())
}

/// As [`scrape`], with facts of the answering process that the supervisor does not know.
pub fn scrape_with(pages: &Pages, format: Format, own: &Facts) -> String {
    let Board { names, pids, mut facts } = pages.board();
    facts.processes(&pids);
    facts.samples.extend_from_slice(&own.samples);
    format.render(pages, &names, &facts)
}

/// All pages and facts as metric families, those without samples left out; families in the order
/// of the catalogue, samples in the order of their labels.
pub fn families(pages: &Pages, names: &Names, facts: &Facts) -> Vec<MetricFamily> {
    let mut samples: Vec<BTreeMap<Vec<Cow<'_, str>>, Value>> = Vec::new();
    samples.resize_with(FAMILIES, BTreeMap::new);
    for (key, parts) in collect(pages) {
        let Some(family) = key.family() else { continue };
        let description = family.description();
        if key == Key::overflow(family) && parts.iter().all(|&n| n == 0) {
            continue;
        }
        let values = key.values(description.labels);
        let labels = description.labels.iter().zip(values);
        let labels = labels.map(|(label, value)| label.text(value, names)).collect();
        let value = samples[family as usize].entry(labels).or_default();
        value.add_parts(description, &parts);
    }
    for (family, labels, value) in &facts.samples {
        let labels = labels.iter().map(|label| Cow::from(label.as_str())).collect();
        samples[*family as usize].entry(labels).or_default().number += value;
    }
    let all = CATALOGUE.iter().zip(samples).filter(|(_, samples)| !samples.is_empty());
    all.map(|(description, samples)| family(description, &samples)).collect()
}

/// The bounds of the histograms' buckets in seconds.
fn bounds() -> impl Iterator<Item = f64> {
    BUCKETS_NS.iter().map(|&ns| seconds(ns))
}

/// The sum over threads of one series while it is put together.
#[derive(Debug, Default)]
struct Value {
    number: f64,
    buckets: [u64; BUCKETS_NS.len() + 1],
}

type Parts = [u64; PART_SUM as usize + 1];

impl Value {
    fn add_parts(&mut self, description: &Description, parts: &Parts) {
        self.number += match (description.kind, description.stored) {
            (Kind::Gauge, _) => parts[0].cast_signed() as f64,
            (Kind::Counter, Stored::Units) => parts[0] as f64,
            (Kind::Counter, Stored::Nanoseconds) => seconds(parts[0]),
            (Kind::Histogram, _) => seconds(parts[usize::from(PART_SUM)]),
        };
        if description.kind == Kind::Histogram {
            for (sum, part) in self.buckets.iter_mut().zip(parts) {
                *sum = sum.wrapping_add(*part);
            }
        }
    }
}

/// Adds every series up over the pages. Unknown parts of a damaged page are left out.
fn collect(pages: &Pages) -> BTreeMap<Key, Parts> {
    let mut sums: BTreeMap<Key, Parts> = BTreeMap::new();
    for index in 0..pages.threads() {
        for entry in pages.entries(index) {
            let mut key = Key::from_bits(entry[0].load(Ordering::Relaxed));
            let mut part = 0;
            if key.is_kind(Kind::Histogram) {
                (key, part) = key.split_part();
            }
            let parts = sums.entry(key).or_insert_with(|| [0; PART_SUM as usize + 1]);
            if let Some(sum) = parts.get_mut(usize::from(part)) {
                *sum = sum.wrapping_add(entry[1].load(Ordering::Relaxed));
            }
        }
    }
    sums
}

fn family(description: &Description, samples: &BTreeMap<Vec<Cow<'_, str>>, Value>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(description.name.to_owned());
    family.set_help(description.help.to_owned());
    family.set_field_type(match description.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    let metrics = samples.iter().map(|(labels, value)| metric(description, labels, value));
    family.set_metric(metrics.collect());
    family
}

fn metric(description: &Description, labels: &[Cow<'_, str>], value: &Value) -> Metric {
    let pairs = description.labels.iter().zip(labels).map(|(label, text)| {
        let mut pair = LabelPair::default();
        pair.set_name(label.name().to_owned());
        pair.set_value(text.clone().into_owned());
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    match description.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value.number);
            metric.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(value.number);
            metric.set_gauge(gauge);
        }
        Kind::Histogram => metric.set_histogram(histogram(value)),
    }
    metric
}

fn histogram(value: &Value) -> Histogram {
    let mut count = 0u64;
    let buckets = bounds().zip(&value.buckets).map(|(bound, n)| {
        count = count.wrapping_add(*n);
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    // The count is that of the buckets, so that the two always agree, whatever is written
    // meanwhile.
    histogram.set_sample_count(count.wrapping_add(value.buckets[BUCKETS_NS.len()]));
    histogram.set_sample_sum(value.number);
    histogram
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Method, PathKind};
    use crate::names::NameId;

    fn lines(text: &str, start: &str) -> Vec<String> {
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    #[test]
    fn threads_are_added_and_labels_resolved() {
        let pages = Pages::create(3, 512).unwrap();
        let mut names = Names::new();
        let route = names.intern("/a \"b\" \\ \n");
        let key = Key::http_requests(route, Method::Get, 200, PathKind::Prepared);
        for (index, n) in [(0, 5), (2, 37)] {
            let mut page = pages.page(index).unwrap();
            let counter = page.counter(key);
            page.add(counter, n);
        }
        let text = render(&pages, &names, &Facts::new());
        assert_eq!(
            lines(&text, "emberd_http_requests_total"),
            ["emberd_http_requests_total{route=\"/a \\\"b\\\" \\\\ \\n\",method=\"GET\",\
              code=\"200\",path_kind=\"prepared\"} 42"]
        );
    }

    #[test]
    fn an_unused_page_shows_nothing_and_a_registered_series_its_zero() {
        let pages = Pages::create(2, 512).unwrap();
        let mut page = pages.page(0).unwrap();
        assert_eq!(render(&pages, &Names::new(), &Facts::new()), "");
        page.gauge(Key::http_requests_in_flight());
        let text = render(&pages, &Names::new(), &Facts::new());
        assert_eq!(text.lines().last(), Some("emberd_http_requests_in_flight 0"));
    }

    #[test]
    fn histograms_are_cumulative_and_in_seconds() {
        let pages = Pages::create(2, 512).unwrap();
        let key = Key::http_request_duration(NameId::UNMATCHED, PathKind::Error);
        for index in 0..2 {
            let mut page = pages.page(index).unwrap();
            let histogram = page.histogram(key);
            page.observe_many(histogram, 250_000, 2);
            page.observe(histogram, 60_000_000_000);
        }
        let text = render(&pages, &Names::new(), &Facts::new());
        let of = |rest: &str| {
            let name = "emberd_http_request_duration_seconds";
            lines(&text, &format!("{name}{rest}")).concat().rsplit(' ').next().unwrap().to_owned()
        };
        let labels = "route=\"unmatched\",path_kind=\"error\"";
        let below = format!("_bucket{{{labels},le=\"0.0001\"");
        let at = format!("_bucket{{{labels},le=\"0.00025\"");
        let last = format!("_bucket{{{labels},le=\"10\"");
        let infinite = format!("_bucket{{{labels},le=\"+Inf\"");
        let of_all = [&*below, &at, &last, &infinite, "_sum", "_count"].map(of);
        assert_eq!(of_all, ["0", "4", "4", "6", "120.001", "6"]);
    }

    #[test]
    fn series_that_read_alike_are_one() {
        let pages = Pages::create(1, 512).unwrap();
        let mut page = pages.page(0).unwrap();
        // Unknown to this reader, the interned `other`, and the overflow entry.
        for id in [900, 901, NameId::OTHER.0] {
            let counter = page.counter(Key::rate_limited(NameId(id)));
            page.add(counter, 1);
        }
        let text = render(&pages, &Names::new(), &Facts::new());
        let expected = ["emberd_rate_limited_total{route=\"other\"} 3"];
        assert_eq!(lines(&text, "emberd_rate"), expected);
    }

    #[test]
    fn facts_stand_beside_the_pages() {
        let pages = Pages::create(1, 512).unwrap();
        let mut page = pages.page(0).unwrap();
        let counter = page.counter(Key::worker_cpu(0, None));
        page.add(counter, 1_500_000_000);
        let mut facts = Facts::new();
        facts.build("1.2.3").backend("epoll", "io_uring is disabled");
        facts.add(Family::ConfigLastReloadSuccess, &[], 0.0);
        facts.processes(&[std::process::id()]);
        pages.post(&Board { facts: facts.clone(), ..Board::default() }).unwrap();
        let mut own = Facts::new();
        own.add(Family::TuneDrift, &["rps"], 1.0);
        let with_own = scrape_with(&pages, Format::Text, &own);
        assert!(with_own.contains("emberd_tune_drift{key=\"rps\"} 1\n"), "{with_own}");
        assert!(with_own.contains("emberd_build_info{version=\"1.2.3\"} 1\n"), "{with_own}");
        let text = render(&pages, &Names::new(), &facts);
        for line in [
            "emberd_build_info{version=\"1.2.3\"} 1",
            "emberd_backend_info{backend=\"epoll\",reason=\"io_uring is disabled\"} 1",
            "emberd_config_last_reload_success 0",
            "emberd_worker_cpu_seconds_total{worker=\"0\",numa_node=\"none\"} 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let process = ["cpu_seconds_total", "open_fds", "max_fds", "virtual_memory_bytes"];
        let more = ["resident_memory_bytes", "start_time_seconds", "threads"];
        for name in process.iter().chain(&more) {
            assert_eq!(lines(&text, &format!("process_{name} ")).len(), 1, "{name}");
        }
    }
}
