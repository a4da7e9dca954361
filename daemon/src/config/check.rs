//! Holds a tree against the table of keys: every value is checked, every fault is a finding, and
//! what comes out is JSON with all defaults filled in.

use std::collections::BTreeMap;

use serde_json::{Map as JsonMap, Value as Json, json};

use super::keys::{self, Choice, Fallback, Key, Kind, Syntax};
use super::report::Finding;
use super::source::{Place, SourceMap};
use super::suggest;
use super::syntax::{self, Fault};
use super::tree::{Entry, Node, Value};

/// What came of the check.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// The whole config, defaults filled in; what was wrong has its default or is left out.
    pub(crate) json: JsonMap<String, Json>,
    /// Where each value was written, by its path: `listener[0].address`.
    pub(crate) places: BTreeMap<String, Written>,
    /// The number in the sources of each element that is left in a list of tables.
    pub(crate) kept: BTreeMap<&'static str, Vec<usize>>,
    pub(crate) findings: Vec<Finding>,
}

/// The places of a key and of its value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) key: Place,
    pub(crate) value: Place,
}

/// Checks a whole config.
pub(crate) fn check(sources: &SourceMap, root: &Node) -> Checked {
    let mut checker = Checker { sources, out: Checked::default() };
    let json = checker.table("", keys::ROOT, root).unwrap_or_default();
    Checked { json, ..checker.out }
}

struct Checker<'a> {
    sources: &'a SourceMap,
    out: Checked,
}

