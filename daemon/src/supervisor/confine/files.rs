//! Files and ports out of reach (Landlock, Linux 5.13; ports 6.7).

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::config::{Config, Upstream};

/// The newest kernel interface that is asked for; older kernels give what they have.
const INTERFACE: ABI = ABI::V6;

/// What a running worker reads besides the configured roots: its own and its siblings' numbers
/// for the process metrics, and what the C library looks up when threads start.
const READ_ALWAYS: [&str; 3] = ["/proc", "/sys/devices/system", "/dev/null"];

/// What the C library reads to turn a name into an address, for handlers that connect anywhere.
const READ_FOR_NAMES: [&str; 4] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf"];

const DNS_PORT: u16 = 53;

/// What a worker can reach outside itself, besides the descriptors that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The files and trees that it may read, of those that the config names.
    readable: Vec<PathBuf>,
    /// The TCP ports that it may connect to; none: any. The kernel knows no rule for addresses.
    ports: Option<Vec<u16>>,
    /// It looks names up.
    names: bool,
}

impl Reach {
    /// What serving this config takes.
    pub(super) fn of(config: &Config) -> Reach {
        let workers = &config.workers;
        let ports = workers.connect.as_ref().map(|ports| {
            let mut ports: Vec<u16> = ports.iter().copied().chain(upstreams(config)).collect();
            ports.sort_unstable();
            ports.dedup();
            ports
        });
        let readable = workers.readable.iter().cloned().chain(roots(config)).collect();
        Reach { readable, names: ports.is_none() || has_names(config), ports }
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        let readable: Vec<_> =
            self.readable.iter().map(|path| path.display().to_string()).collect();
        let reads = match readable.is_empty() {
            true => "reads nothing that is served".to_owned(),
            false => format!("reads {}", readable.join(" ")),
        };
        let connects = match self.ports.as_deref() {
            None => "connects to any port".to_owned(),
            Some([]) => "connects nowhere".to_owned(),
            Some(ports) => {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                format!("connects to port {}", ports.join(" "))
            }
        };
        format!("{reads}, {connects}")
    }

    /// Leaves the calling thread, and those it starts, only this, and no port to bind; says what
    /// holds.
    pub(super) fn fence_off(&self) -> io::Result<String> {
        let words = self.words();
        Ok(match self.restrict().map_err(io::Error::other)? {
            RulesetStatus::FullyEnforced => format!("Landlock ({words})"),
            RulesetStatus::PartiallyEnforced => {
                format!("Landlock as far as this kernel has it ({words})")
            }
            RulesetStatus::NotEnforced => "no Landlock: this kernel has none".to_owned(),
        })
    }

    /// The paths that were named and are not there: a rule is for a file, not for a name.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Path> {
        self.readable.iter().map(PathBuf::as_path).filter(|path| !path.exists())
    }

    fn restrict(&self) -> Result<RulesetStatus, RulesetError> {
        let names = READ_FOR_NAMES.iter().filter(|_| self.names);
        let always = READ_ALWAYS.iter().chain(names).map(Path::new);
        let paths = always.chain(self.readable.iter().map(PathBuf::as_path));
        let paths = paths.filter(|path| path.exists());
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(INTERFACE))?
            // Workers are given their listening sockets.
            .handle_access(AccessNet::BindTcp)?;
        let rules = match self.ports {
            Some(_) => rules.handle_access(AccessNet::ConnectTcp)?,
            None => rules,
        };
        let ports = self.ports.iter().flatten();
        let allow = |port: &u16| Ok(NetPort::new(*port, AccessNet::ConnectTcp));
        let ports = ports.map(allow as fn(&u16) -> Result<NetPort, RulesetError>);
        let status = rules
            .scope(Scope::from_all(INTERFACE))?
            .create()?
            .add_rules(path_beneath_rules(paths, read))?
            .add_rules(ports)?
            .restrict_self()?;
        Ok(status.ruleset)
    }
}

/// The trees that a config serves from.
fn roots(config: &Config) -> impl Iterator<Item = PathBuf> {
    // Also of a single file: whatever takes its place must be readable too.
    config.files.iter().map(|route| route.place().0)
}

/// The TCP ports that a config passes requests on to.
fn upstreams(config: &Config) -> impl Iterator<Item = u16> {
    let all = config.proxies.iter().flat_map(|proxy| &proxy.upstreams);
    let ports = all.filter_map(|upstream| match upstream {
        Upstream::Tcp(address) => Some(address.port()),
        Upstream::Name(_, port) => Some(*port),
        Upstream::Unix(_) => None,
    });
    // Answers that are too long for a datagram come by TCP.
    ports.chain(has_names(config).then_some(DNS_PORT))
}

/// Whether workers look names up.
fn has_names(config: &Config) -> bool {
    let mut all = config.proxies.iter().flat_map(|proxy| &proxy.upstreams);
    all.any(|upstream| matches!(upstream, Upstream::Name(..)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::{Sources, load};

    #[test]
    fn a_fenced_thread_reads_and_connects_as_it_may_and_not_otherwise() {
        let inside = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        for folder in [&inside, &outside] {
            fs::write(folder.path().join("file"), "text").unwrap();
        }
        let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [known, other] = servers.each_ref().map(|server| server.local_addr().unwrap());
        let (readable, hidden) = (inside.path().to_owned(), outside.path().join("file"));
        let seen = std::thread::spawn(move || {
            let reach = Reach {
                readable: vec![readable.clone()],
                ports: Some(vec![known.port()]),
                names: false,
            };
            let status = reach.restrict().unwrap();
            let file = readable.join("file");
            (
                status,
                [fs::read(&file).is_ok(), TcpStream::connect(known).is_ok()],
                [fs::write(&file, "x").is_ok(), fs::read(hidden).is_ok()],
                [TcpListener::bind("127.0.0.1:0").is_ok(), TcpStream::connect(other).is_ok()],
            )
        });
        let (status, allowed, files, ports) = seen.join().unwrap();
        assert_eq!(allowed, [true; 2]);
        match status {
            RulesetStatus::NotEnforced => println!("skipped: this kernel has no Landlock"),
            RulesetStatus::FullyEnforced => assert_eq!([files, ports], [[false; 2]; 2]),
            // Ports are fenced off from Linux 6.7 on.
            RulesetStatus::PartiallyEnforced => assert_eq!(files, [false; 2]),
        }
        assert!(fs::read(outside.path().join("file")).is_ok(), "other threads are not concerned");
    }

    #[test]
    fn the_reach_is_what_the_config_says() {
        let reach = |set: &[&str]| {
            let set = set.iter().map(|set| (*set).to_owned()).collect();
            Reach::of(&load(&Sources { set, ..Sources::default() }).unwrap().config)
        };
        assert_eq!(reach(&[]).words(), "reads nothing that is served, connects nowhere");
        let some =
            reach(&["workers.connect=[6379, 5432, 6379]", "workers.readable=[\"/nowhere/x\"]"]);
        assert_eq!(some.words(), "reads /nowhere/x, connects to port 5432 6379");
        assert_eq!(some.missing().collect::<Vec<_>>(), [Path::new("/nowhere/x")]);
        assert!(reach(&["workers.connect=any"]).words().ends_with("connects to any port"));
    }
}
