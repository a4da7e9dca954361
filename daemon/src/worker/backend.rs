//! Which driver a thread runs on, and why.

use std::fs;
use std::io;

use ember_uring::{Epoll, Errno, FeatureState, Info, Uring};

use crate::config::{Backend, Config};

/// A driver, and why it is that one.
pub(crate) enum Opened {
    /// io_uring, as asked for or by default.
    Uring(Box<Uring>),
    /// epoll, as asked for or since io_uring was refused.
    Epoll(Box<Epoll>),
}

/// Opens the driver that the config asks for on the calling thread, for so many connections; says why it is that one, in
/// few enough words for a label.
///
/// # Errors
/// io_uring refused where nothing else was allowed, with the mend; or a refused epoll.
pub(crate) fn open(config: &Config, connections_max: u32) -> io::Result<(Opened, String)> {
    let options = config.driver_options(connections_max);
    let epoll = |why: String| Ok((Opened::Epoll(Box::new(Epoll::new(&options)?)), why));
    match config.ring.backend {
        Backend::Epoll => epoll("asked for".to_owned()),
        Backend::IoUring => match Uring::new(options.clone()) {
            Ok(ring) => Ok((Opened::Uring(Box::new(ring)), "asked for".to_owned())),
            Err(error) => {
                let why = format!("{}; {}", refusal(&error), mend(&error));
                Err(io::Error::new(error.kind(), why))
            }
        },
        Backend::Auto => match Uring::new(options.clone()) {
            Ok(ring) => Ok((Opened::Uring(Box::new(ring)), "available".to_owned())),
            Err(error) => epoll(refusal(&error)),
        },
    }
}

/// The text of the start-up line about a driver.
pub(crate) fn describe(info: &Info, why: &str) -> String {
    let used = info.features.iter().filter(|f| f.state == FeatureState::Used);
    let used: Vec<&str> = used.map(|f| f.name).collect();
    let mut text = format!("{} ({why})", info.backend);
    if !used.is_empty() {
        text.push_str(": ");
        text.push_str(&used.join(", "));
    }
    for feature in &info.features {
        if let FeatureState::Absent { instead } = &feature.state {
            text.push_str(&format!("; no {} ({instead})", feature.name));
        }
    }
    text
}

/// Why io_uring cannot be used: one of a few texts, since it becomes a label.
fn refusal(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => "io_uring is not in this kernel, or a filter hides it".to_owned(),
        Some(Errno::EPERM | Errno::EACCES) => match disabled() {
            Some(value @ ("1" | "2")) => {
                format!("io_uring is refused by kernel.io_uring_disabled = {value}")
            }
            _ => "io_uring is refused by a seccomp filter".to_owned(),
        },
        Some(Errno::ENOMEM) => "io_uring is refused for want of lockable memory".to_owned(),
        Some(errno) => format!("io_uring is refused: {}", errno.desc()),
        None => format!("io_uring cannot be used: {error}"),
    }
}

/// What to do about it.
fn mend(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EPERM | Errno::EACCES) => {
            "allow it (`sysctl kernel.io_uring_disabled=0`, or the container's seccomp profile), \
             or let `--backend auto` fall back to epoll"
        }
        Some(Errno::ENOMEM) => {
            "raise the limit (`ulimit -l`, or LimitMEMLOCK= of the unit), take fewer buffers \
             (`ring.profile = \"low-rss\"`), or let `--backend auto` fall back to epoll"
        }
        _ => "use Linux 6.1 or newer, or let `--backend auto` fall back to epoll",
    }
}

fn disabled() -> Option<&'static str> {
    let value = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    ["0", "1", "2"].into_iter().find(|known| *known == value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_why_and_what_to_do() {
        for (errno, word, remedy) in [
            (Errno::ENOSYS, "kernel", "6.1"),
            (Errno::EPERM, "refused by", "io_uring_disabled"),
            (Errno::ENOMEM, "lockable memory", "ulimit -l"),
            (Errno::EINVAL, "Invalid argument", "epoll"),
        ] {
            let error = io::Error::from(errno);
            assert!(refusal(&error).contains(word), "{}", refusal(&error));
            assert!(mend(&error).contains(remedy), "{}", mend(&error));
        }
    }
}
