//! The generator against servers that behave well or badly in one known way each.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ember_bench::load::{
    self, Arrivals, Expect, Fault, Fields, Held, Mode, Options, Outcome, Refill, Request,
};

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A server on a free port; each connection gets a thread that calls `answer` for each request
/// with its number (on any connection). It lives as long as the test's process.
fn serve(answer: fn(&mut TcpStream, u64) -> bool) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), counter) = (stream, Arc::clone(&counter)) else { return };
            thread::spawn(move || talk(stream, &counter, answer));
        }
    });
    (address, asked)
}

fn talk(mut stream: TcpStream, asked: &AtomicU64, answer: fn(&mut TcpStream, u64) -> bool) {
    let (mut pending, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => pending.extend_from_slice(&buffer[..len]),
        }
        while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            pending.drain(..end + 4);
            if !answer(&mut stream, asked.fetch_add(1, Ordering::SeqCst)) {
                return;
            }
        }
    }
}

fn say(stream: &mut TcpStream, text: &str) -> bool {
    stream.write_all(text.as_bytes()).is_ok()
}

fn options(target: SocketAddr) -> Options {
    Options {
        target,
        requests: vec![Request::get("test", "/", Fields::Plain, false, Expect::ok(b"hello"))],
        connections: 4,
        depth: 1,
        mode: Mode::Closed(Refill::Batch),
        warmup: Duration::ZERO,
        window: Duration::from_millis(200),
        timeout: Duration::from_secs(20),
        faults_max: 20,
        threads: 1,
        cpus: Vec::new(),
    }
}

fn run(options: &Options) -> Outcome {
    load::run(options, &mut |_| {})
}

fn faults_of(answer: fn(&mut TcpStream, u64) -> bool) -> BTreeMap<Fault, u64> {
    let (target, _) = serve(answer);
    run(&options(target)).faults
}

#[test]
fn counts_what_the_server_answered() {
    let (target, asked) = serve(|stream, _| say(stream, GOOD));
    for (depth, refill, threads) in
        [(1, Refill::Batch, 1), (16, Refill::Batch, 1), (16, Refill::Each, 1), (3, Refill::Each, 2)]
    {
        let before = asked.load(Ordering::SeqCst);
        let wanted = Options { depth, threads, mode: Mode::Closed(refill), ..options(target) };
        let outcome = run(&wanted);
        assert_eq!(outcome.faults_total(), 0, "{:?}", outcome.faults);
        let answered = asked.load(Ordering::SeqCst) - before;
        // The window is the whole run but for the drain at its end, where at most what was in
        // flight is answered.
        let in_flight = u64::from(depth) * 4;
        assert!(outcome.replies <= answered, "{} > {answered}", outcome.replies);
        assert!(outcome.latency.len() <= answered && outcome.latency.len() + in_flight >= answered);
    }
}

#[test]
fn an_open_loop_asks_as_often_as_it_was_told() {
    let (target, asked) = serve(|stream, _| say(stream, GOOD));
    let outcome = run(&Options { mode: Mode::Open(500.0, Arrivals::Even), ..options(target) });
    assert_eq!((outcome.faults_total(), outcome.unsent), (0, 0));
    assert_eq!(asked.load(Ordering::SeqCst), 100);
    assert_eq!(outcome.latency.len(), 100);
}

#[test]
fn an_open_loop_charges_a_stall_to_all_who_waited() {
    // One connection, and one reply that takes 100 ms: everything due meanwhile waits too. A
    // generator that waits with its server would show one slow reply in a hundred.
    let (target, _) = serve(|stream, number| {
        if number == 10 {
            thread::sleep(Duration::from_millis(100));
        }
        say(stream, GOOD)
    });
    let mode = Mode::Open(500.0, Arrivals::Even);
    let outcome = run(&Options { mode, connections: 1, ..options(target) });
    let slow = outcome.latency.count_between(10_000_000, u64::MAX);
    assert_eq!(outcome.faults_total(), 0, "{:?}", outcome.faults);
    assert!(slow >= 40, "{slow} of {} were late", outcome.latency.len());
}

#[test]
fn churn_makes_a_connection_a_request() {
    let (target, _) = serve(|stream, _| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        false
    });
    let window = Duration::from_secs(1);
    let outcome = run(&Options { mode: Mode::Churn, window, ..options(target) });
    assert_eq!(outcome.faults_total(), 0, "{:?}", outcome.faults);
    assert!(outcome.latency.len() > 4, "more than the first connections");
}

#[test]
fn announced_closes_are_made_good_and_counted() {
    let (target, _) = serve(|stream, _| {
        say(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        false
    });
    let outcome = run(&options(target));
    assert_eq!(outcome.faults_total(), 0, "{:?}", outcome.faults);
    assert!(outcome.reconnects > 0);
}

#[test]
fn every_fault_is_seen() {
    type Answer = fn(&mut TcpStream, u64) -> bool;
    let cases: [(Fault, Answer); 7] = [
        (Fault::Status, |stream, _| say(stream, &GOOD.replace("200 OK", "500 No"))),
        (Fault::Content, |stream, _| say(stream, &GOOD.replace("hello", "olleh"))),
        (Fault::Length, |stream, _| say(stream, &GOOD.replace("h: 5", "h: 6"))),
        (Fault::Malformed, |stream, _| say(stream, "SSH-2.0-x\r\n\r\n")),
        (Fault::Framing, |stream, _| say(stream, "HTTP/1.1 200 OK\r\n\r\nhello")),
        (Fault::Surplus, |stream, _| say(stream, &format!("{GOOD}{GOOD}"))),
        (Fault::ClosedEarly, |stream, _| {
            say(stream, &GOOD[..GOOD.len() - 1]);
            false
        }),
    ];
    for (fault, answer) in cases {
        let faults = faults_of(answer);
        assert!(faults.contains_key(&fault), "{fault}: {faults:?}");
    }
}

#[test]
fn one_bad_reply_among_good_ones_is_seen() {
    let faults = faults_of(|stream, number| {
        say(
            stream,
            if number == 20 { "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n" } else { GOOD },
        )
    });
    assert_eq!(faults, BTreeMap::from([(Fault::Status, 1)]));
}

#[test]
fn silence_is_a_timeout() {
    let (target, _) = serve(|_, _| true);
    let timeout = Duration::from_millis(50);
    let wanted =
        Options { timeout, window: Duration::from_secs(30), faults_max: 4, ..options(target) };
    // Four connections wait in vain, which is as many faults as are borne: the run ends long
    // before its window does.
    let outcome = run(&wanted);
    assert!(outcome.faults.contains_key(&Fault::Timeout), "{:?}", outcome.faults);
    assert!(outcome.elapsed < Duration::from_secs(30));
}

#[test]
fn a_closed_port_is_a_fault_and_not_a_hang() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let target = listener.local_addr().expect("a bound socket has an address");
    drop(listener);
    let outcome = run(&options(target));
    assert!(outcome.faults.contains_key(&Fault::Connect), "{:?}", outcome.faults);
    assert_eq!(outcome.replies, 0);
}

#[test]
fn held_connections_are_answered_once_and_watched() {
    let (target, asked) = serve(|stream, number| say(stream, GOOD) && number != 2);
    let request = Request::get("test", "/", Fields::Plain, false, Expect::ok(b"hello"));
    let held = Held::open(target, &request, 8).expect("eight good replies");
    assert_eq!((held.count(), asked.load(Ordering::SeqCst)), (8, 8));
    // The third connection was closed by the server after its reply.
    while held.lost() == 0 {
        thread::yield_now();
    }
    assert_eq!(held.lost(), 1);
}
