//! Plots: horizontal bars with their spread, and latency curves.
//!
//! Small and by hand, since what is wanted (long labels, error bars, a split bar, colours that
//! follow the page's theme) is a page of text in SVG and nothing else.

use std::fmt::Write as _;

/// One bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Its name.
    pub label: String,
    /// Its length.
    pub value: f64,
    /// A part of it, drawn darker from the left.
    pub part: Option<f64>,
    /// The lowest and highest of the rounds.
    pub spread: (f64, f64),
    /// The one that the reader looks for.
    pub own: bool,
}

/// One curve: points of (1 / (1 - quantile), microseconds).
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Its name.
    pub label: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const LABEL_WIDTH: f64 = 170.0;
const VALUE_WIDTH: f64 = 90.0;
const BAR_HEIGHT: f64 = 22.0;
const BAR_GAP: f64 = 8.0;
const PALETTE: [&str; 6] = ["#e4572e", "#4472ca", "#2a9d6e", "#a05ab4", "#c59b1d", "#5b6770"];

/// Styles that follow the reader's light or dark setting, also where the plot stands alone.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600}\
.m{fill:#667}.a{stroke:#99a;stroke-width:1;fill:none}.g{stroke:#8884;stroke-width:1}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.m{fill:#99a}}";

/// Bars under a title; `format` writes the values.
pub fn bars(title: &str, bars: &[Bar], format: &dyn Fn(f64) -> String) -> String {
    let height = 40.0 + bars.len() as f64 * (BAR_HEIGHT + BAR_GAP);
    let longest =
        bars.iter().map(|bar| bar.spread.1.max(bar.value)).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABEL_WIDTH - VALUE_WIDTH) / longest;
    let mut svg = open(title, height);
    for (index, bar) in bars.iter().enumerate() {
        let y = 36.0 + index as f64 * (BAR_HEIGHT + BAR_GAP);
        let middle = y + BAR_HEIGHT / 2.0;
        let colour = if bar.own { PALETTE[0] } else { PALETTE[1] };
        let length = bar.value * scale;
        let _ = write!(
            svg,
            "<text x='{x:.0}' y='{t:.1}' text-anchor='end'>{label}</text>\
             <rect x='{LABEL_WIDTH}' y='{y:.1}' width='{length:.1}' height='{BAR_HEIGHT}' \
             fill='{colour}' fill-opacity='{opacity}'/>",
            x = LABEL_WIDTH - 8.0,
            t = middle + 4.0,
            label = escape(&bar.label),
            opacity = if bar.part.is_some() { 0.6 } else { 0.9 },
        );
        if let Some(part) = bar.part {
            let width = part * scale;
            let _ = write!(
                svg,
                "<rect x='{LABEL_WIDTH}' y='{y:.1}' width='{width:.1}' height='{BAR_HEIGHT}' \
                 fill='{colour}'/>"
            );
        }
        let (low, high) = (LABEL_WIDTH + bar.spread.0 * scale, LABEL_WIDTH + bar.spread.1 * scale);
        let _ = write!(
            svg,
            "<path class='a' d='M{low:.1} {middle:.1}H{high:.1}M{low:.1} {a:.1}v8M{high:.1} \
             {a:.1}v8'/><text class='m' x='{x:.1}' y='{t:.1}'>{value}</text>",
            a = middle - 4.0,
            x = high.max(LABEL_WIDTH + length) + 8.0,
            t = middle + 4.0,
            value = escape(&format(bar.value)),
        );
    }
    svg + "</svg>"
}

