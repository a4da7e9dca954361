//! Interned label values.

use std::collections::HashMap;
use std::fmt;

/// The number of an interned label value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub u16);

impl NameId {
    /// `unmatched`: the `route` of requests that no route took.
    pub const UNMATCHED: Self = Self(0);
    /// `other`: what has no number of its own.
    pub const OTHER: Self = Self(1);
}

/// Label values and their numbers. A number, once given, keeps its text for as long as the
/// counter pages live: over reloads names are only added, never taken away. The supervisor
/// interns; workers get a copy as text and look up.
#[derive(Clone, Debug)]
pub struct Names {
    texts: Vec<Box<str>>,
    ids: HashMap<Box<str>, u16>,
}

/// Most names that are kept, [`u16`] numbers from 0; further ones are `other`.
pub const NAMES_MAX: usize = u16::MAX as usize;

/// Longest name kept, in bytes; longer ones are cut at a character.
pub const NAME_BYTES_MAX: usize = 256;

/// Why a text is no list of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamesError {
    /// The first line is not what [`Names::to_text`] writes.
    Header,
    /// This line (from 1) has an escape that does not exist.
    Escape(usize),
    /// This line (from 1) says what an earlier one says.
    Twice(usize),
    /// There are more lines than [`NAMES_MAX`].
    TooMany,
}

const HEADER: &str = "ember-names 1";

impl Names {
    /// The names that every table begins with.
    pub fn new() -> Self {
        let mut names = Self { texts: Vec::new(), ids: HashMap::new() };
        names.intern("unmatched");
        names.intern("other");
        names
    }

    /// The number of a text, given to it now if it had none. [`NameId::OTHER`] when the table is
    /// full.
    pub fn intern(&mut self, text: &str) -> NameId {
        let text = cut(text);
        if let Some(&id) = self.ids.get(text) {
            return NameId(id);
        }
        if self.texts.len() >= NAMES_MAX {
            return NameId::OTHER;
        }
        let id = self.texts.len() as u16;
        self.texts.push(text.into());
        self.ids.insert(text.into(), id);
        NameId(id)
    }

    /// The number of a text that was interned before; [`NameId::OTHER`] for any other.
    pub fn id(&self, text: &str) -> NameId {
        self.ids.get(cut(text)).map_or(NameId::OTHER, |&id| NameId(id))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Never: two names are always there.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// One line a name, in the order of the numbers, after a line that says what this is.
    pub fn to_text(&self) -> String {
        let mut out = String::from(HEADER);
        out.push('\n');
        for text in &self.texts {
            escape(text, &mut out);
            out.push('\n');
        }
        out
    }

    /// Reads what [`Names::to_text`] wrote.
    ///
    /// # Errors
    /// The place where the text is something else.
    pub fn from_text(text: &str) -> Result<Self, NamesError> {
        let mut lines = text.split_terminator('\n').enumerate();
        if lines.next().is_none_or(|(_, header)| header != HEADER) {
            return Err(NamesError::Header);
        }
        let mut names = Self { texts: Vec::new(), ids: HashMap::new() };
        for (index, line) in lines {
            let name = unescape(line).ok_or(NamesError::Escape(index + 1))?;
            let expected = names.texts.len();
            if expected >= NAMES_MAX {
                return Err(NamesError::TooMany);
            }
            if usize::from(names.intern(&name).0) != expected {
                return Err(NamesError::Twice(index + 1));
            }
        }
        let begins_well = names.text(0) == "unmatched" && names.text(1) == "other";
        if begins_well { Ok(names) } else { Err(NamesError::Header) }
    }

    /// The text of a number; `other` for one that this copy does not know.
    pub(crate) fn text(&self, id: u16) -> &str {
        self.texts.get(usize::from(id)).map_or("other", |text| text)
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for NamesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "not a list of metric label names"),
            Self::Escape(line) => write!(f, "unknown escape in line {line} of the label names"),
            Self::Twice(line) => write!(f, "line {line} of the label names repeats a name"),
            Self::TooMany => write!(f, "more than {NAMES_MAX} label names"),
        }
    }
}

impl std::error::Error for NamesError {}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Writes a text so that it has no line break and no tab.
pub(crate) fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other => out.push(other),
        }
    }
}

pub(crate) fn unescape(line: &str) -> Option<String> {
    let mut out = String::with_capacity(line.len());
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        out.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_over_reloads() {
        let mut names = Names::new();
        let health = names.intern("/health");
        let odd = names.intern("a\\n\n\r\"ü");
        let mut later = Names::from_text(&names.to_text()).unwrap();
        assert_eq!(later.intern("/new").0, 4);
        assert_eq!((later.intern("/health"), later.id("a\\n\n\r\"ü")), (health, odd));
        assert_eq!(later.text(odd.0), "a\\n\n\r\"ü");
        assert_eq!(names.text(4), "other");
    }

    #[test]
    fn what_is_not_there_is_other() {
        let names = Names::new();
        assert_eq!(names.id("nowhere"), NameId::OTHER);
        assert_eq!(names.id("unmatched"), NameId::UNMATCHED);
    }

    #[test]
    fn a_full_table_gives_other() {
        let mut names = Names::new();
        for number in names.len()..NAMES_MAX {
            assert_eq!(usize::from(names.intern(&format!("n{number}")).0), number);
        }
        assert_eq!(names.intern("one more"), NameId::OTHER);
        assert_eq!(names.intern("n77"), NameId(77));
        let again = Names::from_text(&names.to_text()).unwrap();
        assert_eq!(again.texts, names.texts);
        let longer = names.to_text() + "one more\n";
        assert_eq!(Names::from_text(&longer).unwrap_err(), NamesError::TooMany);
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let mut names = Names::new();
        let long = "ü".repeat(NAME_BYTES_MAX);
        let id = names.intern(&long);
        assert_eq!(names.text(id.0).len(), NAME_BYTES_MAX);
        assert_eq!(names.id(&long), id);
        let odd = format!("x{long}");
        let id = names.intern(&odd);
        assert_eq!(names.text(id.0).len(), NAME_BYTES_MAX - 1);
    }

    #[test]
    fn other_texts_are_refused_by_place() {
        let cases = [
            ("", NamesError::Header),
            ("something", NamesError::Header),
            ("ember-names 1\nother\nunmatched\n", NamesError::Header),
            ("ember-names 1\nunmatched\nother\na\\b\n", NamesError::Escape(4)),
            ("ember-names 1\nunmatched\nother\nother\n", NamesError::Twice(4)),
        ];
        for (text, error) in cases {
            assert_eq!(Names::from_text(text).unwrap_err(), error, "{text:?}");
        }
    }
}
