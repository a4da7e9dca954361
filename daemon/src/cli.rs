//! The command line. What a command does is in the module of its name; here is how it is typed
//! and how it fails.

// Doc comments here are help texts: what stands in brackets is a variable's name, no link.
#![allow(rustdoc::broken_intra_doc_links)]

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::{self, Loaded, LogLevel, Report, Sources};
use crate::supervisor::Request;
use crate::tune::{self, TuneCommand};
use crate::{control, doctor, explain, routes, supervisor, top};

/// A run-time failure.
pub const EXIT_FAILURE: u8 = 1;
/// The config is refused (EX_CONFIG of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// What is typed.
#[derive(Debug, Parser)]
#[command(name = "emberd", version, about, max_term_width = 100)]
#[command(after_help = "Each option is a config key and an EMBERD_ variable too: the option goes \
                        over the variable, and that over the file.")]
pub struct Cli {
    /// What to do; none: run.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve; what happens without a command, too
    Run(ConfigArgs),
    /// Say everything that is wrong with the config, and end
    Check(CheckArgs),
    /// Let the running server read its config again; a bad one is refused and changes nothing
    Reload(ConfigArgs),
    /// Let the running server finish what it has begun, and end
    Drain(ConfigArgs),
    /// Let the running server change over to the program that is installed now
    Upgrade(ConfigArgs),
    /// Print the running server's generations, workers and connections
    Status(JsonArgs),
    /// Print the level of the running server's log, or change it until the next reload
    Log {
        /// What is worth a line from now on
        level: Option<LogLevel>,
        /// Where the config comes from.
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Show the running server live: workers, routes, rates, latencies, chains, connections
    Top(TopArgs),
    /// Print what this host gives, and how to mend what it lacks
    Doctor(JsonArgs),
    /// Ready the kernel and the NIC for serving, show what that means, or take it back
    #[command(subcommand)]
    Tune(TuneCommand),
    /// Print what is served, where, and how
    Routes(JsonArgs),
    /// Print which route answers a request, by which path, or why none does
    Explain {
        /// GET, POST and so on
        method: String,
        /// A path, or a URL whose port chooses the listener
        url: String,
        /// How to print it, and the config
        #[command(flatten)]
        args: JsonArgs,
    },
    /// Print the config in force, a schema for editors, or a file to begin with
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page, or write the pages of all commands into a folder
    Man {
        /// The folder
        folder: Option<PathBuf>,
    },
    /// Print the version
    Version,
}

/// `emberd config`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print what is in force and where each value came from
    Dump {
        /// Where the config comes from.
        #[command(flatten)]
        config: ConfigArgs,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
    /// Print the JSON Schema of the config, which editors use
    Schema,
    /// Print a commented config to begin with, or write it to a new file
    Init {
        /// The file
        file: Option<PathBuf>,
    },
    /// Print the reference of all keys, docs/config.md
    #[command(hide = true)]
    Reference,
}

/// A command that prints for people or as JSON.
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `emberd top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Print what one interval shows, and end
    #[arg(long)]
    pub once: bool,
    /// How often to look, such as 500ms; at least 100ms
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub interval: Duration,
}

/// Where the config comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// The config file; - for standard input [EMBERD_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one key of the config, such as limits.idle_timeout=60s
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The I/O driver: auto, io_uring or epoll [EMBERD_BACKEND]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Worker processes [EMBERD_WORKERS]
    #[arg(long, value_name = "N|auto")]
    pub workers: Option<String>,
    /// Threads of each worker [EMBERD_THREADS]
    #[arg(long, value_name = "N|auto")]
    pub threads: Option<String>,
    /// Address of the first listener [EMBERD_LISTEN]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// What is worth a line of the log: error, warn, info, debug or trace [EMBERD_LOG]
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Tune the host before the workers start (as root) [EMBERD_TUNE]
    #[arg(long)]
    pub tune: bool,
}

/// `emberd check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Where the config comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Fail on what is legal but unwise, too
    #[arg(long)]
    pub deny_warnings: bool,
    /// How to print what was found
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub format: Format,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// Why a command ends badly.
#[derive(Debug)]
pub enum Failure {
    /// The config is refused.
    Config(Box<Report>),
    /// Anything else, in words.
    Other(String),
    /// What is wrong has been printed.
    Said,
}

impl ConfigArgs {
    /// These, and what was given before the command.
    pub(crate) fn over(self, outer: &Self) -> Self {
        Self {
            config: self.config.or_else(|| outer.config.clone()),
            set: outer.set.iter().cloned().chain(self.set).collect(),
            backend: self.backend.or_else(|| outer.backend.clone()),
            workers: self.workers.or_else(|| outer.workers.clone()),
            threads: self.threads.or_else(|| outer.threads.clone()),
            listen: self.listen.or_else(|| outer.listen.clone()),
            log: self.log.or_else(|| outer.log.clone()),
            tune: self.tune || outer.tune,
        }
    }

    /// The sources that they name, with the environment of this process.
    pub fn sources(&self) -> Sources {
        let environment = Sources::environment();
        let named = || environment.get("EMBERD_CONFIG").filter(|path| !path.is_empty());
        let file = self.config.clone().or_else(|| named().map(PathBuf::from));
        let tune = self.tune.then(|| "true".to_owned());
        let flags = [
            ("--backend", &self.backend),
            ("--workers", &self.workers),
            ("--threads", &self.threads),
            ("--listen", &self.listen),
            ("--log", &self.log),
            ("--tune", &tune),
        ];
        let flags = flags.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        Sources { file, set: self.set.clone(), flags: flags.collect(), environment }
    }

