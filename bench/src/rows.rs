//! What is measured: the work of each row, who does it, and what is hoped for.

use crate::load::{Arrivals, Fields, Mode, Refill};
use crate::results::{Metric, Target};

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// About ten minutes in all.
    Quick,
    /// Everything.
    Full,
}

/// A row to measure.
#[derive(Clone, Debug)]
pub struct RowSpec {
    /// Its short name, for `--rows`.
    pub id: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// The least tier that has it.
    pub tier: Tier,
    /// What is done.
    pub work: Work,
    /// Who does it.
    pub subjects: Vec<SubjectSpec>,
    /// What is hoped for.
    pub targets: Vec<Target>,
    /// CPUs that the machine must have.
    pub cpus_min: usize,
}

/// A server in one form.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectSpec {
    /// What tables call it.
    pub label: String,
    /// The peer's name.
    pub peer: &'static str,
    /// Arguments besides the peer's own.
    pub arguments: Vec<String>,
    /// The least tier that has it.
    pub tier: Tier,
    /// Connections held idle beside the load.
    pub held: usize,
    /// CPUs and threads of the server; none: the run's server CPUs, one thread.
    pub threads: Option<usize>,
}

/// What is done with a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Load; its rate, latency and cost.
    Load(LoadWork),
    /// So many connections that ask once and stay: the memory of each.
    Idle(usize),
}

/// A load.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadWork {
    /// The path asked for.
    pub path: &'static str,
    /// What comes back.
    pub body: BodySpec,
    /// Connections that work.
    pub connections: usize,
    /// Requests in flight on each.
    pub depth: u32,
    /// When requests are sent.
    pub mode: Mode,
    /// The request's fields.
    pub fields: Fields,
    /// Server and generator on CPUs of their own; else both where the scheduler puts them.
    pub pinned: bool,
}

/// What a path gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodySpec {
    /// `Hello, World!`
    Hello,
    /// [`USER`], which the program makes for the request.
    User,
    /// A file of the assets, of so many bytes.
    File(usize),
}

/// The body of `/hello` everywhere.
pub const HELLO: &[u8] = b"Hello, World!";

/// The body of `/users/7` everywhere that has it.
pub const USER: &[u8] = br#"{"id":7,"name":"user 7"}"#;

impl LoadWork {
    /// The usual load: `GET /hello` over kept connections, one request at a time on each.
    pub(crate) fn hello() -> Self {
        Self {
            path: "/hello",
            body: BodySpec::Hello,
            connections: 64,
            depth: 1,
            mode: Mode::Closed(Refill::Batch),
            fields: Fields::Plain,
            pinned: true,
        }
    }

    fn file(path: &'static str, len: usize, connections: usize) -> Self {
        Self { path, body: BodySpec::File(len), connections, ..Self::hello() }
    }

    fn at_rate(rate: f64) -> Self {
        Self { mode: Mode::Open(rate, Arrivals::Poisson), ..Self::hello() }
    }

    /// In words.
    pub fn describe(&self) -> String {
        let mode = match self.mode {
            Mode::Closed(_) => String::new(),
            Mode::Open(rate, Arrivals::Even) => format!(", {rate} requests/s, evenly"),
            Mode::Open(rate, Arrivals::Poisson) => format!(", {rate} requests/s, Poisson"),
            Mode::Churn => ", a connection for each request".into(),
        };
        let fields = match self.fields {
            Fields::Plain => "",
            Fields::Browser => ", a browser's header fields",
        };
        let depth = match self.depth {
            1 => String::new(),
            depth => format!(", pipelined {depth} deep"),
        };
        let pinned = if self.pinned { "" } else { ", unpinned" };
        let Self { path, connections, .. } = self;
        format!("GET {path}, {connections} connections{depth}{fields}{mode}{pinned}")
    }
}

impl Work {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Load(work) => work.describe(),
            Self::Idle(count) => format!("{count} connections, one GET /hello each, then idle"),
        }
    }
}

impl SubjectSpec {
    fn new(peer: &'static str) -> Self {
        Self {
            label: peer.into(),
            peer,
            arguments: Vec::new(),
            tier: Tier::Quick,
            held: 0,
            threads: None,
        }
    }

    fn full(peer: &'static str) -> Self {
        Self { tier: Tier::Full, ..Self::new(peer) }
    }

