//! The runner and the reports, through the program, with servers made for the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ember_bench::results::{Metric, Results};

/// A server in Python that keeps connections and answers every request with the body in its
/// second argument. It has a child process, to be counted with it.
const SERVER: &str = r#"
import http.server, socketserver, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
child = subprocess.Popen(["sleep", "600"])
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

/// A folder of this test's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("ember-bench-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ember-bench"))
        .args(arguments)
        .output()
        .expect("the program under test starts")
}

/// Runs the row `hello` with the Python server as emberd and `other_body` from the other one.
fn run_hello(folder: &Path, other_body: &str) -> (Output, Results) {
    fs::write(folder.join("server.py"), SERVER).unwrap();
    let server = folder.join("server.py").display().to_string();
    let peer = |name: &str, body: &str| {
        format!(
            "[[peer]]\nname = '{name}'\ncommand = ['python3', '{server}', '{{port}}', '{body}']\n\
             version = ['python3', '--version']\ninstall = 'apt: python3'\n"
        )
    };
    let table = peer("emberd", "Hello, World!") + &peer("nginx", other_body);
    fs::write(folder.join("peers.toml"), table).unwrap();
    let results = folder.join("results.json");
    let (dir, file) = (folder.display().to_string(), results.display().to_string());
    let output = bench(&[
        "run",
        "--rows",
        "hello",
        "--peers",
        "emberd,nginx",
        "--rounds",
        "2",
        "--window",
        "0.2",
        "--warmup",
        "0.05",
        "--peers-dir",
        &dir,
        "--output",
        &file,
    ]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let results = Results::load(&results).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output, results)
}

fn two_cpus() -> bool {
    let enough = ember_bench::host::pin::allowed().len() >= 2;
    if !enough {
        println!("skipped: server and load need a CPU each, and there is but one");
    }
    enough
}

#[test]
fn measures_servers_in_turn_and_leaves_nothing_running() {
    if !two_cpus() {
        return;
    }
    let folder = Folder::new("good");
    let (output, results) = run_hello(&folder.0, "Hello, World!");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row = &results.rows[0];
    assert_eq!((row.id.as_str(), row.subjects.len()), ("hello", 2));
    for subject in &row.subjects {
        assert_eq!(subject.samples.len(), 2, "{}", subject.label);
        for metric in [Metric::Rate, Metric::Cpu, Metric::P99, Metric::Rss, Metric::PeakRss] {
            assert!(subject.values(metric).iter().all(|value| *value > 0.0), "{metric:?}");
        }
        // A Python interpreter and its child: more than the child alone, which a runner that
        // looked at one process only would not tell from it.
        assert!(subject.median(Metric::Rss).unwrap() > 5e6);
    }
    assert!(results.peers["emberd"].version.starts_with("Python 3"));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("| emberd") && table.contains("Target: CPU us/request"), "{table}");
    assert!(!still_running(&folder.0), "a server outlived the run");
}

#[test]
fn one_wrong_server_fails_the_run() {
    if !two_cpus() {
        return;
    }
    let folder = Folder::new("bad");
    let (output, results) = run_hello(&folder.0, "Hullo, World!");
    assert!(!output.status.success());
    let failures = results.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!((failures[0].0.as_str(), failures[0].1.as_str()), ("hello", "nginx"));
    assert!(failures[0].2.contains("content"), "{}", failures[0].2);
}

#[test]
fn unknown_rows_are_refused() {
    let output = bench(&["run", "--rows", "helo"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no row is called 'helo'"));
}

#[test]
fn a_report_has_the_page_the_plots_and_the_tables() {
    let folder = Folder::new("report");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let (results, out) = (golden.join("results.json"), folder.0.display().to_string());
    let output = bench(&["report", &results.display().to_string(), "--output", &out]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read =
        |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    assert_eq!(read(folder.0.join("tables.md")), read(golden.join("tables.md")));
    let page = read(folder.0.join("index.html"));
    assert!(page.contains("A prepared reply") && page.contains("<svg") && page.contains("</html>"));
    assert!(read(folder.0.join("hello-cpu.svg")).ends_with("</svg>"));
}

#[test]
fn a_run_compares_with_itself_as_noise() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/results.json");
    let file = golden.display().to_string();
    let output = bench(&["compare", &file, &file, "--gate"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("noise") && !text.contains("WORSE") && !text.contains("better"));
}

/// Whether any process was started with a path below `folder`.
fn still_running(folder: &Path) -> bool {
    let needle = folder.display().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(&needle))
}
