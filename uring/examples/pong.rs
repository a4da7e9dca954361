//! The floor: a fixed reply for whatever is asked, over the bare driver.
//!
//!     cargo run --release -p ember-uring --example pong -- [ADDRESS] [linked|unlinked|multishot]
//!         [poll-first|try-first] [close [shutdown]] [armed] [incremental] [wait=US,N] [body=BYTES] [zero-copy] [epoll]
//!
//! With `armed` the reply is there before its request, so ask without pipelining; with `body=BYTES`
//! too, and `zero-copy` sends that without a copy, from registered memory. With `close` each
//! connection has one request, so ask with `Connection: close`.
//! Requests are counted by the length of the first one, so ask the same again and again. When the
//! last connection has closed, it prints what a request has cost and ends.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ember_uring::{
    Completion, Driver, Epoll, Errno, LinkForm, Options, Pinned, Region, Sock, Then, Uring,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Pipelined requests in one receive get this many replies in one send at most.
const REPLIES_MAX: usize = 512;

/// It does not end before this many, so that a client may look whether it is there.
const REQUESTS_MIN: u64 = 1000;

/// How a request is answered.
#[derive(Clone, Copy)]
enum How {
    /// After it was received; and what follows.
    Then(Then),
    /// Ahead of it.
    Armed,
}

#[derive(Clone, Copy, Default)]
struct Connection {
    /// Bytes of an unfinished request.
    partial: usize,
    /// An armed reply went out when the first byte of its request came.
    ahead: bool,
}

struct Pong<D> {
    driver: D,
    how: How,
    replies: Pinned,
    reply_len: usize,
    request_len: usize,
    /// By slot.
    connections: Vec<Connection>,
    requests: u64,
    live: u64,
}

fn main() -> std::io::Result<()> {
    let mut options = Options::default();
    let mut address = "127.0.0.1:8080".to_owned();
    let mut how = How::Then(Then::Recv);
    let mut epoll = false;
    let mut body = None;
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "linked" => options.form = LinkForm::Linked,
            "unlinked" => options.form = LinkForm::Unlinked,
            "multishot" => options.form = LinkForm::Multishot,
            "poll-first" => options.poll_first = true,
            "try-first" => options.poll_first = false,
            "close" => how = How::Then(Then::Close),
            "armed" => how = How::Armed,
            "shutdown" => options.shutdown_last = true,
            "incremental" => options.incremental = true,
            "restrict" => options.restrict = true,
            "epoll" => epoll = true,
            "zero-copy" => options.zero_copy_min = Some(1),
            bytes if bytes.starts_with("body=") => {
                body = Some(bytes[5..].parse().expect("a number of bytes"));
            }
            wait if wait.starts_with("wait=") => {
                let (us, count) = wait[5..].split_once(',').expect("wait=US,N");
                options.min_wait = Duration::from_micros(us.parse().expect("microseconds"));
                options.min_completions = count.parse().expect("a number");
            }
            other => address = other.to_owned(),
        }
    }
    let what = std::env::args().skip(2).collect::<Vec<_>>().join(" ");
    let listener = TcpListener::bind(address)?;
    if epoll {
        serve(Epoll::new(&options)?, listener, (how, body), &what)
    } else {
        serve(Uring::new(options)?, listener, (how, body), &what)
    }
}

fn serve(
    driver: impl Driver,
    listener: TcpListener,
    (how, body): (How, Option<usize>),
    what: &str,
) -> std::io::Result<()> {
    let mut pong = Pong::new(driver, how, body)?;
    pong.driver.accept(OwnedFd::from(listener))?;
    pong.run()?;
    pong.report(what)
}

