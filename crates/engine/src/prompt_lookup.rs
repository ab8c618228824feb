//! Drafts by prompt lookup: the tokens that followed an earlier occurrence of the last n-gram are likely to follow
//! again. Of several occurrences the one with the longest match before it is taken: a copy of a text with many
//! repetitions then stays at its position. Drafts are cheap; the scheduler decides how many are computed.
//!
//! Source: Saxena, "Prompt Lookup Decoding" (2023), which takes the first occurrence.

use std::collections::HashMap;

use crate::Token;

/// Tokens of an n-gram.
const NGRAM: usize = 3;
/// The most occurrences of an n-gram to compare, the latest ones, and how many tokens before each.
const MAX_CANDIDATES: usize = 32;
const MAX_COMPARED: usize = 64;
/// Minimum match length for a high-confidence draft.
const CONFIDENT_MATCH: usize = 8;
/// The most tokens of a draft.
const MAX_DRAFT: usize = 16;
/// The most tokens to index in one call: a long prompt is indexed over several steps.
const MAX_INDEXED: usize = 4096;
/// No position.
const NONE: u32 = u32::MAX;
/// Weight of the newest observation in the acceptance rate.
const LEARNING_RATE: f64 = 0.08;

/// Earlier occurrences of each n-gram of a sequence, and the acceptance rate of drafts.
#[derive(Debug)]
pub(crate) struct PromptLookup {
    /// The position after the latest occurrence of each n-gram.
    latest: HashMap<[Token; NGRAM], u32>,
    /// For the n-gram at each indexed position: the position after its previous occurrence, or [`NONE`].
    earlier: Vec<u32>,
    draft: Vec<Token>,
    /// Whether the last draft's match is long, and the acceptance rates of short and long matches.
    confident: bool,
    acceptance: [f64; 2],
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self {
            latest: HashMap::new(),
            earlier: Vec::new(),
            draft: Vec::new(),
            confident: false,
            acceptance: [0.4, 0.8],
        }
    }
}

impl PromptLookup {
    /// Tokens that are likely to follow `tokens`, the same sequence as before and longer.
    pub(crate) fn propose(&mut self, tokens: &[Token]) -> &[Token] {
        self.draft.clear();
        let Some(last) = tokens.len().checked_sub(NGRAM).and_then(|at| ngram(tokens, at)) else {
            return &self.draft;
        };
        // The last n-gram is not indexed: nothing follows it yet.
        let until = tokens.len().saturating_sub(NGRAM).min(self.earlier.len() + MAX_INDEXED);
        for at in self.earlier.len()..until {
            let after = u32::try_from(at + NGRAM).unwrap_or(NONE);
            let before = ngram(tokens, at).and_then(|run| self.latest.insert(run, after));
            self.earlier.push(before.unwrap_or(NONE));
        }
        let earlier = |&at: &u32| {
            let before = self.earlier.get((at as usize).checked_sub(NGRAM)?);
            before.copied().filter(|&at| at != NONE)
        };
        let candidates =
            std::iter::successors(self.latest.get(&last).copied(), earlier).take(MAX_CANDIDATES);
        let best = candidates.map(|at| (match_length(tokens, at as usize), at)).max();
        if let Some((matched, at)) = best {
            self.confident = matched >= CONFIDENT_MATCH;
            let following = tokens.get(at as usize..).unwrap_or_default();
            // A text that repeats in a short period continues to repeat.
            self.draft.extend(following.iter().cycle().take(MAX_DRAFT));
        }
        &self.draft
    }

    /// The tokens proposed last.
    pub(crate) fn draft(&self) -> &[Token] {
        &self.draft
    }

    /// The probability that a drafted token is right if those before it are.
    pub(crate) fn acceptance(&self) -> f64 {
        self.acceptance[usize::from(self.confident)]
    }

    /// Compares the draft's token at `index` with the sampled one and updates the acceptance rate. Returns whether they
    /// are equal.
    pub(crate) fn observe(&mut self, index: usize, token: Token) -> bool {
        let Some(&drafted) = self.draft.get(index) else { return false };
        let right = drafted == token;
        let acceptance = &mut self.acceptance[usize::from(self.confident)];
        *acceptance += LEARNING_RATE * (f64::from(u8::from(right)) - *acceptance);
        right
    }
}

/// How many tokens before `at` equal those at the end.
fn match_length(tokens: &[Token], at: usize) -> usize {
    let before = tokens.get(..at).unwrap_or_default().iter().rev();
    before.zip(tokens.iter().rev()).take(MAX_COMPARED).take_while(|(a, b)| a == b).count()
}

fn ngram(tokens: &[Token], at: usize) -> Option<[Token; NGRAM]> {
    tokens.get(at..at + NGRAM)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_proposes_what_followed_last_time() {
        let mut lookup = PromptLookup::default();
        assert!(lookup.propose(&[1, 2]).is_empty());
        assert!(lookup.propose(&[1, 2, 3, 4, 5]).is_empty());
        let text = [1, 2, 3, 4, 5, 9, 1, 2, 3];
        assert_eq!(lookup.propose(&text)[..6], [4, 5, 9, 1, 2, 3]);
        assert!(lookup.observe(0, 4) && !lookup.observe(1, 7));
        let text = [1, 2, 3, 4, 5, 9, 1, 2, 3, 8, 8, 1, 2, 3];
        assert_eq!(lookup.propose(&text)[..2], [8, 8], "of equals the latest");
        let text = [7, 1, 2, 3, 4, 0, 6, 1, 2, 3, 5, 0, 7, 1, 2, 3];
        assert_eq!(PromptLookup::default().propose(&text)[..2], [4, 0], "where more is the same");
    }

    #[test]
    fn a_run_of_one_token_goes_on() {
        let mut lookup = PromptLookup::default();
        assert_eq!(lookup.propose(&[5, 5, 5, 5]), [5; MAX_DRAFT]);
    }

    #[test]
    fn it_learns_how_good_it_is() {
        let mut lookup = PromptLookup::default();
        lookup.propose(&[1, 2, 3, 4, 1, 2, 3]);
        for _ in 0..60 {
            lookup.observe(0, 4);
        }
        assert!(lookup.acceptance() > 0.95);
        for _ in 0..60 {
            lookup.observe(0, 5);
        }
        assert!(lookup.acceptance() < 0.05);
    }

    #[test]
    fn a_long_prompt_is_indexed_over_several_calls() {
        let mut tokens: Vec<Token> = (0..3 * 4096 + 100).collect();
        tokens.extend(12_350..12_360);
        let mut lookup = PromptLookup::default();
        for call in 1..=3 {
            assert!(lookup.propose(&tokens).is_empty(), "call {call}");
            assert_eq!(lookup.earlier.len(), call * MAX_INDEXED);
        }
        assert_eq!(lookup.propose(&tokens)[..2], [12_360, 12_361]);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_walk_over_all_tokens_finds(
            tokens in proptest::collection::vec(0_u32..4, 0..120), step in 1_usize..20,
        ) {
            let mut lookup = PromptLookup::default();
            for end in (0..=tokens.len()).step_by(step) {
                let text = &tokens[..end];
                let ends = (NGRAM..end).rev().filter(|&at| text[at - NGRAM..at] == text[end - NGRAM..]);
                let best = ends.take(MAX_CANDIDATES).map(|at| (match_length(text, at), at)).max();
                let expected: Vec<Token> = best.map_or(Vec::new(), |(_, at)| {
                    text[at..].iter().copied().cycle().take(MAX_DRAFT).collect()
                });
                prop_assert_eq!(lookup.propose(text), expected);
            }
        }
    }
}
