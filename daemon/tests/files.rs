//! `[[files]]` of a running server: what is found and what is not, conditions, ranges, variants,
//! listings, and files that change while they are sent.

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{PATIENCE, Server, wait_until};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, mkfifo};

/// More than the buffers of both ends hold together.
const LARGE: usize = 24 << 20;

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn of(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head, body: bytes[end..].to_vec() })
    }

    #[track_caller]
    fn field(&self, name: &str) -> &str {
        self.try_field(name).unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn try_field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One request on a connection of its own, to its end.
#[track_caller]
fn ask(address: SocketAddr, method: &str, path: &str, fields: &str) -> Reply {
    let mut stream = connect(address);
    let head = format!("{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let reply = Reply::of(&bytes).unwrap_or_else(|| panic!("{method} {path}: {bytes:?}"));
    if method != "HEAD" && reply.status != 304 {
        assert_eq!(reply.field("Content-Length"), reply.body.len().to_string(), "{path}");
    }
    reply
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn get(server: &Server, path: &str) -> Reply {
    ask(server.address, "GET", path, "")
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 % 251) as u8).collect()
}

/// A server of everything below a folder, on both drivers in turn.
fn serve(root: &Path, more: &str, test: impl Fn(&Server)) {
    for backend in ["io_uring", "epoll"] {
        eprintln!("on {backend}");
        test(&start(backend, root, more));
    }
}

fn start(backend: &str, root: &Path, more: &str) -> Server {
    // Whoever the workers run as must be able to look inside.
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    Server::start(&format!(
        "workers = {{ count = 1, threads = 1 }}\nring = {{ backend = \"{backend}\" }}\n\
         [[files]]\nname = \"files\"\nprefix = \"/files\"\nroot = \"{}\"\nfresh = \"0s\"\n{more}\n",
        root.display()
    ))
}

#[test]
fn files_of_every_size_arrive_whole() {
    let root = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 16 << 10, (16 << 10) + 1, 64 << 10, 1 << 20, (1 << 20) + 1, LARGE];
    for size in sizes {
        fs::write(root.path().join(size.to_string()), content(size)).unwrap();
    }
    serve(root.path(), "", |server| {
        for size in sizes {
            let path = format!("/files/{size}");
            // Opened and read in, then at hand.
            for _ in 0..2 {
                let reply = get(server, &path);
                assert_eq!(reply.status, 200);
                assert!(reply.body == content(size), "{size}");
                assert_eq!(reply.field("Accept-Ranges"), "bytes");
            }
            let head = ask(server.address, "HEAD", &path, "");
            assert_eq!((head.status, head.body.len()), (200, 0));
            assert_eq!(head.field("Content-Length"), size.to_string());
        }
        assert_eq!(ask(server.address, "POST", "/files/1", "Content-Length: 0\r\n").status, 405);
        let name = "emberd_http_requests_total{route=\"files\",method=\"HEAD\",code=\"200\"";
        let heads = server.metric(&format!("{name},path_kind=\"files\"}}"));
        assert!((heads - sizes.len() as f64).abs() < 0.1, "{heads}");
    });
}

#[test]
fn every_condition_is_heeded() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("small.txt"), "content").unwrap();
    fs::write(root.path().join("large.txt"), content(100_000)).unwrap();
    serve(root.path(), "cache_control = { \"*\" = \"max-age=60\" }", |server| {
        for path in ["/files/small.txt", "/files/large.txt"] {
            let reply = get(server, path);
            let (etag, date) = (reply.field("ETag"), reply.field("Last-Modified"));
            assert!(etag.starts_with('"'), "a strong tag: {etag}");
            let before = "Sun, 06 Nov 1994 08:49:37 GMT";
            for (fields, status) in [
                (format!("If-None-Match: {etag}"), 304),
                (format!("If-None-Match: \"x\", {etag}"), 304),
                (format!("If-None-Match: W/{etag}"), 304),
                ("If-None-Match: *".to_owned(), 304),
                ("If-None-Match: \"x\"".to_owned(), 200),
                (format!("If-Modified-Since: {date}"), 304),
                (format!("If-Modified-Since: {before}"), 200),
                (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}"), 200),
                (format!("If-Match: {etag}"), 200),
                ("If-Match: *".to_owned(), 200),
                ("If-Match: \"x\"".to_owned(), 412),
                (format!("If-Match: W/{etag}"), 412),
                (format!("If-Unmodified-Since: {date}"), 200),
                (format!("If-Unmodified-Since: {before}"), 412),
            ] {
                for method in ["GET", "HEAD"] {
                    let reply = ask(server.address, method, path, &format!("{fields}\r\n"));
                    assert_eq!(reply.status, status, "{method} {fields}");
                    if status == 304 {
                        assert!(reply.body.is_empty());
                        assert_eq!(reply.field("ETag"), etag);
                        assert_eq!(reply.field("Cache-Control"), "max-age=60");
                    }
                }
            }
        }
    });
}

