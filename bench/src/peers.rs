//! The servers that are measured: read from `peers/peers.toml`, started, awaited, stopped.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fmt};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::host::cpu::Account;
use crate::host::group::{Group, tree_of};
use crate::host::launch::{self, Place};

/// How long a server may take until it answers.
const READY_WAIT: Duration = Duration::from_secs(15);
/// How long it may take to stop before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// Open files for a server: above the connections of any row.
const OPEN_FILES: u64 = 20_000;

/// One entry of `peers.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What rows call it.
    pub name: String,
    /// The program and its arguments, with `{placeholders}`.
    pub command: Vec<String>,
    /// Its config file, beside `peers.toml`, with placeholders too.
    pub config: Option<String>,
    /// The command that prints its version; none: it is of this repository's commit.
    #[serde(default)]
    pub version: Vec<String>,
    /// How it is known to be ready.
    #[serde(default)]
    pub ready: Ready,
    /// How it is installed; said where it is missing.
    pub install: String,
    /// Environment variables, with placeholders.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Placeholders of its own, with placeholders.
    #[serde(default)]
    pub values: Values,
    /// The peer that it passes requests on to, which is started before it, beside the load. Its
    /// address is `{upstream}`.
    pub upstream: Option<String>,
}

/// How a server is known to be ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ready {
    /// It answers a request with 200.
    #[default]
    Answers,
    /// It listens: for one that must not be asked before the load begins.
    Listens,
}

/// What is kept of a peer in the results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// What it says of its version.
    pub version: String,
    /// How it is started, with placeholders.
    pub command: Vec<String>,
    /// Its config file, with placeholders.
    pub config: String,
}

/// All peers, and where their files are.
#[derive(Clone, Debug)]
pub struct Peers {
    dir: PathBuf,
    peers: Vec<Peer>,
}

/// What placeholders stand for, but for the port and the working directory.
pub type Values = BTreeMap<String, String>;

/// Why a server is not there to be measured.
#[derive(Debug)]
pub enum PeerError {
    /// No such name in `peers.toml`.
    Unknown(String),
    /// Its program is not on this machine.
    NotInstalled {
        /// The program.
        program: String,
        /// How to get it.
        install: String,
    },
    /// `peers.toml` or a config file cannot be used.
    Config(PathBuf, String),
    /// It did not come up.
    NotReady {
        /// The peer.
        name: String,
        /// The last lines of its output.
        log: String,
    },
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "no peer is called '{name}' in peers.toml"),
            Self::NotInstalled { program, install } => {
                write!(f, "{program} is not installed ({install})")
            }
            Self::Config(path, why) => write!(f, "{}: {why}", path.display()),
            Self::NotReady { name, log } => write!(f, "{name} did not answer; it said:\n{log}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PeerError {}

impl From<io::Error> for PeerError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Peers {
    /// Reads `DIR/peers.toml`.
    pub fn load(dir: &Path) -> Result<Self, PeerError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            peer: Vec<Peer>,
        }
        let path = dir.join("peers.toml");
        let text = fs::read_to_string(&path)
            .map_err(|error| PeerError::Config(path.clone(), error.to_string()))?;
        let table: Table =
            toml::from_str(&text).map_err(|error| PeerError::Config(path, error.to_string()))?;
        Ok(Self { dir: dir.to_owned(), peers: table.peer })
    }

    /// The peer of this name.
    pub fn find(&self, name: &str) -> Result<&Peer, PeerError> {
        let found = self.peers.iter().find(|peer| peer.name == name);
        found.ok_or_else(|| PeerError::Unknown(name.to_owned()))
    }

    /// Its version, command and config, for the record; an error where it is not installed.
    pub fn record(&self, name: &str, values: &Values) -> Result<PeerRecord, PeerError> {
        let peer = self.find(name)?;
        let missing = |program: &str| PeerError::NotInstalled {
            program: program.to_owned(),
            install: peer.install.clone(),
        };
        let program = fill(&peer.command[0], values);
        if !is_program(&program) {
            return Err(missing(&program));
        }
        let version: Vec<String> = peer.version.iter().map(|part| fill(part, values)).collect();
        let version = match version.split_first() {
            None => "of this commit".to_owned(),
            Some((program, arguments)) => {
                let said = Command::new(program).args(arguments).output();
                first_line(&said.map_err(|_| missing(program))?)
            }
        };
        Ok(PeerRecord {
            version,
            command: peer.command.clone(),
            config: match &peer.config {
                Some(file) => self.read_config(file)?,
                None => String::new(),
            },
        })
    }

    fn read_config(&self, file: &str) -> Result<String, PeerError> {
        let path = self.dir.join(file);
        fs::read_to_string(&path).map_err(|error| PeerError::Config(path, error.to_string()))
    }
}

/// `text` with every `{name}` that has a value replaced; other braces stay, since configs have
/// their own.
pub fn fill(text: &str, values: &Values) -> String {
    values
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// What a program said first, wherever it said it.
fn first_line(output: &Output) -> String {
    let text = if output.stdout.is_empty() { &output.stderr } else { &output.stdout };
    String::from_utf8_lossy(text).lines().next().unwrap_or_default().trim().to_owned()
}

fn is_program(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// How to start a peer.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// This program, for [`launch::start`].
    pub launcher: &'a Path,
    /// The CPUs it may use.
    pub cpus: &'a [usize],
    /// The CPUs of the load, which its upstream is put on.
    pub load_cpus: &'a [usize],
    /// Values of placeholders.
    pub values: &'a Values,
    /// Arguments besides those of `peers.toml`.
    pub arguments: &'a [String],
    /// The path that answers 200 when it is ready.
    pub ready_path: &'a str,
    /// Where its files go.
    pub dir: &'a Path,
}

/// A running server; stopped when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    group: Option<Group>,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it passes requests on to; not a part of its account.
    _upstream: Option<Box<Server>>,
}

