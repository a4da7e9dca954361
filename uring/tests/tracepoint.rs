//! The kernel itself says that replies go as linked pairs.

mod common;

use std::time::Duration;

use common::trace::{Link, Trace};
use common::*;
use ember_uring::{Chain, Driver, Options, Then, Uring};

const ROUNDS: usize = 25;

fn link(first: &str, then: &str) -> Link {
    Link { first: first.to_owned(), then: then.to_owned() }
}

#[test]
fn replies_and_receives_are_linked() {
    links_are(false, &[link("SEND", "CLOSE")]);
    links_are(true, &[link("SEND", "SHUTDOWN"), link("SHUTDOWN", "CLOSE")]);
}

/// Replies, last words in one of their forms, and an armed reply.
fn links_are(shutdown_last: bool, last_words: &[Link]) {
    let options = Options { shutdown_last, ..Options::default() };
    let thread = nix::unistd::gettid().as_raw() as u32;
    let trace = Trace::of(thread);
    let mut bench = Bench::new(Uring::new(options).unwrap());
    let reply = bench.region.alloc_from(b"pong").unwrap();
    let (mut client, sock) = bench.connected();
    bench.driver.recv(sock).unwrap();
    for _ in 0..ROUNDS {
        write(&mut client, b"ping");
        bench.received(sock);
        bench.driver.send(sock, reply.clone().into(), Then::Recv).unwrap();
        bench.turn(Duration::ZERO);
        read(&mut client, 4);
    }
    write(&mut client, b"ping");
    bench.received(sock);
    bench.driver.send(sock, reply.clone().into(), Then::Close).unwrap();
    bench.closed(sock);
    let (_client, armed) = bench.connected();
    bench.driver.arm(armed, reply).unwrap();
    bench.turn(Duration::ZERO);

    let chain = bench.driver.stats().chain(Chain::ReplyRecv);
    assert_eq!((chain.submitted, chain.completed), (ROUNDS as u64, ROUNDS as u64));
    match trace.and_then(|trace| trace.links()) {
        Ok(links) => {
            let mut expected = vec![link("SEND", "RECV"); ROUNDS];
            expected.extend_from_slice(last_words);
            expected.extend([link("RECV", "SEND"), link("SEND", "RECV")]);
            assert_eq!(links, expected);
        }
        Err(error) => println!("skipped the kernel's own account, no tracefs: {error}"),
    }
}
