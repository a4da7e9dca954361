//! Values with their places, before anything is known of what they mean: TOML documents turned
//! into one tree, files merged, single values laid over it.

use toml::de::{DeTable, DeValue};

use super::report::Finding;
use super::source::{Place, SourceMap};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Text without quotes, of a flag or a variable: its key decides what it is.
    Bare(String),
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime,
    List(Vec<Node>),
    Table(Vec<Entry>),
}

/// A key of a table and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_place: Place,
    pub(crate) node: Node,
}

/// A step of a path to a value laid over the tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub(crate) key: &'a str,
    pub(crate) place: Place,
}

impl Value {
    /// What a person calls this kind of value.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bare(_) => "text",
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    /// The entry of a table under this key.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// Takes the entry under this key out of a table.
    pub(crate) fn take(&mut self, key: &str) -> Option<Entry> {
        let Value::Table(entries) = &mut self.value else { return None };
        let at = entries.iter().position(|entry| entry.key == key)?;
        Some(entries.remove(at))
    }

    /// Gives every string in this value to `change`, which says what stands there instead.
    pub(crate) fn replace_texts(&mut self, change: &mut impl FnMut(String, Place) -> Value) {
        match &mut self.value {
            Value::Text(text) => self.value = change(std::mem::take(text), self.place),
            Value::List(nodes) => nodes.iter_mut().for_each(|node| node.replace_texts(change)),
            Value::Table(entries) => {
                entries.iter_mut().for_each(|entry| entry.node.replace_texts(change));
            }
            _ => {}
        }
    }
}

/// Reads a TOML document that is a source already; every error of its grammar is a finding.
pub(crate) fn parse_document(sources: &SourceMap, all: Place) -> (Node, Vec<Finding>) {
    let (table, errors) = DeTable::parse_recoverable(all.text(sources));
    let findings = errors.iter().map(|error| syntax(all, error)).collect();
    let node = Node { value: from_table(all, table.get_ref()), place: all };
    (node, findings)
}

/// Reads one TOML value at a place.
pub(crate) fn parse_value(sources: &SourceMap, at: Place) -> Result<Node, Box<Finding>> {
    match DeValue::parse(at.text(sources)) {
        Ok(value) => Ok(from_value(at, &value)),
        Err(error) => Err(Box::new(syntax(at, &error))),
    }
}

fn syntax(base: Place, error: &toml::de::Error) -> Finding {
    let span = error.span().unwrap_or(0..0);
    let what = error.message().trim().replace('\n', "; ");
    Finding::error("syntax", base.within(span), format!("not valid TOML: {what}"))
}

fn from_value(base: Place, value: &toml::Spanned<DeValue<'_>>) -> Node {
    let place = base.within(value.span());
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        DeValue::Integer(integer) => {
            // Beyond 64 bits nothing is in range: the far end says so in the right words.
            let negative = integer.as_str().starts_with('-');
            let far = if negative { i64::MIN } else { i64::MAX };
            Value::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(far))
        }
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(array) => {
            Value::List(array.iter().map(|value| from_value(base, value)).collect())
        }
        DeValue::Table(table) => from_table(base, table),
    };
    Node { value, place }
}

fn from_table(base: Place, table: &DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().clone().into_owned(),
            key_place: base.within(key.span()),
            node: from_value(base, value),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_place);
    Value::Table(entries)
}

/// Adds the tables of an included file: lists of tables grow, tables are joined, and a value
/// that both have is an error.
pub(crate) fn merge(into: &mut Node, from: Node, findings: &mut Vec<Finding>) {
    let (Value::Table(ours), Value::Table(theirs)) = (&mut into.value, from.value) else { return };
    for entry in theirs {
        let Some(mine) = ours.iter_mut().find(|mine| mine.key == entry.key) else {
            ours.push(entry);
            continue;
        };
        match (&mut mine.node.value, &entry.node.value) {
            (Value::Table(_), Value::Table(_)) => merge(&mut mine.node, entry.node, findings),
            (Value::List(list), Value::List(more)) if of_tables(list) && of_tables(more) => {
                if let Value::List(more) = entry.node.value {
                    list.extend(more);
                }
            }
            _ => findings.push(
                Finding::error(
                    "duplicate",
                    entry.key_place,
                    format!("`{}` is set in two files", entry.key),
                )
                .label("set again here")
                .other(mine.key_place, "first set here"),
            ),
        }
    }
}

fn of_tables(list: &[Node]) -> bool {
    list.iter().all(|node| matches!(node.value, Value::Table(_)))
}

/// Lays a value over the tree at a path; tables on the way are made. A step into a list is an
/// index from 0, or the `name` of one of its tables.
pub(crate) fn overlay(root: &mut Node, steps: &[Step<'_>], node: Node) -> Result<(), Box<Finding>> {
    let Some((first, rest)) = steps.split_first() else {
        *root = node;
        return Ok(());
    };
    if let Value::List(list) = &mut root.value {
        let at = match first.key.parse::<usize>() {
            Ok(index) => Some(index).filter(|index| *index < list.len()),
            Err(_) => names(list).iter().position(|name| *name == Some(first.key)),
        };
        return match at {
            Some(at) => overlay(&mut list[at], rest, node),
            None => Err(Box::new(no_such_element(first, &names(list)))),
        };
    }
    if !matches!(root.value, Value::Table(_)) {
        root.value = Value::Table(Vec::new());
        root.place = node.place;
    }
    let Value::Table(entries) = &mut root.value else { return Ok(()) };
    let at = entries.iter().position(|entry| entry.key == first.key).unwrap_or_else(|| {
        let value = Value::Table(Vec::new());
        let node = Node { value, place: node.place };
        entries.push(Entry { key: first.key.to_owned(), key_place: first.place, node });
        entries.len() - 1
    });
    let entry = &mut entries[at];
    if rest.is_empty() {
        entry.key_place = first.place;
    }
    overlay(&mut entry.node, rest, node)
}

/// The `name` of each table of a list.
fn names(list: &[Node]) -> Vec<Option<&str>> {
    list.iter()
        .map(|node| match &node.entry("name")?.node.value {
            Value::Text(name) | Value::Bare(name) => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

fn no_such_element(step: &Step<'_>, names: &[Option<&str>]) -> Finding {
    let known: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(index, name)| name.map_or(index.to_string(), |name| format!("{index} ({name})")))
        .collect();
    let help = if known.is_empty() {
        "the list is empty".to_owned()
    } else {
        format!("there are: {}", known.join(", "))
    };
    Finding::error("unknown_key", step.place, format!("there is no element `{}`", step.key))
        .label("neither an index nor a name in this list")
        .help(help)
}
