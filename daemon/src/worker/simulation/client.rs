//! What the simulation's clients ask, and what they must be told.

use ember_uring::SimClient;

/// The bodies that the prepared routes of the simulation have.
pub(super) const SMALL: &str = "small";
pub(super) const LARGE_BYTES: usize = 3_000;
pub(super) const APART_BYTES: usize = 20_000;
pub(super) const LATER: &str = "later";
pub(super) const PIECES: usize = 7;
pub(super) const PIECE_BYTES: usize = 1_300;
pub(super) const METRICS: &str = "metrics\n";

/// Numbers that follow from a seed (SplitMix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }

    /// True `rate` times in a thousand.
    pub(super) fn chance(&mut self, rate: usize) -> bool {
        self.below(1000) < rate
    }
}

/// The listeners of the simulation, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Web = 0,
    /// One reply for whatever is asked.
    Beacon = 1,
}

/// One request and its right answer.
struct Request {
    bytes: Vec<u8>,
    status: u16,
    /// None where the reply has no body whatever its head says.
    body: Option<Vec<u8>>,
    /// The connection ends behind the reply.
    ends: bool,
}

/// What a client may expect of the world.
pub(super) struct World<'a> {
    /// Nothing breaks and nobody leaves early.
    pub(super) gentle: bool,
    /// Requests of a connection until the reply says that it ends.
    pub(super) requests_max: usize,
    /// Of each server, whether it has been told to drain.
    pub(super) draining: &'a [bool],
    /// The dates that each server has had, in their order.
    pub(super) dates: &'a [Vec<String>],
}

/// A client with a list of requests, which it asks on as many connections as that takes.
pub(super) struct Client {
    door: Door,
    script: Vec<Request>,
    pipelines: bool,
    chunk: usize,
    lazy: usize,
    leaves: usize,
    half_closes: bool,
    /// Requests answered on all connections.
    answered: usize,
    /// Connections to the beacon.
    unsure: usize,
    wire: Option<Wire>,
    gone: bool,
}

/// One connection of a client.
struct Wire {
    end: SimClient,
    server: usize,
    /// The date that its server had when this connection began, by its place.
    date: usize,
    /// The request that this connection began with.
    first: usize,
    bytes: Vec<u8>,
    /// Where in `bytes` each request begins.
    begins: Vec<usize>,
    written: usize,
    inbox: Vec<u8>,
    /// No reply comes any more, and the end does.
    closing: bool,
    shut: bool,
}

impl Client {
    pub(super) fn new(number: usize, gentle: bool, random: &mut Random) -> Client {
        let door = if random.chance(300) { Door::Beacon } else { Door::Web };
        let count = 1 + random.below(6);
        let script = (0..count).map(|nth| request(door, number, nth, nth + 1 == count, random));
        Client {
            door,
            script: script.collect(),
            pipelines: random.chance(600),
            chunk: [7, 40, 300, 100_000][random.below(4)],
            lazy: random.below(3) * 200,
            leaves: if gentle { 0 } else { random.below(2) * 20 },
            half_closes: random.chance(300),
            answered: 0,
            unsure: 0,
            wire: None,
            gone: false,
        }
    }

    pub(super) fn door(&self) -> Door {
        self.door
    }

    /// Whether it has all its answers, or has given up.
    pub(super) fn is_done(&self) -> bool {
        self.wire.is_none() && (self.gone || self.answered == self.script.len())
    }

    pub(super) fn answered(&self) -> usize {
        self.answered
    }

    /// Of how many answers the server may not know: one on each armed connection that broke.
    pub(super) fn unsure(&self) -> usize {
        self.unsure
    }

    pub(super) fn wants_to_connect(&self) -> bool {
        self.wire.is_none() && !self.is_done()
    }

    /// Starts over on a new connection with what is not answered yet.
    pub(super) fn connect(&mut self, end: SimClient, server: usize, dates: &[String]) {
        self.unsure += usize::from(self.door == Door::Beacon);
        let (mut bytes, mut begins) = (Vec::new(), Vec::new());
        for request in &self.script[self.answered..] {
            begins.push(bytes.len());
            bytes.extend_from_slice(&request.bytes);
        }
        self.wire = Some(Wire {
            end,
            server,
            date: dates.len().saturating_sub(1),
            first: self.answered,
            bytes,
            begins,
            written: 0,
            inbox: Vec::new(),
            closing: false,
            shut: false,
        });
    }

