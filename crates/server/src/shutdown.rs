//! Signals, and the deadline by which the process exits.
//!
//! Signals are received on a thread of their own: when every thread of the main runtime is stuck,
//! the process must end all the same.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::config::ServerSettings;
use crate::lifecycle::Shutdown;

/// How long a shutdown may take besides the drain.
const MARGIN: Duration = Duration::from_secs(5);
/// How long the runtime's threads have to end once serving is over.
const THREADS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the log has to write its last line: the reader of its pipe may be stuck.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(100);

/// Starts to receive signals. The process ends with status 0 if it still runs 5 s after the end
/// of the drain that the first signal asked for.
///
/// # Errors
/// When there is no thread, or signals cannot be received.
pub(crate) fn signals(settings: &ServerSettings) -> io::Result<mpsc::Receiver<Shutdown>> {
    let timeout = Duration::from_secs(settings.drain_timeout_s);
    let delay = Duration::from_secs(settings.drain_delay_s);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    // A write that exceeds the file size limit fails as on a full disk; the signal must not end the process.
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    let (sender, receiver) = mpsc::channel(4);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let mut deadline: Option<Instant> = None;
            loop {
                let over = async {
                    match deadline {
                        Some(deadline) => sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    request = signals.next() => {
                        let (now, drain) = (Instant::now(), delay + timeout);
                        deadline = Some(exit_deadline(deadline, now, request, drain, timeout));
                        // Four are queued: a further one changes nothing.
                        let _ = sender.try_send(request);
                    }
                    () = over => exit(0, "the shutdown takes too long; exiting"),
                }
            }
        });
    })?;
    Ok(receiver)
}

/// Ignores the signals that ask an engine's process to end, and that of the file size limit.
///
/// A terminal and a supervisor send them to all processes of a service, and the server needs its engines
/// for the drain. They end with it.
///
/// # Errors
/// When the operating system does not allow it.
pub(crate) fn leave_signals_to_parent() -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGXFSZ] {
        // The flag is not read.
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(())
}

/// When the process must have exited, after this request and those before it.
///
/// `drain` is the whole drain's length, `quick` the length without its delay.
fn exit_deadline(
    before: Option<Instant>,
    now: Instant,
    request: Shutdown,
    drain: Duration,
    quick: Duration,
) -> Instant {
    let drain = match (before, request) {
        (None, Shutdown::Drain) => drain,
        (None, Shutdown::Quick) => quick,
        (Some(_), _) | (None, Shutdown::Now) => Duration::ZERO,
    };
    let end = now + drain + MARGIN;
    before.map_or(end, |before| before.min(end))
}

/// Ends a runtime without waiting long for threads that work for it, and the process if engines
/// are still running: they use libraries whose statics the process's ordinary end tears down.
pub(crate) fn finish(runtime: tokio::runtime::Runtime, status: u8) {
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    if forebay_engine::live_threads() > 0 {
        exit(status, "an engine does not close; exiting without it");
    }
}

/// Logs why, and ends the process at once.
fn exit(status: u8, why: &'static str) -> ! {
    // On a thread of its own: writing blocks if nothing reads the log.
    drop(thread::Builder::new().spawn(move || tracing::error!("{why}")));
    thread::sleep(LAST_LINE_TIMEOUT);
    signal_hook::low_level::exit(status.into())
}

/// The signals that ask a process to end.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Shutdown {
        tokio::select! {
            _ = self.terminate.recv() => Shutdown::Drain,
            _ = self.interrupt.recv() => Shutdown::Quick,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const CHILD: &str = "FOREBAY_TEST_CHILD";

    /// Runs one of the tests below, which waits for SIGTERM, in a process of its own. Returns its
    /// exit status and how long it took to end.
    fn terminated(name: &str) -> (Option<i32>, Duration) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("shutdown::tests::{name}"), "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1000));
        let begin = Instant::now();
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        while begin.elapsed() < Duration::from_secs(20) {
            if let Some(status) = child.try_wait().unwrap() {
                return (status.code(), begin.elapsed());
            }
            thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{name} does not end");
    }

    fn is_child() -> bool {
        std::env::vars().any(|(name, _)| name == CHILD)
    }

    fn settings() -> ServerSettings {
        ServerSettings { drain_delay_s: 0, drain_timeout_s: 1, ..ServerSettings::default() }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
    }

    fn forever() {
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    }

    #[test]
    fn a_stuck_blocking_thread_is_not_waited_for() {
        if !is_child() {
            let (status, took) = terminated("a_stuck_blocking_thread_is_not_waited_for");
            assert_eq!(status, Some(0));
            assert!(took < Duration::from_secs(3), "{took:?}");
            return;
        }
        let mut signals = signals(&settings()).unwrap();
        let runtime = runtime();
        runtime.spawn_blocking(forever);
        let signal = runtime.block_on(async { signals.recv().await });
        assert_eq!(signal, Some(Shutdown::Drain));
        finish(runtime, 0);
    }

    #[test]
    fn a_runtime_whose_threads_are_all_stuck_ends_in_time() {
        if !is_child() {
            let (status, took) = terminated("a_runtime_whose_threads_are_all_stuck_ends_in_time");
            assert_eq!(status, Some(0));
            // The drain's second, and the margin.
            assert!(took > Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
            return;
        }
        let _signals = signals(&settings()).unwrap();
        let runtime = runtime();
        for _ in 0..2 {
            runtime.spawn(async { forever() });
        }
        runtime.block_on(std::future::pending::<()>());
    }

    #[test]
    fn a_second_request_leaves_the_margin_alone() {
        let (drain, quick) = (Duration::from_secs(125), Duration::from_secs(120));
        let now = Instant::now();
        let after = |before: Option<u64>, request| {
            let before = before.map(|seconds| now + Duration::from_secs(seconds));
            (exit_deadline(before, now, request, drain, quick) - now).as_secs()
        };
        assert_eq!(after(None, Shutdown::Drain), 130);
        assert_eq!(after(None, Shutdown::Quick), 125);
        assert_eq!(after(None, Shutdown::Now), 5);
        assert_eq!(after(Some(130), Shutdown::Quick), 5);
        assert_eq!(after(Some(2), Shutdown::Drain), 2);
    }
}