    /// Loads the config, and tells warnings.
    ///
    /// # Errors
    /// Where the config is refused.
    pub fn load(&self) -> Result<Loaded, Failure> {
        let loaded = config::load(&self.sources()).map_err(Box::new).map_err(Failure::Config)?;
        if loaded.warnings.warnings() > 0 {
            tell(&loaded.warnings);
        }
        Ok(loaded)
    }
}

impl Cli {
    /// Where the config of `emberd run` comes from, with the arguments of this process.
    pub fn sources_to_run() -> Sources {
        let Self { command, config: outer } = Self::parse();
        match command {
            Some(Command::Run(args)) => args.over(&outer).sources(),
            _ => outer.sources(),
        }
    }

    /// Does what was typed; `serve` is what workers do.
    pub fn execute(self, serve: supervisor::Serve) -> ExitCode {
        let outer = self.config;
        let done = match self.command.unwrap_or(Command::Run(ConfigArgs::default())) {
            Command::Run(args) => match args.over(&outer).sources() {
                // It is read again on each reload.
                Sources { file: Some(file), .. } if file.as_os_str() == "-" => Err(Failure::Other(
                    "a server's config must be a file; `emberd check -c -` reads standard input"
                        .to_owned(),
                )),
                sources => return supervisor::run(sources, serve),
            },
            Command::Check(CheckArgs { config, deny_warnings, format }) => {
                return check(&config.over(&outer), deny_warnings, format);
            }
            Command::Reload(args) => control::ask(&args.over(&outer), Request::Reload, false),
            Command::Drain(args) => control::ask(&args.over(&outer), Request::Drain, false),
            Command::Upgrade(args) => control::ask(&args.over(&outer), Request::Upgrade, false),
            Command::Log { level, config } => {
                control::ask(&config.over(&outer), Request::Log { level }, false)
            }
            Command::Status(JsonArgs { config, json }) => {
                control::ask(&config.over(&outer), Request::Status, json)
            }
            Command::Top(TopArgs { config, once, interval }) => {
                top::run(&config.over(&outer), once, interval)
            }
            Command::Doctor(JsonArgs { config, json }) => doctor::run(&config.over(&outer), json),
            Command::Tune(command) => match tune::execute(command, &outer) {
                Ok(code) => return code,
                Err(failure) => Err(failure),
            },
            Command::Routes(JsonArgs { config, json }) => {
                config.over(&outer).load().and_then(|Loaded { config, .. }| {
                    say(&if json { routes::json(&config) } else { routes::human(&config) })
                })
            }
            Command::Explain { method, url, args: JsonArgs { config, json } } => {
                explain::run(&config.over(&outer), &method, &url, json)
            }
            Command::Config(command) => config_command(command, &outer),
            Command::Completions { shell } => completions(shell),
            Command::Man { folder } => man(folder),
            Command::Version => say(&format!("emberd {}\n", env!("CARGO_PKG_VERSION"))),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Config(report)) => {
                tell(&report);
                ExitCode::from(EXIT_CONFIG)
            }
            Err(Failure::Said) => ExitCode::from(EXIT_FAILURE),
            Err(Failure::Other(why)) => {
                eprintln!("emberd: {why}");
                ExitCode::from(EXIT_FAILURE)
            }
        }
    }
}

/// A time between two looks.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3600);
    let far_off = || "must be from 100ms to 1h".to_owned();
    bounds.contains(&interval).then_some(interval).ok_or_else(far_off)
}

/// Prints a report for people, in colour on a terminal.
fn tell(report: &Report) {
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    eprintln!("{}", report.human(color));
}

/// Prints on standard output; that nobody reads it is no failure.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Other(format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

fn config_command(command: ConfigCommand, outer: &ConfigArgs) -> Result<(), Failure> {
    match command {
        ConfigCommand::Dump { config, format } => {
            let dump = config::dump(&config.over(outer).sources(), format == Format::Json);
            say(dump.map_err(Box::new).map_err(Failure::Config)?.trim_end())?;
            say("\n")
        }
        ConfigCommand::Schema => say(&config::schema()),
        ConfigCommand::Init { file: None } => say(&config::init()),
        ConfigCommand::Init { file: Some(file) } => {
            let mut options = OpenOptions::new();
            let written = options.write(true).create_new(true).open(&file);
            let written = written.and_then(|mut file| file.write_all(config::init().as_bytes()));
            let failed =
                |error| Failure::Other(format!("cannot write {}: {error}", file.display()));
            written.map_err(failed)?;
            say(&format!("wrote {0}; try: emberd check -c {0}\n", file.display()))
        }
        ConfigCommand::Reference => say(&config::reference()),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "emberd", &mut script);
    say(&String::from_utf8_lossy(&script))
}

fn man(folder: Option<PathBuf>) -> Result<(), Failure> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut page);
        rendered.map_err(|error| Failure::Other(error.to_string()))?;
        return say(&String::from_utf8_lossy(&page));
    };
    let failed = |error| Failure::Other(format!("cannot write to {}: {error}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &folder).map_err(failed)
}

fn check(args: &ConfigArgs, deny_warnings: bool, format: Format) -> ExitCode {
    let loaded = config::load(&args.sources());
    let report = match &loaded {
        Ok(loaded) => &loaded.warnings,
        Err(report) => report,
    };
    let refused = loaded.is_err() || deny_warnings && report.warnings() > 0;
    let said = match format {
        Format::Json => say(&format!("{}\n", report.json())),
        Format::Human => {
            if report.errors() + report.warnings() > 0 {
                tell(report);
            }
            if refused { Ok(()) } else { say("the config is in order\n") }
        }
    };
    match said {
        Ok(()) if refused => ExitCode::from(EXIT_CONFIG),
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}
