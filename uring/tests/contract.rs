//! The contract of a driver: one suite, run against all of them.

mod common;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::PATIENCE;
use common::world::{self, Client, End, STEP, World};
use ember_uring::{
    Completion, Delivery, Driver, Errno, Feature, FeatureState, LinkForm, ListenerId, Mapped,
    Mapping, Op, Payload, PeerAddr, Piece, Pinned, Region, Sock, Then,
};

/// A world, and the completions nobody has looked at yet.
struct Bench<W: World> {
    world: W,
    region: Region,
    listener: ListenerId,
    out: VecDeque<Completion>,
}

impl<W: World> Bench<W> {
    fn new(mut world: W) -> Bench<W> {
        let listener = world.listen();
        let region = Region::new(1 << 21).unwrap();
        Bench { world, region, listener, out: VecDeque::new() }
    }

    fn driver(&mut self) -> &mut W::Driver {
        self.world.driver()
    }

    fn pinned(&self, bytes: &[u8]) -> Pinned {
        self.region.alloc_from(bytes).unwrap()
    }

    fn turn(&mut self, wait: Duration) {
        let mut out = Vec::new();
        self.driver().turn(Some(wait), &mut out).unwrap();
        self.out.extend(out);
    }

    #[track_caller]
    fn next(&mut self) -> Completion {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.out.pop_front() {
                return completion;
            }
            assert!(Instant::now() < deadline, "nothing completed");
            self.turn(STEP);
        }
    }

    /// Turns until nothing more can be expected.
    #[track_caller]
    fn nothing_more(&mut self) {
        for _ in 0..20 {
            self.turn(Duration::from_millis(1));
        }
        assert!(self.out.is_empty(), "{:?}", self.out);
    }

    /// Waits until nothing in flight refers to the memory: without a copy, the network may need it
    /// for longer than its connection.
    #[track_caller]
    fn given_up(&mut self, memory: &Pinned) {
        let deadline = Instant::now() + PATIENCE;
        while !memory.is_unique() {
            assert!(Instant::now() < deadline, "it is still in use");
            self.turn(STEP);
        }
    }

    #[track_caller]
    fn connected(&mut self) -> (W::Client, Sock) {
        let client = self.world.connect(self.listener);
        match self.next() {
            Completion::Accepted { listener, sock } if listener == self.listener => (client, sock),
            other => panic!("not accepted: {other:?}"),
        }
    }

    /// Sends, however often the queue is full.
    fn send(&mut self, sock: Sock, payload: impl Into<Payload>, then: Then) {
        self.driver().send(sock, payload.into(), then).unwrap();
    }

    /// The next `len` bytes, of which a receive has already been asked for.
    #[track_caller]
    fn received(&mut self, sock: Sock, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                Completion::Received { sock: on, buffer } => {
                    assert_eq!(on, sock);
                    assert!(buffer.len() > 0);
                    bytes.extend(self.driver().bytes(&buffer));
                    self.driver().give_back(buffer);
                }
                other => panic!("not received: {other:?} after {bytes:?}"),
            }
            assert!(bytes.len() <= len, "{bytes:?}");
            if bytes.len() == len {
                return bytes;
            }
            self.driver().recv(sock).unwrap();
        }
    }

    #[track_caller]
    fn ended(&mut self, sock: Sock) {
        match self.next() {
            Completion::Ended { sock: on } if on == sock => {}
            other => panic!("not ended: {other:?}"),
        }
    }

    #[track_caller]
    fn sent(&mut self, sock: Sock) {
        match self.next() {
            Completion::Sent { sock: on } if on == sock => {}
            other => panic!("not sent: {other:?}"),
        }
    }

    #[track_caller]
    fn closed(&mut self, sock: Sock) {
        match self.next() {
            Completion::Closed { sock: on } if on == sock => {}
            other => panic!("not closed: {other:?}"),
        }
    }

    #[track_caller]
    fn delivery(&mut self, sock: Sock) -> Delivery {
        self.driver().delivery(sock);
        match self.next() {
            Completion::Delivery { sock: on, delivery } if on == sock => delivery.unwrap(),
            other => panic!("not told: {other:?}"),
        }
    }

    /// What the client reads, once it is as much as `len` bytes.
    #[track_caller]
    fn client_reads(&mut self, client: &mut W::Client, len: usize) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = Vec::new();
        while bytes.len() < len {
            assert!(Instant::now() < deadline, "only {} of {len}", bytes.len());
            bytes.extend(client.read());
            self.turn(Duration::from_millis(1));
        }
        bytes
    }

    /// What the client reads to the end.
    #[track_caller]
    fn client_reads_all(&mut self, client: &mut W::Client) -> (Vec<u8>, End) {
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = Vec::new();
        loop {
            bytes.extend(client.read());
            match client.end() {
                End::Open => assert!(Instant::now() < deadline, "no end after {}", bytes.len()),
                end => return (bytes, end),
            }
            self.turn(Duration::from_millis(1));
        }
    }
}

