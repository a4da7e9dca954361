//! A strict reader of both text formats, written from their grammars and from nothing else, so
//! that tests can hold the writers against it. It panics at the first thing that is not allowed.
//!
//! Text: "Exposition formats" of the Prometheus documentation. OpenMetrics: the specification,
//! version 1.0.0.

use std::collections::{BTreeMap, BTreeSet};

/// One sample's labels, sorted by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// A metric family as it was written.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: Option<String>,
    /// By sample name and labels.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

/// Reads an exposition by its families' names.
pub(crate) fn parse(text: &str, open_metrics: bool) -> BTreeMap<String, Family> {
    let mut body = text;
    if open_metrics {
        body = text.strip_suffix("# EOF\n").expect("# EOF at the very end");
        assert!(!body.contains("\n# EOF"), "# EOF twice");
    }
    assert!(body.is_empty() || body.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in body.split_terminator('\n') {
        assert!(!line.is_empty() && !line.contains('\r'), "{line:?}");
        if let Some(about) = line.strip_prefix("# ") {
            let (keyword, rest) = about.split_once(' ').expect(line);
            let (name, value) = rest.split_once(' ').expect(line);
            assert_metric_name(name);
            if current.as_deref() != Some(name) {
                assert!(!families.contains_key(name), "{name} in two places");
                families.insert(name.into(), Family::default());
                current = Some(name.into());
            }
            let family = families.get_mut(name).unwrap();
            assert!(family.samples.is_empty(), "{keyword} of {name} after its samples");
            match keyword {
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&value), "{line}");
                    assert!(family.kind.is_empty(), "TYPE twice: {line}");
                    family.kind = value.into();
                }
                "HELP" => {
                    assert!(family.help.is_empty() && !value.is_empty(), "{line}");
                    family.help = unescape(value, open_metrics);
                }
                "UNIT" if open_metrics => {
                    assert!(name.ends_with(&format!("_{value}")), "{line}");
                    assert!(family.unit.is_none(), "{line}");
                    family.unit = Some(value.into());
                }
                _ => panic!("what is {line:?}"),
            }
            continue;
        }
        let name = current.as_deref().expect("a sample before any family");
        let family = families.get_mut(name).unwrap();
        assert!(!family.kind.is_empty(), "{name} has no TYPE");
        let (sample, labels, value) = parse_sample(line);
        let suffix = sample.strip_prefix(name).unwrap_or_else(|| panic!("{sample} under {name}"));
        let suffixes: &[&str] = match &*family.kind {
            "counter" if open_metrics => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.contains(&suffix), "{sample} in a {}", family.kind);
        assert_eq!(labels.contains_key("le"), suffix == "_bucket", "{line}");
        assert!(!value.is_nan() && (family.kind == "gauge" || value >= 0.0), "{line}");
        let before = family.samples.insert((sample, labels), value);
        assert!(before.is_none(), "twice: {line}");
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "{name} has no samples");
        check_labels(name, family);
        if family.kind == "histogram" {
            check_histogram(name, family, open_metrics);
        }
    }
    families
}

fn parse_sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let name = &line[..end];
    assert_metric_name(name);
    let mut labels = Labels::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert_label_name(label);
            let close = closing_quote(after).expect(line);
            let value = unescape(&after[..close], true);
            assert!(labels.insert(label.into(), value).is_none(), "{label} twice in {line}");
            rest = &after[close + 1..];
            match rest.as_bytes()[0] {
                b',' => rest = &rest[1..],
                b'}' => {
                    rest = &rest[1..];
                    break;
                }
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    assert!(!value.contains(' '), "a timestamp in {line}");
    (name.into(), labels, parse_number(value))
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str, quotes: bool) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        out.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quotes => '"',
                other => panic!("escape {other:?} in {text:?}"),
            },
            '"' if quotes => panic!("bare quote in {text:?}"),
            other => other,
        });
    }
    out
}

fn parse_number(text: &str) -> f64 {
    match text {
        "+Inf" => f64::INFINITY,
        _ => {
            assert!(text.bytes().all(|b| b.is_ascii_digit() || b"+-.e".contains(&b)), "{text:?}");
            text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
        }
    }
}

fn assert_metric_name(name: &str) {
    let valid = |(at, c): (usize, char)| {
        c.is_ascii_alphabetic() || c == '_' || (at > 0 && c.is_ascii_digit())
    };
    assert!(!name.is_empty() && name.chars().enumerate().all(valid), "metric name {name:?}");
}

fn assert_label_name(name: &str) {
    assert_metric_name(name);
    assert!(!name.starts_with("__"), "label name {name:?}");
}

/// All samples of a family have the same label names.
fn check_labels(name: &str, family: &Family) {
    let names = |labels: &Labels| -> BTreeSet<String> {
        labels.keys().filter(|label| *label != "le").cloned().collect()
    };
    let sets: BTreeSet<_> = family.samples.keys().map(|(_, labels)| names(labels)).collect();
    assert_eq!(sets.len(), 1, "labels of {name}");
}

/// Buckets grow with their bounds, the last has none and is the count.
fn check_histogram(name: &str, family: &Family, open_metrics: bool) {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in &family.samples {
        if sample.ends_with("_bucket") {
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap();
            if open_metrics {
                assert!(bound.contains(['.', 'e', 'I']), "le={bound:?} is not canonical");
            }
            series.entry(labels).or_default().push((parse_number(&bound), *value));
        }
    }
    for (labels, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{buckets:?}");
        let (bound, all) = *buckets.last().unwrap();
        assert_eq!(bound, f64::INFINITY, "{name}");
        let count = family.samples[&(format!("{name}_count"), labels.clone())];
        assert_eq!(count, all, "{name}");
        let sum = family.samples[&(format!("{name}_sum"), labels)];
        assert!(count > 0.0 || sum == 0.0, "{name}: {sum} from nothing");
    }
}
