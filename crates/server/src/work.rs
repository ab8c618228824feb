//! What one request uses: memory from the shared budget, and the pool's threads.

use std::sync::{Arc, Mutex, PoisonError};

use crate::cost::{Budget, Cost, Reservation};
use crate::error::ApiError;
use crate::pool::{Effort, Pool};

/// The pool and the budget that all requests share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// Threads for what takes long.
    pub pool: Arc<Pool>,
    /// Memory for requests.
    pub budget: Arc<Budget>,
}

/// One request's handle to them. Dropping the last clone, which the response's body holds, returns
/// the request's memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Work {
    shared: Shared,
    /// Guards plain data, for a few instructions.
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    cost: Cost,
    reservation: Reservation,
}

impl Work {
    /// The handle of a new request, which has no memory yet.
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared, held: Arc::default() }
    }

    /// The size of all JSON that was reserved for so far.
    pub(crate) fn cost(&self) -> Cost {
        self.lock(|held| held.cost)
    }

    /// Reserves memory for JSON of this size before it is parsed, and adds it to [`Work::cost`]. May wait
    /// for up to 10 s.
    ///
    /// # Errors
    /// 413 for more than a request may have, 429 when the memory stays taken.
    pub(crate) async fn reserve(&self, cost: Cost) -> Result<(), ApiError> {
        let reservation = self.shared.budget.reserve(cost).await?;
        self.lock(|held| {
            held.cost = held.cost.plus(cost);
            held.reservation.merge(reservation);
        });
        Ok(())
    }

    /// Reserves memory for bytes of a body that have arrived, until the returned value is dropped.
    ///
    /// # Errors
    /// 429 when there is not as much.
    pub(crate) fn receive(&self, bytes: usize) -> Result<Reservation, ApiError> {
        self.shared.budget.try_reserve(bytes)
    }

    /// Returns all but `1 / parts` of the memory: the parsed request is gone, or most of it.
    pub(crate) fn shrink(&self, parts: usize) {
        self.lock(|held| held.reservation.shrink(parts));
    }

    /// Runs a job whose time grows with the size of the request: here if that is tiny, else on the pool.
    ///
    /// # Errors
    /// What the job returns; 429 if too much waits already; 500 if it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.run_at_least(Effort::Tiny, job).await
    }

    /// The same for a job that takes at least `effort` however small the request is.
    ///
    /// # Errors
    /// As [`Work::run`].
    pub(crate) async fn run_at_least<T: Send + 'static>(
        &self,
        effort: Effort,
        job: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.shared.pool.run(effort.max(self.cost().effort()), job).await
    }

    fn lock<T>(&self, f: impl FnOnce(&mut Held) -> T) -> T {
        f(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
