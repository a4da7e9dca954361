//! One thread of the load generator: its connections, its epoll, its clock.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::reply::{Fault, Reader, Template};
use super::request::{Expect, Request};
use super::{Arrivals, Lane, Mode, Options, Outcome, Refill, Times, histogram};

/// Received at once; large, so that pipelined replies and big bodies take few calls.
const SCRATCH_LEN: usize = 256 * 1024;
/// Events taken from one wait.
const EVENTS_MAX: usize = 1024;
/// How often waiting connections are looked over for timeouts.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);
/// epoll waits in whole milliseconds: an open loop spins when the next request is due sooner.
const SPIN_BELOW: Duration = Duration::from_millis(2);
/// How long outstanding replies are waited for after the window.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long a reply too many is looked for at the end.
const SURPLUS_WAIT: Duration = Duration::from_millis(10);

/// What one thread saw.
#[derive(Debug)]
pub(super) struct Tally {
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    unsent: u64,
    reconnects: u64,
    faults: BTreeMap<Fault, u64>,
}

impl Tally {
    fn new() -> Self {
        Self {
            latency: histogram(),
            lateness: histogram(),
            unsent: 0,
            reconnects: 0,
            faults: BTreeMap::new(),
        }
    }

    pub(super) fn add_to(self, outcome: &mut Outcome) {
        outcome.latency.add(&self.latency).expect("histograms of the same bounds");
        outcome.lateness.add(&self.lateness).expect("histograms of the same bounds");
        outcome.unsent += self.unsent;
        outcome.reconnects += self.reconnects;
        for (fault, count) in self.faults {
            *outcome.faults.entry(fault).or_default() += count;
        }
    }
}

/// One kind of request, ready to be written `depth` at a time.
struct Kind {
    block: Vec<u8>,
    request_len: usize,
    head: bool,
    expect: Expect,
    template: Option<Template>,
}

impl Kind {
    fn new(request: &Request, depth: u32) -> Self {
        Self {
            block: request.bytes.repeat(depth as usize),
            request_len: request.bytes.len(),
            head: request.head,
            expect: request.expect.clone(),
            template: None,
        }
    }
}

/// Requests of one kind that were written together and await their replies.
#[derive(Clone, Copy, Debug)]
struct Due {
    kind: usize,
    count: u32,
    /// When they should have been sent; latency counts from here.
    intended: Instant,
    sent: Instant,
}

struct Conn {
    stream: TcpStream,
    reader: Reader,
    due: VecDeque<Due>,
    outstanding: u32,
    /// What the socket did not take yet.
    unsent: Vec<u8>,
    established: bool,
    /// The server closes, or must close, this connection: since when.
    closing: Option<Instant>,
    /// In the list of connections that an open loop may use.
    listed: bool,
}

pub(super) struct Engine<'a> {
    target: SocketAddr,
    mode: Mode,
    depth: u32,
    timeout: Duration,
    faults_max: u64,
    kinds: Vec<Kind>,
    chooser: Chooser,
    lane: &'a Lane,
    poll: Poll,
    /// `None` where a connection ended and was not made again.
    conns: Vec<Option<Conn>>,
    scratch: Vec<u8>,
    pace: Option<Pace>,
    free: VecDeque<usize>,
    window: (Instant, Instant),
    draining: bool,
    outstanding: u64,
    replies: u64,
    bytes: u64,
    faults: u64,
    tally: Tally,
}

impl<'a> Engine<'a> {
    pub(super) fn new(options: &Options, connections: usize, index: usize, lane: &'a Lane) -> Self {
        let now = Instant::now();
        let seed = index as u64 + 1;
        let pace = match options.mode {
            Mode::Open(rate, arrivals) => {
                Some(Pace::new(rate / options.threads as f64, arrivals, seed))
            }
            _ => None,
        };
        Self {
            target: options.target,
            mode: options.mode,
            depth: if options.mode == Mode::Churn { 1 } else { options.depth },
            timeout: options.timeout,
            faults_max: options.faults_max,
            kinds: options.requests.iter().map(|one| Kind::new(one, options.depth)).collect(),
            chooser: Chooser::new(&options.requests, seed),
            lane,
            poll: Poll::new().expect("an epoll instance"),
            conns: (0..connections).map(|_| None).collect(),
            scratch: vec![0; SCRATCH_LEN],
            pace,
            free: VecDeque::with_capacity(connections),
            window: (now, now),
            draining: false,
            outstanding: 0,
            replies: 0,
            bytes: 0,
            faults: 0,
            tally: Tally::new(),
        }
    }

