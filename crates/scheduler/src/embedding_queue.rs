//! The embedding queue: packs inputs of many requests into forward passes.

use std::collections::{BTreeMap, VecDeque};

/// An embedding request, as the engine numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EmbeddingRequestId(pub u64);

/// One input of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingInput {
    /// The request.
    pub job: EmbeddingRequestId,
    /// Index of the input.
    pub index: u32,
    /// Length in tokens.
    pub tokens: u32,
}

/// Limits of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct PassLimits {
    /// Maximum number of tokens, at least 1. A longer input is computed alone.
    pub tokens: u32,
    /// Maximum number of inputs, at least 1.
    pub inputs: usize,
    /// Block size of attention, at most [`PassLimits::MAX_BLOCK`]; 1 without blocks. The backend skips
    /// pairs of blocks without a common input, so inputs that fill blocks exactly cost least.
    pub block: u32,
}

/// Requests with inputs to compute, in turns: a request with thousands of inputs does not delay the next
/// one.
#[derive(Debug, Default)]
pub struct EmbeddingQueue {
    /// By turn: a request that had its turn gets the next number.
    jobs: BTreeMap<u64, QueuedRequest>,
    turns: BTreeMap<EmbeddingRequestId, u64>,
    next_turn: u64,
    tokens: u64,
}

#[derive(Debug)]
struct QueuedRequest {
    id: EmbeddingRequestId,
    /// Index and length of the remaining inputs.
    inputs: VecDeque<(u32, u32)>,
}

/// Number of inputs considered for filling a block.
const WINDOW: usize = 64;

// === impl PassLimits ===

impl PassLimits {
    /// The largest block.
    pub const MAX_BLOCK: u32 = 64;
}

// === impl EmbeddingQueue ===

impl EmbeddingQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request with inputs of these lengths, in tokens.
    pub fn push(&mut self, id: EmbeddingRequestId, lengths: impl IntoIterator<Item = u32>) {
        let inputs: VecDeque<(u32, u32)> = (0..).zip(lengths).collect();
        self.tokens += inputs.iter().map(|&(_, tokens)| u64::from(tokens)).sum::<u64>();
        if !inputs.is_empty() {
            self.line_up(QueuedRequest { id, inputs });
        }
    }

    /// Removes a request's remaining inputs.
    pub fn cancel(&mut self, id: EmbeddingRequestId) {
        let turn = self.turns.remove(&id);
        if let Some(job) = turn.and_then(|turn| self.jobs.remove(&turn)) {
            self.tokens -= job.inputs.iter().map(|&(_, tokens)| u64::from(tokens)).sum::<u64>();
        }
    }

    /// Whether no input is left.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Number of requests with inputs left.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Tokens of the remaining inputs of all requests.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Takes the inputs of the next forward pass, group after group. Each group starts with the next input
    /// in order of turns that fits, and continues with those that fill its block best.
    pub fn next_batch(&mut self, pass: PassLimits) -> Vec<EmbeddingInput> {
        let block = pass.block.clamp(1, PassLimits::MAX_BLOCK);
        let (mut batch, mut used) = (Vec::new(), 0_u32);
        while batch.len() < pass.inputs {
            let room = pass.tokens.saturating_sub(used);
            let fits = |item: &EmbeddingInput| batch.is_empty() || item.tokens <= room;
            let Some(first) = self.window().find(fits) else { break };
            used = used.saturating_add(first.tokens);
            self.take(first, &mut batch);
            let to_border = used.checked_next_multiple_of(block).map_or(0, |border| border - used);
            let gap = to_border.min(pass.tokens.saturating_sub(used));
            if gap == 0 {
                continue;
            }
            let others: Vec<EmbeddingInput> = self.window().collect();
            for item in best_fill(&others, gap, pass.inputs - batch.len()) {
                used += item.tokens;
                self.take(item, &mut batch);
            }
        }
        batch
    }

    /// The next inputs in order of turns: the first of each request, the second of each, ... At most
    /// [`WINDOW`], so the cost is bounded.
    fn window(&self) -> impl Iterator<Item = EmbeddingInput> {
        let jobs = || self.jobs.values().take(WINDOW);
        let longest = jobs().map(|job| job.inputs.len()).max().unwrap_or(0);
        let round = move |nth: usize| {
            jobs().filter_map(move |job| {
                let &(index, tokens) = job.inputs.get(nth)?;
                Some(EmbeddingInput { job: job.id, index, tokens })
            })
        };
        (0..longest).flat_map(round).take(WINDOW)
    }

    /// Moves an input into a batch, and ends its request's turn.
    fn take(&mut self, item: EmbeddingInput, batch: &mut Vec<EmbeddingInput>) {
        batch.push(item);
        let Some(&turn) = self.turns.get(&item.job) else { return };
        let Some(job) = self.jobs.get_mut(&turn) else { return };
        let input = job.inputs.iter().position(|&(index, _)| index == item.index);
        if input.and_then(|input| job.inputs.remove(input)).is_some() {
            self.tokens -= u64::from(item.tokens);
        }
        let (is_done, is_first) = (job.inputs.is_empty(), self.jobs.keys().next() == Some(&turn));
        if is_done {
            self.jobs.remove(&turn);
            self.turns.remove(&item.job);
        } else if is_first && let Some(job) = self.jobs.remove(&turn) {
            self.line_up(job);
        }
    }

    /// Queues a request after all others.
    fn line_up(&mut self, job: QueuedRequest) {
        self.turns.insert(job.id, self.next_turn);
        self.jobs.insert(self.next_turn, job);
        self.next_turn += 1;
    }
}