impl Checker<'_> {
    fn find(&mut self, finding: Finding) {
        self.out.findings.push(finding);
    }

    /// None where a key that must be there is missing or wrong.
    fn table(
        &mut self,
        path: &str,
        keys: &'static [Key],
        node: &Node,
    ) -> Option<JsonMap<String, Json>> {
        let Value::Table(entries) = &node.value else {
            self.wrong_kind(path, node, "must be a table");
            return None;
        };
        for entry in entries {
            if keys::in_table(keys, &entry.key).is_none() {
                self.unknown(path, keys, entry);
            }
        }
        let mut json = JsonMap::new();
        let mut whole = true;
        for key in keys {
            let path = join(path, key.name);
            let given = node.entry(key.name).and_then(|entry| {
                let written = Written { key: entry.key_place, value: entry.node.place };
                self.out.places.insert(path.clone(), written);
                if key.later {
                    self.not_yet(&path, entry);
                    return None;
                }
                if let Kind::Refused(why) = key.kind {
                    self.refused(&path, entry, why);
                }
                let required = key.fallback == Fallback::Required;
                let json = self.value(&path, &key.kind, &entry.node);
                let json = json.or_else(|| stand_in(&key.kind, &entry.node).filter(|_| required));
                whole &= json.is_some() || !required;
                json
            });
            if !key.is_open() {
                continue;
            }
            if node.entry(key.name).is_none() && key.fallback == Fallback::Required {
                self.missing(&path, key, node.place);
                whole = false;
            }
            let value = given.unwrap_or_else(|| self.fallback(&path, key, node.place));
            json.insert(key.name.to_owned(), value);
        }
        whole.then_some(json)
    }

    fn fallback(&mut self, path: &str, key: &'static Key, place: Place) -> Json {
        let value = match (key.fallback, &key.kind) {
            (Fallback::Is(text), _) => Value::Bare(text.to_owned()),
            (Fallback::Filled, _) => Value::Table(Vec::new()),
            (_, Kind::Tables(_)) => return json!([]),
            _ => return Json::Null,
        };
        self.value(path, &key.kind, &Node { value, place }).unwrap_or_default()
    }

    fn value(&mut self, path: &str, kind: &'static Kind, node: &Node) -> Option<Json> {
        match kind {
            Kind::Table(keys) => self.table(path, keys, node).map(Json::Object),
            Kind::Tables(keys) => self.tables(path, keys, node),
            Kind::List(kind) => self.list(path, kind, node),
            Kind::Map(names, values) => self.map(path, *names, *values, node),
            Kind::Or(word, _) if text(node) == Some(word) => Some(Json::Null),
            Kind::Or(_, kind) => self.value(path, kind, node),
            Kind::Nodes => self.nodes(path, node),
            Kind::Refused(_) => None,
            _ => match scalar(kind, node) {
                Ok(json) => Some(json),
                Err(Wrong::Kind) => {
                    self.wrong_kind(path, node, &format!("must be {}", wanted(kind)));
                    None
                }
                Err(Wrong::Value(fault)) => {
                    self.fault(path, node, fault);
                    None
                }
            },
        }
    }

    fn tables(&mut self, path: &str, keys: &'static [Key], node: &Node) -> Option<Json> {
        let name = keys::in_table(keys::ROOT, path).map_or("", |key| key.name);
        let Value::List(nodes) = &node.value else {
            let help = format!("write [[{path}]] with two brackets: there may be several");
            self.find(
                Finding::error("wrong_type", node.place, format!("`{path}` is a list of tables"))
                    .label(format!("this is {}", node.value.kind()))
                    .help(help),
            );
            return None;
        };
        let mut kept = Vec::new();
        let mut list = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.out.places.insert(path.clone(), Written { key: node.place, value: node.place });
            if let Some(json) = self.table(&path, keys, node) {
                kept.push(index);
                list.push(Json::Object(json));
            }
        }
        self.out.kept.insert(name, kept);
        Some(list.into())
    }

    fn list(&mut self, path: &str, kind: &'static Kind, node: &Node) -> Option<Json> {
        let bare: Vec<Node>;
        let nodes = match &node.value {
            Value::List(nodes) => nodes,
            Value::Bare(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                let part = |part: &str| Value::Bare(part.to_owned());
                bare = parts.map(|text| Node { value: part(text), place: node.place }).collect();
                &bare
            }
            _ => {
                self.wrong_kind(path, node, "must be a list");
                return None;
            }
        };
        let mut list = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let path = format!("{path}[{index}]");
            self.out.places.insert(path.clone(), Written { key: node.place, value: node.place });
            list.push(self.value(&path, kind, node));
        }
        list.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
    }

    /// A list of pairs, in the order of the file.
    fn map(&mut self, path: &str, names: Syntax, values: Syntax, node: &Node) -> Option<Json> {
        let entries = match &node.value {
            Value::Table(entries) => entries.as_slice(),
            Value::Bare(text) if text.is_empty() => &[],
            _ => {
                self.wrong_kind(path, node, "must be a table of names and values");
                return None;
            }
        };
        let mut pairs = Vec::new();
        let mut whole = true;
        for entry in entries {
            let path = join(path, &entry.key);
            let written = Written { key: entry.key_place, value: entry.node.place };
            self.out.places.insert(path.clone(), written);
            let name = match syntax::read(names, &entry.key) {
                Ok(name) => name,
                Err(fault) => {
                    self.fault_at(&path, entry.key_place, fault);
                    whole = false;
                    continue;
                }
            };
            let several = match &entry.node.value {
                Value::List(nodes) => nodes.as_slice(),
                _ => std::slice::from_ref(&entry.node),
            };
            for node in several {
                match self.map_value(&path, values, node) {
                    Some(value) => pairs.push(json!([name, value])),
                    None => whole = false,
                }
            }
        }
        whole.then_some(Json::Array(pairs))
    }

    fn map_value(&mut self, path: &str, values: Syntax, node: &Node) -> Option<Json> {
        let text = match &node.value {
            // A number where a text is wanted is plain enough: "max-age" = 5.
            Value::Integer(number) => number.to_string(),
            Value::Text(text) | Value::Bare(text) => text.clone(),
            _ => {
                self.wrong_kind(path, node, "must be a string");
                return None;
            }
        };
        match syntax::read(values, &text) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.fault(path, node, fault);
                None
            }
        }
    }

    fn nodes(&mut self, path: &str, node: &Node) -> Option<Json> {
        static NUMBERS: Kind = Kind::Int(0, 1023);
        match (&node.value, text(node)) {
            (_, Some("nic-local" | "all")) => text(node).map(Json::from),
            (Value::List(_), _) => {
                let list = self.list(path, &NUMBERS, node)?;
                if list.as_array().is_some_and(Vec::is_empty) {
                    self.fault(path, node, Fault { why: "names no node".to_owned(), help: None });
                    return None;
                }
                Some(json!({ "nodes": list }))
            }
            (Value::Bare(text), _) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                Some(json!({ "nodes": self.list(path, &NUMBERS, node)? }))
            }
            (_, typed) => {
                let near = typed.and_then(|typed| suggest::nearest(typed, ["nic-local", "all"]));
                let help = match near {
                    Some(word) => format!("did you mean \"{word}\"?"),
                    None => "write \"nic-local\", \"all\" or a list such as [0, 1]".to_owned(),
                };
                let why = "is none of nic-local, all, or a list of node numbers".to_owned();
                self.fault(path, node, Fault { why, help: Some(help) });
                None
            }
        }
    }

    fn wrong_kind(&mut self, path: &str, node: &Node, must: &str) {
        let subject = subject(path);
        self.find(
            Finding::error("wrong_type", node.place, format!("{subject} {must}"))
                .label(format!("this is {}", node.value.kind())),
        );
    }

    fn fault(&mut self, path: &str, node: &Node, fault: Fault) {
        self.fault_at(path, node.place, fault);
    }

    fn fault_at(&mut self, path: &str, place: Place, fault: Fault) {
        let finding = Finding::error("bad_value", place, format!("`{path}` {}", fault.why));
        self.find(Finding { help: fault.help, ..finding });
    }

    fn missing(&mut self, path: &str, key: &Key, place: Place) {
        let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
        self.find(
            Finding::error("missing", self.first_line(place), format!("`{table}` has no `{name}`"))
                .label("in this table")
                .help(format!("add `{name}`: {}", first_sentence(key.doc))),
        );
    }

    /// The place cut to its first line: a table's span may be long.
    fn first_line(&self, place: Place) -> Place {
        let text = place.text(self.sources);
        place.within(0..text.find('\n').unwrap_or(text.len()))
    }

    fn not_yet(&mut self, path: &str, entry: &Entry) {
        self.find(
            Finding::error(
                "not_yet",
                entry.key_place,
                format!("`{path}` is not in this version yet"),
            )
            .label("nothing would read it")
            .help("take it out until a version reads it"),
        );
    }

    fn refused(&mut self, path: &str, entry: &Entry, why: &str) {
        self.find(
            Finding::error("refused", entry.key_place, format!("`{path}` cannot be given"))
                .help(why),
        );
    }

    fn unknown(&mut self, path: &str, keys: &'static [Key], entry: &Entry) {
        let names = || keys.iter().filter(|key| key.is_open()).map(|key| key.name);
        let help = if let Some(near) = suggest::nearest(&entry.key, names()) {
            format!("did you mean `{near}`?")
        } else if let Some(home) = home_of(&entry.key) {
            format!("`{}` belongs into `{home}`", entry.key)
        } else {
            format!("there are: {}", suggest::list(names()))
        };
        let at = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        self.find(
            Finding::error(
                "unknown_key",
                entry.key_place,
                format!("unknown key `{}`{at}", entry.key.escape_debug()),
            )
            .label("not known")
            .help(help),
        );
    }
}

