//! What a handler can do from inside a live worker. This program serves an app whose handlers try
//! forbidden things and say what came of it; its tests start it, and ask.

mod common;

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use common::{Client, Server};
use ember::{App, Request};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::{Pid, Uid};

/// Set for the server; its workers inherit it.
const SERVE: &str = "CONFINED_TEST_SERVE";

/// A name, what is tried, and what has to come of it.
type Deed = (&'static str, fn(&str) -> io::Result<()>, Outcome);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Refused(Errno),
}
use Outcome::{Done, Refused};

const DEEDS: &[Deed] = &[
    // What serving takes goes on.
    ("read a configured root", |at| read(at), Done),
    ("connect to a configured port", |at| connect(at), Done),
    ("start a thread", |_| std::thread::Builder::new().spawn(|| ()).map(drop), Done),
    // Files.
    ("read the passwords", |_| read("/etc/shadow"), Refused(Errno::EACCES)),
    ("read what everybody may", |_| read("/etc/passwd"), Refused(Errno::EACCES)),
    ("write into a configured root", |at| fs::write(at, "x"), Refused(Errno::EACCES)),
    ("remove from a configured root", |at| fs::remove_file(at), Refused(Errno::EPERM)),
    ("make a file", |_| fs::write("/tmp/emberd-was-here", ""), Refused(Errno::EACCES)),
    ("read a device", |_| read("/dev/zero"), Refused(Errno::EACCES)),
    ("read the supervisor's memory", |_| read(&of_parent("mem")), Refused(Errno::EACCES)),
    ("change the root", |_| Ok(nix::unistd::chroot("/proc")?), Refused(Errno::EPERM)),
    // Programs and processes.
    ("start a shell", |_| Command::new("/bin/sh").spawn().map(drop), Refused(Errno::EPERM)),
    ("become a shell", |_| Err(Command::new("/bin/sh").exec()), Refused(Errno::EPERM)),
    ("trace the supervisor", |_| Ok(nix::sys::ptrace::attach(parent())?), Refused(Errno::EPERM)),
    ("kill the supervisor", |_| Ok(nix::sys::signal::kill(parent(), None)?), Refused(Errno::EPERM)),
    ("kill a thread of it", |_| raw(libc::SYS_tgkill, [ppid(), ppid(), 0]), Refused(Errno::EPERM)),
    // Rights.
    ("become root", |_| Ok(nix::unistd::setuid(Uid::from_raw(0))?), Refused(Errno::EPERM)),
    ("mount", |_| mount(), Refused(Errno::EPERM)),
    ("a user namespace", |_| unshare(CloneFlags::CLONE_NEWUSER), Refused(Errno::EPERM)),
    ("a network namespace", |_| unshare(CloneFlags::CLONE_NEWNET), Refused(Errno::EPERM)),
    ("clone into namespaces", |_| clone_into_namespaces(), Refused(Errno::EPERM)),
    ("clone3", |_| raw(libc::SYS_clone3, [0; 3]), Refused(Errno::ENOSYS)),
    ("load BPF", |_| raw(libc::SYS_bpf, [0; 3]), Refused(Errno::EPERM)),
    ("load a module", |_| raw(libc::SYS_init_module, [0; 3]), Refused(Errno::EPERM)),
    ("load a kernel", |_| raw(libc::SYS_kexec_load, [0; 3]), Refused(Errno::EPERM)),
    (
        "look at performance events",
        |_| raw(libc::SYS_perf_event_open, [0; 3]),
        Refused(Errno::EPERM),
    ),
    ("handle page faults", |_| raw(libc::SYS_userfaultfd, [0; 3]), Refused(Errno::EPERM)),
    ("use the keyring", |_| raw(libc::SYS_keyctl, [0; 3]), Refused(Errno::EPERM)),
    ("make another ring", |_| raw(libc::SYS_io_uring_setup, [1, 0, 0]), Refused(Errno::EPERM)),
    ("lift the fence", |_| raw(libc::SYS_seccomp, [0; 3]), Refused(Errno::EPERM)),
    // The network.
    ("a raw socket", |_| open(AddressFamily::Inet, SockType::Raw), Refused(Errno::EPERM)),
    ("a packet socket", |_| open(AddressFamily::Packet, SockType::Raw), Refused(Errno::EPERM)),
    ("a netlink socket", |_| open(AddressFamily::Netlink, SockType::Raw), Refused(Errno::EPERM)),
    ("listen", |_| TcpListener::bind("127.0.0.1:0").map(drop), Refused(Errno::EPERM)),
    ("connect to another port", |at| connect(at), Refused(Errno::EACCES)),
];

