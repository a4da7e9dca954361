//! The two text formats, and which of them a client wants.

use std::fmt::Write;

use prometheus::TextEncoder;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};

use crate::names::Names;
use crate::pages::Pages;
use crate::render::{Facts, families};

/// A text format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// What an `Accept` header asks for (RFC 9110 section 12.5.1). OpenMetrics only where it is
    /// named, in a version that is written here, and liked as well as text; so a browser and curl
    /// get text. There is no "not acceptable": text is better than nothing to a monitoring system.
    pub fn negotiate(accept: Option<&str>) -> Self {
        let mut open_metrics = 0.0;
        let mut text: Option<(u8, f32)> = None;
        for range in accept.unwrap_or_default().split(',').filter_map(Range::parse) {
            let specific = match &*range.media_type {
                "application/openmetrics-text" if matches!(range.version, "" | "1.0.0") => {
                    open_metrics = range.q.max(open_metrics);
                    continue;
                }
                "text/plain" if matches!(range.version, "" | "0.0.4") => 2,
                "text/*" => 1,
                "*/*" => 0,
                _ => continue,
            };
            let better = (specific, range.q);
            if text.is_none_or(|known| better.0 > known.0 || better > known) {
                text = Some(better);
            }
        }
        let text = text.map_or(0.0, |(_, q)| q);
        if open_metrics > 0.0 && open_metrics >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of the format.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// All pages and facts in this format.
    pub fn render(self, pages: &Pages, names: &Names, facts: &Facts) -> String {
        self.write(&families(pages, names, facts))
    }

    /// Writes metric families.
    pub(crate) fn write(self, families: &[MetricFamily]) -> String {
        let mut out = String::with_capacity(4096);
        match self {
            Self::Text => {
                let encoded = TextEncoder::new().encode_utf8(families, &mut out);
                // The encoder refuses families without samples; `families` leaves those out.
                debug_assert!(encoded.is_ok(), "{encoded:?}");
            }
            Self::OpenMetrics => {
                for family in families {
                    write_family(&mut out, family);
                }
                out.push_str("# EOF\n");
            }
        }
        out
    }
}

/// One media range of an `Accept` header.
struct Range<'a> {
    media_type: String,
    version: &'a str,
    q: f32,
}

impl<'a> Range<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let mut range = Self { media_type, version: "", q: 1.0 };
        for parameter in parts {
            let (name, value) = parameter.split_once('=')?;
            let (name, value) = (name.trim_end(), value.trim_start().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                range.q = value.parse().ok().filter(|q| (0.0..=1.0).contains(q))?;
            } else if name.eq_ignore_ascii_case("version") {
                range.version = value;
            }
        }
        Some(range)
    }
}

fn write_family(out: &mut String, family: &MetricFamily) {
    let kind = family.get_field_type();
    // A counter's family is named without the suffix of its samples.
    let name = family.name().strip_suffix("_total").unwrap_or(family.name());
    let kind_word = match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        // The catalogue has no other.
        MetricType::SUMMARY | MetricType::UNTYPED => "unknown",
    };
    let _ = writeln!(out, "# TYPE {name} {kind_word}");
    if let Some((_, unit @ ("seconds" | "bytes"))) = name.rsplit_once('_') {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
    let _ = write!(out, "# HELP {name} ");
    escape(out, family.help());
    out.push('\n');
    for metric in family.get_metric() {
        let labels = metric.get_label();
        let mut sample = |suffix: &str, bound: Option<f64>, value: f64| {
            out.push_str(name);
            out.push_str(suffix);
            write_labels(out, labels, bound);
            out.push(' ');
            write_number(out, value);
            out.push('\n');
        };
        match kind {
            MetricType::COUNTER => sample("_total", None, metric.get_counter().get_value()),
            MetricType::HISTOGRAM => {
                let histogram = metric.get_histogram();
                for bucket in histogram.get_bucket() {
                    let (bound, count) = (bucket.upper_bound(), bucket.cumulative_count());
                    sample("_bucket", Some(bound), count as f64);
                }
                let count = histogram.get_sample_count() as f64;
                sample("_bucket", Some(f64::INFINITY), count);
                sample("_count", None, count);
                sample("_sum", None, histogram.get_sample_sum());
            }
            _ => sample("", None, metric.get_gauge().get_value()),
        }
    }
}

fn write_labels(out: &mut String, labels: &[LabelPair], bound: Option<f64>) {
    let mut before = '{';
    for pair in labels {
        out.push(before);
        out.push_str(pair.name());
        out.push_str("=\"");
        escape(out, pair.value());
        out.push('"');
        before = ',';
    }
    if let Some(bound) = bound {
        out.push(before);
        out.push_str("le=\"");
        write_canonical(out, bound);
        out.push('"');
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
}

/// Escapes as the `escaped-string` of the OpenMetrics grammar.
fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

fn write_number(out: &mut String, value: f64) {
    let _ = match value {
        value if value == f64::INFINITY => write!(out, "+Inf"),
        value if value == f64::NEG_INFINITY => write!(out, "-Inf"),
        value => write!(out, "{value}"),
    };
}

/// Writes a bucket's bound as OpenMetrics asks ("canonical numbers"), so that the label is the
/// same from every program: an exponent of two digits below 0.0001, and never a bare integer.
fn write_canonical(out: &mut String, bound: f64) {
    if bound.is_infinite() || bound == 0.0 || (1e-4..1e6).contains(&bound) {
        let start = out.len();
        write_number(out, bound);
        if bound.is_finite() && !out[start..].contains('.') {
            out.push_str(".0");
        }
        return;
    }
    let text = format!("{bound:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_gets_what_they_read() {
        let open_metrics = [
            "application/openmetrics-text",
            "Application/OpenMetrics-Text; Version=1.0.0",
            "application/openmetrics-text; version=\"1.0.0\"; charset=utf-8",
            // Prometheus 2.42 and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
             escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain;q=0.5, application/openmetrics-text;q=0.5",
            "*/*;q=0.1, application/openmetrics-text;q=0.2, text/plain;q=0",
            "garbage;;=, application/openmetrics-text",
        ];
        for accept in open_metrics {
            assert_eq!(Format::negotiate(Some(accept)), Format::OpenMetrics, "{accept}");
        }
        let text = [
            "",
            "*/*",
            "text/plain",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.4, text/plain",
            "application/openmetrics-text;q=2, text/plain;q=0.1",
            "application/openmetrics-text;q=0.4, text/*;q=0.6",
            "application/json",
        ];
        for accept in text {
            assert_eq!(Format::negotiate(Some(accept)), Format::Text, "{accept}");
        }
        assert_eq!(Format::negotiate(None), Format::Text);
    }

    #[test]
    fn bounds_are_written_canonically() {
        let cases = [
            (1e-5, "1e-05"),
            (2.5e-5, "2.5e-05"),
            (1e-10, "1e-10"),
            (1e-4, "0.0001"),
            (0.25, "0.25"),
            (1.0, "1.0"),
            (10.0, "10.0"),
            (1e6, "1e+06"),
            (f64::INFINITY, "+Inf"),
        ];
        for (number, expected) in cases {
            let mut text = String::new();
            write_canonical(&mut text, number);
            assert_eq!(text, expected);
        }
    }
}