/// Something in the place of a wrong value, so that its table can be checked further.
fn stand_in(kind: &Kind, node: &Node) -> Option<Json> {
    match kind {
        Kind::Text(Syntax::Address) => Some(json!({ "tcp": "0.0.0.0:0" })),
        Kind::Text(_) => text(node).map(Json::from),
        Kind::Int(least, _) => Some((*least).into()),
        _ => None,
    }
}

/// Why a value is not of its kind.
enum Wrong {
    /// Another type of value altogether.
    Kind,
    Value(Fault),
}

fn scalar(kind: &'static Kind, node: &Node) -> Result<Json, Wrong> {
    use Value::{Bare, Boolean, Integer, Text};
    let value = &node.value;
    match (kind, value) {
        (Kind::Bool, Boolean(yes)) => Ok((*yes).into()),
        (Kind::Bool, Bare(text)) => match text.as_str() {
            "true" | "yes" | "on" | "1" => Ok(true.into()),
            "false" | "no" | "off" | "0" => Ok(false.into()),
            _ => Err(Wrong::Kind),
        },
        (Kind::Int(least, most), Integer(number)) => in_range(*number, *least, *most),
        (Kind::Int(least, most), Bare(text)) => {
            in_range(text.trim().parse().map_err(|_| Wrong::Kind)?, *least, *most)
        }
        (Kind::Fraction, Integer(number)) if (0..=1).contains(number) => {
            Ok((*number as f64).into())
        }
        (Kind::Fraction, Value::Float(float)) if (0.0..=1.0).contains(float) => Ok((*float).into()),
        (Kind::Fraction, Bare(text)) => match text.trim().parse::<f64>() {
            Ok(float) if (0.0..=1.0).contains(&float) => Ok(float.into()),
            _ => Err(Wrong::Kind),
        },
        (Kind::Mode, Integer(number)) => match u32::try_from(*number) {
            Ok(mode) if mode <= 0o777 => Ok(mode.into()),
            _ => Err(Wrong::Value(syntax::mode("").unwrap_err())),
        },
        (Kind::Mode, Text(text) | Bare(text)) => {
            syntax::mode(text).map(Json::from).map_err(Wrong::Value)
        }
        (Kind::Duration(least, most), Text(text) | Bare(text)) => duration(text, *least, *most),
        (Kind::Duration(..), Integer(number)) => {
            syntax::duration(&number.to_string()).map(|_| Json::Null).map_err(Wrong::Value)
        }
        (Kind::Size(least, most), Text(text) | Bare(text)) => {
            size(syntax::size(text).map_err(Wrong::Value)?, *least, *most)
        }
        (Kind::Size(least, most), Integer(number)) => {
            size(u64::try_from(*number).unwrap_or(0), *least, *most)
        }
        (Kind::Choice(choices), Text(text) | Bare(text)) => choice(choices, text),
        (Kind::Text(grammar), Text(text) | Bare(text)) => {
            syntax::read(*grammar, text).map_err(Wrong::Value)
        }
        (Kind::Text(Syntax::Cpus), Integer(cpu)) => {
            syntax::read(Syntax::Cpus, &cpu.to_string()).map_err(Wrong::Value)
        }
        _ => Err(Wrong::Kind),
    }
}

