//! `emberd config schema`: the table of keys as a JSON Schema, which editors use.

use serde_json::{Map as JsonMap, Value as Json, json};

use super::keys::{self, Fallback, Key, Kind, Syntax};

/// The schema of a whole config. Draft 7 is what editors of TOML know.
pub(crate) fn schema() -> Json {
    let mut schema = table(keys::ROOT);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("emberd");
    schema["description"] = json!("The config of emberd.");
    schema
}

fn table(keys: &'static [Key]) -> Json {
    let open = || keys.iter().filter(|key| key.is_open());
    let properties: JsonMap<String, Json> =
        open().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> =
        open().filter(|key| key.fallback == Fallback::Required).map(|key| key.name).collect();
    let mut schema =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn property(key: &'static Key) -> Json {
    let mut schema = kind(&key.kind);
    schema["description"] = json!(key.doc);
    if let Fallback::Is(value) = key.fallback
        && !value.is_empty()
    {
        schema["default"] = default(&key.kind, value);
    }
    schema
}

fn default(kind: &Kind, text: &str) -> Json {
    match kind {
        Kind::Bool => json!(text == "true"),
        Kind::Int(..) => text.parse::<i64>().map_or(Json::Null, Json::from),
        Kind::Fraction => text.parse::<f64>().map_or(Json::Null, Json::from),
        _ => json!(text),
    }
}

fn kind(of: &'static Kind) -> Json {
    match of {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Int(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Fraction => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        Kind::Mode => json!({ "type": ["string", "integer"], "pattern": "^(0o)?[0-7]{1,4}$" }),
        Kind::Duration(..) => {
            json!({ "type": "string", "pattern": "^ *([0-9]+ *[a-z]+ *)+$", "examples": ["10s", "1m 30s"] })
        }
        Kind::Size(least, most) => json!({ "anyOf": [
            { "type": "string", "pattern": "^ *[0-9]+(\\.[0-9]+)? *([KMGTkmgt]?[iI]?[bB]?)$" },
            { "type": "integer", "minimum": least, "maximum": most },
        ] }),
        Kind::Choice(choices) => {
            let words: Vec<&str> = keys::words(choices).collect();
            json!({ "enum": words })
        }
        Kind::Text(syntax) => text(*syntax),
        Kind::Or(word, of) => json!({ "anyOf": [{ "const": word }, kind(of)] }),
        Kind::List(of) => json!({ "type": "array", "items": kind(of) }),
        Kind::Map(names, values) => {
            let value = json!({ "anyOf": [text(*values), { "type": "integer" }] });
            json!({
                "type": "object",
                "propertyNames": text(*names),
                "additionalProperties": { "anyOf": [value, { "type": "array", "items": value }] },
            })
        }
        Kind::Table(keys) => table(keys),
        Kind::Tables(keys) => json!({ "type": "array", "items": table(keys) }),
        Kind::Nodes => json!({ "anyOf": [
            { "enum": ["nic-local", "all"] },
            { "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 1 },
        ] }),
        Kind::Refused(_) => json!(false),
    }
}

/// What a pattern can say of a string; the rest is for `emberd check`.
fn text(syntax: Syntax) -> Json {
    let pattern = match syntax {
        Syntax::Any => return json!({ "type": "string" }),
        Syntax::Address => r"^(\S+:[0-9]{1,5}|unix:[/@].+|systemd:.+|.*\$\{.+)$",
        Syntax::Net => r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$",
        Syntax::Cpus => r"^[0-9, -]+$",
        Syntax::UrlPath => r"^/[^?#{}*\s]*$",
        Syntax::Name => r"^[!-~]{1,128}$",
        Syntax::File | Syntax::FileName | Syntax::Glob => r"^.+$",
        Syntax::HeaderName => r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$",
        Syntax::HeaderValue => r"^[\t -~]*$",
        Syntax::MediaType => r"^[^/\s]+/[^/\s]+( *;.*)?$",
        Syntax::Host => r"^(\*\.)?[^\s/*@?#]+$",
        Syntax::FieldName => r"^(\*|[A-Za-z0-9!#$%&'*+.^_`|~-]+)$",
        Syntax::Pattern => r"^/[^?#*\s]*$",
        Syntax::Location => r"^(/|https?://)\S*$",
        Syntax::Origin => r"^(\*|null|https?://[^/\s]+)$",
        Syntax::Realm => r"^[ !#-\[\]-~]*$",
        Syntax::RateKey => r"^(ip|route|header:.+)$",
        Syntax::User => r"^[A-Za-z0-9_][A-Za-z0-9_.$-]*$",
        Syntax::Device => r"^[^/:\s]{1,15}$",
        Syntax::Upstream => r"^(\S+:[0-9]{1,5}|unix:[/@].+|.*\$\{.+)$",
        Syntax::HashBy => r"^(ip|path|header:[A-Za-z0-9!#$%&'*+.^_`|~-]+)$",
        Syntax::HostRule => r"^[A-Za-z0-9._:\[\]-]+$",
    };
    json!({ "type": "string", "pattern": pattern })
}
