//! Where values come from: files, the command line, variables. Each is a text with places in it,
//! so that one kind of message can point into all of them.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A stretch of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    source: u32,
    start: u32,
    end: u32,
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// What holds without being written.
    Default,
    /// A config file, or the embedded default.
    File,
    /// An environment variable.
    Variable,
    /// An option on the command line.
    Flag,
}

/// One text that values come from.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) kind: Kind,
    /// A file's path as it was given; `environment`, `command line`, `embedded default`.
    pub(crate) name: String,
    pub(crate) text: String,
    /// The folder that paths in this source are relative to.
    folder: PathBuf,
}

/// All sources of one load.
#[derive(Debug, Default)]
pub(crate) struct SourceMap(Vec<Source>);

/// Line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl SourceMap {
    pub(crate) fn add_file(&mut self, path: &Path, text: String) -> u32 {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let name = match path.to_str() {
            Some("-") => "<stdin>".to_owned(),
            _ => path.display().to_string(),
        };
        self.add(Source { kind: Kind::File, name, text, folder })
    }

    pub(crate) fn add_text(&mut self, kind: Kind, name: &str, text: String) -> u32 {
        self.add(Source { kind, name: name.to_owned(), text, folder: PathBuf::new() })
    }

    fn add(&mut self, source: Source) -> u32 {
        let id = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.push(source);
        id
    }

    pub(crate) fn source(&self, place: Place) -> &Source {
        &self.0[place.source as usize]
    }

    /// A path written at a place, taken relative to the file that it stands in.
    pub(crate) fn resolve(&self, place: Place, path: &str) -> PathBuf {
        self.source(place).folder.join(path)
    }

    pub(crate) fn start(&self, place: Place) -> Position {
        self.position(place, place.start)
    }

    pub(crate) fn end(&self, place: Place) -> Position {
        self.position(place, place.end)
    }

    fn position(&self, place: Place, at: u32) -> Position {
        let text = &self.source(place).text;
        let before = &text[..boundary(text, at as usize)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The place in a few words: `emberd.toml:12`, `EMBERD_USER`, `--backend`.
    pub(crate) fn describe(&self, place: Place) -> String {
        let source = self.source(place);
        match source.kind {
            Kind::Default => source.name.clone(),
            Kind::File => format!("{}:{}", source.name, self.start(place).line),
            Kind::Variable => source.text.split('=').next().unwrap_or_default().to_owned(),
            Kind::Flag if source.text.starts_with("--set ") => source.text.clone(),
            Kind::Flag => source.text.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl Place {
    pub(crate) fn new(source: u32, span: Range<usize>) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { source, start: offset(span.start), end: offset(span.end.max(span.start)) }
    }

    pub(crate) fn span(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    /// A stretch of the text at this place.
    pub(crate) fn within(self, span: Range<usize>) -> Self {
        let start = self.start as usize;
        Self::new(self.source, start + span.start..start + span.end)
    }

    /// The text at this place.
    pub(crate) fn text(self, sources: &SourceMap) -> &str {
        sources.source(self).text.get(self.span()).unwrap_or_default()
    }
}

/// The last character boundary of `text` up to `at`.
pub(crate) fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let mut sources = SourceMap::default();
        let id = sources.add_file(Path::new("dir/a.toml"), "a = 1\nö = \"x\"\n".to_owned());
        let place = Place::new(id, 11..14);
        assert_eq!(sources.start(place), Position { line: 2, column: 5 });
        assert_eq!(sources.end(place), Position { line: 2, column: 8 });
        assert_eq!(place.text(&sources), "\"x\"");
        assert_eq!(sources.describe(place), "dir/a.toml:2");
        assert_eq!(sources.resolve(place, "b.html"), Path::new("dir/b.html"));
        assert_eq!(sources.resolve(place, "/b.html"), Path::new("/b.html"));
    }
}