/// At most `limit` of `items` whose tokens add up to `gap` or as little less as possible; of several such
/// choices an early one.
fn best_fill(items: &[EmbeddingInput], gap: u32, limit: usize) -> Vec<EmbeddingInput> {
    // Bit s of `sums[n]`: the first n items can add up to s.
    let mut sums = vec![1_u64];
    let inside = |sum: u64| if gap >= 63 { sum } else { sum & ((1 << (gap + 1)) - 1) };
    for item in items {
        let before = *sums.last().unwrap_or(&1);
        let with = before.checked_shl(item.tokens).unwrap_or(0);
        sums.push(inside(before | with));
        if sums.last().is_some_and(|sum| sum.checked_shr(gap).is_some_and(|top| top & 1 == 1)) {
            break;
        }
    }
    let Some(mut sum) = sums.last().map(|all| 63 - all.leading_zeros()) else { return Vec::new() };
    let mut chosen = Vec::new();
    for n in (1..sums.len()).rev() {
        if (sums[n - 1] >> sum) & 1 == 0 {
            chosen.push(items[n - 1]);
            sum -= items[n - 1].tokens;
        }
    }
    chosen.truncate(limit);
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pass(tokens: u32, inputs: usize, block: u32) -> PassLimits {
        PassLimits { tokens, inputs, block }
    }

    #[test]
    fn a_small_request_does_not_wait_for_a_large_one() {
        let mut q = EmbeddingQueue::new();
        q.push(EmbeddingRequestId(1), vec![10; 1000]);
        q.push(EmbeddingRequestId(2), vec![10]);
        let batch = q.next_batch(pass(40, 64, 1));
        assert_eq!(batch.len(), 4);
        assert!(batch.iter().any(|i| i.job == EmbeddingRequestId(2)));
    }

    #[test]
    fn an_oversized_input_goes_alone() {
        let mut q = EmbeddingQueue::new();
        q.push(EmbeddingRequestId(1), vec![500, 3]);
        assert_eq!(q.next_batch(pass(100, 8, 64)).len(), 1);
        assert_eq!(q.next_batch(pass(100, 8, 64))[0].tokens, 3);
        assert!(q.is_empty());
    }

    #[test]
    fn a_cancelled_request_leaves_nothing() {
        let mut q = EmbeddingQueue::new();
        q.push(EmbeddingRequestId(1), vec![1; 5]);
        q.cancel(EmbeddingRequestId(1));
        assert_eq!(q.tokens(), 0);
        assert!(q.next_batch(pass(10, 10, 1)).is_empty());
    }

    #[test]
    fn inputs_are_chosen_to_fill_blocks() {
        let mut q = EmbeddingQueue::new();
        q.push(EmbeddingRequestId(1), vec![30, 50, 20, 14, 40, 24]);
        q.push(EmbeddingRequestId(2), vec![34]);
        let lengths =
            |batch: Vec<EmbeddingInput>| batch.iter().map(|i| i.tokens).collect::<Vec<_>>();
        let batch = lengths(q.next_batch(pass(128, 64, 64)));
        let (first, second) = batch.split_at(2);
        assert_eq!((first, second.iter().sum::<u32>()), (&[30, 34][..], 64), "{batch:?}");
        // An input longer than a block is filled up to the end of its second block.
        let mut q = EmbeddingQueue::new();
        q.push(EmbeddingRequestId(1), vec![80, 60, 40, 8]);
        assert_eq!(lengths(q.next_batch(pass(128, 64, 64))).iter().sum::<u32>(), 128);
    }

    #[test]
    fn the_best_fill_is_exact_where_it_can_be() {
        let items = |lengths: &[u32]| -> Vec<EmbeddingInput> {
            (0..)
                .zip(lengths)
                .map(|(index, &tokens)| EmbeddingInput {
                    job: EmbeddingRequestId(0),
                    index,
                    tokens,
                })
                .collect()
        };
        let sum = |lengths: &[u32], gap| {
            best_fill(&items(lengths), gap, 64).iter().map(|i| i.tokens).sum::<u32>()
        };
        assert_eq!(sum(&[40, 30, 20, 3], 63), 63);
        assert_eq!(sum(&[40, 30, 20], 55), 50);
        assert_eq!(sum(&[64, 100], 63), 0);
        assert_eq!(sum(&[5, 5], 0), 0);
        assert_eq!(sum(&[], 20), 0);
    }

    proptest! {
        #[test]
        fn every_input_is_computed_once_within_budget_and_soon(
            jobs in proptest::collection::vec(
                proptest::collection::vec(1_u32..300, 1..20), 1..12),
            budget in 1_u32..600,
            max_items in 1_usize..20,
            block in 0_u32..80,
        ) {
            let mut q = EmbeddingQueue::new();
            for (i, lengths) in jobs.iter().enumerate() {
                q.push(EmbeddingRequestId(i as u64), lengths.clone());
            }
            prop_assert_eq!(q.tokens(), u64::from(jobs.iter().flatten().sum::<u32>()));
            let mut done: Vec<Vec<bool>> = jobs.iter().map(|j| vec![false; j.len()]).collect();
            for round in 0.. {
                let batch = q.next_batch(pass(budget, max_items, block));
                if batch.is_empty() { break }
                let total: u32 = batch.iter().map(|i| i.tokens).sum();
                prop_assert!(total <= budget || batch.len() == 1);
                prop_assert!(batch.len() <= max_items);
                for item in batch {
                    let job = usize::try_from(item.job.0).unwrap();
                    let index = item.index as usize;
                    prop_assert_eq!(item.tokens, jobs[job][index]);
                    prop_assert!(!std::mem::replace(&mut done[job][index], true));
                }
                // Each request has a turn within as many passes as there are requests.
                if round == jobs.len() {
                    prop_assert!(done.iter().all(|inputs| inputs.contains(&true)));
                }
            }
            prop_assert!(done.iter().flatten().all(|&d| d));
            prop_assert_eq!((q.tokens(), q.len()), (0, 0));
        }
    }
}