    /// Opens every connection, for the modes that keep theirs.
    pub(super) fn connect(&mut self) {
        if self.mode == Mode::Churn {
            return;
        }
        let until = Instant::now() + self.timeout;
        let mut events = Events::with_capacity(EVENTS_MAX);
        for index in 0..self.conns.len() {
            self.open(index);
            // In step with the server's accepting, so that no backlog overflows.
            if index % 128 == 127 || index + 1 == self.conns.len() {
                while !self.aborted() && self.conns.iter().take(index + 1).any(is_connecting) {
                    self.turn(&mut events, Some(Duration::from_millis(10)));
                    if Instant::now() > until {
                        return self.fault(Fault::Connect, self.faults_max);
                    }
                }
            }
        }
    }

    /// Makes the load until the window's end, then waits for what is outstanding.
    pub(super) fn run(&mut self, times: Times) {
        self.window = (times.window_begin, times.window_end);
        let mut events = Events::with_capacity(EVENTS_MAX);
        self.start(times.start);
        let mut sweep_at = times.start + SWEEP_INTERVAL;
        while !self.aborted() {
            let now = Instant::now();
            if now >= times.window_end && !self.draining {
                self.draining = true;
            }
            if now >= sweep_at {
                self.sweep(now);
                sweep_at = now + SWEEP_INTERVAL;
            }
            // Before the end is looked for: what became due since the last turn is sent too.
            let wait = self.issue_due(now, times.window_end);
            let late = now > times.window_end + DRAIN_MAX;
            if self.draining && (self.outstanding == 0 || late) {
                break;
            }
            self.turn(&mut events, Some(wait));
        }
        if !self.aborted() {
            // A reply too many shows itself only after the last one.
            self.draining = true;
            self.turn(&mut events, Some(SURPLUS_WAIT));
        }
        self.finish();
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    fn aborted(&self) -> bool {
        self.faults >= self.faults_max
    }

    fn start(&mut self, now: Instant) {
        if let Some(pace) = &mut self.pace {
            pace.start(now);
        }
        for index in 0..self.conns.len() {
            match self.mode {
                Mode::Churn => {
                    self.open(index);
                    self.send(index, 1, now);
                }
                Mode::Closed(_) => self.send(index, self.depth, Instant::now()),
                Mode::Open(..) => self.list(index),
            }
        }
    }

    /// Open loop: sends what is due while a connection is free. Gives the time to wait.
    fn issue_due(&mut self, now: Instant, window_end: Instant) -> Duration {
        let left = window_end.saturating_duration_since(now).max(Duration::from_millis(1));
        let Some(pace) = &mut self.pace else { return left.min(SWEEP_INTERVAL) };
        pace.advance(now.min(window_end));
        while let Some(pace) = &mut self.pace
            && let Some(intended) = pace.backlog.front().copied()
            && let Some(index) = self.free.pop_front()
        {
            pace.backlog.pop_front();
            let Some(conn) = &mut self.conns[index] else { continue };
            conn.listed = false;
            let waited_for_a_connection = pace.starved > 0;
            pace.starved = pace.starved.saturating_sub(1);
            if !waited_for_a_connection && self.window.0 <= intended {
                let late = Instant::now().saturating_duration_since(intended);
                self.tally.lateness.saturating_record((late.as_nanos() as u64).max(1));
            }
            self.send(index, 1, intended);
            self.list(index);
        }
        let Some(pace) = &mut self.pace else { return left };
        pace.starved = pace.backlog.len();
        if self.draining {
            return SWEEP_INTERVAL;
        }
        let wait = pace.next.saturating_duration_since(now).min(left);
        if wait < SPIN_BELOW { Duration::ZERO } else { wait - Duration::from_millis(1) }
    }

    /// Puts a connection that can take a request in the open loop's list.
    fn list(&mut self, index: usize) {
        let depth = self.depth;
        if let (Some(conn), true) = (&mut self.conns[index], self.pace.is_some())
            && !conn.listed
            && conn.closing.is_none()
            && conn.outstanding < depth
        {
            conn.listed = true;
            self.free.push_back(index);
        }
    }

    /// One wait, and all that came of it.
    fn turn(&mut self, events: &mut Events, wait: Option<Duration>) {
        match self.poll.poll(events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => panic!("epoll_wait: {error}"),
        }
        for event in events.iter() {
            let index = event.token().0;
            if event.is_writable() {
                self.handle_writable(index);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.handle_readable(index, event.is_read_closed());
            }
        }
        self.lane.replies.store(self.replies, Ordering::Relaxed);
        self.lane.bytes.store(self.bytes, Ordering::Relaxed);
    }

    fn open(&mut self, index: usize) {
        let opened = TcpStream::connect(self.target).and_then(|mut stream| {
            if self.mode != Mode::Churn {
                stream.set_nodelay(true)?;
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), interest)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                self.conns[index] = Some(Conn {
                    stream,
                    reader: Reader::default(),
                    due: VecDeque::new(),
                    outstanding: 0,
                    unsent: Vec::new(),
                    established: false,
                    closing: None,
                    listed: false,
                });
            }
            Err(_) => self.fault(Fault::Connect, 1),
        }
    }

