//! `/metrics` of a running server, read by the strict readers that the metrics crate is tested
//! with: both formats, and counts that are right to the last request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

#[path = "../../metrics/tests/oracle/mod.rs"]
mod oracle;

/// A server of two workers with the embedded default.
struct Server {
    child: Child,
    address: SocketAddr,
    /// Kept open: who writes to a closed pipe fails.
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    _state: tempfile::TempDir,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_emberd"))
            .args(["--listen", "127.0.0.1:0", "--workers", "2", "--threads", "1"])
            .args(arguments)
            .env("EMBERD_STATE_DIR", state.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("it ended: {said:?}")).unwrap();
            if let Some((_, url)) = line.split_once("metrics at http://") {
                break url.split('/').next().unwrap().parse().unwrap();
            }
            said.push(line);
        };
        let ready = lines.by_ref().map_while(Result::ok).any(|line| line.contains("ready in"));
        assert!(ready, "it ended before it was ready");
        Self { child, address, lines, _state: state }
    }

    /// A request on a connection of its own: the head and the body of the reply.
    fn get(&self, path: &str, fields: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: t\r\n{fields}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").expect("a reply");
        (head.to_owned(), body.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its workers leave when it is gone; killing it outright would orphan them.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        self.lines.by_ref().for_each(drop);
        let _ = self.child.wait();
    }
}

fn sum(families: &BTreeMap<String, oracle::Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let Some(family) = families.get(name) else { return 0.0 };
    let asked = |found: &oracle::Labels| {
        labels.iter().all(|(label, value)| found.get(*label).is_some_and(|text| text == value))
    };
    family.samples.iter().filter(|((_, found), _)| asked(found)).map(|(_, value)| value).sum()
}

#[test]
fn the_accept_field_chooses_the_format() {
    let server = Server::start(&[]);
    let text = "Content-Type: text/plain; version=0.0.4; charset=utf-8";
    let open_metrics = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    let cases = [
        ("", text),
        ("Accept: */*\r\n", text),
        ("Accept: application/openmetrics-text\r\n", open_metrics),
        ("ACCEPT: text/plain;q=0.5\r\naccept: application/openmetrics-text\r\n", open_metrics),
        ("Accept: application/openmetrics-text;q=0.1, text/plain\r\n", text),
    ];
    for (fields, content_type) in cases {
        let (head, body) = server.get("/metrics", fields);
        assert!(head.starts_with("HTTP/1.1 200 "), "{fields:?}: {head}");
        assert!(head.lines().any(|line| line == content_type), "{fields:?}: {head}");
        assert!(head.lines().any(|line| line == "Vary: Accept"), "{head}");
        let families = oracle::parse(&body, content_type == open_metrics);
        assert!(families.contains_key("emberd_build_info"), "{body}");
    }
}

#[test]
fn any_worker_shows_the_whole_server_to_the_last_request() {
    let server = Server::start(&[]);
    for _ in 0..37 {
        assert_eq!(server.get("/hello", "").1, "Hello, World!");
    }
    for _ in 0..5 {
        assert!(server.get("/nowhere?secret=1", "").0.starts_with("HTTP/1.1 404 "));
    }
    // Connections are spread over the workers: both are asked.
    for _ in 0..8 {
        let families = oracle::parse(&server.get("/metrics", "").1, false);
        let requests = |labels| sum(&families, "emberd_http_requests_total", labels);
        let hello = [("route", "/hello"), ("method", "GET"), ("code", "200")];
        assert_eq!(requests(&hello), 37.0);
        assert_eq!(requests(&[("path_kind", "prepared")]), 37.0);
        assert_eq!(requests(&[("route", "unmatched"), ("code", "404")]), 5.0);
        let durations = &families["emberd_http_request_duration_seconds"].samples;
        let count = durations
            .iter()
            .find(|((name, labels), _)| name.ends_with("_count") && labels["route"] == "/hello");
        assert_eq!(count.map(|(_, value)| *value), Some(37.0));
        let bytes = sum(&families, "emberd_http_response_bytes_total", &[("route", "/hello")]);
        assert!((37.0 * 100.0..37.0 * 400.0).contains(&bytes), "{bytes}");
        assert_eq!(sum(&families, "emberd_http_requests_in_flight", &[]), 1.0, "this one");
        assert!(sum(&families, "process_resident_memory_bytes", &[]) > 1e6);
        assert!(sum(&families, "process_threads", &[]) >= 5.0, "a supervisor and two workers");
    }
}

#[test]
fn nothing_that_a_client_sends_becomes_a_label() {
    let server = Server::start(&[]);
    server.get("/marker-in-path", "X-Marker: marker-in-field\r\n");
    server.get("/hello?marker-in-query", "User-Agent: marker-in-agent\r\n");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(b"MARKER / HTTP/1.1\r\nHost: marker-host\r\n\r\n").unwrap();
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).unwrap();
    let (_, body) = server.get("/metrics", "");
    assert!(body.contains("route=\"unmatched\""), "{body}");
    assert!(!body.to_ascii_lowercase().contains("marker"), "{body}");
    assert!(!body.contains("127.0.0.1"), "{body}");
}
