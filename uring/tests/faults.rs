//! Faults, made to happen on the real ring.

mod common;

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::*;
use ember_uring::{
    Chain, Completion, Driver, Errno, FeatureState, LinkForm, Op, Options, Outcome, Payload, Piece,
    Region, Then, Uring,
};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{setsockopt, sockopt};

const FORMS: [LinkForm; 3] = [LinkForm::Linked, LinkForm::Unlinked, LinkForm::Multishot];

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

fn bench(options: Options) -> Bench<Uring> {
    Bench::new(Uring::new(options).unwrap())
}

/// A connection whose replies get stuck after a few kilobytes.
fn narrow(bench: &mut Bench<Uring>) -> (TcpStream, ember_uring::Sock) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    setsockopt(&listener, sockopt::SndBuf, &8192).unwrap();
    let address = listener.local_addr().unwrap();
    bench.driver.accept(OwnedFd::from(listener)).unwrap();
    bench.connected_to(address)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 % 251) as u8).collect()
}

#[test]
fn a_peer_that_reads_slowly_gets_every_byte_and_is_not_read_from() {
    for form in FORMS {
        let mut bench = bench(options(form));
        let (mut client, sock) = narrow(&mut bench);
        let bytes = pattern(1 << 20);
        let reply = bench.region.alloc_from(&bytes).unwrap();
        bench.driver.send(sock, reply.clone().into(), Then::Recv).unwrap();
        write(&mut client, b"next");
        assert!(bench.pending().is_empty(), "{form:?}: the reply has not gone out yet");
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 1 << 20];
            let mut at = 0;
            while at < got.len() {
                let end = got.len().min(at + 3000);
                at += client.read(&mut got[at..end]).unwrap();
            }
            (client, got)
        });
        assert_eq!(bench.received(sock), b"next");
        let (_client, got) = reader.join().unwrap();
        assert!(got == bytes, "{form:?}");
        assert!(reply.is_unique());
    }
}