    /// emberd with some of its config set otherwise.
    fn emberd(label: &str, settings: &[&str]) -> Self {
        let set = |setting: &&str| ["--set".to_owned(), (*setting).to_owned()];
        Self {
            label: label.into(),
            arguments: settings.iter().flat_map(set).collect(),
            ..Self::new("emberd")
        }
    }
}

fn ratio(metric: Metric, subject: &str, versus: &str, bound: f64) -> Target {
    Target { metric, subject: subject.into(), versus: Some(versus.into()), bound }
}

fn bound(metric: Metric, subject: &str, bound: f64) -> Target {
    Target { metric, subject: subject.into(), versus: None, bound }
}

/// Every row, in the order in which they run.
pub fn all() -> Vec<RowSpec> {
    let mut rows = hello_rows();
    rows.push(users_row());
    rows.extend(connection_rows());
    rows.extend(form_rows());
    rows.extend(ring_rows());
    rows.extend(latency_rows());
    rows.extend(file_rows());
    rows.extend(proxy_rows());
    rows.extend(scaling_rows());
    rows
}

fn row(id: &'static str, title: &'static str, work: Work, subjects: Vec<SubjectSpec>) -> RowSpec {
    RowSpec { id, title, tier: Tier::Quick, work, subjects, targets: Vec::new(), cpus_min: 2 }
}

fn everyone() -> Vec<SubjectSpec> {
    let quick = [
        "emberd",
        "floor",
        "nginx",
        "nginx-log",
        "h2o",
        "haproxy",
        "hyper",
        "axum",
        "actix-web",
        "fasthttp",
    ];
    let full = ["express", "nestjs", "fastapi"];
    quick.map(SubjectSpec::new).into_iter().chain(full.map(SubjectSpec::full)).collect()
}

fn pipeliners() -> Vec<SubjectSpec> {
    let mut subjects = vec![SubjectSpec::new("emberd"), SubjectSpec::new("nginx")];
    subjects.extend(["hyper", "actix-web", "fasthttp", "h2o"].map(SubjectSpec::full));
    subjects
}

fn hello_rows() -> Vec<RowSpec> {
    let pipelined = LoadWork { depth: 16, ..LoadWork::hello() };
    let browser = LoadWork { fields: Fields::Browser, ..pipelined.clone() };
    let seed = LoadWork { connections: 200, ..LoadWork::hello() };
    let unpinned = LoadWork { pinned: false, ..seed.clone() };
    vec![
        RowSpec {
            targets: vec![
                ratio(Metric::Cpu, "emberd", "nginx", 0.72),
                ratio(Metric::Cpu, "emberd", "nginx-log", 0.72),
                bound(Metric::CpuUser, "emberd", 0.30),
                bound(Metric::Rss, "emberd", 10e6),
            ],
            ..row("hello", "A prepared reply", Work::Load(LoadWork::hello()), everyone())
        },
        RowSpec {
            targets: vec![ratio(Metric::PerCpuSecond, "emberd", "nginx", 8.0)],
            ..row("pipelined", "Pipelined requests", Work::Load(pipelined), pipeliners())
        },
        RowSpec {
            targets: vec![ratio(Metric::PerCpuSecond, "emberd", "nginx", 5.0)],
            ..row("browser", "Pipelined browser requests", Work::Load(browser), pipeliners())
        },
        RowSpec {
            tier: Tier::Full,
            ..row("hello-200", "200 clients, pinned", Work::Load(seed), everyone())
        },
        RowSpec {
            tier: Tier::Full,
            ..row("hello-200-unpinned", "200 clients, unpinned", Work::Load(unpinned), everyone())
        },
    ]
}

fn users_row() -> RowSpec {
    let work = LoadWork { path: "/users/7", body: BodySpec::User, ..LoadWork::hello() };
    let subjects = ["ember", "hyper", "axum", "fasthttp"].map(SubjectSpec::new).to_vec();
    RowSpec {
        targets: vec![
            ratio(Metric::Cpu, "ember", "axum", 0.75),
            ratio(Metric::Cpu, "ember", "hyper", 1.0),
        ],
        ..row("users", "A reply made by a handler", Work::Load(work), subjects)
    }
}

