//! A child process, as the parent sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use tokio::process::{Child, Command as Program};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::codec::Framed;

use super::crash_record::CrashRecord;
use super::frames;
use super::launcher::Launcher;
use super::messages::{FromChild, ToChild};
use crate::exit_cause::ExitCause;

/// How long a child may take to exit after it was closed or has closed its socket.
pub(super) const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a closed child without requests may take to exit. All of its threads have to run once more for that, those
/// in the background too.
pub(super) const DRAINED_EXIT_TIMEOUT: Duration = Duration::from_millis(400);

/// A running child.
pub(super) struct ChildProcess {
    process: Child,
    frames: mpsc::UnboundedSender<Bytes>,
    writer: JoinHandle<()>,
    /// Checks since its last message.
    silent_checks: u32,
}

/// How a child exited.
#[derive(Debug)]
pub(super) enum ChildExit {
    /// As asked.
    Closed,
    /// It cannot load the model.
    CannotLoad(String),
    /// Unexpectedly, or it is to be killed; with a description.
    Died(ExitCause, String),
}

/// The frames from a child.
pub(super) trait Frames: Stream<Item = io::Result<bytes::BytesMut>> + Unpin {}
impl<S: Stream<Item = io::Result<bytes::BytesMut>> + Unpin> Frames for S {}

impl ChildProcess {
    /// Starts a child for the model with this name.
    pub(super) fn start(
        name: &str,
        launcher: &Launcher,
        crash_record: &CrashRecord,
    ) -> io::Result<(Self, impl Frames + use<>)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let process = Program::new(&launcher.program)
            .args(&launcher.arguments)
            // For lists of processes.
            .arg0("forebay")
            .arg(format!("--name={}", name.replace('\0', "")))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(crash_record.file()?))
            .kill_on_drop(true)
            .spawn()?;
        let socket = tokio::net::UnixStream::from_std(ours)?;
        let (mut sink, stream) = Framed::new(socket, frames::codec()).split();
        #[expect(clippy::disallowed_methods, reason = "the queue's permits bound it")]
        let (frames, mut outgoing) = mpsc::unbounded_channel::<Bytes>();
        // A child that does not read delays only this task.
        let writer = tokio::spawn(async move {
            while let Some(frame) = outgoing.recv().await {
                if sink.send(frame).await.is_err() {
                    return;
                }
            }
        });
        Ok((Self { process, frames, writer, silent_checks: 0 }, stream))
    }

    /// Its process id.
    pub(super) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    pub(super) fn send(&self, message: &ToChild) -> io::Result<()> {
        // A dead child is noticed by its closed socket or its silence.
        drop(self.frames.send(frames::encode(message)?.into()));
        Ok(())
    }

    /// Decodes a frame and resets the silence counter.
    pub(super) fn receive(&mut self, frame: &[u8]) -> io::Result<FromChild> {
        self.silent_checks = 0;
        frames::decode(frame)
    }

    /// Counts a periodic check. Returns the checks since its last message. Checks are counted and not time, because while
    /// this process is stopped none is made.
    pub(super) fn count_check(&mut self) -> u32 {
        self.silent_checks += 1;
        self.silent_checks
    }

    /// Waits for the exit of a child that has closed its socket; `closing` if it was asked to.
    pub(super) async fn wait_for_exit(&mut self, closing: bool, wait: Duration) -> ChildExit {
        match tokio::time::timeout(wait, self.process.wait()).await {
            Ok(Ok(status)) if closing && status.success() => ChildExit::Closed,
            Ok(Ok(status)) => ChildExit::Died(ExitCause::of(status), status.to_string()),
            Ok(Err(error)) => ChildExit::Died(ExitCause::Exited, error.to_string()),
            Err(_) => ChildExit::Died(ExitCause::Silent, "it does not end".to_owned()),
        }
    }

    /// Kills the child if it runs, and waits until its memory is free. Returns whether it is within `wait`.
    pub(super) async fn kill(mut self, wait: Duration) -> bool {
        self.writer.abort();
        // It may have exited already.
        drop(self.process.start_kill());
        tokio::time::timeout(wait, self.process.wait()).await.is_ok()
    }
}