#[test]
fn every_range_is_what_it_says() {
    let root = tempfile::tempdir().unwrap();
    for (name, len) in [("small", 10_000), ("large", 3_000_000)] {
        fs::write(root.path().join(name), content(len)).unwrap();
    }
    serve(root.path(), "", |server| {
        for (name, len) in [("small", 10_000), ("large", 3_000_000)] {
            let (path, whole) = (format!("/files/{name}"), content(len));
            let asks = |fields: &str| ask(server.address, "GET", &path, &format!("{fields}\r\n"));
            for (range, first, last) in [
                ("0-0", 0, 0),
                ("500-999", 500, 999),
                ("-1", len - 1, len - 1),
                ("9000-", 9000, len - 1),
                ("0-99999999999", 0, len - 1),
                ("1-2,3-9", 1, 9),
            ] {
                let reply = asks(&format!("Range: bytes={range}"));
                assert_eq!(reply.status, 206, "{range}");
                assert_eq!(reply.field("Content-Range"), format!("bytes {first}-{last}/{len}"));
                assert!(reply.body == whole[first..=last], "{name} {range}");
            }
            let reply = asks("Range: bytes=99999999-");
            assert_eq!(reply.status, 416);
            assert_eq!(reply.field("Content-Range"), format!("bytes */{len}"));
            assert_eq!(asks("Range: bytes=5-1").status, 200);
            assert_eq!(ask(server.address, "HEAD", &path, "Range: bytes=0-0\r\n").status, 200);

            let etag = get(server, &path).field("ETag").to_owned();
            assert_eq!(asks(&format!("Range: bytes=0-0\r\nIf-Range: {etag}")).status, 206);
            assert_eq!(asks("Range: bytes=0-0\r\nIf-Range: \"other\"").status, 200);
            assert_eq!(asks(&format!("Range: bytes=0-0\r\nIf-None-Match: {etag}")).status, 304);

            several_ranges(&asks("Range: bytes=0-9, 2000-2999, -5"), &whole);
            let many: Vec<String> = (0..40).map(|at| format!("{0}-{0}", at * 3)).collect();
            // More than anybody needs are ignored.
            assert_eq!(asks(&format!("Range: bytes={}", many.join(","))).status, 200);
        }
    });
}

#[track_caller]
fn several_ranges(reply: &Reply, whole: &[u8]) {
    assert_eq!(reply.status, 206);
    let boundary = reply.field("Content-Type").split_once("boundary=").unwrap().1;
    let mut rest = reply.body.as_slice();
    let len = whole.len();
    for (first, last) in [(0, 9), (2000, 2999), (len - 5, len - 1)] {
        let at = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = std::str::from_utf8(&rest[..at]).unwrap();
        assert!(head.contains(&format!("--{boundary}\r\n")), "{head}");
        assert!(head.contains("Content-Type: application/octet-stream\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Range: bytes {first}-{last}/{len}\r\n")), "{head}");
        let end = at + last + 1 - first;
        assert!(rest[at..end] == whole[first..=last]);
        rest = &rest[end..];
    }
    assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());
}

