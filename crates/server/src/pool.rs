//! Threads for jobs that would block the async runtime: reading large bodies, rendering, tokenising,
//! compiling grammars.
//!
//! There are three lanes: quick, unclear (grammars) and slow. Short work does not wait for long work,
//! and all of it leaves the engine's threads their time: quick and unclear together may spend a
//! twentieth of one core, what is beyond that runs on the slow lane, whose threads run when no other
//! thread wants the core. Every queue is bounded. A job whose client has left is skipped. A model
//! with a process of its own has a pool of its own as well: its jobs wait for that process.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use tokio::sync::{Semaphore, oneshot};

/// Bytes of address space for each thread's stack; only pages that are used take memory. A quarter
/// of it holds the deepest grammar that the limits of `forebay_engine` allow.
const STACK: usize = 64 << 20;
/// Jobs that may wait or run in each lane of the common pool. The memory of what they work on is bounded before.
pub(crate) const QUEUE: usize = 1024;
/// The share of one core's time that the quick and the unclear lane may use together, and the most that
/// they can save up.
const QUICK_SHARE: f64 = 0.05;
const MAX_CREDIT: Duration = Duration::from_millis(200);

/// Why a job has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The queue is full.
    #[error("too many jobs are waiting")]
    QueueFull,
    /// It panicked: with this message.
    #[error("a panic: {0}")]
    Panicked(String),
    /// Its thread ended.
    #[error("a job ended without a result")]
    Lost,
}

/// How long a job is likely to take, which decides where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effort {
    /// Well under a millisecond: runs on the caller's thread.
    Tiny,
    /// As short, but it waits for an engine: on a thread for quick jobs, whatever time they have used.
    Small,
    /// Up to some ten milliseconds.
    Short,
    /// Mostly short, which shows only while it runs, such as compiling a grammar: it has a thread of
    /// its own, so that short work does not wait for it.
    Unclear,
    /// Anything else.
    Long,
}

/// The threads. Dropping it waits for none of them.
#[derive(Debug)]
pub(crate) struct Pool {
    quick: Lane,
    unclear: Lane,
    slow: Lane,
    /// Guards plain numbers.
    credit: Arc<Mutex<Credit>>,
}

/// Some threads and a bounded queue. Dropping it waits for none of them.
#[derive(Debug)]
pub(crate) struct Lane {
    threads: ThreadPool,
    /// One permit for each job that may wait or run.
    places: Arc<Semaphore>,
}

/// When a thread runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// As all others.
    Normal,
    /// When no other thread wants the core.
    Idle,
}

/// Time that the quick and the unclear lane may still use, as of `at`.
#[derive(Debug)]
struct Credit {
    left: Duration,
    /// Time used beyond `left`, to be earned again first.
    debt: Duration,
    at: Instant,
}

impl Pool {
    /// Starts the threads, as many as suit `cores`; `queue` jobs may wait or run in each lane.
    ///
    /// # Errors
    /// When the operating system has no threads left.
    pub(crate) fn new(cores: usize, queue: usize) -> Result<Self, ThreadPoolBuildError> {
        let credit = Credit { left: MAX_CREDIT, debt: Duration::ZERO, at: Instant::now() };
        Ok(Self {
            quick: Lane::new("quick", cores.clamp(1, 4), queue, Priority::Normal)?,
            unclear: Lane::new("unclear", 1, queue, Priority::Normal)?,
            slow: Lane::new("slow", (cores / 4).clamp(1, 4), queue, Priority::Idle)?,
            credit: Arc::new(Mutex::new(credit)),
        })
    }

    /// Runs `job` and returns what it returns. Dropping the future drops a job that has not begun.
    ///
    /// # Errors
    /// What the job returns; a [`JobError`] if the lane's queue is full or the job panics.
    pub(crate) async fn run<T: Send + 'static, E: From<JobError> + Send + 'static>(
        &self,
        effort: Effort,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (lane, quick) = match effort {
            Effort::Tiny => return caught(job),
            Effort::Small => return self.quick.run(job).await,
            Effort::Short if self.lock().has_any(Instant::now()) => (&self.quick, true),
            Effort::Unclear if self.lock().has_any(Instant::now()) => (&self.unclear, true),
            Effort::Short | Effort::Unclear | Effort::Long => (&self.slow, false),
        };
        let credit = quick.then(|| Arc::clone(&self.credit));
        let timed = move || {
            let (started, waited) = (Instant::now(), forebay_engine::engine_wait_time());
            let result = caught(job);
            let waited = forebay_engine::engine_wait_time().saturating_sub(waited);
            if let Some(credit) = credit {
                let mut credit = credit.lock().unwrap_or_else(PoisonError::into_inner);
                credit.spend(started.elapsed().saturating_sub(waited));
            }
            result
        };
        lane.run(timed).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Credit> {
        self.credit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Starts `threads` threads for which `queue` jobs may wait or run.
    ///
    /// # Errors
    /// When the operating system has no threads left.
    pub(crate) fn new(
        name: &'static str,
        threads: usize,
        queue: usize,
        priority: Priority,
    ) -> Result<Self, ThreadPoolBuildError> {
        let threads = ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK)
            .thread_name(move |index| format!("{name}-{index}"))
            .start_handler(move |_| {
                if priority == Priority::Idle {
                    forebay_engine::run_in_background();
                }
            })
            .build()?;
        Ok(Self { threads, places: Arc::new(Semaphore::new(queue)) })
    }

    /// Runs `job` and returns what it returns. Dropping the future drops a job that has not begun.
    ///
    /// # Errors
    /// What the job returns; a [`JobError`] if the queue is full or the job panics.
    pub(crate) async fn run<T: Send + 'static, E: From<JobError> + Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| JobError::QueueFull)?;
        let (reply, result) = oneshot::channel();
        self.threads.spawn_fifo(move || {
            let _place = place;
            if !reply.is_closed() {
                // A client that left meanwhile needs nothing.
                drop(reply.send(caught(job)));
            }
        });
        result.await.unwrap_or_else(|_| Err(JobError::Lost.into()))
    }
}

