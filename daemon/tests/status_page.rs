//! The status page in a real browser, on a real server under requests: it shows right numbers,
//! fits a phone, follows the light or dark of the system, and makes no script error.
//!
//! `EMBERD_SCREENSHOTS=docs/images cargo test -p emberd --test status_page` keeps pictures.

mod browser;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use browser::{Browser, Tab};

const CONFIG: &str = r#"
workers = { count = 1, threads = 1 }
admin = { listen = "127.0.0.1:0" }

[[listener]]
name = "web"
address = "127.0.0.1:0"

[[prepared]]
path = "/hello"
body = "Hello, World!"
content_type = "text/plain"

# A name that would be markup, were it not shown as text.
[[prepared]]
path = "/b"
name = '<b/id=planted>bold'
body = "b"
content_type = "text/plain"
"#;

#[test]
fn the_page_lives_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::start();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| server.keep_busy(&stop));
        // Also where it panics: the scope waits for its threads.
        let _at_the_end = AtTheEnd(&stop);
        look(&mut browser, &server.admin);
    });
}

struct AtTheEnd<'a>(&'a AtomicBool);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What `look` waits for: the routes are in the table, and charts are drawn.
const SHOWN: &str = r"
    document.getElementById('state').textContent === 'live'
    && [...document.querySelectorAll('tbody td:first-child')].filter((cell) =>
        ['/hello', '<b/id=planted>bold', 'unmatched'].includes(cell.textContent)).length === 3
    && document.querySelectorAll('section:not([hidden]) svg path[d^=M]').length > 6
    && charts.requests.rows.length > 3";

fn look(browser: &mut Browser, admin: &str) {
    let mut tab = browser.open();
    tab.size(1280, 1400, false);
    tab.go(&format!("http://{admin}/"));
    tab.wait_until(SHOWN);
    assert_eq!(tab.number("document.querySelectorAll('#planted').length"), 0.0);
    assert!(tab.number("tiles.size") >= 8.0);
    assert!(tab.number("charts.requests.rows.at(-1).get('prepared')") > 0.0);
    assert!(tab.number("charts.connections.rows.at(-1).get('worker 0')") >= 1.0);
    assert!(tab.number("charts.latency.rows.at(-1).get('p99')") > 0.0);
    light_and_dark(&mut tab);
    on_a_phone(&mut tab);
    tab.run("document.getElementById('pause').click()");
    tab.wait_until("document.getElementById('state').textContent === 'paused'");
    tab.assert_no_errors();
    the_server_goes(&mut tab);
}

fn light_and_dark(tab: &mut Tab<'_>) {
    let ground = "getComputedStyle(document.body).backgroundColor";
    tab.color_scheme("light");
    let light = tab.text(ground);
    keep(tab, "status-light.png");
    tab.color_scheme("dark");
    let dark = tab.text(ground);
    keep(tab, "status-dark.png");
    let brightness = |color: &str| {
        let numbers = color.trim_start_matches("rgb(").trim_end_matches(')').split(", ");
        numbers.map(|number| number.parse::<u32>().unwrap()).sum::<u32>()
    };
    assert!(brightness(&light) > 600 && brightness(&dark) < 150, "{light} {dark}");
}

fn on_a_phone(tab: &mut Tab<'_>) {
    tab.size(360, 740, true);
    tab.wait_until("innerWidth === 360");
    let wider = "[...document.querySelectorAll('header, .tile, section:not(.wide), svg, footer')]\
        .filter((element) => element.getBoundingClientRect().right > innerWidth).length";
    assert_eq!(tab.number(wider), 0.0);
    assert!(tab.number("document.scrollingElement.scrollWidth") <= 360.0);
    let smallest = "Math.min(...[...document.querySelectorAll('body *')].filter((element) => \
        element.textContent && element.getClientRects().length)\
        .map((element) => parseFloat(getComputedStyle(element).fontSize)))";
    assert!(tab.number(smallest) >= 11.0, "{}", tab.number(smallest));
    keep(tab, "status-phone.png");
}

/// The page says so when nobody answers, and goes on by itself.
fn the_server_goes(tab: &mut Tab<'_>) {
    tab.run("document.getElementById('pause').click()");
    tab.wait_until("document.getElementById('state').className === 'ok'");
    tab.run("window.kept = fetch; fetch = () => Promise.reject(new Error('gone'))");
    tab.wait_until("document.getElementById('state').textContent === 'no answer (gone)'");
    tab.run("fetch = window.kept");
    tab.wait_until("document.getElementById('state').className === 'ok'");
    tab.assert_no_errors();
}

fn keep(tab: &mut Tab<'_>, name: &str) {
    if let Some(folder) = std::env::var_os("EMBERD_SCREENSHOTS") {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), tab.picture()).unwrap();
    }
}

struct Server {
    process: Child,
    web: String,
    admin: String,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("emberd.toml");
        std::fs::write(&config, CONFIG).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_emberd"))
            .args(["run", "-c"])
            .arg(&config)
            .env("EMBERD_STATE_DIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut address = |name: &str| {
            let ending = format!("({name})");
            let line = lines.find(|line| line.as_ref().unwrap().ends_with(&ending));
            let line = line.expect("the address is told").unwrap();
            line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned()
        };
        let (web, admin) = (address("web"), address("admin"));
        // What else it says must not fill the pipe up.
        thread::spawn(move || lines.for_each(drop));
        Self { process, web, admin, _folder: folder }
    }

    /// Asks for this and that on one connection until told to stop.
    fn keep_busy(&self, stop: &AtomicBool) {
        let mut stream = TcpStream::connect(&self.web).unwrap();
        let mut answer = [0; 4096];
        for path in ["/hello", "/b", "/nothing"].iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            assert!(stream.read(&mut answer).unwrap() > 0);
            // Charts need requests, the tests beside this one need the processor.
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.process.wait();
    }
}
