//! Two runs beside each other, with a verdict on what is noise.

use std::fmt;

use super::{figure, table};
use crate::results::{Metric, Results, Row, Subject};
use crate::stats;

/// A difference less likely than this by chance is taken for real ...
const P_MAX: f64 = 0.05;
/// ... if it is also larger than what a changed memory layout alone can make.
const CHANGE_MIN: f64 = 0.02;

/// The figures that are compared.
const METRICS: [Metric; 5] =
    [Metric::Rate, Metric::Cpu, Metric::P99, Metric::Rss, Metric::IdleBytes];

/// What is to be said of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Better by more than noise.
    Better,
    /// Worse by more than noise.
    Worse,
    /// No difference that these rounds could show.
    Noise,
    /// Not even rounds that lie wholly apart would show a difference.
    TooFewRounds,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Noise => "noise",
            Self::TooFewRounds => "too few rounds",
        })
    }
}

/// One figure of one subject in both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The row.
    pub row: String,
    /// The subject.
    pub subject: String,
    /// The figure.
    pub metric: Metric,
    /// Its median in the first run.
    pub before: f64,
    /// Its median in the second.
    pub after: f64,
    /// The chance of such a difference between runs that do not differ.
    pub p: f64,
    /// What to make of it.
    pub verdict: Verdict,
}

/// Everything that both runs measured.
pub fn compare(before: &Results, after: &Results) -> Vec<Difference> {
    let mut found = Vec::new();
    for row in &after.rows {
        let Some(old) = before.rows.iter().find(|old| old.id == row.id) else { continue };
        for subject in &row.subjects {
            let same = |other: &&Subject| other.label == subject.label;
            let Some(other) = old.subjects.iter().find(same) else { continue };
            let of = |metric| difference(row, other, subject, metric);
            found.extend(METRICS.into_iter().filter_map(of));
        }
    }
    found
}

fn difference(row: &Row, old: &Subject, new: &Subject, metric: Metric) -> Option<Difference> {
    let (old, values) = (old.values(metric), new.values(metric));
    let (before, after) = (stats::median(&old)?, stats::median(&values)?);
    let p = stats::rank_sum_p(&old, &values)?;
    Some(Difference {
        row: row.id.clone(),
        subject: new.label.clone(),
        metric,
        before,
        after,
        p,
        verdict: judge(metric, before, after, p, (old.len(), values.len())),
    })
}

fn judge(metric: Metric, before: f64, after: f64, p: f64, rounds: (usize, usize)) -> Verdict {
    let apart =
        |count: usize, at: f64| (0..count).map(|index| at + index as f64).collect::<Vec<_>>();
    let least = stats::rank_sum_p(&apart(rounds.0, 0.0), &apart(rounds.1, 1e6)).unwrap_or(1.0);
    if least > P_MAX {
        return Verdict::TooFewRounds;
    }
    let change = after / before - 1.0;
    if p > P_MAX || change.abs() < CHANGE_MIN {
        Verdict::Noise
    } else if (change > 0.0) == metric.more_is_better() {
        Verdict::Better
    } else {
        Verdict::Worse
    }
}

/// The differences as a table, after a warning where the runs were made under other conditions.
pub fn document(before: &Results, after: &Results) -> String {
    let mut text = String::new();
    let facts = [
        ("processor", &before.machine.cpu, &after.machine.cpu),
        ("kernel", &before.machine.kernel, &after.machine.kernel),
    ];
    for (name, old, new) in facts {
        if old != new {
            text.push_str(&format!("Not the same {name}: {old} and {new}.\n\n"));
        }
    }
    let lines: Vec<Vec<String>> = compare(before, after)
        .into_iter()
        .map(|difference| {
            let change = (difference.after / difference.before - 1.0) * 100.0;
            vec![
                format!("{}: {}", difference.row, difference.subject),
                difference.metric.name().into(),
                figure(difference.before),
                figure(difference.after),
                format!("{change:+.1}%"),
                format!("{:.3}", difference.p),
                difference.verdict.to_string(),
            ]
        })
        .collect();
    let header = ["row: server", "figure", "before", "after", "change", "p", "verdict"];
    text + &table::markdown(&header, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Sample;

    fn run(cpu_us: &[f64]) -> Results {
        let sample = |cpu: &f64| Sample {
            replies: 1_000_000,
            elapsed_s: 2.0,
            cpu_us: cpu * 1e6,
            ..Sample::default()
        };
        let subject = Subject {
            label: "emberd".into(),
            samples: cpu_us.iter().map(sample).collect(),
            ..Subject::default()
        };
        let row = Row { id: "hello".into(), subjects: vec![subject], ..Row::default() };
        Results { rows: vec![row], ..Results::default() }
    }

    fn verdict(before: &[f64], after: &[f64]) -> Verdict {
        let all = compare(&run(before), &run(after));
        all.iter().find(|one| one.metric == Metric::Cpu).expect("it was measured").verdict
    }

    #[test]
    fn a_clear_change_is_told_from_noise() {
        let before = [6.5, 6.6, 6.4, 6.7, 6.5];
        assert_eq!(verdict(&before, &[7.5, 7.6, 7.4, 7.7, 7.5]), Verdict::Worse);
        assert_eq!(verdict(&before, &[5.5, 5.6, 5.4, 5.7, 5.5]), Verdict::Better);
        assert_eq!(verdict(&before, &[6.6, 6.5, 6.7, 6.4, 6.6]), Verdict::Noise);
    }

    #[test]
    fn a_sure_but_tiny_change_is_noise() {
        let after = [6.58, 6.58, 6.58, 6.58, 6.58];
        assert_eq!(verdict(&[6.5, 6.5, 6.5, 6.5, 6.5], &after), Verdict::Noise);
    }

    #[test]
    fn three_rounds_prove_nothing() {
        assert_eq!(verdict(&[1.0, 1.1, 1.2], &[9.0, 9.1, 9.2]), Verdict::TooFewRounds);
    }

    #[test]
    fn the_table_says_what_differs() {
        let document = document(&run(&[6.0; 5]), &run(&[9.0; 5]));
        let line = document.lines().find(|line| line.contains("CPU us/request")).unwrap();
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(
            cells,
            ["", "hello: emberd", "CPU us/request", "6.00", "9.00", "+50.0%", "0.008", "WORSE", ""]
        );
    }
}
