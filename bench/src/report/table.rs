//! Tables in Markdown, aligned, so that they read as well on a terminal.

use super::{conditions, figure, megabytes, with_spread};
use crate::results::{DISTURBED_MAX, Metric, Results, Row, Sample, Subject};
use crate::stats;

/// A table of text, its columns as wide as their widest cell; the first to the left, the others
/// to the right.
pub fn markdown(header: &[&str], lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(header[column].chars().count()).max(3)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let render = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            let gap = " ".repeat(width - cell.chars().count());
            if column == 0 { format!("{cell}{gap}") } else { format!("{gap}{cell}") }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule = widths.iter().enumerate().map(|(column, width)| match column {
        0 => "-".repeat(*width),
        _ => format!("{}:", "-".repeat(width - 1)),
    });
    let mut text = render(header.to_vec());
    text.push_str(&format!("| {} |\n", rule.collect::<Vec<_>>().join(" | ")));
    for line in lines {
        text.push_str(&render(line.iter().map(String::as_str).collect()));
    }
    text
}

/// A whole run: conditions, a table a row, its targets, and what went wrong.
pub fn document(results: &Results) -> String {
    let mut text: String = conditions(results).iter().map(|line| format!("- {line}\n")).collect();
    for row in &results.rows {
        text.push_str(&format!("\n### {} (`{}`)\n\n{}\n\n", row.title, row.id, row.workload));
        text.push_str(&section(row));
    }
    let failures = results.failures();
    if !failures.is_empty() {
        text.push_str("\n### Faults\n\nThis run is not valid: something was answered wrongly.\n\n");
        for (row, label, what) in failures {
            text.push_str(&format!("- {row}, {label}: {what}\n"));
        }
    }
    text
}

/// One row's table, notes and targets.
pub fn section(row: &Row) -> String {
    if let Some(why) = &row.skipped {
        return format!("Skipped: {why}.\n");
    }
    let measured = row.subjects.iter().filter(|subject| !subject.samples.is_empty());
    let idle = row.subjects.iter().any(|subject| !subject.values(Metric::IdleBytes).is_empty());
    let mut text = if idle {
        markdown(IDLE_HEADER, &measured.map(idle_cells).collect::<Vec<_>>())
    } else {
        markdown(LOAD_HEADER, &measured.map(load_cells).collect::<Vec<_>>())
    };
    for note in notes(row) {
        text.push_str(&format!("\n{note}\n"));
    }
    text
}

const IDLE_HEADER: &[&str] = &["server", "bytes/idle connection", "RSS MB", "PSS MB"];

const LOAD_HEADER: &[&str] = &[
    "server",
    "requests/s",
    "MB/s",
    "p50 us",
    "p99 us",
    "CPU us/request",
    "user us",
    "RSS MB",
    "peak MB",
    "server CPU",
    "load CPU",
];

fn load_cells(subject: &Subject) -> Vec<String> {
    let median = |metric| subject.median(metric);
    let user = subject.user_us().map_or("–".into(), |(user, error)| {
        if error > 0.0 { format!("{user:.2} ± {error:.2}") } else { format!("{user:.2}") }
    });
    let limited = subject.samples.iter().any(|sample| sample.load_limits);
    let percent = |of: fn(&Sample) -> f64| {
        let shares: Vec<f64> = subject.samples.iter().map(|sample| of(sample) * 100.0).collect();
        stats::median(&shares).map_or("–".into(), |share| format!("{share:.0}%"))
    };
    let busy = percent(|sample| sample.load_busy);
    vec![
        subject.label.clone(),
        with_spread(&subject.values(Metric::Rate)),
        median(Metric::Throughput).map_or("–".into(), megabytes),
        median(Metric::P50).map_or("–".into(), figure),
        with_spread(&subject.values(Metric::P99)),
        with_spread(&subject.values(Metric::Cpu)),
        user,
        median(Metric::Rss).map_or("–".into(), megabytes),
        median(Metric::PeakRss).map_or("–".into(), megabytes),
        percent(|sample| sample.cpu_us / 1e6 / sample.elapsed_s.max(f64::MIN_POSITIVE)),
        if limited { format!("{busy} *") } else { busy },
    ]
}

fn idle_cells(subject: &Subject) -> Vec<String> {
    let pss: Vec<f64> = subject.samples.iter().map(|sample| sample.memory.pss as f64).collect();
    vec![
        subject.label.clone(),
        with_spread(&subject.values(Metric::IdleBytes)),
        subject.median(Metric::Rss).map_or("–".into(), megabytes),
        stats::median(&pss).map_or("–".into(), megabytes),
    ]
}

/// What a reader must know beside the figures.
pub fn notes(row: &Row) -> Vec<String> {
    let mut notes = Vec::new();
    let limited = |subject: &Subject| subject.samples.iter().any(|sample| sample.load_limits);
    if row.subjects.iter().any(limited) {
        notes.push(
            "\\* The load generator had no CPU time left (or, at a fixed rate, was late): the \
             server could have done more. CPU time a request is valid all the same."
                .into(),
        );
    }
    let samples = || row.subjects.iter().flat_map(|subject| &subject.samples);
    let worst = samples().map(|sample| sample.disturbed).fold(0.0, f64::max);
    if worst > DISTURBED_MAX {
        let count = samples().filter(|sample| sample.disturbed > DISTURBED_MAX).count();
        notes.push(format!(
            "Other processes took more than {:.0}% of these CPUs during {count} of {} samples (at \
             worst {:.0}%): rates and latencies are disturbed, CPU time a request less so.",
            DISTURBED_MAX * 100.0,
            samples().count(),
            worst * 100.0
        ));
    }
    for subject in &row.subjects {
        let unsent: u64 = subject.samples.iter().map(|sample| sample.unsent).sum();
        if unsent > 0 {
            let label = &subject.label;
            notes.push(format!("{label} did not keep up: {unsent} requests found no connection."));
        }
        if let Some(why) = &subject.skipped {
            notes.push(format!("{}: skipped: {why}.", subject.label));
        }
    }
    for target in &row.targets {
        let Some(verdict) = target.judge(row) else { continue };
        let versus = target.versus.as_ref().map_or(String::new(), |other| format!(" / {other}"));
        let (low, median, high) =
            (figure(verdict.low), figure(verdict.median), figure(verdict.high));
        let bound = if target.metric.more_is_better() { "at least" } else { "at most" };
        let result = if verdict.met { "met" } else { "MISSED" };
        notes.push(format!(
            "Target: {}, {}{versus}: {median} ({low}–{high}), wanted {bound} {}: {result}.",
            target.metric.name(),
            target.subject,
            figure(target.bound)
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let lines = [vec!["emberd".into(), "1,000".into()], vec!["x".into(), "–".into()]];
        let table = markdown(&["server", "req/s"], &lines);
        assert_eq!(
            table,
            "| server | req/s |\n| ------ | ----: |\n| emberd | 1,000 |\n| x      |     – |\n"
        );
    }
}
