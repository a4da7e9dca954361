//! Clients that other people wrote, each fetching the three routes of the embedded default.

mod common;

use std::process::{Command, Output};

use common::{Client, Server};

const HELLO: &str = "Hello, World!";

#[test]
fn curl_over_every_kind_of_listener() {
    if !there("curl", "--version") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("web.sock");
    let config = format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\nname = \"six\"\naddress = \"[::1]:0\"\n\
         [[listener]]\nname = \"unix\"\naddress = \"unix:{}\"\nmode = \"0666\"\n",
        socket.display()
    );
    let server = Server::start(&config);
    let six = server.wait_for_line("(six)");
    let six = six.split_whitespace().find(|word| word.starts_with("http://[::1]:")).unwrap();
    let four = format!("http://{}", server.address);
    let path = socket.to_str().unwrap();
    let over_unix = ["--unix-socket", path];
    for (url, options) in [(four.as_str(), &[][..]), (six, &[]), ("http://localhost", &over_unix)] {
        let get = |route: &str| text(curl().args(options).arg(format!("{url}{route}")));
        assert_eq!(get("/hello"), HELLO);
        assert!(get("/metrics").contains("\nemberd_build_info{"));
    }
    let verbose = text(curl().args(["-i", "--http1.0"]).arg(format!("{four}/hello")));
    assert!(verbose.contains("Connection: close"), "{verbose}");
    let head = text(curl().arg("-I").arg(format!("{four}/hello")));
    assert!(head.contains("Content-Length: 13") && !head.contains(HELLO), "{head}");
    let twice = text(
        curl().args(["-w", "%{num_connects} "]).args([&four; 2].map(|u| format!("{u}/hello"))),
    );
    assert_eq!(
        twice,
        format!("{HELLO}1 {HELLO}0 "),
        "the second request uses the first's connection"
    );
}

/// The counters are right to the last request: they say what the client itself has counted.
#[test]
fn ab_and_the_server_count_the_same() {
    if !there("ab", "-V") {
        return;
    }
    let server = Server::start("");
    let url = format!("http://{}/hello", server.address);
    let kept = text(Command::new("ab").args(["-q", "-k", "-n", "3000", "-c", "20"]).arg(&url));
    assert_counts(&kept, &["Complete requests:      3000", "Failed requests:        0"]);
    assert_counts(&kept, &["Keep-Alive requests:    3000"]);
    let new = text(Command::new("ab").args(["-q", "-n", "500", "-c", "10"]).arg(&url));
    assert_counts(&new, &["Complete requests:      500", "Failed requests:        0"]);
    assert_eq!(hellos(&server), 3500.0);
}

#[test]
fn h2load_in_http1_and_the_server_count_the_same() {
    if !there("h2load", "--version") {
        return;
    }
    let server = Server::start("");
    let url = format!("http://{}/hello", server.address);
    let said =
        text(Command::new("h2load").args(["--h1", "-n", "4000", "-c", "16", "-m", "8"]).arg(&url));
    assert_counts(&said, &["4000 succeeded, 0 failed, 0 errored, 0 timeout"]);
    assert_eq!(hellos(&server), 4000.0);
}

#[test]
fn wrk_finds_no_fault() {
    if !there("wrk", "-v") {
        return;
    }
    let server = Server::start("");
    for route in ["hello", "metrics"] {
        let url = format!("http://{}/{route}", server.address);
        let said = text(Command::new("wrk").args(["-t1", "-c16", "-d1s"]).arg(&url));
        assert!(said.contains("requests in"), "{said}");
        assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
    }
}

#[test]
fn python_keeps_its_connection() {
    if !there("python3", "--version") {
        return;
    }
    let server = Server::start("");
    let script = r#"
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=60)
sockets = set()
for turn in range(100):
    for method, path, status, body in [
        ("GET", "/hello", 200, b"Hello, World!"), ("HEAD", "/hello", 200, b""),
        ("GET", "/nothing", 404, None), ("DELETE", "/hello", 405, None), ("GET", "/metrics", 200, None),
    ]:
        connection.request(method, path)
        reply = connection.getresponse()
        read = reply.read()
        assert reply.status == status, (method, path, reply.status)
        assert body is None or read == body, (method, path, read)
        sockets.add(connection.sock.getsockname())
assert len(sockets) == 1, sockets
print("well")
"#;
    let address = server.address.to_string();
    assert_eq!(text(Command::new("python3").args(["-c", script, &address])), "well\n");
}

#[test]
fn chromium_shows_the_text() {
    if !there("chromium", "--version") {
        return;
    }
    let server = Server::start("");
    let profile = tempfile::tempdir().unwrap();
    let mut browser = Command::new("chromium");
    // What the browser would fetch by itself is turned off: nothing but loopback is asked.
    browser.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
    ]);
    browser.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]);
    browser.arg(format!("--user-data-dir={}", profile.path().display())).arg("--dump-dom");
    let page = text(browser.arg(format!("http://{}/hello", server.address)));
    assert!(page.contains(HELLO), "{page}");
}

#[test]
fn promtool_accepts_the_metrics() {
    if !there("promtool", "--version") {
        return;
    }
    let server = Server::start("");
    for path in ["/hello", "/hello", "/nothing"] {
        Client::new(server.address).get(path).unwrap();
    }
    let metrics = Client::new(server.address).get("/metrics").unwrap().body;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metrics");
    std::fs::write(&file, metrics).unwrap();
    let input = std::fs::File::open(&file).unwrap();
    let said = Command::new("promtool").args(["check", "metrics"]).stdin(input).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

/// With no config at all, on a copy of the embedded default's routes.
#[test]
fn the_embedded_default_serves_three_routes() {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd"));
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--workers", "1", "--threads", "1"]);
    command.env("EMBERD_STATE_DIR", folder.path()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut client = common::wait_until("the server accepts", || Client::try_new(address).ok());
    let replies = ["/health", "/hello", "/metrics", "/"].map(|path| client.get(path).unwrap());
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    );
    assert!(child.wait().unwrap().success());
    let [health, hello, metrics, root] = replies;
    assert_eq!((health.status, health.body.as_str()), (200, r#"{"status":"ok"}"#));
    assert!(health.head.to_lowercase().contains("content-type: application/json"));
    assert_eq!((hello.status, hello.body.as_str()), (200, HELLO));
    assert!(hello.head.to_lowercase().contains("content-type: text/plain"));
    assert!(metrics.body.contains("# TYPE emberd_http_requests_total counter"));
    assert_eq!(root.status, 404);
}

fn hellos(server: &Server) -> f64 {
    let labels = r#"{route="/hello",method="GET",code="200",path_kind="prepared"}"#;
    server.metric(&format!("emberd_http_requests_total{labels}"))
}

fn assert_counts(said: &str, lines: &[&str]) {
    for line in lines {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
}

fn curl() -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]);
    curl
}

fn text(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {said}\n{}", String::from_utf8_lossy(&stderr));
    said
}

/// Whether a program is installed; says that its test is skipped where it is not.
fn there(program: &str, version: &str) -> bool {
    let found = Command::new(program).arg(version).output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// A port that was free a moment ago: for a server that must be told one.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
