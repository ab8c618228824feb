//! Background threads, which run when no other thread needs the core, and the time that threads wait for engines.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
    static ENGINE_WAIT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Makes this thread a background thread: it runs when no other thread needs the core, and its calls to an engine's
/// process run on that process's background thread. If the system refuses, the thread keeps its priority.
///
/// Niceness alone is not enough: an engine's threads wake up some hundred times per token, and each would wait for
/// this thread's time slice to end.
pub fn run_in_background() {
    IS_BACKGROUND.set(true);
    #[cfg(target_os = "linux")]
    run_when_idle();
}

/// Whether this thread is a background thread.
pub(crate) fn is_background() -> bool {
    IS_BACKGROUND.get()
}

/// How long this thread has waited for engines' processes, less the time that they spent on its calls.
pub fn engine_wait_time() -> Duration {
    ENGINE_WAIT.get()
}

pub(crate) fn record_engine_wait(time: Duration) {
    ENGINE_WAIT.set(ENGINE_WAIT.get() + time);
}

#[cfg(target_os = "linux")]
fn run_when_idle() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
    if let Err(error) = set {
        tracing::debug!(?error, "a thread keeps its priority");
    }
}
