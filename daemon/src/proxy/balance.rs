//! Which upstream a request goes to.

use super::health::Standing;

/// How upstreams are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The one with the fewest requests under way; among equals, the next in turn.
    LeastLoaded {
        /// Any number that differs from call to call.
        turn: usize,
    },
    /// The one that this key belongs to, as long as it can be asked (rendezvous hashing: where an
    /// upstream comes or goes, only its own keys move).
    Hash {
        /// The hash of the request's key.
        key: u64,
    },
}

/// What is known of an upstream when choosing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Whether to ask it.
    pub(crate) standing: Standing,
    /// Requests under way to it.
    pub(crate) load: u32,
    /// What it is told apart by in hashing, the same in every process.
    pub(crate) hash: u64,
    /// It was tried for this request.
    pub(crate) tried: bool,
}

/// The number of the upstream to ask, if any can be. One that was tried before is asked again only
/// where no other is up; where none is up, the one that has been doubtful the longest.
pub(crate) fn choose(
    candidates: impl ExactSizeIterator<Item = Candidate>,
    choice: Choice,
) -> Option<usize> {
    let count = candidates.len();
    let mut best: Option<(Rank, usize)> = None;
    for (at, candidate) in candidates.enumerate() {
        let Some(rank) = rank(&candidate, at, count, choice) else { continue };
        if best.as_ref().is_none_or(|(of, _)| rank < *of) {
            best = Some((rank, at));
        }
    }
    best.map(|(_, at)| at)
}

/// Lower is better.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    doubtful_until_ms: u64,
    tried: bool,
    by_choice: u64,
    turn: usize,
}

fn rank(candidate: &Candidate, at: usize, count: usize, choice: Choice) -> Option<Rank> {
    let doubtful_until_ms = match candidate.standing {
        Standing::Up => 0,
        Standing::Doubtful(until) => until,
        Standing::Down => return None,
    };
    let (by_choice, turn) = match choice {
        Choice::LeastLoaded { turn } => {
            (u64::from(candidate.load), (at + count - turn % count) % count)
        }
        Choice::Hash { key } => (mix(key ^ candidate.hash), at),
    };
    Some(Rank { doubtful_until_ms, tried: candidate.tried, by_choice, turn })
}

/// Spreads the bits of a number over all of it, with one result for each (the finaliser of
/// SplitMix64).
pub(crate) fn mix(mut number: u64) -> u64 {
    number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of bytes that is the same in every process and version (FNV-1a, then mixed).
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(load: u32, name: &str) -> Candidate {
        Candidate { standing: Standing::Up, load, hash: hash(name.as_bytes()), tried: false }
    }

    fn least(candidates: &[Candidate], turn: usize) -> Option<usize> {
        choose(candidates.iter().copied(), Choice::LeastLoaded { turn })
    }

    #[test]
    fn the_least_loaded_is_asked_and_equals_take_turns() {
        let mut all = [up(2, "a"), up(1, "b"), up(1, "c")];
        assert_eq!(
            [0, 1, 2, 3].map(|turn| least(&all, turn)),
            [Some(1), Some(1), Some(2), Some(1)]
        );
        all[1].tried = true;
        assert_eq!(least(&all, 0), Some(2));
        all[2].tried = true;
        assert_eq!(least(&all, 0), Some(0), "a busy one before one that was tried");
        all[0].tried = true;
        assert_eq!(least(&all, 1), Some(1));
    }

    #[test]
    fn the_standing_counts_before_all_else() {
        let mut all = [up(9, "a"), up(0, "b"), up(0, "c")];
        all[1].standing = Standing::Down;
        all[2].standing = Standing::Doubtful(5);
        assert_eq!(least(&all, 0), Some(0));
        all[0].standing = Standing::Doubtful(7);
        assert_eq!(least(&all, 0), Some(2), "the one that comes back first");
        all[0].standing = Standing::Down;
        all[2].standing = Standing::Down;
        assert_eq!(least(&all, 0), None);
        assert_eq!(least(&[], 0), None);
    }

    #[test]
    fn a_key_stays_where_it_is_when_others_go() {
        let names = ["a", "b", "c", "d"];
        let of = |key: u64, down: Option<usize>| {
            let all = names.iter().enumerate().map(|(at, name)| Candidate {
                standing: if down == Some(at) { Standing::Down } else { Standing::Up },
                ..up(at as u32, name)
            });
            choose(all, Choice::Hash { key: mix(key) }).unwrap()
        };
        let mut counts = [0; 4];
        for key in 0..4000 {
            let home = of(key, None);
            counts[home] += 1;
            let (away, other) = (of(key, Some(home)), of(key, Some((home + 1) % 4)));
            assert!(away != home && other == home);
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
