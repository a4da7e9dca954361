//! Both text formats, held against readers that know nothing of the writers: the strict one of
//! `oracle`, Prometheus's `promtool` and the reference parsers of its Python client.

mod oracle;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use ember_metrics::{
    BUCKETS_NS, Board, CATALOGUE, CacheResult, Chain, Family, Format, Key, Kind, Method, NameId,
    Page, Pages, PathKind, SendResult, scrape,
};
use oracle::Labels;
use proptest::prelude::*;

/// A server that has used every family, with a label value that needs escapes.
fn everything() -> Pages {
    let pages = Pages::create(3, ember_metrics::CAPACITY_DEFAULT).unwrap();
    let mut board = Board { pids: vec![std::process::id()], ..Board::default() };
    let odd = board.names.intern("/odd \"quoted\" \\ back\nline {a=\"b\",} # ü");
    let plain = board.names.intern("/hello");
    let facts = &mut board.facts;
    facts.build("0.1.0").backend("io_uring", "asked for\nwith \"quotes\"");
    facts.add(Family::ConfigLastReloadSuccessTimestamp, &[], 1_795_000_000.5);
    for index in 0..2 {
        let mut page = pages.page(index).unwrap();
        for name in [odd, plain, NameId::UNMATCHED] {
            fill(&mut page, name, index as u16);
        }
    }
    pages.post(&board).unwrap();
    pages
}

fn fill(page: &mut Page, name: NameId, worker: u16) {
    let counters = [
        Key::http_requests(name, Method::Get, 200, PathKind::Prepared),
        Key::http_requests(name, Method::Other, 404, PathKind::Error),
        Key::http_response_bytes(name),
        Key::connections_accepted(name, worker),
        Key::connections_closed(name, worker, name),
        Key::connections_pauses(name, worker, name),
        Key::access_log_dropped(worker),
        Key::parse_errors(name),
        Key::rate_limited(name),
        Key::http_requests_shed(name),
        Key::prepared_sends(name, Chain::ReplyRecv, SendResult::Queued),
        Key::prepared_fallthrough(name),
        Key::uring_sqe_submitted(worker),
        Key::uring_cqe(worker, name, name),
        Key::uring_enter(worker),
        Key::uring_cq_overflow(worker),
        Key::uring_buffers_exhausted(worker),
        Key::cache_requests(name, CacheResult::Coalesced),
        Key::upstream_requests(name, 502),
        Key::worker_restarts(worker),
        Key::worker_cpu(worker, Some(1)),
    ];
    for key in counters {
        let counter = page.counter(key);
        page.add(counter, 1_234_567);
    }
    let gauges = [
        Key::http_requests_in_flight(),
        Key::connections_active(name, worker),
        Key::connections_paused(name, worker),
        Key::upstream_up(name),
        Key::tune_drift(name),
        Key::irq_misaligned(name),
        Key::config_last_reload_success(),
    ];
    for key in gauges {
        let gauge = page.gauge(key);
        page.set(gauge, -3);
    }
    let histogram = page.histogram(Key::http_request_duration(name, PathKind::Prepared));
    for (n, bound_ns) in BUCKETS_NS.into_iter().enumerate() {
        page.observe_many(histogram, bound_ns, n as u64);
        page.observe(histogram, bound_ns + 1);
    }
}

#[test]
fn both_formats_are_read_strictly_and_say_the_same() {
    let pages = everything();
    let text = oracle::parse(&scrape(&pages, Format::Text), false);
    let open_metrics = oracle::parse(&scrape(&pages, Format::OpenMetrics), true);
    assert_eq!(text.len(), CATALOGUE.len());
    assert_eq!(open_metrics.len(), CATALOGUE.len());
    for description in &CATALOGUE {
        let one = &text[description.name];
        let other = &open_metrics[description.name.trim_end_matches("_total")];
        assert_eq!((&one.kind, &one.help), (&other.kind, &other.help));
        assert_eq!(one.help, description.help);
        let mut labels: Vec<&str> = description.labels.iter().map(|l| l.name()).collect();
        labels.sort_unstable();
        for (_, found) in one.samples.keys() {
            assert!(found.keys().map(String::as_str).filter(|l| *l != "le").eq(labels.clone()));
        }
        if description.name.starts_with("process_") {
            continue; // read twice, at two times
        }
        assert_eq!(by_number(&one.samples), by_number(&other.samples), "{}", description.name);
    }
}

/// Samples with their bounds as numbers: the two formats write those differently.
fn by_number(samples: &BTreeMap<(String, Labels), f64>) -> BTreeMap<(String, Labels), f64> {
    let same = |((name, labels), value): (&(String, Labels), &f64)| {
        let mut labels = labels.clone();
        if let Some(bound) = labels.get_mut("le") {
            *bound = bound.parse::<f64>().unwrap().to_string();
        }
        ((name.clone(), labels), *value)
    };
    samples.iter().map(same).collect()
}

