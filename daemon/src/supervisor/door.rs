//! The control socket: who may use this server's state directory can ask it to change.
//!
//! A client sends one line of JSON and gets one line back, when what it asked for is done or
//! has failed.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

use crate::config::LogLevel;

/// Where a server's state is unless it is told otherwise.
pub const STATE_DIR: &str = "/run/emberd";

/// File name of the socket in the state directory.
const FILE_NAME: &str = "control.sock";

/// Longest request in bytes.
const REQUEST_MAX: usize = 4096;

/// Most clients at a time; those who wait for a reload to end are clients.
const CLIENTS_MAX: usize = 64;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Request {
    /// Read the config again and change over to it.
    Reload,
    /// Stop accepting, end every connection decently, and exit.
    Drain,
    /// Change over to the program that is in the file system now.
    Upgrade,
    /// Say what there is.
    Status,
    /// Give the metrics in Prometheus' text format, as the message.
    Metrics,
    /// Take this level of the log until the next reload, and say which holds.
    Log {
        /// None: change nothing.
        level: Option<LogLevel>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// What was done, or why not.
    pub message: String,
    /// What there is, to [`Request::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Value>,
}

/// Asks the server whose control socket is in `state_dir`, and waits for its answer.
///
/// # Errors
/// No server is there, this user may not ask it, or it ended without an answer.
pub fn ask(state_dir: &Path, request: Request) -> io::Result<Reply> {
    let mut path = state_dir.join(FILE_NAME);
    let mut connected = UnixStream::connect(&path);
    if connected.is_err()
        && let Some(users_own) = users_own(state_dir)
    {
        path = users_own.join(FILE_NAME);
        connected = UnixStream::connect(&path);
    }
    let mut stream = connected.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "; no emberd runs with that state directory (EMBERD_STATE_DIR chooses another)"
            }
            io::ErrorKind::PermissionDenied => "; ask as root or as the user that runs it",
            _ => "",
        };
        io::Error::new(error.kind(), format!("{}: {error}{hint}", path.display()))
    })?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        let why = "the server ended without an answer";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Where an ordinary user's server keeps its state when nobody said where.
fn users_own(state_dir: &Path) -> Option<PathBuf> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty())?;
    (state_dir == Path::new(STATE_DIR)).then(|| Path::new(&runtime_dir).join("emberd"))
}

/// The supervisor's side.
#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    clients: Vec<Client>,
    next: u64,
}

/// Names a client until it has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClientId(u64);

#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    heard: Vec<u8>,
    /// Nothing more is read from it.
    asked: bool,
}

