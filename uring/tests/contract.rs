//! The contract of a driver.

mod common;

use std::os::fd::OwnedFd;

use common::*;
use ember_uring::{Completion, Driver, LinkForm, Options, Payload, PeerAddr, Piece, Then, Uring};

fn options(form: LinkForm) -> Options {
    Options {
        form,
        entries: 64,
        cq_entries: 256,
        sockets_max: 64,
        buffers: 32,
        ..Options::default()
    }
}

fn bench(form: LinkForm) -> Bench<Uring> {
    Bench::new(Uring::new(options(form)).unwrap())
}

fn each_form(test: impl Fn(Bench<Uring>)) {
    for form in [LinkForm::Linked, LinkForm::Unlinked, LinkForm::Multishot] {
        eprintln!("{form:?}");
        test(bench(form));
    }
}

#[test]
fn requests_and_replies_alternate() {
    each_form(|mut bench| {
        let reply = bench.region.alloc_from(b"pong").unwrap();
        let (mut client, sock) = bench.connected();
        bench.driver.recv(sock).unwrap();
        for round in 0..100u32 {
            write(&mut client, &round.to_be_bytes());
            assert_eq!(bench.received(sock), round.to_be_bytes());
            bench.driver.send(sock, reply.clone().into(), Then::Recv).unwrap();
            bench.turn(std::time::Duration::ZERO);
            assert_eq!(read(&mut client, 4), b"pong");
        }
        drop(client);
        bench.ended(sock);
        bench.driver.close(sock);
        bench.closed(sock);
    });
}

#[test]
fn every_kind_of_payload_arrives_whole() {
    each_form(|mut bench| {
        let (mut client, sock) = bench.connected();
        let pinned = bench.region.alloc_from(b"pinned ").unwrap();
        let gather = vec![Piece::Owned(b"gathered ".to_vec()), Piece::Pinned(pinned.slice(..6))];
        bench.driver.send(sock, Payload::Pinned(pinned), Then::Nothing).unwrap();
        bench.sent(sock);
        bench.driver.send(sock, b"owned ".to_vec().into(), Then::Nothing).unwrap();
        bench.sent(sock);
        bench.driver.send(sock, gather.into(), Then::Nothing).unwrap();
        bench.sent(sock);
        bench.driver.send(sock, Payload::Owned(Vec::new()), Then::Nothing).unwrap();
        bench.sent(sock);
        bench.driver.send(sock, b".".to_vec().into(), Then::Close).unwrap();
        bench.closed(sock);
        assert_eq!(read_end(&mut client), b"pinned owned gathered pinned.");
    });
}

#[test]
fn tcp6_and_unix_listeners_are_served_alike() {
    each_form(|mut bench| {
        let (_, address) = bench.listen_at("[::1]:0");
        let (mut client, sock) = bench.connected_to(address);
        write(&mut client, b"six");
        bench.driver.recv(sock).unwrap();
        assert_eq!(bench.received(sock), b"six");
        let (listener, connect) = unix_pair();
        let listener = bench.driver.accept(OwnedFd::from(listener)).unwrap();
        bench.turn(std::time::Duration::ZERO);
        let mut client = connect();
        let Completion::Accepted { listener: on, sock } = bench.next() else { panic!() };
        assert_eq!(on, listener);
        write(&mut client, b"unix");
        bench.driver.recv(sock).unwrap();
        assert_eq!(bench.received(sock), b"unix");
        bench.driver.send(sock, b"reply".to_vec().into(), Then::Close).unwrap();
        bench.closed(sock);
        assert_eq!(read_end(&mut client), b"reply");
    });
}

#[test]
fn the_peer_is_known() {
    each_form(|mut bench| {
        let (client, sock) = bench.connected();
        bench.driver.peer(sock);
        let Completion::Peer { sock: on, address } = bench.next() else { panic!() };
        assert_eq!(on, sock);
        assert_eq!(*address.unwrap(), PeerAddr::Inet(client.local_addr().unwrap()));
        let (listener, connect) = unix_pair();
        bench.driver.accept(OwnedFd::from(listener)).unwrap();
        bench.turn(std::time::Duration::ZERO);
        let _client = connect();
        let sock = bench.accepted();
        bench.driver.peer(sock);
        let Completion::Peer { address, .. } = bench.next() else { panic!() };
        assert_eq!(*address.unwrap(), PeerAddr::Unix);
    });
}

#[test]
fn a_lingering_close_reads_to_the_end() {
    each_form(|mut bench| {
        let (mut client, sock) = bench.connected();
        bench.driver.send(sock, b"enough".to_vec().into(), Then::Shutdown).unwrap();
        bench.sent(sock);
        assert_eq!(read_end(&mut client), b"enough");
        write(&mut client, b"but I was");
        bench.driver.recv(sock).unwrap();
        assert_eq!(bench.received(sock), b"but I was");
        drop(client);
        bench.driver.recv(sock).unwrap();
        bench.ended(sock);
        bench.driver.close(sock);
        bench.closed(sock);
    });
}

#[test]
fn a_closed_name_is_dead_and_its_slot_lives_again() {
    each_form(|mut bench| {
        let (_, address) = bench.listen();
        let (_client, first) = bench.connected_to(address);
        bench.driver.recv(first).unwrap();
        bench.driver.close(first);
        bench.closed(first);
        let (mut client, second) = bench.connected_to(address);
        assert_eq!((first.slot(), false), (second.slot(), first == second));
        let before = bench.driver.stats().stale_calls;
        bench.driver.recv(first).unwrap();
        bench.driver.send(first, b"stale".to_vec().into(), Then::Close).unwrap();
        bench.driver.close(first);
        assert_eq!(bench.driver.stats().stale_calls, before + 3);
        bench.driver.send(second, b"fresh".to_vec().into(), Then::Close).unwrap();
        bench.closed(second);
        assert_eq!(read_end(&mut client), b"fresh");
    });
}

#[test]
fn another_thread_wakes_a_waiting_turn() {
    each_form(|mut bench| {
        for _ in 0..3 {
            let waker = bench.driver.waker();
            let thread = std::thread::spawn(move || waker.wake());
            assert!(matches!(bench.next(), Completion::Woken));
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_linked_pair_has_one_completion() {
    let mut bench = bench(LinkForm::Linked);
    let reply = bench.region.alloc_from(b"pong").unwrap();
    let (mut client, sock) = bench.connected();
    bench.driver.recv(sock).unwrap();
    for _ in 0..10 {
        write(&mut client, b"ping");
        bench.received(sock);
        bench.driver.send(sock, reply.clone().into(), Then::Recv).unwrap();
        bench.turn(std::time::Duration::ZERO);
        read(&mut client, 4);
    }
    drop(client);
    bench.ended(sock);
    let stats = bench.driver.stats();
    use ember_uring::{Chain, Op, Outcome};
    let chain = stats.chain(Chain::ReplyRecv);
    assert_eq!((chain.submitted, chain.completed, chain.broken), (10, 10, 0));
    assert_eq!(stats.cqe(Op::Send, Outcome::Ok), 0, "sends are silent");
    assert_eq!(stats.cqe(Op::Recv, Outcome::Ok), 10);
    assert!(reply.is_unique(), "the driver has given up every reply");
}
