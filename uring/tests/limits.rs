//! The process runs out of descriptors. Alone in its file, for the limit is the whole process's.

mod common;

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use common::Bench;
use ember_uring::{Completion, Driver, Epoll, Errno, Options, Then, Uring};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn accepting_recovers_when_descriptors_ran_out() {
    a_table_too_small_for_a_burst_fills_up();
    let ordinary = Options { direct: false, ..Options::default() };
    recovers(Bench::new(Uring::new(ordinary).unwrap()));
    recovers(Bench::new(Epoll::new(&Options::default()).unwrap()));
}

fn recovers<D: Driver>(mut bench: Bench<D>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..6).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The limit is on the number of the highest descriptor: the third free one must not be had.
    let probes: Vec<_> = (0..3).map(|_| File::open("/dev/null").unwrap()).collect();
    let third = probes[2].as_raw_fd() as u64;
    drop(probes);
    setrlimit(Resource::RLIMIT_NOFILE, third, hard).unwrap();
    let id = bench.driver.accept(OwnedFd::from(listener)).unwrap();
    let mut socks = vec![bench.accepted(), bench.accepted()];
    let (listener, error) = match bench.next() {
        Completion::AcceptPaused { listener, error } => (listener, error),
        other => panic!("{other:?}"),
    };
    assert_eq!((listener, error), (id, Errno::EMFILE));
    bench.driver.resume(id);
    assert!(matches!(bench.next(), Completion::AcceptPaused { .. }), "still none");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    bench.driver.resume(id);
    socks.extend((2..6).map(|_| bench.accepted()));
    for sock in socks {
        bench.driver.send(sock, b"bye".to_vec().into(), Then::Close).unwrap();
        bench.closed(sock);
    }
    for mut client in clients {
        assert_eq!(common::read_end(&mut client), b"bye");
    }
}

/// The kernel then takes a connection from the backlog that it has no place for, and drops it: the
/// price of so low a limit. The others wait.
fn a_table_too_small_for_a_burst_fills_up() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 32, hard).unwrap();
    let few = Options { sockets_max: 4, ..Options::default() };
    let driver = Uring::new(few);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let mut bench = Bench::new(driver.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    let id = bench.driver.accept(OwnedFd::from(listener)).unwrap();
    let mut socks = VecDeque::new();
    // Tells whether the socket has been closed.
    let look = |bench: &mut Bench<Uring>, socks: &mut VecDeque<_>| match bench.next() {
        Completion::Accepted { sock, .. } => {
            socks.push_back(sock);
            false
        }
        Completion::AcceptPaused { error, .. } => {
            assert_eq!(error, Errno::ENFILE);
            false
        }
        Completion::Closed { .. } => true,
        other => panic!("{other:?}"),
    };
    let mut dropped = 0;
    for client in &mut clients {
        while socks.is_empty() {
            look(&mut bench, &mut socks);
        }
        // Served in their order, but for the one that had no place and sees the end at once.
        client.set_nonblocking(true).unwrap();
        if !matches!(client.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock) {
            dropped += 1;
            continue;
        }
        client.set_nonblocking(false).unwrap();
        let sock = socks.pop_front().expect("has just been seen");
        bench.driver.send(sock, b"bye".to_vec().into(), Then::Close).unwrap();
        while !look(&mut bench, &mut socks) {}
        assert_eq!(common::read_end(client), b"bye");
        bench.driver.resume(id);
    }
    // It notices the full table with a connection in its hand: one a try, not all that had no place.
    assert!(dropped < 4, "{dropped} were dropped");
}