#[test]
fn each_client_gets_the_variant_it_takes() {
    let root = tempfile::tempdir().unwrap();
    let file = |name: &str| root.path().join(name);
    fs::write(file("app.js"), "plain").unwrap();
    fs::write(file("app.js.br"), "brotli").unwrap();
    fs::write(file("app.js.gz"), "gzip").unwrap();
    fs::write(file("alone.js"), "alone").unwrap();
    let server = start("io_uring", root.path(), "precompressed = [\"zst\", \"br\", \"gz\"]");
    let asks = |accept: &str, more: &str| {
        let fields = format!("Accept-Encoding: {accept}\r\n{more}");
        ask(server.address, "GET", "/files/app.js", &fields)
    };
    let mut tags = Vec::new();
    for (accept, coding, body) in [
        ("gzip, deflate, br, zstd", Some("br"), "brotli"),
        ("gzip", Some("gzip"), "gzip"),
        ("gzip;q=1, br;q=0.1", Some("gzip"), "gzip"),
        ("zstd", None, "plain"),
        ("identity", None, "plain"),
    ] {
        let reply = asks(accept, "");
        assert_eq!((reply.try_field("Content-Encoding"), reply.text()), (coding, body), "{accept}");
        assert_eq!(reply.field("Vary"), "Accept-Encoding");
        assert_eq!(reply.field("Content-Type"), "text/javascript; charset=utf-8");
        tags.push(reply.field("ETag").to_owned());
    }
    assert!(tags[0] != tags[1] && tags[1] != tags[3], "{tags:?}");
    assert_eq!(asks("br", &format!("If-None-Match: {}\r\n", tags[0])).status, 304);
    assert_eq!(asks("br", &format!("If-None-Match: {}\r\n", tags[3])).status, 200);
    assert_eq!(asks("br", "Range: bytes=0-1\r\n").text(), "br");
    assert_eq!(get(&server, "/files/alone.js").try_field("Vary"), None);
    // They come and go.
    fs::remove_file(file("app.js.br")).unwrap();
    fs::write(file("app.js.zst"), "zstandard").unwrap();
    assert_eq!(asks("br", "").text(), "plain");
    assert_eq!(asks("br, zstd", "").text(), "zstandard");
}

#[test]
fn directories_have_an_index_a_slash_or_a_listing() {
    let root = tempfile::tempdir().unwrap();
    let dir = |name: &str| fs::create_dir(root.path().join(name)).unwrap();
    ["indexed", "plain", "plain/sub", "plain/.git"].into_iter().for_each(dir);
    let write = |name: &str| fs::write(root.path().join(name), name).unwrap();
    ["indexed/index.html", "plain/b", "plain/a<i>&.txt", "plain/.env"].into_iter().for_each(write);
    mkfifo(&root.path().join("plain/fifo"), Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", root.path().join("plain/link")).unwrap();

    let server = start("io_uring", root.path(), "listing = true");
    assert_eq!(get(&server, "/files/indexed/").text(), "indexed/index.html");
    for (path, location) in [
        ("/files", "/files/"),
        ("/files/indexed", "/files/indexed/"),
        ("/files/indexed?a=b", "/files/indexed/?a=b"),
        // Were it sent back as it came, it would name another host.
        ("//evil.example/../../files/plain", "/files/plain/"),
    ] {
        let reply = get(&server, path);
        assert_eq!((reply.status, reply.field("Location")), (308, location), "{path}");
    }
    let page = get(&server, "/files/plain/");
    assert_eq!(page.field("Content-Type"), "text/html; charset=utf-8");
    let links: Vec<&str> =
        page.text().split("href=\"").skip(1).map(|it| it.split('"').next().unwrap()).collect();
    assert_eq!(links, ["../", "./sub/", "./a%3Ci%3E&amp;.txt", "./b"]);
    assert!(page.text().contains("a&lt;i&gt;&amp;.txt"));
    assert_eq!(get(&server, "/files/plain/a%3Ci%3E&.txt").text(), "plain/a<i>&.txt");
    let head = ask(server.address, "HEAD", "/files/plain/", "");
    assert_eq!(head.field("Content-Length"), page.body.len().to_string());
    drop(server);

    let server = start("io_uring", root.path(), "");
    assert_eq!(get(&server, "/files/plain/").status, 404);
}

#[test]
fn nothing_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/inside"), "inside").unwrap();
    fs::write(at(".env"), "hidden").unwrap();
    fs::write(at("unreadable"), "unreadable").unwrap();
    fs::set_permissions(at("unreadable"), fs::Permissions::from_mode(0o000)).unwrap();
    symlink(outside.path(), at("out")).unwrap();
    symlink(outside.path().join("secret"), at("sub/out")).unwrap();
    symlink("sub/inside", at("in")).unwrap();
    symlink("../../../../../../../../etc/passwd", at("climb")).unwrap();
    symlink("/proc/self/environ", at("magic")).unwrap();
    mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
    if geteuid().is_root() {
        mknod(&at("null"), SFlag::S_IFCHR, Mode::all(), makedev(1, 3)).unwrap();
    }
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    let beside = format!("/files/../{name}/secret");
    for links in [false, true] {
        let server = start("io_uring", root.path(), &format!("symlinks = {links}"));
        assert_eq!(get(&server, "/files/sub/inside").text(), "inside");
        assert_eq!(get(&server, "/files/in").status, if links { 200 } else { 404 });
        for path in [
            beside.as_str(),
            "/files/../../etc/passwd",
            "/files/%2e%2e/%2e%2e/etc/passwd",
            "/files/..%2f..%2fetc%2fpasswd",
            "/files/sub%2Finside",
            "/files/%252e%252e/etc/passwd",
            "/files/..%5c..%5cetc",
            "/files//etc/passwd",
            "/files///etc/passwd",
            "/files/sub//inside",
            "/files/sub/inside/",
            "/files/sub/inside/x",
            "/files/out/secret",
            "/files/sub/out",
            "/files/climb",
            "/files/magic",
            "/files/fifo",
            "/files/null",
            "/files/.env",
            "/files/.%65nv",
            "/files/sub/inside%00.txt",
            "/files/missing",
            "/filesystem",
        ] {
            let reply = get(&server, path);
            assert!(matches!(reply.status, 400 | 404), "{path}: {}", reply.status);
            assert!(!reply.head.contains("secret"), "{path}");
        }
        assert_eq!(get(&server, "/files/unreadable").status, 403);
        server.wait_for_line("cannot be served: \"unreadable\"");
    }
}

