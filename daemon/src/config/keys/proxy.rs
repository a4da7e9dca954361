//! The keys of `[[proxy]]`.

use super::Fallback::{From, Is, Nothing, Required};
use super::Kind::{Bool, Duration, Int, List, Size, Table, Text};
use super::{Choice, GIB, HOSTS, HOUR, KIB, Key, Kind, Syntax, key, route_name, rules, word};

pub(super) const PROXY: &[Key] =
    &rules::and::<{ OWN.len() + rules::RULES.len() }>(OWN, &rules::RULES);

const OWN: &[Key] = &[
    key(
        "prefix",
        Text(Syntax::UrlPath),
        Required,
        "The path whose requests are passed on, and all below it.",
    )
    .eg(r#""/api""#),
    route_name("prefix").eg(r#""api""#),
    HOSTS,
    key(
        "upstreams",
        List(&Text(Syntax::Upstream)),
        Required,
        "Where to: `\"10.0.0.1:9000\"`, `\"[::1]:9000\"`, `\"app.internal:9000\"`, \
         `\"unix:/run/app.sock\"`. Names are looked up again every 30 seconds.",
    )
    .eg(r#"["127.0.0.1:9000", "unix:/run/app.sock"]"#),
    key("balance", Kind::Choice(BALANCE), Is("least-loaded"), "Which upstream a request goes to."),
    key(
        "hash_by",
        Text(Syntax::HashBy),
        Is("ip"),
        "What `balance = \"hash\"` goes by: `\"ip\"`, `\"path\"`, or `\"header:NAME\"`.",
    ),
    key(
        "strip_prefix",
        Bool,
        Is("false"),
        "Cut the prefix off. Without it, the path is passed on whole.",
    ),
    key(
        "host",
        Text(Syntax::HostRule),
        Is("keep"),
        "The Host of the request: `\"keep\"` the client's, `\"upstream\"` for the upstream's own \
         address, or this value.",
    ),
    key(
        "forwarded",
        Kind::Choice(FORWARDED),
        Is("x-forwarded"),
        "How an upstream is told who asks. What clients send of these fields is replaced, but for \
         clients of `trusted`, whose values are added to.",
    ),
    key(
        "trusted",
        List(&Text(Syntax::Net)),
        Is(""),
        "Networks of proxies in front of this one, whose word about their clients counts.",
    )
    .eg(r#"["10.0.0.0/8"]"#),
    key(
        "websocket",
        Bool,
        Is("false"),
        "Let clients change to the WebSocket protocol; the connection is then passed on as it is.",
    ),
    key(
        "connect_timeout",
        Duration(1, HOUR),
        Is("2s"),
        "For a connection to an upstream, its name looked up.",
    ),
    key(
        "response_timeout",
        Duration(1, HOUR),
        Is("30s"),
        "From a request that has gone out to the head of its reply: 504 after it.",
    ),
    key(
        "stall_timeout",
        Duration(1, HOUR),
        Is("30s"),
        "How long a body under way, or a WebSocket connection, may make no headway. \
         WebSocket peers that send pings keep theirs open.",
    ),
    key(
        "retries",
        Int(0, 16),
        Is("1"),
        "How often a request is tried again where that is safe: nothing was sent yet, or the \
         method is idempotent and nothing came back.",
    ),
    key(
        "keepalive",
        Int(0, 65_536),
        Is("64"),
        "Connections to each upstream that a thread keeps open while nobody uses them.",
    ),
    key(
        "keepalive_timeout",
        Duration(1, HOUR),
        Is("30s"),
        "How long it keeps them. Less than the upstream does is right.",
    ),
    key(
        "max_fails",
        Int(0, 1_000_000),
        Is("3"),
        "Requests that fail one after another before an upstream is left out; `0`: never.",
    ),
    key(
        "fail_time",
        Duration(1, HOUR),
        Is("10s"),
        "How long it is left out, where there is another.",
    ),
    key("health", Table(HEALTH), Nothing, "Requests that find out whether upstreams are well.")
        .eg(r#"{ path = "/healthz", interval = "2s" }"#),
    key(
        "proxy_protocol",
        Kind::Choice(PROXY_PROTOCOL),
        Is("off"),
        "Tell upstreams the client's address in front of each connection. Connections are then \
         used for one client's request only.",
    ),
    key(
        "max_body",
        Size(0, 1024 * GIB),
        From("limits.max_body"),
        "Bytes of a request's body here: 413 above it.",
    )
    .eg(r#""1GiB""#),
    key("cache", Table(CACHE), Nothing, "Keep replies to GET, and answer from them.")
        .eg(r#"{ ttl = "1s", stale = "10s", vary = ["accept"] }"#),
    rules::HEADERS,
];

const BALANCE: &[Choice] = &[
    word("least-loaded", "the one with the fewest requests under way; equals take turns"),
    word("hash", "the one that `hash_by` belongs to"),
];

const FORWARDED: &[Choice] = &[
    word("x-forwarded", "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host"),
    word("forwarded", "Forwarded (RFC 7239)"),
    word("both", "all four"),
    word("off", "nothing; what clients send of them is taken out"),
];

const PROXY_PROTOCOL: &[Choice] =
    &[word("off", "no"), word("v1", "as a line of text"), word("v2", "as a binary block")];

const HEALTH: &[Key] = &[
    key("path", Text(Syntax::UrlPath), Is("/"), "What is asked for.").eg(r#""/healthz""#),
    key("interval", Duration(10, HOUR), Is("2s"), "From one check to the next."),
    key("timeout", Duration(1, HOUR), Is("1s"), "For a whole check."),
    key("rise", Int(1, 1000), Is("2"), "Checks that go well before an upstream is up again."),
    key("fall", Int(1, 1000), Is("3"), "Checks that fail before it is down. Well is 200 to 399."),
];

const CACHE: &[Key] = &[
    key(
        "ttl",
        Duration(0, 24 * 365 * HOUR),
        Is("0s"),
        "How long a reply is fresh that does not say so itself.",
    )
    .eg(r#""1s""#),
    key(
        "stale",
        Duration(0, 24 * 365 * HOUR),
        Is("0s"),
        "How long such a reply is used behind that while a newer one is fetched.",
    )
    .eg(r#""10s""#),
    key(
        "stale_if_error",
        Duration(0, 24 * 365 * HOUR),
        Is("0s"),
        "How long it is used behind that where upstreams fail, or answer 500, 502, 503 or 504.",
    )
    .eg(r#""1h""#),
    key(
        "override",
        Bool,
        Is("false"),
        "Go by these times whatever a reply says (Cache-Control, Expires). Replies with \
         Set-Cookie and replies to requests with Authorization are never kept so.",
    ),
    key(
        "coalesce",
        Bool,
        Is("true"),
        "Fetch what is not there once for all who ask at the same time.",
    ),
    key(
        "vary",
        List(&Text(Syntax::HeaderName)),
        Is(""),
        "Request fields by which replies differ, besides those of their own Vary.",
    )
    .eg(r#"["accept"]"#),
    key("max_entries", Int(1, 100_000_000), Is("10000"), "Replies that are kept, each worker."),
    key("max_size", Size(KIB, 1024 * GIB), Is("64MiB"), "Bytes that are kept, each worker."),
    key("max_object", Size(1, GIB), Is("1MiB"), "Bytes of a reply that is kept; others are not."),
    key(
        "pass_time",
        Duration(0, HOUR),
        Is("5s"),
        "How long requests do not wait for each other where a reply was not to be kept.",
    ),
];