fn requests_and_replies_alternate<W: World>(mut bench: Bench<W>) {
    let reply = bench.pinned(b"pong");
    let (mut client, sock) = bench.connected();
    bench.driver().recv(sock).unwrap();
    for round in 0..100u32 {
        client.write(&round.to_be_bytes());
        assert_eq!(bench.received(sock, 4), round.to_be_bytes());
        bench.send(sock, reply.clone(), Then::Recv);
        assert_eq!(bench.client_reads(&mut client, 4), b"pong");
    }
    drop(client);
    bench.ended(sock);
    bench.driver().close(sock);
    bench.closed(sock);
    assert_eq!(bench.driver().stats().sockets, 0);
    bench.given_up(&reply);
}

fn every_kind_of_payload_arrives_whole<W: World>(mut bench: Bench<W>) {
    let (mut client, sock) = bench.connected();
    let pinned = bench.pinned(b"pinned ");
    let gather = vec![Piece::Owned(b"gathered ".to_vec()), Piece::Pinned(pinned.slice(..6))];
    let payloads: [Payload; 4] =
        [pinned.into(), b"owned ".to_vec().into(), gather.into(), Payload::Owned(Vec::new())];
    for payload in payloads {
        bench.send(sock, payload, Then::Nothing);
        bench.sent(sock);
    }
    bench.send(sock, b".".to_vec(), Then::Close);
    bench.closed(sock);
    let (bytes, end) = bench.client_reads_all(&mut client);
    assert_eq!((bytes.as_slice(), end), (&b"pinned owned gathered pinned."[..], End::Closed));
}

fn an_empty_payload_still_does_what_follows<W: World>(mut bench: Bench<W>) {
    let empty = || Payload::Owned(Vec::new());
    let (mut client, sock) = bench.connected();
    bench.send(sock, empty(), Then::Recv);
    client.write(b"x");
    assert_eq!(bench.received(sock, 1), b"x");
    bench.send(sock, empty(), Then::Shutdown);
    bench.sent(sock);
    assert_eq!(bench.client_reads_all(&mut client), (Vec::new(), End::Closed));
    bench.send(sock, empty(), Then::Close);
    bench.closed(sock);
}

fn a_large_payload_arrives_whole<W: World>(mut bench: Bench<W>) {
    let bytes: Vec<u8> = (0..1_000_000).map(|at| (at / 7 % 251) as u8).collect();
    for then in [Then::Recv, Then::Close] {
        let (mut client, sock) = bench.connected();
        let reply = bench.pinned(&bytes);
        bench.send(sock, reply.clone(), then);
        assert!(bench.client_reads(&mut client, bytes.len()) == bytes);
        if then == Then::Close {
            bench.closed(sock);
            assert_eq!(bench.client_reads_all(&mut client), (Vec::new(), End::Closed));
        } else {
            client.write(b"next");
            assert_eq!(bench.received(sock, 4), b"next");
        }
    }
}

fn pieces_of_all_kinds_arrive_in_order<W: World>(mut bench: Bench<W>) {
    let (content, mapping) = mapped(3 << 20);
    let ranges = [1_000_000..3_000_000, 0..1, 3_145_727..3_145_728, 77..77];
    let shared: Arc<[u8]> = b"shared".as_slice().into();
    for then in [Then::Recv, Then::Close] {
        let (mut client, sock) = bench.connected();
        let mut pieces =
            vec![Piece::Pinned(bench.pinned(b"pinned")), Piece::Shared(shared.clone())];
        let mut expected = b"pinnedshared".to_vec();
        for range in &ranges {
            pieces.push(Piece::Mapped(Mapped::new(&mapping, range.clone())));
            expected.extend(&content[range.clone()]);
        }
        // More than one call of the kernel takes.
        for at in 0..2000 {
            pieces.push(Piece::Owned(vec![at as u8]));
            expected.push(at as u8);
        }
        bench.send(sock, pieces, then);
        assert!(bench.client_reads(&mut client, expected.len()) == expected);
        if then == Then::Close {
            bench.closed(sock);
        } else {
            client.write(b"next");
            assert_eq!(bench.received(sock, 4), b"next");
        }
    }
}