#[test]
fn receives_wait_for_buffers_and_none_is_lost() {
    for form in FORMS {
        let mut bench = bench(Options { buffers: 2, ..options(form) });
        let (_, address) = bench.listen();
        let mut clients: Vec<_> = (0..8).map(|_| bench.connected_to(address)).collect();
        for (client, sock) in &mut clients {
            bench.driver.recv(*sock).unwrap();
            write(client, &sock.slot().to_be_bytes());
        }
        let mut kept = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..8 {
            if kept.len() == 2 {
                assert!(bench.pending().is_empty(), "{form:?}: there are but two buffers");
                kept.drain(..).for_each(|buffer| bench.driver.give_back(buffer));
            }
            let Completion::Received { sock, buffer } = bench.next() else { panic!("{form:?}") };
            assert_eq!(bench.driver.bytes(&buffer), sock.slot().to_be_bytes());
            seen.push(sock.slot());
            kept.push(buffer);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
        assert!(bench.driver.stats().buffers_exhausted > 0);
    }
}

#[test]
fn a_burst_beyond_the_limit_waits_and_nobody_is_reset() {
    for (direct, form) in [(false, LinkForm::Linked)].into_iter().chain(FORMS.map(|f| (true, f))) {
        let mut bench = bench(Options { sockets_max: 4, direct, ..options(form) });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // All are in the backlog before the first turn, so the kernel takes them all in it.
        let mut clients: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
        let id = bench.driver.accept(OwnedFd::from(listener)).unwrap();
        let mut socks: Vec<_> = (0..4).map(|_| bench.accepted()).collect();
        for served in 0..clients.len() {
            if served + 4 <= clients.len() {
                let Completion::AcceptPaused { listener, error } = bench.next() else { panic!() };
                assert_eq!((listener, error), (id, Errno::ENFILE), "{form:?}");
                assert!(bench.pending().is_empty(), "{form:?}: the limit is the limit");
            }
            let sock = socks.remove(0);
            bench.driver.send(sock, vec![served as u8].into(), Then::Close).unwrap();
            bench.closed(sock);
            assert_eq!(read_end(&mut clients[served]), [served as u8], "in their order");
            bench.driver.resume(id);
            if served + 4 < clients.len() {
                socks.push(bench.accepted());
            }
        }
    }
}

#[test]
fn a_listener_that_is_left_tells_of_its_burst_at_once() {
    let mut bench = bench(Options { sockets_max: 2, ..options(LinkForm::Linked) });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients: Vec<_> = (0..9).map(|_| TcpStream::connect(address).unwrap()).collect();
    let id = bench.driver.accept(OwnedFd::from(listener)).unwrap();
    let mut socks = vec![bench.accepted(), bench.accepted()];
    assert!(matches!(bench.next(), Completion::AcceptPaused { .. }));
    bench.driver.leave(id);
    assert!(bench.driver.is_listening(), "there is something to tell yet");
    socks.extend((2..9).map(|_| bench.accepted()));
    for (client, sock) in clients.iter_mut().zip(socks) {
        bench.driver.send(sock, b"bye".to_vec().into(), Then::Close).unwrap();
        bench.closed(sock);
        assert_eq!(read_end(client), b"bye");
    }
    assert!(!bench.driver.is_listening());
}

#[test]
fn an_overflowing_completion_queue_loses_nothing() {
    for form in FORMS {
        let mut bench = bench(Options { entries: 8, cq_entries: 8, ..options(form) });
        let (_, address) = bench.listen();
        let mut clients: Vec<_> = (0..60).map(|_| bench.connected_to(address)).collect();
        for (client, sock) in &mut clients {
            bench.driver.recv(*sock).unwrap();
            write(client, &sock.slot().to_be_bytes());
        }
        for (_, sock) in &clients {
            // Answers come in any order, but each comes once.
            let Completion::Received { sock: on, buffer } = bench.next() else { panic!() };
            assert_eq!(bench.driver.bytes(&buffer), on.slot().to_be_bytes());
            bench.driver.give_back(buffer);
            let _ = sock;
        }
        assert!(bench.driver.stats().cq_overflows > 0, "{form:?}");
        for (_, sock) in &clients {
            bench.driver.close(*sock);
        }
        for _ in &clients {
            assert!(matches!(bench.next(), Completion::Closed { .. }));
        }
    }
}

#[test]
fn more_operations_than_the_submission_queue_holds_go_in_parts() {
    for form in FORMS {
        let mut bench = bench(Options { entries: 8, ..options(form) });
        let (_, address) = bench.listen();
        let mut clients: Vec<_> = (0..50).map(|_| bench.connected_to(address)).collect();
        let reply = bench.region.alloc_from(b"all of you").unwrap();
        for (_, sock) in &clients {
            bench.driver.send(*sock, reply.clone().into(), Then::Close).unwrap();
        }
        for _ in &clients {
            assert!(matches!(bench.next(), Completion::Closed { .. }));
        }
        for (client, _) in &mut clients {
            assert_eq!(read_end(client), b"all of you");
        }
        assert!(reply.is_unique());
    }
}

#[test]
fn a_failing_silent_send_speaks_for_its_chain() {
    for then in [Then::Recv, Then::Shutdown, Then::Close] {
        let mut bench = bench(options(LinkForm::Linked));
        let (client, sock) = narrow(&mut bench);
        let reply = bench.region.alloc_from(&pattern(1 << 20)).unwrap();
        bench.driver.send(sock, reply.clone().into(), then).unwrap();
        bench.turn(Duration::ZERO);
        reset(client);
        let Completion::Failed { sock: on, op, error } = bench.next() else { panic!("{then:?}") };
        assert_eq!((on, op), (sock, Op::Send));
        assert!(matches!(error, Errno::ECONNRESET | Errno::EPIPE), "{error}");
        assert!(reply.is_unique(), "the payload is retired with its chain");
        let stats = bench.driver.stats().clone();
        assert_eq!(stats.cqe(Op::Recv, Outcome::Cancelled), 0, "the successors are silent");
        assert_eq!(stats.cqe(Op::Close, Outcome::Cancelled), 0);
        let chain = stats.chain(if then == Then::Recv { Chain::ReplyRecv } else { Chain::Last });
        // Part of the reply may have gone out, and the rest was then submitted once more.
        assert_eq!((chain.completed, chain.broken), (0, chain.submitted), "{then:?}");
        assert_eq!(chain.submitted > 0, then != Then::Shutdown);
        bench.driver.close(sock);
        bench.closed(sock);
    }
}

/// A close behind the last send ends the stream after its last byte, however late that is read: no
/// shutdown is needed in between.
#[test]
fn last_words_arrive_whole_with_and_without_a_shutdown() {
    for (shutdown_last, pinned) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut bench = bench(Options { shutdown_last, ..options(LinkForm::Linked) });
        let (mut client, sock) = narrow(&mut bench);
        let bytes = pattern(1 << 20);
        let payload = match pinned {
            true => Payload::from(bench.region.alloc_from(&bytes).unwrap()),
            false => Payload::from(bytes.clone()),
        };
        write(&mut client, b"the last request");
        bench.driver.recv(sock).unwrap();
        assert_eq!(bench.received(sock), b"the last request");
        bench.driver.send(sock, payload, Then::Close).unwrap();
        bench.turn(Duration::ZERO);
        let reader = std::thread::spawn(move || {
            // All that the two buffers hold is still unread when the server closes.
            let head = read(&mut client, (1 << 20) - 40_000);
            (head, client)
        });
        bench.closed(sock);
        let (mut got, mut client) = reader.join().unwrap();
        got.extend(read_end(&mut client));
        assert!(got == bytes, "{shutdown_last} {pinned}: {} bytes", got.len());
        let shutdowns = bench.driver.stats().cqe(Op::Shutdown, Outcome::Ok);
        assert_eq!(shutdowns, 0, "it is silent, or not there");
    }
}

