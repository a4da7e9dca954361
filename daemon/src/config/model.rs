//! The config in force, typed. It is handed to worker processes as JSON.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ember_affinity::{CpuSet, Numa, WorkersConfig};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::files::Files;
use super::proxying::Proxy;
use super::rules::{Redirect, Rules};

/// Everything that can be configured, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Worker processes and their threads.
    pub workers: Workers,
    /// The I/O driver of each thread.
    pub ring: Ring,
    /// Bounds on what a client may ask for.
    pub limits: Limits,
    /// The user that workers run as when started by root; none: "ember" or "nobody".
    pub user: Option<String>,
    /// Where the tuning journal and the control socket are.
    pub state_dir: PathBuf,
    /// The admin listener.
    pub admin: Option<Admin>,
    /// What the supervisor tunes before the workers start.
    pub tune: Tune,
    /// Networks of proxies that are believed about the client's address.
    pub trusted_proxies: Vec<IpNet>,
    /// What the server says of itself.
    pub log: Log,
    /// Where to listen; never empty.
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    /// Replies rendered once at start.
    pub prepared: Vec<Prepared>,
    /// Where `/metrics` is served on the public listeners.
    pub metrics: Vec<Metrics>,
    /// Files and directories.
    pub files: Vec<Files>,
    /// Paths whose requests are passed on to upstreams.
    #[serde(rename = "proxy")]
    pub proxies: Vec<Proxy>,
    /// Paths whose requests are sent elsewhere.
    #[serde(rename = "redirect")]
    pub redirects: Vec<Redirect>,
}

/// `[workers]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// Worker processes; none: one a NUMA node.
    pub count: Option<u16>,
    /// Threads of each; none: one a physical core.
    pub threads: Option<u16>,
    /// Which NUMA nodes they may be on.
    pub numa: NumaNodes,
    /// Just these CPUs; none: all that the process may use.
    pub cpus: Option<CpuSet>,
    /// Nice value of the workers, where the system allows it.
    pub nice: i8,
    /// Whether the only worker runs in the supervisor's own process.
    pub in_process: bool,
    /// Whether to fence workers off from what serving does not need.
    pub sandbox: bool,
    /// What they may read nevertheless.
    pub readable: Vec<PathBuf>,
    /// The TCP ports that they may connect to nevertheless; none: any.
    pub connect: Option<Vec<u16>>,
    /// How long a thread may show no sign of life before its worker is replaced; none: for ever.
    #[serde(with = "nanos_or_none")]
    pub stuck_timeout: Option<Duration>,
}

/// Which NUMA nodes workers may be on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NumaNodes {
    /// Those that the NIC is attached to; all, where that is not known.
    NicLocal,
    /// All of them.
    All,
    /// Just these.
    Nodes(Vec<u32>),
}

/// `[ring]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Which driver to use.
    pub backend: Backend,
    /// Receive buffers a thread; a power of two.
    pub buffers: u16,
    /// Bytes of a receive buffer.
    pub buffer_size: u32,
    /// How a reply and the receive after it are submitted.
    pub form: LinkForm,
    /// Whether the receive after a reply goes to the poll without trying first.
    pub poll_first: bool,
    /// Entries of the submission queue.
    pub entries: u32,
    /// Entries of the completion queue.
    pub cq_entries: u32,
    /// Whether sockets are in the ring's own file table.
    pub direct: bool,
    /// Payloads of at least so many bytes are sent without a copy; none: never.
    pub zero_copy_min: Option<u32>,
    /// Whether a last reply is followed by a shutdown before its close.
    pub shutdown_last: bool,
    /// The CPU of a kernel thread that submits; none: no such thread.
    pub sqpoll_cpu: Option<u32>,
    /// How long to wait for `min_completions` before being content with one.
    #[serde(with = "nanos")]
    pub min_wait: Duration,
    /// How many completions `min_wait` waits for.
    pub min_completions: u32,
    /// How long to poll the NIC's queues before sleeping; none: not at all.
    #[serde(with = "nanos_or_none")]
    pub busy_poll: Option<Duration>,
    /// Whether several receives share a buffer.
    pub incremental: bool,
    /// Whether the ring allows nothing but what the server uses.
    pub restrict: bool,
    /// Features of the kernel to do without.
    pub avoid: Vec<String>,
}

