//! What is wrong with a config, and how it is told: to people with line and caret, to programs
//! as JSON.

use std::fmt;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::source::{Place, Position, SourceMap, boundary};

/// All that was found in one pass over a config.
#[derive(Debug, Default)]
pub struct Report {
    pub(crate) sources: SourceMap,
    pub(crate) findings: Vec<Finding>,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// A word for programs, stable.
    pub(crate) code: &'static str,
    /// The whole sentence.
    pub(crate) message: String,
    /// Where; none for what is missing from all sources.
    pub(crate) place: Option<Place>,
    /// A few words under the caret.
    pub(crate) label: String,
    /// Another place that has to do with it.
    pub(crate) other: Option<(Place, String)>,
    /// The mend.
    pub(crate) help: Option<String>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// The config is refused.
    Error,
    /// Legal but unwise.
    Warning,
}

impl Finding {
    pub(crate) fn error(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            place: Some(place),
            label: String::new(),
            other: None,
            help: None,
        }
    }

    pub(crate) fn warning(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, place, message) }
    }

    pub(crate) fn nowhere(code: &'static str, message: impl Into<String>) -> Self {
        Self { place: None, ..Self::error(code, Place::new(0, 0..0), message) }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(crate) fn other(mut self, place: Place, label: impl Into<String>) -> Self {
        self.other = Some((place, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Report {
    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    pub(crate) fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Puts the findings in the order of their places, errors first.
    pub(crate) fn sort(&mut self) {
        self.findings.sort_by_key(|finding| (finding.severity, finding.place));
        self.findings.dedup();
    }

    /// For people: each finding with its line and a caret, then a count.
    pub fn human(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut text = String::new();
        for finding in &self.findings {
            text.push_str(&renderer.render(&self.groups(finding)));
            text.push_str("\n\n");
        }
        text.push_str(&self.summary());
        text
    }

    fn groups<'a>(&'a self, finding: &'a Finding) -> Vec<Group<'a>> {
        let level = match finding.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&finding.message);
        let mut group = match finding.place {
            Some(place) => {
                let caret = AnnotationKind::Primary.span(self.span(place));
                let label = Some(finding.label.as_str()).filter(|label| !label.is_empty());
                let other =
                    finding.other.as_ref().filter(|(other, _)| self.same_file(place, *other));
                let context = other.map(|(place, label)| {
                    AnnotationKind::Context.span(self.span(*place)).label(label.as_str())
                });
                let snippet = self.snippet(place).annotation(caret.label(label));
                title.element(snippet.annotations(context))
            }
            None => Group::with_title(title),
        };
        if let Some((other, label)) = &finding.other
            && finding.place.is_none_or(|place| !self.same_file(place, *other))
        {
            let context = AnnotationKind::Context.span(self.span(*other)).label(label.as_str());
            group = group.element(self.snippet(*other).annotation(context));
        }
        if let Some(help) = &finding.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        vec![group]
    }

    fn snippet<T: Clone>(&self, place: Place) -> Snippet<'_, T> {
        let source = self.sources.source(place);
        Snippet::source(source.text.as_str()).path(source.name.as_str())
    }

    fn same_file(&self, one: Place, other: Place) -> bool {
        std::ptr::eq(self.sources.source(one), self.sources.source(other))
    }

    /// A span that the renderer takes: inside the text, on character boundaries.
    fn span(&self, place: Place) -> std::ops::Range<usize> {
        let text = &self.sources.source(place).text;
        boundary(text, place.span().start)..boundary(text, place.span().end)
    }

    /// The count in words.
    fn summary(&self) -> String {
        let some = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            _ => format!("{count} {what}s"),
        };
        match (self.errors(), self.warnings()) {
            (0, warnings) => some(warnings, "warning"),
            (errors, 0) => some(errors, "error"),
            (errors, warnings) => {
                format!("{}, {}", some(errors, "error"), some(warnings, "warning"))
            }
        }
    }

    /// For programs: `{"errors":n,"warnings":n,"findings":[…]}`.
    pub fn json(&self) -> String {
        let findings = self.findings.iter().map(|finding| self.plain(finding)).collect();
        let plain = PlainReport { errors: self.errors(), warnings: self.warnings(), findings };
        serde_json::to_string_pretty(&plain).unwrap_or_default()
    }

    fn plain<'a>(&'a self, finding: &'a Finding) -> PlainFinding<'a> {
        PlainFinding {
            severity: finding.severity,
            code: finding.code,
            message: &finding.message,
            label: &finding.label,
            help: finding.help.as_deref(),
            at: finding.place.map(|place| self.plain_place(place)),
            other: finding
                .other
                .as_ref()
                .map(|(place, label)| PlainOther { at: self.plain_place(*place), label }),
        }
    }

    fn plain_place(&self, place: Place) -> PlainPlace<'_> {
        let Position { line, column } = self.sources.start(place);
        let Position { line: end_line, column: end_column } = self.sources.end(place);
        PlainPlace { file: &self.sources.source(place).name, line, column, end_line, end_column }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.human(false))
    }
}

impl std::error::Error for Report {}

#[derive(Serialize)]
struct PlainReport<'a> {
    errors: usize,
    warnings: usize,
    findings: Vec<PlainFinding<'a>>,
}

#[derive(Serialize)]
struct PlainFinding<'a> {
    severity: Severity,
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'a str>,
    #[serde(flatten)]
    at: Option<PlainPlace<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<PlainOther<'a>>,
}

#[derive(Serialize)]
struct PlainPlace<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    end_line: usize,
    end_column: usize,
}

#[derive(Serialize)]
struct PlainOther<'a> {
    #[serde(flatten)]
    at: PlainPlace<'a>,
    label: &'a str,
}
