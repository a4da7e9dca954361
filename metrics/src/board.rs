//! What the supervisor lets every reader of the counter pages know: the names, the processes,
//! and facts that nobody counts. It stands in the shared memory itself, so that a worker that is
//! asked for the metrics shows the whole server as it is now, without asking anybody.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::catalogue::{Family, Kind};
use crate::names::{Names, escape, unescape};
use crate::render::Facts;

/// What is needed to make sense of the counter pages.
#[derive(Clone, Debug, Default)]
pub struct Board {
    /// The label values.
    pub names: Names,
    /// The server's processes, of which the `process_*` families tell.
    pub pids: Vec<u32>,
    /// Samples that are in no page.
    pub facts: Facts,
}

/// Most bytes that a board may take as text. There are two copies; only what is used is resident.
pub const BOARD_BYTES_MAX: usize = 4 << 20;

pub(crate) const SLOT_WORDS: usize = 1 + BOARD_BYTES_MAX / size_of::<u64>();

const HEADER: &str = "ember-board 1";
const NAMES: &str = "names";

/// Attempts of a reader at a copy that the writer leaves alone meanwhile.
const ATTEMPTS: usize = 64;

impl Board {
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for pid in &self.pids {
            let _ = writeln!(text, "pid\t{pid}");
        }
        for (family, labels, value) in self.facts.samples() {
            let _ = write!(text, "fact\t{}\t{value}", *family as u16);
            for label in labels {
                text.push('\t');
                escape(label, &mut text);
            }
            text.push('\n');
        }
        text + NAMES + "\n" + &self.names.to_text()
    }

    /// Reads what [`Board::to_text`] wrote; none where it is something else.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix(HEADER)?.strip_prefix('\n')?;
        let mut board = Self::default();
        loop {
            let (line, after) = rest.split_once('\n')?;
            rest = after;
            let mut fields = line.split('\t');
            match fields.next()? {
                NAMES => break,
                "pid" => board.pids.push(fields.next()?.parse().ok()?),
                "fact" => {
                    let family = Family::from_number(fields.next()?.parse().ok()?)?;
                    let value = fields.next()?.parse().ok()?;
                    let labels: Vec<String> = fields.map(unescape).collect::<Option<_>>()?;
                    let description = family.description();
                    let fits = labels.len() == description.labels.len();
                    if !fits || description.kind == Kind::Histogram {
                        return None;
                    }
                    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                    board.facts.add(family, &labels, value);
                }
                _ => return None,
            }
        }
        board.names = Names::from_text(rest).ok()?;
        Some(board)
    }
}

/// Writes the slot that is not current and makes it current. A writer that dies on the way
/// leaves the other one as it was. False where the text is too long.
pub(crate) fn write(turn: &AtomicU64, slots: &[AtomicU64], text: &str) -> bool {
    if text.len() > BOARD_BYTES_MAX {
        return false;
    }
    let next = turn.load(Ordering::Relaxed).wrapping_add(1);
    // A reader that sees any of the words below sees with them that its turn is over.
    fence(Ordering::Release);
    let slot = slot(slots, next);
    slot[0].store(text.len() as u64, Ordering::Relaxed);
    for (word, bytes) in slot[1..].iter().zip(text.as_bytes().chunks(size_of::<u64>())) {
        let mut padded = [0; size_of::<u64>()];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded), Ordering::Relaxed);
    }
    turn.store(next, Ordering::Release);
    true
}

/// A copy of the current slot's text; none where nothing was ever written, or it is damaged.
pub(crate) fn read(turn: &AtomicU64, slots: &[AtomicU64]) -> Option<String> {
    for _ in 0..ATTEMPTS {
        let current = turn.load(Ordering::Acquire);
        if current == 0 {
            return None;
        }
        let slot = slot(slots, current);
        let length = usize::try_from(slot[0].load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let length = length.min(BOARD_BYTES_MAX);
        let words = &slot[1..=length.div_ceil(size_of::<u64>())];
        let mut bytes: Vec<u8> =
            words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        bytes.truncate(length);
        // The writer touches this slot again only after the turn has changed.
        fence(Ordering::Acquire);
        if turn.load(Ordering::Relaxed) == current {
            return String::from_utf8(bytes).ok();
        }
    }
    None
}

fn slot(slots: &[AtomicU64], turn: u64) -> &[AtomicU64] {
    let (even, odd) = slots.split_at(SLOT_WORDS);
    if turn.is_multiple_of(2) { even } else { odd }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::Pages;

    fn board() -> Board {
        let mut board = Board { pids: vec![7, 4_000_000], ..Board::default() };
        board.names.intern("/tab\there\nand\\there");
        board.facts.backend("epoll", "tab\there\nline \\t ü").build("1.0");
        board.facts.add(Family::TuneDrift, &["net.core.somaxconn"], 1.0);
        board
    }

    #[test]
    fn text_comes_back() {
        let text = board().to_text();
        let again = Board::from_text(&text).unwrap();
        assert_eq!(again.to_text(), text);
        assert_eq!((again.pids, again.names.len()), (vec![7, 4_000_000], 3));
        assert_eq!(again.facts.samples(), board().facts.samples());
    }

    #[test]
    fn every_cut_text_is_refused_or_whole() {
        let text = board().to_text();
        let ends = (0..text.len()).filter(|end| text.is_char_boundary(*end));
        let names_at = text.find("unmatched").unwrap();
        for end in ends.filter(|end| *end < names_at) {
            assert!(Board::from_text(&text[..end]).is_none(), "{end}");
        }
        for odd in ["fact\t9999\t1", "fact\t1\t1\ta\tb", "fact\t24\t1", "fact\t24\tx\tv", "pid\t-1"]
        {
            let text = format!("{HEADER}\n{odd}\n{NAMES}\n{}", Names::new().to_text());
            assert!(Board::from_text(&text).is_none(), "{odd}");
        }
    }

    #[test]
    fn the_latest_post_is_read() {
        let pages = Pages::create(1, 512).unwrap();
        assert!(pages.board().pids.is_empty());
        for pid in 1..=5 {
            pages.post(&Board { pids: vec![pid], ..board() }).unwrap();
            let there = Pages::from_fd(pages.as_fd().try_clone_to_owned().unwrap()).unwrap();
            assert_eq!(there.board().pids, [pid]);
        }
        let mut large = board();
        large.facts.build(&"x".repeat(BOARD_BYTES_MAX));
        assert!(pages.post(&large).is_err());
        assert_eq!(pages.board().pids, [5]);
    }

    #[test]
    fn a_reader_beside_the_writer_never_sees_a_mixture() {
        let turn = AtomicU64::new(0);
        let slots: Vec<AtomicU64> = (0..2 * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect();
        let posts = 3_000;
        let letter = |post: usize| char::from(b'a' + (post % 26) as u8);
        let length = |post: usize| 20_000 + post % 26 * 1000;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for post in 0..posts {
                    assert!(write(&turn, &slots, &letter(post).to_string().repeat(length(post))));
                }
            });
            while !writer.is_finished() {
                // None: the writer went by 64 times while this thread copied.
                let Some(text) = read(&turn, &slots) else { continue };
                let first = text.as_bytes()[0];
                assert!(text.bytes().all(|byte| byte == first), "a mixture");
                assert_eq!(text.len(), length(usize::from(first - b'a')));
            }
        });
    }
}
