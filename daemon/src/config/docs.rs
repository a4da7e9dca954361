//! What people read, made from the table of keys: `emberd config init` and docs/config.md.

use super::check::wanted;
use super::gather::{EMBEDDED, SHORT};
use super::keys::{self, Fallback, Key, Kind};
use super::literal;

/// Columns of a comment.
const WIDTH: usize = 96;

/// A config file to begin with: every key with its default, commented out.
pub(crate) fn init() -> String {
    let mut text = String::from(
        "# The config of emberd. A line without space after the # shows a default, or an\n\
         # example where there is none. `emberd check` says what is wrong with it.\n\n",
    );
    for key in top(|kind| !matches!(kind, Kind::Table(_) | Kind::Tables(_))) {
        init_key(&mut text, key);
    }
    for key in top(|kind| matches!(kind, Kind::Table(_))) {
        text.push('\n');
        comment(&mut text, key.doc);
        // An optional table would be there by its header alone.
        let mark = if key.fallback == Fallback::Filled { "" } else { "#" };
        text.push_str(&format!("{mark}[{}]\n", key.name));
        keys_of(key).iter().for_each(|key| init_key(&mut text, key));
    }
    for key in top(|kind| matches!(kind, Kind::Tables(_))) {
        text.push('\n');
        comment(&mut text, key.doc);
        comment(&mut text, "Its keys:");
        for key in keys_of(key).iter().filter(|key| key.is_open()) {
            comment(&mut text, &format!("  {} = {} - {}", key.name, example(key), key.doc));
        }
        text.push_str(&embedded(key.name));
    }
    text
}

fn top(fits: impl Fn(&Kind) -> bool) -> impl Iterator<Item = &'static Key> {
    keys::ROOT.iter().filter(move |key| key.is_open() && fits(&key.kind))
}

