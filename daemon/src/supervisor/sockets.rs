//! The listening sockets, which live as long as the supervisor.
//!
//! TCP: one socket for each worker thread in one SO_REUSEPORT group. A socket is never closed
//! while its address is configured, since connections that wait in its queue would be reset;
//! threads that are gone leave their sockets to the others. Unix sockets know no SO_REUSEPORT
//! group and systemd hands over what it pleases: those are shared by all threads.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

use super::{holder, systemd};
pub(crate) use crate::config::Address;

/// What one `[[listener]]` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Its name in the config.
    pub(crate) name: String,
    /// Where to listen.
    pub(crate) address: Address,
    /// Length of the accept queue of each socket; the kernel caps it at net.core.somaxconn.
    pub(crate) backlog: u32,
    /// Permissions of a unix socket's file.
    pub(crate) mode: Option<u32>,
}

/// A thread for which sockets are bound: its CPU where connections are steered to the CPU that
/// their packets arrive on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Value for SO_INCOMING_CPU.
    pub(crate) steer_to: Option<u32>,
}

/// The sockets of one address.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    wanted: Address,
    bound: Address,
    sockets: Vec<OwnedFd>,
    /// The file of a unix socket, to take away only what is ours.
    inode: Option<u64>,
}

/// What a group is called when it is handed on; the sockets go beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    name: String,
    wanted: Address,
    bound: Address,
    sockets: usize,
    inode: Option<u64>,
}

/// Why a listener cannot be opened.
#[derive(Debug)]
pub(crate) struct BindError {
    name: String,
    address: Address,
    error: io::Error,
    hint: String,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, address, error, hint } = self;
        write!(f, "listener \"{name}\" cannot listen on {address}: {error}")?;
        if hint.is_empty() { Ok(()) } else { write!(f, "; {hint}") }
    }
}

impl std::error::Error for BindError {}

/// How many sockets of which groups there were.
#[derive(Debug)]
pub(crate) struct Mark(Vec<usize>);

/// All listening sockets of the server.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    groups: Vec<Group>,
    /// What systemd passed and no listener has asked for yet.
    passed: Vec<(String, OwnedFd)>,
}

impl Sockets {
    /// A set that may take up sockets which systemd passed.
    pub(crate) fn with_passed(passed: Vec<(String, OwnedFd)>) -> Self {
        Self { groups: Vec::new(), passed }
    }

    /// Opens what is missing for these listeners and this many threads. Nothing that is open is
    /// touched; when one listener fails, what this call had opened is closed again.
    pub(crate) fn prepare(&mut self, wanted: &[Wanted], slots: &[Slot]) -> Result<(), BindError> {
        let mark = self.mark();
        for listener in wanted {
            if let Err((error, hint)) = self.prepare_one(listener, slots) {
                let (name, address) = (listener.name.clone(), listener.address.clone());
                self.roll_back(mark);
                return Err(BindError { name, address, error, hint });
            }
        }
        Ok(())
    }