impl Door {
    /// Opens the socket in `state_dir`, which is made where it is missing; an ordinary user for
    /// whom the usual place is out of reach gets a place of their own.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        match (Self::open_in(state_dir), users_own(state_dir)) {
            (Err(error), Some(users_own)) if denied(&error) => Self::open_in(&users_own),
            (opened, _) => opened,
        }
    }

    fn open_in(state_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        let path = state_dir.join(FILE_NAME);
        if UnixStream::connect(&path).is_ok() {
            let why = format!("another emberd answers at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let inode = fs::symlink_metadata(&path)?.st_ino();
        Ok(Self { listener, path, inode, clients: Vec::new(), next: 0 })
    }

    /// What to poll: the socket itself, then every client, in the order in which
    /// [`Door::hear`] takes what was found.
    pub(crate) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let clients = self.clients.iter().map(|client| client.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(clients)
    }

    /// Takes in new clients and what they ask for.
    pub(crate) fn hear(&mut self) -> Vec<(ClientId, Request)> {
        while let Ok((stream, _)) = self.listener.accept() {
            self.welcome(stream);
        }
        let mut requests = Vec::new();
        let mut refused = Vec::new();
        self.clients.retain_mut(|client| match client.hear() {
            Ok(Some(request)) => {
                requests.push((client.id, request));
                true
            }
            Ok(None) => true,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                refused.push((client.id, error.to_string()));
                true
            }
            Err(_) => false,
        });
        for (id, message) in refused {
            self.answer(id, &Reply { ok: false, message, status: None });
        }
        requests
    }

    /// Answers a client and lets it go.
    pub(crate) fn answer(&mut self, id: ClientId, reply: &Reply) {
        let Some(at) = self.clients.iter().position(|client| client.id == id) else { return };
        let mut client = self.clients.swap_remove(at);
        // A client that has gone, or does not read, has no more to do with us.
        let line = serde_json::to_string(reply).map(|line| line + "\n");
        if let Ok(line) = line {
            let _ = client.stream.set_nonblocking(false);
            let _ = client.stream.set_write_timeout(Some(Duration::from_millis(200)));
            let _ = client.stream.write_all(line.as_bytes());
        }
    }

    fn welcome(&mut self, stream: UnixStream) {
        // The mode of the file keeps others out; where it was changed, this does.
        let user = nix::unistd::geteuid().as_raw();
        // A peer outside this PID namespace has the number 0, and is as good as any.
        let allowed =
            getsockopt(&stream, PeerCredentials).is_ok_and(|peer| [0, user].contains(&peer.uid()));
        if !allowed || self.clients.len() == CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
            return;
        }
        let id = ClientId(self.next);
        self.next += 1;
        self.clients.push(Client { id, stream, heard: Vec::new(), asked: false });
    }

    /// The socket and its clients, to be handed on.
    pub(crate) fn hand_over(&self) -> (DoorRecord, Vec<BorrowedFd<'_>>) {
        let clients = self.clients.iter().map(|client| ClientRecord {
            id: client.id,
            heard: client.heard.clone(),
            asked: client.asked,
        });
        let record = DoorRecord {
            path: self.path.clone(),
            inode: self.inode,
            clients: clients.collect(),
            next: self.next,
        };
        let streams = self.clients.iter().map(|client| client.stream.as_fd());
        (record, std::iter::once(self.listener.as_fd()).chain(streams).collect())
    }

    /// What was handed over.
    pub(crate) fn take_over(
        record: DoorRecord,
        descriptors: &mut impl Iterator<Item = OwnedFd>,
    ) -> Option<Self> {
        let listener = UnixListener::from(descriptors.next()?);
        let client = |(ClientRecord { id, heard, asked }, stream): (ClientRecord, OwnedFd)| {
            Client { id, stream: stream.into(), heard, asked }
        };
        let clients = record.clients.into_iter().zip(descriptors).map(client).collect();
        let DoorRecord { path, inode, next, .. } = record;
        Some(Self { listener, path, inode, clients, next })
    }

    /// Takes the socket's file away.
    pub(crate) fn close(self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.st_ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What a successor needs to know of the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DoorRecord {
    path: PathBuf,
    inode: u64,
    clients: Vec<ClientRecord>,
    next: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ClientRecord {
    id: ClientId,
    heard: Vec<u8>,
    asked: bool,
}

impl Client {
    fn hear(&mut self) -> io::Result<Option<Request>> {
        let mut bytes = [0; 512];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // It has been told nothing yet, and says more than one line: let it.
                Ok(_) if self.asked => {}
                Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let line = std::mem::take(&mut self.heard);
                self.asked = true;
                return Ok(Some(serde_json::from_slice(&line[..end])?));
            }
            if self.heard.len() > REQUEST_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "request too long"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Serves one request as the supervisor's loop would.
    fn serve_one(door: &mut Door, reply: &Reply) -> Request {
        loop {
            let mut sources: Vec<_> = door
                .sources()
                .map(|source| nix::poll::PollFd::new(source, nix::poll::PollFlags::POLLIN))
                .collect();
            nix::poll::poll(&mut sources, nix::poll::PollTimeout::NONE).unwrap();
            drop(sources);
            if let Some((id, request)) = door.hear().pop() {
                door.answer(id, reply);
                return request;
            }
        }
    }

    #[test]
    fn a_request_is_answered_and_the_file_is_only_ours() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("deep/state");
        let mut door = Door::open(&state_dir).unwrap();
        let file = state_dir.join(FILE_NAME);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Door::open(&state_dir).unwrap_err().to_string().contains("another emberd"));
        let asking = thread::spawn({
            let state_dir = state_dir.clone();
            move || ask(&state_dir, Request::Reload)
        });
        let reply = Reply { ok: false, message: "line 3: no".into(), status: None };
        assert_eq!(serve_one(&mut door, &reply), Request::Reload);
        assert_eq!(asking.join().unwrap().unwrap(), reply);
        door.close();
        assert!(!file.exists());
        assert!(ask(&state_dir, Request::Status).unwrap_err().to_string().contains("no emberd"));
    }

    #[test]
    fn nonsense_is_refused_and_a_client_that_leaves_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut door = Door::open(folder.path()).unwrap();
        let file = folder.path().join(FILE_NAME);
        let mut client = UnixStream::connect(&file).unwrap();
        client.write_all(b"{\"command\":\"dance\"}\n").unwrap();
        assert!(door.hear().is_empty());
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\"ok\":false") && answer.contains("dance"), "{answer}");
        drop(UnixStream::connect(&file).unwrap());
        door.hear();
        assert_eq!(door.sources().count(), 1);
    }
}