fn keys_of(key: &'static Key) -> &'static [Key] {
    match key.kind {
        Kind::Table(keys) | Kind::Tables(keys) => keys,
        _ => &[],
    }
}

fn init_key(text: &mut String, key: &'static Key) {
    if key.is_open() {
        comment(text, key.doc);
        text.push_str(&format!("#{} = {}\n", key.name, example(key)));
    }
}

/// A value to show; a table inside a table is shown with its own.
fn example(key: &'static Key) -> String {
    let Kind::Table(keys) = key.kind else { return literal::shown(key) };
    let inner = keys.iter().filter(|key| key.fallback == Fallback::Required);
    let inner: Vec<String> =
        inner.map(|key| format!("{} = {}", key.name, literal::shown(key))).collect();
    format!("{{ {} }}", inner.join(", "))
}

/// The tables of this name in the embedded default.
fn embedded(name: &str) -> String {
    let header = format!("[[{name}]]");
    let paragraphs = EMBEDDED.split("\n\n").filter(|paragraph| paragraph.starts_with(&header));
    paragraphs.map(|paragraph| format!("{}\n", paragraph.trim_end())).collect::<Vec<_>>().join("\n")
}

fn comment(text: &mut String, doc: &str) {
    let mut line = String::from("#");
    let indent = doc.len() - doc.trim_start().len();
    line.push_str(&" ".repeat(indent));
    for word in doc.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = format!("#{}", " ".repeat(if indent > 0 { indent + 2 } else { 0 }));
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

/// docs/config.md.
pub(crate) fn reference() -> String {
    let mut text = String::from(INTRODUCTION);
    text.push_str(&short_options());
    text.push_str("\n## Top of the file\n\n");
    text.push_str(&rows("", top(|kind| !matches!(kind, Kind::Table(_) | Kind::Tables(_)))));
    for key in top(|kind| matches!(kind, Kind::Table(_) | Kind::Tables(_))) {
        section(&mut text, key.name, key, matches!(key.kind, Kind::Tables(_)));
    }
    text
}

const INTRODUCTION: &str = "\
# Config reference

Made from the table in `daemon/src/config/keys.rs`; a test holds this page to it.

The config is TOML. `emberd check -c FILE` says everything that is wrong with one, each fault with
its line and a mend; `emberd config init` prints one to begin with, `emberd config schema` a JSON
Schema for editors, and `emberd config dump` what is in force and where each value came from.
Unknown keys are errors. Without a file, emberd serves `/health`, `/hello` and `/metrics` on
127.0.0.1:8080.

- Each key of a table that is there once can be given as `--set table.key=value` and as a variable;
  a key of `[[listener]]` and the like as `--set listener.0.backlog=128` or, by its name,
  `--set listener.web.backlog=128`. An option goes over a variable, and that over the file.
- Durations have units: `500ms`, `10s`, `1m 30s`. Sizes too: `16KiB`, `4MiB`; a number alone counts
  bytes.
- `${NAME}` in a string is the environment variable of that name, `${NAME:-text}` has a default,
  `$${NAME}` is the text itself. Only upper-case names are looked at.
- Relative paths are relative to the file that they stand in.

## Options with a name of their own

| option | variable | key |
|---|---|---|
";

fn short_options() -> String {
    let mut text = String::from("| `-c`, `--config` | `EMBERD_CONFIG` | the file itself |\n");
    for short in SHORT {
        let key = match short.key {
            ["listener", "0", "address"] => "`address` of the first `[[listener]]`".to_owned(),
            key => format!("`{}`", key.join(".")),
        };
        text.push_str(&format!("| `{}` | `{}` | {key} |\n", short.flag, short.variable));
    }
    text
}

fn section(text: &mut String, path: &str, key: &'static Key, repeated: bool) {
    let header = if repeated { format!("[[{path}]]") } else { format!("[{path}]") };
    text.push_str(&format!("\n## `{header}`\n\n{}\n\n", cell(key.doc)));
    let prefix = if repeated { "" } else { path };
    text.push_str(&rows(prefix, keys_of(key).iter()));
    for inner in keys_of(key).iter().filter(|key| key.is_open()) {
        if let Kind::Table(_) = inner.kind {
            section(text, &format!("{path}.{}", inner.name), inner, false);
        }
        if let Kind::Choice(choices) = inner.kind {
            text.push_str(&format!("\n`{}`:\n\n", inner.name));
            for choice in choices {
                text.push_str(&format!("- `{}`: {}\n", choice.word, choice.doc));
            }
        }
    }
}

fn rows(path: &str, keys: impl Iterator<Item = &'static Key>) -> String {
    let mut text = String::from("| key | takes | default | |\n|---|---|---|---|\n");
    for key in keys.filter(|key| key.is_open()) {
        let default = match key.fallback {
            Fallback::Required => "must be given".to_owned(),
            Fallback::Is("") | Fallback::Nothing | Fallback::Filled => "none".to_owned(),
            Fallback::Is(_) => format!("`{}`", literal::shown(key)),
            Fallback::From(what) => format!("from {what}"),
        };
        let variable = match key.kind {
            Kind::Table(_) | Kind::Tables(_) => None,
            _ => settable_as(path, key),
        };
        let variable = variable.map(|name| format!(" `{name}`")).unwrap_or_default();
        let example = match key.fallback {
            Fallback::Is(value) if !value.is_empty() => String::new(),
            _ if key.example.is_empty() => String::new(),
            _ => format!(" For instance `{}`.", key.example),
        };
        text.push_str(&format!(
            "| `{}` | {} | {} | {}{}{} |\n",
            key.name,
            cell(&wanted(&key.kind)),
            cell(&default),
            cell(key.doc),
            cell(&example),
            variable
        ));
    }
    text
}

fn settable_as(path: &str, key: &Key) -> Option<String> {
    let settable = keys::settable();
    let wanted = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
    let (path, _) = settable.iter().find(|(path, _)| path.join(".") == wanted)?;
    Some(keys::variable(path))
}

/// Text inside a row.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