impl Server {
    /// Starts a peer on a free port and waits until it answers.
    pub fn start(peers: &Peers, name: &str, start: &Start<'_>) -> Result<Self, PeerError> {
        let peer = peers.find(name)?;
        let address = free_address()?;
        fs::create_dir_all(start.dir)?;
        let mut values = start.values.clone();
        values.insert("port".into(), address.port().to_string());
        values.insert("dir".into(), start.dir.display().to_string());
        let upstream = peer.upstream.as_ref().map(|name| Self::start_upstream(peers, name, start));
        let upstream = upstream.transpose()?;
        if let Some(upstream) = &upstream {
            values.insert("upstream".into(), upstream.address.to_string());
        }
        let own: Vec<_> = peer.values.iter().map(|(k, v)| (k.clone(), fill(v, &values))).collect();
        values.extend(own);
        if let Some(file) = &peer.config {
            let path = start.dir.join(file);
            fs::write(&path, fill(&peers.read_config(file)?, &values))?;
            values.insert("config".into(), path.display().to_string());
        }
        let mut command: Vec<OsString> = Vec::new();
        if !peer.env.is_empty() {
            command.push("env".into());
            let set =
                |(name, value): (&String, &String)| format!("{name}={}", fill(value, &values));
            command.extend(peer.env.iter().map(|pair| set(pair).into()));
        }
        command.extend(peer.command.iter().map(|part| fill(part, &values).into()));
        command.extend(start.arguments.iter().map(|part| fill(part, &values).into()));
        let group = Group::create().ok();
        let place = Place {
            cpus: start.cpus.to_vec(),
            group: group.as_ref().map(Group::procs_path),
            open_files: OPEN_FILES,
        };
        let log_path = start.dir.join("output");
        let log = File::create(&log_path)?;
        let child = launch::start(start.launcher, &place, &command, start.dir, &log)?;
        let mut server = Self { child, group, address, _upstream: upstream };
        let is_ready = || match peer.ready {
            Ready::Answers => answers(address, start.ready_path).unwrap_or(false),
            Ready::Listens => listens(address.port()),
        };
        if server.wait_until(is_ready) {
            return Ok(server);
        }
        drop(server);
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        Err(PeerError::NotReady { name: name.to_owned(), log: last_lines(&log) })
    }

    fn start_upstream(
        peers: &Peers,
        name: &str,
        behind: &Start<'_>,
    ) -> Result<Box<Self>, PeerError> {
        let dir = behind.dir.join("upstream");
        let start = Start { cpus: behind.load_cpus, arguments: &[], dir: &dir, ..behind.clone() };
        Self::start(peers, name, &start).map(Box::new)
    }

    /// Where its CPU time is read.
    pub fn account(&self) -> Account<'_> {
        match &self.group {
            Some(group) => Account::Group(group),
            None => Account::Tree(self.child.id()),
        }
    }

    /// All its processes.
    pub fn pids(&self) -> Vec<u32> {
        match &self.group {
            Some(group) => group.pids(),
            None => tree_of(self.child.id()),
        }
    }

    fn wait_until(&mut self, is_ready: impl Fn() -> bool) -> bool {
        let until = Instant::now() + READY_WAIT;
        while Instant::now() < until {
            if is_ready() {
                return true;
            }
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(pid, Signal::SIGTERM);
        }
        let until = Instant::now() + STOP_WAIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        // Whatever is left of its process group; the cgroup, where there is one, takes the rest.
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn answers(address: SocketAddr, path: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    // The rest is read away, so that the server does not meet a reset.
    io::copy(&mut stream, &mut io::sink())?;
    Ok(&status[..9] == b"HTTP/1.1 " && &status[9..] == b"200")
}

/// Whether any IPv4 socket listens on `port`, without a connection to it (proc(5), net/tcp).
fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let local = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(1).is_some_and(|one| one.ends_with(&local)) && fields.get(3) == Some(&LISTEN)
    })
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let values = Values::from([("port".into(), "8080".into())]);
        assert_eq!(fill("listen {port}; x { y {z} }", &values), "listen 8080; x { y {z} }");
    }

    #[test]
    fn a_listening_port_is_seen_without_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        assert!(listens(port));
        drop(listener);
        assert!(!listens(port));
    }

    #[test]
    fn the_shipped_table_is_read_and_its_configs_are_there() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let peers = Peers::load(&dir).expect("peers.toml is valid");
        for peer in &peers.peers {
            assert!(!peer.command.is_empty() && !peer.install.is_empty(), "{}", peer.name);
            if let Some(config) = &peer.config {
                assert!(dir.join(config).is_file(), "{config}");
            }
        }
    }

    #[test]
    fn a_missing_program_says_how_to_get_it() {
        let peer = Peer {
            name: "x".into(),
            command: vec!["no-such-program-here".into()],
            config: None,
            version: vec!["no-such-program-here".into()],
            ready: Ready::Answers,
            install: "apt: x".into(),
            env: BTreeMap::new(),
            values: Values::new(),
            upstream: None,
        };
        let peers = Peers { dir: PathBuf::new(), peers: vec![peer] };
        let error = peers.record("x", &Values::new()).unwrap_err().to_string();
        assert_eq!(error, "no-such-program-here is not installed (apt: x)");
    }
}
