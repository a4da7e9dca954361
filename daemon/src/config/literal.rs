//! Values as one writes them in TOML.

use std::time::Duration;

use serde_json::Value as Json;

use super::keys::{Fallback, Key, Kind, Syntax};

/// A checked value of this kind as TOML; none for what is not there.
pub(crate) fn of(kind: &Kind, value: &Json) -> Option<String> {
    let literal = match (kind, value) {
        (Kind::Or(word, _), Json::Null) => text(word),
        (_, Json::Null) => return None,
        (Kind::Or(_, kind), _) => return of(kind, value),
        (Kind::Mode, Json::Number(mode)) => text(&format!("{:04o}", mode.as_u64()?)),
        (Kind::Duration(..), Json::Number(nanos)) => text(&duration(nanos.as_u64()?)),
        (Kind::Size(..), Json::Number(bytes)) => size(bytes.as_u64()?),
        (Kind::Text(Syntax::Address), Json::Object(_)) => text(&address(value)?),
        (Kind::List(kind), Json::Array(list)) => {
            let literals: Vec<String> = list.iter().filter_map(|value| of(kind, value)).collect();
            format!("[{}]", literals.join(", "))
        }
        (Kind::Map(..), Json::Array(pairs)) => map(pairs),
        (Kind::Nodes, Json::Object(nodes)) => nodes.get("nodes")?.to_string().replace(',', ", "),
        (Kind::Tables(_) | Kind::Table(_) | Kind::Refused(_), _) => return None,
        (_, Json::String(value)) => text(value),
        (_, value) => value.to_string(),
    };
    Some(literal)
}

/// What to show for a key: its default, else its example.
pub(crate) fn shown(key: &Key) -> String {
    match key.fallback {
        Fallback::Is(value) if !value.is_empty() => match key.kind {
            Kind::Bool | Kind::Int(..) | Kind::Fraction => value.to_owned(),
            Kind::Or(_, _) if value.parse::<i64>().is_ok() => value.to_owned(),
            _ => text(value),
        },
        _ => key.example.to_owned(),
    }
}

/// A basic string.
pub(crate) fn text(text: &str) -> String {
    let json = Json::from(text).to_string();
    // JSON leaves this one as it is, TOML does not take it.
    json.replace('\u{7f}', "\\u007f")
}

/// An address in the form of the config.
pub(crate) fn address(value: &Json) -> Option<String> {
    let (kind, text) = value.as_object()?.iter().next()?;
    let text = text.as_str()?;
    Some(if kind == "tcp" { text.to_owned() } else { format!("{kind}:{text}") })
}

fn duration(nanos: u64) -> String {
    humantime::format_duration(Duration::from_nanos(nanos)).to_string()
}

fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = |shift: u32| bytes > 0 && bytes.trailing_zeros() >= shift;
    match units.iter().find(|(_, shift)| whole(*shift)) {
        Some((unit, shift)) => format!("\"{}{unit}\"", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// An inline table; a name with several values has a list of them.
fn map(pairs: &[Json]) -> String {
    let mut names: Vec<(&str, Vec<String>)> = Vec::new();
    for pair in pairs {
        let (name, value) = (pair[0].as_str().unwrap_or(""), pair[1].as_str().unwrap_or(""));
        match names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(text(value)),
            None => names.push((name, vec![text(value)])),
        }
    }
    let entry = |(name, values): &(&str, Vec<String>)| match values.as_slice() {
        [value] => format!("{} = {value}", text(name)),
        values => format!("{} = [{}]", text(name), values.join(", ")),
    };
    let entries: Vec<String> = names.iter().map(entry).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}
