//! Prompt lookup: what followed the last few tokens when they appeared before is likely to follow
//! again. Of several such places the one is taken before which most is the same: a copy of a text
//! that is full of repetitions then stays in its place. Drafts cost nothing to make; whether
//! computing them pays is the scheduler's to decide.
//!
//! Source: Saxena, "Prompt Lookup Decoding" (2023), which takes the first place.

use std::collections::HashMap;

use crate::Token;

/// Tokens that must be the same as before.
const GRAM: usize = 3;
/// Places of a run that are looked at, the latest ones, and how far they are compared backwards.
const PLACES: usize = 32;
const COMPARED: usize = 64;
/// From how many tokens on it is much that is the same.
const FIRM: usize = 8;
/// The most tokens of a draft.
const MOST: usize = 16;
/// Tokens that are indexed at once: a long prompt is taken in over several steps, so that none of
/// them takes long.
const AT_ONCE: usize = 4096;
/// No place.
const NONE: u32 = u32::MAX;
/// Weight of the newest verdict on a draft's token.
const WEIGHT: f64 = 0.08;

/// Where each run of [`GRAM`] tokens of a sequence was, and how good drafts have been.
#[derive(Debug)]
pub(crate) struct Lookup {
    /// The latest position behind each run.
    latest: HashMap<[Token; GRAM], u32>,
    /// For the run at each position that was indexed: the position behind its last appearance
    /// before, or [`NONE`].
    earlier: Vec<u32>,
    draft: Vec<Token>,
    /// Whether much was the same before the draft's place, and how often drafts' tokens were right
    /// where it was not and where it was.
    firm: bool,
    likely: [f64; 2],
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            latest: HashMap::new(),
            earlier: Vec::new(),
            draft: Vec::new(),
            firm: false,
            likely: [0.4, 0.8],
        }
    }
}

impl Lookup {
    /// Tokens that are likely to follow `tokens`, the same sequence as before and longer.
    pub(crate) fn propose(&mut self, tokens: &[Token]) -> &[Token] {
        self.draft.clear();
        let Some(last) = tokens.len().checked_sub(GRAM).and_then(|at| gram(tokens, at)) else {
            return &self.draft;
        };
        // The last run itself is not indexed yet: it has nothing behind it.
        let until = tokens.len().saturating_sub(GRAM).min(self.earlier.len() + AT_ONCE);
        for at in self.earlier.len()..until {
            let behind = u32::try_from(at + GRAM).unwrap_or(NONE);
            let before = gram(tokens, at).and_then(|run| self.latest.insert(run, behind));
            self.earlier.push(before.unwrap_or(NONE));
        }
        let earlier = |&at: &u32| {
            let before = self.earlier.get((at as usize).checked_sub(GRAM)?);
            before.copied().filter(|&at| at != NONE)
        };
        let places = std::iter::successors(self.latest.get(&last).copied(), earlier).take(PLACES);
        let best = places.map(|at| (alike_before(tokens, at as usize), at)).max();
        if let Some((alike, at)) = best {
            self.firm = alike >= FIRM;
            let behind = tokens.get(at as usize..).unwrap_or_default();
            // A text that repeats in short intervals goes on as it has.
            self.draft.extend(behind.iter().cycle().take(MOST));
        }
        &self.draft
    }

    /// The tokens proposed last.
    pub(crate) fn draft(&self) -> &[Token] {
        &self.draft
    }

    /// How likely a draft's token is right if those before it are.
    pub(crate) fn likely(&self) -> f64 {
        self.likely[usize::from(self.firm)]
    }

    /// Tells whether the draft's token at `index` was right. Known for the first one of every
    /// draft, whether it was computed or not.
    pub(crate) fn judge(&mut self, index: usize, token: Token) -> bool {
        let Some(&drafted) = self.draft.get(index) else { return false };
        let right = drafted == token;
        let likely = &mut self.likely[usize::from(self.firm)];
        *likely += WEIGHT * (f64::from(u8::from(right)) - *likely);
        right
    }
}

/// How many tokens before `at` are the same as those at the end.
fn alike_before(tokens: &[Token], at: usize) -> usize {
    let before = tokens.get(..at).unwrap_or_default().iter().rev();
    before.zip(tokens.iter().rev()).take(COMPARED).take_while(|(a, b)| a == b).count()
}

fn gram(tokens: &[Token], at: usize) -> Option<[Token; GRAM]> {
    tokens.get(at..at + GRAM)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_proposes_what_followed_last_time() {
        let mut lookup = Lookup::default();
        assert!(lookup.propose(&[1, 2]).is_empty());
        assert!(lookup.propose(&[1, 2, 3, 4, 5]).is_empty());
        let text = [1, 2, 3, 4, 5, 9, 1, 2, 3];
        assert_eq!(lookup.propose(&text)[..6], [4, 5, 9, 1, 2, 3]);
        assert!(lookup.judge(0, 4) && !lookup.judge(1, 7));
        let text = [1, 2, 3, 4, 5, 9, 1, 2, 3, 8, 8, 1, 2, 3];
        assert_eq!(lookup.propose(&text)[..2], [8, 8], "of equals the latest");
        let text = [7, 1, 2, 3, 4, 0, 6, 1, 2, 3, 5, 0, 7, 1, 2, 3];
        assert_eq!(Lookup::default().propose(&text)[..2], [4, 0], "where more is the same");
    }

    #[test]
    fn a_run_of_one_token_goes_on() {
        let mut lookup = Lookup::default();
        assert_eq!(lookup.propose(&[5, 5, 5, 5]), [5; MOST]);
    }

    #[test]
    fn it_learns_how_good_it_is() {
        let mut lookup = Lookup::default();
        lookup.propose(&[1, 2, 3, 4, 1, 2, 3]);
        for _ in 0..60 {
            lookup.judge(0, 4);
        }
        assert!(lookup.likely() > 0.95);
        for _ in 0..60 {
            lookup.judge(0, 5);
        }
        assert!(lookup.likely() < 0.05);
    }

    #[test]
    fn a_long_prompt_is_indexed_over_several_calls() {
        let mut tokens: Vec<Token> = (0..3 * 4096 + 100).collect();
        tokens.extend(12_350..12_360);
        let mut lookup = Lookup::default();
        for call in 1..=3 {
            assert!(lookup.propose(&tokens).is_empty(), "call {call}");
            assert_eq!(lookup.earlier.len(), call * AT_ONCE);
        }
        assert_eq!(lookup.propose(&tokens)[..2], [12_360, 12_361]);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_walk_over_all_tokens_finds(
            tokens in proptest::collection::vec(0_u32..4, 0..120), step in 1_usize..20,
        ) {
            let mut lookup = Lookup::default();
            for end in (0..=tokens.len()).step_by(step) {
                let text = &tokens[..end];
                let ends = (GRAM..end).rev().filter(|&at| text[at - GRAM..at] == text[end - GRAM..]);
                let best = ends.take(PLACES).map(|at| (alike_before(text, at), at)).max();
                let expected: Vec<Token> = best.map_or(Vec::new(), |(_, at)| {
                    text[at..].iter().copied().cycle().take(MOST).collect()
                });
                prop_assert_eq!(lookup.propose(text), expected);
            }
        }
    }
}
