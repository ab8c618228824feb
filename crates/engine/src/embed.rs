//! The embedding loop: receive, plan, compute, emit, on several lanes.
//!
//! A lane is a thread with a context of its own. On a CPU several narrow ones side by side compute
//! more than one over all cores, whose threads wait for each other after every operation. What is
//! alone, or longer than a lane's context, is computed in the wide context, by all cores.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use forebay_scheduler::{EmbeddingQueue, Item, JobId, Pass};
use tokio::sync::{mpsc, oneshot};

use crate::Token;
use crate::model::{EmbeddingModel, StepError};
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

/// What passes are computed in.
pub(crate) struct Contexts<M> {
    /// Takes any input that the model takes.
    pub(crate) wide: M,
    /// Each takes one [`Contexts::pass`]. None: all passes go to the wide one.
    pub(crate) narrow: Vec<M>,
    /// What a pass can hold, unless one input is longer.
    pub(crate) pass: Pass,
}

/// What the lanes share. Where both locks are held, the desk's was taken first.
pub(crate) struct EmbedWorker<M> {
    /// What is not yet being computed. Held by the lane that waits for something to do.
    desk: Mutex<Desk>,
    /// The requests that are not yet answered.
    jobs: Mutex<BTreeMap<JobId, EmbedJob>>,
    wide: Mutex<M>,
    pass: Pass,
    /// Whether what comes out are vectors, of which only the direction counts; else it is scores.
    directions: bool,
    board: Arc<Board>,
    computing: AtomicUsize,
    failed_passes: AtomicU32,
    ended: AtomicBool,
}

struct Desk {
    inbox: mpsc::Receiver<EmbedJob>,
    queue: EmbeddingQueue,
    next_id: u64,
}