/// Which I/O driver to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// io_uring, or epoll where the system refuses it.
    Auto,
    /// io_uring, or an error.
    IoUring,
    /// epoll.
    Epoll,
}

/// How a reply and the receive after it are submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkForm {
    /// `SEND --link--> RECV`
    Linked,
    /// The same two operations side by side.
    Unlinked,
    /// One multishot receive for the life of the connection, and plain sends.
    Multishot,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// From the first byte of a request to the end of its head.
    #[serde(with = "nanos")]
    pub header_timeout: Duration,
    /// From one part of a body to the next.
    #[serde(with = "nanos")]
    pub body_timeout: Duration,
    /// From a reply to the next request.
    #[serde(with = "nanos")]
    pub idle_timeout: Duration,
    /// How long a client may take nothing of a reply.
    #[serde(with = "nanos")]
    pub write_timeout: Duration,
    /// How long a handler may go on for a client that sends no more.
    #[serde(with = "nanos")]
    pub half_close_timeout: Duration,
    /// Bytes of a request's head.
    pub max_header: u32,
    /// Bytes of a request's body.
    pub max_body: u64,
    /// Requests of one connection.
    pub max_requests: u32,
    /// Age of a connection, after which the next reply ends it.
    #[serde(with = "nanos")]
    pub max_age: Duration,
    /// Bytes a second that a body must come with; 0: no matter how few.
    pub min_body_rate: u32,
    /// Bytes a second that a client must take a reply with; 0: no matter how few.
    pub min_write_rate: u32,
    /// Time before the lowest rates count.
    #[serde(with = "nanos")]
    pub rate_grace: Duration,
    /// Connections of the whole server at a time, which its threads share equally.
    pub max_connections: u32,
    /// Requests of the whole server that handlers have at a time, which its threads share equally.
    pub max_in_flight: u32,
    /// How long a draining server still serves everything but says "not ready".
    #[serde(with = "nanos")]
    pub drain_delay: Duration,
    /// How long a stopping worker lets requests finish.
    #[serde(with = "nanos")]
    pub drain_timeout: Duration,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Where the admin pages are.
    pub listen: Address,
}

/// `[tune]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tune {
    /// Whether to tune the host before the workers start.
    pub apply: bool,
    /// The devices that requests come in by; empty: found by the routes.
    pub nic: Vec<String>,
    /// Just these items of the plan; empty: all.
    pub only: Vec<String>,
    /// Other values for items of the plan; `skip` leaves one out.
    pub set: Vec<(String, String)>,
    /// Whether to apply again what has drifted while the server runs.
    pub reapply: bool,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// What is worth a line.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// A line for each request.
    pub access: Option<AccessLog>,
}

/// `log.access`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// How a line looks.
    pub format: AccessFormat,
    /// `-`, a file, or `unix:/path`.
    pub path: String,
    /// The part of the requests that gets a line, from 0 to 1.
    pub sample: f64,
    /// What a line of JSON tells.
    pub fields: Vec<AccessField>,
    /// Bytes that may wait to be written, each thread.
    pub buffer: u64,
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessFormat {
    /// An object.
    Json,
    /// As Apache and nginx write it.
    Combined,
}

/// A field of a line of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessField {
    /// When the reply was handed to the kernel.
    Time,
    /// The address of the client.
    Client,
    /// The method.
    Method,
    /// Path and query as they were sent.
    Target,
    /// The version of HTTP.
    Version,
    /// The Host field.
    Host,
    /// The status code.
    Status,
    /// Bytes of the reply.
    Bytes,
    /// Microseconds until the reply was handed over.
    DurationUs,
    /// The name of the route.
    Route,
    /// Which path in the server answered.
    PathKind,
    /// The Referer field.
    Referer,
    /// The User-Agent field.
    UserAgent,
}

