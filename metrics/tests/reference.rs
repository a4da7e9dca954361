//! docs/metrics.md is made from the catalogue:
//! `UPDATE_DOCS=1 cargo test -p ember-metrics --test reference`

use std::fmt::Write;
use std::path::Path;

use ember_metrics::{BUCKETS_NS, CATALOGUE, Description, Kind, Label};

const INTRODUCTION: &str = "\
# Metrics reference

Made from the table in `metrics/src/catalogue.rs`; a test holds this page to it.

`/metrics` answers in the Prometheus text format 0.0.4, and in OpenMetrics 1.0.0 where the `Accept`
header asks for it. Asked of any worker, it shows the whole server: each thread counts in its own
page of shared memory, which outlives workers, reloads and upgrades, and a scrape adds the pages up.
A family is shown once something counts in it.

- No label holds a host, a URL or a client's address. `route` is the configured name or pattern of
  a route, else `unmatched`.
- A thread counts at most 4096 series, a histogram being 21 of them. What is beyond goes to a
  series of the same family in which every label says `other`.
- Gauges of a worker that died are zero until its successor counts.
";

#[test]
fn the_page_is_that_of_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let expected = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    let again = "UPDATE_DOCS=1 cargo test -p ember-metrics --test reference";
    assert!(found == expected, "docs/metrics.md is not that of the catalogue; run `{again}`");
}

fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    assert_eq!(ember_metrics::CAPACITY_DEFAULT, 4096, "the introduction says so");
    assert_eq!(BUCKETS_NS.len() + 2, 21, "the introduction says so");
    page.push_str("\n| metric | kind | labels | |\n|---|---|---|---|\n");
    for line in &CATALOGUE {
        let Description { name, help, .. } = line;
        let kind = match line.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> =
            line.labels.iter().map(|label| format!("`{}`", label.name())).collect();
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    page.push_str("\n## Values of labels\n\n");
    let mut told = Vec::new();
    for label in CATALOGUE.iter().flat_map(|line| line.labels) {
        let Label::Word(name, words) = label else { continue };
        if !told.contains(words) {
            told.push(words);
            let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
            let _ = writeln!(page, "- `{name}`: {}", words.join(", "));
        }
    }
    let bounds: Vec<String> = BUCKETS_NS.iter().map(|ns| format!("{}", *ns as f64 / 1e9)).collect();
    let _ = writeln!(page, "- `le`, in seconds: {}, +Inf", bounds.join(", "));
    page
}
