//! How many drafts of a sequence are worth computing.

use crate::call_costs::CallCosts;

/// Drafts that the break-even is computed for.
const BREAK_EVEN_DRAFTS: u32 = 4;

impl CallCosts {
    /// The number of `offered` drafts at which a token costs least. The row is at depth `before`, and each
    /// draft is right with probability `likely` if those before it are.
    pub(crate) fn drafts(&self, offered: u32, likely: f64, rows: u32, before: u32) -> u32 {
        if self.is_blank() {
            // One try measures the cost.
            return offered.min(if likely > 0.5 { 4 } else { 0 });
        }
        let plain = self.decode_time(rows, before).as_secs_f64();
        let (mut best, mut least) = (0, plain / f64::from(rows.max(1)));
        let others = plain * f64::from(rows.saturating_sub(1)) / f64::from(rows.max(1));
        let (mut gain, mut chance) = (1.0, 1.0);
        for drafts in 1..=offered {
            chance *= likely;
            gain += chance;
            let own = self.chunk_time(1 + drafts, before).as_secs_f64();
            // The longer wait of other rows is a cost as well.
            let each = (own + others - plain).max(0.0) * f64::from(rows.saturating_sub(1));
            let price = (own + each) / gain;
            if price < least {
                (best, least) = (drafts, price);
            }
        }
        best
    }

    /// The probability of a right draft from which drafts of a single sequence pay, in twentieths; 1 if
    /// they never do.
    pub(crate) fn break_even(&self, before: u32) -> f64 {
        let mut chances = (1..20).map(|twentieths| f64::from(twentieths) / 20.0);
        let pays = |&chance: &f64| self.drafts(BREAK_EVEN_DRAFTS, chance, 1, before) > 0;
        chances.find(pays).unwrap_or(1.0)
    }
}
