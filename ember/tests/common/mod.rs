//! Example programs, started as their users would start them.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(unreachable_pub, reason = "a module of test programs")]

pub mod services;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The running example; it ends with this value.
pub struct Example {
    child: Child,
    address: String,
    /// What it has said on its standard error since it was ready.
    said: Arc<(Mutex<Vec<String>>, Condvar)>,
    reader: Option<std::thread::JoinHandle<()>>,
    _state: tempfile::TempDir,
}

impl Example {
    /// Starts an example of this package.
    pub fn start(name: &str) -> Example {
        Example::start_with(name, &[])
    }

    /// The same with more in its environment.
    pub fn start_with(name: &str, environment: &[(&str, &str)]) -> Example {
        let state = tempfile::tempdir().unwrap();
        let mut child = Command::new(program(name))
            .args(["--listen", "127.0.0.1:0", "--workers", "1", "--threads", "1"])
            .env("EMBERD_STATE_DIR", state.path())
            .env("EMBERD_LIMITS_HALF_CLOSE_TIMEOUT", "200ms")
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = None;
        let mut said = Vec::new();
        for line in lines.by_ref().map_while(Result::ok) {
            said.push(line.clone());
            if let Some((_, rest)) = line.split_once("listening on http://") {
                address = rest.split_whitespace().next().map(str::to_owned);
            }
            if line.contains("ready in") {
                break;
            }
        }
        let said = Arc::new((Mutex::new(said), Condvar::new()));
        let told = Arc::clone(&said);
        // Read to the end: the pipe must not fill up.
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                told.0.lock().unwrap().push(line);
                told.1.notify_all();
            }
        });
        Example {
            child,
            address: address.expect("a listening line"),
            said,
            reader: Some(reader),
            _state: state,
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// The port that it listens on.
    pub fn port(&self) -> &str {
        self.address.rsplit_once(':').expect("a port").1
    }

    /// The status and body of the reply to one request.
    pub fn reply(&self, line: &str, fields: &str, body: &str) -> (u16, String) {
        let length = match body.len() {
            0 => String::new(),
            len => format!("Content-Length: {len}\r\n"),
        };
        let said =
            self.ask(&[&request(line, &format!("Connection: close\r\n{fields}{length}"), body)]);
        let (head, body) = said.split_once("\r\n\r\n").expect("a whole head");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    /// Sends pieces one after the other and reads until the connection ends.
    pub fn ask(&self, pieces: &[&str]) -> String {
        let mut stream = self.connect();
        for piece in pieces {
            stream.write_all(piece.as_bytes()).unwrap();
        }
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    }
}

impl Example {
    /// Waits until the metrics have this text.
    pub fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let metrics =
                self.ask(&["GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"]);
            if metrics.contains(text) {
                return;
            }
            assert!(Instant::now() < deadline, "no {text} in\n{metrics}");
        }
    }
}

impl Example {
    /// Waits until it has said this on its standard error.
    pub fn wait_for_line(&self, line: &str) {
        let said = self.said.0.lock().unwrap();
        let misses = |said: &mut Vec<String>| !said.iter().any(|of| of == line);
        let limit = Duration::from_secs(60);
        let (said, waited) = self.said.1.wait_timeout_while(said, limit, misses).unwrap();
        assert!(!waited.timed_out(), "no {line:?} in {said:?}");
    }

    /// Ends it; all that it has said.
    pub fn stop(mut self) -> Vec<String> {
        self.end();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.said.0.lock().unwrap())
    }

    fn end(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let _ = self.child.wait();
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.end();
        }
    }
}

/// Cargo builds the examples of a package before its tests run.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().join("examples").join(name)
}

/// The bytes of a request.
pub fn request(line: &str, fields: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: test\r\n{fields}\r\n{body}")
}