fn in_range(number: i64, least: i64, most: i64) -> Result<Json, Wrong> {
    if (least..=most).contains(&number) {
        return Ok(number.into());
    }
    Err(Wrong::Value(Fault { why: format!("must be {least} to {most}"), help: None }))
}

fn duration(text: &str, least: u64, most: u64) -> Result<Json, Wrong> {
    let time = syntax::duration(text).map_err(Wrong::Value)?;
    let ends = [least, most].map(std::time::Duration::from_millis);
    if (ends[0]..=ends[1]).contains(&time) {
        return Ok(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).into());
    }
    let [least, most] = ends.map(humantime::format_duration);
    Err(Wrong::Value(Fault { why: format!("must be {least} to {most}"), help: None }))
}

fn size(size: u64, least: u64, most: u64) -> Result<Json, Wrong> {
    if (least..=most).contains(&size) {
        return Ok(size.into());
    }
    let why = format!("is {size} bytes; it must be {least} to {most} bytes");
    Err(Wrong::Value(Fault { why, help: None }))
}

fn choice(choices: &'static [Choice], text: &str) -> Result<Json, Wrong> {
    let words = || keys::words(choices);
    if let Some(word) = words().find(|word| *word == text) {
        return Ok(word.into());
    }
    let help = match suggest::nearest(text, words()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("it takes {}", suggest::list(words())),
    };
    Err(Wrong::Value(Fault { why: format!("has no choice {text:?}"), help: Some(help) }))
}

/// The kind in words, for "must be …".
pub(crate) fn wanted(kind: &'static Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Int(least, most) => format!("a whole number from {least} to {most}"),
        Kind::Fraction => "a number from 0 to 1".to_owned(),
        Kind::Mode => "octal digits such as \"0660\"".to_owned(),
        Kind::Duration(..) => "a duration such as \"10s\"".to_owned(),
        Kind::Size(..) => "a size such as \"16KiB\"".to_owned(),
        Kind::Choice(choices) => {
            let words: Vec<String> =
                keys::words(choices).map(|word| format!("\"{word}\"")).collect();
            format!("one of {}", words.join(", "))
        }
        Kind::Text(_) => "a string".to_owned(),
        Kind::Or(word, kind) => format!("\"{word}\" or {}", wanted(kind)),
        Kind::List(kind) => format!("a list, each {}", wanted(kind)),
        Kind::Map(..) => "a table of names and values".to_owned(),
        Kind::Table(_) | Kind::Refused(_) => "a table".to_owned(),
        Kind::Tables(_) => "a list of tables".to_owned(),
        Kind::Nodes => "\"nic-local\", \"all\" or a list of numbers".to_owned(),
    }
}

fn text(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Text(text) | Value::Bare(text) => Some(text),
        _ => None,
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn subject(path: &str) -> String {
    if path.is_empty() { "a config".to_owned() } else { format!("`{path}`") }
}

fn first_sentence(doc: &str) -> &str {
    doc.split_inclusive(". ").next().unwrap_or(doc).trim_end()
}

/// The table that has a key of this name, if just one has.
fn home_of(name: &str) -> Option<&'static str> {
    let mut homes = keys::ROOT.iter().filter(|key| match key.kind {
        Kind::Table(keys) | Kind::Tables(keys) => keys::in_table(keys, name).is_some(),
        _ => false,
    });
    let home = homes.next()?;
    homes.next().is_none().then_some(home.name)
}
