//! How long a killed worker is missed: the time from SIGKILL until its successor says that it is
//! ready, and until it has answered a request that waited in the backlog meanwhile.
//!
//!     cargo build --release && cargo run --release -p emberd --example replacement
//!
//! The program measured is the `emberd` of the same build, or the path given as an argument.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The first deaths of a worker are answered at once, further ones close after them are not:
/// so each server loses two.
const SERVERS: usize = 10;
const KILLS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);

const CONFIG: &str = "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
                      [[prepared]]\npath = \"/\"\nbody = \"here\"\n";

fn main() -> Outcome<()> {
    let program = match std::env::args().nth(1) {
        Some(path) => PathBuf::from(path),
        None => beside_this_one()?,
    };
    let (mut ready, mut replied) = (Vec::new(), Vec::new());
    for _ in 0..SERVERS {
        let server = Server::start(&program)?;
        for _ in 0..KILLS {
            let (until_ready, until_reply) = server.replace()?;
            ready.push(until_ready);
            replied.push(until_reply);
        }
    }
    tell("successor ready", &mut ready);
    tell("waiting request answered", &mut replied);
    Ok(())
}

fn beside_this_one() -> Outcome<PathBuf> {
    let examples = std::env::current_exe()?;
    let build = examples.parent().and_then(Path::parent).ok_or("no build directory")?;
    Ok(build.join("emberd"))
}

fn tell(what: &str, times: &mut [Duration]) {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (Some(least), Some(most)) = (times.first(), times.last()) else { return };
    let median = times[times.len() / 2];
    let (least, median, most) = (ms(*least), ms(median), ms(*most));
    let count = times.len();
    println!("{what}: median {median:.1} ms, {least:.1} to {most:.1} ms, of {count}");
}

struct Server {
    child: Child,
    program: PathBuf,
    folder: tempfile::TempDir,
    /// Lines of the log, and when they came.
    lines: Receiver<(Instant, String)>,
    address: String,
}

impl Server {
    fn start(program: &Path) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("emberd.toml"), CONFIG)?;
        let mut child = Command::new(program)
            .args(["--log", "debug", "-c"])
            .arg(folder.path().join("emberd.toml"))
            .env("EMBERD_STATE_DIR", folder.path().join("state"))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let lines = follow(child.stderr.take().ok_or("no log")?);
        let program = program.to_owned();
        let mut server = Self { child, program, folder, lines, address: String::new() };
        let (_, listening) = server.wait_for("listening on")?;
        let url = listening.split_whitespace().find_map(|word| word.strip_prefix("http://"));
        server.address = url.ok_or("no address")?.trim_end_matches('/').to_owned();
        server.wait_for("ready in")?;
        Ok(server)
    }

    /// Kills the worker while a request waits, and times what follows.
    fn replace(&self) -> Outcome<(Duration, Duration)> {
        let worker = self.worker()?;
        // Stopped first, so that the request is still in the backlog when the worker dies.
        kill(worker, Signal::SIGSTOP)?;
        let deadline = Instant::now() + PATIENCE;
        while !is_stopped(worker)? {
            if Instant::now() > deadline {
                return Err("the worker does not stop".into());
            }
            thread::yield_now();
        }
        let mut client = TcpStream::connect(&self.address)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")?;
        let killed = Instant::now();
        kill(worker, Signal::SIGKILL)?;
        let mut status = [0; 12];
        client.read_exact(&mut status)?;
        let replied = killed.elapsed();
        if status != *b"HTTP/1.1 200" {
            return Err(format!("answered {}", String::from_utf8_lossy(&status)).into());
        }
        let (ready, _) = self.wait_for("is ready")?;
        Ok((ready - killed, replied))
    }

    /// The process of its first worker.
    fn worker(&self) -> Outcome<Pid> {
        let output = Command::new(&self.program)
            .args(["status", "--json"])
            .env("EMBERD_STATE_DIR", self.folder.path().join("state"))
            .output()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let generations = status["generations"].as_array().and_then(|all| all.last());
        let pid = generations.and_then(|last| last["workers"][0]["pid"].as_i64());
        // What was said of the worker before is of no interest.
        self.lines.try_iter().for_each(drop);
        Ok(Pid::from_raw(pid.ok_or("no worker")?.try_into()?))
    }

    fn wait_for(&self, part: &str) -> Outcome<(Instant, String)> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.map_err(|_| format!("the server never said {part:?}"))?;
            if line.1.contains(part) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT);
        let _ = self.child.wait();
    }
}

fn follow(log: ChildStderr) -> Receiver<(Instant, String)> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    lines
}

fn is_stopped(process: Pid) -> Outcome<bool> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        if !status.contains("State:\tT") {
            return Ok(false);
        }
    }
    Ok(true)
}
