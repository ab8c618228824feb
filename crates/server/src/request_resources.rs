//! A request's resources: memory from the shared budget, the pool's threads, and its time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_engine::Failure;
use tokio::time::Instant;

use crate::config::LimitSettings;
use crate::cost::{JsonSize, MemoryBudget, Reservation};
use crate::error::ApiError;
use crate::pool::{Effort, Pool};
use crate::registry::Served;

/// The most JSON values of a request that is kept: it is copied several times.
const MAX_KEPT_VALUES: usize = 100_000;
/// Answers up to this many bytes are not counted: the number of requests bounds them.
const SMALL_ANSWER: usize = 16 << 10;

/// The pool and the budget that all requests share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SharedResources {
    /// Threads for long jobs.
    pub pool: Arc<Pool>,
    /// Memory for requests.
    pub budget: Arc<MemoryBudget>,
}

/// One request's handle to the shared resources. Dropping the last clone, which the response's body holds, returns
/// the request's memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestResources {
    shared: SharedResources,
    deadline: Option<Deadline>,
    /// Guards plain data, for a few instructions.
    held: Arc<Mutex<HeldMemory>>,
}

/// When a request times out, and its whole timeout.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct HeldMemory {
    cost: JsonSize,
    reservation: Reservation,
    /// For the answer.
    answer: Reservation,
}

impl RequestResources {
    /// The handle of a new request, which has no memory yet and may take `timeout`.
    pub(crate) fn new(shared: SharedResources, timeout: Option<Duration>) -> Self {
        let deadline = timeout.map(|timeout| Deadline { at: Instant::now() + timeout, timeout });
        Self { shared, deadline, held: Arc::default() }
    }

    /// The time until the request times out; `None` without a timeout.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.at.saturating_duration_since(Instant::now()))
    }

    /// The size of all JSON that was reserved for so far.
    pub(crate) fn cost(&self) -> JsonSize {
        self.lock(|held| held.cost)
    }

    /// Reserves memory for JSON of this size before it is parsed, and adds it to [`RequestResources::cost`]. May wait
    /// for up to 30 s.
    ///
    /// # Errors
    /// 413 for more than a request may use, 429 when the memory stays in use.
    pub(crate) async fn reserve(&self, cost: JsonSize) -> Result<(), ApiError> {
        let reservation = self.shared.budget.reserve(cost).await?;
        self.lock(|held| {
            held.cost = held.cost.plus(cost);
            held.reservation.merge(reservation);
        });
        Ok(())
    }

    /// Reserves memory for the bytes `from..to` of a body that arrives, until the returned value is
    /// dropped.
    ///
    /// # Errors
    /// 429 when the memory stays in use.
    pub(crate) async fn receive(&self, from: usize, to: usize) -> Result<Reservation, ApiError> {
        self.shared.budget.receive(from, to).await
    }

    /// Reserves memory for an answer of at most `bytes` before it is made. May wait for up to 30 s.
    ///
    /// # Errors
    /// 429 when the memory stays in use.
    pub(crate) async fn expect_answer(&self, bytes: usize) -> Result<(), ApiError> {
        let answer = self.shared.budget.answer(bytes).await?;
        self.lock(|held| held.answer = answer);
        Ok(())
    }

    /// Returns all memory but that for a whole answer of `bytes`.
    ///
    /// # Errors
    /// 429 when there is none for the answer.
    pub(crate) async fn answered(&self, bytes: usize) -> Result<(), ApiError> {
        let expected = self.lock(|held| {
            held.reservation = Reservation::default();
            held.answer.shrink(if bytes > SMALL_ANSWER { bytes } else { 0 });
            !held.answer.is_empty()
        });
        if expected || bytes <= SMALL_ANSWER { Ok(()) } else { self.expect_answer(bytes).await }
    }

    /// Refuses a request that is too large for what the store keeps of it.
    ///
    /// # Errors
    /// 413
    pub(crate) fn check_kept(&self, limits: &LimitSettings) -> Result<(), ApiError> {
        let (JsonSize { bytes, values }, most) = (self.cost(), limits.history_kib << 10);
        match (bytes > most, values > MAX_KEPT_VALUES) {
            (true, _) => Err(ApiError::too_large(most)),
            (false, true) => Err(ApiError::too_many_values(MAX_KEPT_VALUES)),
            (false, false) => Ok(()),
        }
    }

    /// Takes the reservation for what was parsed, to hold it longer than the response.
    pub(crate) fn take(&self) -> Reservation {
        self.lock(|held| std::mem::take(&mut held.reservation))
    }

    /// Returns half of the memory: about half of what was parsed is still there.
    pub(crate) fn keep_half(&self) {
        self.lock(|held| held.reservation.halve());
    }

    /// Returns all memory: what was parsed is dropped.
    pub(crate) fn release(&self) {
        self.lock(|held| (held.reservation, held.answer) = Default::default());
    }

    /// Runs a job whose time grows with the size of the request: here if that is tiny, else on the pool.
    ///
    /// # Errors
    /// The job's errors; 429 if the queue is full; 504 when the request times out; 500 if the job panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.run_at_least(Effort::Tiny, job).await
    }

    /// The same for a job that takes at least `effort` however small the request is.
    ///
    /// # Errors
    /// As [`RequestResources::run`].
    pub(crate) async fn run_at_least<T: Send + 'static>(
        &self,
        effort: Effort,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.in_time(self.shared.pool.run(effort.max(self.cost().effort()), job)).await
    }

    /// Runs a job that may ask a model's engine. If that is a process of its own, the job runs on the
    /// model's own threads once the process has started.
    ///
    /// # Errors
    /// As [`RequestResources::run`].
    pub(crate) async fn run_for<T: Send + 'static>(
        &self,
        served: &Served,
        effort: Effort,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Some(pool) = served.pool() else { return self.run_at_least(effort, job).await };
        // It waits for an answer: never on the caller's thread.
        let effort = effort.max(Effort::Small).max(self.cost().effort());
        self.in_time(async {
            served.is_there().await?;
            pool.run(effort, job).await
        })
        .await
    }

    /// The result of `run`, or 504 if the request times out first.
    async fn in_time<T>(
        &self,
        run: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let Some(Deadline { at, timeout }) = self.deadline else { return run.await };
        let late = |_| Err(Failure::Timeout(timeout).into());
        tokio::time::timeout_at(at, run).await.unwrap_or_else(late)
    }

    fn lock<T>(&self, f: impl FnOnce(&mut HeldMemory) -> T) -> T {
        f(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
