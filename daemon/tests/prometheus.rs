//! A real Prometheus, with the config and the rules of deploy/, scrapes a running server.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Client, Server, wait_until};
use serde_json::Value;

/// Requests of this test's client for `/hello`.
const REQUESTS: usize = 37;

#[test]
fn prometheus_scrapes_what_clients_did_and_evaluates_every_rule() {
    let mut server = Server::start("workers = { count = 1, threads = 2 }");
    let Some(prometheus) = Prometheus::start(server.address) else {
        return println!("skipped: no prometheus here (Debian's package `prometheus`)");
    };
    let mut client = Client::new(server.address);
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/hello").unwrap().status, 200);
    }
    let hello = "sum(emberd_http_requests_total{route=\"/hello\",code=\"200\"})";
    wait_until("the requests are in Prometheus", || {
        (prometheus.value(hello)? == REQUESTS as f64).then_some(())
    });
    let durations = "sum(emberd_http_request_duration_seconds_count{route=\"/hello\"})";
    assert_eq!(prometheus.value(durations), Some(REQUESTS as f64));
    let target = &prometheus.ask("targets")["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");

    let wanted = fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    let wanted = wanted.matches("- alert: ").count();
    let evaluated = wait_until("all rules are evaluated", || {
        let rules = prometheus.rules();
        let done = |rule: &Value| rule["health"] != "unknown";
        (rules.len() == wanted && rules.iter().all(done)).then_some(rules)
    });
    for rule in &evaluated {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let down = || prometheus.rules().into_iter().find(|rule| rule["name"] == "EmberdDown");
    assert_eq!(down().expect("there is such a rule")["state"], "inactive");
    server.signal(nix::sys::signal::Signal::SIGINT);
    server.wait();
    wait_until("the end is noticed", || down().filter(|rule| rule["state"] == "pending"));
}

/// A server of its own folder that ends with this value.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let config = fs::read_to_string(deploy("prometheus/prometheus.yml")).unwrap();
        let rules = deploy("prometheus/alerts.yml").display().to_string();
        let config = config
            .replace("127.0.0.1:8080", &target.to_string())
            .replace("- alerts.yml", &format!("- {rules}"))
            .replace("15s", "1s");
        assert!(config.contains(&rules) && config.contains(&target.to_string()));
        let path = folder.path().join("prometheus.yml");
        fs::write(&path, config).unwrap();
        // Prometheus does not tell a port that the kernel chose: one that was free a moment ago
        // has to do.
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let ready = lines.by_ref().any(|line| {
            said.push(line.clone());
            line.contains("ready to receive web requests")
        });
        // Else it would wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        assert!(ready, "{said:#?}");
        Some(Self { child, address, _folder: folder })
    }

    /// The data of an answer of its API.
    fn ask(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(self.address).unwrap();
        // HTTP/1.0: no chunks in the answer.
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let answer: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        assert_eq!(answer["status"], "success", "{answer}");
        answer["data"].clone()
    }

    /// What a query gives, if it gives one value.
    fn value(&self, query: &str) -> Option<f64> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.ask(&format!("query?query={escaped}"));
        data["result"][0]["value"][1].as_str()?.parse().ok()
    }

    fn rules(&self) -> Vec<Value> {
        let groups = self.ask("rules");
        let groups = groups["groups"].as_array().unwrap();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path).canonicalize().unwrap()
}
