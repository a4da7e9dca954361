//! Brings all sources together into one tree: file, included files, variables, flags.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Sources;
use super::keys;
use super::report::Finding;
use super::source::{Kind as SourceKind, Place, SourceMap};
use super::suggest;
use super::tree::{self, Node, Step, Value};
use crate::application;

/// What `emberd` serves without a config file.
pub(crate) const EMBEDDED: &str = include_str!("default.toml");
/// The same for a program with routes of its own: emberd's would stand in their way.
const EMBEDDED_FOR_APPLICATION: &str = include_str!("default-application.toml");
const EMBEDDED_NAME: &str = "embedded default";

/// Bytes of a config file.
const FILE_MAX: u64 = 16 << 20;
/// Files that include files that include files…
const INCLUDE_DEPTH_MAX: usize = 8;

/// Options and variables with a name of their own, and the key that each sets.
pub(crate) const SHORT: &[Short] = &[
    Short { flag: "--backend", variable: "EMBERD_BACKEND", key: &["ring", "backend"] },
    Short { flag: "--workers", variable: "EMBERD_WORKERS", key: &["workers", "count"] },
    Short { flag: "--threads", variable: "EMBERD_THREADS", key: &["workers", "threads"] },
    Short { flag: "--log", variable: "EMBERD_LOG", key: &["log", "level"] },
    Short { flag: "--tune", variable: "EMBERD_TUNE", key: &["tune", "apply"] },
    Short { flag: LISTEN, variable: "EMBERD_LISTEN", key: &["listener", "0", "address"] },
];

/// Sets the address of the first listener, and makes one where there is none.
const LISTEN: &str = "--listen";

/// The key that names more files; it is gone when they are read.
pub(crate) const INCLUDE: &str = "include";

/// Names the config file, so it is no key.
pub(crate) const CONFIG_VARIABLE: &str = "EMBERD_CONFIG";

/// An option with a name of its own.
pub(crate) struct Short {
    pub(crate) flag: &'static str,
    pub(crate) variable: &'static str,
    pub(crate) key: &'static [&'static str],
}

/// All values, and what was wrong with getting them.
pub(crate) struct Gathered {
    pub(crate) tree: Node,
    pub(crate) sources: SourceMap,
    pub(crate) findings: Vec<Finding>,
}

/// Reads everything; flags go over variables, and those over files.
pub(crate) fn gather(from: &Sources) -> Gathered {
    let mut gather = Gather {
        environment: &from.environment,
        sources: SourceMap::default(),
        findings: Vec::new(),
        open: Vec::new(),
    };
    let mut tree = gather.base(from.file.as_deref());
    gather.default_listener(&mut tree);
    gather.variables(&mut tree);
    for (flag, value) in &from.flags {
        gather.flag(&mut tree, flag, value);
    }
    for set in &from.set {
        gather.set(&mut tree, set);
    }
    Gathered { tree, sources: gather.sources, findings: gather.findings }
}

struct Gather<'a> {
    environment: &'a BTreeMap<String, String>,
    sources: SourceMap,
    findings: Vec<Finding>,
    /// The files that are being read, each included by the one before it.
    open: Vec<PathBuf>,
}