fn a_file_that_has_shrunk_fails_its_own_connection<W: World>(mut bench: Bench<W>) {
    let (content, mapping) = mapped(1 << 20);
    for then in [Then::Recv, Then::Close, Then::Nothing] {
        let (mut other, well) = bench.connected();
        let (mut client, sock) = bench.connected();
        mapping.file().set_len(1 << 16).unwrap();
        let head = Piece::Owned(b"head".to_vec());
        let whole = Piece::Mapped(Mapped::new(&mapping, 0..content.len()));
        bench.send(sock, vec![head, whole], then);
        let deadline = Instant::now() + PATIENCE;
        let mut got = Vec::new();
        while bench.out.is_empty() {
            assert!(Instant::now() < deadline, "nothing failed");
            got.extend(client.read());
            bench.turn(Duration::from_millis(1));
        }
        match bench.next() {
            Completion::Failed { sock: on, op: Op::Send, error } => {
                assert_eq!((on, error), (sock, Errno::EFAULT));
            }
            other => panic!("{other:?}"),
        }
        got.extend(client.read());
        assert!(got.len() <= 4 + (1 << 16), "{} bytes of a file that has less", got.len());
        bench.driver().close(sock);
        bench.closed(sock);
        // What is still there can be sent, and nobody else has noticed.
        bench.send(well, Piece::Mapped(Mapped::new(&mapping, 9..65_536)), Then::Close);
        assert!(bench.client_reads(&mut other, 65_527) == content[9..65_536]);
        bench.closed(well);
    }
}

/// A file with some content, and its mapping.
fn mapped(len: usize) -> (Vec<u8>, Arc<Mapping>) {
    let content: Vec<u8> = (0..len).map(|at| (at / 7 % 251) as u8).collect();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&content).unwrap();
    (content, Arc::new(Mapping::new(file, len).unwrap()))
}

fn receiving_and_sending_go_side_by_side<W: World>(mut bench: Bench<W>) {
    let (mut client, sock) = bench.connected();
    bench.driver().recv(sock).unwrap();
    bench.send(sock, b"first".to_vec(), Then::Nothing);
    bench.sent(sock);
    client.write(b"up");
    assert_eq!(bench.received(sock, 2), b"up");
    bench.driver().recv(sock).unwrap();
    bench.send(sock, b"second".to_vec(), Then::Nothing);
    bench.sent(sock);
    assert_eq!(bench.client_reads(&mut client, 11), b"firstsecond");
    client.shutdown();
    bench.ended(sock);
    bench.send(sock, b"last".to_vec(), Then::Close);
    bench.closed(sock);
    assert_eq!(bench.client_reads_all(&mut client), (b"last".to_vec(), End::Closed));
}

fn the_peer_is_known<W: World>(mut bench: Bench<W>) {
    let (_client, sock) = bench.connected();
    bench.driver().peer(sock);
    let Completion::Peer { sock: on, address } = bench.next() else { panic!() };
    assert_eq!(on, sock);
    let PeerAddr::Inet(address) = *address.unwrap() else { panic!("not TCP") };
    assert!(address.ip().is_loopback());
}

fn what_the_peer_has_not_taken_is_known<W: World>(mut bench: Bench<W>) {
    const LEN: usize = 1 << 20;
    let (mut client, sock) = bench.connected();
    // Silent where the driver can: nothing but the question tells of this send.
    bench.driver().send(sock, vec![7; LEN].into(), Then::Recv).unwrap();
    bench.turn(STEP);
    assert!(bench.delivery(sock).pending > 0);
    assert_eq!(bench.client_reads(&mut client, LEN), vec![7; LEN]);
    let deadline = Instant::now() + PATIENCE;
    // The last acknowledgements may come late.
    let told = loop {
        let told = bench.delivery(sock);
        if told.pending == 0 {
            break told;
        }
        assert!(Instant::now() < deadline, "still {told:?}");
        bench.turn(STEP);
    };
    assert_eq!(told.taken, Some(LEN as u32));
}

