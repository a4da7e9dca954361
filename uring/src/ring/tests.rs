//! What needs a hand inside: an operation is cancelled under a socket that is to go on.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use super::*;
use crate::{Chain, Outcome};

const PATIENCE: Duration = Duration::from_secs(20);

/// A driver with one connection whose replies get stuck.
fn stuck() -> (Uring, TcpStream, Sock) {
    let mut driver = Uring::new(Options { sockets_max: 8, ..Options::default() }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    setsockopt(&listener, sockopt::SndBuf, &8192).unwrap();
    let address = listener.local_addr().unwrap();
    driver.accept(listener.into()).unwrap();
    let client = TcpStream::connect(address).unwrap();
    let mut out = Vec::new();
    driver.turn(Some(PATIENCE), &mut out).unwrap();
    match out.pop() {
        Some(Completion::Accepted { sock, .. }) => (driver, client, sock),
        other => panic!("{other:?}"),
    }
}

fn turn_until(driver: &mut Uring, done: impl Fn(&Uring) -> bool) -> Vec<Completion> {
    let deadline = Instant::now() + PATIENCE;
    let mut out = Vec::new();
    while !done(driver) {
        assert!(Instant::now() < deadline, "it does not happen: {out:?}");
        driver.turn(Some(Duration::from_millis(5)), &mut out).unwrap();
    }
    out
}

/// The kernel gives up a send in mid-stream: what is left goes out after it, and then what follows.
#[test]
fn a_short_send_is_continued_and_so_is_its_chain() {
    let region = Region::new(1 << 22).unwrap();
    let bytes: Vec<u8> = (0..2_000_000).map(|at| (at / 7 % 251) as u8).collect();
    for then in [Then::Nothing, Then::Recv, Then::Shutdown, Then::Close] {
        for pinned in [true, false] {
            let (mut driver, mut client, sock) = stuck();
            let payload = match pinned {
                true => region.alloc_from(&bytes).unwrap().into(),
                false => bytes.clone().into(),
            };
            driver.send(sock, payload, then).unwrap();
            let mut out = Vec::new();
            driver.turn(Some(Duration::ZERO), &mut out).unwrap();
            let mut reader = client.try_clone().unwrap();
            // Between two tries it is not found, so it is cancelled until it is.
            let deadline = Instant::now() + PATIENCE;
            while driver.stats.short_sends == 0 {
                assert!(Instant::now() < deadline);
                assert!(driver.ring.reserve(1));
                let token = Token { op: Op::Cancel, generation: 0, slot: u32::MAX };
                let send = Sqe::cancel(Token::of(Op::Send, sock));
                driver.ring.push(&send.user_data(token.encode()));
                driver.turn(Some(Duration::from_millis(1)), &mut out).unwrap();
            }
            assert!(out.is_empty(), "{then:?}: the driver goes on by itself: {out:?}");
            let expected = bytes.clone();
            let reading = std::thread::spawn(move || {
                let mut got = vec![0; expected.len()];
                reader.read_exact(&mut got).unwrap();
                assert!(got == expected);
            });
            let out = match then {
                Then::Nothing | Then::Shutdown | Then::Close => turn_until(&mut driver, |driver| {
                    let socket = &driver.sockets[sock.slot as usize];
                    !socket.has(Flags::IN_FLIGHT) && socket.payload.is_none()
                }),
                Then::Recv => {
                    use std::io::Write;
                    client.write_all(b"next").unwrap();
                    turn_until(&mut driver, |driver| driver.stats.cqe(Op::Recv, Outcome::Ok) == 1)
                }
            };
            reading.join().unwrap();
            match (then, &out[..]) {
                (Then::Nothing | Then::Shutdown, [Completion::Sent { .. }])
                | (Then::Close, [Completion::Closed { .. }])
                | (Then::Recv, [Completion::Received { .. }]) => {}
                other => panic!("{other:?}"),
            }
            if let (Then::Recv, true) = (then, pinned) {
                let chain = driver.stats.chain(Chain::ReplyRecv);
                assert!(chain.broken >= 1);
                assert_eq!((chain.submitted, chain.completed), (chain.broken + 1, 1));
            }
            for completion in out {
                if let Completion::Received { buffer, .. } = completion {
                    driver.give_back(buffer);
                }
            }
        }
    }
    assert!(region.alloc(1 << 20).is_some(), "the replies have been given up");
}

/// Once the kernel has taken less than was queued, a chain may be in two parts: what was sent
/// silently is kept for good.
#[test]
fn after_a_cut_chain_no_silent_payload_is_given_up_early() {
    use std::io::Write;
    let region = Region::new(1 << 12).unwrap();
    let reply = region.alloc_from(b"pong").unwrap();
    let (mut driver, mut client, sock) = stuck();
    driver.ring.cut = true;
    driver.send(sock, reply.clone().into(), Then::Recv).unwrap();
    client.write_all(b"ping").unwrap();
    let out = turn_until(&mut driver, |driver| driver.stats.cqe(Op::Recv, Outcome::Ok) == 1);
    assert!(matches!(out[..], [Completion::Received { .. }]));
    assert!(!reply.is_unique());
    drop(out);
    drop(driver);
    assert!(reply.is_unique(), "it goes with the driver");
}
