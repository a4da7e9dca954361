//! `[[redirect]]` and the rules of a running server: header fields, methods, pages of other origins,
//! who may ask and how often.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::{Client, PATIENCE, Server};
use nix::sys::signal::{Signal, kill};

struct Reply {
    status: u16,
    head: String,
}

impl Reply {
    fn all<'a>(&'a self, name: &str) -> Vec<&'a str> {
        let field = |line: &'a str| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        };
        self.head.lines().filter_map(field).collect()
    }

    #[track_caller]
    fn field(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [value] => value,
            _ => panic!("not one {name}: {}", self.head),
        }
    }

    fn lacks(&self, name: &str) -> bool {
        self.all(name).is_empty()
    }
}

/// One request on a connection of its own, to its end.
#[track_caller]
fn ask(address: SocketAddr, method: &str, target: &str, fields: &str) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("{target}: {head}"));
    Reply { status: status.parse().unwrap(), head }
}

fn start(config: &str) -> Server {
    Server::start(&format!("workers = {{ count = 1, threads = 1 }}\n{config}"))
}

/// A folder with one file that workers may read, whoever they run as.
fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.path().join("a.txt"), "content").unwrap();
    root
}

fn files(root: &Path, rules: &str) -> String {
    format!(
        "[[files]]\nname = \"files\"\nprefix = \"/files\"\nroot = \"{}\"\n{rules}\n",
        root.display()
    )
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{user}:{password}");
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    format!("Authorization: Basic {pair}\r\n")
}

#[test]
fn redirects_lead_where_they_should_and_nowhere_else() {
    let server = start(
        r#"
[[redirect]]
path = "/old"
to = "/new"
[[redirect]]
path = "/found"
to = "https://example.org/?from=here#top"
status = 302
keep_query = true
[[redirect]]
path = "/user/{id:int}/{tab}"
to = "/people/{id}?tab={tab}"
status = 301
headers = { cache-control = "no-store" }
security_headers = true
[[redirect]]
path = "/moved/{rest:path}"
to = "/{rest}"
status = 307
"#,
    );
    let at = server.address;
    for method in ["GET", "POST", "DELETE", "OPTIONS"] {
        let reply = ask(at, method, "/old?q=1", "Content-Length: 0\r\n");
        assert_eq!((reply.status, reply.field("Location")), (308, "/new"), "{method}");
    }
    for (target, status, location) in [
        ("/found", 302, "https://example.org/?from=here#top"),
        ("/found?a=1&b=2", 302, "https://example.org/?from=here&a=1&b=2#top"),
        ("/user/7/photos", 301, "/people/7?tab=photos"),
        ("/user/7/a%26b%3Dc%23d", 301, "/people/7?tab=a%26b%3Dc%23d"),
        ("/moved/a/b?q=1", 307, "/a/b"),
        ("/moved/%0d%0aSet-Cookie:%20a", 0, ""),
        ("/moved//evil.example/", 307, "/evil.example/"),
        ("/moved/%2F%2Fevil.example", 307, ""),
        ("/moved/%5C%5Cevil.example", 307, ""),
        ("/moved/h%C3%B6her", 307, "/h%C3%B6her"),
    ] {
        let reply = ask(at, "GET", target, "");
        assert!(reply.lacks("Set-Cookie"), "{target}: {}", reply.head);
        if status == 0 || reply.status >= 400 {
            // What is no path is refused before any route.
            assert!(reply.status >= 400 || !reply.field("Location").contains(['\r', '\n']));
            continue;
        }
        assert_eq!(reply.status, status, "{target}");
        let to = reply.field("Location");
        assert!(location.is_empty() || to == location, "{target}: {to}");
        let own = to.starts_with("https://example.org/")
            || to.starts_with('/') && !to.starts_with("//") && !to.contains('\\');
        assert!(own, "{target} leads to {to}");
    }
    let reply = ask(at, "GET", "/user/7/photos", "");
    assert_eq!(reply.field("Cache-Control"), "no-store");
    assert_eq!(reply.field("X-Content-Type-Options"), "nosniff");
    assert_eq!(ask(at, "GET", "/user/seven/photos", "").status, 404);
    let name = "emberd_http_requests_total{route=\"/old\",method=\"GET\",code=\"308\"";
    let prepared = server.metric(&format!("{name},path_kind=\"prepared\"}}"));
    assert!((prepared - 1.0).abs() < 0.1, "answered without a handler: {prepared}");
}