/// Everything that can be in flight when something happens to a connection.
#[derive(Clone, Copy, Debug)]
enum State {
    Nothing,
    Receiving,
    Replied,
    Replying,
    Sending,
    SendingAndReceiving,
    LastWords,
    Lingering,
    AskingPeer,
    Armed,
    ArmedReplying,
}

const STATES: [State; 11] = [
    State::Nothing,
    State::Receiving,
    State::Replied,
    State::Replying,
    State::Sending,
    State::SendingAndReceiving,
    State::LastWords,
    State::Lingering,
    State::AskingPeer,
    State::Armed,
    State::ArmedReplying,
];

/// Brings a new connection into a state.
fn bring(bench: &mut Bench<Uring>, state: State) -> (TcpStream, ember_uring::Sock) {
    let (mut client, sock) = narrow(bench);
    let small = bench.region.alloc_from(b"small").unwrap();
    let large = bench.region.alloc_from(&pattern(1 << 20)).unwrap();
    let driver = &mut bench.driver;
    match state {
        State::Nothing => {}
        State::Receiving => driver.recv(sock).unwrap(),
        State::Replied => driver.send(sock, small.into(), Then::Recv).unwrap(),
        State::Replying => driver.send(sock, large.into(), Then::Recv).unwrap(),
        State::Sending => driver.send(sock, large.to_vec().into(), Then::Nothing).unwrap(),
        State::SendingAndReceiving => {
            driver.recv(sock).unwrap();
            driver.send(sock, large.into(), Then::Nothing).unwrap();
        }
        State::LastWords => driver.send(sock, large.into(), Then::Close).unwrap(),
        State::Lingering => driver.send(sock, small.into(), Then::Shutdown).unwrap(),
        State::AskingPeer => driver.peer(sock),
        State::Armed => driver.arm(sock, small).unwrap(),
        State::ArmedReplying => {
            driver.arm(sock, large).unwrap();
            write(&mut client, b"x");
        }
    }
    (client, sock)
}

