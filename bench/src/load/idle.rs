//! Connections that are held open and say nothing.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::Fault;
use super::reply::Reader;
use super::request::Request;
use crate::host::pin;

/// Connections that asked once, were answered, and are kept.
#[derive(Debug)]
pub struct Held {
    streams: Vec<TcpStream>,
}

/// Why the connections could not be had.
#[derive(Debug)]
pub enum IdleError {
    /// The system refused.
    Io(io::Error),
    /// A reply was not the expected one.
    Reply(Fault),
}

impl fmt::Display for IdleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "idle connection: {error}"),
            Self::Reply(fault) => write!(f, "idle connection: a bad reply ({fault})"),
        }
    }
}

impl std::error::Error for IdleError {}

impl From<io::Error> for IdleError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Held {
    /// Opens `count` connections one after another; each asks `request` once, so that the
    /// server holds them as kept-alive ones and not as merely accepted.
    pub fn open(target: SocketAddr, request: &Request, count: usize) -> Result<Self, IdleError> {
        pin::raise_open_files(count as u64 + 1024);
        let mut template = None;
        let mut buffer = vec![0; 64 * 1024];
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream = TcpStream::connect(target)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(&request.bytes)?;
            let mut reader = Reader::default();
            loop {
                let len = stream.read(&mut buffer)?;
                if len == 0 {
                    return Err(IdleError::Reply(Fault::ClosedEarly));
                }
                let (used, reply) = reader
                    .read(&buffer[..len], &request.expect, request.head, &mut template)
                    .map_err(IdleError::Reply)?;
                match reply {
                    Some(_) if used < len => return Err(IdleError::Reply(Fault::Surplus)),
                    Some(_) => break,
                    None => {}
                }
            }
            stream.set_nonblocking(true)?;
            streams.push(stream);
        }
        Ok(Self { streams })
    }

    /// How many connections the server has closed, or written to, in the meantime.
    pub fn lost(&self) -> usize {
        let silent = |stream: &TcpStream| matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.streams.iter().filter(|stream| !silent(stream)).count()
    }

    /// How many connections were opened.
    pub fn count(&self) -> usize {
        self.streams.len()
    }
}
