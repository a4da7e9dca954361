//! Medians, spreads, and whether two sets of rounds differ by more than noise.

/// The median; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    spread(values).map(|(_, median, _)| median)
}

/// The lowest, the median and the highest; `None` of nothing.
pub fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (*sorted.first()?, *sorted.last()?);
    let middle = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    };
    Some((low, median, high))
}

/// The ratios round by round, as far as both have rounds.
pub fn ratios(values: &[f64], others: &[f64]) -> Vec<f64> {
    values.iter().zip(others).filter(|(_, other)| **other != 0.0).map(|(a, b)| a / b).collect()
}

/// How likely values at least as far apart as these are, if both sets were drawn alike: the
/// two-sided Wilcoxon rank-sum test, exact, with mid-ranks for ties. It asks nothing of the
/// values' distribution, which for timings is never the normal one. `None` of nothing.
pub fn rank_sum_p(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let ranks = doubled_ranks(a, b);
    let observed: usize = ranks[..a.len()].iter().sum();
    // ways[n][s]: in how many ways n of the ranks sum to s.
    let total: usize = ranks.iter().sum();
    let mut ways = vec![vec![0.0f64; total + 1]; a.len() + 1];
    ways[0][0] = 1.0;
    for rank in &ranks {
        for count in (1..=a.len()).rev() {
            for sum in (*rank..=total).rev() {
                ways[count][sum] += ways[count - 1][sum - rank];
            }
        }
    }
    let mean = total as f64 * a.len() as f64 / ranks.len() as f64;
    let distance = (observed as f64 - mean).abs();
    let all: f64 = ways[a.len()].iter().sum();
    let extreme: f64 = ways[a.len()]
        .iter()
        .enumerate()
        .filter(|(sum, _)| (*sum as f64 - mean).abs() >= distance - 1e-9)
        .map(|(_, ways)| ways)
        .sum();
    Some(extreme / all)
}

/// Twice the rank of each value among all, so that mid-ranks are whole numbers.
fn doubled_ranks(a: &[f64], b: &[f64]) -> Vec<usize> {
    let all: Vec<f64> = a.iter().chain(b).copied().collect();
    all.iter()
        .map(|value| {
            let below = all.iter().filter(|other| *other < value).count();
            let equal = all.iter().filter(|other| *other == value).count();
            2 * below + equal + 1
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some((1.0, 2.5, 4.0)));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn fully_apart_is_as_unlikely_as_counting_says() {
        // 5 of 10: 252 ways, two of them this extreme.
        let p = rank_sum_p(&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]).unwrap();
        assert!((p - 2.0 / 252.0).abs() < 1e-12, "{p}");
    }

    #[test]
    fn known_table_value() {
        // U = 3 with 4 and 5 values: exact two-sided p = 14/126 (the sums 13 and below, doubled).
        let p = rank_sum_p(&[1.0, 2.0, 4.0, 6.0], &[3.0, 5.0, 7.0, 8.0, 9.0]).unwrap();
        assert!((p - 14.0 / 126.0).abs() < 1e-12, "{p}");
    }

    #[test]
    fn equal_values_are_no_difference() {
        assert_eq!(rank_sum_p(&[1.0; 5], &[1.0; 5]), Some(1.0));
        assert_eq!(rank_sum_p(&[], &[1.0]), None);
    }
}
