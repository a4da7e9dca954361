//! Upstream servers of a test's own: threads over plain sockets that do just what they are told.
#![allow(dead_code, reason = "each test program uses some of it")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::common::PATIENCE;

/// A request as it came, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) head: String,
    /// With its framing.
    pub(crate) body: Vec<u8>,
    /// The number of its connection.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field.
    pub(crate) fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }
}

/// What an upstream does with a request.
pub(crate) enum Act {
    /// Sends these bytes and goes on with the connection.
    Say(Vec<u8>),
    /// Sends these bytes and ends the connection.
    SayAndClose(Vec<u8>),
    /// Sends these bytes and then nothing, until the other side ends the connection.
    SayAndStall(Vec<u8>),
    /// Does as it likes with the connection.
    Take(Box<dyn FnOnce(TcpStream) + Send>),
}

/// A server; it ends with the test.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Log>,
    connections: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Log {
    list: Mutex<Vec<Seen>>,
    news: Condvar,
}

/// A reply of known length.
pub(crate) fn reply(status: u16, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

impl Upstream {
    /// A server that acts on each request by itself.
    pub(crate) fn start(act: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), act)
    }

    /// The same on a socket that is bound already.
    pub(crate) fn on(
        listener: TcpListener,
        act: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::<Log>::default(), Arc::<AtomicUsize>::default());
        let (log, count, act) = (Arc::clone(&seen), Arc::clone(&connections), Arc::new(act));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, act) = (Arc::clone(&log), Arc::clone(&act));
                let number = count.fetch_add(1, Ordering::SeqCst);
                let serve = move || drop(serve(stream, number, &log, &*act));
                thread::Builder::new().stack_size(256 << 10).spawn(serve).unwrap();
            }
        });
        Self { address, seen, connections }
    }

    /// A server that gives everybody this reply.
    pub(crate) fn saying(reply: Vec<u8>) -> Self {
        Self::start(move |_| Act::Say(reply.clone()))
    }

    /// How many connections were made to it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The requests that have come.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.list.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many requests have come.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Seen> {
        let deadline = Instant::now() + PATIENCE;
        let mut list = self.seen.list.lock().unwrap_or_else(PoisonError::into_inner);
        while list.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{count} requests never came: {list:#?}");
            list = self.seen.news.wait_timeout(list, left).unwrap().0;
        }
        list.clone()
    }
}

fn serve(
    mut stream: TcpStream,
    connection: usize,
    log: &Log,
    act: &(dyn Fn(&Seen) -> Act + Send + Sync),
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut carry = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut carry)? {
        let seen = Seen { head, body, connection };
        log.list.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        log.news.notify_all();
        match act(&seen) {
            Act::Say(bytes) => stream.write_all(&bytes)?,
            Act::SayAndClose(bytes) => return stream.write_all(&bytes),
            Act::SayAndStall(bytes) => {
                stream.write_all(&bytes)?;
                while stream.read(&mut [0; 1024])? > 0 {}
            }
            Act::Take(take) => {
                take(stream);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// One request by its framing, which a naive reader would find the same way.
fn request(stream: &mut TcpStream, carry: &mut Vec<u8>) -> io::Result<Option<(String, Vec<u8>)>> {
    let head_end = loop {
        if let Some(at) = find(carry, b"\r\n\r\n") {
            break at + 4;
        }
        if !more(stream, carry)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&carry[..head_end]).into_owned();
    carry.drain(..head_end);
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let len = if field("transfer-encoding").is_some() {
        loop {
            if carry.starts_with(b"0\r\n\r\n") {
                break 5;
            }
            if let Some(at) = find(carry, b"\r\n0\r\n\r\n") {
                break at + 7;
            }
            if !more(stream, carry)? {
                return Ok(None);
            }
        }
    } else {
        let len = field("content-length").map_or(0, |value| value.parse().unwrap());
        while carry.len() < len {
            if !more(stream, carry)? {
                return Ok(None);
            }
        }
        len
    };
    Ok(Some((head, carry.drain(..len).collect())))
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn more(stream: &mut TcpStream, carry: &mut Vec<u8>) -> io::Result<bool> {
    let mut some = [0; 16 << 10];
    let count = stream.read(&mut some)?;
    carry.extend_from_slice(&some[..count]);
    Ok(count > 0)
}