#[test]
fn a_close_at_each_state_joins_what_is_in_flight() {
    for form in FORMS {
        for state in STATES {
            for submitted in [false, true] {
                let mut bench = bench(options(form));
                let (mut client, sock) = bring(&mut bench, state);
                if submitted {
                    bench.turn(Duration::ZERO);
                }
                bench.driver.close(sock);
                bench.drained(sock);
                assert!(bench.pending().is_empty(), "{form:?} {state:?}: nothing after Closed");
                // The client sees the end, whatever it got before.
                let end = std::io::copy(&mut client, &mut std::io::sink());
                assert!(
                    end.is_ok() || matches!(state, State::ArmedReplying),
                    "{form:?} {state:?}: {end:?}"
                );
                assert_eq!(bench.driver.stats().sockets, 0);
            }
        }
    }
}

#[test]
fn a_reset_at_each_state_is_survived() {
    for form in FORMS {
        for state in STATES {
            let mut bench = bench(options(form));
            let (client, sock) = bring(&mut bench, state);
            let noticed = match state {
                State::Nothing => false,
                State::Lingering | State::AskingPeer => {
                    bench.next();
                    false
                }
                _ => {
                    bench.turn(Duration::ZERO);
                    true
                }
            };
            reset(client);
            if !noticed {
                // Nothing is in flight that could notice: the next operation does.
                bench.driver.recv(sock).unwrap();
            }
            // A reset that meets a receive may also look like an end, on some kernels.
            loop {
                match bench.next() {
                    Completion::Failed { .. } | Completion::Ended { .. } => break,
                    Completion::Received { buffer, .. } => bench.driver.give_back(buffer),
                    other => panic!("{form:?} {state:?}: {other:?}"),
                }
            }
            bench.driver.close(sock);
            bench.drained(sock);
            assert!(bench.pending().is_empty(), "{form:?} {state:?}");
        }
    }
}

#[test]
fn a_driver_is_dropped_at_each_state() {
    for form in FORMS {
        for state in STATES {
            for submitted in [false, true] {
                let mut bench = bench(options(form));
                let (mut client, _) = bring(&mut bench, state);
                if submitted {
                    bench.turn(Duration::ZERO);
                }
                let kept = bench.region.alloc_from(b"kept").unwrap();
                let Bench { driver, region, .. } = bench;
                drop(driver);
                drop(region);
                // The socket goes with its ring, whatever was in flight on it.
                let end = client.read_to_end(&mut Vec::new());
                assert!(!matches!(end, Err(e) if e.kind() == ErrorKind::WouldBlock), "{state:?}");
                assert!(kept.is_unique());
            }
        }
    }
}

#[test]
fn a_signal_only_ends_a_turn_early() {
    extern "C" fn ignore(_: libc::c_int) {}
    let mut bench = bench(options(LinkForm::Linked));
    let (mut client, sock) = bench.connected();
    bench.driver.recv(sock).unwrap();
    // SAFETY: The handler does nothing, and no other test uses this signal.
    unsafe { signal(Signal::SIGUSR1, SigHandler::Handler(ignore)) }.unwrap();
    let thread = pthread_self();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let signaller = std::thread::spawn(move || {
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            pthread_kill(thread, Signal::SIGUSR1).unwrap();
            std::thread::yield_now();
        }
    });
    let mut out = Vec::new();
    for _ in 0..50 {
        // Would wait for ever if a signal did not end it.
        bench.driver.turn(None, &mut out).unwrap();
        assert!(out.is_empty());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    signaller.join().unwrap();
    write(&mut client, b"still here");
    assert_eq!(bench.received(sock), b"still here");
}

