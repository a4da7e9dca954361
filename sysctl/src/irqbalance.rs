//! The live ban list of a running irqbalance, over its socket.
//!
//! A ban keeps irqbalance off the interrupts that are placed here, for as long as it runs and
//! without an edit of its configuration. A new list replaces the old one, so what is written is
//! the union, and what is restored is the old list.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IoSlice, Read};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};

/// Where its sockets are; very old ones have an abstract socket instead.
const DIRECTORY: &str = "run/irqbalance";
/// It reads a command into a buffer of this many bytes.
const COMMAND_LEN_MAX: usize = 500;
/// How long it may take to answer: it serves its socket between two scans.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const ANSWER_LEN_MAX: u64 = 1 << 20;

/// The banned interrupts of the irqbalance whose socket is found below `root`; none where no
/// irqbalance runs.
///
/// # Errors
/// Where it runs and does not answer, as to others than root.
pub fn bans(root: &Path) -> io::Result<Option<BTreeSet<u32>>> {
    match connect(root)? {
        Some(stream) => parse_setup(&ask(stream, "setup")?).map(Some),
        None => Ok(None),
    }
}

/// Replaces its ban list.
///
/// # Errors
/// `NotFound` where it does not run, `InvalidInput` for a list longer than it reads.
pub fn ban(root: &Path, irqs: &BTreeSet<u32>) -> io::Result<()> {
    let list: Vec<String> = irqs.iter().map(u32::to_string).collect();
    let list = if list.is_empty() { "NONE".to_string() } else { list.join(" ") };
    let command = format!("settings ban irqs {list}");
    if command.len() >= COMMAND_LEN_MAX {
        let why = "more interrupts than irqbalance reads in one command";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let stream = connect(root)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    ask(stream, &command).map(drop)
}

fn connect(root: &Path) -> io::Result<Option<UnixStream>> {
    let Ok(entries) = fs::read_dir(root.join(DIRECTORY)) else { return connect_abstract(root) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("irqbalance") || !name.ends_with(".sock") {
            continue;
        }
        match UnixStream::connect(entry.path()) {
            Ok(stream) => return Ok(Some(stream)),
            // Left behind by one that has ended.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Versions before 1.5 name an abstract socket by their process id.
fn connect_abstract(root: &Path) -> io::Result<Option<UnixStream>> {
    let Ok(entries) = fs::read_dir(root.join("proc")) else { return Ok(None) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.trim() != "irqbalance" {
            continue;
        }
        let address = SocketAddr::from_abstract_name(format!("irqbalance{pid}.sock"))?;
        if let Ok(stream) = UnixStream::connect_addr(&address) {
            return Ok(Some(stream));
        }
    }
    Ok(None)
}

/// Sends a command with our credentials, which it checks, and reads until it hangs up.
fn ask(mut stream: UnixStream, command: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let credentials = UnixCredentials::new();
    sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(command.as_bytes())],
        &[ControlMessage::ScmCredentials(&credentials)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    let mut answer = String::new();
    (&mut stream).take(ANSWER_LEN_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Reads `SLEEP n IRQ n LOAD n DIFF n CLASS n … BANNED mask`: each IRQ named is a banned one.
fn parse_setup(answer: &str) -> io::Result<BTreeSet<u32>> {
    let unexpected = || io::Error::new(io::ErrorKind::InvalidData, "irqbalance answers strangely");
    let mut words = answer.split_ascii_whitespace();
    if words.next() != Some("SLEEP") {
        return Err(unexpected());
    }
    let mut irqs = BTreeSet::new();
    while let Some(word) = words.next() {
        if word == "IRQ" {
            irqs.insert(words.next().and_then(|irq| irq.parse().ok()).ok_or_else(unexpected)?);
        }
    }
    Ok(irqs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::thread;

    /// Speaks irqbalance's side as its source has it: one command a connection, a ban replaces
    /// the list, `setup` tells it.
    fn fake(root: PathBuf, connections: usize) -> thread::JoinHandle<BTreeSet<u32>> {
        fs::create_dir_all(root.join(DIRECTORY)).expect("mkdir");
        fs::write(root.join(DIRECTORY).join("ban-list"), "not a socket").expect("write");
        let path = root.join(DIRECTORY).join("irqbalance77.sock");
        let listener = UnixListener::bind(path).expect("bind");
        thread::spawn(move || {
            let mut banned = BTreeSet::from([9]);
            for _ in 0..connections {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut command = vec![0; COMMAND_LEN_MAX];
                let len = stream.read(&mut command).expect("read");
                let command = String::from_utf8_lossy(&command[..len]).into_owned();
                if command == "setup" {
                    let irqs: Vec<String> = banned
                        .iter()
                        .map(|irq| format!("IRQ {irq} LOAD 5 DIFF 1 CLASS 4 "))
                        .collect();
                    let answer = format!("SLEEP 10 {}BANNED 00000000", irqs.concat());
                    stream.write_all(answer.as_bytes()).expect("write");
                } else if let Some(list) = command.strip_prefix("settings ban irqs ") {
                    banned = list.split(' ').filter_map(|irq| irq.parse().ok()).collect();
                }
            }
            banned
        })
    }

    #[test]
    fn the_ban_list_is_read_replaced_and_emptied() {
        let root = std::env::temp_dir().join(format!("ember-irqbalance-{}", std::process::id()));
        let server = fake(root.clone(), 4);
        assert_eq!(bans(&root).expect("bans"), Some(BTreeSet::from([9])));
        ban(&root, &BTreeSet::from([9, 40, 41])).expect("ban");
        assert_eq!(bans(&root).expect("bans"), Some(BTreeSet::from([9, 40, 41])));
        ban(&root, &BTreeSet::new()).expect("ban");
        assert_eq!(server.join().expect("server"), BTreeSet::new());
        // Its socket is still there and nobody listens: it does not run.
        assert_eq!(bans(&root).expect("bans"), None);
        let many = (0..500).collect();
        assert_eq!(ban(&root, &many).expect_err("long").kind(), io::ErrorKind::InvalidInput);
        fs::remove_dir_all(root).expect("remove");
    }

    #[test]
    fn strange_answers_are_errors() {
        for answer in ["", "BANNED 0", "SLEEP 10 IRQ x LOAD"] {
            assert!(parse_setup(answer).is_err(), "{answer:?}");
        }
    }
}