impl<D: Driver> Pong<D> {
    fn new(mut driver: D, how: How, body: Option<usize>) -> std::io::Result<Pong<D>> {
        let head = "HTTP/1.1 200 OK\r\nServer: pong\r\nDate: Sun, 22 Nov 2026 19:00:00 GMT\r\n";
        let text = body.map_or("Hello, World!".to_owned(), |len| "x".repeat(len));
        let (len, count) = (text.len(), if body.is_some() { 1 } else { REPLIES_MAX });
        let reply =
            format!("{head}Content-Type: text/plain\r\nContent-Length: {len}\r\n\r\n{text}");
        let region = Region::new((reply.len() * count).next_multiple_of(1 << 18))?;
        if body.is_some() {
            // Without the feature it sends all the same.
            let _ = driver.register(&region);
        }
        let replies = region.alloc_from(reply.repeat(count).as_bytes());
        let replies = replies.ok_or(Errno::ENOMEM)?;
        let (reply_len, connections) = (reply.len(), Vec::new());
        Ok(Pong {
            driver,
            how,
            replies,
            reply_len,
            request_len: 0,
            connections,
            requests: 0,
            live: 0,
        })
    }

    fn run(&mut self) -> std::io::Result<()> {
        let mut out = Vec::new();
        while self.live > 0 || self.requests < REQUESTS_MIN {
            self.driver.turn(None, &mut out)?;
            for completion in out.drain(..) {
                self.handle(completion)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn handle(&mut self, completion: Completion) -> std::io::Result<()> {
        match completion {
            Completion::Received { sock, buffer } => {
                let len = buffer.len();
                if self.request_len == 0 {
                    // The first receive may hold several already.
                    let bytes = self.driver.bytes(&buffer);
                    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
                    self.request_len = end.map_or(len, |at| at + 4);
                }
                self.driver.give_back(buffer);
                self.received(sock, len)?;
            }
            Completion::Accepted { sock, .. } => {
                self.live += 1;
                let slots = self.connections.len().max(sock.slot() as usize + 1);
                self.connections.resize(slots, Connection::default());
                match self.how {
                    How::Then(_) => self.driver.recv(sock).map_err(|_| Errno::EBUSY)?,
                    How::Armed => self.arm(sock)?,
                }
            }
            Completion::Ended { sock } | Completion::Failed { sock, .. } => self.driver.close(sock),
            Completion::Closed { sock } => {
                self.live -= 1;
                self.connections[sock.slot() as usize] = Connection::default();
            }
            Completion::AcceptPaused { error, .. } => return Err(error.into()),
            Completion::Sent { sock } => self.arm(sock)?,
            Completion::Peer { .. }
            | Completion::Delivery { .. }
            | Completion::Connected { .. }
            | Completion::Woken => {}
        }
        Ok(())
    }

    #[inline]
    fn received(&mut self, sock: Sock, len: usize) -> std::io::Result<()> {
        let connection = &mut self.connections[sock.slot() as usize];
        let whole = connection.partial + len;
        let count = (whole / self.request_len).min(REPLIES_MAX);
        connection.partial = whole - count * self.request_len;
        self.requests += count as u64;
        let (owed, then) = match self.how {
            How::Then(then) => (count, then),
            How::Armed => (count - usize::from(connection.ahead && count > 0), Then::Nothing),
        };
        connection.ahead &= count == 0;
        if owed > 0 || matches!(self.how, How::Then(_)) {
            let reply = self.replies.slice(..owed * self.reply_len);
            self.driver.send(sock, reply.into(), then).map_err(|_| Errno::EBUSY)?;
        } else if connection.ahead {
            self.driver.recv(sock).map_err(|_| Errno::EBUSY)?;
        } else {
            self.arm(sock)?;
        }
        Ok(())
    }

    /// The next reply goes out with the next byte. Where that continues a request, it is the reply
    /// to that one.
    fn arm(&mut self, sock: Sock) -> std::io::Result<()> {
        let connection = &mut self.connections[sock.slot() as usize];
        connection.ahead = true;
        let reply = self.replies.slice(..self.reply_len);
        Ok(self.driver.arm(sock, reply).map_err(|_| Errno::EBUSY)?)
    }

    fn report(&self, what: &str) -> std::io::Result<()> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let each = |us: i64| us as f64 / self.requests as f64;
        let (user, system) =
            (usage.user_time().num_microseconds(), usage.system_time().num_microseconds());
        let stats = self.driver.stats();
        println!(
            "{what}: {} requests, CPU {:.3} us each (user {:.3}, system {:.3}), \
             {:.1} requests a turn, peak RSS {} KiB",
            self.requests,
            each(user + system),
            each(user),
            each(system),
            self.requests as f64 / stats.enters as f64,
            usage.max_rss(),
        );
        Ok(())
    }
}
