//! "Did you mean …?"

/// The candidate that was most likely meant by `typed`, if one is near enough.
pub(crate) fn nearest<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let typed = plain(typed);
    let near = |candidate: &&str| {
        let candidate = plain(candidate);
        let distance = strsim::damerau_levenshtein(&typed, &candidate);
        // A third of the letters may be wrong; beyond that a guess confuses more than it helps.
        let longest = typed.chars().count().max(candidate.chars().count());
        let contained = typed.len() >= 4 && candidate.contains(&typed);
        (distance <= longest.div_ceil(3).min(4) || contained).then_some(distance)
    };
    let scored = candidates.into_iter().filter_map(|one| near(&one).map(|score| (score, one)));
    scored.min_by_key(|(score, _)| *score).map(|(_, one)| one)
}

/// Spelling that people do not think about.
fn plain(word: &str) -> String {
    // Longer words are no slip of a finger, and the distance costs time with the square of it.
    const LENGTH_MAX: usize = 64;
    word.chars()
        .take(LENGTH_MAX)
        .map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
        .collect()
}

/// `a`, `b` and `c` as a sentence has them.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let keys = ["header_timeout", "idle_timeout", "max_body", "max_header"];
        assert_eq!(nearest("header_timout", keys), Some("header_timeout"));
        assert_eq!(nearest("Idle-Timeout", keys), Some("idle_timeout"));
        assert_eq!(nearest("maxbody", keys), Some("max_body"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("x", keys), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), keys), None);
    }
}
