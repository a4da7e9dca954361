//! The access log: a line a request, whoever answers it, and no request waits for a line.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use common::{Client, Server, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Sends bytes, and reads until the connection ends.
fn ask(server: &Server, bytes: &str) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said
}

fn config(access: &str, more: &str) -> String {
    format!("workers = {{ count = 1, threads = 1 }}\n{more}\n[log]\naccess = {{ {access} }}\n")
}

fn lines(file: &std::path::Path, count: usize) -> Vec<String> {
    wait_until("the lines", || {
        let text = fs::read_to_string(file).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

#[test]
fn every_request_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let access = format!("format = \"json\", path = \"{}\"", file.display());
    let server = Server::start(&config(&access, "trusted_proxies = [\"127.0.0.0/8\"]"));
    let get = "GET /hello?n=1 HTTP/1.1\r\nHost: here\r\nUser-Agent: \"t\"\r\n\r\n";
    let all = [
        get.repeat(5),
        "HEAD /hello HTTP/1.1\r\nHost: here\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n".to_owned(),
        "GET /hello HTTP/1.1\r\nHost: here\r\nRange: bytes=1-2\r\n\r\n".to_owned(),
        "DELETE /hello HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(),
        "GET /none HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(),
        "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(),
        "NO GOOD\r\n\r\n".to_owned(),
    ];
    let said = ask(&server, &all.concat());
    assert_eq!(said.matches("HTTP/1.1 ").count(), 11, "{said}");
    let lines: Vec<Value> =
        lines(&file, 11).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or("none").to_owned();
            (text("method"), text("target"), line["status"].as_u64().unwrap(), text("path_kind"))
        })
        .collect();
    let of = |method: &str, target: &str, status, kind: &str| {
        (method.to_owned(), target.to_owned(), status, kind.to_owned())
    };
    let mut expected = vec![of("GET", "/hello?n=1", 200, "prepared"); 5];
    expected.extend([
        of("HEAD", "/hello", 200, "prepared"),
        of("GET", "/hello", 206, "prepared"),
        of("DELETE", "/hello", 405, "error"),
        of("GET", "/none", 404, "error"),
        of("GET", "/metrics", 200, "dynamic"),
        of("none", "none", 400, "error"),
    ]);
    assert_eq!(told, expected);
    assert_eq!(lines[0]["user_agent"], "\"t\"");
    assert_eq!(lines[0]["route"], "/hello");
    assert_eq!(lines[0]["client"], "127.0.0.1");
    assert_eq!(lines[5]["client"], "192.0.2.7");
    assert_eq!(lines.len(), 11);
}

#[test]
fn a_reload_opens_the_file_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let access = format!("format = \"combined\", path = \"{}\"", file.display());
    let server = Server::start(&config(&access, ""));
    let last = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    ask(&server, last);
    let first = lines(&file, 1);
    assert!(first[0].starts_with("127.0.0.1 - - ["), "{}", first[0]);
    assert!(first[0].contains("\"GET /hello HTTP/1.1\" 200 "), "{}", first[0]);
    fs::rename(&file, folder.path().join("access.log.1")).unwrap();
    server.signal(Signal::SIGHUP);
    wait_until("the new file", || file.exists().then_some(()));
    wait_until("a line in it", || {
        ask(&server, last);
        fs::read_to_string(&file).ok().filter(|text| !text.is_empty())
    });
}

#[test]
fn lines_go_to_a_datagram_socket_and_are_lost_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let access = format!("path = \"unix:{}\", fields = [\"status\", \"target\"]", path.display());
    let server = Server::start(&config(&access, ""));
    let last = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    ask(&server, last);
    let mut line = [0; 4096];
    let len = socket.recv(&mut line).unwrap();
    assert_eq!(&line[..len], br#"{"status":200,"target":"/hello"}"#);
    drop(socket);
    for _ in 0..3 {
        assert!(ask(&server, last).ends_with("Hello, World!"), "requests go on");
    }
}

#[test]
fn a_full_buffer_drops_lines_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A reader that does not read: both ends are open, so that opening it waits for nobody.
    let options = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let access = format!("path = \"{}\", buffer = \"4KiB\"", fifo.display());
    let server = Server::start(&config(&access, ""));
    let request = format!("GET /hello?{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(900));
    let mut client = Client::new(server.address);
    let dropped = "emberd_access_log_dropped_total{worker=\"0\"}";
    wait_until("dropped lines", || {
        let many =
            request.repeat(50) + "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        assert_eq!(ask(&server, &many).matches("HTTP/1.1 200 OK").count(), 51);
        let page = client.get("/metrics").unwrap().body;
        page.lines().find(|line| line.starts_with(dropped)).map(drop)
    });
    drop(options);
}

#[test]
fn some_of_the_requests_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let access = format!("path = \"{}\", sample = 0.25", file.display());
    let server = Server::start(&config(&access, ""));
    let mut client = Client::new(server.address);
    for _ in 0..400 {
        client.get("/hello").unwrap();
    }
    let some = lines(&file, 40).len();
    assert!((40..200).contains(&some), "{some} of 400");
    let none = format!("path = \"{}\"", folder.path().join("no/such/access.log").display());
    server.write_config(&config(&none, ""));
    let refused = server.ask(&["reload"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("log.access.path"), "{told}");
    assert_eq!(client.get("/hello").unwrap().body, "Hello, World!", "the old config goes on");
}