impl AccessField {
    /// Its name in a line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AccessField::Time => "time",
            AccessField::Client => "client",
            AccessField::Method => "method",
            AccessField::Target => "target",
            AccessField::Version => "version",
            AccessField::Host => "host",
            AccessField::Status => "status",
            AccessField::Bytes => "bytes",
            AccessField::DurationUs => "duration_us",
            AccessField::Route => "route",
            AccessField::PathKind => "path_kind",
            AccessField::Referer => "referer",
            AccessField::UserAgent => "user_agent",
        }
    }
}

/// What is worth a line; each level has those before it in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What went wrong
    Error,
    /// What somebody should look at
    Warn,
    /// What starts, changes and ends
    Info,
    /// What the supervisor and its workers tell each other
    Debug,
    /// Everything
    Trace,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// A sentence.
    Text,
    /// An object.
    Json,
}

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its name in metrics and messages.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Connections that may wait to be accepted, each socket.
    pub backlog: u32,
    /// Permissions of a unix socket's file.
    pub mode: Option<u32>,
    /// The names of its routes; none: all.
    pub routes: Option<Vec<String>>,
    /// What happens to paths that differ from a route's in the slash at their end.
    pub slashes: Slashes,
    /// The one reply to whatever is asked, armed ahead of the request.
    pub reply: Option<Reply>,
}

/// What happens to a path that has a route only with, or only without, a slash at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slashes {
    /// It is not found.
    #[default]
    Strict,
    /// It is redirected.
    Redirect,
    /// The route answers.
    Ignore,
}

/// The reply of a listener that gives one and the same to everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// More header fields, in their order.
    pub headers: Vec<(String, String)>,
}

/// `[[prepared]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// The path that it answers.
    pub path: String,
    /// Its name in metrics and in `routes` of a listener.
    pub name: String,
    /// Status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: String,
    /// More header fields, in their order.
    pub headers: Vec<(String, String)>,
    /// The bytes to answer with, read from `body_file` where that was given.
    pub body: Bytes,
    /// The body in content codings, the best first.
    pub coded: Vec<(Encoding, Bytes)>,
    /// Seconds since 1970 of the last modification, where that is told.
    pub last_modified: Option<u64>,
    /// The hosts that it is for; empty: all.
    pub hosts: Vec<String>,
    /// What is asked of requests and done to replies, as far as it can be rendered.
    pub rules: Rules,
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// gzip.
    Gzip,
}

/// `[[metrics]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// The path that it answers.
    pub path: String,
    /// Its name in metrics and in `routes` of a listener.
    pub name: String,
    /// Who may ask; empty: everybody.
    pub allow: Vec<IpNet>,
    /// The hosts that it is for; empty: all.
    pub hosts: Vec<String>,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// An IPv4 or IPv6 address and port; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A path in the file system, or an abstract name after an `@`.
    Unix(PathBuf),
    /// Sockets that systemd passed under this name.
    Systemd(String),
}

/// Bytes which are text in JSON where they can be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "BytesRepr", try_from = "BytesRepr")]
pub struct Bytes(pub Vec<u8>);

impl Config {
    /// The config as handed to a worker.
    ///
    /// # Panics
    /// Never: everything in it has a JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a config has a JSON form")
    }

    /// The config that a supervisor of the same build has handed on.
    ///
    /// # Errors
    /// Where the bytes are not what [`Config::to_json`] gave.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// What is asked of the placement of workers.
    pub fn placement(&self) -> WorkersConfig {
        let workers = &self.workers;
        let numa = match &workers.numa {
            NumaNodes::NicLocal => Numa::NicLocal,
            NumaNodes::All => Numa::All,
            NumaNodes::Nodes(nodes) => Numa::Nodes(nodes.clone()),
        };
        WorkersConfig {
            count: workers.count,
            threads: workers.threads,
            numa,
            cpus: workers.cpus.clone(),
            thread_bytes: self.thread_bytes(),
        }
    }

    /// What a thread wants to have pinned before any connection: each body with head and without,
    /// for kept and closed connections, in two generations of the Date; and its receive buffers.
    pub fn thread_bytes(&self) -> u64 {
        const HEAD: usize = 512;
        const VARIANTS: usize = 6 * 2;
        let replies: usize = self
            .prepared
            .iter()
            .map(|route| {
                let coded = route.coded.iter().map(|(_, bytes)| bytes.0.len() + HEAD);
                (route.body.0.len() + HEAD + coded.sum::<usize>()) * VARIANTS
            })
            .sum();
        let buffers = u64::from(self.ring.buffers) * u64::from(self.ring.buffer_size);
        replies as u64 + buffers
    }
}