#[test]
fn fields_and_methods_follow_the_rules() {
    let root = root();
    let server = start(&files(
        root.path(),
        "methods = [\"GET\"]\nremove_headers = [\"last-modified\"]\nsecurity_headers = true\n\
         hsts = \"365d\"",
    ));
    let at = server.address;
    for (target, status) in [("/files/a.txt", 200), ("/files/none", 404)] {
        let reply = ask(at, "GET", target, "");
        assert_eq!(reply.status, status);
        assert!(reply.lacks("Last-Modified"));
        assert_eq!(reply.field("X-Content-Type-Options"), "nosniff");
        assert_eq!(reply.field("X-Frame-Options"), "SAMEORIGIN");
        assert_eq!(reply.field("Referrer-Policy"), "strict-origin-when-cross-origin");
        assert_eq!(reply.field("Strict-Transport-Security"), "max-age=31536000");
    }
    assert_eq!(ask(at, "HEAD", "/files/a.txt", "").status, 200);
    let refused = ask(at, "POST", "/files/a.txt", "Content-Length: 0\r\n");
    assert_eq!((refused.status, refused.field("Allow")), (405, "GET, HEAD, OPTIONS"));
    assert_eq!(refused.field("X-Content-Type-Options"), "nosniff");
    let options = ask(at, "OPTIONS", "/files/a.txt", "");
    assert_eq!((options.status, options.field("Allow")), (204, "GET, HEAD, OPTIONS"));
}

#[test]
fn pages_of_other_origins_may_what_they_were_allowed() {
    let root = root();
    let cors = "cors = { origins = [\"https://app.example\", \"https://*.dev.example\"], \
                headers = [\"x-a\"], expose = [\"etag\"], credentials = true, max_age = \"1m\" }";
    let server = start(&format!(
        "{}\n[[prepared]]\npath = \"/open\"\nbody = \"all\"\ncors = {{ origins = [\"*\"] }}\n\
         security_headers = true\nhsts = \"1d\"",
        files(root.path(), cors)
    ));
    let at = server.address;
    let preflight = |target: &str, origin: &str| {
        let fields = format!("Origin: {origin}\r\nAccess-Control-Request-Method: GET\r\n");
        ask(at, "OPTIONS", target, &fields)
    };
    for origin in ["https://app.example", "https://a.dev.example"] {
        let reply = preflight("/files/a.txt", origin);
        assert_eq!((reply.status, reply.field("Access-Control-Allow-Origin")), (204, origin));
        assert_eq!(reply.field("Access-Control-Allow-Methods"), "GET, HEAD");
        assert_eq!(reply.field("Access-Control-Allow-Headers"), "x-a");
        assert_eq!(reply.field("Access-Control-Allow-Credentials"), "true");
        assert_eq!(reply.field("Access-Control-Max-Age"), "60");
        for (target, status) in [("/files/a.txt", 200), ("/files/none", 404)] {
            let reply = ask(at, "GET", target, &format!("Origin: {origin}\r\n"));
            assert_eq!(reply.status, status);
            assert_eq!(reply.field("Access-Control-Allow-Origin"), origin);
            assert_eq!(reply.field("Access-Control-Expose-Headers"), "etag");
            assert!(reply.all("Vary").contains(&"Origin"));
        }
    }
    for origin in ["https://evil.example", "null", "https://app.example.evil.example"] {
        let reply = preflight("/files/a.txt", origin);
        assert!(reply.lacks("Access-Control-Allow-Origin"), "{origin}");
        let reply = ask(at, "GET", "/files/a.txt", &format!("Origin: {origin}\r\n"));
        assert!(reply.lacks("Access-Control-Allow-Origin"), "{origin}");
        assert!(reply.all("Vary").contains(&"Origin"));
    }
    let reply = preflight("/open", "https://any.example");
    assert_eq!((reply.status, reply.field("Access-Control-Allow-Origin")), (204, "*"));
    let reply = ask(at, "GET", "/open", "Origin: https://any.example\r\n");
    assert_eq!((reply.status, reply.field("Access-Control-Allow-Origin")), (200, "*"));
    assert_eq!(reply.field("X-Frame-Options"), "SAMEORIGIN");
    assert_eq!(reply.field("Strict-Transport-Security"), "max-age=86400");
}

