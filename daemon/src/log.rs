//! What the supervisor and its workers say while they serve, on standard error.
//!
//! Everything is said by the macros of `tracing`; nothing in the way of a request says anything.
//! A sentence has all that its fields have, so that people read the sentence and programs the
//! fields. A program that has set a subscriber of its own before `emberd::run` keeps it.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, fmt as lines, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// The way to change the level; none where the program has a subscriber of its own.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// The level in force, as its place in [`LEVELS`].
static LEVEL_NOW: AtomicU8 = AtomicU8::new(2);

/// Whether lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

const LEVELS: [LogLevel; 5] =
    [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];

/// Begins to write what is said, as text and from `info` on until a config says otherwise.
pub(crate) fn begin() {
    let (level, handle) = reload::Layer::new(LevelFilter::INFO);
    let written = lines::layer()
        .fmt_fields(JsonFields::new())
        .event_format(Lines::new(reader()))
        // Nobody is left to tell when it fails.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    if tracing_subscriber::registry().with(level).with(written).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Does as the config says.
pub(crate) fn follow(log: &Log) {
    JSON.store(log.format == LogFormat::Json, Ordering::Relaxed);
    set_level(log.level);
}

/// Changes what is worth a line.
pub(crate) fn set_level(level: LogLevel) {
    let place = LEVELS.iter().position(|it| *it == level).unwrap_or(2);
    LEVEL_NOW.store(u8::try_from(place).unwrap_or(2), Ordering::Relaxed);
    let filter = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    if let Some(handle) = LEVEL.get() {
        // It fails where the subscriber is gone, which is never while this process lives.
        let _ = handle.reload(filter);
    }
}

/// What is worth a line now.
pub(crate) fn level() -> LogLevel {
    LEVELS[usize::from(LEVEL_NOW.load(Ordering::Relaxed))]
}

/// Who reads standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// A person: the level in colour.
    Terminal,
    /// journald, which takes the level from a number in front (sd-daemon(3)).
    Journal,
    /// A file or a pipe.
    Plain,
}

fn reader() -> Reader {
    if io::stderr().is_terminal() {
        return Reader::Terminal;
    }
    // The journal gives the device and inode of the stream, so that a redirected standard error
    // is not taken for it (systemd.exec(5)).
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let ours = nix::sys::stat::fstat(io::stderr());
    match ours {
        Ok(ours) if stream == format!("{}:{}", ours.st_dev, ours.st_ino) => Reader::Journal,
        _ => Reader::Plain,
    }
}

/// The two formats. Each event is one write, which keeps the lines of several processes apart.
struct Lines {
    reader: Reader,
    colour: bool,
    json: Format<Json>,
}

impl Lines {
    fn new(reader: Reader) -> Self {
        let colour = reader == Reader::Terminal && std::env::var_os("NO_COLOR").is_none();
        let json = lines::format().json().flatten_event(true);
        let json = json.with_current_span(false).with_span_list(false);
        Self { reader, colour, json }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if JSON.load(Ordering::Relaxed) {
            if self.reader == Reader::Journal {
                write!(writer, "<{}>", priority(level))?;
            }
            return self.json.format_event(context, writer, event);
        }
        let mut sentence = Sentence { text: String::new(), fields: String::new() };
        event.record(&mut sentence);
        let Sentence { mut text, fields } = sentence;
        if !is_ours(event.metadata().target()) {
            text.push_str(&fields);
        }
        writer.write_str(&render(self.reader, self.colour, level, &text))
    }
}

/// Whether the event is of this crate, whose sentences say what the fields do.
fn is_ours(target: &str) -> bool {
    let this_crate = env!("CARGO_CRATE_NAME");
    target.strip_prefix(this_crate).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The message of an event and its other fields as text.
struct Sentence {
    text: String,
    fields: String,
}

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// The number of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn render(reader: Reader, colour: bool, level: Level, text: &str) -> String {
    let (paint, word) = match level {
        Level::ERROR => ("\x1b[31m", "error: "),
        Level::WARN => ("\x1b[33m", "warning: "),
        Level::INFO => ("", ""),
        Level::DEBUG => ("\x1b[2m", "debug: "),
        Level::TRACE => ("\x1b[2m", "trace: "),
    };
    let lines = text.lines().enumerate().map(|(at, line)| match (reader, at) {
        (Reader::Journal, _) => format!("<{}>{line}\n", priority(level)),
        (_, 0) if colour && !paint.is_empty() => format!("emberd: {paint}{word}\x1b[0m{line}\n"),
        (_, 0) => format!("emberd: {word}{line}\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_the_level_in_its_own_way() {
        let (warn, info) = (Level::WARN, Level::INFO);
        assert_eq!(render(Reader::Plain, false, info, "up"), "emberd: up\n");
        assert_eq!(render(Reader::Plain, false, warn, "a\nb"), "emberd: warning: a\nb\n");
        assert_eq!(render(Reader::Journal, false, warn, "a\nb"), "<4>a\n<4>b\n");
        let coloured = "emberd: \x1b[33mwarning: \x1b[0ma\n";
        assert_eq!(render(Reader::Terminal, true, warn, "a"), coloured);
        assert_eq!(render(Reader::Terminal, false, warn, "a"), "emberd: warning: a\n");
    }

    #[test]
    fn fields_are_shown_where_the_sentence_may_not_have_them() {
        assert!(is_ours("emberd") && is_ours("emberd::supervisor::run"));
        assert!(!is_ours("emberd_shop") && !is_ours("shop"));
    }
}
