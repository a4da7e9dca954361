//! Limits of rate, counted over all workers in memory that the supervisor keeps: they outlive a
//! worker, a reload and an upgrade.
//!
//! The generic cell rate algorithm: of each client one time is kept, at which its bucket would be
//! empty again. A request moves it on by the interval of the rate, and is refused where it is too far
//! ahead. Clients are told apart by a keyed hash, so that nobody can choose whose place is taken.
//!
//! The table is bounded: a hash has eight places, two cache lines. A new client gets one that is free
//! or whose time has passed; where there is none, the one whose time is nearest, which forgets that
//! client's last few requests. Places change hands without a lock: a client that two threads see for
//! the first time at once, while a third takes a place beside it, may for a moment have two.

use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use ember::Request;
use ember_metrics::Words;
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::client::client_address;
use crate::config;

/// "LIMIT" and the version of the layout.
const MARK: u64 = u64::from_be_bytes(*b"LIMIT\0\0\x01");
/// Mark, two words of seed, and room.
const HEAD: usize = 16;
const SETS: usize = 1 << 14;
const PLACES: usize = 8;
/// Who it is, and the time.
const PLACE_WORDS: usize = 2;

/// The times of all clients.
#[derive(Debug)]
pub(crate) struct Table {
    words: Arc<Words>,
    seed: (u64, u64),
    /// Proxies whose word about their clients counts.
    trusted: Vec<IpNet>,
}

/// One route's limit.
#[derive(Debug)]
pub(crate) struct Limit {
    route: String,
    who: Who,
    interval_ns: u64,
    /// How far ahead of now a client's time may be.
    tolerance_ns: u64,
    words: String,
}

#[derive(Debug)]
enum Who {
    Address,
    Route,
    Header(String),
}

/// New memory for all limits of a server; nothing of it is resident before it is used.
///
/// # Errors
/// The system's refusal.
pub(crate) fn memory() -> io::Result<Words> {
    let words = Words::create("emberd-limits", HEAD + SETS * PLACES * PLACE_WORDS)?;
    for word in &words[1..3] {
        word.store(RandomState::new().hash_one(0), Relaxed);
    }
    words[0].store(MARK, Release);
    Ok(words)
}

impl Table {
    /// The table in this memory; none where it is of another layout.
    pub(crate) fn new(words: Arc<Words>, trusted: &[IpNet]) -> Option<Table> {
        let fits = words.len() == HEAD + SETS * PLACES * PLACE_WORDS;
        if !fits || words[0].load(Acquire) != MARK {
            return None;
        }
        let seed = (words[1].load(Relaxed), words[2].load(Relaxed));
        Some(Table { words, seed, trusted: trusted.to_vec() })
    }

    /// Counts one request of a client at this time.
    ///
    /// # Errors
    /// Nanoseconds after which one would be let through.
    fn take(&self, client: u128, limit: &Limit, now_ns: u64) -> Result<(), u64> {
        let set = HEAD + (client as usize % SETS) * PLACES * PLACE_WORDS;
        // Zero is nobody.
        let tag = ((client >> 64) as u64).max(1);
        let time = &self.words[self.place(set, tag, now_ns) + 1];
        let mut was = time.load(Acquire);
        loop {
            let from = was.max(now_ns);
            let ahead_ns = from - now_ns;
            if ahead_ns > limit.tolerance_ns {
                return Err(ahead_ns - limit.tolerance_ns);
            }
            match time.compare_exchange_weak(was, from + limit.interval_ns, AcqRel, Acquire) {
                Ok(_) => return Ok(()),
                Err(is) => was = is,
            }
        }
    }

    /// Where a client's place is, or is made.
    fn place(&self, set: usize, tag: u64, now_ns: u64) -> usize {
        let place = |at: usize| set + at * PLACE_WORDS;
        loop {
            let mut oldest = (u64::MAX, 0, 0);
            for at in (0..PLACES).map(place) {
                let is = self.words[at].load(Acquire);
                if is == tag {
                    return at;
                }
                // What has passed is all the same: the first such is taken by all who look.
                let time = if is == 0 { 0 } else { self.words[at + 1].load(Acquire).max(now_ns) };
                if time < oldest.0 {
                    oldest = (time, at, is);
                }
            }
            let (time, at, was) = oldest;
            if self.words[at].compare_exchange(was, tag, AcqRel, Acquire).is_ok() {
                if time > now_ns {
                    // The client before was not through: this one begins anew.
                    let _ = self.words[at + 1].compare_exchange(time, now_ns, AcqRel, Acquire);
                }
                return at;
            }
        }
    }

    fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.seed.0, self.seed.1)
    }
}