#[test]
fn one_file_is_served_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let icon = root.path().join(".icon%2F.svg");
    fs::write(&icon, "<svg/>").unwrap();
    let server = Server::start(&format!(
        "[[files]]\npath = \"/icon.svg\"\nfile = \"{}\"\nfresh = \"0s\"\nheaders = {{ x-own = \"1\" }}\n",
        icon.display()
    ));
    let reply = get(&server, "/icon.svg");
    assert_eq!((reply.status, reply.text()), (200, "<svg/>"));
    assert_eq!((reply.field("Content-Type"), reply.field("x-own")), ("image/svg+xml", "1"));
    assert_eq!(get(&server, "/icon.svg/").status, 404);
    // As editors and deployments do it.
    let other = root.path().join("other");
    fs::write(&other, "<svg>2</svg>").unwrap();
    fs::rename(&other, &icon).unwrap();
    assert_eq!(get(&server, "/icon.svg").text(), "<svg>2</svg>");
}

#[test]
fn slow_clients_get_all_of_a_large_file() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("large"), content(LARGE)).unwrap();
    fs::write(root.path().join("small"), "small").unwrap();
    serve(root.path(), "", |server| {
        let slow: Vec<_> = (0..8)
            .map(|_| {
                let mut stream = connect(server.address);
                let head = b"GET /files/large HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
                stream.write_all(head).unwrap();
                stream
            })
            .collect();
        // None of them has read a byte, and nobody waits for them.
        for _ in 0..100 {
            assert_eq!(get(server, "/files/small").text(), "small");
        }
        let large = content(LARGE);
        for mut stream in slow {
            let mut bytes = Vec::new();
            let mut part = vec![0; 300_000];
            loop {
                match stream.read(&mut part).unwrap() {
                    0 => break,
                    len => bytes.extend_from_slice(&part[..len]),
                }
                thread::yield_now();
            }
            assert!(Reply::of(&bytes).unwrap().body == large);
        }
    });
}

#[test]
fn a_file_that_is_replaced_under_load_is_never_mixed() {
    let root = tempfile::tempdir().unwrap();
    let sizes = [1000, 200_000, 2_500_000];
    let publish = |round: u8| {
        for size in sizes {
            let next = root.path().join("next");
            fs::write(&next, vec![round; size + usize::from(round)]).unwrap();
            fs::rename(&next, root.path().join(size.to_string())).unwrap();
        }
    };
    publish(0);
    serve(root.path(), "", |server| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut rounds = 0;
                    while !stop.load(Ordering::Relaxed) || rounds < 5 {
                        for size in sizes {
                            let reply = get(server, &format!("/files/{size}"));
                            assert_eq!(reply.status, 200);
                            let round = reply.body[0];
                            assert!(reply.body.iter().all(|&byte| byte == round), "mixed");
                            assert_eq!(reply.body.len(), size + usize::from(round));
                        }
                        rounds += 1;
                    }
                });
            }
            (1..=60).for_each(publish);
            stop.store(true, Ordering::Relaxed);
        });
        let last = get(server, "/files/1000").body;
        assert_eq!(last, [60; 1060]);
    });
}