#[test]
fn a_linked_pair_has_one_completion() {
    let mut bench = bench(options(LinkForm::Linked));
    let reply = bench.region.alloc_from(b"pong").unwrap();
    let (mut client, sock) = bench.connected();
    bench.driver.recv(sock).unwrap();
    for _ in 0..10 {
        write(&mut client, b"ping");
        bench.received(sock);
        bench.driver.send(sock, reply.clone().into(), Then::Recv).unwrap();
        bench.turn(Duration::ZERO);
        read(&mut client, 4);
    }
    drop(client);
    bench.ended(sock);
    let stats = bench.driver.stats();
    let chain = stats.chain(Chain::ReplyRecv);
    assert_eq!((chain.submitted, chain.completed, chain.broken), (10, 10, 0));
    assert_eq!(stats.cqe(Op::Send, Outcome::Ok), 0, "sends are silent");
    assert_eq!(stats.cqe(Op::Recv, Outcome::Ok), 10);
    assert!(reply.is_unique(), "the driver has given up every reply");
}

#[test]
fn tcp6_and_unix_listeners_are_served_alike() {
    for form in FORMS {
        let mut bench = bench(options(form));
        let (_, address) = bench.listen_at("[::1]:0");
        let (mut client, sock) = bench.connected_to(address);
        write(&mut client, b"six");
        bench.driver.recv(sock).unwrap();
        assert_eq!(bench.received(sock), b"six");
        let (listener, connect) = unix_pair();
        // Whoever made it may have made it non-blocking, which the ring must not see.
        listener.set_nonblocking(true).unwrap();
        let listener = bench.driver.accept(OwnedFd::from(listener)).unwrap();
        bench.turn(Duration::ZERO);
        let mut client = connect();
        let Completion::Accepted { listener: on, sock } = bench.next() else { panic!() };
        assert_eq!(on, listener);
        bench.driver.peer(sock);
        let Completion::Peer { address, .. } = bench.next() else { panic!() };
        assert_eq!(*address.unwrap(), ember_uring::PeerAddr::Unix);
        write(&mut client, b"unix");
        bench.driver.recv(sock).unwrap();
        assert_eq!(bench.received(sock), b"unix");
        bench.driver.send(sock, b"reply".to_vec().into(), Then::Close).unwrap();
        bench.closed(sock);
        assert_eq!(read_end(&mut client), b"reply");
    }
}

#[test]
fn memory_sent_without_a_copy_is_kept_until_the_notification() {
    for (registered, gathered) in [(false, false), (true, false), (false, true), (true, true)] {
        for then in [Then::Nothing, Then::Recv, Then::Shutdown, Then::Close] {
            let mut bench =
                bench(Options { zero_copy_min: Some(4096), ..options(LinkForm::Linked) });
            if registered {
                bench.driver.register(&bench.region).unwrap();
            }
            let (mut client, sock) = narrow(&mut bench);
            let bytes = pattern(1 << 20);
            let reply = bench.region.alloc_from(&bytes).unwrap();
            let payload = if gathered {
                let parts = [reply.slice(..100), reply.slice(100..)];
                Payload::from(parts.map(Piece::Pinned).into_iter().collect::<Vec<_>>())
            } else {
                Payload::from(reply.clone())
            };
            bench.driver.send(sock, payload, then).unwrap();
            bench.turn(Duration::ZERO);
            assert!(!reply.is_unique(), "the network still needs it");
            let reader = std::thread::spawn(move || (read(&mut client, 1 << 20), client));
            match then {
                Then::Nothing | Then::Shutdown => bench.sent(sock),
                Then::Close => bench.closed(sock),
                Then::Recv => {}
            }
            let deadline = std::time::Instant::now() + PATIENCE;
            while !reply.is_unique() {
                assert!(std::time::Instant::now() < deadline, "no notification");
                bench.turn(Duration::from_millis(5));
            }
            let (got, mut client) = reader.join().unwrap();
            assert!(got == bytes, "{then:?}");
            if then == Then::Recv {
                write(&mut client, b"more");
                assert_eq!(bench.received(sock), b"more");
            }
            let stats = bench.driver.stats();
            assert_eq!(stats.cqe(Op::Send, Outcome::Ok), 0, "nothing went by copy");
            assert!(stats.cqe(Op::SendZc, Outcome::Ok) >= 1);
        }
    }
}

