//! The runner: every subject of a row in turn, round after round, each time a fresh server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::host::cpu::{CpuTime, busy_us};
use crate::host::machine::Machine;
use crate::host::memory::Memory;
use crate::load::{self, Expect, Held, Mode, Options, Outcome, Request};
use crate::peers::{PeerError, Peers, Server, Start, Values};
use crate::results::{DISTURBED_MAX, Idle, Latency, Results, Row, Sample, Settings, Subject};
use crate::rows::{BodySpec, HELLO, LoadWork, RowSpec, SubjectSpec, Tier, USER, Work};

/// The longest wait for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Faults that end one sample early.
const FAULTS_MAX: u64 = 1000;
/// The lengths of the files to serve.
const FILES: [(&str, usize); 3] = [("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20)];

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which rows and subjects.
    pub tier: Tier,
    /// Only rows whose name begins with one of these; none: all of the tier.
    pub rows: Vec<String>,
    /// Only these peers; none: all.
    pub peers: Vec<String>,
    /// Rounds of each row.
    pub rounds: usize,
    /// Load before the measured window.
    pub warmup: Duration,
    /// The measured window.
    pub window: Duration,
    /// The CPUs of the servers.
    pub server_cpus: Vec<usize>,
    /// The CPUs of the generator.
    pub load_cpus: Vec<usize>,
    /// The folder of `peers.toml`.
    pub peers_dir: PathBuf,
    /// Values of placeholders.
    pub values: Values,
    /// Where servers keep their files while they run.
    pub work_dir: PathBuf,
    /// This program.
    pub launcher: PathBuf,
}

/// Runs the plan; `say` is told of the progress, a line at a time.
pub fn run(plan: &Plan, say: &mut dyn FnMut(&str)) -> Result<Results, PeerError> {
    let peers = Peers::load(&plan.peers_dir)?;
    let assets = plan.work_dir.join("assets");
    write_assets(&assets)?;
    let mut values = plan.values.clone();
    values.insert("assets".into(), assets.display().to_string());
    values.insert("user".into(), user_name());
    let mut runner = Runner { plan, peers, values, results: record(plan), say };
    for row in chosen(plan) {
        runner.run_row(&row);
    }
    Ok(runner.results)
}

/// The rows and subjects that a plan asks for.
fn chosen(plan: &Plan) -> Vec<RowSpec> {
    let mut rows = crate::rows::all();
    rows.retain(|row| match plan.rows.is_empty() {
        true => row.tier <= plan.tier,
        false => plan.rows.iter().any(|wanted| row.id == wanted),
    });
    for row in &mut rows {
        row.subjects.retain(|subject| {
            subject.tier <= plan.tier
                && (plan.peers.is_empty() || plan.peers.iter().any(|peer| peer == subject.peer))
        });
    }
    rows
}

fn record(plan: &Plan) -> Results {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let tier = match plan.tier {
        Tier::Quick => "quick",
        Tier::Full => "full",
    };
    Results {
        format: crate::results::FORMAT,
        started_unix: started.as_secs(),
        commit: commit(),
        machine: Machine::detect(),
        settings: Settings {
            tier: tier.into(),
            rounds: plan.rounds,
            warmup_s: plan.warmup.as_secs_f64(),
            window_s: plan.window.as_secs_f64(),
            server_cpus: plan.server_cpus.clone(),
            load_cpus: plan.load_cpus.clone(),
            cpu_source: String::new(),
        },
        ..Results::default()
    }
}

struct Runner<'a> {
    plan: &'a Plan,
    peers: Peers,
    values: Values,
    results: Results,
    say: &'a mut dyn FnMut(&str),
}