    /// Sends `count` requests of one kind, due since `intended`.
    fn send(&mut self, index: usize, count: u32, intended: Instant) {
        let kind = self.chooser.choose();
        let bytes = &self.kinds[kind].block[..count as usize * self.kinds[kind].request_len];
        let Some(conn) = &mut self.conns[index] else { return };
        conn.due.push_back(Due { kind, count, intended, sent: intended.max(Instant::now()) });
        conn.outstanding += count;
        self.outstanding += u64::from(count);
        if !conn.unsent.is_empty() {
            conn.unsent.extend_from_slice(bytes);
            return;
        }
        match conn.stream.write(bytes) {
            Ok(taken) => conn.unsent.extend_from_slice(&bytes[taken..]),
            Err(error) if is_not_ready(&error) => conn.unsent.extend_from_slice(bytes),
            Err(_) => self.fail(index, Fault::Broken),
        }
    }

    fn handle_writable(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        // A connection for one request is known to be there by its reply: two calls fewer.
        if !conn.established && self.mode != Mode::Churn {
            if !matches!(conn.stream.take_error(), Ok(None)) {
                return self.fail(index, Fault::Connect);
            }
            conn.established = conn.stream.peer_addr().is_ok();
        }
        while !conn.unsent.is_empty() {
            match conn.stream.write(&conn.unsent) {
                Ok(taken) => drop(conn.unsent.drain(..taken)),
                Err(error) if is_not_ready(&error) => return,
                Err(_) => return self.fail(index, Fault::Broken),
            }
        }
    }