fn connection_rows() -> Vec<RowSpec> {
    let pair = || vec![SubjectSpec::new("emberd"), SubjectSpec::new("nginx")];
    let idle = SubjectSpec {
        label: "emberd, 10000 idle".into(),
        held: 10_000,
        ..SubjectSpec::new("emberd")
    };
    let churn = LoadWork { mode: Mode::Churn, ..LoadWork::hello() };
    let mut churners = pair();
    churners.extend(["haproxy", "h2o", "hyper"].map(SubjectSpec::full));
    vec![
        RowSpec {
            targets: vec![bound(Metric::IdleBytes, "emberd", 300.0)],
            ..row("idle", "Memory of idle connections", Work::Idle(10_000), pair())
        },
        RowSpec {
            targets: vec![ratio(Metric::Rate, "emberd, 10000 idle", "emberd", 0.95)],
            ..row(
                "idle-busy",
                "64 connections at work beside 10,000 idle ones",
                Work::Load(LoadWork::hello()),
                vec![SubjectSpec::new("emberd"), idle],
            )
        },
        row("churn", "A new connection for each request", Work::Load(churn), churners),
    ]
}

fn form_rows() -> Vec<RowSpec> {
    let forms = || {
        vec![
            SubjectSpec::emberd("linked", &["ring.form=linked", "ring.poll_first=false"]),
            SubjectSpec::emberd(
                "linked, poll first",
                &["ring.form=linked", "ring.poll_first=true"],
            ),
            SubjectSpec::emberd("unlinked", &["ring.form=unlinked", "ring.poll_first=false"]),
            SubjectSpec::emberd(
                "unlinked, poll first",
                &["ring.form=unlinked", "ring.poll_first=true"],
            ),
            SubjectSpec::emberd("multishot", &["ring.form=multishot"]),
        ]
    };
    let backends = vec![
        SubjectSpec::emberd("io_uring", &["ring.backend=io_uring"]),
        SubjectSpec::emberd("epoll", &["ring.backend=epoll"]),
    ];
    let pipelined = LoadWork { depth: 16, ..LoadWork::hello() };
    vec![
        row("forms", "What linking buys", Work::Load(LoadWork::hello()), forms()),
        row("forms-pipelined", "What linking buys, pipelined", Work::Load(pipelined), forms()),
        row("backends", "io_uring beside epoll", Work::Load(LoadWork::hello()), backends),
    ]
}

/// What the ring's options and chains change, each beside its opposite.
fn ring_rows() -> Vec<RowSpec> {
    const KIB: usize = 1024;
    let bare = |label: &str, words: &[&str]| SubjectSpec {
        label: label.into(),
        arguments: words.iter().map(|word| (*word).to_owned()).collect(),
        ..SubjectSpec::new("floor")
    };
    let armed = || {
        vec![
            bare("reply, then receive", &["try-first"]),
            bare("armed reply", &["try-first", "armed"]),
        ]
    };
    let bodies = |id, title, path, len, connections| {
        let files = |label, settings: &[&str]| SubjectSpec {
            peer: "emberd-files",
            ..SubjectSpec::emberd(label, settings)
        };
        let subjects =
            vec![files("by copy", &[]), files("without a copy", &["ring.zero_copy_min=32KiB"])];
        row(id, title, Work::Load(LoadWork::file(path, len, connections)), subjects)
    };
    let churn = LoadWork { mode: Mode::Churn, ..LoadWork::hello() };
    let shared = vec![
        SubjectSpec::emberd("a buffer a receive", &[]),
        SubjectSpec::emberd("shared buffers", &["ring.incremental=true"]),
        SubjectSpec::emberd(
            "min-wait 50 us, 16",
            &["ring.min_wait=50us", "ring.min_completions=16"],
        ),
    ];
    let ends = vec![
        SubjectSpec::emberd("close", &["ring.shutdown_last=false"]),
        SubjectSpec::emberd("shutdown, close", &["ring.shutdown_last=true"]),
        SubjectSpec::new("nginx"),
    ];
    let rows = vec![
        row("armed", "An armed reply beside a plain one", Work::Load(LoadWork::hello()), armed()),
        row(
            "armed-20k",
            "The same at 20,000 requests/s",
            Work::Load(LoadWork::at_rate(20_000.0)),
            armed(),
        ),
        row("last-words", "How a last reply is followed by its end", Work::Load(churn), ends),
        row("ring-options", "Options of the ring", Work::Load(LoadWork::hello()), shared),
        bodies("zero-copy-64k", "64 KiB without a copy, loopback", "/files/64k", 64 * KIB, 64),
        bodies("zero-copy-1m", "1 MiB without a copy, loopback", "/files/1m", KIB * KIB, 16),
    ];
    rows.into_iter().map(|row| RowSpec { tier: Tier::Full, ..row }).collect()
}

