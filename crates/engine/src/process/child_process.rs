//! One child while it runs, as the parent sees it.

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

/// How long a child that is to end, or has closed its socket, may take for that.
pub(super) const LAST_BREATH: Duration = Duration::from_secs(2);

/// How long one may take that was told to end, and has served what it had. All of its threads have to run once
/// more for that, those too that run only when nobody else wants the core.
pub(super) const LEAVE: Duration = Duration::from_millis(400);

/// A child that runs.
pub(super) struct ChildProcess {
    process: Child,
    frames: mpsc::UnboundedSender<Bytes>,
    writer: JoinHandle<()>,
    /// Looks at it since it said something.
    silent: u32,
}

/// How a child ended.
#[derive(Debug)]
pub(super) enum ChildExit {
    /// It was asked to.
    Closed,
    /// It cannot load the model.
    CannotLoad(String),
    /// Otherwise, or it is to be killed.
    Died(ExitCause, String),
}

/// What a child says.
pub(super) trait Frames: Stream<Item = io::Result<bytes::BytesMut>> + Unpin {}
impl<S: Stream<Item = io::Result<bytes::BytesMut>> + Unpin> Frames for S {}

impl ChildProcess {
    /// Starts one, for the model with this name.
    pub(super) fn start(
        name: &str,
        launcher: &Launcher,
        crash_record: &CrashRecord,
    ) -> io::Result<(Self, impl Frames + use<>)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let process = Program::new(&launcher.program)
            .args(&launcher.arguments)
            // For whoever looks at a list of processes.
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
        // A child that does not read holds up nothing but this.
        let writer = tokio::spawn(async move {
            while let Some(frame) = outgoing.recv().await {
                if sink.send(frame).await.is_err() {
                    return;
                }
            }
        });
        Ok((Self { process, frames, writer, silent: 0 }, stream))
    }

    /// The number of its process.
    pub(super) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    pub(super) fn send(&self, message: &ToChild) -> io::Result<()> {
        // One that has died is noticed by its silence.
        drop(self.frames.send(frames::encode(message)?.into()));
        Ok(())
    }

    /// Takes in a frame.
    pub(super) fn hear(&mut self, frame: &[u8]) -> io::Result<FromChild> {
        self.silent = 0;
        frames::decode(frame)
    }

    /// Looks at it once more; for how many times it has said nothing. They are counted, and not the
    /// time: while this process is stopped as well, nobody looks.
    pub(super) fn look(&mut self) -> u32 {
        self.silent += 1;
        self.silent
    }

    /// How it ends, after it has closed its socket; `closing` where it was told to. It may take so long.
    pub(super) async fn last_breath(&mut self, closing: bool, wait: Duration) -> ChildExit {
        match tokio::time::timeout(wait, self.process.wait()).await {
            Ok(Ok(status)) if closing && status.success() => ChildExit::Closed,
            Ok(Ok(status)) => ChildExit::Died(ExitCause::of(status), status.to_string()),
            Ok(Err(error)) => ChildExit::Died(ExitCause::Exited, error.to_string()),
            Err(_) => ChildExit::Died(ExitCause::Silent, "it does not end".to_owned()),
        }
    }

    /// Kills it, if it has not ended, and waits until its memory is free, but at most so long; whether it is.
    pub(super) async fn end(mut self, wait: Duration) -> bool {
        self.writer.abort();
        // It may have ended already.
        drop(self.process.start_kill());
        tokio::time::timeout(wait, self.process.wait()).await.is_ok()
    }
}