fn a_lingering_close_reads_to_the_end<W: World>(mut bench: Bench<W>) {
    let (mut client, sock) = bench.connected();
    bench.send(sock, b"enough".to_vec(), Then::Shutdown);
    bench.sent(sock);
    assert_eq!(bench.client_reads_all(&mut client), (b"enough".to_vec(), End::Closed));
    client.write(b"but I was");
    bench.driver().recv(sock).unwrap();
    assert_eq!(bench.received(sock, 9), b"but I was");
    client.shutdown();
    bench.driver().recv(sock).unwrap();
    bench.ended(sock);
    bench.driver().close(sock);
    bench.closed(sock);
}

fn a_closed_name_is_dead_and_its_slot_lives_again<W: World>(mut bench: Bench<W>) {
    let (_client, first) = bench.connected();
    bench.driver().recv(first).unwrap();
    bench.driver().close(first);
    bench.closed(first);
    let (mut client, second) = bench.connected();
    assert_ne!(first, second);
    let before = bench.driver().stats().stale_calls;
    bench.driver().recv(first).unwrap();
    bench.send(first, b"stale".to_vec(), Then::Close);
    bench.driver().close(first);
    assert_eq!(bench.driver().stats().stale_calls, before + 3);
    bench.send(second, b"fresh".to_vec(), Then::Close);
    bench.closed(second);
    assert_eq!(bench.client_reads_all(&mut client), (b"fresh".to_vec(), End::Closed));
}

fn a_close_ends_whatever_is_asked<W: World>(mut bench: Bench<W>) {
    let large = bench.pinned(&vec![b'x'; 1_500_000]);
    let small = bench.pinned(b"small");
    for state in 0..7 {
        let (mut client, sock) = bench.connected();
        match state {
            0 => {}
            1 => bench.driver().recv(sock).unwrap(),
            2 => bench.send(sock, small.clone(), Then::Recv),
            3 => bench.send(sock, large.clone(), Then::Recv),
            4 => bench.send(sock, large.clone(), Then::Close),
            5 => bench.driver().arm(sock, small.clone()).unwrap(),
            _ => {
                bench.driver().recv(sock).unwrap();
                bench.send(sock, large.clone(), Then::Nothing);
            }
        }
        bench.turn(Duration::ZERO);
        bench.driver().close(sock);
        bench.driver().close(sock);
        bench.closed(sock);
        bench.nothing_more();
        bench.client_reads_all(&mut client);
    }
    bench.given_up(&large);
    bench.given_up(&small);
}

fn a_reset_is_a_failure_or_an_end<W: World>(mut bench: Bench<W>) {
    let large = bench.pinned(&vec![b'x'; 1_500_000]);
    for state in 0..3 {
        let (client, sock) = bench.connected();
        match state {
            0 => bench.driver().recv(sock).unwrap(),
            1 => bench.send(sock, large.clone(), Then::Recv),
            _ => bench.send(sock, large.clone(), Then::Close),
        }
        bench.turn(Duration::ZERO);
        client.reset();
        match bench.next() {
            Completion::Failed { sock: on, op, error } => {
                assert_eq!(on, sock);
                assert!(matches!(op, Op::Recv | Op::Send | Op::SendZc), "{op:?}");
                assert!(matches!(error, Errno::ECONNRESET | Errno::EPIPE), "{error}");
            }
            other => panic!("{other:?}"),
        }
        bench.nothing_more();
        bench.driver().close(sock);
        bench.closed(sock);
    }
    bench.given_up(&large);
}

fn another_thread_wakes_a_waiting_turn<W: World>(mut bench: Bench<W>) {
    for _ in 0..3 {
        let waker = bench.driver().waker();
        let thread = std::thread::spawn(move || waker.wake());
        assert!(matches!(bench.next(), Completion::Woken));
        thread.join().unwrap();
    }
}

fn accepting_pauses_and_resumes<W: World>(mut bench: Bench<W>) {
    let (_first, _) = bench.connected();
    let listener = bench.listener;
    bench.driver().pause(listener);
    bench.nothing_more();
    let _second = bench.world.connect(listener);
    bench.nothing_more();
    bench.driver().resume(listener);
    assert!(matches!(bench.next(), Completion::Accepted { .. }));
}

fn a_listener_is_left_with_what_it_had_taken<W: World>(mut bench: Bench<W>) {
    let listener = bench.listener;
    let _waiting: Vec<_> = (0..3).map(|_| bench.world.connect(listener)).collect();
    assert!(bench.driver().is_listening());
    bench.driver().leave(listener);
    for _ in 0..3 {
        assert!(matches!(bench.next(), Completion::Accepted { .. }));
    }
    bench.nothing_more();
    assert!(!bench.driver().is_listening());
    bench.driver().resume(listener);
    bench.nothing_more();
}

