//! A real server in a directory of its own, and plain blocking clients.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take before a test fails: far more than it needs on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The routes that every server here has.
const ROUTES: &str = r#"
[[prepared]]
path = "/hello"
body = "Hello, World!"
content_type = "text/plain"

[[metrics]]
path = "/metrics"
"#;

/// A server that was started, and ends with this value.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    news: Condvar,
}

impl Server {
    /// A server with this config on a port of its own, ready.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_emberd")), config, &[])
    }

    /// The same with another program and environment.
    pub(crate) fn start_program(
        program: &Path,
        config: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut server = Self::launch(Command::new(program), config, environment);
        server.address = server.address_of("web");
        server.wait_for_line("ready in");
        server
    }

    /// Starts without waiting for anything.
    pub(crate) fn launch(mut command: Command, config: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_config(folder.path(), config);
        command.arg("-c").arg(folder.path().join("emberd.toml"));
        command.env("EMBERD_STATE_DIR", folder.path().join("state"));
        command.envs(environment.iter().copied()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { child, folder, address, log }
    }

    fn address_of(&self, listener: &str) -> SocketAddr {
        let ending = format!("({listener})");
        let line =
            self.log.wait_for(|line| line.contains("listening on") && line.ends_with(&ending));
        let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        url["http://".len()..].parse().unwrap()
    }

    pub(crate) fn wait_for_line(&self, part: &str) -> String {
        self.log.wait_for(|line| line.contains(part))
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Writes another config for the next reload.
    pub(crate) fn write_config(&self, config: &str) {
        write_config(self.folder.path(), config);
    }

    /// Runs `emberd` with these arguments against this server.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_emberd"))
            .args(arguments)
            .env("EMBERD_STATE_DIR", self.folder.path().join("state"))
            .output()
            .unwrap()
    }

    /// The same where it has to go well.
    pub(crate) fn ask_well(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}\nserver: {:#?}", self.lines());
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.ask_well(&["status", "--json"])).unwrap()
    }

    /// The workers of the generation that came last.
    pub(crate) fn workers(&self) -> Vec<Pid> {
        let status = self.status();
        let last = status["generations"].as_array().unwrap().last().unwrap().clone();
        let pids = last["workers"].as_array().unwrap().iter().filter_map(|it| it["pid"].as_i64());
        pids.map(|pid| Pid::from_raw(pid.try_into().unwrap())).collect()
    }

    /// Waits until another worker is ready in the place of `old`.
    pub(crate) fn wait_for_successor(&self, old: Pid) -> Pid {
        let ready = || {
            let status = self.status();
            let worker = &status["generations"].as_array()?.last()?["workers"][0];
            let pid = Pid::from_raw(worker["pid"].as_i64()?.try_into().ok()?);
            (pid != old && worker["state"] == "ready").then_some(pid)
        };
        wait_until("another worker is ready", ready)
    }

    /// One sample of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let reply = Client::new(self.address).get("/metrics").unwrap();
        let sample = reply.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        sample.unwrap_or_else(|| panic!("no {name} in {}", reply.body)).parse().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_until("the server has ended", || self.child.try_wait().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the server said: {:#?}", self.lines());
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = kill(self.pid(), Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}

fn write_config(folder: &Path, config: &str) {
    let web = if config.contains("[[listener]]") {
        ""
    } else {
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n"
    };
    fs::write(folder.join("emberd.toml"), format!("{config}\n{web}{ROUTES}")).unwrap();
}

impl Log {
    fn follow(stderr: impl Read + Send + 'static) -> Arc<Self> {
        let log = Arc::new(Self::default());
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.lines.lock().unwrap_or_else(PoisonError::into_inner).0.push(line);
                writer.news.notify_all();
            }
            writer.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            writer.news.notify_all();
        });
        log
    }

    fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.0.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !lines.1, "the server never said it: {:#?}", lines.0);
            lines = self.news.wait_timeout(lines, left).unwrap().0;
        }
    }
}

/// Asks again and again, for what cannot be waited for otherwise.
pub(crate) fn wait_until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) close: bool,
}

/// One connection.
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::try_new(address).unwrap()
    }

    pub(crate) fn try_new(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<Reply> {
        self.send(path)?;
        self.receive()
    }

    pub(crate) fn send(&mut self, path: &str) -> io::Result<()> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
    }

    /// A whole reply of known length.
    pub(crate) fn receive(&mut self) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more(&mut bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let length: usize = field("content-length").and_then(|text| text.parse().ok()).unwrap();
        while bytes.len() < head_end + length {
            self.more(&mut bytes)?;
        }
        assert_eq!(bytes.len(), head_end + length, "more than one reply");
        Ok(Reply {
            status: head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap(),
            body: String::from_utf8_lossy(&bytes[head_end..]).into_owned(),
            close: field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
            head,
        })
    }

    fn more(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let mut some = [0; 4096];
        match self.0.read(&mut some)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                bytes.extend_from_slice(&some[..count]);
                Ok(())
            }
        }
    }

    /// Whether the server closes this connection without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0))
    }
}

/// What the clients of a load saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests that were answered.
    pub(crate) answered: u64,
    /// Requests that were not, or wrongly, and how.
    pub(crate) lost: Vec<String>,
    /// How many connections it took.
    pub(crate) connections: u64,
}

/// Clients that ask without a pause until they are told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// So many clients that open a connection for every request, and so many that keep theirs as
    /// long as the server lets them.
    pub(crate) fn start(address: SocketAddr, new: usize, kept: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |keep: bool| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || run_client(address, keep, &stop))
        };
        let clients = (0..new).map(|_| false).chain((0..kept).map(|_| true)).map(client);
        let clients = clients.collect();
        Self { stop, clients }
    }

    /// Ends it and adds up.
    pub(crate) fn finish(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for client in self.clients {
            let one = client.join().unwrap();
            assert!(one.answered > 0, "a client that was never answered: {one:?}");
            sum.answered += one.answered;
            sum.connections += one.connections;
            sum.lost.extend(one.lost);
        }
        sum
    }
}

fn run_client(address: SocketAddr, keep: bool, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Client> = None;
    while !stop.load(Ordering::Relaxed) {
        let mut client = match kept.take().map_or_else(|| Client::try_new(address), Ok) {
            Ok(client) => client,
            Err(error) => {
                tally.lost.push(format!("no connection: {error}"));
                continue;
            }
        };
        match client.get("/hello") {
            Ok(reply) if reply.status == 200 => {
                tally.answered += 1;
                if keep && !reply.close {
                    kept = Some(client);
                } else {
                    tally.connections += 1;
                }
            }
            Ok(reply) => tally.lost.push(reply.head),
            Err(error) => tally.lost.push(error.to_string()),
        }
    }
    tally
}

/// A copy of the program that a test may replace.
pub(crate) fn copy_of_program(folder: &Path) -> PathBuf {
    let program = folder.join("emberd");
    fs::copy(env!("CARGO_BIN_EXE_emberd"), &program).unwrap();
    program
}
