//! The embedding loop: receive, plan, step, emit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use forebay_scheduler::{EmbeddingQueue, Item, JobId};
use tokio::sync::{mpsc, oneshot};

use crate::Token;
use crate::model::EmbeddingModel;
use crate::request::Failure;
use crate::status::{Board, Status};

/// Passes that may fail one after the other before the engine gives up.
const MAX_FAILED_PASSES: u32 = 3;

/// A request on its way to the worker, and while it is there.
#[derive(Debug)]
pub(crate) struct EmbedJob {
    inputs: Vec<Vec<Token>>,
    vectors: Vec<Vec<f32>>,
    missing: usize,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, Failure>>,
}

/// The thread's state.
pub(crate) struct EmbedWorker<M> {
    model: M,
    batch_tokens: u32,
    max_inputs: usize,
    queue: EmbeddingQueue,
    jobs: BTreeMap<JobId, EmbedJob>,
    board: Arc<Board>,
    next_id: u64,
    failed_passes: u32,
}

impl EmbedJob {
    pub(crate) fn new(
        inputs: Vec<Vec<Token>>,
        reply: oneshot::Sender<Result<Vec<Vec<f32>>, Failure>>,
    ) -> Self {
        let missing = inputs.len();
        Self { vectors: vec![Vec::new(); missing], inputs, missing, reply }
    }
}

impl<M: EmbeddingModel> EmbedWorker<M> {
    pub(crate) fn new(model: M, batch_tokens: u32, max_inputs: usize, board: Arc<Board>) -> Self {
        let queue = EmbeddingQueue::new();
        let jobs = BTreeMap::new();
        Self { model, batch_tokens, max_inputs, queue, jobs, board, next_id: 0, failed_passes: 0 }
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// Serves until the last handle is gone or too many passes have failed. Dropping the jobs
    /// that are left tells their clients.
    pub(crate) fn run(mut self, mut inbox: mpsc::Receiver<EmbedJob>) {
        while self.receive(&mut inbox) {
            self.reap();
            let batch = self.queue.next_batch(self.batch_tokens, self.max_inputs);
            self.board.running.store(batch.len() as u64, Relaxed);
            self.board.waiting.store(self.queue.len() as u64, Relaxed);
            if batch.is_empty() {
                continue;
            }
            match self.step(&batch) {
                Some(vectors) => self.emit(&batch, vectors),
                None => {
                    if !self.survive(&batch) {
                        break;
                    }
                }
            }
            self.board.running.store(0, Relaxed);
        }
        self.board.set_status(Status::Failed);
    }

    /// Takes what has arrived; with nothing to do, waits for it. Returns false when the last
    /// handle is gone.
    fn receive(&mut self, inbox: &mut mpsc::Receiver<EmbedJob>) -> bool {
        if self.jobs.is_empty() {
            match inbox.blocking_recv() {
                Some(job) => self.accept(job),
                None => return false,
            }
        }
        while let Ok(job) = inbox.try_recv() {
            self.accept(job);
        }
        true
    }

    fn accept(&mut self, job: EmbedJob) {
        self.next_id += 1;
        let id = JobId(self.next_id);
        let lengths = job.inputs.iter().map(|i| u32::try_from(i.len()).unwrap_or(u32::MAX));
        self.queue.push(id, lengths);
        self.jobs.insert(id, job);
        self.answer_if_complete(id);
    }

    /// Drops the requests whose clients are gone.
    fn reap(&mut self) {
        let gone: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| job.reply.is_closed()).map(|(&id, _)| id).collect();
        self.board.cancelled.fetch_add(gone.len() as u64, Relaxed);
        for id in gone {
            self.queue.cancel(id);
            self.jobs.remove(&id);
        }
    }

    fn step(&mut self, batch: &[Item]) -> Option<Vec<Vec<f32>>> {
        let inputs: Vec<&[Token]> = batch
            .iter()
            .filter_map(|item| self.jobs.get(&item.job)?.inputs.get(item.index as usize))
            .map(Vec::as_slice)
            .collect();
        self.board.begin_step();
        let result = self.model.embed(&inputs);
        self.board.end_step(inputs.iter().map(|i| i.len()).sum());
        match result {
            Ok(vectors) => {
                self.failed_passes = 0;
                Some(vectors)
            }
            Err(error) => {
                self.board.step_errors.fetch_add(1, Relaxed);
                self.failed_passes += 1;
                tracing::error!(%error, inputs = batch.len(), "an embedding pass failed");
                None
            }
        }
    }

    fn emit(&mut self, batch: &[Item], vectors: Vec<Vec<f32>>) {
        for (item, mut vector) in batch.iter().zip(vectors) {
            normalise(&mut vector);
            if let Some(job) = self.jobs.get_mut(&item.job) {
                job.vectors[item.index as usize] = vector;
                job.missing -= 1;
                self.answer_if_complete(item.job);
            }
        }
    }

    fn answer_if_complete(&mut self, id: JobId) {
        if self.jobs.get(&id).is_some_and(|job| job.missing == 0)
            && let Some(job) = self.jobs.remove(&id)
        {
            // A client that left needs no answer.
            drop(job.reply.send(Ok(job.vectors)));
        }
    }

    /// Fails the requests of a failed pass. Returns whether to go on.
    fn survive(&mut self, batch: &[Item]) -> bool {
        for item in batch {
            self.queue.cancel(item.job);
            if let Some(job) = self.jobs.remove(&item.job) {
                drop(job.reply.send(Err(Failure::Step)));
            }
        }
        self.failed_passes < MAX_FAILED_PASSES
    }
}

/// Scales a vector to Euclidean length 1; a vector of zeros stays as it is.
fn normalise(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "a float of lower precision")]
        let scale = (1.0 / norm) as f32;
        for x in vector {
            *x *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn vectors_get_length_one_and_zeros_stay() {
        let mut v = [3.0, 4.0];
        normalise(&mut v);
        assert_eq!(v, [0.6, 0.8]);
        let mut zero = [0.0; 3];
        normalise(&mut zero);
        assert_eq!(zero, [0.0; 3]);
    }
}