impl Limit {
    pub(crate) fn new(route: &str, config: &config::RateLimit) -> Limit {
        let rate = config.rate.max(1);
        let burst = config.burst.unwrap_or(rate).max(1);
        let per_ns = u64::try_from(config.per.as_nanos()).unwrap_or(u64::MAX);
        let interval_ns = (per_ns / u64::from(rate)).max(1);
        let who = match config.key.split_once(':') {
            Some((_, name)) => Who::Header(name.to_ascii_lowercase()),
            None if config.key == "route" => Who::Route,
            None => Who::Address,
        };
        let of = match &who {
            Who::Address => "of an address".to_owned(),
            Who::Route => "in all".to_owned(),
            Who::Header(name) => format!("of one {name}"),
        };
        let per = humantime::format_duration(config.per);
        Limit {
            route: route.to_owned(),
            who,
            interval_ns,
            tolerance_ns: interval_ns.saturating_mul(u64::from(burst) - 1),
            words: format!("{rate} requests each {per} {of}, {burst} at once"),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// Seconds after which its client may ask again.
    pub(crate) async fn check(&self, table: &Table, request: &Request) -> Result<(), u64> {
        let mut hasher = table.hasher();
        self.route.hash(&mut hasher);
        match &self.who {
            Who::Address => match request.peer().await {
                Ok(peer) => {
                    let client = client_address(&peer, &table.trusted, request.headers());
                    client.map(network).hash(&mut hasher);
                }
                // Nobody is there to get the reply.
                Err(_) => return Ok(()),
            },
            Who::Header(name) => request.header(name).hash(&mut hasher),
            Who::Route => hasher.write_u8(0),
        }
        let client = hasher.finish128().as_u128();
        let wait = table.take(client, self, now_ns());
        wait.map_err(|wait_ns| wait_ns.div_ceil(1_000_000_000).max(1))
    }

    /// In words.
    pub(crate) fn words(&self) -> &str {
        &self.words
    }
}

/// What counts as one client: whoever has one IPv6 address has 2^64 of them.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        IpAddr::V4(_) => client,
    }
}

/// The same in all processes of a host.
fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        seconds * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;

    const NOW: u64 = 1_000_000_000_000;

    fn table() -> Table {
        Table::new(Arc::new(memory().unwrap()), &[]).unwrap()
    }

    fn limit(rate: u32, burst: u32) -> Limit {
        let per = Duration::from_secs(1);
        let config = config::RateLimit { key: "ip".to_owned(), rate, per, burst: Some(burst) };
        Limit::new("route", &config)
    }

    #[test]
    fn a_burst_goes_through_and_then_the_rate() {
        let (table, limit) = (table(), limit(10, 5));
        for _ in 0..5 {
            assert_eq!(table.take(7, &limit, NOW), Ok(()));
        }
        assert_eq!(table.take(7, &limit, NOW), Err(100_000_000));
        assert_eq!(table.take(7, &limit, NOW + 40_000_000), Err(60_000_000));
        assert_eq!(table.take(8, &limit, NOW), Ok(()), "another client");
        // A token bucket counted in whole numbers is the oracle.
        let (mut tokens_ns, mut last) = (0_u64, NOW);
        for step in 0..2_000_u64 {
            let now = NOW + step * 7_000_000;
            tokens_ns = (tokens_ns + (now - last)).min(5 * 100_000_000);
            last = now;
            let expected = tokens_ns >= 100_000_000;
            if expected {
                tokens_ns -= 100_000_000;
            }
            assert_eq!(table.take(7, &limit, now).is_ok(), expected, "step {step}");
        }
    }

    #[test]
    fn all_who_map_it_count_together() {
        let one = Arc::new(memory().unwrap());
        let other = Words::from_fd(one.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let tables = [one, Arc::new(other)].map(|words| Table::new(words, &[]).unwrap());
        let allowed = AtomicU32::new(0);
        let limit = limit(1, 1000);
        std::thread::scope(|scope| {
            for table in tables.iter().cycle().take(4) {
                scope.spawn(|| {
                    for _ in 0..500 {
                        if table.take(42, &limit, NOW).is_ok() {
                            allowed.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(allowed.into_inner(), 1000, "of 2000");
    }

    #[test]
    fn a_full_set_forgets_whoever_is_nearest_to_its_end() {
        let (table, limit) = (table(), limit(10, 3));
        // All of these are of one set; the last one asks once, the others twice.
        let client = |number: u128| (number << 64) | 5;
        for number in 1..=8 {
            let times = if number == 8 { 1 } else { 2 };
            for _ in 0..times {
                assert_eq!(table.take(client(number), &limit, NOW), Ok(()));
            }
        }
        for _ in 0..3 {
            assert_eq!(table.take(client(9), &limit, NOW), Ok(()), "begins anew");
        }
        assert!(table.take(client(9), &limit, NOW).is_err());
        for number in 1..=7 {
            assert_eq!(table.take(client(number), &limit, NOW), Ok(()), "{number}: its third");
            assert!(table.take(client(number), &limit, NOW).is_err(), "{number}");
        }
        // What has passed makes room before what has not.
        let later = NOW + 10_000_000_000;
        assert_eq!(table.take(client(9), &limit, later), Ok(()));
        assert_eq!(table.take(client(10), &limit, later), Ok(()));
        assert_eq!(table.take(client(9), &limit, later), Ok(()));
        assert_eq!(table.take(client(9), &limit, later), Ok(()));
        assert!(table.take(client(9), &limit, later).is_err(), "its place was not taken");
    }

    #[test]
    fn neighbours_in_a_network_are_one_client() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn foreign_memory_is_refused() {
        assert!(Table::new(Arc::new(Words::create("test", 512).unwrap()), &[]).is_none());
    }
}
