//! The server of the simulation on real sockets, with few buffers, short queues, clients that leave
//! and connections that are closed for no reason.

mod common;

use std::time::{Duration, Instant};

use common::PATIENCE;
use common::server::{FILLER, Random, Server, Talk};
use common::world::{Real, World};
use ember_uring::{Driver, Epoll, LinkForm, Options, Outcome, Region, Stats, Uring};

const CLIENTS: u8 = 24;
const SEEDS: u64 = 15;

fn tight() -> Options {
    Options {
        entries: 8,
        cq_entries: 16,
        sockets_max: 16,
        buffers: 4,
        buffer_size: 16,
        ..Options::default()
    }
}

fn run<D: Driver>(make: impl Fn() -> D) {
    for seed in 0..SEEDS {
        for (kills, leaves) in [(0, 0), (20, 20)] {
            run_one(make(), seed, kills, leaves);
        }
    }
}

fn run_one<D: Driver>(driver: D, seed: u64, kills: u64, leaves: u64) {
    let mut world = Real::new(driver);
    let listener = world.listen();
    let mut random = Random(seed);
    let mut talks: Vec<_> = (0..CLIENTS)
        .map(|number| Talk::new(world.connect(listener), number, &mut random))
        .collect();
    let region = Region::new(4096).unwrap();
    let filler = region.alloc_from(FILLER).unwrap();
    let mut server = Server::new(world.into_driver(), listener, filler, kills, !seed);
    let deadline = Instant::now() + PATIENCE;
    // More connect than there are slots for: some may be taken from the backlog and dropped.
    while talks.iter().any(|talk| talk.client.is_some()) || !server.connections.is_empty() {
        assert!(Instant::now() < deadline, "seed {seed}: no end in sight");
        server.turn(Duration::from_micros(200));
        talks.iter_mut().for_each(|talk| talk.step(&mut random, leaves, false));
    }
    let stats: &Stats = server.driver.stats();
    assert_eq!(stats.sockets, 0, "seed {seed}");
    assert_eq!(stats.stale_calls, 0, "seed {seed}");
    let failed: u64 =
        stats.cqes.iter().map(|by_outcome| by_outcome[Outcome::Failed as usize]).sum();
    assert!(
        failed <= stats.cqe(ember_uring::Op::Cancel, Outcome::Failed),
        "seed {seed}: {stats:?}"
    );
    while !server.filler.is_unique() {
        assert!(Instant::now() < deadline, "seed {seed}: a payload is still in use");
        server.turn(Duration::from_millis(1));
    }
}

macro_rules! stress {
    ($($name:ident: $options:expr;)*) => {
        $(#[test]
        fn $name() {
            run(|| Uring::new($options).unwrap());
        })*
    };
}

stress! {
    linked: tight();
    unlinked: Options { form: LinkForm::Unlinked, ..tight() };
    multishot: Options { form: LinkForm::Multishot, ..tight() };
    try_first: Options { poll_first: false, ..tight() };
    ordinary: Options { direct: false, ..tight() };
    zero_copy: Options { zero_copy_min: Some(1), ..tight() };
    incremental: Options { incremental: true, ..tight() };
    coop: Options { avoid: vec!["defer_taskrun".to_owned()], ..tight() };
    no_shutdown: Options { shutdown_last: false, ..tight() };
}

#[test]
fn epoll() {
    run(|| Epoll::new(&tight()).unwrap());
}
