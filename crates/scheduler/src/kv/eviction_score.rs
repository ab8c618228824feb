//! Scores that decide what is evicted first.

/// Depth at which computing a token costs twice as much as at the start of a prompt.
pub(super) const DOUBLING_DEPTH: f64 = 2048.0;

/// The score of a parked slot or a copy: its uses times the cost of computing it again, by the room it
/// takes (GreedyDual-Size-Frequency). The lowest value is evicted first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct EvictionScore {
    pub(super) uses: f64,
    pub(super) value: f64,
}

/// The entry with the lowest score.
pub(super) fn lowest_score<'k, K: Copy + 'k>(
    of: impl IntoIterator<Item = (&'k K, &'k EvictionScore)>,
) -> Option<(K, EvictionScore)> {
    let least = of.into_iter().min_by(|a, b| a.1.value.total_cmp(&b.1.value));
    least.map(|(&key, &score)| (key, score))
}

/// Cost of one of `tokens` tokens computed after `before` others, relative to the first of a prompt.
pub(super) fn cost(tokens: u32, before: u32) -> f64 {
    1.0 + (f64::from(before) + f64::from(tokens) / 2.0) / DOUBLING_DEPTH
}