/// What one lane computes at once.
struct Portion {
    items: Vec<Item>,
    inputs: Vec<Vec<Token>>,
    wide: bool,
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M: EmbeddingModel + Send> EmbedWorker<M> {
    /// Serves until the last handle is gone or too many passes have failed. Dropping the jobs
    /// that are left tells their clients.
    pub(crate) fn serve(
        contexts: Contexts<M>,
        inbox: mpsc::Receiver<EmbedJob>,
        directions: bool,
        board: Arc<Board>,
    ) {
        let Contexts { wide, narrow, pass } = contexts;
        let worker = Self {
            desk: Mutex::new(Desk { inbox, queue: EmbeddingQueue::new(), next_id: 0 }),
            jobs: Mutex::new(BTreeMap::new()),
            wide: Mutex::new(wide),
            pass,
            directions,
            board,
            computing: AtomicUsize::new(0),
            failed_passes: AtomicU32::new(0),
            ended: AtomicBool::new(false),
        };
        let name = thread::current().name().unwrap_or("engine").to_owned();
        let mut narrow = narrow.into_iter();
        let first = narrow.next();
        thread::scope(|scope| {
            for (number, model) in (2..).zip(narrow) {
                let (worker, builder) = (&worker, thread::Builder::new());
                let lane = move || worker.lane(Some(model));
                if let Err(error) =
                    builder.name(format!("{name}/{number}")).spawn_scoped(scope, lane)
                {
                    tracing::error!(%error, "a thread cannot be started; going on with fewer");
                }
            }
            worker.lane(first);
        });
    }

    /// One lane's loop.
    fn lane(&self, mut own: Option<M>) {
        let _end = EndOnDrop(self);
        while let Some(Portion { items, inputs, wide }) = self.take() {
            match self.compute(&inputs, own.as_mut().filter(|_| !wide)) {
                Ok(vectors) => self.emit(&items, vectors),
                Err(error) => {
                    tracing::error!(%error, inputs = items.len(), "an embedding pass failed");
                    if !self.survive(&items) {
                        break;
                    }
                }
            }
        }
    }

    /// The next pass; waits while there is nothing to do. `None` when the last handle is gone and
    /// so nobody can be waiting for an answer, or another lane has given up.
    fn take(&self) -> Option<Portion> {
        let mut desk = lock(&self.desk);
        loop {
            if !self.receive(&mut desk) || self.ended.load(Relaxed) {
                return None;
            }
            let mut items = desk.queue.next_batch(self.pass);
            self.board.waiting.store(desk.queue.len() as u64, Relaxed);
            let jobs = lock(&self.jobs);
            // The rest of a request of which a pass has failed.
            items.retain(|item| jobs.contains_key(&item.job));
            if items.is_empty() {
                continue;
            }
            let input = |item: &Item| jobs.get(&item.job)?.inputs.get(item.index as usize).cloned();
            let inputs = items.iter().filter_map(input).collect();
            let alone = self.computing.fetch_add(1, Relaxed) == 0 && desk.queue.is_empty();
            let long = items.iter().any(|item| item.tokens > self.pass.tokens);
            return Some(Portion { items, inputs, wide: alone || long });
        }
    }

    /// Takes what has arrived, and drops the requests whose clients are gone; with nothing to do,
    /// waits. Returns false when the last handle is gone.
    fn receive(&self, desk: &mut Desk) -> bool {
        if desk.queue.is_empty() {
            match desk.inbox.blocking_recv() {
                Some(job) => self.accept(desk, job),
                None => return false,
            }
        }
        while let Ok(job) = desk.inbox.try_recv() {
            self.accept(desk, job);
        }
        let mut jobs = lock(&self.jobs);
        let before = jobs.len();
        jobs.retain(|&id, job| {
            let gone = job.reply.is_closed();
            if gone {
                desk.queue.cancel(id);
            }
            !gone
        });
        self.board.cancelled.fetch_add((before - jobs.len()) as u64, Relaxed);
        true
    }

    fn accept(&self, desk: &mut Desk, job: EmbedJob) {
        desk.next_id += 1;
        let id = JobId(desk.next_id);
        let lengths = job.inputs.iter().map(|i| u32::try_from(i.len()).unwrap_or(u32::MAX));
        desk.queue.push(id, lengths);
        let mut jobs = lock(&self.jobs);
        jobs.insert(id, job);
        answer_if_complete(&mut jobs, id);
    }

    /// Computes inputs in a lane's own context, or the wide one.
    fn compute(
        &self,
        inputs: &[Vec<Token>],
        own: Option<&mut M>,
    ) -> Result<Vec<Vec<f32>>, StepError> {
        let inputs: Vec<&[Token]> = inputs.iter().map(Vec::as_slice).collect();
        self.board.running.fetch_add(inputs.len() as u64, Relaxed);
        self.board.begin_step();
        let result = match own {
            Some(own) => own.embed(&inputs),
            None => lock(&self.wide).embed(&inputs),
        };
        self.board.end_step(inputs.iter().map(|i| i.len()).sum());
        self.board.running.fetch_sub(inputs.len() as u64, Relaxed);
        self.computing.fetch_sub(1, Relaxed);
        result
    }

    fn emit(&self, items: &[Item], mut vectors: Vec<Vec<f32>>) {
        self.failed_passes.store(0, Relaxed);
        if self.directions {
            vectors.iter_mut().for_each(|vector| normalise(vector));
        }
        let mut jobs = lock(&self.jobs);
        for (item, vector) in items.iter().zip(vectors) {
            if let Some(job) = jobs.get_mut(&item.job) {
                job.vectors[item.index as usize] = vector;
                job.missing -= 1;
                answer_if_complete(&mut jobs, item.job);
            }
        }
    }

    /// Fails the requests of a failed pass. Returns whether to go on.
    fn survive(&self, items: &[Item]) -> bool {
        self.board.step_errors.fetch_add(1, Relaxed);
        let failed: Vec<EmbedJob> = {
            let mut jobs = lock(&self.jobs);
            items.iter().filter_map(|item| jobs.remove(&item.job)).collect()
        };
        for job in failed {
            drop(job.reply.send(Err(Failure::Step)));
        }
        self.failed_passes.fetch_add(1, Relaxed) + 1 < MAX_FAILED_PASSES
    }
}

fn answer_if_complete(jobs: &mut BTreeMap<JobId, EmbedJob>, id: JobId) {
    if jobs.get(&id).is_some_and(|job| job.missing == 0)
        && let Some(job) = jobs.remove(&id)
    {
        // A client that left needs no answer.
        drop(job.reply.send(Ok(job.vectors)));
    }
}

/// Ends all lanes with the first one that ends, however that was, a panic included: the requests
/// that are left hear of it.
struct EndOnDrop<'w, M>(&'w EmbedWorker<M>);

