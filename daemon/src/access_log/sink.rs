//! Where lines go.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// The longest datagram that is sent; the kernel's default limit is a little over 200 KiB.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// An open destination. A worker opens it before it gives up its privileges; a reload starts new
/// workers, which open it anew, so that a file that was moved away is let go of.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Standard output.
    Stdout(io::Stdout),
    /// A file, appended to.
    File(std::fs::File),
    /// A unix datagram socket, one line a datagram.
    Datagram(UnixDatagram),
}

impl Sink {
    /// Opens what the config names: `-`, `unix:/path`, or a file.
    ///
    /// # Errors
    /// With the path, when it cannot be opened.
    pub(crate) fn open(path: &str) -> io::Result<Sink> {
        let tell = |error: io::Error| {
            io::Error::new(error.kind(), format!("log.access.path: cannot open {path}: {error}"))
        };
        if path == "-" {
            return Ok(Sink::Stdout(io::stdout()));
        }
        if let Some(socket) = path.strip_prefix("unix:") {
            let datagram = UnixDatagram::unbound().map_err(tell)?;
            datagram.connect(socket).map_err(tell)?;
            return Ok(Sink::Datagram(datagram));
        }
        let file = OpenOptions::new().append(true).create(true).open(Path::new(path));
        file.map(Sink::File).map_err(tell)
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        match self {
            Sink::Stdout(out) => {
                let mut out = out.lock();
                out.write_all(lines).and_then(|()| out.flush())
            }
            // One write for all: lines of several workers do not mix in a file that is appended
            // to (open(2), O_APPEND).
            Sink::File(file) => file.write_all(lines),
            Sink::Datagram(socket) => {
                for line in lines.split_inclusive(|&byte| byte == b'\n') {
                    let line = line.strip_suffix(b"\n").unwrap_or(line);
                    socket.send(&line[..line.len().min(DATAGRAM_BYTES_MAX)])?;
                }
                Ok(())
            }
        }
    }
}
