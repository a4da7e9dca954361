//! The one table of everything that can be configured. The check of a config, the names of
//! variables, the JSON Schema, `config init` and docs/config.md are all made from it.

mod proxy;
mod redirect;
mod rules;

/// A key of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) fallback: Fallback,
    /// What it does, in whole sentences.
    pub(crate) doc: &'static str,
    /// A value as TOML has it, for keys without a default to show.
    pub(crate) example: &'static str,
    /// Part of the plan, but nothing reads it yet.
    pub(crate) later: bool,
}

/// What holds when a key is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// The config is refused.
    Required,
    /// Nothing; the doc says what that means.
    Nothing,
    /// This value, as one would write it on the command line; for a list, the empty text is none.
    Is(&'static str),
    /// A table made of the fallbacks of its keys.
    Filled,
    /// The element that the doc describes is worked out from other keys; this says how.
    From(&'static str),
}

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Bool,
    /// A whole number in a range, both ends included.
    Int(i64, i64),
    /// A number from 0 to 1.
    Fraction,
    /// Permissions, as an octal string or number.
    Mode,
    /// Milliseconds at least and at most.
    Duration(u64, u64),
    /// Bytes at least and at most.
    Size(u64, u64),
    Choice(&'static [Choice]),
    Text(Syntax),
    /// A word for "none", or a value of this kind.
    Or(&'static str, &'static Kind),
    List(&'static Kind),
    /// Names, each with a text or a list of texts.
    Map(Syntax, Syntax),
    Table(&'static [Key]),
    /// `[[name]]`
    Tables(&'static [Key]),
    /// Which NUMA nodes: `nic-local`, `all`, or a list of numbers.
    Nodes,
    /// What one might expect here and why it cannot be.
    Refused(&'static str),
}

/// One of the words that a key takes.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) word: &'static str,
    pub(crate) doc: &'static str,
}

/// The grammar of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    Any,
    /// Where to listen.
    Address,
    /// A network in CIDR notation, or one address.
    Net,
    /// A set of CPUs such as `0-3,8`.
    Cpus,
    /// The path of a request, without pattern.
    UrlPath,
    /// A name in metrics and in lists of names.
    Name,
    /// A file.
    File,
    /// A name in a directory.
    FileName,
    /// A pattern of paths.
    Glob,
    HeaderName,
    HeaderValue,
    /// A media type.
    MediaType,
    /// A host's name, or `*.` and one for all hosts below it.
    Host,
    /// A user of the system.
    User,
    /// A network device.
    Device,
    /// Where requests are passed on to.
    Upstream,
    /// What a hash is made of.
    HashBy,
    /// What the Host of a passed-on request is.
    HostRule,
    /// The name of a field in a message.
    FieldName,
    /// The path of a request with parameters.
    Pattern,
    /// Where a redirection leads.
    Location,
    /// The origin of a page.
    Origin,
    /// The name of what is protected.
    Realm,
    /// Who counts as one client.
    RateKey,
}

const fn key(name: &'static str, kind: Kind, fallback: Fallback, doc: &'static str) -> Key {
    Key { name, kind, fallback, doc, example: "", later: false }
}

const fn word(word: &'static str, doc: &'static str) -> Choice {
    Choice { word, doc }
}

/// The words that a key takes.
pub(crate) fn words(choices: &'static [Choice]) -> impl Iterator<Item = &'static str> + Clone {
    choices.iter().map(|choice| choice.word)
}

use Fallback::{Filled, From, Is, Nothing, Required};
use Kind::{Bool, Duration, Int, List, Map, Mode, Nodes, Or, Refused, Size, Table, Tables, Text};

/// Milliseconds.
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The keys at the top of a config file.
pub(crate) static ROOT: &[Key] = &[
    key(
        "include",
        List(&Text(Syntax::File)),
        Is(""),
        "More config files, relative to this one; of a folder, all `*.toml` in the order of their \
         names. Lists of tables grow; what two files set is an error.",
    )
    .eg(r#"["conf.d"]"#),
    key("workers", Table(WORKERS), Filled, "Worker processes and their threads."),
    key("ring", Table(RING), Filled, "The I/O driver of each thread."),
    key("limits", Table(LIMITS), Filled, "Bounds on what a client may ask for."),
    key(
        "user",
        Text(Syntax::User),
        Nothing,
        "The user that workers run as when emberd is started by root; without it \"ember\", or \
         \"nobody\" where there is none. Others than root cannot change it.",
    )
    .eg(r#""ember""#),
    key(
        "state_dir",
        Text(Syntax::File),
        Is("/run/emberd"),
        "Where the tuning journal and the control socket are.",
    ),
    key(
        "admin",
        Table(ADMIN),
        Nothing,
        "A listener apart for `/metrics`, `/healthz`, `/readyz`. Off unless given.",
    ),
    key("tune", Table(TUNE), Filled, "What `emberd tune` and `--tune` do to the host."),
    key(
        "trusted_proxies",
        List(&Text(Syntax::Net)),
        Is(""),
        "Networks of proxies in front of this server. From there, and from unix sockets, the \
         address in `Forwarded` or `X-Forwarded-For` is the client's; from elsewhere it is not \
         believed.",
    )
    .eg(r#"["10.0.0.0/8"]"#),
    key("log", Table(LOG), Filled, "What the server says of itself, on standard error."),
    key("listener", Tables(LISTENER), Nothing, "Where to listen; one table for each address."),
    key(
        "prepared",
        Tables(PREPARED),
        Nothing,
        "Replies rendered once at start and answered without any handler.",
    ),
    key(
        "metrics",
        Tables(METRICS),
        Nothing,
        "Where the public listeners serve the Prometheus metrics.",
    ),
    key(
        "files",
        Tables(FILES),
        Nothing,
        "Files: all below a directory (`prefix` and `root`), or one (`path` and `file`).",
    ),
    key("proxy", Tables(proxy::PROXY), Nothing, "Paths whose requests are passed on to upstreams."),
    key(
        "redirect",
        Tables(redirect::REDIRECT),
        Nothing,
        "Paths whose requests are sent elsewhere.",
    ),
];

const WORKERS: &[Key] = &[
    key(
        "count",
        Or("auto", &Int(1, 1024)),
        Is("auto"),
        "Worker processes; `auto`: one for each NUMA node in use.",
    ),
    key(
        "threads",
        Or("auto", &Int(1, 1024)),
        Is("auto"),
        "Threads of each worker, one ring each; `auto`: one for each physical core of its node \
         (each hardware thread on machines of four or fewer).",
    ),
    key(
        "numa",
        Nodes,
        Is("nic-local"),
        "Which NUMA nodes workers may be on: `\"nic-local\"`, `\"all\"`, or a list of node numbers.",
    ),
    key(
        "cpus",
        Or("auto", &Text(Syntax::Cpus)),
        Is("auto"),
        "Just these CPUs, such as `\"0-3,8\"`; `auto`: those that the process may use.",
    ),
    key(
        "nice",
        Int(-20, 19),
        Is("-10"),
        "Nice value of the workers. Below 0 needs CAP_SYS_NICE and is left out without it.",
    ),
    key(
        "in_process",
        Bool,
        Is("false"),
        "Run the worker in the supervisor's own process. For one worker only; a crash then takes \
         the server with it.",
    ),
    key(
        "sandbox",
        Bool,
        Is("true"),
        "Fence workers off from files, ports and system calls that serving does not need \
         (Landlock, seccomp).",
    ),
    key(
        "readable",
        List(&Text(Syntax::File)),
        Is(""),
        "Files and folders that fenced-off workers may read besides those that the config serves.",
    )
    .eg(r#"["/srv/templates"]"#),
    key(
        "connect",
        Or("any", &List(&Int(1, 65_535))),
        Is(""),
        "TCP ports that fenced-off workers may connect to besides those of upstreams; `any`: all \
         of them, which is the default of programs with handlers of their own.",
    )
    .eg("[5432]"),
    key(
        "stuck_timeout",
        Or("off", &Duration(100, HOUR)),
        Is("30s"),
        "How long a worker's threads may show no sign of life before it is replaced; `off`: for \
         ever.",
    ),
];

const RING: &[Key] = &[
    key("backend", Kind::Choice(BACKENDS), Is("auto"), "The I/O driver."),
    key(
        "profile",
        Kind::Choice(PROFILES),
        Is("default"),
        "Receive buffers by a word; `buffers` and `buffer_size` override it.",
    ),
    key(
        "buffers",
        Int(1, 32_768),
        From("profile"),
        "Receive buffers of a thread, a power of two. Idle connections hold none.",
    )
    .eg("256"),
    key("buffer_size", Size(512, 65_535), From("profile"), "Bytes of a receive buffer.")
        .eg(r#""8KiB""#),
    key(
        "form",
        Kind::Choice(FORMS),
        Is("linked"),
        "How a prepared reply and the receive after it are submitted.",
    ),
    key(
        "poll_first",
        Bool,
        Is("false"),
        "Let the receive after a reply wait for data without trying first.",
    ),
    key(
        "entries",
        Int(8, 32_768),
        Is("256"),
        "Entries of the submission queue; rounded up to a power of two.",
    ),
    key(
        "cq_entries",
        Int(16, 65_536),
        Is("4096"),
        "Entries of the completion queue, for the worst burst; rounded up to a power of two.",
    ),
    key(
        "direct",
        Bool,
        Is("true"),
        "Keep sockets in the ring's own file table rather than the process's.",
    ),
    key(
        "zero_copy_min",
        Or("off", &Size(KIB, GIB)),
        Is("off"),
        "Send prepared bodies from this size on without a copy.",
    ),
    key(
        "shutdown_last",
        Bool,
        Is("false"),
        "Shut a connection down before its close behind a last reply. The close does the same and \
         costs a third less; only a copy of the socket in another process would keep it open.",
    ),
    key(
        "sqpoll_cpu",
        Or("off", &Int(0, 8191)),
        Is("off"),
        "Let a kernel thread on this CPU do the submitting. It keeps that CPU busy.",
    ),
    key(
        "min_wait",
        Duration(0, 100),
        Is("0s"),
        "Wait up to this long for `min_completions`, such as `50us`, before being content with \
         one: more batching, later replies.",
    ),
    key("min_completions", Int(1, 4096), Is("1"), "How many completions `min_wait` waits for."),
    key(
        "busy_poll",
        Or("off", &Duration(0, 10)),
        Is("off"),
        "Poll the NIC's queues this long, such as `50us`, before sleeping (NAPI). It keeps the \
         CPU busy.",
    ),
    key(
        "incremental",
        Bool,
        Is("false"),
        "Let several receives share a buffer, each taking what it needs of it.",
    ),
    key(
        "restrict",
        Bool,
        Is("true"),
        "Allow nothing on the ring but the operations that the server uses.",
    ),
    key(
        "avoid",
        List(&Text(Syntax::Any)),
        Is(""),
        "Features of the kernel to do without, by the names that `emberd doctor` prints.",
    )
    .eg(r#"["registered ring fd"]"#),
];

const BACKENDS: &[Choice] = &[
    word("auto", "io_uring, or epoll where the system refuses it"),
    word("io_uring", "io_uring, or refuse to start"),
    word("epoll", "epoll"),
];

const PROFILES: &[Choice] = &[
    word("low-rss", "128 buffers of 4 KiB"),
    word("default", "256 buffers of 8 KiB"),
    word("throughput", "1024 buffers of 32 KiB"),
];

const FORMS: &[Choice] = &[
    word("linked", "one linked pair: a client that does not read is not read from"),
    word("unlinked", "the same two operations side by side"),
    word("multishot", "one receive for the life of the connection, and plain sends"),
];

/// Buffers and their size by `ring.profile`.
pub(crate) fn profile(name: &str) -> (u64, u64) {
    match name {
        "low-rss" => (128, 4 * KIB),
        "throughput" => (1024, 32 * KIB),
        _ => (256, 8 * KIB),
    }
}

const LIMITS: &[Key] = &[
    key(
        "header_timeout",
        Duration(1, HOUR),
        Is("10s"),
        "From the first byte of a request to the end of its head.",
    ),
    key("body_timeout", Duration(1, HOUR), Is("10s"), "From one part of a body to the next."),
    key(
        "idle_timeout",
        Duration(1, 24 * HOUR),
        Is("30s"),
        "From a reply to the next request of the connection.",
    ),
    key(
        "write_timeout",
        Duration(1, HOUR),
        Is("30s"),
        "How long a client may take nothing of a reply. A reply that is late is looked at four \
         times in this time.",
    ),
    key(
        "half_close_timeout",
        Duration(0, HOUR),
        Is("5s"),
        "How long a handler may go on when its client has sent the end of its bytes: it may wait for \
         the reply, or be gone, and only sending tells.",
    ),
    key("max_header", Size(256, MIB), Is("16KiB"), "Bytes of a request's head: 431 above it."),
    key("max_body", Size(0, 1024 * GIB), Is("4MiB"), "Bytes of a request's body: 413 above it."),
    key(
        "max_requests",
        Int(1, 1_000_000_000),
        Is("1000000"),
        "Requests of one connection; the last reply says `Connection: close`.",
    ),
    key(
        "max_age",
        Duration(SECOND, 24 * HOUR),
        Is("1h"),
        "Age of a connection, after which the next reply says `Connection: close`.",
    ),
    key(
        "min_body_rate",
        Size(0, GIB),
        Is("240B"),
        "Bytes a second that a body must come with, on the average since its start; `0` turns it \
         off.",
    ),
    key(
        "min_write_rate",
        Size(0, GIB),
        Is("240B"),
        "Bytes a second that a client must take a reply with, on the average since its start; `0` \
         turns it off. Looked at when a reply is later than `write_timeout`.",
    ),
    key("rate_grace", Duration(0, HOUR), Is("10s"), "Time before the lowest rates count."),
    key(
        "max_connections",
        Int(1, 16_777_216),
        Is("65536"),
        "Connections of the whole server at a time. Each thread has an equal share of them, and when \
         that is used up its accepting waits for one to end (`emberd_connections_paused`).",
    ),
    key(
        "max_in_flight",
        Int(1, 16_777_216),
        Is("65536"),
        "Requests of the whole server that handlers and proxies have at a time. Each thread has an \
         equal share of them; when that is used up, further ones are answered with 503 and \
         `Retry-After` (`emberd_http_requests_shed_total`). Prepared replies, health pages and \
         `/metrics` are served all the same.",
    ),
    key(
        "drain_delay",
        Duration(0, HOUR),
        Is("0s"),
        "How long a server that is told to drain goes on serving while it says \"not ready\", so \
         that a balancer looks elsewhere.",
    ),
    key(
        "drain_timeout",
        Duration(0, 24 * HOUR),
        Is("10s"),
        "How long a worker that is told to stop lets requests finish.",
    ),
];

const ADMIN: &[Key] =
    &[key("listen", Text(Syntax::Address), Required, "Where the admin pages are served.")
        .eg(r#""127.0.0.1:9184""#)];

const TUNE: &[Key] = &[
    key("apply", Bool, Is("false"), "Tune the host before the workers start."),
    key(
        "nic",
        List(&Text(Syntax::Device)),
        Is(""),
        "The network devices that requests come in by. Without it they are looked for.",
    )
    .eg(r#"["eth0"]"#),
    key(
        "only",
        List(&Text(Syntax::Any)),
        Is(""),
        "Just these items of the plan. Without it, all that are not opt-in.",
    )
    .eg(r#"["net.core.somaxconn"]"#),
    key(
        "set",
        Map(Syntax::Any, Syntax::Any),
        Is(""),
        "Other values for items of the plan, by name: sysctls by their dotted names; `channels` \
         (auto, always, keep, a number), `ring-rx`, `ring-tx`, `coalesce-rx-usecs` and its like, \
         `feature-NAME` (on, off), `arfs` (on, off), `governor`, `rps-flow-entries`, \
         `busypoll-defer-hard-irqs` and its like; of a NIC's single queues CPU lists for \
         `eth0:irq-rx-3`, `eth0:irq-tx-3`, `eth0:rps-3` and `eth0:xps-3` (`none` for no CPU) and a \
         number for `eth0:rfs-3`. `\"skip\"` leaves out any of these, any group, and any key of `emberd tune \
         plan`.",
    )
    .eg(r#"{ "net.core.somaxconn" = "4096" }"#),
    key(
        "reapply",
        Bool,
        Is("false"),
        "Apply again what has drifted while the server runs. Without it, drift is told and \
         counted in `emberd_tune_drift`.",
    ),
];

const LOG: &[Key] = &[
    key(
        "level",
        Kind::Choice(LOG_LEVELS),
        Is("info"),
        "What is worth a line. `emberd log LEVEL` changes it in the running server, until the \
         next reload.",
    ),
    key("format", Kind::Choice(LOG_FORMATS), Is("text"), "How a line looks."),
    key("access", Table(ACCESS), Nothing, "A line for each request. Off unless given."),
];

const ACCESS: &[Key] = &[
    key("format", Kind::Choice(ACCESS_FORMATS), Is("json"), "How a line looks."),
    key(
        "path",
        Text(Syntax::Any),
        Is("-"),
        "Where lines go: `\"-\"` for standard output, a file, which a reload opens anew, or \
         `\"unix:/path\"` for a datagram socket.",
    ),
    key("sample", Kind::Fraction, Is("1.0"), "The part of the requests that gets a line."),
    key(
        "fields",
        List(&Kind::Choice(ACCESS_FIELDS)),
        Is("time,client,method,target,status,bytes,duration_us,route,path_kind,host,referer,\
            user_agent"),
        "The fields of a line of JSON, which come in alphabetical order.",
    ),
    key(
        "buffer",
        Size(KIB, GIB),
        Is("1MiB"),
        "Bytes of requests that may wait to be written, each thread. Lines beyond are dropped and \
         counted in `emberd_access_log_dropped_total`; requests never wait.",
    ),
];

/// The words of [`super::AccessFormat`].
const ACCESS_FORMATS: &[Choice] = &[
    word("json", "an object"),
    word("combined", "as Apache and nginx write it, without duration and route"),
];

/// The words of [`super::AccessField`].
const ACCESS_FIELDS: &[Choice] = &[
    word("time", "when the reply was handed to the kernel, in UTC"),
    word("client", "the address of the client; see `trusted_proxies`"),
    word("method", "the method"),
    word("target", "path and query as they were sent"),
    word("version", "HTTP/1.0 or HTTP/1.1"),
    word("host", "the Host field"),
    word("status", "the status code"),
    word("bytes", "bytes of the reply with its head"),
    word("duration_us", "microseconds until the reply was handed over; null if unmeasured"),
    word("route", "the name of the route"),
    word("path_kind", "which path in the server answered, as in the metrics"),
    word("referer", "the Referer field"),
    word("user_agent", "the User-Agent field"),
];

/// The words of [`super::LogLevel`].
const LOG_LEVELS: &[Choice] = &[
    word("error", "what went wrong"),
    word("warn", "what somebody should look at, too"),
    word("info", "what starts, changes and ends, too"),
    word("debug", "what the supervisor and its workers tell each other, too"),
    word("trace", "everything"),
];

/// The words of [`super::LogFormat`].
const LOG_FORMATS: &[Choice] = &[
    word("text", "a sentence; in colour on a terminal, with its priority for the journal"),
    word("json", "an object with `timestamp`, `level`, `target`, `message` and more by event"),
];

const LISTENER: &[Key] = &[
    key("name", Text(Syntax::Name), From("address"), "Its name in metrics and messages.")
        .eg(r#""web""#),
    key(
        "address",
        Text(Syntax::Address),
        Required,
        "`\"0.0.0.0:8080\"`, `\"[::]:8080\"`, `\"unix:/run/app.sock\"`, or `\"systemd:web\"` for \
         sockets that systemd passes.",
    )
    .eg(r#""0.0.0.0:8080""#),
    key(
        "backlog",
        Int(1, 65_535),
        Is("65535"),
        "Connections that may wait to be accepted, each socket. The kernel caps it at \
         net.core.somaxconn.",
    ),
    key("mode", Mode, Nothing, "Permissions of a unix socket's file, such as `\"0660\"`.")
        .eg(r#""0660""#),
    key(
        "routes",
        List(&Text(Syntax::Any)),
        Nothing,
        "Names of the routes that are served here. Without it, all.",
    )
    .eg(r#"["/health", "/hello"]"#),
    key(
        "slashes",
        Kind::Choice(SLASHES),
        Is("strict"),
        "What happens to a path that has a route only with, or only without, a slash at its end.",
    ),
    key(
        "reply",
        Table(REPLY),
        Nothing,
        "One reply without body for whatever is asked, armed ahead of the request. Such a \
         listener has no routes.",
    ),
    key(
        "proxy_protocol",
        List(&Text(Syntax::Net)),
        Is(""),
        "Networks of balancers whose connections begin with the PROXY protocol (version 1 or 2), \
         which tells their clients' addresses. Connections of others go without.",
    )
    .eg(r#"["10.0.0.0/8"]"#)
    .later(),
];

const SLASHES: &[Choice] = &[
    word("strict", "404"),
    word("redirect", "308 to the path that has the route"),
    word("ignore", "the route answers"),
];

const REPLY: &[Key] = &[
    key("status", Int(200, 599), Required, "Its status code.").eg("204"),
    key(
        "headers",
        Map(Syntax::HeaderName, Syntax::HeaderValue),
        Is(""),
        "More header fields, such as `location`.",
    )
    .eg(r#"{ cache-control = "no-store" }"#),
    key("body", Refused(REPLY_BODY), Nothing, ""),
    key("body_file", Refused(REPLY_BODY), Nothing, ""),
    key("content_type", Refused(REPLY_BODY), Nothing, ""),
];

const REPLY_BODY: &str = "this reply leaves before the request was read, so HEAD, CONNECT and \
                          malformed requests would get the body too; use [[prepared]] for bodies";

const PREPARED: &[Key] =
    &rules::and::<{ OF_PREPARED.len() + rules::RENDERED.len() }>(OF_PREPARED, &rules::RENDERED);

const OF_PREPARED: &[Key] = &[
    key("path", Text(Syntax::UrlPath), Required, "The path that it answers, exactly.")
        .eg(r#""/health""#),
    route_name("path").eg(r#""health""#),
    key("status", Int(200, 599), Is("200"), "Its status code."),
    key("body", Text(Syntax::Any), Nothing, "The body as text. Without it and `body_file`, none.")
        .eg("'{\"status\":\"ok\"}'"),
    key(
        "body_file",
        Text(Syntax::File),
        Nothing,
        "A file whose bytes are the body, relative to the config file; read at start.",
    )
    .eg(r#""index.html""#),
    key(
        "content_type",
        Text(Syntax::MediaType),
        From("body_file's extension, else \"text/plain; charset=utf-8\""),
        "The media type of the body.",
    )
    .eg(r#""application/json""#),
    key(
        "headers",
        Map(Syntax::HeaderName, Syntax::HeaderValue),
        Is(""),
        "More header fields; a list gives one field for each value.",
    )
    .eg(r#"{ cache-control = "no-store" }"#),
    key(
        "encodings",
        List(&Kind::Choice(ENCODINGS)),
        Is(""),
        "Content codings in which the body is kept besides as it is, the best first; made at \
         start. One that makes the body no shorter is left out. Which one a client gets follows \
         its `Accept-Encoding`.",
    )
    .eg(r#"["zstd", "br", "gzip"]"#),
    key(
        "last_modified",
        Kind::Choice(LAST_MODIFIED),
        Is("auto"),
        "Whether `Last-Modified` is told. An `ETag` always is, for status 200.",
    ),
    HOSTS,
];

const HOSTS: Key = key(
    "hosts",
    List(&Text(Syntax::Host)),
    Is(""),
    "The hosts that it is for; `*.example.org` means every host below `example.org`. Routes for a \
     host come before those for all. Without it, all hosts.",
)
.eg(r#"["example.org", "*.example.org"]"#);

const ENCODINGS: &[Choice] = &[
    word("zstd", "Zstandard (RFC 8878)"),
    word("br", "Brotli (RFC 7932)"),
    word("gzip", "gzip (RFC 1952)"),
];

const LAST_MODIFIED: &[Choice] = &[
    word("auto", "the time of `body_file`; nothing for a `body` written in the config"),
    word("off", "nothing"),
];

const METRICS: &[Key] = &[
    key("path", Text(Syntax::UrlPath), Is("/metrics"), "The path that it answers."),
    route_name("path").eg(r#""metrics""#),
    key(
        "allow",
        List(&Text(Syntax::Net)),
        Is(""),
        "Networks that may ask; others get 403. Without it, everybody.",
    )
    .eg(r#"["127.0.0.0/8", "::1"]"#),
    HOSTS,
];

const FILES: &[Key] =
    &rules::and::<{ OF_FILES.len() + rules::RULES.len() }>(OF_FILES, &rules::RULES);

const OF_FILES: &[Key] = &[
    key(
        "prefix",
        Text(Syntax::UrlPath),
        Nothing,
        "The path below which the directory `root` is served. The prefix itself is cut off: with \
         `/assets`, `/assets/app.js` is `app.js` in the root.",
    )
    .eg(r#""/assets""#),
    key("path", Text(Syntax::UrlPath), Nothing, "The path that the one `file` is served at.")
        .eg(r#""/favicon.ico""#),
    route_name("prefix or path").eg(r#""assets""#),
    HOSTS,
    key(
        "root",
        Text(Syntax::File),
        Nothing,
        "The directory, relative to the config file. Nothing outside it is served, whatever \
         symbolic links say; it may itself be reached by one, which is looked at when workers \
         start: reload when it leads elsewhere.",
    )
    .eg(r#""/srv/www""#),
    key("file", Text(Syntax::File), Nothing, "The one file, relative to the config file.")
        .eg(r#""/srv/favicon.ico""#),
    key(
        "index",
        List(&Text(Syntax::FileName)),
        Is("index.html"),
        "Names that stand for their directory; the first that is there.",
    ),
    key(
        "listing",
        Bool,
        Is("false"),
        "List directories that have no index. Without it they are not found.",
    ),
    key(
        "symlinks",
        Bool,
        Is("false"),
        "Follow symbolic links that stay beneath the root. Without it they are not found.",
    ),
    key(
        "dotfiles",
        Bool,
        Is("false"),
        "Serve names that begin with a dot. Without it only `.well-known` is.",
    ),
    key(
        "precompressed",
        List(&Kind::Choice(PRECOMPRESSED)),
        Is(""),
        "Variants that may lie beside a file, such as `app.js.br`, the most wanted first; each \
         client gets the best that it takes. They must be of the same content.",
    )
    .eg(r#"["zst", "br", "gz"]"#),
    key(
        "content_types",
        Map(Syntax::Any, Syntax::MediaType),
        Is(""),
        "Media types by extension, besides those that are known.",
    )
    .eg(r#"{ webmanifest = "application/manifest+json" }"#),
    key(
        "default_type",
        Text(Syntax::MediaType),
        Is("application/octet-stream"),
        "The media type of other extensions.",
    ),
    key(
        "charset",
        Or("off", &Text(Syntax::Name)),
        Is("utf-8"),
        "The charset that files of type `text/…` are said to be in; `off`: nothing is said.",
    ),
    key(
        "cache_control",
        Map(Syntax::Glob, Syntax::HeaderValue),
        Is(""),
        "Cache-Control by pattern: the first that matches holds. A pattern with a slash is held \
         against the path below the root, any other against the name. Without it the field is \
         not sent, and clients ask again.",
    )
    .eg(r#"{ "*.html" = "no-cache", "/fonts/*" = "max-age=31536000, immutable" }"#),
    key(
        "headers",
        Map(Syntax::HeaderName, Syntax::HeaderValue),
        Is(""),
        "More header fields; a list gives one field for each value.",
    )
    .eg(r#"{ x-content-type-options = "nosniff" }"#),
    key(
        "fresh",
        Duration(0, HOUR),
        Is("1s"),
        "How long a file is served without a look whether another has taken its place.",
    ),
    key(
        "open_files",
        Int(1, 1_000_000),
        Is("1024"),
        "Files that each thread keeps at hand: open, and small ones in memory.",
    ),
    key(
        "memory",
        Size(64 * KIB, 64 * GIB),
        Is("8MiB"),
        "Memory that each thread spends on them. Files above 16 KiB are sent from the page cache \
         and take next to none.",
    ),
];

const PRECOMPRESSED: &[Choice] =
    &[word("zst", "Zstandard"), word("br", "Brotli"), word("gz", "gzip")];

/// The names of the keys that [`super::Rules`] is made of, `headers` apart.
pub(crate) fn rules() -> impl Iterator<Item = &'static str> {
    rules::RULES.iter().map(|key| key.name)
}

/// The name of a route, which is made from these keys where it is not given.
const fn route_name(from: &'static str) -> Key {
    key("name", Text(Syntax::Name), From(from), "Its name in metrics and in a listener's `routes`.")
}

pub(crate) fn in_table(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

impl Key {
    /// With a value to show.
    const fn eg(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }

    /// Refused until something reads it.
    const fn later(mut self) -> Self {
        self.later = true;
        self
    }

    /// Whether it can be given at all.
    pub(crate) fn is_open(&self) -> bool {
        !self.later && !matches!(self.kind, Kind::Refused(_))
    }
}

/// Every key that a variable can set, with its path: those of tables that are there once.
pub(crate) fn settable() -> Vec<(Vec<&'static str>, &'static Key)> {
    let mut found = Vec::new();
    collect(ROOT, &mut Vec::new(), &mut found);
    found
}

fn collect(
    keys: &'static [Key],
    path: &mut Vec<&'static str>,
    found: &mut Vec<(Vec<&'static str>, &'static Key)>,
) {
    // Which files there are is settled before variables are looked at.
    let is_set_here = |key: &&Key| key.is_open() && key.name != super::gather::INCLUDE;
    for key in keys.iter().filter(is_set_here) {
        path.push(key.name);
        match key.kind {
            Kind::Table(keys) => collect(keys, path, found),
            Kind::Tables(_) | Kind::Refused(_) => {}
            _ => found.push((path.clone(), key)),
        }
        path.pop();
    }
}

/// The environment variable of a key: `limits.max_header` is `EMBERD_LIMITS_MAX_HEADER`.
pub(crate) fn variable(path: &[&str]) -> String {
    format!("EMBERD_{}", path.join("_").to_uppercase())
}
