//! `[[proxy]]`, typed.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::model::nanos;
use super::rules::Rules;

/// `[[proxy]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// The path whose requests are passed on, and all below it.
    pub prefix: String,
    /// Its name in metrics and in `routes` of a listener.
    pub name: String,
    /// The hosts that it is for; empty: all.
    pub hosts: Vec<String>,
    /// Where to.
    pub upstreams: Vec<Upstream>,
    /// Which of them a request goes to.
    pub balance: Balance,
    /// What [`Balance::Hash`] goes by.
    pub hash_by: HashBy,
    /// Whether the prefix is cut off.
    pub strip_prefix: bool,
    /// What the Host of the request is.
    pub host: HostRule,
    /// How an upstream is told who asks.
    pub forwarded: Forwarded,
    /// Networks whose word about their clients counts.
    pub trusted: Vec<IpNet>,
    /// Whether clients may change to WebSocket.
    pub websocket: bool,
    /// For a connection.
    #[serde(with = "nanos")]
    pub connect_timeout: Duration,
    /// From a request to the head of its reply.
    #[serde(with = "nanos")]
    pub response_timeout: Duration,
    /// How long a body may make no headway.
    #[serde(with = "nanos")]
    pub stall_timeout: Duration,
    /// How often a request is tried again.
    pub retries: u32,
    /// Connections to each upstream that a thread keeps.
    pub keepalive: usize,
    /// How long it keeps them.
    #[serde(with = "nanos")]
    pub keepalive_timeout: Duration,
    /// Failures in a row before an upstream is left out; 0: never.
    pub max_fails: u32,
    /// How long it is left out.
    #[serde(with = "nanos")]
    pub fail_time: Duration,
    /// Requests that find out whether upstreams are well.
    pub health: Option<HealthCheck>,
    /// Whether upstreams are told the client in front of each connection.
    pub proxy_protocol: ProxyProtocol,
    /// Bytes of a request's body; none: as `limits.max_body` says.
    pub max_body: Option<u64>,
    /// Replies that are kept.
    pub cache: Option<Cache>,
    /// What is asked of requests and done to replies.
    pub rules: Rules,
}

/// `proxy.health`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// What is asked for.
    pub path: String,
    /// From one check to the next.
    #[serde(with = "nanos")]
    pub interval: Duration,
    /// For a whole check.
    #[serde(with = "nanos")]
    pub timeout: Duration,
    /// Checks that go well before an upstream is up again.
    pub rise: u32,
    /// Checks that fail before it is down.
    pub fall: u32,
}

/// `proxy.cache`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// How long a reply is fresh that does not say so.
    #[serde(with = "nanos")]
    pub ttl: Duration,
    /// How long such a reply is used while a newer one is fetched.
    #[serde(with = "nanos")]
    pub stale: Duration,
    /// How long it is used where upstreams fail.
    #[serde(with = "nanos")]
    pub stale_if_error: Duration,
    /// Whether these times hold whatever a reply says.
    #[serde(rename = "override")]
    pub overrides: bool,
    /// Whether a reply is fetched once for all who ask at the same time.
    pub coalesce: bool,
    /// Request fields by which replies differ.
    pub vary: Vec<String>,
    /// Replies that are kept.
    pub max_entries: usize,
    /// Bytes that are kept.
    pub max_size: u64,
    /// Bytes of a reply that is kept.
    pub max_object: u64,
    /// How long requests do not wait for each other where a reply was not to be kept.
    #[serde(with = "nanos")]
    pub pass_time: Duration,
}

/// Where requests are passed on to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Upstream {
    /// An address.
    Tcp(SocketAddr),
    /// A name that is looked up, and a port.
    Name(String, u16),
    /// A unix socket by its path, or an abstract name after an `@`.
    Unix(PathBuf),
}

/// Which upstream a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// The one with the fewest requests under way.
    LeastLoaded,
    /// The one that a part of the request belongs to.
    Hash,
}

/// The part of a request that a hash is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum HashBy {
    /// The client's address.
    Ip,
    /// The path.
    Path,
    /// The value of a header field.
    Header(String),
}

/// What the Host of a passed-on request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum HostRule {
    /// The client's.
    Keep,
    /// The upstream's own address.
    Upstream,
    /// This one.
    Set(String),
}

/// How an upstream is told who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarded {
    /// By X-Forwarded-For and its like.
    XForwarded,
    /// By Forwarded (RFC 7239).
    Forwarded,
    /// By all of these.
    Both,
    /// Not at all.
    Off,
}

/// The version of the PROXY protocol that upstreams are spoken to with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// None.
    Off,
    /// A line of text.
    V1,
    /// A binary block.
    V2,
}

impl Forwarded {
    /// Whether X-Forwarded-For and its like are written.
    pub fn has_x(self) -> bool {
        matches!(self, Self::XForwarded | Self::Both)
    }

    /// Whether Forwarded is written.
    pub fn has_standard(self) -> bool {
        matches!(self, Self::Forwarded | Self::Both)
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> String {
        upstream.to_string()
    }
}

impl TryFrom<String> for Upstream {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let named = text
            .rsplit_once(':')
            .and_then(|(name, port)| Some(Self::Name(name.to_owned(), port.parse().ok()?)));
        named.ok_or("no address of an upstream")
    }
}

impl From<String> for HashBy {
    fn from(text: String) -> Self {
        match text.strip_prefix("header:") {
            Some(name) => Self::Header(name.to_ascii_lowercase()),
            None if text == "path" => Self::Path,
            None => Self::Ip,
        }
    }
}

impl From<HashBy> for String {
    fn from(by: HashBy) -> String {
        match by {
            HashBy::Ip => "ip".to_owned(),
            HashBy::Path => "path".to_owned(),
            HashBy::Header(name) => format!("header:{name}"),
        }
    }
}

impl From<String> for HostRule {
    fn from(text: String) -> Self {
        match text.as_str() {
            "keep" => Self::Keep,
            "upstream" => Self::Upstream,
            _ => Self::Set(text),
        }
    }
}

impl From<HostRule> for String {
    fn from(rule: HostRule) -> String {
        match rule {
            HostRule::Keep => "keep".to_owned(),
            HostRule::Upstream => "upstream".to_owned(),
            HostRule::Set(host) => host,
        }
    }
}