impl Credit {
    fn has_any(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).mul_f64(QUICK_SHARE);
        self.at = now;
        let paid = self.debt.min(earned);
        self.debt -= paid;
        self.left = (self.left + (earned - paid)).min(MAX_CREDIT);
        self.debt.is_zero() && !self.left.is_zero()
    }

    fn spend(&mut self, time: Duration) {
        self.debt += time.saturating_sub(self.left);
        self.left = self.left.saturating_sub(time);
    }
}

/// A panic ends the job alone.
fn caught<T, E: From<JobError>>(job: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(job))
        .unwrap_or_else(|panic| Err(JobError::Panicked(panic_message(&*panic)).into()))
}

/// The message of a panic, if it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(2, QUEUE).unwrap()
    }

    #[tokio::test]
    async fn jobs_run_off_the_reactor_and_panics_end_them_alone() {
        let (pool, here) = (pool(), std::thread::current().id());
        for (effort, same) in [(Effort::Tiny, true), (Effort::Short, false), (Effort::Long, false)]
        {
            let here_too = || Ok::<_, JobError>(std::thread::current().id());
            let id = pool.run(effort, here_too).await.unwrap();
            assert_eq!(id == here, same, "{effort:?}");
            let failed = pool.run::<(), JobError>(effort, || panic!("inside")).await;
            assert_eq!(failed, Err(JobError::Panicked("inside".to_owned())));
        }
        assert_eq!(pool.run(Effort::Short, || Ok::<_, JobError>(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn queues_are_bounded_and_jobs_of_clients_that_left_are_skipped() {
        let pool = Arc::new(pool());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let blocked = pool.run(Effort::Long, move || {
            wait.recv().unwrap();
            Ok::<_, JobError>(())
        });
        let mut blocked = Box::pin(blocked);
        assert!(futures_util::poll!(&mut blocked).is_pending());
        let ran = Arc::new(Mutex::new(0));
        let mut waiting = Vec::new();
        for _ in 1..QUEUE {
            let ran = Arc::clone(&ran);
            let mut job = Box::pin(pool.run(Effort::Long, move || {
                *ran.lock().unwrap() += 1;
                Ok::<_, JobError>(())
            }));
            assert!(futures_util::poll!(&mut job).is_pending());
            waiting.push(job);
        }
        let refused = pool.run(Effort::Long, || Ok::<_, JobError>(())).await;
        assert_eq!(refused, Err(JobError::QueueFull));
        // Only the last one's client stays.
        let last = waiting.pop().unwrap();
        drop(waiting);
        go.send(()).unwrap();
        blocked.await.unwrap();
        last.await.unwrap();
        assert_eq!(*ran.lock().unwrap(), 1);
    }

    #[test]
    fn the_quick_lane_pays_back_what_it_overdraws() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut credit = Credit { left: MAX_CREDIT, debt: Duration::ZERO, at: start };
        assert!(credit.has_any(at(0)));
        credit.spend(MAX_CREDIT + Duration::from_millis(100));
        assert!(!credit.has_any(at(1000)), "50 of 100 ms are paid back");
        assert!(credit.has_any(at(2200)), "all is paid back, and 10 ms are there");
        credit.spend(Duration::from_millis(10));
        assert!(!credit.has_any(at(2200)));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn slow_threads_step_back() {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy};
        let policy = || Ok::<_, JobError>(thread_priority::thread_schedule_policy().unwrap());
        let pool = pool();
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        assert_eq!(pool.run(Effort::Long, policy).await.unwrap(), idle);
        assert_ne!(pool.run(Effort::Short, policy).await.unwrap(), idle);
    }
}