fn a_full_table_pauses_accepting<W: World>(mut bench: Bench<W>) {
    let mut clients: Vec<_> = (0..64).map(|_| bench.connected()).collect();
    let Completion::AcceptPaused { listener, error } = bench.next() else { panic!() };
    assert_eq!((listener, error), (bench.listener, Errno::ENFILE));
    bench.nothing_more();
    let _late = bench.world.connect(listener);
    bench.nothing_more();
    bench.driver().resume(listener);
    assert!(matches!(bench.next(), Completion::AcceptPaused { .. }), "it is still full");
    let (_, sock) = clients.pop().unwrap();
    bench.driver().close(sock);
    bench.closed(sock);
    bench.driver().resume(listener);
    assert!(matches!(bench.next(), Completion::Accepted { .. }));
}

fn receives_wait_for_buffers<W: World>(mut bench: Bench<W>) {
    let shared = |feature: &Feature| {
        feature.name == "incremental_buffers" && feature.state == FeatureState::Used
    };
    if bench.driver().info().features.iter().any(shared) {
        return eprintln!("skipped: one buffer is enough for all of them");
    }
    let mut clients: Vec<_> = (0..40).map(|_| bench.connected()).collect();
    for (client, sock) in &mut clients {
        bench.driver().recv(*sock).unwrap();
        client.write(b"x");
    }
    let mut kept = Vec::new();
    for _ in 0..32 {
        let Completion::Received { buffer, .. } = bench.next() else { panic!() };
        kept.push(buffer);
    }
    bench.nothing_more();
    assert!(bench.driver().stats().buffers_exhausted > 0);
    for buffer in kept {
        bench.driver().give_back(buffer);
    }
    for _ in 32..40 {
        let Completion::Received { buffer, .. } = bench.next() else { panic!() };
        bench.driver().give_back(buffer);
    }
}

fn an_armed_reply_goes_out_with_the_first_byte<W: World>(mut bench: Bench<W>) {
    let reply = bench.pinned(b"204");
    let (mut client, sock) = bench.connected();
    for round in 0..20 {
        bench.driver().arm(sock, reply.clone()).unwrap();
        client.write(b"GET");
        let mut got = bench.received(sock, 3).len();
        // The rest of a request is read without a reply.
        client.write(b" /");
        while got < 5 {
            bench.driver().recv(sock).unwrap();
            got += bench.received(sock, 2).len();
        }
        assert_eq!(bench.client_reads(&mut client, 3), b"204", "round {round}");
    }
    bench.nothing_more();
    assert!(client.read().is_empty(), "never two replies for one request");
    bench.given_up(&reply);
}

fn requests_that_come_together_get_one_armed_reply<W: World>(mut bench: Bench<W>) {
    let reply = bench.pinned(b"204");
    let (mut client, sock) = bench.connected();
    client.write(b"GET1GET2GET3");
    bench.driver().arm(sock, reply.clone()).unwrap();
    assert_eq!(bench.received(sock, 12), b"GET1GET2GET3");
    assert_eq!(bench.client_reads(&mut client, 3), b"204");
    // The surplus is answered by plain sends, and then it is armed again.
    bench.send(sock, reply.clone(), Then::Nothing);
    bench.sent(sock);
    bench.send(sock, reply.clone(), Then::Nothing);
    bench.sent(sock);
    bench.driver().arm(sock, reply.clone()).unwrap();
    assert_eq!(bench.client_reads(&mut client, 6), b"204204");
    bench.nothing_more();
    client.write(b"GET4");
    assert_eq!(bench.received(sock, 4), b"GET4");
    assert_eq!(bench.client_reads(&mut client, 3), b"204");
    bench.given_up(&reply);
}

fn an_armed_reply_does_not_go_out_at_the_end<W: World>(mut bench: Bench<W>) {
    let reply = bench.pinned(b"204");
    let (mut client, sock) = bench.connected();
    bench.driver().arm(sock, reply.clone()).unwrap();
    bench.turn(Duration::ZERO);
    client.shutdown();
    bench.ended(sock);
    bench.driver().close(sock);
    bench.closed(sock);
    assert_eq!(bench.client_reads_all(&mut client), (Vec::new(), End::Closed));
    bench.given_up(&reply);
    // Half-closed right after the request: the reply goes out, and then the end is seen.
    let (mut client, sock) = bench.connected();
    client.write(b"GET");
    client.shutdown();
    bench.driver().arm(sock, reply.clone()).unwrap();
    assert_eq!(bench.received(sock, 3), b"GET");
    bench.driver().arm(sock, reply.clone()).unwrap();
    bench.ended(sock);
    bench.driver().close(sock);
    bench.closed(sock);
    assert_eq!(bench.client_reads_all(&mut client), (b"204".to_vec(), End::Closed));
}

