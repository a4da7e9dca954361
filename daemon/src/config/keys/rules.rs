//! The keys of what is asked of requests, and done to replies, before and behind whatever answers:
//! shared by all sections that have routes.

use super::Fallback::{From, Is, Nothing, Required};
use super::Kind::{Bool, Duration, Int, List, Map, Refused, Table, Text};
use super::{Choice, HOUR, Key, Kind, Syntax, key, word};

/// Of sections whose requests come to a handler.
pub(super) const RULES: [Key; 7] = [
    METHODS,
    key(
        "remove_headers",
        List(&Text(Syntax::FieldName)),
        Is(""),
        "Fields that are taken out of replies, before others are added.",
    )
    .eg(r#"["server", "x-powered-by"]"#),
    SECURITY_HEADERS,
    HSTS,
    CORS,
    key("auth", Table(AUTH), Nothing, "Who may ask. Others get 401.")
        .eg(r#"{ basic_file = "users.htpasswd" }"#),
    key(
        "rate_limit",
        Table(RATE_LIMIT),
        Nothing,
        "How often one client may ask, counted over all workers. Above it: 429 with Retry-After.",
    )
    .eg(r#"{ key = "ip", rate = 500, burst = 1000 }"#),
];

/// Of `[[prepared]]`: what can be rendered.
pub(super) const RENDERED: [Key; 7] = [
    METHODS,
    SECURITY_HEADERS,
    HSTS,
    CORS,
    key("auth", Refused(NOT_RENDERED), Nothing, ""),
    key("rate_limit", Refused(NOT_RENDERED), Nothing, ""),
    key(
        "remove_headers",
        Refused("a prepared reply has the fields that are given here"),
        Nothing,
        "",
    ),
];

const NOT_RENDERED: &str = "a prepared reply goes out without a look at who asks; put the body into \
                            a file and serve it by [[files]] with `path` and `file`";

/// Fields that are added to every reply of a section.
pub(super) const HEADERS: Key = key(
    "headers",
    Map(Syntax::HeaderName, Syntax::HeaderValue),
    Is(""),
    "Fields that are added to replies; a list gives one field for each value.",
)
.eg(r#"{ cache-control = "no-store" }"#);

/// These keys and those of all sections.
pub(super) const fn and<const N: usize>(own: &[Key], rules: &[Key]) -> [Key; N] {
    assert!(own.len() + rules.len() == N);
    let mut all = [own[0]; N];
    let mut at = 1;
    while at < N {
        all[at] = if at < own.len() { own[at] } else { rules[at - own.len()] };
        at += 1;
    }
    all
}

const METHODS: Key = key(
    "methods",
    List(&Kind::Choice(METHOD)),
    Is(""),
    "The methods that are answered; others get 405. HEAD comes with GET. Without it, those that \
     the section answers.",
)
.eg(r#"["GET"]"#);

const SECURITY_HEADERS: Key = key(
    "security_headers",
    Bool,
    Is("false"),
    "Add `X-Content-Type-Options: nosniff`, `X-Frame-Options: SAMEORIGIN` and `Referrer-Policy: \
     strict-origin-when-cross-origin`, each where the reply does not have that field.",
);

const HSTS: Key = key(
    "hsts",
    Duration(0, 10 * 365 * 24 * HOUR),
    Nothing,
    "Add `Strict-Transport-Security` with this `max-age`. For hosts that are reached by TLS alone.",
)
.eg(r#""365d""#);

const CORS: Key = key(
    "cors",
    Table(CORS_KEYS),
    Nothing,
    "Which pages of other origins may read replies. Preflights are answered here.",
)
.eg(r#"{ origins = ["https://app.example.org"] }"#);

const METHOD: &[Choice] = &[
    word("GET", "GET and HEAD"),
    word("HEAD", "HEAD alone"),
    word("POST", "POST"),
    word("PUT", "PUT"),
    word("DELETE", "DELETE"),
    word("PATCH", "PATCH"),
    word("OPTIONS", "OPTIONS; where it is not named, the server answers it"),
];

const CORS_KEYS: &[Key] = &[
    key(
        "origins",
        List(&Text(Syntax::Origin)),
        Required,
        "Their origins as browsers write them; `https://*.example.org` means all below, `*` all.",
    )
    .eg(r#"["https://app.example.org"]"#),
    key(
        "methods",
        List(&Kind::Choice(METHOD)),
        Is(""),
        "The methods that they may use. Without it, those that are answered.",
    ),
    key(
        "headers",
        List(&Text(Syntax::FieldName)),
        Is(""),
        "The request fields that they may set, besides those that all may.",
    )
    .eg(r#"["content-type", "authorization"]"#),
    key(
        "expose",
        List(&Text(Syntax::FieldName)),
        Is(""),
        "The reply fields that they may read, besides those that all may.",
    )
    .eg(r#"["x-request-id"]"#),
    key("credentials", Bool, Is("false"), "Whether cookies and passwords may go along."),
    key(
        "max_age",
        Duration(0, 24 * HOUR),
        Is("10m"),
        "How long a browser may remember the answer to a preflight.",
    ),
];

const AUTH: &[Key] = &[
    key(
        "basic_file",
        Text(Syntax::File),
        Nothing,
        "Users and hashes of their passwords, as htpasswd writes them with -B (bcrypt), -2 or -5 \
         (SHA-crypt), or -s (SHA-1). Read at start and reload, by whoever reads the config.",
    )
    .eg(r#""users.htpasswd""#),
    key(
        "bearer_file",
        Text(Syntax::File),
        Nothing,
        "Tokens, one a line: as they are, or as `sha256:` and the hexadecimal digest. Read at start \
         and reload.",
    )
    .eg(r#""tokens""#),
    key("realm", Text(Syntax::Realm), Is("restricted"), "What browsers call it when they ask."),
];

const RATE_LIMIT: &[Key] = &[
    key(
        "key",
        Text(Syntax::RateKey),
        Is("ip"),
        "Who counts as one client: `\"ip\"`, an address (of IPv6, a /64 network), \
         `\"header:NAME\"`, whoever sends the same value (or none), or `\"route\"`, all together.",
    ),
    key("rate", Int(1, 10_000_000), Required, "Requests in each `per`, evenly.").eg("500"),
    key("per", Duration(1, 24 * HOUR), Is("1s"), "The time that `rate` is for."),
    key(
        "burst",
        Int(1, 10_000_000),
        From("rate"),
        "Requests that may come at once before the rate counts.",
    )
    .eg("1000"),
];