    /// Writes some, reads some, and holds what came to what was asked.
    pub(super) fn step(&mut self, world: &World<'_>, random: &mut Random) {
        let Some(mut wire) = self.wire.take() else { return };
        if random.chance(self.leaves) {
            if random.chance(500) {
                wire.end.reset();
            }
            self.gone = random.chance(500);
            return;
        }
        if !random.chance(self.lazy) {
            self.write(&mut wire);
        }
        if !random.chance(self.lazy) {
            let some = wire.end.read_some(1 + random.below(4_000));
            wire.inbox.extend(some);
        }
        while !wire.closing && self.take_reply(&mut wire, world) {}
        if self.is_over(&mut wire, world) {
            return;
        }
        self.wire = Some(wire);
    }

    fn write(&self, wire: &mut Wire) {
        let on_wire = self.answered - wire.first;
        // Who does not pipeline waits for the answer to each request.
        let begin = |request: usize| wire.begins.get(request).copied().unwrap_or(wire.bytes.len());
        let until = match (wire.closing, self.pipelines) {
            (true, _) => begin(on_wire), // what was answered ahead of its end
            (false, true) => wire.bytes.len(),
            (false, false) => begin(on_wire + 1),
        };
        let part = until.min(wire.written + self.chunk);
        if part > wire.written {
            wire.end.write(&wire.bytes[wire.written..part]);
            wire.written = part;
        }
        if self.half_closes && wire.written == wire.bytes.len() && !wire.shut {
            // Half a head would be cut off by it, and never be answered.
            if self.script.last().is_some_and(|request| request.status != 408) {
                wire.end.shutdown();
            }
            wire.shut = true;
        }
    }

    /// Takes one reply off the inbox if it is whole.
    fn take_reply(&mut self, wire: &mut Wire, world: &World<'_>) -> bool {
        let Some(head_len) = find(&wire.inbox, b"\r\n\r\n").map(|at| at + 4) else { return false };
        let head = String::from_utf8(wire.inbox[..head_len].to_vec()).expect("a head is ASCII");
        let on_wire = self.answered - wire.first;
        let Some(request) = self.script.get(self.answered) else {
            panic!("a reply without a request: {head}");
        };
        let asked = String::from_utf8_lossy(&request.bytes).into_owned();
        assert!(wire.written > wire.begins[on_wire], "a reply before its request: {head}");
        let status: u16 = head[9..12].parse().expect("a status");
        assert_eq!(status, request.status, "{asked}{head}");
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let date = field("Date").expect("a date");
        let dates = &world.dates[wire.server][wire.date..];
        assert!(dates.contains(&date), "{date} is not of this connection's time: {dates:?}");
        let body_len = match &request.body {
            Some(_) => field("Content-Length").expect("a length").parse().expect("a number"),
            None => 0,
        };
        if wire.inbox.len() < head_len + body_len {
            return false;
        }
        if let Some(body) = &request.body {
            let came = &wire.inbox[head_len..head_len + body_len];
            assert!(came == &body[..], "{asked}another body: {}", came.escape_ascii());
        }
        wire.inbox.drain(..head_len + body_len);
        let close = field("Connection").as_deref() == Some("close");
        let last = request.ends || on_wire + 1 == world.requests_max;
        let draining = world.draining[wire.server];
        match self.door {
            Door::Web => assert!(close == last || close && draining, "{asked}{head}"),
            // An armed reply says nothing about the connection.
            Door::Beacon => assert!(!close || last || draining, "{asked}{head}"),
        }
        self.answered += 1;
        wire.closing = close || last;
        true
    }

