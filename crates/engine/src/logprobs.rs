//! Log probabilities from logits.

use crate::Token;
use crate::request::{TokenLogprob, TopLogprob};
use crate::softmax;

/// Logits that are summed at a time.
const CHUNK: usize = 4096;

/// The log probability of `token` under `logits` (one for each vocabulary entry) and those of the
/// `top` likeliest tokens.
pub(crate) fn token_logprob(logits: &[f32], token: Token, top: u32) -> TokenLogprob {
    let normaliser = Normaliser::of(logits);
    let logprob = logits.get(token as usize).map_or(f32::NEG_INFINITY, |&l| normaliser.apply(l));
    let top = likeliest(logits, top as usize)
        .into_iter()
        .map(|(token, logit)| TopLogprob { token, logprob: normaliser.apply(logit) })
        .collect();
    TokenLogprob { token, logprob, top }
}

/// `ln(sum(exp(logits)))` in two parts, so that neither overflows nor swallows the other.
struct Normaliser {
    max: f32,
    log_sum: f64,
}

impl Normaliser {
    fn of(logits: &[f32]) -> Self {
        let max = softmax::maximum(logits);
        // In chunks: a buffer for the whole vocabulary costs more than the sum.
        let mut weights = Vec::new();
        let part = |part: &[f32]| {
            softmax::weigh(part, max, 1.0, &mut weights);
            softmax::sum(&weights)
        };
        Self { max, log_sum: logits.chunks(CHUNK).map(part).sum::<f64>().ln() }
    }

    fn apply(&self, logit: f32) -> f32 {
        #[expect(clippy::cast_possible_truncation, reason = "rounded to what is reported")]
        let logprob = (f64::from(logit - self.max) - self.log_sum) as f32;
        logprob
    }
}

/// The `k` largest logits with their tokens, largest first; the lower token id wins a tie.
pub(crate) fn likeliest(logits: &[f32], k: usize) -> Vec<(Token, f32)> {
    let mut best: Vec<(Token, f32)> = Vec::with_capacity(k + 1);
    for (token, &logit) in (0..).zip(logits) {
        if best.len() == k && best.last().is_none_or(|&(_, worst)| logit <= worst) {
            continue;
        }
        let at = best.partition_point(|&(_, other)| other >= logit);
        best.insert(at, (token, logit));
        best.truncate(k);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one() {
        let logits = [1.0, -2.0, 0.5, 900.0, 899.0];
        let sum: f32 = (0..5).map(|t| token_logprob(&logits, t, 0).logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }

    #[test]
    fn alternatives_are_sorted_and_as_many_as_asked() {
        let logits = [0.0, 3.0, 3.0, -1.0, 2.0];
        let got = token_logprob(&logits, 0, 3);
        assert_eq!(got.top.iter().map(|t| t.token).collect::<Vec<_>>(), [1, 2, 4]);
        assert!(token_logprob(&logits, 0, 0).top.is_empty());
        assert_eq!(token_logprob(&logits, 0, 99).top.len(), 5);
    }
}
