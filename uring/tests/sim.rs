//! A small server on the simulated driver, under many seeds: whatever breaks, replies match
//! requests in order, every operation ends once, and nothing is left over.

mod common;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::server::{FILLER, Random, Server, Talk};
use ember_uring::{Completion, Driver, Options, Region, Sim, SimOptions};

const BUFFERS: u16 = 4;
const CLIENTS: u8 = 12;
/// A turn that makes no progress at all is followed by one that does, long before this many.
const TURNS_MAX: usize = 20_000;

fn run(seed: u64, rough: bool) {
    let sim = if rough { SimOptions::rough(seed) } else { SimOptions::gentle(seed) };
    let options =
        Options { buffers: BUFFERS, buffer_size: 16, sockets_max: 8, ..Options::default() };
    let mut driver = Sim::new(&options, sim).unwrap();
    let net = driver.net();
    let listener = driver.accept(OwnedFd::from(File::open("/dev/null").unwrap())).unwrap();
    let region = Region::new(4096).unwrap();
    let filler = region.alloc_from(FILLER).unwrap();
    let (kills, leaves) = if rough { (5, 5) } else { (0, 0) };
    let mut server = Server::new(driver, listener, filler, kills, seed);
    let mut random = Random(!seed);
    let mut talks: Vec<_> =
        (0..CLIENTS).map(|number| Talk::new(net.connect(listener), number, &mut random)).collect();
    for turn in 0.. {
        assert!(turn < TURNS_MAX, "no end in sight");
        server.turn(Duration::from_millis(10));
        talks.iter_mut().for_each(|talk| talk.step(&mut random, leaves, !rough));
        let idle = server.connections.is_empty() && net.connections() == 0;
        if idle && talks.iter().all(|talk| talk.client.is_none()) {
            break;
        }
    }
    assert_eq!(server.driver.stats().sockets, 0);
    assert_eq!(server.driver.buffers_free(), usize::from(BUFFERS));
    assert!(server.filler.is_unique(), "every payload has been given up");
}

#[test]
fn replies_match_requests_under_any_seed() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1000);
    let first = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..seeds, |seed: u64| seed..seed + 1);
    for seed in seeds {
        for rough in [false, true] {
            let run = std::panic::catch_unwind(|| run(seed, rough));
            if let Err(panic) = run {
                eprintln!("failed with SEED={seed}, rough={rough}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let trace = |seed| {
        let mut driver = Sim::new(&Options::default(), SimOptions::rough(seed)).unwrap();
        let net = driver.net();
        let listener = driver.accept(OwnedFd::from(File::open("/dev/null").unwrap())).unwrap();
        let mut clients: Vec<_> = (0..4).map(|_| net.connect(listener)).collect();
        let mut trace = Vec::new();
        for _ in 0..200 {
            let mut out = Vec::new();
            driver.turn(None, &mut out).unwrap();
            for completion in out {
                trace.push(format!("{:?} {completion:?}", net.now()).replace("driver", ""));
                match completion {
                    Completion::Accepted { sock, .. } => drop(driver.recv(sock)),
                    Completion::Received { sock, buffer } => {
                        driver.give_back(buffer);
                        drop(driver.recv(sock));
                    }
                    Completion::AcceptPaused { listener, .. } => driver.resume(listener),
                    _ => {}
                }
            }
            clients.iter_mut().for_each(|client| client.write(b"abc"));
        }
        // A buffer names its driver, which is another one each time.
        trace.iter().map(|line| line.split(", buffer").next().unwrap().to_owned()).collect()
    };
    let (once, again, other): (Vec<_>, Vec<_>, Vec<_>) = (trace(7), trace(7), trace(8));
    assert!(once.len() > 20);
    assert_eq!(once, again);
    assert_ne!(once, other);
}
