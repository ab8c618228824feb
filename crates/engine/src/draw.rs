//! Drawing the tokens of a step: each sequence from its own rows, many of them side by side.
//!
//! Nothing here waits for anybody: what was drawn is sent when all are done, into channels that
//! have room.

use std::cell::RefCell;

use rayon::prelude::*;

use crate::Token;
use crate::sampling::Scratch;
use crate::sequence::{Growth, Sequence};
use crate::vocab::Vocab;

/// Logits of a step from which on several threads look at them: below that, waking the threads
/// takes longer.
const MANY: usize = 1 << 20;

/// A sequence and the rows to draw from: the first one, and one behind each draft.
#[derive(Debug)]
pub(crate) struct Draw<'s> {
    pub(crate) sequence: &'s mut Sequence,
    pub(crate) rows: Vec<&'s [f32]>,
    /// What came of it.
    pub(crate) drawn: Vec<Drawn>,
    /// Drafts for the next step, and how likely one is right.
    pub(crate) proposal: (u32, f64),
}

/// A token that was drawn.
#[derive(Debug)]
pub(crate) struct Drawn {
    pub(crate) token: Token,
    pub(crate) growth: Growth,
    /// How many tokens the answer has with it.
    pub(crate) tokens: u32,
    /// Random numbers used so far.
    pub(crate) draws: u64,
    /// Whether it is the draft that was computed behind its row.
    pub(crate) as_drafted: bool,
}

impl<'s> Draw<'s> {
    pub(crate) fn new(sequence: &'s mut Sequence, rows: Vec<&'s [f32]>) -> Self {
        Self { sequence, rows, drawn: Vec::new(), proposal: (0, 0.0) }
    }

    /// Draws until the sequence ends or a token is not the draft.
    fn run(&mut self, vocab: &Vocab, scratch: &mut Scratch) {
        let drafts = self.rows.len() - 1;
        for (index, row) in self.rows.iter().enumerate() {
            let growth = self.sequence.grow(row, vocab, scratch);
            let ended = growth.finished.is_some() || growth.failed;
            let (token, tokens) = (self.sequence.last(), self.sequence.tokens());
            let draws = self.sequence.draws();
            let right = !ended && self.sequence.is_as_drafted(index);
            let as_drafted = right && index < drafts;
            self.drawn.push(Drawn { token, growth, tokens, draws, as_drafted });
            if ended {
                return;
            }
            if !as_drafted {
                break;
            }
        }
        for (token, growth) in self.sequence.grow_by_force(vocab) {
            let ended = growth.finished.is_some() || growth.failed;
            let (tokens, draws) = (self.sequence.tokens(), self.sequence.draws());
            self.drawn.push(Drawn { token, growth, tokens, draws, as_drafted: false });
            if ended {
                return;
            }
        }
        self.proposal = self.sequence.propose();
    }
}

/// Draws for all of them.
pub(crate) fn run(draws: &mut [Draw<'_>], vocab: &Vocab) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let one = |draw: &mut Draw<'_>| SCRATCH.with_borrow_mut(|scratch| draw.run(vocab, scratch));
    let rows: usize = draws.iter().map(|draw| draw.rows.len()).sum();
    if draws.len() > 1 && rows * vocab.len() >= MANY {
        draws.par_iter_mut().for_each(one);
    } else {
        draws.iter_mut().for_each(one);
    }
}