#[test]
fn only_those_who_say_who_they_are_get_in() {
    let root = root();
    let secrets = tempfile::tempdir().unwrap();
    let (users, tokens) = (secrets.path().join("users"), secrets.path().join("tokens"));
    let bcrypt = |password| bcrypt::hash(password, 4).unwrap();
    let sha1 = "qZk+NkcGgWq6PiVxeFDCbJzQ2J0="; // "abc"
    fs::write(&users, format!("anna:{}\nsha:{{SHA}}{sha1}\n", bcrypt("sesame"))).unwrap();
    fs::write(&tokens, "# one\nright-token\n").unwrap();
    // Whoever reads the config reads these: workers need not be able to.
    for secret in [&users, &tokens] {
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let auth = format!(
        "auth = {{ basic_file = \"{}\", bearer_file = \"{}\", realm = \"here\" }}",
        users.display(),
        tokens.display()
    );
    let config = format!("workers = {{ count = 1, threads = 2 }}\n{}", files(root.path(), &auth));
    let server = Server::start(&config);
    let get = |fields: &str| ask(server.address, "GET", "/files/a.txt", fields);
    let refused = get("");
    assert_eq!(refused.status, 401);
    let challenges = ["Basic realm=\"here\", charset=\"UTF-8\"", "Bearer realm=\"here\""];
    assert_eq!(refused.all("WWW-Authenticate"), challenges);
    for _ in 0..20 {
        assert_eq!(get(&basic("anna", "sesame")).status, 200);
        assert_eq!(get(&basic("sha", "abc")).status, 200);
        assert_eq!(get("Authorization: Bearer right-token\r\n").status, 200);
    }
    for wrong in [
        basic("anna", "Sesame"),
        basic("anna", ""),
        basic("nobody", "sesame"),
        basic("sha", "sesame"),
        basic("", ""),
        "Authorization: Basic %%%\r\n".to_owned(),
        "Authorization: Basic\r\n".to_owned(),
        "Authorization: Bearer right-toke\r\n".to_owned(),
        "Authorization: Bearer right-tokens\r\n".to_owned(),
        "Authorization: Digest right-token\r\n".to_owned(),
    ] {
        assert_eq!(get(&wrong).status, 401, "{wrong}");
    }
    // Without credentials nobody learns what is there.
    assert_eq!(ask(server.address, "GET", "/files/none", "").status, 401);
    fs::write(&users, format!("anna:{}\n", bcrypt("another"))).unwrap();
    assert_eq!(get(&basic("anna", "sesame")).status, 200, "not read before a reload");
    server.ask_well(&["reload"]);
    // The workers of before may answer once more.
    common::wait_until("the new passwords", || {
        (get(&basic("anna", "sesame")).status == 401).then_some(())
    });
    assert_eq!(get(&basic("anna", "another")).status, 200);
}

/// So many requests, each on a connection of its own: how many got through.
fn count(server: &Server, requests: usize, fields: &str) -> usize {
    let threads = 4;
    let each = || {
        let replies = (0..requests / threads).map(|_| ask(server.address, "GET", "/lim", fields));
        let through = |reply: Reply| {
            if reply.status == 429 {
                assert!(reply.field("Retry-After").parse::<u64>().unwrap() >= 1);
            } else {
                assert_eq!(reply.status, 307);
            }
            usize::from(reply.status == 307)
        };
        replies.map(through).sum::<usize>()
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

fn limited(key: &str) -> String {
    format!(
        "workers = {{ count = 2, threads = 2 }}\n[[redirect]]\nname = \"limited\"\npath = \"/lim\"\n\
         to = \"/hello\"\nstatus = 307\n\
         rate_limit = {{ key = \"{key}\", rate = 1, per = \"24h\", burst = 50 }}\n"
    )
}

#[test]
fn a_rate_is_counted_over_all_workers_and_outlives_them() {
    let server = Server::start(&limited("ip"));
    let refused = "emberd_rate_limited_total{route=\"limited\"}";
    assert_eq!(count(&server, 120, ""), 50);
    let seen = server.metric(refused);
    assert!((seen - 70.0).abs() < 0.1, "{seen}");
    let old = server.workers()[0];
    kill(old, Signal::SIGKILL).unwrap();
    server.wait_for_successor(old);
    assert_eq!(count(&server, 20, ""), 0, "a worker that died has not taken it along");
    server.ask_well(&["reload"]);
    assert_eq!(count(&server, 20, ""), 0, "nor has a reload");
    let seen = server.metric(refused);
    assert!((seen - 110.0).abs() < 0.1, "{seen}");
    // What is not limited answers as before.
    assert_eq!(Client::new(server.address).get("/hello").unwrap().status, 200);
}

#[test]
fn each_value_of_a_field_is_a_client_of_its_own() {
    let server = Server::start(&limited("header:X-Key"));
    assert_eq!(count(&server, 80, "X-Key: a\r\n"), 50);
    assert_eq!(count(&server, 80, "X-Key: b\r\n"), 50);
    assert_eq!(count(&server, 80, ""), 50, "who sends none is one client too");
    assert_eq!(count(&server, 8, "x-key: a\r\n"), 0);
}

#[test]
fn rules_that_cannot_be_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    fs::write(folder.path().join("users"), "anna:$apr1$x$y\n").unwrap();
    fs::write(folder.path().join("tokens"), "# none\n").unwrap();
    let redirect = |to: &str, more: &str| {
        format!("[[redirect]]\npath = \"/a/{{x}}\"\nto = \"{to}\"\n{more}\n")
    };
    for (config, part) in [
        (redirect("{x}", ""), "could name any host"),
        (redirect("//{x}", ""), "could name any host"),
        (redirect("https://{x}/", ""), "parameter in its host"),
        (redirect("https://a.{x}.org/", ""), "parameter in its host"),
        (redirect("/b/{y}", ""), "captures no `y`"),
        (redirect("/b/{x", ""), "brace"),
        (redirect("/b", "status = 304"), "does not redirect"),
        (redirect("/b", "cors = { origins = [\"*\"], credentials = true }"), "credentials"),
        (redirect("/b", "cors = { origins = [\"example.org\"] }"), "no scheme"),
        (redirect("/b", "auth = {}"), "lets nobody in"),
        (redirect("/b", "auth = { basic_file = \"none\" }"), "cannot be read"),
        (redirect("/b", "auth = { basic_file = \"users\" }"), "line 1: MD5"),
        (redirect("/b", "auth = { bearer_file = \"tokens\" }"), "there is no token"),
        (redirect("/b", "rate_limit = { key = \"user\", rate = 1 }"), "not who is counted"),
        (redirect("/b", "rate_limit = { key = \"ip\" }"), "has no `rate`"),
        (redirect("/b", "remove_headers = [\"content-length\"]"), "server's own"),
        ("[[redirect]]\npath = \"/{a}/{a}\"\nto = \"/b\"\n".to_owned(), "twice"),
        ("[[prepared]]\npath = \"/a\"\nauth = {}\n".to_owned(), "serve it by [[files]]"),
        (
            "[[prepared]]\npath = \"/a\"\ncors = { origins = [\"https://a.example\"] }\n"
                .to_owned(),
            "the same for all origins",
        ),
        (
            "[[files]]\nprefix = \"/a\"\nroot = \".\"\nmethods = [\"POST\"]\n".to_owned(),
            "not there for POST",
        ),
    ] {
        fs::write(&file, &config).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_emberd"))
            .args(["check", "-c"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(part), "{config}: {text}");
        assert!(!text.contains("a defect in emberd"), "{text}");
    }
}