fn latency_rows() -> Vec<RowSpec> {
    let one = |id, title, rate, tier| RowSpec {
        tier,
        ..row(
            id,
            title,
            Work::Load(LoadWork::at_rate(rate)),
            ["emberd", "nginx", "hyper"].map(SubjectSpec::new).to_vec(),
        )
    };
    vec![
        one("latency-10k", "Latency at 10,000 requests/s", 10_000.0, Tier::Full),
        one("latency-25k", "Latency at 25,000 requests/s", 25_000.0, Tier::Quick),
        one("latency-50k", "Latency at 50,000 requests/s", 50_000.0, Tier::Full),
    ]
}

fn proxy_rows() -> Vec<RowSpec> {
    let subjects = || {
        let each =
            [("emberd", "emberd-proxy"), ("nginx", "nginx-proxy"), ("haproxy", "haproxy-proxy")];
        each.map(|(label, peer)| SubjectSpec { label: label.into(), ..SubjectSpec::new(peer) })
    };
    let cached = LoadWork { path: "/cached/hello", connections: 1000, ..LoadWork::hello() };
    vec![
        RowSpec {
            targets: vec![
                ratio(Metric::Cpu, "emberd", "nginx", 0.80),
                ratio(Metric::Cpu, "emberd", "haproxy", 0.80),
            ],
            ..row(
                "proxy",
                "A request passed on to a local upstream over kept connections",
                Work::Load(LoadWork::hello()),
                subjects().to_vec(),
            )
        },
        row(
            "proxy-cached",
            "1,000 connections that ask for a key of the proxy's cache, cold at first",
            Work::Load(cached),
            subjects()[..2].to_vec(),
        ),
    ]
}

fn file_rows() -> Vec<RowSpec> {
    const KIB: usize = 1024;
    let work = |path, len, connections| Work::Load(LoadWork::file(path, len, connections));
    let from = |peer| SubjectSpec { label: "emberd".into(), ..SubjectSpec::new(peer) };
    let beside_nginx = |peer| vec![from(peer), SubjectSpec::new("nginx")];
    // The same paths: one config has the files as prepared bodies, the other serves them.
    let served = |id, title, path, len, connections| RowSpec {
        targets: vec![ratio(Metric::Cpu, "emberd", "nginx", 1.0)],
        ..row(id, title, work(path, len, connections), beside_nginx("emberd-static"))
    };
    vec![
        served("files-1k", "A file of 1 KiB", "/files/1k", KIB, 64),
        served("files-64k", "A file of 64 KiB", "/files/64k", 64 * KIB, 64),
        served("files-1m", "A file of 1 MiB", "/files/1m", KIB * KIB, 16),
        row(
            "prepared-1m",
            "A prepared body of 1 MiB beside nginx's sendfile",
            work("/files/1m", KIB * KIB, 16),
            beside_nginx("emberd-files"),
        ),
        RowSpec {
            tier: Tier::Full,
            ..row(
                "prepared-64k",
                "A prepared body of 64 KiB beside nginx's sendfile",
                work("/files/64k", 64 * KIB, 64),
                beside_nginx("emberd-files"),
            )
        },
    ]
}

/// On a machine with CPUs to spare: the server on 1, 2, 4 … of them.
fn scaling_rows() -> Vec<RowSpec> {
    let subjects = [1, 2, 4, 8, 16, 32, 64]
        .into_iter()
        .map(|threads| SubjectSpec {
            label: format!("emberd, {threads} threads"),
            threads: Some(threads),
            tier: Tier::Full,
            ..SubjectSpec::new("emberd")
        })
        .collect();
    let work = LoadWork { connections: 512, ..LoadWork::hello() };
    vec![RowSpec {
        tier: Tier::Full,
        cpus_min: 4,
        ..row("scaling", "Over threads", Work::Load(work), subjects)
    }]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::peers::Peers;

    #[test]
    fn ids_are_unique_and_targets_name_their_subjects() {
        let rows = all();
        let ids: BTreeSet<_> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), rows.len());
        for row in &rows {
            let has = |label: &String| row.subjects.iter().any(|one| one.label == *label);
            for target in &row.targets {
                assert!(has(&target.subject), "{}", row.id);
                assert!(target.versus.as_ref().is_none_or(has), "{}", row.id);
            }
        }
    }

    #[test]
    fn every_subject_is_a_known_peer() {
        let peers = Peers::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")).unwrap();
        for subject in all().iter().flat_map(|row| &row.subjects) {
            peers.find(subject.peer).expect("in peers.toml");
        }
    }
}