    fn handle_readable(&mut self, index: usize, read_closed: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        while let Some(conn) = &mut self.conns[index] {
            match conn.stream.read(&mut scratch) {
                Ok(0) => {
                    self.handle_eof(index);
                    break;
                }
                Ok(len) => {
                    self.bytes += len as u64;
                    conn.established = true;
                    if let Err(fault) = self.handle_bytes(index, &scratch[..len]) {
                        self.fail(index, fault);
                        break;
                    }
                    // Edge-triggered: a short read has emptied the socket (epoll(7)), but an
                    // end that came with it will not be told again.
                    if len < scratch.len() && !read_closed {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_not_ready(&error) => break,
                Err(_) => {
                    let fault = if conn.established { Fault::Broken } else { Fault::Connect };
                    self.fail(index, fault);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    fn handle_bytes(&mut self, index: usize, mut bytes: &[u8]) -> Result<(), Fault> {
        let now = Instant::now();
        let Some(conn) = &mut self.conns[index] else { return Ok(()) };
        let mut answered = 0;
        while !bytes.is_empty() {
            let due = conn.due.front_mut().ok_or(Fault::Surplus)?;
            let kind = &mut self.kinds[due.kind];
            let mut replies = 0;
            while replies < due.count && !bytes.is_empty() {
                let (used, reply) =
                    conn.reader.read(bytes, &kind.expect, kind.head, &mut kind.template)?;
                bytes = &bytes[used..];
                if let Some(reply) = reply {
                    replies += 1;
                    if reply.close && conn.closing.is_none() {
                        conn.closing = Some(now);
                    }
                }
            }
            if replies > 0 && self.window.0 <= due.intended && due.intended < self.window.1 {
                let latency = now.saturating_duration_since(due.intended).as_nanos() as u64;
                self.tally.latency.saturating_record_n(latency.max(1), u64::from(replies));
            }
            due.count -= replies;
            if due.count == 0 {
                conn.due.pop_front();
            }
            answered += replies;
        }
        conn.outstanding -= answered;
        self.outstanding -= u64::from(answered);
        self.replies += u64::from(answered);
        self.go_on(index, answered, now);
        Ok(())
    }

    /// After `answered` replies: what this connection does next.
    fn go_on(&mut self, index: usize, answered: u32, now: Instant) {
        let Some(conn) = &mut self.conns[index] else { return };
        if answered > 0 && self.mode == Mode::Churn {
            conn.closing.get_or_insert(now);
        }
        if answered == 0 || conn.closing.is_some() {
            return;
        }
        match self.mode {
            // What was due within the window is still sent after it.
            Mode::Open(..) => self.list(index),
            _ if self.draining => {}
            Mode::Closed(Refill::Each) => self.send(index, answered, now),
            Mode::Closed(Refill::Batch) if conn.outstanding == 0 => {
                self.send(index, self.depth, now);
            }
            Mode::Closed(Refill::Batch) | Mode::Churn => {}
        }
    }

    fn handle_eof(&mut self, index: usize) {
        let Some(conn) = &self.conns[index] else { return };
        if conn.outstanding > 0 || !conn.reader.between_replies() {
            return self.fail(index, Fault::ClosedEarly);
        }
        self.conns[index] = None;
        if self.mode != Mode::Churn {
            self.tally.reconnects += 1;
        }
        self.reopen(index);
    }

    /// Makes a connection anew that has ended, and puts it to work.
    fn reopen(&mut self, index: usize) {
        if self.draining || self.aborted() {
            return;
        }
        let now = Instant::now();
        self.open(index);
        match self.mode {
            Mode::Open(..) => self.list(index),
            Mode::Closed(_) | Mode::Churn => self.send(index, self.depth, now),
        }
    }

    fn fail(&mut self, index: usize, fault: Fault) {
        self.fault(fault, 1);
        if let Some(conn) = self.conns[index].take() {
            self.outstanding -= u64::from(conn.outstanding);
        }
        self.reopen(index);
    }

    fn fault(&mut self, fault: Fault, count: u64) {
        self.faults += count;
        *self.tally.faults.entry(fault).or_default() += count;
    }

    fn sweep(&mut self, now: Instant) {
        for index in 0..self.conns.len() {
            let Some(conn) = &self.conns[index] else {
                self.reopen(index);
                continue;
            };
            let since = conn.due.front().map(|due| due.sent).or(conn.closing);
            if since.is_some_and(|since| now.saturating_duration_since(since) > self.timeout) {
                self.fail(index, Fault::Timeout);
            }
        }
    }

    /// Counts what never came; an open loop's unsent requests count with the wait they had.
    fn finish(&mut self) {
        if self.outstanding > 0 {
            self.fault(Fault::Unanswered, self.outstanding);
        }
        let now = Instant::now();
        for intended in self.pace.iter_mut().flat_map(|pace| pace.backlog.drain(..)) {
            let waited = now.saturating_duration_since(intended).as_nanos() as u64;
            self.tally.latency.saturating_record(waited.max(1));
            self.tally.unsent += 1;
        }
    }
}

fn is_connecting(conn: &Option<Conn>) -> bool {
    conn.as_ref().is_none_or(|conn| !conn.established)
}

/// Not now; a socket that is still connecting says so in its own way.
fn is_not_ready(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

/// When an open loop's requests are due.
struct Pace {
    interval_s: f64,
    arrivals: Arrivals,
    random: Random,
    next: Instant,
    /// Due, and waiting for a free connection.
    backlog: VecDeque<Instant>,
    /// So many of the oldest waited for a connection, and not for the generator.
    starved: usize,
}

impl Pace {
    fn new(rate: f64, arrivals: Arrivals, seed: u64) -> Self {
        Self {
            interval_s: 1.0 / rate,
            arrivals,
            random: Random(seed),
            next: Instant::now(),
            backlog: VecDeque::new(),
            starved: 0,
        }
    }

    fn start(&mut self, now: Instant) {
        self.next = now;
    }

    /// Moves what has become due by `now` to the backlog.
    fn advance(&mut self, now: Instant) {
        while self.next < now {
            self.backlog.push_back(self.next);
            let intervals = match self.arrivals {
                Arrivals::Even => 1.0,
                Arrivals::Poisson => -(1.0 - self.random.unit()).ln(),
            };
            self.next += Duration::from_secs_f64(self.interval_s * intervals);
        }
    }
}

/// Chooses among the kinds of request by weight.
struct Chooser {
    /// The running sum of the weights.
    bounds: Vec<u32>,
    random: Random,
}

impl Chooser {
    fn new(requests: &[Request], seed: u64) -> Self {
        let sum = |sum: &mut u32, request: &Request| {
            *sum += request.weight;
            Some(*sum)
        };
        Self { bounds: requests.iter().scan(0, sum).collect(), random: Random(seed) }
    }

    fn choose(&mut self) -> usize {
        if self.bounds.len() == 1 {
            return 0;
        }
        let total = f64::from(self.bounds[self.bounds.len() - 1]);
        let point = (self.random.unit() * total) as u32;
        self.bounds.partition_point(|&bound| bound <= point).min(self.bounds.len() - 1)
    }
}

/// SplitMix64: the same numbers in every run.
struct Random(u64);

impl Random {
    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_arrivals_keep_the_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(1000.0, Arrivals::Even, 1);
        pace.start(start);
        pace.advance(start + Duration::from_secs(1));
        assert_eq!(pace.backlog.len(), 1000);
        assert_eq!(pace.backlog[1] - pace.backlog[0], Duration::from_millis(1));
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_on_average_and_vary() {
        let start = Instant::now();
        let mut pace = Pace::new(10_000.0, Arrivals::Poisson, 7);
        pace.start(start);
        pace.advance(start + Duration::from_secs(10));
        assert!((99_000..101_000).contains(&pace.backlog.len()), "{}", pace.backlog.len());
        let gaps: Vec<_> =
            (1..1000).map(|index| pace.backlog[index] - pace.backlog[index - 1]).collect();
        let longer = gaps.iter().filter(|gap| gap.as_nanos() > 100_000).count();
        // A third of exponential gaps (1/e) are longer than their mean.
        assert!((300..440).contains(&longer), "{longer} of 999");
    }

    #[test]
    fn kinds_are_chosen_by_weight() {
        let request = |weight| {
            let mut request = Request::new("GET", "h", "/", &[], b"", Expect::ok(b""));
            request.weight = weight;
            request
        };
        let mut chooser = Chooser::new(&[request(65), request(25), request(10)], 3);
        let mut seen = [0; 3];
        for _ in 0..10_000 {
            seen[chooser.choose()] += 1;
        }
        assert!((6300..6700).contains(&seen[0]) && (2300..2700).contains(&seen[1]), "{seen:?}");
    }
}
