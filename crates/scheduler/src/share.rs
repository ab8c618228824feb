//! Dividing a budget fairly.

/// Divides `budget` over `needs` so that nobody gets more than it needs and whoever is left short
/// gets at least as much as anybody else: a small need is never held up by a large one.
///
/// Returns one grant for each need, in the same order.
pub(crate) fn max_min_share(budget: u32, needs: &[u32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&i| needs[i]);
    let mut grants = vec![0; needs.len()];
    let mut left = budget;
    for (done, &i) in order.iter().enumerate() {
        let sharers = u32::try_from(needs.len() - done).unwrap_or(u32::MAX);
        // Rounding up hands the remainder to the smaller needs; it can never exceed `left`.
        let grant = needs[i].min(left.div_ceil(sharers));
        grants[i] = grant;
        left -= grant;
    }
    grants
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_needs_are_met_first() {
        assert_eq!(max_min_share(100, &[500, 10, 500]), [45, 10, 45]);
        assert_eq!(max_min_share(100, &[20, 30]), [20, 30]);
        assert_eq!(max_min_share(1, &[5, 5]), [1, 0]);
        assert_eq!(max_min_share(7, &[]), Vec::<u32>::new());
    }

    proptest! {
        #[test]
        fn shares_are_fair_and_waste_nothing(
            budget in 0_u32..5000,
            needs in proptest::collection::vec(1_u32..3000, 0..20),
        ) {
            let grants = max_min_share(budget, &needs);
            let total: u32 = grants.iter().sum();
            let wanted: u32 = needs.iter().sum();
            prop_assert_eq!(total, budget.min(wanted));
            let richest = grants.iter().max().copied().unwrap_or(0);
            for (grant, need) in grants.iter().zip(&needs) {
                prop_assert!(grant <= need);
                prop_assert!(grant == need || grant + 1 >= richest, "{:?}", grants);
            }
        }
    }
}
