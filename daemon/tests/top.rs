//! `emberd top` at a real server: on a terminal, in a pipe, and once.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use common::{Client, Load, Server};
use nix::pty::{OpenptyResult, Winsize, openpty};

const SMALL: &str = "workers = { count = 1, threads = 1 }";

fn top(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
    command.arg("top").args(arguments).env("TERM", "xterm");
    command.env("EMBERD_STATE_DIR", server.folder.path().join("state"));
    command
}

#[test]
fn once_prints_what_an_interval_showed() {
    let server = Server::start(SMALL);
    Client::new(server.address).get("/hello").unwrap();
    let load = Load::start(server.address, 0, 1);
    let text = server.ask_well(&["top", "--once", "--interval", "200ms"]);
    load.finish();
    for part in ["serving", "requests/s", "workers\n", "routes\n", "/hello", "chains\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let row = text.lines().find(|line| line.trim_start().starts_with("/hello")).unwrap();
    let rate = row.split_whitespace().nth(1).unwrap();
    assert!(!matches!(rate, "0" | "-"), "there were requests: {row}");
    let pid = server.workers()[0].to_string();
    assert!(text.lines().any(|line| line.contains(&pid) && line.contains("ready")), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn in_a_pipe_it_goes_on_until_nobody_reads() {
    let server = Server::start(SMALL);
    let mut child = top(&server, &["--interval", "100ms"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..2 {
        assert!(lines.any(|line| line.starts_with("emberd ") && line.contains("serving")));
    }
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn without_a_server_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
    command.args(["top", "--once"]).env("EMBERD_STATE_DIR", folder.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no emberd runs with that state"));
    for interval in ["1ms", "soon"] {
        command = Command::new(env!("CARGO_BIN_EXE_emberd"));
        command.args(["top", "--interval", interval]);
        assert_eq!(command.output().unwrap().status.code(), Some(2));
    }
}

/// A terminal and what was drawn on it.
struct Terminal {
    keys: File,
    screen: File,
    drawn: String,
}

impl Terminal {
    fn with(mut command: Command) -> (Self, Child) {
        let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let end = |slave: &OwnedFd| Stdio::from(slave.try_clone().unwrap());
        let child = command.stdin(end(&slave)).stdout(end(&slave)).stderr(end(&slave));
        let child = child.spawn().unwrap();
        let screen = File::from(master.try_clone().unwrap());
        (Self { keys: File::from(master), screen, drawn: String::new() }, child)
    }

    /// Reads until these words have been drawn. Cells that did not change are not drawn again.
    fn wait_for(&mut self, words: &str) {
        while !self.drawn.contains(words) {
            let mut some = [0; 4096];
            let count = self.screen.read(&mut some).unwrap_or(0);
            assert!(count > 0, "it ended before it drew `{words}`: {}", self.drawn);
            self.drawn.push_str(&String::from_utf8_lossy(&some[..count]));
        }
    }
}

#[test]
fn on_a_terminal_it_draws_until_a_key_ends_it() {
    let mut server = Server::start(SMALL);
    Client::new(server.address).get("/hello").unwrap();
    let (mut terminal, mut child) = Terminal::with(top(&server, &["--interval", "100ms"]));
    // The other screen, and the parts.
    for words in ["\u{1b}[?1049h", "workers", "routes", "/hello", "chains", "q ends"] {
        terminal.wait_for(words);
    }
    terminal.keys.write_all(b"p").unwrap();
    terminal.wait_for("paused");
    terminal.keys.write_all(b"p").unwrap();
    server.signal(nix::sys::signal::Signal::SIGINT);
    server.wait();
    terminal.wait_for("no answer");
    terminal.keys.write_all(b"q").unwrap();
    // The screen from before.
    terminal.wait_for("\u{1b}[?1049l");
    assert!(child.wait().unwrap().success());
}
