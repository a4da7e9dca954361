//! What the supervisor and its workers say: one line each, on standard error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

/// How a line is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    Info,
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

/// Says what happened.
pub(crate) fn info(line: impl fmt::Display) {
    say(Level::Info, &line);
}

/// Says what somebody should look at.
pub(crate) fn warning(line: impl fmt::Display) {
    say(Level::Warning, &line);
}

/// Says what went wrong.
pub(crate) fn error(line: impl fmt::Display) {
    say(Level::Error, &line);
}

fn say(level: Level, line: &dyn fmt::Display) {
    static READER: OnceLock<Reader> = OnceLock::new();
    let text = render(*READER.get_or_init(reader), level, &line.to_string());
    // One write a message keeps the lines of several processes apart. Nobody is left to tell
    // when it fails.
    let _ = io::stderr().write_all(text.as_bytes());
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

fn render(reader: Reader, level: Level, text: &str) -> String {
    let (number, colour, word) = match level {
        Level::Error => (3, "\x1b[31m", "error: "),
        Level::Warning => (4, "\x1b[33m", "warning: "),
        Level::Info => (6, "", ""),
    };
    let lines = text.lines().enumerate().map(|(at, line)| match (reader, at) {
        (Reader::Journal, _) => format!("<{number}>{line}\n"),
        (Reader::Terminal, 0) if !colour.is_empty() => {
            format!("emberd: {colour}{word}\x1b[0m{line}\n")
        }
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
        let (warn, info) = (Level::Warning, Level::Info);
        assert_eq!(render(Reader::Plain, info, "up"), "emberd: up\n");
        assert_eq!(render(Reader::Plain, warn, "a\nb"), "emberd: warning: a\nb\n");
        assert_eq!(render(Reader::Journal, warn, "a\nb"), "<4>a\n<4>b\n");
        assert_eq!(render(Reader::Terminal, warn, "a"), "emberd: \x1b[33mwarning: \x1b[0ma\n");
    }
}
