//! The view as words: for pipes, files and `--once`.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use super::view::View;

/// The whole view, each part a table with a line of its names.
pub(super) fn render(view: &View) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", view.head.join(", "));
    let _ = writeln!(out, "{}", summary(view).join(", "));
    for Table { title, names, rows } in tables(view) {
        let _ = writeln!(out, "\n{title}");
        let all: Vec<&[String]> =
            std::iter::once(&names[..]).chain(rows.iter().map(Vec::as_slice)).collect();
        for row in &all {
            let cells = row.iter().enumerate().map(|(at, cell)| {
                let width = all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
                if at == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            });
            let _ = writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
    out
}

/// Prints one view after another, with an empty line between.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A part of the view.
pub(super) struct Table {
    pub(super) title: &'static str,
    pub(super) names: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// The numbers of the whole server.
pub(super) fn summary(view: &View) -> Vec<String> {
    let [p50, p90, p99] = view.latency.map(time);
    vec![
        format!("{} requests/s", count(view.requests)),
        format!("{}/s", bytes(view.bytes)),
        format!("errors {}", percent(view.failed)),
        format!("p50 {p50} p90 {p90} p99 {p99}"),
        format!("{} in flight", count(view.in_flight)),
        format!(
            "{} connections (+{}/s -{}/s)",
            count(view.connections),
            count(view.accepted),
            count(view.closed)
        ),
        format!("CPU {:.2} cores, {} a request", view.cpu, time(a_request(view))),
        format!("memory {}", bytes(view.resident)),
    ]
}

fn a_request(view: &View) -> Option<f64> {
    (view.requests > 0.0).then(|| view.cpu / view.requests)
}

/// The tables in their order; those of what the server has not got are left out.
pub(super) fn tables(view: &View) -> Vec<Table> {
    let mut tables = vec![workers(view), routes(view)];
    let outcomes = |rows: &[(String, f64)]| -> Vec<Vec<String>> {
        rows.iter().map(|(name, rate)| vec![name.clone(), count(*rate)]).collect()
    };
    tables.push(Table::new("chains", "chain and outcome|a second", outcomes(&view.chains)));
    tables.push(Table::new("caches", "outcome|a second", outcomes(&view.caches)));
    let upstream = |(name, up, rate): &(String, bool, f64)| {
        vec![name.clone(), if *up { "up" } else { "down" }.to_owned(), count(*rate)]
    };
    let upstreams = view.upstreams.iter().map(upstream).collect();
    tables.push(Table::new("upstreams", "upstream|state|requests/s", upstreams));
    tables.retain(|table| !table.rows.is_empty());
    tables
}

impl Table {
    fn new(title: &'static str, names: &str, rows: Vec<Vec<String>>) -> Self {
        Self { title, names: names.split('|').map(str::to_owned).collect(), rows }
    }
}

fn workers(view: &View) -> Table {
    let rows = view.workers.iter().map(|it| {
        let a_call = (it.enters > 0.0).then(|| it.operations / it.enters);
        vec![
            it.worker.clone(),
            it.generation.clone(),
            it.pid.clone(),
            it.state.clone(),
            it.cpus.clone(),
            it.connections.clone(),
            count(it.accepted),
            format!("{:.2}", it.cpu),
            count(it.operations),
            a_call.map_or("-".to_owned(), |many| format!("{many:.1}")),
            it.restarts.clone(),
        ]
    });
    let names =
        "worker|generation|pid|state|CPUs|connections|accepts/s|cores|operations/s|a call|restarts";
    Table::new("workers", names, rows.collect())
}

fn routes(view: &View) -> Table {
    let rows = view.routes.iter().map(|it| {
        let [p50, p90, p99] = it.latency.map(time);
        let (requests, size) = (count(it.requests), bytes(it.bytes));
        vec![it.route.clone(), requests, size, p50, p90, p99, percent(it.failed)]
    });
    Table::new("routes", "route|requests/s|bytes/s|p50|p90|p99|errors", rows.collect())
}

/// A number with three digits or so.
pub(super) fn count(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G"])
}

fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut at = 0;
    while value >= step && at + 1 < units.len() {
        value /= step;
        at += 1;
    }
    let digits = if value >= 100.0 || value.fract() == 0.0 { 0 } else { 1 };
    format!("{value:.digits$}{}", units[at])
}

/// Seconds in a unit that fits; "-" where nothing was measured.
fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(it) if it < 1e-3 => format!("{:.0}us", it * 1e6),
        Some(it) if it < 1.0 => format!("{:.1}ms", it * 1e3),
        Some(it) => format!("{it:.2}s"),
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |it| format!("{:.1}%", it * 100.0))
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::a_second;
    use super::*;

    #[test]
    fn a_view_is_tables_of_words() {
        let text = render(&a_second());
        let expected = "\
emberd 1.2.3 (pid 7), serving, up 1h 1m 1s, config site.toml, io_uring
110 requests/s, 20 KiB/s, errors 3.6%, p50 10us p90 10us p99 901us, 2 in flight, \
12 connections (+5/s -0/s), CPU 0.50 cores, 4.5ms a request, memory 10 MiB

workers
  worker  generation  pid  state  CPUs  connections  accepts/s  cores  operations/s  a call  restarts
  0                2    8  ready   0,1           12          5   0.50           220     2.0         3

routes
  route   requests/s  bytes/s   p50   p90    p99  errors
  /hello         100   20 KiB  10us  10us  901us    0.0%
  /slow           10      0 B     -     -      -   40.0%

chains
  chain and outcome  a second
  reply_recv linked       100
  fell through              0

caches
  outcome  a second
  hit             7

upstreams
  upstream  state  requests/s
  one        down           9
";
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn numbers_keep_three_digits() {
        let numbers = [0.0, 3.25, 999.0, 1000.0, 123_456.0, 2.5e9].map(count);
        assert_eq!(numbers, ["0", "3.2", "999", "1k", "123k", "2.5G"]);
        assert_eq!([time(Some(0.25)), time(Some(2.0)), time(None)], ["250.0ms", "2.00s", "-"]);
    }
}