    /// What there is now, to come back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.groups.iter().map(|group| group.sockets.len()).collect())
    }

    /// Closes what was opened since the mark.
    pub(crate) fn roll_back(&mut self, Mark(before): Mark) {
        for group in self.groups.drain(before.len().min(self.groups.len())..) {
            group.remove_file();
        }
        for (group, count) in self.groups.iter_mut().zip(before) {
            group.sockets.truncate(count);
        }
    }

    /// The sockets that each of `threads` threads accepts from, with the listener's index.
    pub(crate) fn assign(
        &self,
        wanted: &[Wanted],
        threads: usize,
    ) -> Vec<Vec<(usize, BorrowedFd<'_>)>> {
        let mut assigned = Vec::new();
        assigned.resize_with(threads, Vec::new);
        for (index, listener) in wanted.iter().enumerate() {
            let Some(group) = self.find(listener).map(|at| &self.groups[at]) else { continue };
            if group.is_shared() {
                for thread in &mut assigned {
                    thread.extend(group.sockets.iter().map(|socket| (index, socket.as_fd())));
                }
            } else {
                for (at, socket) in group.sockets.iter().enumerate() {
                    assigned[at % threads].push((index, socket.as_fd()));
                }
            }
        }
        assigned
    }

    /// Where a listener really listens: the port that the kernel chose.
    pub(crate) fn bound(&self, listener: &Wanted) -> Option<&Address> {
        self.find(listener).map(|at| &self.groups[at].bound)
    }

    /// Closes the sockets of addresses that are no longer wanted; gives the names of their
    /// listeners.
    pub(crate) fn retain(&mut self, wanted: &[Wanted]) -> Vec<String> {
        let mut keep = vec![false; self.groups.len()];
        for at in wanted.iter().filter_map(|listener| self.find(listener)) {
            keep[at] = true;
        }
        let mut at = keep.into_iter();
        let mut closed = Vec::new();
        for group in self.groups.extract_if(.., |_| at.next() == Some(false)) {
            group.remove_file();
            closed.push(group.name);
        }
        // What an earlier run had kept and this config does not want either.
        closed.extend(
            self.passed.extract_if(.., |(name, _)| systemd::is_kept(name)).map(|(name, _)| name),
        );
        closed
    }

    /// Closes this process's descriptors, so that a socket is gone when its workers leave it.
    pub(crate) fn close(&mut self) {
        for group in self.groups.drain(..) {
            group.remove_file();
        }
        self.passed.clear();
    }

    /// Everything, to be handed on to a successor: the records and all sockets in their order.
    pub(crate) fn hand_over(&self) -> (Vec<GroupRecord>, Vec<BorrowedFd<'_>>) {
        let record = |group: &Group| GroupRecord {
            name: group.name.clone(),
            wanted: group.wanted.clone(),
            bound: group.bound.clone(),
            sockets: group.sockets.len(),
            inode: group.inode,
        };
        let sockets = self.groups.iter().flat_map(|group| group.sockets.iter().map(AsFd::as_fd));
        (self.groups.iter().map(record).collect(), sockets.collect())
    }

    /// The set that was handed over; `sockets` gives the descriptors in their order.
    pub(crate) fn take_over(
        records: Vec<GroupRecord>,
        sockets: &mut impl Iterator<Item = OwnedFd>,
    ) -> Self {
        let group = |record: GroupRecord| Group {
            sockets: sockets.take(record.sockets).collect(),
            name: record.name,
            wanted: record.wanted,
            bound: record.bound,
            inode: record.inode,
        };
        Self { groups: records.into_iter().map(group).collect(), passed: Vec::new() }
    }

    /// Every socket that was opened here, with its listener's name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        let ours = |group: &&Group| !matches!(group.wanted, Address::Systemd(_));
        self.groups
            .iter()
            .filter(ours)
            .flat_map(|group| group.sockets.iter().map(|socket| (&*group.name, socket.as_fd())))
    }

    fn find(&self, listener: &Wanted) -> Option<usize> {
        self.groups.iter().position(|group| {
            // Two listeners on port 0 are two addresses.
            let any_port = matches!(group.wanted, Address::Tcp(address) if address.port() == 0);
            group.wanted == listener.address && (!any_port || group.name == listener.name)
        })
    }

    fn prepare_one(
        &mut self,
        listener: &Wanted,
        slots: &[Slot],
    ) -> Result<(), (io::Error, String)> {
        let at = match self.find(listener) {
            Some(at) => at,
            None => {
                let group = self.open(listener, slots)?;
                self.groups.push(group);
                self.groups.len() - 1
            }
        };
        let group = &mut self.groups[at];
        if let (Address::Tcp(bound), false) = (&group.bound, group.is_shared()) {
            for slot in slots.iter().skip(group.sockets.len()) {
                let socket = open_tcp(*bound, true, listener.backlog, *slot)
                    .map_err(|error| (error, String::new()))?;
                group.sockets.push(socket);
            }
        }
        Ok(())
    }

    fn open(&mut self, listener: &Wanted, slots: &[Slot]) -> Result<Group, (io::Error, String)> {
        let mut inode = None;
        let kept = self.take_kept(&listener.address);
        let (socket, bound) = match &listener.address {
            address if !kept.is_empty() => {
                if let Address::Unix(path) = address {
                    inode = fs::symlink_metadata(path).ok().map(|file| file.st_ino());
                }
                (kept, address.clone())
            }
            Address::Tcp(address) => {
                let first = slots.first().copied().unwrap_or(Slot { steer_to: None });
                let socket = self
                    .open_first(*address, listener.backlog, first)
                    .map_err(|error| tcp_hint(*address, error))?;
                let bound = bound_address(&socket).map_err(|error| (error, String::new()))?;
                (vec![socket], Address::Tcp(bound))
            }
            Address::Unix(path) => {
                let socket = open_unix(path, listener.backlog, listener.mode)
                    .map_err(|error| unix_hint(path, error))?;
                inode = fs::symlink_metadata(path).ok().map(|file| file.st_ino());
                (vec![socket], listener.address.clone())
            }
            Address::Systemd(name) => {
                let passed: Vec<OwnedFd> = self
                    .passed
                    .extract_if(.., |(passed, _)| passed == name)
                    .map(|(_, socket)| socket)
                    .collect();
                if passed.is_empty() {
                    return Err(no_such_passed(name, &self.passed));
                }
                let bound = bound_address(&passed[0]).map(Address::Tcp);
                (passed, bound.unwrap_or_else(|_| listener.address.clone()))
            }
        };
        let (name, wanted) = (listener.name.clone(), listener.address.clone());
        Ok(Group { name, wanted, bound, sockets: socket, inode })
    }

    /// The sockets of this address that an earlier run of ours had systemd keep.
    fn take_kept(&mut self, address: &Address) -> Vec<OwnedFd> {
        let same = |(name, socket): &mut (String, OwnedFd)| {
            let bound = || rustix::net::getsockname(&*socket).ok();
            systemd::is_kept(name)
                && match address {
                    Address::Tcp(wanted) => bound()
                        .and_then(|bound| SocketAddr::try_from(bound).ok())
                        .is_some_and(|bound| bound == *wanted),
                    Address::Unix(wanted) => bound()
                        .and_then(|bound| SocketAddrUnix::try_from(bound).ok())
                        .and_then(|bound| {
                            Some(bound.path()?.to_bytes() == wanted.as_os_str().as_bytes())
                        })
                        .unwrap_or(false),
                    Address::Systemd(_) => false,
                }
        };
        let kept = self.passed.extract_if(.., same).map(|(_, socket)| socket);
        kept.inspect(|socket| {
            // Those of unix know no groups, and then there is nothing to join.
            let _ = sockopt::set_socket_reuseport(socket, true);
        })
        .collect()
    }

    /// The first socket of an address is bound without SO_REUSEPORT, which would let it share
    /// the port with another server of the same user and nobody would notice. Where the port is
    /// our own (an address was widened, or one narrower than another is added), sharing it until
    /// the reload is through is right.
    fn open_first(&self, address: SocketAddr, backlog: u32, slot: Slot) -> io::Result<OwnedFd> {
        let ours = self.groups.iter().any(
            |group| matches!(group.bound, Address::Tcp(bound) if bound.port() == address.port()),
        );
        open_tcp(address, ours, backlog, slot)
    }
}

