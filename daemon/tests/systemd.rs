//! What a service manager sees and gives.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Client, PATIENCE, Server};
use nix::sys::signal::Signal;

/// The manager's end: what the server says, message by message.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    fn path(&self) -> String {
        self.folder.path().join("notify").display().to_string()
    }

    /// The next message in which this stands.
    fn wait_for(&self, part: &str) -> String {
        let mut bytes = [0; 4096];
        loop {
            let count = self.socket.recv(&mut bytes).expect("the server says it");
            let message = String::from_utf8_lossy(&bytes[..count]).into_owned();
            if message.contains(part) {
                return message;
            }
        }
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_emberd"))
}

#[test]
fn the_manager_hears_of_each_state_and_that_the_server_lives() {
    let manager = Manager::new();
    let path = manager.path();
    // Half a second's watchdog is fed four times a second.
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "500000")];
    let mut server = Server::start_program(program(), "", &environment);
    assert!(manager.wait_for("READY=1").contains("STATUS=ready in"));
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    server.signal(Signal::SIGHUP);
    assert!(manager.wait_for("RELOADING=1").contains("MONOTONIC_USEC="));
    assert!(manager.wait_for("READY=1").contains("generation 2 serves"));
    server.write_config("nonsense = 1");
    assert!(!server.ask(&["reload"]).status.success());
    manager.wait_for("RELOADING=1");
    // A refused reload leaves a server that is ready.
    assert!(manager.wait_for("READY=1").contains("refused"));
    server.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(server.wait().code(), Some(0));
}

/// Starts a server with `socket` as the first descriptor that a manager passes. The shell moves
/// it from standard input to where the protocol wants it, and is the process that it names.
fn start_with_socket(socket: TcpListener, name: &str, config: &str) -> Server {
    let script = "export LISTEN_PID=$$; exec 3<&0 </dev/null; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(program()).stdin(Stdio::from(OwnedFd::from(socket)));
    let environment = [("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", name)];
    let server = Server::launch(command, config, &environment);
    server.wait_for_line("ready in");
    server
}

fn assert_serves(address: SocketAddr) {
    assert_eq!(Client::new(address).get("/hello").unwrap().status, 200);
}

#[test]
fn a_socket_of_a_unit_is_found_by_its_name() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // It was accepting before the server began: nobody is turned away in between.
    let mut early = Client::new(address);
    early.send("/hello").unwrap();
    let config = "workers = { threads = 2 }\n[[listener]]\nname = \"a\"\naddress = \"systemd:web\"";
    let server = start_with_socket(socket, "web", config);
    assert_eq!(early.receive().unwrap().status, 200);
    assert_serves(address);
    server.ask_well(&["reload"]);
    server.ask_well(&["upgrade"]);
    assert_serves(address);
}

#[test]
fn a_socket_that_was_kept_is_taken_up_by_its_address() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let mut early = Client::new(address);
    early.send("/hello").unwrap();
    let config = format!("[[listener]]\nname = \"web\"\naddress = \"{address}\"");
    let server = start_with_socket(socket, "kept.web", &config);
    assert_eq!(early.receive().unwrap().status, 200);
    server.ask_well(&["reload"]);
    assert_serves(address);
}

#[test]
fn sockets_are_given_to_the_manager_to_keep() {
    let manager = Manager::new();
    let path = manager.path();
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("FDSTORE", "16")];
    let _server = Server::start_program(program(), "workers = { threads = 1 }", &environment);
    assert!(manager.wait_for("FDSTORE=1").contains("FDNAME=kept.web"));
}