fn main() -> ExitCode {
    if std::env::var_os(SERVE).is_some() {
        let served = emberd::run(App::new().get("/deeds/{index:int}", deed));
        return if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    // Of the test runner's command line, what cargo passes through is understood: a filter, and
    // the list that tools ask for.
    const TEST: &str = "a_worker_can_serve_and_little_else";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{TEST}: test");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|word| !word.starts_with('-')).collect();
    if filters.is_empty() || filters.iter().any(|filter| TEST.contains(filter.as_str())) {
        a_worker_can_serve_and_little_else();
        println!("test {TEST} ... ok");
    }
    ExitCode::SUCCESS
}

fn a_worker_can_serve_and_little_else() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "text").unwrap();
    // Root's folders are root's alone, and workers are nobody.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(root.path(), open).unwrap();
    let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [known, other] = servers.each_ref().map(|server| server.local_addr().unwrap());
    let config = format!(
        "workers = {{ threads = 1, readable = [{:?}], connect = [{}] }}",
        root.path(),
        known.port()
    );
    let program = std::env::current_exe().unwrap();
    for backend in ["auto", "epoll"] {
        let config = format!("{config}\nring = {{ backend = \"{backend}\" }}");
        let server = Server::start_program(&program, &config, &[(SERVE, "1")]);
        let line = server.wait_for_line("workers are confined: ");
        let landlock = line.contains("Landlock (");
        if !landlock {
            println!("skipped: files and ports: this kernel's Landlock has no rules for both");
        }
        let mut client = Client::new(server.address);
        for (index, (name, _, wanted)) in DEEDS.iter().enumerate() {
            let at = match *name {
                "connect to a configured port" => known.to_string(),
                "connect to another port" => other.to_string(),
                _ => file.display().to_string(),
            };
            let by_landlock = *wanted == Refused(Errno::EACCES) && *name != "read the passwords";
            if by_landlock && !landlock {
                continue;
            }
            let reply = client.get(&format!("/deeds/{index}?at={at}")).unwrap();
            assert_eq!(reply.body, format!("{wanted:?}"), "{name}, on {backend}");
        }
        assert!(!Path::new("/tmp/emberd-was-here").exists());
        let reply = client.get("/hello").unwrap();
        assert_eq!(reply.body, "Hello, World!", "the worker is none the worse for it");
    }
}

/// Does it, in the worker, and says what came of it.
fn deed(request: &Request) -> String {
    let index: usize = request.param("index").and_then(|index| index.parse().ok()).unwrap();
    let query = request.query().and_then(|query| std::str::from_utf8(query).ok());
    let at = query.and_then(|query| query.strip_prefix("at=")).unwrap_or_default();
    match DEEDS[index].1(at) {
        Ok(()) => format!("{Done:?}"),
        Err(error) => {
            let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            format!("{:?}", Refused(errno))
        }
    }
}

fn read(path: &str) -> io::Result<()> {
    fs::read(path).map(drop)
}

fn connect(address: &str) -> io::Result<()> {
    TcpStream::connect(address).map(drop)
}

fn parent() -> Pid {
    nix::unistd::getppid()
}

fn ppid() -> i64 {
    parent().as_raw().into()
}

fn of_parent(file: &str) -> String {
    format!("/proc/{}/{file}", parent())
}

fn mount() -> io::Result<()> {
    let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
    Ok(nix::mount::mount(none, "/proc", Some("tmpfs"), flags, none)?)
}

fn unshare(namespace: CloneFlags) -> io::Result<()> {
    Ok(nix::sched::unshare(namespace)?)
}

fn clone_into_namespaces() -> io::Result<()> {
    raw(libc::SYS_clone, [i64::from(libc::CLONE_NEWUSER | libc::SIGCHLD), 0, 0])
}

fn open(family: AddressFamily, kind: SockType) -> io::Result<()> {
    Ok(socket(family, kind, SockFlag::empty(), None::<SockProtocol>).map(drop)?)
}

/// A system call that has no business in a worker, with arguments that name no memory.
fn raw(call: i64, [a, b, c]: [i64; 3]) -> io::Result<()> {
    // SAFETY: null pointers and numbers alone: no call here that succeeded would touch memory of
    // this process. clone(2) without CLONE_VM, as fork(2), gives a child memory of its own.
    let result = unsafe { libc::syscall(call, a, b, c, 0, 0) };
    if call == libc::SYS_clone && result == 0 {
        std::process::abort(); // the child of a fence that did not hold
    }
    Errno::result(result).map(drop).map_err(io::Error::from)
}