/// Latency over quantiles, both axes logarithmic.
pub fn curves(title: &str, curves: &[Curve]) -> String {
    const HEIGHT: f64 = 320.0;
    let plot = Plot::around(curves, HEIGHT);
    let mut svg = open(title, HEIGHT);
    for (quantile, name) in
        [(2.0, "p50"), (10.0, "p90"), (100.0, "p99"), (1e3, "p99.9"), (1e4, "p99.99")]
    {
        let x = plot.x(quantile);
        let _ = write!(
            svg,
            "<path class='g' d='M{x:.1} 36V{b:.1}'/><text class='m' x='{x:.1}' y='{t:.1}' \
             text-anchor='middle'>{name}</text>",
            b = HEIGHT - 34.0,
            t = HEIGHT - 16.0
        );
    }
    let mut decade = plot.low;
    while decade <= plot.high * 1.001 {
        let y = plot.y(decade);
        let _ = write!(
            svg,
            "<path class='g' d='M{l:.0} {y:.1}H{r:.0}'/><text class='m' x='{x:.0}' y='{t:.1}' \
             text-anchor='end'>{value}</text>",
            l = Plot::LEFT,
            r = Plot::RIGHT,
            x = Plot::LEFT - 6.0,
            t = y + 4.0,
            value = microseconds(decade)
        );
        decade *= 10.0;
    }
    for (index, curve) in curves.iter().enumerate() {
        let colour = PALETTE[index % PALETTE.len()];
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", plot.x(*x), plot.y(*y)))
            .collect();
        let y = 48.0 + index as f64 * 18.0;
        let _ = write!(
            svg,
            "<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>\
             <rect x='{x}' y='{r:.0}' width='12' height='4' fill='{colour}'/>\
             <text x='{tx}' y='{y:.0}'>{label}</text>",
            points = points.join(" "),
            x = Plot::LEFT + 10.0,
            tx = Plot::LEFT + 28.0,
            r = y - 6.0,
            label = escape(&curve.label)
        );
    }
    svg + "</svg>"
}

struct Plot {
    low: f64,
    high: f64,
    height: f64,
}

impl Plot {
    const LEFT: f64 = 64.0;
    const RIGHT: f64 = WIDTH - 24.0;

    /// Whole decades around all points.
    fn around(curves: &[Curve], height: f64) -> Self {
        let values = || curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value);
        let low = values().fold(f64::MAX, f64::min).clamp(1.0, 1e6);
        let high = values().fold(10.0, f64::max);
        Self { low: 10f64.powf(low.log10().floor()), high: 10f64.powf(high.log10().ceil()), height }
    }

    fn x(&self, quantile: f64) -> f64 {
        Self::LEFT + 20.0 + (quantile.log10() - 0.3) / 3.7 * (Self::RIGHT - Self::LEFT - 40.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).log10() / (self.high / self.low).log10();
        self.height - 34.0 - share * (self.height - 34.0 - 36.0)
    }
}

fn microseconds(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.0} s", value / 1e6)
    } else if value >= 1e3 {
        format!("{:.0} ms", value / 1e3)
    } else {
        format!("{value:.0} us")
    }
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' \
         aria-label='{title}'><style>{STYLE}</style><text class='t' x='4' y='20'>{title}</text>"
    )
}

/// Text for between tags and in attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: f64) -> Bar {
        let spread = (value * 0.9, value * 1.1);
        Bar { label: label.into(), value, part: None, spread, own: false }
    }

    /// The `width` of each rectangle.
    fn widths(svg: &str) -> Vec<f64> {
        let values = svg.split("width='").skip(1).map(|rest| rest.split('\'').next().unwrap());
        values.map(|value| value.parse().unwrap()).collect()
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let svg = bars("t", &[bar("a", 100.0), bar("b", 50.0)], &|value| format!("{value}"));
        let widths = widths(&svg);
        assert_eq!(widths.len(), 2);
        assert!((widths[0] / widths[1] - 2.0).abs() < 0.01, "{widths:?}");
        assert!(LABEL_WIDTH + widths[0] * 1.1 <= WIDTH - VALUE_WIDTH + 1.0, "the spread fits");
    }

    #[test]
    fn labels_cannot_break_the_markup() {
        let svg = bars("<t>", &[bar("a<b>&'", 1.0)], &|_| "\"".into());
        assert!(svg.contains("a&lt;b&gt;&amp;&#39;") && !svg.contains("<b>"));
    }

    #[test]
    fn curves_stay_in_the_frame() {
        let points = vec![(2.0, 30.0), (10.0, 50.0), (100.0, 900.0), (1e3, 2e3), (1e4, 1e6)];
        let svg = curves("t", &[Curve { label: "x".into(), points }]);
        let line = svg.split("points='").nth(1).unwrap().split('\'').next().unwrap();
        for point in line.split(' ') {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((0.0..=WIDTH).contains(&x) && (30.0..=290.0).contains(&y), "{point}");
        }
    }
}