impl Config {
    /// What a thread's driver is made with, for so many connections.
    pub fn driver_options(&self, sockets_max: u32) -> ember_uring::Options {
        let mut options = self.ring.options(sockets_max);
        if !self.proxies.is_empty() {
            // Each client may need a connection to an upstream.
            options.connects_max = options.connects_max.max(sockets_max);
        }
        options
    }
}

impl Ring {
    fn options(&self, sockets_max: u32) -> ember_uring::Options {
        ember_uring::Options {
            entries: self.entries,
            cq_entries: self.cq_entries,
            sockets_max,
            buffers: self.buffers,
            buffer_size: self.buffer_size,
            form: match self.form {
                LinkForm::Linked => ember_uring::LinkForm::Linked,
                LinkForm::Unlinked => ember_uring::LinkForm::Unlinked,
                LinkForm::Multishot => ember_uring::LinkForm::Multishot,
            },
            poll_first: self.poll_first,
            shutdown_last: self.shutdown_last,
            direct: self.direct,
            zero_copy_min: self.zero_copy_min,
            sqpoll_cpu: self.sqpoll_cpu,
            min_wait: self.min_wait,
            min_completions: self.min_completions,
            busy_poll: self.busy_poll,
            incremental: self.incremental,
            restrict: self.restrict,
            avoid: self.avoid.clone(),
            ..ember_uring::Options::default()
        }
    }
}

impl Listener {
    /// Whether the route of this name is served here.
    pub fn serves(&self, route: &str) -> bool {
        let named = |routes: &Vec<String>| routes.iter().any(|name| name == route);
        self.reply.is_none() && self.routes.as_ref().is_none_or(named)
    }
}

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
            Self::Systemd(_) => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BytesRepr {
    Text(String),
    Hex(String),
}

impl From<Bytes> for BytesRepr {
    fn from(Bytes(bytes): Bytes) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Hex(hex(error.as_bytes())), Self::Text)
    }
}

impl TryFrom<BytesRepr> for Bytes {
    type Error = &'static str;

    fn try_from(repr: BytesRepr) -> Result<Self, Self::Error> {
        match repr {
            BytesRepr::Text(text) => Ok(Self(text.into_bytes())),
            BytesRepr::Hex(text) => unhex(&text).map(Self).ok_or("not hexadecimal digits"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS[usize::from(nibble)] as char;
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| u8::try_from(digit(high)? << 4 | digit(low)?).ok()).collect()
}

/// Durations as whole nanoseconds.
pub(super) mod nanos {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_nanos)
    }
}

/// Durations as whole nanoseconds, or null.
pub(super) mod nanos_or_none {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::nanos::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_kind_survive_json() {
        for bytes in [&b""[..], b"plain \"text\"\n", "höher".as_bytes(), &[0, 255, 128, 10]] {
            let json = serde_json::to_string(&Bytes(bytes.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap().0, bytes, "{json}");
        }
        assert!(serde_json::from_str::<Bytes>(r#"{"hex":"0g"}"#).is_err());
        assert!(serde_json::from_str::<Bytes>(r#"{"hex":"000"}"#).is_err());
    }

    #[test]
    fn local_addresses() {
        for (text, local) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("[::]:1", false),
        ] {
            assert_eq!(Address::Tcp(text.parse().unwrap()).is_local(), local, "{text}");
        }
    }
}