#[test]
fn sums_are_those_of_what_was_counted() {
    let text = oracle::parse(&scrape(&everything(), Format::Text), false);
    let sample = |name: &str, labels: &[(&str, &str)]| {
        let family = text.iter().rev().find(|(family, _)| name.starts_with(&***family)).unwrap().1;
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        family.samples[&(name.to_owned(), labels)]
    };
    let requests = [("route", "/hello"), ("method", "GET"), ("code", "200")];
    let requests = [&requests[..], &[("path_kind", "prepared")]].concat();
    assert_eq!(sample("emberd_http_requests_total", &requests), 2.0 * 1_234_567.0);
    assert_eq!(sample("emberd_http_requests_in_flight", &[]), -6.0);
    let cpu = [("worker", "1"), ("numa_node", "1")];
    assert_eq!(sample("emberd_worker_cpu_seconds_total", &cpu), 3.0 * 0.001_234_567);
    let duration = [("route", "/hello"), ("path_kind", "prepared")];
    let name = "emberd_http_request_duration_seconds";
    let n = BUCKETS_NS.len() as u64;
    let count = 2 * (n * (n - 1) / 2 + n);
    assert_eq!(sample(&format!("{name}_count"), &duration), count as f64);
    let expected_ns: u64 =
        BUCKETS_NS.iter().enumerate().map(|(n, ns)| 2 * (n as u64 * ns + ns + 1)).sum();
    let sum = sample(&format!("{name}_sum"), &duration);
    assert!((sum - expected_ns as f64 / 1e9).abs() < 1e-6, "{sum}");
    let at_1ms = [&duration[..], &[("le", "0.001")]].concat();
    // Bounds 0 to 6 are at most 1 ms; an observation just above a bound is in the next bucket.
    assert_eq!(sample(&format!("{name}_bucket"), &at_1ms), 2.0 * (21.0 + 6.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_label_value_and_count_comes_back(
        route in "\\PC{0,60}|[\\\\\"\n\t{},=# a]{0,12}",
        counts in prop::collection::vec(0u64..1 << 50, 1..4),
    ) {
        let pages = Pages::create(counts.len(), 512).unwrap();
        let mut board = Board::default();
        let id = board.names.intern(&format!("{route}."));
        pages.post(&board).unwrap();
        for (index, n) in counts.iter().enumerate() {
            let mut page = pages.page(index).unwrap();
            let counter = page.counter(Key::http_response_bytes(id));
            page.add(counter, *n);
        }
        for (format, open_metrics) in [(Format::Text, false), (Format::OpenMetrics, true)] {
            let written = scrape(&pages, format);
            let families = oracle::parse(&written, open_metrics);
            let samples = &families.values().next().unwrap().samples;
            let expected = counts.iter().sum::<u64>() as f64;
            let labels = Labels::from([("route".to_owned(), format!("{route}."))]);
            let name = "emberd_http_response_bytes_total".to_owned();
            prop_assert_eq!(samples, &BTreeMap::from([((name, labels), expected)]));
        }
    }
}

#[test]
fn promtool_accepts_the_text() {
    let Some(problems) =
        pipe("promtool", &["check", "metrics"], &scrape(&everything(), Format::Text))
    else {
        return println!("skipped: no promtool here (Debian's package `prometheus`)");
    };
    assert_eq!(problems, "");
}

#[test]
fn the_python_client_reads_both() {
    // Debian's own interpreter, which sees Debian's packages.
    let python = "/usr/bin/python3";
    let have = Command::new(python).args(["-c", "import prometheus_client"]).output();
    if !have.is_ok_and(|output| output.status.success()) {
        return println!("skipped: no python3-prometheus-client here");
    }
    let script = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as om\n\
        from prometheus_client.parser import text_string_to_metric_families as text\n\
        families = list((om if sys.argv[1] == 'om' else text)(sys.stdin.read()))\n\
        assert len(families) == int(sys.argv[2]), len(families)\n\
        odd = '/odd \"quoted\" \\\\ back\\nline {a=\"b\",} # ü'\n\
        samples = [s for f in families for s in f.samples if s.labels.get('route') == odd]\n\
        assert len(samples) >= 20, samples\n";
    for (name, format) in [("text", Format::Text), ("om", Format::OpenMetrics)] {
        let families = CATALOGUE.len().to_string();
        let written = scrape(&everything(), format);
        let said = pipe(python, &["-c", script, name, &families], &written);
        assert_eq!(said.as_deref(), Some(""), "{name}");
    }
}

#[test]
fn kinds_without_samples_are_left_out() {
    let pages = Pages::create(1, 512).unwrap();
    assert_eq!(scrape(&pages, Format::OpenMetrics), "# EOF\n");
    let with_histogram = CATALOGUE.iter().any(|line| line.kind == Kind::Histogram);
    assert!(with_histogram && scrape(&pages, Format::Text).is_empty());
}

/// What a program says to an input, and to its failing; none where there is no such program.
fn pipe(program: &str, arguments: &[&str], input: &str) -> Option<String> {
    let started = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.ok()?;
    // A program that refuses early stops reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let mut said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if !output.status.success() {
        said += &output.status.to_string();
    }
    Some(said)
}