fn a_connection_of_our_own_is_like_any_other<W: World>(mut bench: Bench<W>) {
    let address = bench.world.serve();
    for _ in 0..3 {
        let sock = bench.driver().connect(&address).unwrap();
        let mut server = loop {
            match bench.world.serve_one() {
                Some(server) => break server,
                None => bench.turn(Duration::from_millis(1)),
            }
        };
        let Completion::Connected { sock: on } = bench.next() else { panic!() };
        assert_eq!(on, sock);
        bench.send(sock, b"question".to_vec(), Then::Recv);
        assert_eq!(bench.client_reads(&mut server, 8), b"question");
        server.write(b"answer");
        assert_eq!(bench.received(sock, 6), b"answer");
        bench.driver().close(sock);
        bench.closed(sock);
        assert_eq!(bench.client_reads_all(&mut server), (Vec::new(), End::Closed));
    }
    assert_eq!(bench.driver().stats().sockets, 0);
}

fn a_refused_connection_fails<W: World>(mut bench: Bench<W>) {
    let nowhere = bench.world.nowhere();
    let sock = bench.driver().connect(&nowhere).unwrap();
    bench.turn(Duration::ZERO);
    bench.world.refuse_one();
    match bench.next() {
        Completion::Failed { sock: on, op: Op::Connect, error: Errno::ECONNREFUSED } => {
            assert_eq!(on, sock);
        }
        other => panic!("{other:?}"),
    }
    bench.driver().close(sock);
    bench.closed(sock);
}

macro_rules! suite {
    ($($test:ident)*) => {
        suite!(@ linked, world::ring(LinkForm::Linked); $($test)*);
        suite!(@ unlinked, world::ring(LinkForm::Unlinked); $($test)*);
        suite!(@ multishot, world::ring(LinkForm::Multishot); $($test)*);
        suite!(@ try_first, world::ring_try_first(); $($test)*);
        suite!(@ ordinary, world::ring_ordinary(); $($test)*);
        suite!(@ zero_copy, world::ring_zero_copy(); $($test)*);
        suite!(@ old_kernel, world::ring_old(); $($test)*);
        suite!(@ coop_taskrun, world::ring_coop(); $($test)*);
        suite!(@ opted_in, world::ring_opted_in(); $($test)*);
        suite!(@ sqpoll, world::ring_sqpoll(); $($test)*);
        suite!(@ epoll, world::epoll(); $($test)*);
        mod sim {
            $(#[test]
            fn $test() {
                for seed in 0..20 {
                    eprintln!("seed {seed}");
                    super::$test(super::Bench::new(super::world::sim(seed)));
                }
            })*
        }
    };
    (@ $name:ident, $world:expr; $($test:ident)*) => {
        mod $name {
            #[allow(unused_imports)]
            use super::{LinkForm, world};
            $(#[test]
            fn $test() {
                super::$test(super::Bench::new($world));
            })*
        }
    };
}

suite! {
    requests_and_replies_alternate
    every_kind_of_payload_arrives_whole
    an_empty_payload_still_does_what_follows
    a_large_payload_arrives_whole
    pieces_of_all_kinds_arrive_in_order
    a_file_that_has_shrunk_fails_its_own_connection
    receiving_and_sending_go_side_by_side
    the_peer_is_known
    what_the_peer_has_not_taken_is_known
    a_lingering_close_reads_to_the_end
    a_closed_name_is_dead_and_its_slot_lives_again
    a_close_ends_whatever_is_asked
    a_reset_is_a_failure_or_an_end
    another_thread_wakes_a_waiting_turn
    accepting_pauses_and_resumes
    a_listener_is_left_with_what_it_had_taken
    a_full_table_pauses_accepting
    receives_wait_for_buffers
    an_armed_reply_goes_out_with_the_first_byte
    requests_that_come_together_get_one_armed_reply
    an_armed_reply_does_not_go_out_at_the_end
    a_connection_of_our_own_is_like_any_other
    a_refused_connection_fails
}
