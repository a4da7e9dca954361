//! `emberd config dump`: what is in force, and where each value came from. The text is a config
//! itself, which means the same.

use serde::Serialize;
use serde_json::{Map as JsonMap, Value as Json};

use super::Inspected;
use super::keys::{self, Fallback, Key, Kind, Syntax};
use super::literal;
use super::source::Kind as SourceKind;

/// One value in force.
#[derive(Debug, Serialize)]
struct Line {
    key: String,
    /// As TOML has it.
    value: String,
    origin: Origin,
}

#[derive(Debug, Serialize)]
struct Origin {
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    at: String,
}

/// The lines of one table of a list.
struct Block {
    list: &'static str,
    lines: Vec<Line>,
}

/// As a config file with comments.
pub(crate) fn human(of: &Inspected) -> String {
    let (lines, blocks) = collect(of);
    let mut text = String::new();
    write(&mut text, &lines, "");
    for block in blocks {
        text.push_str(&format!("\n[[{}]]\n", block.list));
        let prefix =
            block.lines.first().map_or(0, |line| line.key.find("].").map_or(0, |at| at + 2));
        let prefix = block.lines.first().map_or("", |line| &line.key[..prefix]).to_owned();
        write(&mut text, &block.lines, &prefix);
    }
    text
}

/// As a list for programs.
pub(crate) fn json(of: &Inspected) -> String {
    let (mut lines, blocks) = collect(of);
    lines.extend(blocks.into_iter().flat_map(|block| block.lines));
    serde_json::to_string_pretty(&lines).unwrap_or_default()
}

fn write(text: &mut String, lines: &[Line], prefix: &str) {
    // Where values end is ragged; beyond this, comments follow at once.
    const COLUMN_MAX: usize = 60;
    let shown: Vec<String> = lines
        .iter()
        .map(|line| {
            format!("{} = {}", line.key.strip_prefix(prefix).unwrap_or(&line.key), line.value)
        })
        .collect();
    let lengths = shown.iter().map(|line| line.chars().count());
    let column = lengths.filter(|length| *length <= COLUMN_MAX).max().unwrap_or(0);
    for (shown, Line { origin, .. }) in shown.iter().zip(lines) {
        let what = if origin.at.is_empty() { origin.kind } else { &origin.at };
        text.push_str(&format!("{shown:column$}  # {what}\n"));
    }
}

fn collect(of: &Inspected) -> (Vec<Line>, Vec<Block>) {
    let mut lines = Vec::new();
    let mut blocks = Vec::new();
    for key in keys::ROOT.iter().filter(|key| key.is_open()) {
        match key.kind {
            Kind::Tables(table) => {
                let kept = of.checked.kept.get(key.name).map_or(&[][..], Vec::as_slice);
                for (at, index) in kept.iter().enumerate() {
                    let mut lines = Vec::new();
                    let path = format!("{}[{index}]", key.name);
                    let raw = of.raw[key.name][at].as_object();
                    let full = of.checked.json[key.name][at].as_object();
                    if let (Some(raw), Some(full)) = (raw, full) {
                        of.table(&path, table, raw, full, &mut lines);
                    }
                    blocks.push(Block { list: key.name, lines });
                }
            }
            _ => of.key("", key, &of.raw, &of.checked.json, &mut lines),
        }
    }
    (lines, blocks)
}

impl Inspected {
    fn table(
        &self,
        path: &str,
        table: &'static [Key],
        raw: &JsonMap<String, Json>,
        full: &JsonMap<String, Json>,
        lines: &mut Vec<Line>,
    ) {
        for key in table.iter().filter(|key| key.is_open()) {
            self.key(path, key, raw, full, lines);
        }
    }

    /// `raw` has what was written and plain defaults, `full` what follows from other keys too.
    fn key(
        &self,
        path: &str,
        key: &'static Key,
        raw: &JsonMap<String, Json>,
        full: &JsonMap<String, Json>,
        lines: &mut Vec<Line>,
    ) {
        let path =
            if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        if let Kind::Table(table) = key.kind {
            // Rules are kept together, apart from the keys of their section.
            let full = full.get(key.name).or_else(|| raw.get(key.name));
            let parts = (raw.get(key.name).and_then(Json::as_object), full);
            if let (Some(raw), Some(Json::Object(full))) = parts {
                self.table(&path, table, raw, full, lines);
            }
            return;
        }
        let value = raw.get(key.name).filter(|value| !value.is_null());
        let value = value.or_else(|| full.get(key.name)).unwrap_or(&Json::Null);
        // Included files are part of what follows, and no list is what it is without being said.
        let said = self.checked.places.contains_key(&path);
        if key.name == "include" || !said && key.fallback == Fallback::Is("") {
            return;
        }
        if let Some(value) = self.literal(&path, key, value) {
            lines.push(Line { origin: self.origin(&path, key), key: path, value });
        }
    }

    fn literal(&self, path: &str, key: &Key, value: &Json) -> Option<String> {
        match (&key.kind, value, self.checked.places.get(path)) {
            // The dump may be kept in another folder than the file.
            (Kind::Text(Syntax::File), Json::String(file), Some(written)) => {
                let file = self.report.sources.resolve(written.value, file);
                Some(literal::text(&file.display().to_string()))
            }
            // The bytes of `body_file`, which is shown instead.
            (Kind::Text(Syntax::Any), Json::Object(_), _) => None,
            (kind, value, _) => literal::of(kind, value),
        }
    }

    fn origin(&self, path: &str, key: &Key) -> Origin {
        let Some(written) = self.checked.places.get(path) else {
            let derived = matches!(key.fallback, Fallback::From(_));
            let at = match key.fallback {
                Fallback::From(what) => format!("default, from {what}"),
                _ => String::new(),
            };
            return Origin { kind: if derived { "derived" } else { "default" }, at };
        };
        let kind = match self.report.sources.source(written.value).kind {
            SourceKind::Default => "default",
            SourceKind::File => "file",
            SourceKind::Variable => "variable",
            SourceKind::Flag => "flag",
        };
        Origin { kind, at: self.report.sources.describe(written.value) }
    }
}