impl Runner<'_> {
    fn run_row(&mut self, spec: &RowSpec) {
        let mut row = Row {
            id: spec.id.into(),
            title: spec.title.into(),
            workload: spec.work.describe(),
            targets: spec.targets.clone(),
            ..Row::default()
        };
        let cpus = self.results.machine.cpus;
        if cpus < spec.cpus_min {
            row.skipped = Some(format!("needs {} CPUs, here are {cpus}", spec.cpus_min));
            (self.say)(&format!("{}: skipped: {}", row.id, row.skipped.as_deref().unwrap_or("")));
            self.results.rows.push(row);
            return;
        }
        row.subjects = spec.subjects.iter().map(|subject| self.subject(subject)).collect();
        for subject in &row.subjects {
            if let Some(why) = &subject.skipped {
                (self.say)(&format!("{}: {}: skipped: {why}", row.id, subject.label));
            }
        }
        for round in 0..self.plan.rounds {
            for turn in 0..row.subjects.len() {
                // Another one begins each round, so that none always follows the same other.
                let index = (turn + round) % row.subjects.len();
                if row.subjects[index].skipped.is_none() {
                    let heading = format!("{} {}/{}", row.id, round + 1, self.plan.rounds);
                    let sample = self.sample(spec, &spec.subjects[index], &heading);
                    row.subjects[index].samples.push(sample);
                }
            }
        }
        self.results.rows.push(row);
    }

    fn subject(&mut self, spec: &SubjectSpec) -> Subject {
        let recorded = self.peers.record(spec.peer, &self.values);
        let skipped = match recorded {
            Ok(record) => {
                self.results.peers.insert(spec.peer.into(), record);
                let cpus = self.results.machine.cpus;
                spec.threads
                    .filter(|threads| threads * 2 > cpus)
                    .map(|threads| format!("{threads} threads and their load on {cpus} CPUs"))
            }
            Err(error) => Some(error.to_string()),
        };
        Subject {
            label: spec.label.clone(),
            peer: spec.peer.into(),
            arguments: spec.arguments.clone(),
            skipped,
            samples: Vec::new(),
        }
    }

    /// One sample; what keeps it from being taken is a fault in it.
    fn sample(&mut self, spec: &RowSpec, subject: &SubjectSpec, heading: &str) -> Sample {
        let sample = self.try_sample(spec, subject).unwrap_or_else(|error| {
            (self.say)(&format!("{heading}  {}: {error}", subject.label));
            let faults = BTreeMap::from([("not measured".to_owned(), 1)]);
            Sample { faults, ..Sample::default() }
        });
        (self.say)(&format!("{heading}  {:<22} {}", subject.label, brief(&sample)));
        sample
    }

    fn try_sample(&mut self, spec: &RowSpec, subject: &SubjectSpec) -> Result<Sample, String> {
        let seat = Seat::of(self.plan, spec, subject);
        let mut values = self.values.clone();
        values.insert("threads".into(), seat.server.len().max(1).to_string());
        let ready_path = match &spec.work {
            Work::Load(work) => work.path,
            Work::Idle(_) => "/hello",
        };
        let start = Start {
            launcher: &self.plan.launcher,
            cpus: &seat.server,
            load_cpus: &seat.load,
            values: &values,
            arguments: &subject.arguments,
            ready_path,
            dir: &self.plan.work_dir.join(subject.peer),
        };
        let server =
            Server::start(&self.peers, subject.peer, &start).map_err(|error| error.to_string())?;
        self.results.settings.cpu_source = server.account().source().into();
        let measured = Measured {
            server: &server,
            plan: self.plan,
            server_cpus: seat.server.clone(),
            load_cpus: seat.load,
            hz: self.results.machine.accounting.hz,
            precise: self.results.machine.accounting.precise,
        };
        match &spec.work {
            Work::Load(work) => measured.load(work, subject.held),
            Work::Idle(count) => measured.idle(*count),
        }
    }
}

/// Who sits on which CPUs for one sample.
struct Seat {
    server: Vec<usize>,
    load: Vec<usize>,
}