impl Group {
    fn is_shared(&self) -> bool {
        !matches!(self.wanted, Address::Tcp(_))
    }

    fn remove_file(&self) {
        let (Address::Unix(path), Some(inode)) = (&self.wanted, self.inode) else { return };
        if fs::symlink_metadata(path).is_ok_and(|file| file.st_ino() == inode) {
            // Whoever comes next finds a stale socket at worst, and deals with that.
            let _ = fs::remove_file(path);
        }
    }
}

fn open_tcp(address: SocketAddr, shared: bool, backlog: u32, slot: Slot) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    if address.is_ipv6() {
        // "[::]" means IPv6: who wants both families writes both listeners.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, shared)?;
    bind(&socket, &address)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // Accepted sockets inherit it, so that no call per connection is needed.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(cpu) = slot.steer_to {
        sockopt::set_socket_incoming_cpu(&socket, cpu)?;
    }
    listen(&socket, backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(socket)
}

fn open_unix(path: &Path, backlog: u32, mode: Option<u32>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?,
        None => {
            let address = SocketAddrUnix::new(path)?;
            if let Err(error) = bind(&socket, &address) {
                if error != Errno::ADDRINUSE || !remove_stale(path)? {
                    return Err(error.into());
                }
                bind(&socket, &address)?;
            }
            // Before listen(): until then nobody can connect.
            if let Some(mode) = mode {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
        }
    }
    listen(&socket, backlog.try_into().unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// Removes a socket file that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<bool> {
    let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if !is_socket || !UnixStream::connect(path).is_err_and(refused) {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

fn bound_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    Ok(SocketAddr::try_from(rustix::net::getsockname(socket)?)?)
}

fn tcp_hint(address: SocketAddr, error: io::Error) -> (io::Error, String) {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => match holder::of_tcp(address) {
            Some(holder) => format!("{holder} listens there; stop it or choose another port"),
            None => "stop what listens there, or choose another port".to_owned(),
        },
        io::ErrorKind::PermissionDenied => {
            "ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address".to_owned()
        }
        _ => String::new(),
    };
    (error, hint)
}

fn unix_hint(path: &Path, error: io::Error) -> (io::Error, String) {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => match holder::of_unix(path) {
            Some(holder) => format!("{holder} listens there"),
            None => "there is something at that path that is not a stale socket".to_owned(),
        },
        io::ErrorKind::NotFound => "its directory does not exist".to_owned(),
        _ => String::new(),
    };
    (error, hint)
}