#[test]
fn a_file_that_shrinks_ends_its_connections_alone() {
    let root = tempfile::tempdir().unwrap();
    let large = root.path().join("large");
    fs::write(root.path().join("small"), "small").unwrap();
    serve(root.path(), "", |server| {
        let workers = server.workers();
        for keep in [0, 5000, 1 << 20] {
            fs::write(&large, content(LARGE)).unwrap();
            let mut kept = connect(server.address);
            let mut victims: Vec<TcpStream> = (0..4).map(|_| connect(server.address)).collect();
            let mut got = vec![Vec::new(); victims.len()];
            for (stream, got) in victims.iter_mut().zip(&mut got) {
                stream.write_all(b"GET /files/large HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
                // It is under way.
                let mut some = [0; 4096];
                let len = stream.read(&mut some).unwrap();
                got.extend_from_slice(&some[..len]);
            }
            fs::OpenOptions::new().write(true).open(&large).unwrap().set_len(keep).unwrap();
            for (stream, got) in victims.iter_mut().zip(&mut got) {
                match stream.read_to_end(got) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
                // It is told by the connection's end: the length had been promised.
                assert!(got.len() < LARGE, "{} bytes of a file of {keep}", got.len());
            }
            // Nobody else has noticed.
            kept.write_all(b"GET /files/small HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
            let mut some = [0; 4096];
            let len = kept.read(&mut some).unwrap();
            assert!(some[..len].ends_with(b"small"));
            let now = get(server, "/files/large");
            assert_eq!((now.status, now.body.len() as u64), (200, keep));
        }
        assert_eq!(server.workers(), workers, "the same worker serves on");
    });
}

#[test]
fn ten_thousand_files_go_through_a_small_cache() {
    const FILES: usize = 10_000;
    let root = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        fs::write(root.path().join(format!("{number}.txt")), format!("file {number}")).unwrap();
    }
    let server = start("io_uring", root.path(), "open_files = 100");
    let (descriptors, worker) = {
        let worker = server.workers()[0];
        let fds = || fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
        (fds(), worker)
    };
    let mut stream = connect(server.address);
    for batch in 0..FILES / 100 {
        let numbers = batch * 100..(batch + 1) * 100;
        let asked: String = numbers
            .clone()
            .map(|number| format!("GET /files/{number}.txt HTTP/1.1\r\nHost: t\r\n\r\n"))
            .collect();
        stream.write_all(asked.as_bytes()).unwrap();
        let last = format!("file {}", numbers.end - 1);
        let mut bytes = Vec::new();
        while !bytes.ends_with(last.as_bytes()) {
            let mut some = [0; 65_536];
            let len = stream.read(&mut some).unwrap();
            assert!(len > 0, "ended in batch {batch}");
            bytes.extend_from_slice(&some[..len]);
        }
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 100);
        let mut at = 0;
        for number in numbers {
            let body = format!("\r\n\r\nfile {number}");
            at += text[at..].find(&body).unwrap_or_else(|| panic!("no {number} in its order"));
        }
    }
    wait_until("descriptors are given back", || {
        let now = fs::read_dir(format!("/proc/{worker}/fd")).unwrap().count();
        (now <= descriptors + 110).then_some(())
    });
}

#[test]
fn a_config_that_serves_nothing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("emberd.toml");
    for (config, says) in [
        ("prefix = \"/a\"", "has no `root`"),
        ("root = \"/\"", "has no `prefix`"),
        ("path = \"/a\"\nroot = \"/\"", "has no `file`"),
        ("name = \"x\"", "serves nothing"),
        ("prefix = \"/a\"\nroot = \"missing\"", "cannot be served"),
        ("prefix = \"/a\"\nroot = \"emberd.toml\"", "cannot be served"),
        ("path = \"/a\"\nfile = \".\"", "no regular file"),
        ("prefix = \"/a\"\nroot = \"/\"\nindex = [\"a/b\"]", "a path"),
        ("prefix = \"/a\"\nroot = \"/\"\ncache_control = { \"[\" = \"x\" }", "not a pattern"),
        ("prefix = \"/a\"\nroot = \"/\"\nprecompressed = [\"gzip\"]", "gz"),
    ] {
        fs::write(&file, format!("[[listener]]\naddress = \"127.0.0.1:0\"\n[[files]]\n{config}\n"))
            .unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_emberd"))
            .args(["check", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let text =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(78), "{config}: {text}");
        assert!(text.contains(says), "{config}: {text}");
    }
}
