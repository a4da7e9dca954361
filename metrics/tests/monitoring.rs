//! What is under `deploy/` for Prometheus and Grafana, held against the catalogue: a query for
//! a metric or a label that does not exist shows nothing, and nobody notices.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use ember_metrics::{CATALOGUE, Description, Kind};
use serde_json::Value;

/// Labels that Prometheus itself adds.
const OF_PROMETHEUS: [&str; 3] = ["job", "instance", "le"];

#[test]
fn promtool_accepts_config_and_rules() {
    let folder = deploy().join("prometheus");
    let commands = [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ];
    for arguments in commands {
        let Ok(output) = Command::new("promtool").args(arguments).current_dir(&folder).output()
        else {
            return println!("skipped: no promtool here (Debian's package `prometheus`)");
        };
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
}

#[test]
fn every_alert_is_tested_both_ways() {
    let rules = read("prometheus/alerts.yml");
    let tests = read("prometheus/alerts_test.yml");
    let alerts: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    for alert in alerts {
        // Once where it is silent, once where it goes off.
        assert_eq!(tests.matches(&format!("alertname: {alert}")).count(), 2, "{alert}");
    }
}

#[test]
fn rules_ask_for_what_there_is() {
    let rules = read("prometheus/alerts.yml");
    assert!(check_queries(&rules) >= 8);
    assert!(check_queries(&read("prometheus/alerts_test.yml")) >= 8);
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let dashboard: Value = serde_json::from_str(&read("grafana/emberd.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut asked = 0;
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "id of {title} twice");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{title}");
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            assert!(query.contains("job=\"$job\", instance=~\"$instance\""), "{title}: {query}");
            assert!(check_queries(query) > 0, "{title}: {query}");
            asked += 1;
        }
    }
    assert!(asked > 20, "{asked}");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            assert_eq!(check_queries(query), 1, "{query}");
        }
    }
}

/// Checks each metric in a text and the labels that are asked of it; gives how many there were.
fn check_queries(text: &str) -> usize {
    let mut checked = 0;
    let mut of_text: BTreeSet<&str> = OF_PROMETHEUS.into();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("emberd_").chain(text.match_indices("process_")) {
        if text[..at].ends_with(word) {
            continue;
        }
        let end = text[at..].find(|c| !word(c)).map_or(text.len(), |length| at + length);
        let name = &text[at..end];
        let description = describe(name).unwrap_or_else(|| panic!("there is no metric {name}"));
        let labels = description.labels.iter().map(|label| label.name());
        let known: BTreeSet<&str> = labels.chain(OF_PROMETHEUS).collect();
        of_text.extend(&known);
        if let Some(matchers) = text[end..].strip_prefix('{') {
            let matchers = &matchers[..matchers.find('}').unwrap()];
            for matcher in matchers.split(", ") {
                let label = &matcher[..matcher.find(['=', '!']).unwrap()];
                assert!(known.contains(label), "{name} has no label {label}");
            }
        }
        checked += 1;
    }
    for (at, opening) in text.match_indices("by (") {
        let inside = &text[at + opening.len()..];
        for label in inside[..inside.find(')').unwrap()].split(", ") {
            assert!(of_text.contains(label), "no metric of this query has the label {label}");
        }
    }
    checked
}

/// The family of a series.
fn describe(series: &str) -> Option<&'static Description> {
    let named = |name: &str| CATALOGUE.iter().find(|line| line.name == name);
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end));
    let histogram = part.and_then(named).filter(|line| line.kind == Kind::Histogram);
    histogram.or_else(|| named(series).filter(|line| line.kind != Kind::Histogram))
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy().join(path)).unwrap()
}