    /// Whether this connection has come to its end, which must be a right one.
    fn is_over(&mut self, wire: &mut Wire, world: &World<'_>) -> bool {
        let done = self.answered == self.script.len();
        if wire.end.is_reset() {
            let may = !world.gentle || world.draining[wire.server] || wire.closing;
            assert!(may, "reset after {} replies: {}", self.answered, self.last_asked());
            return true;
        }
        if wire.end.is_ended() {
            let may = wire.closing
                || !world.gentle
                || world.draining[wire.server]
                || done && wire.shut
                || self.door == Door::Beacon && self.script.last().is_some_and(|r| r.ends);
            assert!(may, "ended after {} replies: {}", self.answered, self.last_asked());
            assert!(wire.inbox.is_empty() || !world.gentle, "half a reply at the end");
            return true;
        }
        // It waits for the end where one is due, and else ends by itself.
        done && !wire.closing && !(self.half_closes && wire.shut)
    }

    /// Where it stands, for a run that fails.
    pub(super) fn describe(&self) -> String {
        let wire = self.wire.as_ref().map(|wire| {
            let (sent, all) = (wire.written, wire.bytes.len());
            let (shut, closing) = (wire.shut, wire.closing);
            let ended = wire.end.is_ended();
            format!("sent {sent} of {all}, shut: {shut}, closing: {closing}, ended: {ended}")
        });
        let (door, answered, all) = (self.door, self.answered, self.script.len());
        format!("{door:?}: {answered} of {all} answered, {wire:?}, next {}", self.last_asked())
    }

    fn last_asked(&self) -> String {
        let asked = self.script.get(self.answered).map(|request| request.bytes.escape_ascii());
        asked.map_or_else(String::new, |asked| asked.to_string())
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn request(door: Door, number: usize, nth: usize, last: bool, random: &mut Random) -> Request {
    if last && random.chance(300) {
        return last_request(door, random);
    }
    let mut request = match random.below(11) {
        0 => get("GET", "/small", 200, Some(SMALL.into())),
        1 => get("HEAD", "/large", 200, None),
        2 => get("GET", "/large", 200, Some(vec![b'l'; LARGE_BYTES])),
        3 => get("GET", "/apart", 200, Some(vec![b'a'; APART_BYTES])),
        4 => get("GET", "/metrics", 200, Some(METRICS.into())),
        5 => get("GET", "/small", 200, Some(SMALL.into())),
        6 => get("GET", "/later", 200, Some(LATER.into())),
        7 => get("GET", "/pieces", 200, Some(vec![b'p'; PIECES * PIECE_BYTES])),
        8 => get("DELETE", "/none", 404, Some("404 Not Found\n".into())),
        _ => echo(number, nth, random.chance(500)),
    };
    if door == Door::Beacon {
        (request.status, request.body) = (204, None);
    }
    request
}

fn get(method: &str, path: &str, status: u16, body: Option<Vec<u8>>) -> Request {
    let bytes = format!("{method} {path} HTTP/1.1\r\nHost: sim\r\n\r\n").into_bytes();
    Request { bytes, status, body, ends: false }
}

fn echo(number: usize, nth: usize, chunked: bool) -> Request {
    let body = format!("{number}/{nth} ").repeat(1 + (number + nth) % 40);
    let len = body.len();
    let framed = if chunked {
        let (one, two) = body.split_at(len / 2);
        let of = |part: &str| match part.len() {
            0 => String::new(),
            len => format!("{len:x}\r\n{part}\r\n"),
        };
        format!("Transfer-Encoding: chunked\r\n\r\n{}{}0\r\n\r\n", of(one), of(two))
    } else {
        format!("Content-Length: {len}\r\n\r\n{body}")
    };
    let bytes = format!("POST /echo HTTP/1.1\r\nHost: sim\r\n{framed}").into_bytes();
    Request { bytes, status: 200, body: Some(body.into_bytes()), ends: false }
}

/// One that ends its connection.
fn last_request(door: Door, random: &mut Random) -> Request {
    let (text, status, body) = match random.below(4) {
        0 => ("GET /small HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n", 200, SMALL),
        1 => ("GET /small HTTP/1.0\r\n\r\n", 200, SMALL),
        2 => ("NO GOOD\r\n\r\n", 400, "400 Bad Request\n"),
        // The rest never comes.
        _ => ("GET /small HT", 408, "408 Request Timeout\n"),
    };
    let mut request = Request { bytes: text.into(), status, body: Some(body.into()), ends: true };
    if door == Door::Beacon {
        (request.status, request.body) = (204, None);
    }
    request
}
