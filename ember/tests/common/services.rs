//! Real services in temporary directories: PostgreSQL and Redis, where they are installed.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A PostgreSQL server of its own, reached by a unix socket.
pub struct Postgres {
    directory: TempDir,
    programs: PathBuf,
}

/// A Redis server of its own.
pub struct Redis {
    directory: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Postgres {
    /// Starts one, or says why the test is skipped.
    pub fn start() -> Option<Postgres> {
        let Some(programs) = postgres_programs() else {
            println!("skipped: PostgreSQL is not installed (deploy/install-packages.sh test)");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let postgres = Postgres { directory, programs };
        if is_root() {
            postgres.run(Command::new("chown").arg(user()).arg(postgres.directory.path()));
        }
        let data = postgres.data();
        let mut initdb = postgres.program("initdb");
        initdb.arg("-D").arg(&data);
        postgres.run(initdb.args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]));
        postgres.start_again();
        Some(postgres)
    }

    pub fn start_again(&self) {
        let socket = self.directory.path().display().to_string();
        let options = format!("-c listen_addresses='' -c unix_socket_directories={socket} -F");
        let mut start = self.control();
        start.arg("-l").arg(self.directory.path().join("log"));
        self.run(start.args(["-w", "-o", &options, "start"]));
    }

    /// Ends it and its connections.
    pub fn stop(&self) {
        self.run(self.control().args(["-w", "-m", "fast", "stop"]));
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.directory.path().display())
    }

    /// What it says to a statement.
    pub fn ask(&self, statement: &str) -> String {
        let mut psql = self.program("psql");
        let output = psql
            .arg("-h")
            .arg(self.directory.path())
            .args(["-U", "postgres", "-At", "-c", statement])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn control(&self) -> Command {
        let mut control = self.program("pg_ctl");
        control.arg("-D").arg(self.data());
        control
    }

    /// PostgreSQL does not run as root.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", user(), "--clear-groups", "--"]).arg(program);
        command
    }

    fn run(&self, command: &mut Command) {
        let command = command.stdout(Stdio::null()).current_dir("/");
        assert!(command.status().unwrap().success(), "{command:?}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.control();
        let stop = stop.args(["-w", "-m", "immediate", "stop"]).current_dir("/");
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Redis {
    /// Starts one, or says why the test is skipped.
    pub fn start() -> Option<Redis> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            println!("skipped: Redis is not installed (deploy/install-packages.sh test)");
            return None;
        }
        // Redis cannot be asked for any free port: one that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis = Redis { directory: tempfile::tempdir().unwrap(), port, child: None };
        redis.start_again();
        Some(redis)
    }

    pub fn start_again(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", ""]);
        command.arg("--dir").arg(self.directory.path());
        self.child = Some(command.stdout(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "Redis does not listen on port {}", self.port);
            std::thread::yield_now();
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whom it runs as where the tests run as root.
fn user() -> &'static str {
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if known.lines().any(|line| line.starts_with("postgres:")) { "postgres" } else { "nobody" }
}

/// Debian keeps them beside the path, each version apart.
fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    all.extend(["/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    all.into_iter().find(|path| ["initdb", "pg_ctl", "psql"].iter().all(|name| has(path, name)))
}

fn has(path: &Path, name: &str) -> bool {
    path.join(name).is_file()
}
