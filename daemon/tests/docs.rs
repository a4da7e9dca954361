//! Every block of code in README.md and docs/ is tried: configs are checked, commands are run in
//! their order in a network of their own, with the program under test in the place of `emberd`.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::wait_until;

const EMBERD: &str = env!("CARGO_BIN_EXE_emberd");

/// Commands that are not run, by how they begin, and why. Those of emberd are parsed by it all
/// the same, those of make must have a target.
const NOT_RUN: &[(&str, &str)] = &[
    ("make", "builds, tests or measures for minutes; its target must be there"),
    ("cargo", "builds for minutes"),
    ("taskset", "measures another program"),
    ("sh bench/bare-metal.sh", "needs two hosts and a NIC"),
    ("apt install", "changes this machine; deploy/debian/try.sh does it in a root of its own"),
    ("systemctl", "needs systemd as process 1; tests/systemd.rs stands in for it"),
    ("podman", "needs a container runtime; tests/deploy.rs reads the file"),
    ("kubectl", "needs a cluster; tests/deploy.rs reads the file"),
    ("emberd tune apply", "writes this machine's settings; tests/tune.rs does it in a namespace"),
    ("emberd tune revert", "the same"),
    ("emberd tune status", "its exit status is about this machine"),
    ("emberd --tune", "writes this machine's settings"),
    ("emberd top", "runs until a key ends it; tests/top.rs types one"),
    ("emberd doctor", "its exit status is about this machine"),
];

/// Languages between fences: other programs' own, and Rust, which the doc tests of `ember` run.
const OTHERS: [&str; 3] = ["nginx", "python", "rust"];

#[test]
fn what_the_documents_say_to_do_can_be_done() {
    // For this thread and the processes that it starts: ports are free, nothing gets out, and
    // there is a /srv as the documents have it.
    let own = nix::sched::CloneFlags::CLONE_NEWNET | nix::sched::CloneFlags::CLONE_NEWNS;
    if let Err(error) = nix::sched::unshare(own) {
        return println!("skipped: no namespaces here: {error}");
    }
    if let Err(error) = furnish_srv() {
        return println!("skipped: nothing can be mounted here: {error}");
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.is_ok_and(|status| status.success()) {
        return println!("skipped: no `ip` here");
    }
    let mut used = BTreeSet::new();
    let mut run = 0;
    for document in documents() {
        let mut reader = Reader::new(&document);
        reader.follow(&fs::read_to_string(&document).unwrap());
        used.extend(reader.not_run.iter().copied());
        run += reader.run;
    }
    assert!(run >= 20, "{run} commands were run");
    for (begin, why) in NOT_RUN {
        assert!(used.contains(begin), "no document says `{begin}` ({why}): take it off the list");
    }
}

/// Puts what the documents serve into a /srv of our own.
fn furnish_srv() -> std::io::Result<()> {
    for arguments in [&["--make-rprivate", "/"][..], &["-t", "tmpfs", "srv", "/srv"]] {
        let status = Command::new("mount").args(arguments).status()?;
        if !status.success() {
            return Err(std::io::Error::other(format!("mount {arguments:?}: {status}")));
        }
    }
    fs::create_dir("/srv/www")?;
    fs::create_dir("/srv/internal")?;
    fs::write("/srv/favicon.ico", "icon")
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(top().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    documents.sort();
    documents.insert(0, top().join("README.md"));
    documents
}

/// Somebody who does what one document says, in a folder of their own.
struct Reader {
    document: String,
    folder: tempfile::TempDir,
    server: Option<std::process::Child>,
    run: usize,
    not_run: BTreeSet<&'static str>,
}

impl Reader {
    fn new(document: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // As after `make build`, and as installed.
        let programs = folder.path().join("target/release");
        fs::create_dir_all(&programs).unwrap();
        symlink(EMBERD, programs.join("emberd")).unwrap();
        let document = document.file_name().unwrap().to_string_lossy().into_owned();
        Self { document, folder, server: None, run: 0, not_run: BTreeSet::new() }
    }

    fn follow(&mut self, text: &str) {
        for Block { line, before, code } in blocks(text) {
            let place = format!("{}:{line}", self.document);
            if is_config(&code) {
                // The file that the words before it name.
                let named = before.split('`').rfind(|word| word.ends_with(".toml"));
                let name = named.filter(|name| !name.contains('/')).unwrap_or("unnamed.toml");
                fs::write(self.folder.path().join(name), &code).unwrap();
                self.execute(&place, &format!("emberd check -c {name}"));
                continue;
            }
            for command in code.replace("\\\n", " ").lines() {
                let command = command.split(" #").next().unwrap().trim();
                if !command.is_empty() && !command.starts_with('#') {
                    self.step(&place, command);
                }
            }
        }
    }

    /// One command line.
    fn step(&mut self, place: &str, line: &str) {
        let plain = line.strip_prefix("sudo ").unwrap_or(line);
        let plain = plain.strip_prefix("target/release/").unwrap_or(plain);
        if plain == "make run" {
            self.check_not_run(place, plain);
            return self.serve(place, "emberd");
        }
        if is_server(plain) && !plain.starts_with("emberd --tune") {
            return self.serve(place, plain.trim_end_matches('&').trim());
        }
        match NOT_RUN.iter().find(|(begin, _)| is_like(plain, begin)) {
            Some((begin, _)) => {
                self.not_run.insert(begin);
                self.check_not_run(place, plain);
            }
            None => self.execute(place, plain),
        }
    }

    /// What can be said of a command without running it.
    fn check_not_run(&self, place: &str, line: &str) {
        let words: Vec<&str> =
            line.split_whitespace().take_while(|it| !["||", "&&", "|"].contains(it)).collect();
        let mut command = match words[0] {
            "make" => {
                let mut make = Command::new("make");
                make.arg("-n").args(&words[1..]).current_dir(top());
                make
            }
            "emberd" => {
                let mut emberd = Command::new(EMBERD);
                emberd.args(&words[1..]).arg("--help");
                emberd
            }
            _ => return,
        };
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{place}: `{line}`: {said}");
    }

    /// A shell in this reader's folder.
    fn shell(&self, line: &str) -> Command {
        let folder = self.folder.path();
        let programs = folder.join("target/release");
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-ec", line]).current_dir(folder).env("PATH", path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EMBERD_") {
                command.env_remove(name);
            }
        }
        command.env("EMBERD_STATE_DIR", folder.join("state"));
        command
    }

    fn execute(&mut self, place: &str, line: &str) {
        let output = self.shell(line).output().unwrap();
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "{place}: `{line}`: {}{}", said[0], said[1]);
        println!("{place}: {line}");
        self.run += 1;
    }

    /// Starts a server in the place of the one before, and waits until it serves.
    fn serve(&mut self, place: &str, line: &str) {
        self.stop();
        let log = self.folder.path().join("server.log");
        let mut command = self.shell(&format!("exec {line}"));
        let child = command.stderr(fs::File::create(&log).unwrap()).stdout(Stdio::null()).spawn();
        let mut child = child.unwrap();
        wait_until("the server of a document is ready", || {
            let said = fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{place}: `{line}`: {said}");
            let status = self.shell("emberd status").output().unwrap();
            let ready = String::from_utf8_lossy(&status.stdout).contains("(serving)");
            ready.then_some(())
        });
        println!("{place}: {line}");
        self.server = Some(child);
        self.run += 1;
    }

    fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = nix::unistd::Pid::from_raw(server.id().cast_signed());
            // One that was drained is gone.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
            let _ = server.wait();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A block of code, its line, and the words between it and the block before.
