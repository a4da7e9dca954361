//! What a scrape of 16 busy threads costs, and what counting costs:
//! `cargo run --release -p ember-metrics --example scrape_cost`

use std::hint::black_box;
use std::time::{Duration, Instant};

use ember_metrics::{Board, Chain, Format, Key, Method, Pages, PathKind, SendResult, scrape};

const THREADS: usize = 16;
const ROUTES: usize = 20;
const SCRAPES: usize = 200;
const ADDS: u64 = 100_000_000;

fn main() -> std::io::Result<()> {
    let pages = Pages::create(THREADS + 1, ember_metrics::CAPACITY_DEFAULT)?;
    let mut board = Board { pids: vec![std::process::id(); 2], ..Board::default() };
    let routes: Vec<_> = (0..ROUTES).map(|n| board.names.intern(&format!("/r{n}"))).collect();
    pages.post(&board)?;
    for index in 0..THREADS {
        let mut page = pages.page(index)?;
        for &route in &routes {
            for code in [200, 304, 400, 404, 500] {
                let key = Key::http_requests(route, Method::Get, code, PathKind::Dynamic);
                let counter = page.counter(key);
                page.add(counter, 1);
            }
            let key = Key::prepared_sends(route, Chain::ReplyRecv, SendResult::Queued);
            page.counter(key);
            let key = Key::http_request_duration(route, PathKind::Dynamic);
            let histogram = page.histogram(key);
            page.observe(histogram, 123_456);
        }
    }
    for format in [Format::Text, Format::OpenMetrics] {
        let mut times: Vec<Duration> = (0..SCRAPES)
            .map(|_| {
                let start = Instant::now();
                black_box(scrape(&pages, format));
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        let text = scrape(&pages, format);
        let (median, worst) = (times[SCRAPES / 2], times[SCRAPES - 1]);
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        println!("{format:?}: {lines} samples, {} bytes", text.len());
        println!("  {THREADS} threads: median {median:?}, worst {worst:?}");
    }

    let mut page = pages.page(THREADS)?;
    let counter = page.counter(Key::http_response_bytes(routes[0]));
    let histogram = page.histogram(Key::http_request_duration(routes[0], PathKind::Prepared));
    report("add", || page.add(black_box(counter), black_box(1)));
    report("observe", || page.observe(black_box(histogram), black_box(12_345)));
    Ok(())
}

fn report(what: &str, mut work: impl FnMut()) {
    let start = Instant::now();
    for _ in 0..ADDS {
        work();
    }
    println!("{what}: {:.2} ns", start.elapsed().as_secs_f64() * 1e9 / ADDS as f64);
}
