//! Real processes that write their pages while another one reads.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ember_metrics::{Board, Family, Format, Key, Method, NameId, Pages, PathKind, scrape};

mod oracle;

const ROLE: &str = "EMBER_METRICS_TEST_WRITER";
/// Long enough for any load; only what never ends at all fails by it.
const STUCK: Duration = Duration::from_secs(600);
const ROUTE: NameId = NameId(2);

fn requests() -> Key {
    Key::http_requests(ROUTE, Method::Get, 200, PathKind::Dynamic)
}

/// Not a test of its own: what the writing processes run.
#[test]
fn writer() -> io::Result<()> {
    let Ok(role) = std::env::var(ROLE) else { return Ok(()) };
    let numbers: Vec<u64> = role.split(' ').map(|number| number.parse().unwrap()).collect();
    let [index, rounds] = numbers[..] else { panic!("{role}") };
    let pages = Pages::from_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut page = pages.page(index as usize)?;
    let counter = page.counter(requests());
    let histogram = page.histogram(Key::http_request_duration(ROUTE, PathKind::Dynamic));
    let in_flight = page.gauge(Key::http_requests_in_flight());
    let mut round = 0;
    while round < rounds {
        page.up(in_flight);
        page.add(counter, 1);
        page.observe(histogram, 15_000 + round % 7 * 1_000_000);
        page.down(in_flight);
        if round.is_multiple_of(1024) {
            // New series while others are read.
            let extra = page.counter(Key::upstream_requests(ROUTE, (round / 1024 % 400) as u16));
            page.add(extra, 1);
        }
        round += 1;
    }
    Ok(())
}

/// A writing process, which does not outlive its test.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(pages: &Pages, index: usize, rounds: u64) -> Writer {
    let fd = pages.as_fd().try_clone_to_owned().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer"])
        .env(ROLE, format!("{index} {rounds}"))
        .stdin(Stdio::from(fd))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Writer(child)
}

fn pages_with_names(threads: usize) -> Pages {
    let pages = Pages::create(threads, 1024).unwrap();
    let mut board = Board::default();
    assert_eq!(board.names.intern("/tasks"), ROUTE);
    pages.post(&board).unwrap();
    pages
}

fn sum(pages: &Pages) -> u64 {
    pages.sum(Family::HttpRequests, 0..pages.threads()).cast_unsigned()
}

#[test]
fn reading_beside_writers_never_shows_less_or_nonsense() {
    let pages = pages_with_names(4);
    let mut writers: Vec<Writer> = (0..4).map(|index| start(&pages, index, u64::MAX)).collect();
    let deadline = Instant::now() + STUCK;
    let mut last = BTreeMap::new();
    let mut reads = 0;
    while reads < 100 || (0..4).any(|index| pages.sum(Family::HttpRequests, [index]) < 10_000) {
        assert!(Instant::now() < deadline, "the writers do not write");
        // The oracle checks the buckets against the count.
        let families = oracle::parse(&scrape(&pages, Format::OpenMetrics), true);
        let counters = families.into_values().filter(|family| family.kind != "gauge");
        let samples: BTreeMap<_, _> = counters.flat_map(|family| family.samples).collect();
        for (series, before) in &last {
            assert!(samples[series] >= *before, "{series:?} went from {before} down");
        }
        last = samples;
        reads += 1;
    }
    for writer in &mut writers {
        assert!(writer.0.try_wait().unwrap().is_none(), "a writer ended");
    }
}

#[test]
fn nothing_is_lost_over_processes() {
    let pages = pages_with_names(4);
    let rounds = 50_000;
    let writers: Vec<Writer> = (0..4).map(|index| start(&pages, index, rounds)).collect();
    for mut writer in writers {
        assert!(writer.0.wait().unwrap().success());
    }
    assert_eq!(sum(&pages), 4 * rounds);
    assert_eq!(pages.sum(Family::HttpRequestsInFlight, 0..4), 0);
    let expected_extra = 4 * rounds.div_ceil(1024);
    assert_eq!(pages.sum(Family::UpstreamRequests, 0..4).cast_unsigned(), expected_extra);
    let families = oracle::parse(&scrape(&pages, Format::Text), false);
    let durations = &families["emberd_http_request_duration_seconds"].samples;
    let count = durations.iter().find(|((name, _), _)| name.ends_with("_count")).unwrap().1;
    assert_eq!(*count, 4.0 * rounds as f64);
}

#[test]
fn the_successor_of_a_killed_writer_goes_on() {
    let pages = pages_with_names(1);
    let mut writer = start(&pages, 0, u64::MAX);
    let deadline = Instant::now() + STUCK;
    while sum(&pages) < 10_000 {
        assert!(Instant::now() < deadline, "the writer does not write");
        assert!(writer.0.try_wait().unwrap().is_none(), "the writer ended");
        std::thread::yield_now();
    }
    writer.0.kill().unwrap();
    writer.0.wait().unwrap();
    let left = sum(&pages);
    pages.reset_gauges(0);
    assert_eq!(pages.sum(Family::HttpRequestsInFlight, [0]), 0);
    let mut successor = start(&pages, 0, 5_000);
    assert!(successor.0.wait().unwrap().success());
    assert_eq!(sum(&pages), left + 5_000);
}

#[test]
fn what_is_not_used_is_not_resident() {
    let pages = Pages::create(256, 4096).unwrap();
    let mut page = pages.page(200).unwrap();
    let counter = page.counter(requests());
    page.add(counter, 1);
    scrape(&pages, Format::Text);
    // Pages of the file that exist at all, in units of 512 bytes: the head, and one page table.
    let metadata = std::fs::File::from(pages.as_fd().try_clone_to_owned().unwrap()).metadata();
    let metadata = metadata.unwrap();
    let resident = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(metadata.len() > 16 << 20, "{}", metadata.len());
    assert!(resident <= 4 * 4096, "{resident} bytes are resident");
}
