//! A connection to Redis for each thread, on the thread's ring. Commands are sent as they come,
//! without waiting for the replies to those before; replies come in the same order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;
use percent_encoding::percent_decode_str;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::{OwnedFrame, Resp2Frame as _};

use super::super::reply::now_ms;
use crate::net::{Address, Stream};

/// How long connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// The first pause before connecting is tried again; each is twice the one before.
const PAUSE_MIN_MS: u64 = 50;
/// The longest.
const PAUSE_MAX_MS: u64 = 2000;
/// Commands without a reply at most. Redis is too slow then, or does not answer at all.
const UNANSWERED_MAX: usize = 1024;
/// Bytes of commands that are not sent yet at most.
const UNSENT_BYTES_MAX: usize = 8 << 20;

/// Where Redis is, and who we are there.
pub(super) struct Server {
    place: Place,
    user: Option<String>,
    password: Option<String>,
    database: u32,
}

#[derive(Debug)]
enum Place {
    Name(String, u16),
    Unix(PathBuf),
}

/// This thread's connection.
#[derive(Clone)]
pub(super) struct Redis(Rc<RefCell<Connection>>);

struct Connection {
    server: Weak<Server>,
    /// A task drives it.
    driven: bool,
    unsent: Vec<u8>,
    /// Who waits for the replies, in order; nobody for some.
    unanswered: VecDeque<Option<oneshot::Sender<OwnedFrame>>>,
    /// Of the task.
    driver: Option<Waker>,
    pause_ms: u64,
    /// It is not tried before.
    away_until_ms: u64,
}

thread_local! {
    static CONNECTIONS: RefCell<Vec<Redis>> = const { RefCell::new(Vec::new()) };
}

impl Server {
    pub(super) fn parse(url: &str) -> io::Result<Server> {
        let wrong = |why: &str| {
            let form = "redis://[user:password@]host[:port][/database] or unix:/path";
            let why = format!("the URL of Redis: {why}; it has the form {form}");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        };
        if let Some(path) = url.strip_prefix("unix:") {
            let place = Place::Unix(path.into());
            return Ok(Server { place, user: None, password: None, database: 0 });
        }
        let rest = url.strip_prefix("redis://").ok_or_else(|| wrong("no such scheme"))?;
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| wrong("the database is a number"))?,
        };
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong("the port is a number"))?)
            }
            _ => (authority, 6379),
        };
        if host.is_empty() {
            return Err(wrong("no host"));
        }
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = match credentials.map(|both| both.split_once(':')) {
            None => (None, None),
            Some(None) => return Err(wrong("a user without a password")),
            Some(Some((user, password))) => {
                (Some(user).filter(|user| !user.is_empty()).map(decoded), Some(decoded(password)))
            }
        };
        Ok(Server { place: Place::Name(host.to_owned(), port), user, password, database })
    }

    async fn connect(&self) -> io::Result<Stream> {
        match &self.place {
            Place::Name(host, port) => Stream::connect_to(CONNECT_MAX, host, *port).await,
            Place::Unix(path) => {
                Stream::connect_within(CONNECT_MAX, &Address::Unix(path.clone())).await
            }
        }
    }

    /// What a connection begins with, and how many replies come to it.
    fn greeting(&self) -> (Vec<u8>, usize) {
        let (mut out, mut count) = (Vec::new(), 0);
        if let Some(password) = &self.password {
            let mut auth: Vec<&[u8]> = vec![b"AUTH"];
            auth.extend(self.user.as_ref().map(|user| user.as_bytes()));
            auth.push(password.as_bytes());
            encode(&mut out, &auth);
            count += 1;
        }
        if self.database != 0 {
            encode(&mut out, &[b"SELECT", self.database.to_string().as_bytes()]);
            count += 1;
        }
        (out, count)
    }
}

impl Redis {
    /// The connection of this thread to that server.
    pub(super) fn of(server: &Arc<Server>) -> Redis {
        CONNECTIONS.with_borrow_mut(|all| {
            let is = |redis: &&Redis| redis.0.borrow().server.as_ptr() == Arc::as_ptr(server);
            if let Some(redis) = all.iter().find(is) {
                return redis.clone();
            }
            // Those of caches that are gone.
            all.retain(|redis| redis.0.borrow().server.strong_count() > 0);
            let redis = Redis(Rc::new(RefCell::new(Connection {
                server: Arc::downgrade(server),
                driven: false,
                unsent: Vec::new(),
                unanswered: VecDeque::new(),
                driver: None,
                pause_ms: PAUSE_MIN_MS,
                away_until_ms: 0,
            })));
            all.push(redis.clone());
            redis
        })
    }