fn no_such_passed(name: &str, passed: &[(String, OwnedFd)]) -> (io::Error, String) {
    let mut names: Vec<&str> = passed.iter().map(|(name, _)| &**name).collect();
    names.dedup();
    let hint = if names.is_empty() {
        "systemd passed no socket: the service needs a .socket unit with \
         FileDescriptorName= set to that name"
            .to_owned()
    } else {
        format!("systemd passed sockets named {}", names.join(", "))
    };
    let error = io::Error::new(io::ErrorKind::NotFound, format!("no socket named \"{name}\""));
    (error, hint)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const PLAIN: Slot = Slot { steer_to: None };

    fn wanted(name: &str, address: &str) -> Wanted {
        let address = match address.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => Address::Tcp(address.parse().unwrap()),
        };
        Wanted { name: name.into(), address, backlog: 16, mode: None }
    }

    fn port(sockets: &Sockets, listener: &Wanted) -> u16 {
        match sockets.bound(listener) {
            Some(Address::Tcp(address)) => address.port(),
            other => panic!("not bound: {other:?}"),
        }
    }

    fn counts(sockets: &Sockets, wanted: &[Wanted], threads: usize) -> Vec<usize> {
        sockets.assign(wanted, threads).iter().map(Vec::len).collect()
    }

    #[test]
    fn each_thread_gets_a_socket_of_each_listener_and_none_is_lost_with_a_thread() {
        let listeners = [wanted("a", "127.0.0.1:0"), wanted("b", "[::1]:0")];
        let mut sockets = Sockets::default();
        sockets.prepare(&listeners, &[PLAIN; 3]).unwrap();
        assert_eq!(counts(&sockets, &listeners, 3), [2, 2, 2]);
        assert_ne!(port(&sockets, &listeners[0]), port(&sockets, &listeners[1]));
        // A thread less: its sockets go to the others. Two more: two new sockets each.
        sockets.prepare(&listeners, &[PLAIN; 2]).unwrap();
        assert_eq!(counts(&sockets, &listeners, 2), [4, 2]);
        sockets.prepare(&listeners, &[PLAIN; 5]).unwrap();
        assert_eq!(counts(&sockets, &listeners, 5), [2; 5]);
    }

    #[test]
    fn a_port_of_another_server_is_refused_even_if_that_one_shares_it() {
        let theirs = open_tcp("127.0.0.1:0".parse().unwrap(), true, 1, PLAIN).unwrap();
        let taken = wanted("web", &bound_address(&theirs).unwrap().to_string());
        let listeners = [wanted("fine", "127.0.0.1:0"), taken];
        let mut sockets = Sockets::default();
        let error = sockets.prepare(&listeners, &[PLAIN]).unwrap_err().to_string();
        assert!(error.starts_with("listener \"web\" cannot listen on 127.0.0.1:"), "{error}");
        let us = format!("process {}", std::process::id());
        assert!(error.contains(&us), "{error}");
        assert!(sockets.bound(&listeners[0]).is_none(), "what had been opened is closed again");
    }

    #[test]
    fn an_address_can_be_widened_without_closing_the_narrow_one() {
        let narrow = [wanted("web", "127.0.0.1:0")];
        let mut sockets = Sockets::default();
        sockets.prepare(&narrow, &[PLAIN; 2]).unwrap();
        let wide = [wanted("web", &format!("0.0.0.0:{}", port(&sockets, &narrow[0])))];
        sockets.prepare(&wide, &[PLAIN; 2]).unwrap();
        sockets.retain(&wide);
        assert!(sockets.bound(&narrow[0]).is_none());
        assert_eq!(counts(&sockets, &wide, 2), [1, 1]);
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mut listener = wanted("app", &format!("unix:{}", path.display()));
        listener.mode = Some(0o620);
        let listeners = [listener];
        let mut sockets = Sockets::default();
        sockets.prepare(&listeners, &[PLAIN; 2]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(counts(&sockets, &listeners, 2), [1, 1]);
        let error = Sockets::default().prepare(&listeners, &[PLAIN]).unwrap_err().to_string();
        assert!(error.contains("listens there"), "{error}");
        sockets.close();
        assert!(!path.exists());
        fs::write(&path, "not a socket").unwrap();
        assert!(Sockets::default().prepare(&listeners, &[PLAIN]).is_err());
        assert!(path.exists());
    }

    #[test]
    fn handed_over_sockets_keep_their_queues() {
        let listeners = [wanted("a", "127.0.0.1:0")];
        let mut first = Sockets::default();
        first.prepare(&listeners, &[PLAIN; 2]).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", port(&first, &listeners[0]))).unwrap();
        client.write_all(b"x").unwrap();
        let (records, descriptors) = first.hand_over();
        let descriptors: Vec<OwnedFd> =
            descriptors.iter().map(|socket| socket.try_clone_to_owned().unwrap()).collect();
        drop(first);
        let second = Sockets::take_over(records, &mut descriptors.into_iter());
        assert_eq!(counts(&second, &listeners, 2), [1, 1]);
        let accepted = second.assign(&listeners, 1)[0].iter().any(|(_, socket)| {
            TcpListener::from(socket.try_clone_to_owned().unwrap()).accept().is_ok()
        });
        assert!(accepted);
    }

    #[test]
    fn sockets_that_systemd_kept_are_found_by_their_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("unix:{}", folder.path().join("a.sock").display());
        let mut first = Sockets::default();
        let any = [wanted("a", "127.0.0.1:0"), wanted("b", &path)];
        first.prepare(&any, &[PLAIN; 2]).unwrap();
        let listeners =
            [wanted("a", &format!("127.0.0.1:{}", port(&first, &any[0]))), any[1].clone()];
        let kept: Vec<(String, OwnedFd)> = first
            .named()
            .map(|(name, socket)| (format!("kept.{name}"), socket.try_clone_to_owned().unwrap()))
            .collect();
        let inodes = |sockets: &Sockets| {
            let inode =
                |(_, socket): (&str, BorrowedFd<'_>)| nix::sys::stat::fstat(socket).unwrap().st_ino;
            let mut inodes: Vec<u64> = sockets.named().map(inode).collect();
            inodes.sort_unstable();
            inodes
        };
        let before = inodes(&first);
        drop(first);
        let mut second = Sockets::with_passed(kept);
        second.prepare(&listeners, &[PLAIN; 2]).unwrap();
        assert_eq!(inodes(&second), before);
        assert!(second.retain(&listeners).is_empty());
        second.close();
        assert!(!folder.path().join("a.sock").exists());
    }

    #[test]
    fn a_missing_systemd_socket_says_what_there_is() {
        let mut passed = Sockets::with_passed(vec![(
            "web".into(),
            open_tcp("127.0.0.1:0".parse().unwrap(), false, 1, PLAIN).unwrap(),
        )]);
        let mut listener = wanted("a", "127.0.0.1:0");
        listener.address = Address::Systemd("wbe".into());
        let error = passed.prepare(std::slice::from_ref(&listener), &[PLAIN]).unwrap_err();
        assert!(error.to_string().contains("passed sockets named web"), "{error}");
        listener.address = Address::Systemd("web".into());
        passed.prepare(std::slice::from_ref(&listener), &[PLAIN; 3]).unwrap();
        assert!(port(&passed, &listener) > 0);
    }
}