impl Gather<'_> {
    fn base(&mut self, file: Option<&Path>) -> Node {
        let Some(path) = file else {
            let text = if application::is_there() { EMBEDDED_FOR_APPLICATION } else { EMBEDDED };
            let id = self.sources.add_text(SourceKind::File, EMBEDDED_NAME, text.to_owned());
            return self.document(id, text.len());
        };
        match read(path) {
            Ok(text) => self.file(path, text),
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.findings.push(Finding::nowhere("unreadable", message));
                let id = self.sources.add_file(path, String::new());
                self.document(id, 0)
            }
        }
    }

    fn file(&mut self, path: &Path, text: String) -> Node {
        let length = text.len();
        let id = self.sources.add_file(path, text);
        let mut node = self.document(id, length);
        self.open.push(identity(path));
        if let Some(include) = node.take(INCLUDE) {
            self.includes(&mut node, &include.node);
        }
        self.open.pop();
        node
    }

    fn document(&mut self, id: u32, length: usize) -> Node {
        let (mut node, findings) = tree::parse_document(&self.sources, Place::new(id, 0..length));
        self.findings.extend(findings);
        self.substitute(&mut node);
        node
    }

    fn includes(&mut self, into: &mut Node, include: &Node) {
        let wanted: Vec<(&str, Place)> = match &include.value {
            Value::Text(path) => vec![(path.as_str(), include.place)],
            Value::List(list) => list
                .iter()
                .filter_map(|node| match &node.value {
                    Value::Text(path) => Some((path.as_str(), node.place)),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        let whole = match &include.value {
            Value::List(list) => list.len() == wanted.len(),
            value => matches!(value, Value::Text(_)),
        };
        if !whole {
            let message = "`include` must be a path or a list of paths";
            self.findings.push(Finding::error("wrong_type", include.place, message));
        }
        for (path, place) in wanted {
            let path = self.sources.resolve(place, path);
            match files(&path) {
                Ok(files) => files.iter().for_each(|file| self.include(into, file, place)),
                Err(error) => self.unreadable(&path, place, &error),
            }
        }
    }

    fn include(&mut self, into: &mut Node, path: &Path, place: Place) {
        let message = if self.open.contains(&identity(path)) {
            format!("{} includes itself", path.display())
        } else if self.open.len() >= INCLUDE_DEPTH_MAX {
            format!("files include each other more than {INCLUDE_DEPTH_MAX} deep")
        } else {
            match read(path) {
                Ok(text) => {
                    let node = self.file(path, text);
                    tree::merge(into, node, &mut self.findings);
                }
                Err(error) => self.unreadable(path, place, &error),
            }
            return;
        };
        self.findings.push(Finding::error("include", place, message));
    }

    fn unreadable(&mut self, path: &Path, place: Place, error: &io::Error) {
        let message = format!("cannot read {}: {error}", path.display());
        self.findings.push(Finding::error("unreadable", place, message));
    }

    /// Puts variables in for `${NAME}` and `${NAME:-default}`. Lower-case names are left alone:
    /// scripts in bodies use them.
    fn substitute(&mut self, node: &mut Node) {
        let (environment, findings) = (self.environment, &mut self.findings);
        node.replace_texts(&mut |text, place| {
            let mut unset = Vec::new();
            let expanded = expand(&text, environment, &mut unset);
            for name in unset {
                findings.push(
                    Finding::error("unset", place, format!("the variable {name} is not set")).help(
                        format!(
                            "set it, or give a default: ${{{name}:-…}}; for the text itself \
                             write $${{{name}}}"
                        ),
                    ),
                );
            }
            // A whole string may stand for a number: only its key knows.
            let whole = text.strip_prefix("${").and_then(reference_of);
            match whole {
                Some((_, _, "")) => Value::Bare(expanded),
                _ => Value::Text(expanded),
            }
        });
    }

    /// A config that names no listener gets one, so that `--listen` alone is enough too.
    fn default_listener(&mut self, tree: &mut Node) {
        if tree.entry("listener").is_some() {
            return;
        }
        let text = "[[listener]]\nname = \"default\"\naddress = \"127.0.0.1:8080\"\n";
        let id = self.sources.add_text(SourceKind::Default, "default", text.to_owned());
        let node = self.document(id, text.len());
        tree::merge(tree, node, &mut self.findings);
    }

    fn variables(&mut self, tree: &mut Node) {
        let settable: BTreeMap<String, Vec<&str>> = keys::settable()
            .into_iter()
            .map(|(path, _)| (keys::variable(&path), path))
            .chain(SHORT.iter().map(|short| (short.variable.to_owned(), short.key.to_vec())))
            .collect();
        for (name, value) in self.environment {
            if let Some(path) = settable.get(name) {
                let text = format!("{name}={value}");
                let at = (0..name.len(), name.len() + 1..text.len());
                self.lay(tree, SourceKind::Variable, "environment", text, path, at);
            } else if name.starts_with("EMBERD_") && name != CONFIG_VARIABLE {
                self.unknown_variable(name, value, &settable);
            }
        }
    }

    fn unknown_variable(
        &mut self,
        name: &str,
        value: &str,
        settable: &BTreeMap<String, Vec<&str>>,
    ) {
        let text = format!("{name}={value}");
        let id = self.sources.add_text(SourceKind::Variable, "environment", text);
        let names = settable.keys().map(String::as_str).chain([CONFIG_VARIABLE]);
        let help = match suggest::nearest(name, names) {
            Some(near) => format!("did you mean {near}?"),
            None => "docs/config.md lists the variables".to_owned(),
        };
        let place = Place::new(id, 0..name.len());
        let message = format!("nothing reads the variable {name}");
        self.findings.push(Finding::warning("unknown_variable", place, message).help(help));
    }

    fn flag(&mut self, tree: &mut Node, flag: &str, value: &str) {
        let Some(short) = SHORT.iter().find(|short| short.flag == flag) else { return };
        let text = format!("{flag} {value}");
        let at = (0..flag.len(), flag.len() + 1..text.len());
        self.lay(tree, SourceKind::Flag, "command line", text, short.key, at);
    }

    fn set(&mut self, tree: &mut Node, set: &str) {
        const OPTION: &str = "--set ";
        let text = format!("{OPTION}{set}");
        let Some((key, _)) = set.split_once('=') else {
            let id = self.sources.add_text(SourceKind::Flag, "command line", text);
            let place = Place::new(id, OPTION.len()..OPTION.len() + set.len());
            let finding = Finding::error("bad_value", place, "`--set` takes key=value");
            self.findings.push(finding.help("for instance --set limits.idle_timeout=60s"));
            return;
        };
        let key = key.trim_end();
        let value_at = OPTION.len() + set.find('=').map_or(0, |at| at + 1);
        let at = (OPTION.len()..OPTION.len() + key.len(), value_at..text.len());
        let path: Vec<&str> = key.split('.').map(str::trim).collect();
        self.lay(tree, SourceKind::Flag, "command line", text, &path, at);
    }

    /// Lays one value over the tree; `at` are the spans of key and value in `text`.
    fn lay(
        &mut self,
        tree: &mut Node,
        kind: SourceKind,
        name: &str,
        text: String,
        path: &[&str],
        at: (std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let id = self.sources.add_text(kind, name, text);
        let (key, value) = (Place::new(id, at.0), Place::new(id, at.1));
        if path.first() == Some(&INCLUDE) {
            let message = "`include` can only stand in a file";
            self.findings.push(Finding::error("refused", key, message));
            return;
        }
        let steps: Vec<Step<'_>> = path.iter().map(|step| Step { key: step, place: key }).collect();
        match bare_or_toml(&self.sources, value, path) {
            Ok(node) => {
                if let Err(finding) = tree::overlay(tree, &steps, node) {
                    self.findings.push(*finding);
                }
            }
            Err(finding) => self.findings.push(*finding),
        }
    }
}

/// Quotes and brackets make a value TOML; everything else is read as its key wants it.
fn bare_or_toml(sources: &SourceMap, place: Place, path: &[&str]) -> Result<Node, Box<Finding>> {
    let all = place.text(sources);
    let text = all.trim();
    let before = all.len() - all.trim_start().len();
    let place = place.within(before..before + text.len());
    let structured = text.starts_with(['"', '\'', '[', '{']);
    // [::1]:80 is an address, no list.
    let address = path.last().is_some_and(|last| matches!(*last, "address" | "listen"));
    if structured && !(address && text.starts_with('[')) {
        tree::parse_value(sources, place)
    } else {
        Ok(Node { value: Value::Bare(text.to_owned()), place })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let limited = |from: &mut dyn Read, to: &mut Vec<u8>| from.take(FILE_MAX + 1).read_to_end(to);
    if path == Path::new("-") {
        limited(&mut io::stdin().lock(), &mut bytes)?;
    } else {
        limited(&mut File::open(path)?, &mut bytes)?;
    }
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", FILE_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        io::Error::other(format!("line {line} is not UTF-8"))
    })
}

/// The files that an `include` names: one, or those of a folder in the order of their names.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let all = Path::new("*.toml");
    let folder = if path.ends_with(all) { path.parent().unwrap_or(path) } else { path };
    if !folder.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if path.extension().is_some_and(|extension| extension == "toml") && !hidden {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// `text` with variables put in; names that are not set go to `unset`.
fn expand(text: &str, environment: &BTreeMap<String, String>, unset: &mut Vec<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let reference = &rest[at + 2..];
        let Some((name, default, after)) = reference_of(reference) else {
            out.push_str(&rest[..at + 2]);
            rest = reference;
            continue;
        };
        let escaped = rest[..at].ends_with('$');
        out.push_str(&rest[..at - usize::from(escaped)]);
        if escaped {
            out.push_str(&rest[at..rest.len() - after.len()]);
        } else if let Some(value) = environment.get(name).map(String::as_str).or(default) {
            out.push_str(value);
        } else {
            unset.push(name.to_owned());
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The name, the default and what follows of `NAME}…` or `NAME:-default}…`.
fn reference_of(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c| !fits(c))?;
    let (name, rest) = text.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some(after) = rest.strip_prefix('}') {
        return Some((name, None, after));
    }
    let (default, after) = rest.strip_prefix(":-")?.split_once('}')?;
    Some((name, Some(default), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_put_in() {
        let environment = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expanded) in [
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${B:-two}", "two"),
            ("${A:-two}", "1"),
            ("${B:-}", ""),
            ("$${A}", "${A}"),
            ("${name} ${1} $A ${A", "${name} ${1} $A ${A"),
            ("${", "${"),
            ("$$${A}", "$${A}"),
        ] {
            let mut unset = Vec::new();
            assert_eq!(expand(text, &environment, &mut unset), expanded, "{text}");
            assert_eq!(unset, Vec::<String>::new(), "{text}");
        }
        let mut unset = Vec::new();
        assert_eq!(expand("a${NOPE}b", &environment, &mut unset), "ab");
        assert_eq!(unset, ["NOPE"]);
    }

    #[test]
    fn short_options_name_keys() {
        let settable = keys::settable();
        for short in SHORT.iter().filter(|short| short.flag != LISTEN) {
            assert!(settable.iter().any(|(path, _)| path == short.key), "{}", short.flag);
        }
    }
}
