use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::keys::{Fallback, Kind, Syntax};
use super::*;

fn from_text(text: &[u8]) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("emberd.toml");
    fs::write(&file, text).unwrap();
    (folder, Sources { file: Some(file), ..Sources::default() })
}

fn loaded(text: &str) -> Config {
    let (_folder, sources) = from_text(text.as_bytes());
    load(&sources).unwrap_or_else(|report| panic!("{report}")).config
}

fn refused(text: &str) -> Report {
    let (_folder, sources) = from_text(text.as_bytes());
    load(&sources).expect_err(text)
}

fn full() -> Sources {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/full.toml");
    Sources { file: Some(file), ..Sources::default() }
}

#[test]
fn the_embedded_default_is_what_the_interface_promises() {
    let config = load(&Sources::default()).unwrap().config;
    let address = |listener: &Listener| listener.address.to_string();
    assert_eq!(config.listeners.iter().map(address).collect::<Vec<_>>(), ["127.0.0.1:8080"]);
    let prepared: Vec<(&str, &[u8], &str)> = config
        .prepared
        .iter()
        .map(|route| (&*route.path, &*route.body.0, &*route.content_type))
        .collect();
    assert_eq!(
        prepared,
        [
            ("/health", br#"{"status":"ok"}"#.as_slice(), "application/json"),
            ("/hello", b"Hello, World!", "text/plain")
        ]
    );
    assert_eq!(config.metrics[0].path, "/metrics");
    assert_eq!((config.ring.buffers, config.ring.buffer_size), (256, 8192));
    assert_eq!(config.workers.nice, -10);
}

#[test]
fn profiles_and_what_overrides_them() {
    for (text, buffers, size) in [
        ("ring.profile = \"low-rss\"", 128, 4096),
        ("ring.profile = \"throughput\"", 1024, 32768),
        ("ring = { profile = \"throughput\", buffers = 64 }", 64, 32768),
        ("ring.buffer_size = 65535", 256, 65535),
    ] {
        let ring = loaded(text).ring;
        assert_eq!((ring.buffers, ring.buffer_size), (buffers, size), "{text}");
    }
}

#[test]
fn a_config_is_handed_on_whole() {
    let config = load(&full()).unwrap_or_else(|report| panic!("{report}")).config;
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    assert_eq!(config.prepared[1].headers.len(), 3, "a list of values is a field each");
    assert_eq!(config.prepared[1].content_type, "text/html; charset=utf-8");
}

#[test]
fn a_dump_is_a_config_that_means_the_same() {
    for sources in [Sources::default(), full()] {
        let config = load(&sources).unwrap().config;
        let dump = dump(&sources, false).unwrap();
        assert_eq!(loaded(&dump), config, "{dump}");
    }
}

#[test]
fn a_config_to_begin_with_is_the_default_and_its_lines_hold() {
    let init = init();
    assert_eq!(loaded(&init), load(&Sources::default()).unwrap().config);
    let is_value = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let every: Vec<&str> = init
        .lines()
        .map(|line| if is_value(line) { &line[1..] } else { line })
        .filter(|line| !line.starts_with("include"))
        .collect();
    let config = loaded(&every.join("\n"));
    assert_eq!(config.user.as_deref(), Some("ember"));
    assert_eq!(config.admin.unwrap().listen.to_string(), "127.0.0.1:9184");
}

/// The table of keys and the types agree: each key that a variable can set changes the config.
#[test]
fn every_key_is_read() {
    let before = load(&Sources::default()).unwrap().config;
    for (path, key) in keys::settable() {
        let variable = keys::variable(&path);
        // The admin pages are there only with their address.
        let mut environment = BTreeMap::new();
        environment.insert(variable.clone(), other_than_default(key));
        let sources = Sources { environment, ..Sources::default() };
        let loaded = load(&sources).unwrap_or_else(|report| panic!("{variable}: {report}"));
        assert_ne!(loaded.config, before, "{variable} changes nothing");
        assert_eq!(loaded.warnings.findings, [], "{variable}");
    }
}

/// A value that a key takes, as in a variable.
fn other_than_default(key: &'static keys::Key) -> String {
    fn of(kind: &'static Kind, default: Fallback) -> String {
        match kind {
            Kind::Bool => (default != Fallback::Is("true")).to_string(),
            Kind::Int(least, most) => {
                let default = match default {
                    Fallback::Is(text) => text.parse().unwrap_or(*most),
                    _ => *most,
                };
                // A power of two, for the one key that wants it.
                if default == *least { most.to_string() } else { (*least).max(1).to_string() }
            }
            Kind::Fraction => "0.5".to_owned(),
            Kind::Duration(least, most) => format!("{}ms", 100.clamp(*least, *most)),
            Kind::Size(..) => "2KiB".to_owned(),
            Kind::Choice(choices) => {
                let other = keys::words(choices).find(|word| default != Fallback::Is(word));
                other.unwrap().to_owned()
            }
            Kind::Or(_, kind) => of(kind, Fallback::Nothing),
            Kind::Nodes => "1,2".to_owned(),
            Kind::Text(Syntax::Cpus) => "0-1".to_owned(),
            Kind::Text(Syntax::Address) => "127.0.0.1:9".to_owned(),
            Kind::Text(Syntax::Net) => "192.0.2.0/24".to_owned(),
            Kind::Text(_) => "other".to_owned(),
            Kind::List(kind) => of(kind, Fallback::Nothing),
            Kind::Map(..) => "{ \"net.core.somaxconn\" = \"4096\" }".to_owned(),
            kind => panic!("no value for {kind:?}"),
        }
    }
    of(&key.kind, key.fallback)
}

#[test]
fn included_files_are_joined() {
    let (folder, sources) =
        from_text(b"include = [\"conf.d\", \"one.toml\"]\nlimits.max_body = 1\n");
    let conf = folder.path().join("conf.d");
    fs::create_dir(&conf).unwrap();
    fs::write(conf.join("b.toml"), "[[prepared]]\npath = \"/b\"\nbody_file = \"b.txt\"").unwrap();
    fs::write(conf.join("b.txt"), "from beside the file").unwrap();
    fs::write(conf.join("a.toml"), "[[prepared]]\npath = \"/a\"\n[limits]\nmax_header = 512")
        .unwrap();
    fs::write(conf.join("c.txt"), "not a config").unwrap();
    fs::write(folder.path().join("one.toml"), "[[prepared]]\npath = \"/one\"").unwrap();
    let config = load(&sources).unwrap_or_else(|report| panic!("{report}")).config;
    let paths: Vec<&str> = config.prepared.iter().map(|route| &*route.path).collect();
    assert_eq!(paths, ["/a", "/b", "/one"]);
    assert_eq!(config.prepared[1].body.0, b"from beside the file");
    assert_eq!((config.limits.max_header, config.limits.max_body), (512, 1));
}

#[test]
fn files_that_are_in_each_others_way_are_told() {
    let (folder, sources) = from_text(b"include = \"b.toml\"\nlimits.max_body = 1\n");
    fs::write(folder.path().join("b.toml"), "include = \"emberd.toml\"\nlimits.max_body = 2")
        .unwrap();
    let report = load(&sources).unwrap_err();
    let errors = report.findings.iter().filter(|finding| finding.severity == Severity::Error);
    let codes: Vec<&str> = errors.map(|finding| finding.code).collect();
    assert_eq!(codes, ["include", "duplicate"], "{report}");
    assert!(report.human(false).contains("first set here"), "{report}");
}

#[test]
fn variables_are_put_into_strings() {
    let text = b"limits.max_connections = \"${MAX}\"\nuser = \"${WHO:-nobody}\"\n\
                 [[prepared]]\npath = \"/a\"\nbody = \"$${KEEP} ${name} ${MAX}\"\n";
    let (_folder, mut sources) = from_text(text);
    sources.environment.insert("MAX".to_owned(), "7".to_owned());
    let config = load(&sources).unwrap_or_else(|report| panic!("{report}")).config;
    assert_eq!(config.limits.max_connections, 7, "a whole string may stand for a number");
    assert_eq!(config.user.as_deref(), Some("nobody"));
    assert_eq!(config.prepared[0].body.0, b"${KEEP} ${name} 7");
}

#[test]
fn elements_of_lists_can_be_set_by_index_and_by_name() {
    let mut sources = full();
    for set in [
        "listener.web.backlog=7",
        "listener.1.address=[::1]:9",
        "prepared.page.headers={ x = \"y\" }",
        "workers.numa=all",
        "tune.nic=a,b",
        "limits.idle_timeout = \"5s\"",
    ] {
        sources.set.push(set.to_owned());
    }
    let config = load(&sources).unwrap_or_else(|report| panic!("{report}")).config;
    assert_eq!(config.listeners[0].backlog, 7);
    assert_eq!(config.listeners[1].address.to_string(), "[::1]:9");
    assert_eq!(config.prepared[1].headers, [("x".to_owned(), "y".to_owned())]);
    assert_eq!(config.workers.numa, NumaNodes::All);
    assert_eq!(config.tune.nic, ["a", "b"]);
    assert_eq!(config.limits.idle_timeout.as_secs(), 5);
}

#[test]
fn listen_alone_is_enough() {
    let (_folder, mut sources) = from_text(b"[[prepared]]\npath = \"/a\"\n");
    assert_eq!(load(&sources).unwrap().config.listeners[0].address.to_string(), "127.0.0.1:8080");
    sources.flags.push(("--listen", "unix:/run/a.sock".to_owned()));
    assert_eq!(load(&sources).unwrap().config.listeners[0].address.to_string(), "unix:/run/a.sock");
}

#[test]
fn the_same_path_may_be_on_two_listeners() {
    let both = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\nroutes = [\"one\"]\n\
                [[listener]]\nname = \"b\"\naddress = \"127.0.0.1:2\"\nroutes = [\"two\"]\n\
                [[prepared]]\nname = \"one\"\npath = \"/\"\n\
                [[prepared]]\nname = \"two\"\npath = \"/\"\n";
    assert_eq!(loaded(both).prepared.len(), 2);
    let report = refused(&both.replace("[\"one\"]", "[\"one\", \"two\"]"));
    assert!(report.to_string().contains("/ is routed twice on listener \"a\""), "{report}");
}

#[test]
fn what_is_planned_is_refused_until_something_reads_it() {
    let report = refused("[[listener]]\nproxy_protocol = []\naddress = \"127.0.0.1:0\"");
    assert!(report.to_string().contains("not in this version yet"), "{report}");
}

#[test]
fn bodies_of_strange_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (file, why) in [("/dev/zero", "no regular file"), ("/nope", "No such file")] {
        let text = format!("[[prepared]]\npath = \"/\"\nbody_file = \"{file}\"");
        let report = refused(&text);
        assert!(report.to_string().contains(why), "{report}");
    }
    drop(folder);
}

/// What a mutation may put in.
const PIECES: &[&str] = &[
    "",
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "#",
    "-1",
    "0x",
    "1e999",
    "inf",
    "99999999999999999999",
    "1979-05-27",
    "true",
    "\u{0}",
    "\r\n",
    "é",
    "🔥",
    "${A",
    "${A}",
    "\\u0000",
    "listener",
    "[[listener]]",
    "[workers]",
    "include = \".\"",
    "unix:",
    "10s",
];

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let bases = [gather::EMBEDDED, include_str!("../../tests/config/full.toml")];
    let edit =
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..PIECES.len(), 0usize..20);
    (0..bases.len(), prop::collection::vec(edit, 1..6)).prop_map(move |(base, edits)| {
        let mut bytes = bases[base].as_bytes().to_vec();
        for (at, to, piece, cut) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            let moved: Vec<u8> = bytes.splice(at..end, PIECES[piece].bytes()).collect();
            let to = to.index(bytes.len() + 1);
            bytes.splice(to..to, moved);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a file, the outcome is a config or a report that can be rendered.
    #[test]
    fn no_file_makes_it_panic(text in prop_oneof![mutated(), prop::collection::vec(any::<u8>(), 0..200)]) {
        let (_folder, sources) = from_text(&text);
        match load(&sources) {
            Ok(loaded) => {
                prop_assert_eq!(&Config::from_json(&loaded.config.to_json()).unwrap(), &loaded.config);
                let _ = loaded.warnings.human(true);
            }
            Err(report) => {
                prop_assert!(report.errors() > 0);
                let _ = (report.human(true), report.json());
                let defect = report.findings.iter().any(|finding| finding.code == "internal");
                prop_assert!(!defect, "{}", report);
            }
        }
    }

    #[test]
    fn no_option_makes_it_panic(set in ".{0,40}", value in ".{0,40}", key in "[a-z_.0-9]{1,30}") {
        let mut sources = full();
        sources.set = vec![set, format!("{key}={value}"), format!("listener.0.address={value}")];
        sources.environment.insert("EMBERD_RING_BUFFERS".to_owned(), value);
        if let Err(report) = load(&sources) {
            let _ = (report.human(true), report.json());
        }
    }
}
