//! Prefill first, as llama-server does it: a row for each answer, then prompts up to the batch's
//! size, whatever that takes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::costs::{CostTable, Part};
use super::replay::{Pass, Server};

/// Tokens of one iteration (llama-server's `--batch-size`).
const BATCH: usize = 2048;

/// llama-server's slots and queue.
#[derive(Debug)]
pub(crate) struct PrefillFirst<'t> {
    table: &'t CostTable,
    slots: Vec<Slot>,
    queue: VecDeque<(u64, Arc<[u32]>)>,
    /// Numbers the launches.
    launches: u64,
}

/// A slot, and the sequence that it has or had.
#[derive(Debug, Clone, Default)]
struct Slot {
    request: Option<u64>,
    /// Its launch: the order of prompts while it runs, and of use when it is idle.
    launched: u64,
    tokens: Vec<u32>,
    /// How many of them are in the cache.
    computed: usize,
    prompt: usize,
}

/// A slot's part of an iteration.
#[derive(Debug, Clone, Copy)]
struct Piece {
    slot: usize,
    tokens: usize,
}

impl Slot {
    fn is_decoding(&self) -> bool {
        self.request.is_some() && self.tokens.len() > self.prompt
    }

    fn part(&self, tokens: usize) -> Part {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Part { tokens: number(tokens), depth: number(self.computed) }
    }
}

impl<'t> PrefillFirst<'t> {
    pub(crate) fn new(table: &'t CostTable) -> Self {
        let slots = vec![Slot::default(); table.parallel as usize];
        Self { table, slots, queue: VecDeque::new(), launches: 0 }
    }

    /// Gives each request the idle slot that has most of its prompt; among equal ones that which
    /// was idle for longest.
    fn launch(&mut self) {
        while let Some((_, prompt)) = self.queue.front() {
            let idle = self.slots.iter_mut().filter(|slot| slot.request.is_none());
            let common = |slot: &Slot| {
                let held = slot.tokens[..slot.computed].iter();
                held.zip(prompt.iter()).take_while(|(a, b)| a == b).count()
            };
            let best = idle.max_by_key(|s| (common(s), std::cmp::Reverse(s.launched)));
            let Some(slot) = best else { return };
            // The last token's logits are needed.
            let computed = common(slot).min(prompt.len() - 1);
            let Some((id, prompt)) = self.queue.pop_front() else { return };
            self.launches += 1;
            *slot = Slot {
                request: Some(id),
                launched: self.launches,
                tokens: prompt.to_vec(),
                computed,
                prompt: prompt.len(),
            };
        }
    }

    /// The rows, and the prompts in order of arrival.
    fn batch(&self) -> (Vec<Piece>, Vec<Piece>) {
        let running = (0..self.slots.len()).filter(|&slot| self.slots[slot].request.is_some());
        let (rows, mut prompts): (Vec<usize>, Vec<usize>) =
            running.partition(|&slot| self.slots[slot].is_decoding());
        prompts.sort_by_key(|&slot| self.slots[slot].launched);
        let mut room = BATCH - rows.len();
        let chunk = |slot: usize| {
            let missing = self.slots[slot].tokens.len() - self.slots[slot].computed;
            let tokens = missing.min(room);
            room -= tokens;
            Piece { slot, tokens }
        };
        let chunks = prompts.into_iter().map(chunk).filter(|piece| piece.tokens > 0).collect();
        (rows.into_iter().map(|slot| Piece { slot, tokens: 1 }).collect(), chunks)
    }

    /// Where each slot has a stream of its own, rows and each prompt are calls of their own.
    fn time(&self, rows: &[Piece], chunks: &[Piece]) -> Duration {
        let parts = |of: &[Piece]| -> Vec<Part> {
            of.iter().map(|piece| self.slots[piece.slot].part(piece.tokens)).collect()
        };
        if self.table.shared {
            return self.table.time(&parts(&[rows, chunks].concat()));
        }
        let prompts: Duration = chunks.iter().map(|&chunk| self.table.time(&parts(&[chunk]))).sum();
        let part = |row: &Piece| (row.slot, self.slots[row.slot].part(row.tokens));
        self.table.time_of_rows(&rows.iter().map(part).collect::<Vec<_>>()) + prompts
    }
}

impl Server for PrefillFirst<'_> {
    fn submit(&mut self, id: u64, prompt: Arc<[u32]>, _: u32) {
        self.queue.push_back((id, prompt));
    }

    fn step(&mut self) -> Option<Pass> {
        self.launch();
        let (rows, chunks) = self.batch();
        let all = [&rows[..], &chunks[..]].concat();
        if all.is_empty() {
            return None;
        }
        let took = self.time(&rows, &chunks);
        let rows_alone = self.time(&rows, &[]);
        for piece in &all {
            self.slots[piece.slot].computed += piece.tokens;
        }
        let done = all.iter().map(|piece| &self.slots[piece.slot]);
        let done = done.filter(|slot| slot.computed == slot.tokens.len());
        Some(Pass { took, rows_alone, sampled: done.filter_map(|slot| slot.request).collect() })
    }

    fn sampled(&mut self, id: u64, token: u32, last: bool) {
        let slot = self.slots.iter_mut().find(|slot| slot.request == Some(id));
        let slot = slot.expect("a running request");
        if last {
            slot.request = None;
        } else {
            slot.tokens.push(token);
        }
    }
}