#[test]
fn a_reset_gives_memory_back_that_was_being_sent_without_a_copy() {
    for gathered in [false, true] {
        let mut bench = bench(Options { zero_copy_min: Some(4096), ..options(LinkForm::Linked) });
        let (client, sock) = narrow(&mut bench);
        let reply = bench.region.alloc_from(&pattern(1 << 20)).unwrap();
        let payload = if gathered {
            let parts = [reply.slice(..100), reply.slice(100..)];
            Payload::from(parts.map(Piece::Pinned).into_iter().collect::<Vec<_>>())
        } else {
            Payload::from(reply.clone())
        };
        bench.driver.send(sock, payload, Then::Recv).unwrap();
        bench.turn(Duration::ZERO);
        assert!(!reply.is_unique(), "the network still needs it");
        drop(client); // with unread bytes, so by a reset
        match bench.next() {
            Completion::Failed { sock: on, .. } => assert_eq!(on, sock),
            other => panic!("not failed: {other:?}"),
        }
        bench.driver.close(sock);
        bench.closed(sock);
        let deadline = std::time::Instant::now() + PATIENCE;
        while !reply.is_unique() {
            assert!(std::time::Instant::now() < deadline, "no notification");
            bench.turn(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_restricted_ring_still_does_everything_and_no_more_regions_than_there_is_room() {
    let mut bench = bench(Options { restrict: true, ..options(LinkForm::Linked) });
    let regions: Vec<_> = (0..17).map(|_| Region::new(4096).unwrap()).collect();
    for region in &regions[..16] {
        bench.driver.register(region).unwrap();
    }
    assert!(bench.driver.register(&regions[16]).is_err());
    let (mut client, sock) = bench.connected();
    bench.driver.send(sock, b"fine".to_vec().into(), Then::Close).unwrap();
    bench.closed(sock);
    assert_eq!(read_end(&mut client), b"fine");
}

#[test]
fn bad_options_are_named() {
    for bad in [
        Options { entries: 2, ..Options::default() },
        Options { cq_entries: 8, ..Options::default() },
        Options { buffers: 3, ..Options::default() },
        Options { buffer_size: 0, ..Options::default() },
    ] {
        let error = Uring::new(bad).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}

#[test]
fn a_socket_that_cannot_send_without_a_copy_sends_with_one() {
    for then in [Then::Nothing, Then::Recv, Then::Shutdown, Then::Close] {
        let mut bench = bench(Options { zero_copy_min: Some(1), ..options(LinkForm::Linked) });
        let (listener, connect) = unix_pair();
        bench.driver.accept(OwnedFd::from(listener)).unwrap();
        bench.turn(Duration::ZERO);
        let mut client = connect();
        let sock = bench.accepted();
        let reply = bench.region.alloc_from(b"copied").unwrap();
        bench.driver.send(sock, reply.clone().into(), then).unwrap();
        match then {
            Then::Nothing | Then::Shutdown => bench.sent(sock),
            Then::Close => bench.closed(sock),
            Then::Recv => {
                write(&mut client, b"next");
                assert_eq!(bench.received(sock), b"next");
            }
        }
        assert_eq!(read(&mut client, 6), b"copied");
        assert!(reply.is_unique());
    }
}

#[test]
fn what_the_kernel_lacks_is_said_and_done_otherwise() {
    let names = ["no_sqarray", "fixed_fd_install", "registered_ring_fd", "defer_taskrun"];
    let avoid = names.map(str::to_owned).to_vec();
    let driver = Uring::new(Options { avoid, ..options(LinkForm::Linked) }).unwrap();
    let features = driver.info().features;
    for name in names {
        let feature = features.iter().find(|feature| feature.name == name).unwrap();
        assert!(
            matches!(feature.state, FeatureState::Absent { instead } if !instead.is_empty()),
            "{feature:?}"
        );
    }
    let direct = features.iter().find(|feature| feature.name == "direct_descriptors").unwrap();
    assert!(matches!(direct.state, FeatureState::Absent { .. }), "peers could not be asked for");
}
