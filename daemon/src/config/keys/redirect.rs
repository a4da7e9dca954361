//! The keys of `[[redirect]]`.

use super::Fallback::{Is, Required};
use super::Kind::{Bool, Int, Text};
use super::{HOSTS, Key, Syntax, key, route_name, rules};

pub(super) const REDIRECT: &[Key] =
    &rules::and::<{ OWN.len() + rules::RULES.len() }>(OWN, &rules::RULES);

const OWN: &[Key] = &[
    key(
        "path",
        Text(Syntax::Pattern),
        Required,
        "The path that is redirected. Segments may be captured: `{name}` takes any segment, \
         `{name:int}`, `{name:float}` and `{name:uuid}` such ones, and `{name:path}` all the rest.",
    )
    .eg(r#""/old/{rest:path}""#),
    key(
        "to",
        Text(Syntax::Location),
        Required,
        "Where to: a path, or a URL with http or https. `{name}` stands for what was captured, \
         encoded; it cannot be part of the host.",
    )
    .eg(r#""/new/{rest}""#),
    route_name("path").eg(r#""old""#),
    HOSTS,
    key(
        "status",
        Int(301, 308),
        Is("308"),
        "301 or 308: for good, 302 or 307: for now, 303: look there with GET. After 301 and 302 \
         browsers change POST to GET; 307 and 308 keep the method.",
    ),
    key("keep_query", Bool, Is("false"), "Whether the query goes along."),
    rules::HEADERS,
];