impl Seat {
    fn of(plan: &Plan, spec: &RowSpec, subject: &SubjectSpec) -> Self {
        match (&spec.work, subject.threads) {
            (Work::Load(LoadWork { pinned: false, .. }), _) => {
                Self { server: Vec::new(), load: Vec::new() }
            }
            (_, Some(threads)) => {
                let all = crate::host::pin::allowed();
                let (server, load) = all.split_at(threads.min(all.len()));
                Self { server: server.to_vec(), load: load.to_vec() }
            }
            _ => Self { server: plan.server_cpus.clone(), load: plan.load_cpus.clone() },
        }
    }
}

/// A server under measurement.
struct Measured<'a> {
    server: &'a Server,
    plan: &'a Plan,
    server_cpus: Vec<usize>,
    load_cpus: Vec<usize>,
    hz: f64,
    precise: bool,
}

/// What a server and its CPUs have used at one moment.
#[derive(Clone, Copy)]
struct Reading {
    cpu: CpuTime,
    busy_us: f64,
    memory: Memory,
}

impl Measured<'_> {
    fn load(&self, work: &LoadWork, held: usize) -> Result<Sample, String> {
        let options = self.options(work, self.plan.warmup, self.plan.window);
        let held = Held::open(self.server.address, &options.requests[0], held)
            .map_err(|error| error.to_string())?;
        let (outcome, begin, end) = self.measure(&options);
        let cpu = end.cpu.since(begin.cpu);
        let mut sample = sample_of(&outcome);
        let cpus = self.cpus().len().max(1) as f64;
        let foreign_us =
            end.busy_us - begin.busy_us - cpu.total_us - outcome.cpu.as_secs_f64() * 1e6;
        sample.disturbed = (foreign_us / 1e6 / sample.elapsed_s / cpus).max(0.0);
        sample.cpu_us = cpu.total_us;
        sample.cpu_user_us = cpu.user_us;
        sample.cpu_user_error_us = if self.precise { 0.0 } else { cpu.user_error_us(self.hz) };
        sample.memory = end.memory;
        if held.lost() > 0 {
            sample.faults.insert("idle closed".into(), held.lost() as u64);
        }
        Ok(sample)
    }

    /// Loads, and reads at the window's two ends what the server and its CPUs have used.
    fn measure(&self, options: &Options) -> (Outcome, Reading, Reading) {
        let (account, cpus) = (self.server.account(), self.cpus());
        let mut readings = Vec::with_capacity(2);
        let outcome = load::run(options, &mut |_| {
            // The CPU time first: the window ends with it.
            let (cpu, busy_us) = (account.read(), busy_us(&cpus));
            readings.push(Reading { cpu, busy_us, memory: Memory::of(&self.server.pids()) });
        });
        (outcome, readings[0], readings[1])
    }

    /// The CPUs of server and generator; none where they are not pinned.
    fn cpus(&self) -> Vec<usize> {
        self.server_cpus.iter().chain(&self.load_cpus).copied().collect()
    }

    /// The memory before is that of a server that has been busy: what it grows by while it
    /// works is not the idle connections'.
    fn idle(&self, count: usize) -> Result<Sample, String> {
        let options = self.options(&LoadWork::hello(), Duration::ZERO, self.plan.warmup);
        let outcome = load::run(&options, &mut |_| {});
        let before = Memory::of(&self.server.pids());
        let held = Held::open(self.server.address, &options.requests[0], count)
            .map_err(|error| error.to_string())?;
        let memory = Memory::of(&self.server.pids());
        let mut faults = faults_of(&outcome);
        if held.lost() > 0 {
            faults.insert("idle closed".into(), held.lost() as u64);
        }
        let grown = memory.rss as f64 - before.rss as f64;
        let idle = Idle { connections: count as u64, bytes_each: grown / count as f64 };
        Ok(Sample { memory, faults, idle: Some(idle), ..Sample::default() })
    }

    fn options(&self, work: &LoadWork, warmup: Duration, window: Duration) -> Options {
        let body = match work.body {
            BodySpec::Hello => HELLO.to_vec(),
            BodySpec::User => USER.to_vec(),
            BodySpec::File(len) => file_bytes(len),
        };
        let host = self.server.address.to_string();
        let close = work.mode == Mode::Churn;
        let request = Request::get(&host, work.path, work.fields, close, Expect::ok(&body));
        Options {
            target: self.server.address,
            requests: vec![request],
            connections: work.connections,
            depth: work.depth,
            mode: work.mode,
            warmup,
            window,
            timeout: REPLY_TIMEOUT,
            faults_max: FAULTS_MAX,
            threads: self.load_cpus.len().max(1),
            cpus: self.load_cpus.clone(),
        }
    }
}

