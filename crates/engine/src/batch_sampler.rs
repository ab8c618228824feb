//! Sampling the tokens of a step: each sequence from its own rows, sequences in parallel.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::Token;
use crate::sampling::Scratch;
use crate::sequence::{Draft, Sequence, TokenOutcome};
use crate::vocab::Vocab;

/// Logits of a step from which sampling runs on several threads: with fewer, waking the threads takes longer.
const PARALLEL_LOGITS: usize = 1 << 20;

/// A sequence, and its rows of logits: one for its next token and one after each draft.
#[derive(Debug)]
pub(crate) struct SamplingJob<'s> {
    pub(crate) sequence: &'s mut Sequence,
    pub(crate) rows: Vec<&'s [f32]>,
    /// The sampled tokens.
    pub(crate) sampled: Vec<SampledToken>,
    /// Drafts for the next step.
    pub(crate) draft: Draft,
}

/// A token that was sampled, or forced by a grammar.
#[derive(Debug)]
pub(crate) struct SampledToken {
    pub(crate) token: Token,
    pub(crate) outcome: TokenOutcome,
    /// Tokens of the answer, this one included.
    pub(crate) tokens: u32,
    /// Position of the random number generator after it.
    pub(crate) rng_position: u64,
    /// Whether it is the draft that was computed after its row.
    pub(crate) as_drafted: bool,
}

impl<'s> SamplingJob<'s> {
    pub(crate) fn new(sequence: &'s mut Sequence, rows: Vec<&'s [f32]>) -> Self {
        Self { sequence, rows, sampled: Vec::new(), draft: Draft::default() }
    }

    /// Samples until the sequence ends or a token differs from the draft.
    fn run(&mut self, vocab: &Vocab, scratch: &mut Scratch) {
        let drafts = self.rows.len() - 1;
        for (index, row) in self.rows.iter().enumerate() {
            let outcome = self.sequence.sample(row, vocab, scratch);
            let ended = outcome.finished.is_some() || outcome.failed;
            let (token, tokens) = (self.sequence.last(), self.sequence.tokens());
            let rng_position = self.sequence.rng_position();
            let right = !ended && self.sequence.is_as_drafted(index);
            let as_drafted = right && index < drafts;
            self.sampled.push(SampledToken { token, outcome, tokens, rng_position, as_drafted });
            if ended {
                return;
            }
            if !as_drafted {
                break;
            }
        }
        for (token, outcome) in self.sequence.append_forced(vocab) {
            let ended = outcome.finished.is_some() || outcome.failed;
            let (tokens, rng_position) = (self.sequence.tokens(), self.sequence.rng_position());
            self.sampled.push(SampledToken {
                token,
                outcome,
                tokens,
                rng_position,
                as_drafted: false,
            });
            if ended {
                return;
            }
        }
        self.draft = self.sequence.propose();
    }
}

/// Samples for all sequences.
pub(crate) fn sample_all(jobs: &mut [SamplingJob<'_>], vocab: &Vocab) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let one =
        |job: &mut SamplingJob<'_>| SCRATCH.with_borrow_mut(|scratch| job.run(vocab, scratch));
    let rows: usize = jobs.iter().map(|job| job.rows.len()).sum();
    if jobs.len() > 1 && rows * vocab.len() >= PARALLEL_LOGITS {
        jobs.par_iter_mut().for_each(one);
    } else {
        jobs.iter_mut().for_each(one);
    }
}
