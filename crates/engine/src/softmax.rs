//! Logits to weights over a whole vocabulary, in loops that the compiler vectorises.

/// Natural logarithm of the smallest weight that does not count as zero: with 32-bit logits smaller ones make no
/// difference.
const NEGLIGIBLE: f32 = -30.0;
/// Elements per vector operation.
const LANES: usize = 16;

/// The largest logit; negative infinity when there is none.
pub(crate) fn maximum(logits: &[f32]) -> f32 {
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (best, &logit) in best.iter_mut().zip(chunk) {
            *best = if logit > *best { logit } else { *best };
        }
    }
    best.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

/// Fills `weights` with `exp((logit - max) * inverse_temperature)`: between 0 and 1, and
/// proportional to the tokens' probabilities. `max` is the largest logit.
pub(crate) fn weigh(logits: &[f32], max: f32, inverse_temperature: f32, weights: &mut Vec<f32>) {
    weights.clear();
    weights.extend(logits.iter().map(|&logit| exp((logit - max) * inverse_temperature)));
}

/// The sum of weights.
pub(crate) fn sum(weights: &[f32]) -> f64 {
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut sums = [0.0_f64; LANES];
    for chunk in chunks {
        for (sum, &weight) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(weight);
        }
    }
    sums.into_iter().chain(rest.iter().map(|&w| f64::from(w))).sum()
}

/// `e^x` for `x` up to 0, to about one part in 10^7; 0 for what is negligible or not a number.
///
/// `x = n ln 2 + r` with `|r|` at most `ln 2 / 2`; `e^r` is its Taylor series, and `2^n` is
/// written into the exponent.
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number: no fractional bits are left.
    const ROUND: f32 = 12_582_912.0;
    /// `ln 2` in two parts; the first has few bits, so that a multiple of it is exact.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let n = x * std::f32::consts::LOG2_E + ROUND;
    let whole = n - ROUND;
    let r = x - whole * LN2.0 - whole * LN2.1;
    let series = 1.0 / 120.0 + r * (1.0 / 720.0);
    let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * series);
    let series = 1.0 + r * (1.0 + r * (0.5 + r * series));
    // The low bits of `n` are the whole number itself.
    let power = n.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    if x >= NEGLIGIBLE { series * f32::from_bits(power) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn exp_is_exp(x in -29.9_f32..=0.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "{x}");
        }

        #[test]
        fn maximum_and_sum_see_every_element(row in proptest::collection::vec(-9.0_f32..9.0, 1..70)) {
            prop_assert_eq!(maximum(&row).to_bits(), row.iter().copied().fold(f32::MIN, f32::max).to_bits());
            let exact: f64 = row.iter().map(|&x| f64::from(x)).sum();
            prop_assert!((sum(&row) - exact).abs() < 1e-9);
        }
    }

    #[test]
    fn the_ends_of_exp() {
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        for nothing in [-31.0, -1e9, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp(nothing).to_bits(), 0, "{nothing}");
        }
    }
}