fn sample_of(outcome: &Outcome) -> Sample {
    Sample {
        replies: outcome.replies,
        elapsed_s: outcome.elapsed.as_secs_f64(),
        bytes: outcome.bytes,
        latency_us: Latency {
            p50: outcome.latency_us(0.5),
            p90: outcome.latency_us(0.9),
            p99: outcome.latency_us(0.99),
            p999: outcome.latency_us(0.999),
            p9999: outcome.latency_us(0.9999),
            max: outcome.latency.max() as f64 / 1000.0,
        },
        load_busy: outcome.busy(),
        load_limits: outcome.generator_limits(),
        unsent: outcome.unsent,
        reconnects: outcome.reconnects,
        faults: faults_of(outcome),
        ..Sample::default()
    }
}

fn faults_of(outcome: &Outcome) -> BTreeMap<String, u64> {
    let mut faults: BTreeMap<String, u64> =
        outcome.faults.iter().map(|(fault, count)| (fault.to_string(), *count)).collect();
    if outcome.replies == 0 {
        faults.insert("no reply at all".into(), 1);
    }
    faults
}

fn brief(sample: &Sample) -> String {
    let mut parts = Vec::new();
    if sample.elapsed_s > 0.0 {
        let rate = sample.replies as f64 / sample.elapsed_s;
        let cpu = sample.cpu_us / sample.replies.max(1) as f64;
        let Latency { p50, p99, .. } = sample.latency_us;
        parts.push(format!("{rate:>9.0}/s  p50 {p50:>7.1}  p99 {p99:>7.1}  cpu {cpu:>6.2} us"));
    }
    if let Some(idle) = sample.idle {
        parts.push(format!("{:.0} bytes an idle connection", idle.bytes_each));
    }
    if sample.load_limits {
        parts.push("load-limited".into());
    }
    if sample.disturbed > DISTURBED_MAX {
        parts.push(format!("disturbed {:.0}%", sample.disturbed * 100.0));
    }
    if !sample.faults.is_empty() {
        parts.push(format!("FAULTS {:?}", sample.faults));
    }
    parts.join("  ")
}

/// The same bytes each time, and none that a server would take for its own.
fn file_bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| b'a' + ((index * 7 + index / 251) % 26) as u8).collect()
}

fn write_assets(dir: &Path) -> Result<(), PeerError> {
    fs::create_dir_all(dir.join("files"))?;
    for (name, len) in FILES {
        fs::write(dir.join("files").join(name), file_bytes(len))?;
    }
    fs::write(dir.join("hello"), HELLO)?;
    Ok(())
}

fn user_name() -> String {
    std::env::var("USER").unwrap_or_else(|_| "root".into())
}

/// The commit of the tree that this is run in, with a mark where it was changed.
fn commit() -> String {
    let said = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    match said {
        Ok(said) if said.status.success() => String::from_utf8_lossy(&said.stdout).trim().into(),
        _ => "unknown".into(),
    }
}

/// How long a plan takes, roughly: for the greeting.
pub fn estimate(plan: &Plan) -> Duration {
    let subjects: usize = chosen(plan).iter().map(|row| row.subjects.len()).sum();
    // Start, stop and the drain take about half a second beside the load.
    (plan.warmup + plan.window + Duration::from_millis(500)) * (subjects * plan.rounds) as u32
}

/// Elapsed time in minutes and seconds.
pub fn minutes(since: Instant) -> String {
    let seconds = since.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
