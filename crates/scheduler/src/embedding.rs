//! Packing embedding inputs into forward passes.

use std::collections::VecDeque;

/// An embedding request, as the engine numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// One input of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The request.
    pub job: JobId,
    /// Which of its inputs.
    pub index: u32,
    /// Its length in tokens.
    pub tokens: u32,
}

/// Requests with inputs not yet computed, taken in turns: a request with thousands of inputs
/// does not hold up the one behind it.
#[derive(Debug, Default)]
pub struct EmbeddingQueue {
    jobs: VecDeque<Job>,
}

#[derive(Debug)]
struct Job {
    id: JobId,
    /// Lengths of the inputs still to do; the front one has index `next`.
    lengths: VecDeque<u32>,
    next: u32,
}

impl EmbeddingQueue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request by the lengths of its inputs, in tokens.
    pub fn push(&mut self, id: JobId, lengths: impl IntoIterator<Item = u32>) {
        let lengths: VecDeque<u32> = lengths.into_iter().collect();
        if !lengths.is_empty() {
            self.jobs.push_back(Job { id, lengths, next: 0 });
        }
    }

    /// Forgets a request's remaining inputs.
    pub fn cancel(&mut self, id: JobId) {
        self.jobs.retain(|job| job.id != id);
    }

    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many requests have inputs left.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Takes the next forward pass: at most `budget` tokens and `max_items` inputs, one input
    /// from each request in turn. An input longer than `budget` goes alone.
    pub fn next_batch(&mut self, budget: u32, max_items: usize) -> Vec<Item> {
        let mut batch = Vec::new();
        let mut used = 0_u32;
        let mut passed_over = 0;
        while batch.len() < max_items && passed_over < self.jobs.len() {
            let Some(mut job) = self.jobs.pop_front() else { break };
            match job.lengths.front().copied() {
                Some(tokens) if batch.is_empty() || used.saturating_add(tokens) <= budget => {
                    used = used.saturating_add(tokens);
                    batch.push(Item { job: job.id, index: job.next, tokens });
                    job.lengths.pop_front();
                    job.next += 1;
                    passed_over = 0;
                    if !job.lengths.is_empty() {
                        self.jobs.push_back(job);
                    }
                }
                _ => {
                    passed_over += 1;
                    self.jobs.push_back(job);
                }
            }
        }
        // Whoever was passed over keeps its turn.
        self.jobs.rotate_right(passed_over.min(self.jobs.len()));
        batch
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_small_request_does_not_wait_for_a_large_one() {
        let mut q = EmbeddingQueue::new();
        q.push(JobId(1), vec![10; 1000]);
        q.push(JobId(2), vec![10]);
        let batch = q.next_batch(40, 64);
        assert_eq!(batch.len(), 4);
        assert!(batch.iter().any(|i| i.job == JobId(2)));
    }

    #[test]
    fn an_oversized_input_goes_alone() {
        let mut q = EmbeddingQueue::new();
        q.push(JobId(1), vec![500, 3]);
        assert_eq!(q.next_batch(100, 8).len(), 1);
        assert_eq!(q.next_batch(100, 8)[0].tokens, 3);
        assert!(q.is_empty());
    }

    #[test]
    fn a_cancelled_request_leaves_nothing() {
        let mut q = EmbeddingQueue::new();
        q.push(JobId(1), vec![1; 5]);
        q.cancel(JobId(1));
        assert!(q.next_batch(10, 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_input_is_computed_once_in_order_and_within_budget(
            jobs in proptest::collection::vec(
                proptest::collection::vec(1_u32..300, 1..20), 1..12),
            budget in 1_u32..600,
            max_items in 1_usize..20,
        ) {
            let mut q = EmbeddingQueue::new();
            for (i, lengths) in jobs.iter().enumerate() {
                q.push(JobId(i as u64), lengths.clone());
            }
            let mut next = vec![0_u32; jobs.len()];
            loop {
                let batch = q.next_batch(budget, max_items);
                if batch.is_empty() { break }
                let total: u32 = batch.iter().map(|i| i.tokens).sum();
                prop_assert!(total <= budget || batch.len() == 1);
                prop_assert!(batch.len() <= max_items);
                for item in batch {
                    let job = usize::try_from(item.job.0).unwrap();
                    prop_assert_eq!(item.index, next[job]);
                    prop_assert_eq!(item.tokens, jobs[job][item.index as usize]);
                    next[job] += 1;
                }
            }
            for (done, lengths) in next.iter().zip(&jobs) {
                prop_assert_eq!(*done as usize, lengths.len());
            }
        }
    }
}
