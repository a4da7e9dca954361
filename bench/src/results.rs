//! What a run leaves behind: every sample, and all that is needed to judge it.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::host::machine::Machine;
use crate::host::memory::Memory;
use crate::peers::PeerRecord;
use crate::stats;

/// The version of the JSON's form.
pub const FORMAT: u32 = 1;

/// Above this share of CPU time taken by others, a sample's rate and latency are suspect.
pub const DISTURBED_MAX: f64 = 0.05;

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`].
    pub format: u32,
    /// When it began, in seconds since 1970.
    pub started_unix: u64,
    /// The commit that was measured, where git told it.
    pub commit: String,
    /// Where it ran.
    pub machine: Machine,
    /// How it was made.
    pub settings: Settings,
    /// The servers, by name.
    pub peers: BTreeMap<String, PeerRecord>,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// How a run was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `quick` or `full`.
    pub tier: String,
    /// Rounds of each row; within a round every subject has its turn.
    pub rounds: usize,
    /// Load before each measured window, in seconds.
    pub warmup_s: f64,
    /// Each measured window, in seconds.
    pub window_s: f64,
    /// CPUs of the servers.
    pub server_cpus: Vec<usize>,
    /// CPUs of the generator.
    pub load_cpus: Vec<usize>,
    /// Where the servers' CPU time was read.
    pub cpu_source: String,
}

/// One row: the same work for several subjects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its short name.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// The work, in words.
    pub workload: String,
    /// Why it was not run.
    pub skipped: Option<String>,
    /// Who did it.
    pub subjects: Vec<Subject>,
    /// What was hoped for.
    pub targets: Vec<Target>,
}

/// One server in one form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// What tables call it.
    pub label: String,
    /// The peer's name.
    pub peer: String,
    /// Arguments besides the peer's own.
    pub arguments: Vec<String>,
    /// Why there are no samples.
    pub skipped: Option<String>,
    /// One a round.
    pub samples: Vec<Sample>,
}

/// One measured window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Good replies.
    pub replies: u64,
    /// The window's length in seconds.
    pub elapsed_s: f64,
    /// Bytes received.
    pub bytes: u64,
    /// Latencies in microseconds.
    pub latency_us: Latency,
    /// The server's CPU time in microseconds, all of its processes.
    pub cpu_us: f64,
    /// The user part of it.
    pub cpu_user_us: f64,
    /// The standard error of the user part, where ticks sampled it.
    pub cpu_user_error_us: f64,
    /// The generator's share of its CPUs.
    pub load_busy: f64,
    /// The generator, not the server, set the rate.
    pub load_limits: bool,
    /// The share of these CPUs that neither the server nor the generator used: other processes,
    /// and a hypervisor's other guests.
    pub disturbed: f64,
    /// After the window.
    pub memory: Memory,
    /// Connections held idle, and the resident memory that each added.
    pub idle: Option<Idle>,
    /// Open loop: due requests that found no free connection until the end.
    pub unsent: u64,
    /// Connections made again.
    pub reconnects: u64,
    /// What went wrong, by kind.
    pub faults: BTreeMap<String, u64>,
}

/// Quantiles of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

/// Connections that do nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    /// How many.
    pub connections: u64,
    /// Resident bytes of the server that each added.
    pub bytes_each: f64,
}

/// One figure of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Replies a second.
    Rate,
    /// CPU microseconds a request.
    Cpu,
    /// User CPU microseconds a request.
    CpuUser,
    /// Requests a second of CPU time.
    PerCpuSecond,
    /// Median latency, microseconds.
    P50,
    /// 99th percentile, microseconds.
    P99,
    /// 99.9th percentile, microseconds.
    P999,
    /// Bytes received a second.
    Throughput,
    /// CPU milliseconds a gigabyte received.
    CpuPerGigabyte,
    /// Summed resident set, bytes.
    Rss,
    /// Summed peak resident set, bytes.
    PeakRss,
    /// Resident bytes an idle connection.
    IdleBytes,
}

impl Metric {
    /// Whether more of it is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Rate | Self::PerCpuSecond | Self::Throughput)
    }

    /// Its name and unit.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "requests/s",
            Self::Cpu => "CPU us/request",
            Self::CpuUser => "user us/request",
            Self::PerCpuSecond => "requests/CPU s",
            Self::P50 => "p50 us",
            Self::P99 => "p99 us",
            Self::P999 => "p99.9 us",
            Self::Throughput => "bytes/s",
            Self::CpuPerGigabyte => "CPU ms/GB",
            Self::Rss => "RSS bytes",
            Self::PeakRss => "peak RSS bytes",
            Self::IdleBytes => "bytes/idle connection",
        }
    }
}

impl Sample {
    /// A figure; `None` where this kind of sample has none.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        let replies = self.replies as f64;
        let loaded = self.replies > 0 && self.elapsed_s > 0.0;
        let of_load = |value: f64| (loaded && value.is_finite()).then_some(value);
        match metric {
            Metric::Rate => of_load(replies / self.elapsed_s),
            Metric::Cpu => of_load(self.cpu_us / replies),
            Metric::CpuUser => of_load(self.cpu_user_us / replies),
            Metric::PerCpuSecond => of_load(replies / self.cpu_us * 1e6),
            Metric::P50 => of_load(self.latency_us.p50),
            Metric::P99 => of_load(self.latency_us.p99),
            Metric::P999 => of_load(self.latency_us.p999),
            Metric::Throughput => of_load(self.bytes as f64 / self.elapsed_s),
            Metric::CpuPerGigabyte => of_load(self.cpu_us / 1e3 / (self.bytes as f64 / 1e9)),
            Metric::Rss => (self.memory.rss > 0).then_some(self.memory.rss as f64),
            Metric::PeakRss => (self.memory.peak_rss > 0).then_some(self.memory.peak_rss as f64),
            Metric::IdleBytes => self.idle.map(|idle| idle.bytes_each),
        }
    }
}

impl Subject {
    /// Whether it is emberd, in whatever form.
    pub fn is_own(&self) -> bool {
        self.peer.starts_with("emberd")
    }

    /// A figure over all rounds.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.samples.iter().filter_map(|sample| sample.value(metric)).collect()
    }

    /// Its median.
    pub fn median(&self, metric: Metric) -> Option<f64> {
        stats::median(&self.values(metric))
    }

    /// The user time a request over all rounds together, and its standard error: ticks are few
    /// in one round, so here the rounds are pooled.
    pub fn user_us(&self) -> Option<(f64, f64)> {
        let replies: u64 = self.samples.iter().map(|sample| sample.replies).sum();
        let user: f64 = self.samples.iter().map(|sample| sample.cpu_user_us).sum();
        let variance: f64 =
            self.samples.iter().map(|sample| sample.cpu_user_error_us.powi(2)).sum();
        (replies > 0).then(|| (user / replies as f64, variance.sqrt() / replies as f64))
    }

    /// What went wrong, over all rounds.
    pub fn faults(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for (fault, count) in self.samples.iter().flat_map(|sample| &sample.faults) {
            *sum.entry(fault.clone()).or_default() += count;
        }
        sum
    }
}

/// What is hoped for of one subject's figure: a bound on it, or on its ratio to another's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The figure.
    pub metric: Metric,
    /// Whose.
    pub subject: String,
    /// The subject that it is divided by; none: the figure itself is bound.
    pub versus: Option<String>,
    /// The bound: at most, or at least where more is better.
    pub bound: f64,
}

/// How a target came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// The median over the rounds (of the ratio within each round, where it is a ratio).
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
    /// Whether the median keeps the bound.
    pub met: bool,
}

impl Target {
    /// Judges it; `None` where a subject has no samples.
    pub fn judge(&self, row: &Row) -> Option<Verdict> {
        let find = |label: &str| row.subjects.iter().find(|subject| subject.label == label);
        let own = find(&self.subject)?.values(self.metric);
        let values = match &self.versus {
            None => own,
            Some(other) => stats::ratios(&own, &find(other)?.values(self.metric)),
        };
        let (low, median, high) = stats::spread(&values)?;
        let met =
            if self.metric.more_is_better() { median >= self.bound } else { median <= self.bound };
        Some(Verdict { median, low, high, met })
    }
}

impl Results {
    /// Reads a results file.
    pub fn load(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let results: Self = serde_json::from_str(&text)?;
        if results.format != FORMAT {
            let what = format!("format {} where {FORMAT} is known", results.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(results)
    }

    /// Writes it, whole or not at all.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let partial = path.with_extension("json.partial");
        fs::write(&partial, serde_json::to_string_pretty(self)?)?;
        fs::rename(partial, path)
    }

    /// Each subject in which something went wrong: row, label, what.
    pub fn failures(&self) -> Vec<(String, String, String)> {
        let mut found = Vec::new();
        for row in &self.rows {
            for subject in &row.subjects {
                let faults = subject.faults();
                if !faults.is_empty() {
                    let list: Vec<String> =
                        faults.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
                    found.push((row.id.clone(), subject.label.clone(), list.join(", ")));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(label: &str, cpu_us: &[f64]) -> Subject {
        let sample = |cpu_us: &f64| Sample {
            replies: 1000,
            elapsed_s: 1.0,
            cpu_us: cpu_us * 1000.0,
            ..Sample::default()
        };
        let samples = cpu_us.iter().map(sample).collect();
        Subject { label: label.into(), samples, ..Subject::default() }
    }

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        // The machine slows down over the rounds; the ratio does not see it.
        let row = Row {
            subjects: vec![subject("a", &[1.0, 2.0, 3.0]), subject("b", &[2.0, 4.0, 6.0])],
            ..Row::default()
        };
        let target = |bound| Target {
            metric: Metric::Cpu,
            subject: "a".into(),
            versus: Some("b".into()),
            bound,
        };
        let verdict = target(0.5).judge(&row).unwrap();
        assert_eq!((verdict.low, verdict.median, verdict.high), (0.5, 0.5, 0.5));
        assert!(verdict.met && !target(0.4).judge(&row).unwrap().met);
    }

    #[test]
    fn user_time_is_pooled() {
        let mut pooled = subject("a", &[1.0, 1.0]);
        pooled.samples[0].cpu_user_us = 100.0;
        pooled.samples[1].cpu_user_us = 300.0;
        pooled.samples[0].cpu_user_error_us = 30.0;
        pooled.samples[1].cpu_user_error_us = 40.0;
        assert_eq!(pooled.user_us(), Some((0.2, 0.025)));
    }

    #[test]
    fn a_sample_without_load_has_no_rate() {
        let sample = Sample::default();
        assert_eq!((sample.value(Metric::Rate), sample.value(Metric::Cpu)), (None, None));
    }
}