struct Block {
    line: usize,
    before: String,
    code: String,
}

/// Indented blocks; those between fences are in the languages of other programs.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut words, mut fenced, mut inside) = (String::new(), false, false);
    for (at, line) in text.lines().enumerate() {
        if let Some(language) = line.strip_prefix("```") {
            fenced = !fenced;
            let known = !fenced || OTHERS.contains(&language);
            assert!(known, "line {}: indent what is to be tried by four spaces", at + 1);
        } else if let Some(code) = line.strip_prefix("    ").filter(|_| !fenced) {
            // A block of commands follows one of config without a word between.
            let switch = inside
                && blocks.last().is_some_and(|it| {
                    it.code.ends_with("\n\n") && is_config(&it.code) && is_command(code)
                });
            if !inside || switch {
                blocks.push(Block {
                    line: at + 1,
                    before: std::mem::take(&mut words),
                    code: String::new(),
                });
            }
            inside = true;
            blocks.last_mut().unwrap().code.push_str(&format!("{code}\n"));
        } else if line.is_empty() && inside {
            blocks.last_mut().unwrap().code.push('\n');
        } else {
            inside = false;
            words.push_str(line);
            words.push('\n');
        }
    }
    blocks
}

fn is_config(code: &str) -> bool {
    let first = code.lines().find(|line| !line.starts_with('#') && !line.is_empty());
    first.is_some_and(|line| line.starts_with('[') || line.split_once(" = ").is_some())
}

fn is_command(line: &str) -> bool {
    !line.is_empty() && !is_config(line)
}

/// Whether a command line begins with these words.
fn is_like(line: &str, begin: &str) -> bool {
    match begin {
        // Options make these end by themselves.
        "emberd top" => line == begin,
        _ => line.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')),
    }
}

/// Whether a command line starts a server: emberd without a command, or `run`.
fn is_server(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("emberd") else { return false };
    match rest.split_whitespace().next() {
        None | Some("run" | "&") => true,
        Some(word) => word.starts_with('-') && rest.starts_with(' '),
    }
}
