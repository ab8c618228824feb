//! Cancels parser calls that take too long.
//!
//! llguidance bounds how many items a mask creates, not how often an ambiguous grammar creates the same one:
//! `start: start start | "a"` takes a quarter of a second for one token within its limits. But it can be cancelled: one
//! thread watches the running calls and cancels those over their limit. CPU time counts, so that no call fails because
//! the machine is busy.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use llguidance::CancellationHandle;

use crate::lock::lock;

/// Interval between checks: a call is cancelled at most this much after its limit.
const TICK: Duration = Duration::from_millis(20);

/// The watched calls, by number.
#[derive(Default)]
struct RunningWork {
    next: u64,
    work: BTreeMap<u64, Work>,
    /// Whether the thread waits to be woken.
    idle: bool,
}

struct Work {
    handle: CancellationHandle,
    limit: Duration,
    /// When it began, and its thread's CPU time then.
    began: Instant,
    used: Duration,
    thread: i32,
}

#[derive(Default)]
struct Watch {
    running: Mutex<RunningWork>,
    wake: Condvar,
}

/// A watched call; dropping it ends the watch.
struct Watched(&'static Watch, u64);

/// Runs `work` and cancels it by `handle` if it takes longer than `limit` of CPU time. Also returns its CPU time.
pub(super) fn limited<T>(
    handle: &CancellationHandle,
    limit: Duration,
    work: impl FnOnce() -> T,
) -> (T, Duration) {
    let used = cpu_time();
    let watched = watch().map(|watch| watch.begin(handle.clone(), limit, used));
    let done = work();
    drop(watched);
    (done, cpu_time().saturating_sub(used))
}

/// CPU time of this thread.
pub(super) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The system's id of this thread.
#[cfg(target_os = "linux")]
fn this_thread() -> i32 {
    thread_local!(static THREAD: i32 = rustix::thread::gettid().as_raw_pid());
    THREAD.with(|thread| *thread)
}

#[cfg(not(target_os = "linux"))]
fn this_thread() -> i32 {
    0
}

/// CPU time of a thread of this process, if the system reports it.
fn cpu_time_of(thread: i32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().map(Duration::from_nanos).ok()
}

/// The state of the watching thread, which the first call starts. `None` if that fails: then nothing is cancelled.
fn watch() -> Option<&'static Watch> {
    static WATCH: OnceLock<Option<&'static Watch>> = OnceLock::new();
    *WATCH.get_or_init(|| {
        let watch: &'static Watch = Box::leak(Box::default());
        let thread = std::thread::Builder::new().name("grammar-watch".to_owned());
        match thread.spawn(|| watch.run()) {
            Ok(_) => Some(watch),
            Err(error) => {
                tracing::error!(%error, "grammars have no time limit: no thread for it");
                None
            }
        }
    })
}

impl Watch {
    fn begin(
        &'static self,
        handle: CancellationHandle,
        limit: Duration,
        used: Duration,
    ) -> Watched {
        let work = Work { handle, limit, began: Instant::now(), used, thread: this_thread() };
        let mut running = lock(&self.running);
        let number = running.next;
        running.next += 1;
        running.work.insert(number, work);
        if std::mem::take(&mut running.idle) {
            self.wake.notify_one();
        }
        Watched(self, number)
    }

    fn run(&self) {
        let mut running = lock(&self.running);
        loop {
            if running.work.is_empty() {
                running.idle = true;
                running = self.wake.wait(running).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            running
                .work
                .values()
                .filter(|work| work.is_late())
                .for_each(|work| work.handle.cancel());
            let waited = self.wake.wait_timeout(running, TICK);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Work {
    fn is_late(&self) -> bool {
        // CPU time never exceeds wall time.
        self.began.elapsed() > self.limit
            && cpu_time_of(self.thread)
                .is_none_or(|used| used.saturating_sub(self.used) > self.limit)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut running = lock(&self.0.running);
        running.work.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_cancelled() {
        let (late, early) = (CancellationHandle::default(), CancellationHandle::default());
        limited(&early, Duration::from_secs(60), || ());
        limited(&late, Duration::from_millis(1), || {
            let started = Instant::now();
            while !late.is_cancelled() && started.elapsed() < Duration::from_secs(10) {
                std::hint::spin_loop();
            }
        });
        assert!(late.is_cancelled() && !early.is_cancelled());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn waiting_does_not_count() {
        let handle = CancellationHandle::default();
        let wait = || std::thread::sleep(Duration::from_millis(200));
        let ((), took) = limited(&handle, Duration::from_millis(50), wait);
        assert!(!handle.is_cancelled() && took < Duration::from_millis(50));
    }
}
