//! Threads that run when no other thread wants the core, and that wait for an engine's process.

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    static PATIENT: Cell<bool> = const { Cell::new(false) };
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Makes this thread one that runs when no other one wants the core, and asks an engine's process for
/// nothing that would hold up others. Where the first cannot be had, the thread keeps what it has.
///
/// A low niceness would not do: a thread of the engine that wakes up, as they do some hundred times a
/// token, would have to wait for its time slice to end.
pub fn run_in_background() {
    PATIENT.set(true);
    #[cfg(target_os = "linux")]
    run_when_idle();
}

/// Whether this thread is.
pub(crate) fn is_background() -> bool {
    PATIENT.get()
}

/// How long this thread has waited for engines' processes, besides the time that these have worked for
/// it.
pub fn engine_wait_time() -> Duration {
    WAITED.get()
}

pub(crate) fn record_engine_wait(time: Duration) {
    WAITED.set(WAITED.get() + time);
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
