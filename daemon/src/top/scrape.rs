//! Prometheus' text format, as far as this program writes it.

use std::collections::{BTreeMap, HashMap};

/// The samples of a reading, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Families(HashMap<String, Vec<Sample>>);

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    labels: HashMap<String, String>,
    pub(super) value: f64,
}

impl Sample {
    /// The value of a label; nothing where there is no such label.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Families {
    /// Reads a text; a line that is not understood is left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut families = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, sample)) = sample(line) {
                families.0.entry(name.to_owned()).or_default().push(sample);
            }
        }
        families
    }

    /// The samples of this name.
    pub(super) fn of(&self, name: &str) -> &[Sample] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Sums of the samples of this name, by what `key` makes of them; those without are left out.
    pub(super) fn sums<K: Ord>(
        &self,
        name: &str,
        key: impl Fn(&Sample) -> Option<K>,
    ) -> BTreeMap<K, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(name) {
            if let Some(key) = key(sample) {
                *sums.entry(key).or_default() += sample.value;
            }
        }
        sums
    }
}

fn sample(line: &str) -> Option<(&str, Sample)> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = HashMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
        rest = &rest[1..];
    }
    let value = rest.trim_start().split(' ').next()?.parse().ok()?;
    Some((name, Sample { labels, value }))
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"q\\\"}\\\\\\n\"} 2\na 3\n\
                    b_bucket{le=\"+Inf\"} +Inf\nbroken{x=\"\n\nworse\n";
        let families = Families::parse(text);
        let a = families.of("a");
        assert_eq!((a[0].label("x"), a[0].label("y"), a[0].value), ("1", "q\"}\\\n", 2.0));
        assert_eq!((a[1].label("x"), a[1].value), ("", 3.0));
        assert_eq!(families.of("b_bucket")[0].value, f64::INFINITY);
        assert!(families.of("broken").is_empty() && families.of("none").is_empty());
        let sums = families.sums("a", |sample| Some(sample.label("x").len()));
        assert_eq!(sums, BTreeMap::from([(0, 3.0), (1, 2.0)]));
    }
}