impl<M> Drop for EndOnDrop<'_, M> {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
        self.0.board.set_status(Status::Failed);
        lock(&self.0.jobs).clear();
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
    use std::time::Duration;

    use super::*;

    /// Tells each input's length, or fails on one that begins with [`POISON`].
    struct Lengths {
        capacity: usize,
    }

    const POISON: Token = 666;

    impl EmbeddingModel for Lengths {
        fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, StepError> {
            let tokens: usize = inputs.iter().map(|i| i.len()).sum();
            assert!(tokens <= self.capacity, "{tokens} tokens do not fit");
            thread::sleep(Duration::from_millis(1));
            if inputs.iter().any(|i| i.first() == Some(&POISON)) {
                return Err(StepError("poisoned".to_owned()));
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let vector = |input: &&[Token]| vec![input.len() as f32, 1.0];
            Ok(inputs.iter().map(vector).collect())
        }
    }

    fn start(lanes: usize) -> (mpsc::Sender<EmbedJob>, Arc<Board>, thread::JoinHandle<()>) {
        let (sender, inbox) = mpsc::channel(64);
        let board = Arc::new(Board::new());
        let narrow = (0..lanes).map(|_| Lengths { capacity: 64 }).collect();
        let pass = Pass { tokens: 64, inputs: 16, block: 64 };
        let contexts = Contexts { wide: Lengths { capacity: 500 }, narrow, pass };
        let shared = Arc::clone(&board);
        let body = move || EmbedWorker::serve(contexts, inbox, true, shared);
        (sender, board, thread::Builder::new().spawn(body).unwrap())
    }

    fn submit(
        sender: &mpsc::Sender<EmbedJob>,
        inputs: Vec<Vec<Token>>,
    ) -> oneshot::Receiver<Result<Vec<Vec<f32>>, Failure>> {
        let (reply, answer) = oneshot::channel();
        sender.blocking_send(EmbedJob::new(inputs, reply)).unwrap();
        answer
    }

    #[test]
    fn every_input_gets_its_own_vector_whichever_lane_computes_it() {
        for lanes in [0, 3] {
            let (sender, board, thread) = start(lanes);
            let inputs = |job: usize| (0..20).map(move |i| vec![7; 1 + (job * 13 + i * 7) % 90]);
            let answers: Vec<_> = (0..30).map(|j| submit(&sender, inputs(j).collect())).collect();
            for (job, answer) in answers.into_iter().enumerate() {
                let vectors = answer.blocking_recv().unwrap().unwrap();
                for (input, vector) in inputs(job).zip(vectors) {
                    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
                    let length = input.len() as f32;
                    assert!((vector[0] / vector[1] - length).abs() < 1e-3, "{vector:?} {length}");
                }
            }
            drop(sender);
            thread.join().unwrap();
            assert_eq!(board.stats().running, 0);
        }
    }

    #[test]
    fn a_failed_pass_fails_its_requests_and_three_in_a_row_end_all_lanes() {
        let (sender, board, thread) = start(2);
        let poisoned = || vec![vec![POISON; 60], vec![1; 60], vec![1; 60]];
        assert_eq!(submit(&sender, poisoned()).blocking_recv().unwrap(), Err(Failure::Step));
        assert!(submit(&sender, vec![vec![1; 10]]).blocking_recv().unwrap().is_ok());
        for _ in 0..MAX_FAILED_PASSES {
            let alone = submit(&sender, vec![vec![POISON]]);
            assert_eq!(alone.blocking_recv().unwrap(), Err(Failure::Step));
        }
        for _ in 0..1000 {
            if board.status() == Status::Failed {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(board.status(), Status::Failed);
        // A lane that was waiting finds out by the next request, which is dropped.
        let (reply, late) = oneshot::channel();
        drop(sender.blocking_send(EmbedJob::new(vec![vec![1]], reply)));
        drop(sender);
        assert!(late.blocking_recv().is_err());
        thread.join().unwrap();
        assert_eq!(board.stats().step_errors, 4);
    }

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
