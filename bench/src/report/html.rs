//! One page, with nothing to load from elsewhere.

use super::svg::{self, Bar, Curve, escape};
use super::{conditions, figure, table};
use crate::results::{Metric, Results, Row, Subject};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;\
padding:0 1rem;color:#222;background:#fff}h2{margin-top:2.5rem}table{border-collapse:collapse;\
font-size:.85rem;font-variant-numeric:tabular-nums}td,th{padding:.25rem .6rem;text-align:right;\
border-bottom:1px solid #8884;white-space:nowrap}td:first-child,th:first-child{text-align:left}figure{margin:1rem 0}\
.scroll{overflow-x:auto}.fault{color:#b00020}details pre{overflow-x:auto;font-size:.8rem}\
svg{max-width:720px;width:100%}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#16181c}.fault{color:#ff6b81}}";

/// One file that a report consists of.
#[derive(Clone, Debug, PartialEq)]
pub struct Plot {
    /// Its name, without the ending.
    pub name: String,
    /// The SVG.
    pub svg: String,
}

/// The page of one or more runs.
pub fn page(runs: &[Results]) -> String {
    let mut html = format!(
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' \
         content='width=device-width'><title>emberd benchmarks</title><style>{STYLE}</style>\
         <h1>emberd benchmarks</h1>"
    );
    for results in runs {
        html.push_str(&run(results));
    }
    html + "</html>\n"
}

fn run(results: &Results) -> String {
    let mut html = String::from("<ul>");
    for line in conditions(results) {
        html.push_str(&format!("<li>{}</li>", escape(&line)));
    }
    html.push_str("</ul>");
    for (row, label, what) in results.failures() {
        let text = escape(&format!("Not valid: {row}, {label}: {what}"));
        html.push_str(&format!("<p class='fault'>{text}</p>"));
    }
    for row in &results.rows {
        let title = escape(&row.title);
        let workload = escape(&row.workload);
        html.push_str(&format!("<h2 id='{}'>{title}</h2><p>{workload}</p>", escape(&row.id)));
        for plot in plots(row) {
            html.push_str(&format!("<figure>{}</figure>", plot.svg));
        }
        html.push_str(&format!(
            "<div class='scroll'>{}</div>",
            from_markdown(&table::section(row))
        ));
    }
    html.push_str("<h2>Versions and configs</h2>");
    for (name, peer) in &results.peers {
        html.push_str(&format!(
            "<details><summary>{}: {}</summary><pre>{}\n\n{}</pre></details>",
            escape(name),
            escape(&peer.version),
            escape(&peer.command.join(" ")),
            escape(&peer.config)
        ));
    }
    html
}

/// The plots of a row.
pub fn plots(row: &Row) -> Vec<Plot> {
    let mut plots = Vec::new();
    let titled = |what: &str| format!("{}: {what}", row.title);
    let idle = bars(row, Metric::IdleBytes);
    if !idle.is_empty() {
        let svg = svg::bars(&titled("bytes per idle connection"), &idle, &figure);
        plots.push(Plot { name: format!("{}-bytes", row.id), svg });
        return plots;
    }
    let cpu = bars(row, Metric::Cpu);
    if cpu.is_empty() {
        return plots;
    }
    let title = titled("CPU us per request (darker: user), less is better");
    plots.push(Plot { name: format!("{}-cpu", row.id), svg: svg::bars(&title, &cpu, &figure) });
    let curves = latency_curves(row);
    if row.id.starts_with("latency") {
        let title = titled("latency from the moment at which each request was due");
        let svg = svg::curves(&title, &curves);
        plots.push(Plot { name: format!("{}-latency", row.id), svg });
    } else {
        let svg = svg::bars(&titled("requests/s"), &bars(row, Metric::Rate), &figure);
        plots.push(Plot { name: format!("{}-rate", row.id), svg });
    }
    plots
}

fn bars(row: &Row, metric: Metric) -> Vec<Bar> {
    let bar = |subject: &Subject| {
        let (low, value, high) = crate::stats::spread(&subject.values(metric))?;
        let user = subject.user_us().map(|(user, _)| user.min(value));
        Some(Bar {
            label: subject.label.clone(),
            value,
            part: user.filter(|_| metric == Metric::Cpu),
            spread: (low, high),
            own: subject.is_own(),
        })
    };
    row.subjects.iter().filter_map(bar).collect()
}

fn latency_curves(row: &Row) -> Vec<Curve> {
    let curve = |subject: &Subject| {
        let quantile = |of: fn(&crate::results::Latency) -> f64| {
            let values: Vec<f64> =
                subject.samples.iter().map(|sample| of(&sample.latency_us)).collect();
            crate::stats::median(&values)
        };
        Some(Curve {
            label: subject.label.clone(),
            points: vec![
                (2.0, quantile(|latency| latency.p50)?),
                (10.0, quantile(|latency| latency.p90)?),
                (100.0, quantile(|latency| latency.p99)?),
                (1e3, quantile(|latency| latency.p999)?),
                (1e4, quantile(|latency| latency.p9999)?),
            ],
        })
    };
    row.subjects.iter().filter_map(curve).collect()
}

/// The tables and paragraphs that `table` writes, as HTML.
fn from_markdown(text: &str) -> String {
    let mut html = String::new();
    let mut header = true;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else {
            if !header {
                html.push_str("</table>");
            }
            header = true;
            html.push_str(&format!("<p>{}</p>", escape(&line.replace("\\*", "*"))));
            continue;
        };
        if cells.starts_with("---") {
            continue;
        }
        let tag = if header { "th" } else { "td" };
        if header {
            html.push_str("<table>");
        }
        header = false;
        let cells =
            cells.split(" | ").map(|cell| format!("<{tag}>{}</{tag}>", escape(cell.trim())));
        html.push_str(&format!("<tr>{}</tr>", cells.collect::<String>()));
    }
    if header { html } else { html + "</table>" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_tables_become_html_tables() {
        let html = from_markdown("| a   | b |\n| --- | -: |\n| 1<2 | 3 |\n\nA note.\n");
        assert_eq!(
            html,
            "<table><tr><th>a</th><th>b</th></tr><tr><td>1&lt;2</td><td>3</td></tr></table>\
             <p>A note.</p>"
        );
    }
}