    /// The reply to a command.
    pub(super) async fn ask(&self, command: &[&[u8]]) -> io::Result<OwnedFrame> {
        let (sender, receiver) = oneshot::channel();
        if !self.send(command, Some(sender)) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "Redis is away"));
        }
        match receiver.await {
            Ok(OwnedFrame::Error(error)) => Err(io::Error::other(format!("Redis: {error}"))),
            Ok(frame) => Ok(frame),
            Err(_) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "Redis went away")),
        }
    }

    /// Sends a command whose reply nobody waits for.
    pub(super) fn tell(&self, command: &[&[u8]]) {
        self.send(command, None);
    }

    fn send(&self, command: &[&[u8]], answer: Option<oneshot::Sender<OwnedFrame>>) -> bool {
        let mut connection = self.0.borrow_mut();
        let full = connection.unanswered.len() >= UNANSWERED_MAX
            || connection.unsent.len() >= UNSENT_BYTES_MAX;
        if full || (!connection.driven && now_ms() < connection.away_until_ms) {
            return false;
        }
        encode(&mut connection.unsent, command);
        connection.unanswered.push_back(answer);
        if let Some(driver) = connection.driver.take() {
            driver.wake();
        }
        if !std::mem::replace(&mut connection.driven, true) {
            drop(connection);
            drop(crate::spawn(self.clone().drive()));
        }
        true
    }

    async fn drive(self) {
        // However it ends, whoever waits is told by the drop of the sender.
        let failed = self.converse().await;
        let mut connection = self.0.borrow_mut();
        connection.driven = false;
        connection.unsent.clear();
        let waiting = std::mem::take(&mut connection.unanswered);
        if failed.is_err() {
            connection.away_until_ms = now_ms() + connection.pause_ms;
            connection.pause_ms = (connection.pause_ms * 2).min(PAUSE_MAX_MS);
        }
        drop(connection);
        drop(waiting);
    }

    /// Connects, and carries commands and replies until the connection breaks.
    async fn converse(&self) -> io::Result<()> {
        let server = self.0.borrow().server.upgrade();
        let server = server.ok_or(io::ErrorKind::NotConnected)?;
        let mut stream = server.connect().await?;
        let (greeting, mut greeted) = server.greeting();
        drop(server);
        stream.send(greeting).await?;
        poll_fn(|cx| {
            self.poll_send(&mut stream, cx)?;
            self.poll_replies(&mut stream, &mut greeted, cx)
        })
        .await
    }

    fn poll_send(&self, stream: &mut Stream, cx: &mut Context<'_>) -> io::Result<()> {
        let mut connection = self.0.borrow_mut();
        if connection.unsent.is_empty() {
            connection.driver = Some(cx.waker().clone());
        } else if let Poll::Ready(writable) = stream.poll_writable(cx) {
            writable?;
            stream.start_send(std::mem::take(&mut connection.unsent).into(), false);
            connection.driver = Some(cx.waker().clone());
        }
        Ok(())
    }

    /// Gives replies to those who wait, until there is no more for now.
    fn poll_replies(
        &self,
        stream: &mut Stream,
        greeted: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let decoded = decode(&stream.buffer()).map_err(io::Error::other)?;
            let Some((frame, len)) = decoded else {
                let before = stream.buffer().len();
                match std::task::ready!(stream.poll_fill(cx, before))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    _ => continue,
                }
            };
            stream.consume(len);
            if *greeted > 0 {
                *greeted -= 1;
                if let OwnedFrame::Error(error) = frame {
                    return Poll::Ready(Err(io::Error::other(error)));
                }
                continue;
            }
            let mut connection = self.0.borrow_mut();
            connection.pause_ms = PAUSE_MIN_MS;
            let waiting = connection.unanswered.pop_front();
            drop(connection);
            match waiting {
                // Whoever asked may be gone.
                Some(answer) => _ = answer.map(|answer| answer.send(frame)),
                None => return Poll::Ready(Err(io::Error::other("a reply to no command"))),
            }
        }
    }
}

/// A command as an array of strings.
fn encode(out: &mut Vec<u8>, command: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for part in command {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// A string.
pub(super) fn text(frame: OwnedFrame) -> Option<Vec<u8>> {
    match frame {
        OwnedFrame::BulkString(bytes) | OwnedFrame::SimpleString(bytes) => Some(bytes),
        _ => None,
    }
}

/// A count.
pub(super) fn number(frame: OwnedFrame) -> io::Result<usize> {
    match frame {
        OwnedFrame::Integer(count) => Ok(usize::try_from(count).unwrap_or(0)),
        other => Err(unexpected(&other)),
    }
}

/// A cursor and keys, as SCAN gives them.
pub(super) fn page(frame: OwnedFrame) -> io::Result<(Vec<u8>, Vec<Vec<u8>>)> {
    if let OwnedFrame::Array(parts) = &frame
        && let [OwnedFrame::BulkString(cursor), OwnedFrame::Array(keys)] = &parts[..]
    {
        return Ok((cursor.clone(), keys.iter().cloned().filter_map(text).collect()));
    }
    Err(unexpected(&frame))
}

fn unexpected(frame: &OwnedFrame) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("Redis gave {:?}", frame.kind()))
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password.
        f.debug_struct("Server")
            .field("place", &self.place)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let full = Server::parse("redis://me:p%40ss@[::1]:6380/3").unwrap();
        assert!(matches!(&full.place, Place::Name(host, 6380) if host == "[::1]"));
        assert_eq!(full.user.as_deref(), Some("me"));
        assert_eq!(full.password.as_deref(), Some("p@ss"));
        let (greeting, count) = full.greeting();
        assert_eq!(count, 2);
        let auth = "*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$4\r\np@ss\r\n";
        let select = "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
        assert_eq!(greeting, [auth, select].concat().as_bytes());
        assert!(!format!("{full:?}").contains("ss"), "passwords are not for logs");
        let short = Server::parse("redis://cache").unwrap();
        assert!(matches!(&short.place, Place::Name(host, 6379) if host == "cache"));
        assert!(matches!(Server::parse("unix:/run/r").unwrap().place, Place::Unix(_)));
        for wrong in ["rediss://a", "redis://", "redis://a:b", "redis://a/b", "redis://u@a"] {
            assert!(Server::parse(wrong).is_err(), "{wrong}");
        }
    }
}
