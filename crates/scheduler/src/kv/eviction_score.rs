//! What keeping a prefix is worth, for eviction.

/// Depth at which recomputing a token costs twice as much as at the beginning.
pub(super) const DOUBLING_DEPTH: f64 = 2048.0;

/// What keeping something is worth: how often it was used, times what computing it would cost, by
/// the cells it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct EvictionScore {
    pub(super) uses: f64,
    pub(super) value: f64,
}

/// What is worth least.
pub(super) fn least_worth<'k, K: Copy + 'k>(
    of: impl IntoIterator<Item = (&'k K, &'k EvictionScore)>,
) -> Option<(K, EvictionScore)> {
    let least = of.into_iter().min_by(|a, b| a.1.value.total_cmp(&b.1.value));
    least.map(|(&key, &score)| (key, score))
}

/// What computing `tokens` tokens behind `before` others costs, for each of them.
pub(super) fn cost(tokens: u32, before: u32) -> f64 {
    1.0 + (f64::from(before) + f64::from(tokens) / 2.0) / DOUBLING_DEPTH
}
