//! Passes an engine's reports to the readers of its requests.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::events::{Receiver, Sender, Unread};
use crate::failure::Failure;
use crate::lock::lock;
use crate::message::{Command, EmbedResult, NewToken, Report, Update, UpdateKind};
use crate::report_sink::ReportSink;
use crate::request::{Event, TimedEvent};

/// The channels to an engine and back.
pub(crate) struct EngineChannel {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) router: Arc<ReportRouter>,
}

/// The readers of open requests.
pub(crate) struct ReportRouter {
    unread: Arc<Unread>,
    /// `None` once the engine has ended.
    open: Mutex<Option<OpenRequests>>,
}

#[derive(Default)]
struct OpenRequests {
    generations: HashMap<u64, Sender>,
    vectors: HashMap<u64, VectorsReply>,
}

struct VectorsReply {
    reply: oneshot::Sender<EmbedResult>,
    /// Count the request against the queue's limits.
    permits: [OwnedSemaphorePermit; 2],
}

/// The engine has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EngineEnded;

/// The vectors of a request that is not done. Dropping it cancels what has not been computed.
pub(crate) struct PendingVectors {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
    /// `None` once they have arrived.
    vectors: Option<oneshot::Receiver<EmbedResult>>,
}

impl EngineChannel {
    /// New channels; unread events may take `unread_bytes`.
    pub(crate) fn new(unread_bytes: usize) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the queue's permits bound it")]
        let (commands, inbox) = mpsc::unbounded_channel();
        let departed = commands.clone();
        // An engine that has ended has nothing to cancel.
        let cancel = move |id| drop(departed.send(Command::Cancel(id)));
        let router = ReportRouter::new(Arc::new(Unread::new(unread_bytes, cancel)));
        Self { commands, inbox, router: Arc::new(router) }
    }
}

impl ReportRouter {
    pub(crate) fn new(unread: Arc<Unread>) -> Self {
        Self { unread, open: Mutex::new(Some(OpenRequests::default())) }
    }

    pub(crate) fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Opens the event channel of a request for text, which holds these permits until it is done.
    pub(crate) fn register_generation(
        &self,
        id: u64,
        permits: [OwnedSemaphorePermit; 2],
    ) -> Result<Receiver, EngineEnded> {
        let (sender, receiver) = self.unread.channel(id, Some(permits));
        self.lock().as_mut().ok_or(EngineEnded)?.generations.insert(id, sender);
        Ok(receiver)
    }

    /// Opens the reply channel of a request for vectors. Cancelling it sends a command to `commands`.
    pub(crate) fn register_embedding(
        &self,
        id: u64,
        permits: [OwnedSemaphorePermit; 2],
        commands: mpsc::UnboundedSender<Command>,
    ) -> Result<PendingVectors, EngineEnded> {
        let (reply, vectors) = oneshot::channel();
        self.lock()
            .as_mut()
            .ok_or(EngineEnded)?
            .vectors
            .insert(id, VectorsReply { reply, permits });
        Ok(PendingVectors { id, commands, vectors: Some(vectors) })
    }

    /// Sends [`Event::Paused`] to all readers of text.
    pub(crate) fn pause(&self) {
        let open = self.lock();
        for sender in open.iter().flat_map(|open| open.generations.values()) {
            sender.send(TimedEvent { after: Duration::ZERO, event: Event::Paused });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OpenRequests>> {
        lock(&self.open)
    }

    fn send_updates(&self, updates: Vec<Update>) {
        let mut over = Vec::new();
        let mut open = self.lock();
        let Some(OpenRequests { generations, .. }) = open.as_mut() else { return };
        for Update { id, after, kind, last } in updates {
            let event = event(kind).map(|event| TimedEvent { after, event });
            if last {
                over.extend(generations.remove(&id).map(|sender| (sender, event)));
            } else if let (Some(sender), Some(event)) = (generations.get(&id), event) {
                sender.send(event);
            }
        }
        drop(open);
        for (sender, event) in over {
            match event {
                Some(event) => sender.finish(event),
                None => drop(sender),
            }
        }
    }

    fn finish_embedding(&self, id: u64, vectors: Option<EmbedResult>) {
        let waiting = self.lock().as_mut().and_then(|open| open.vectors.remove(&id));
        let Some(VectorsReply { reply, permits }) = waiting else { return };
        // The permits are returned first: the reader may submit again at once.
        drop(permits);
        if let Some(vectors) = vectors {
            drop(reply.send(vectors));
        }
    }
}

impl PendingVectors {
    /// Waits for the vectors.
    pub(crate) async fn wait(mut self) -> EmbedResult {
        let Some(vectors) = self.vectors.as_mut() else { return Err(Failure::EngineGone) };
        let answer = vectors.await;
        self.vectors = None;
        answer.unwrap_or(Err(Failure::EngineGone))
    }
}

impl Drop for PendingVectors {
    fn drop(&mut self) {
        if self.vectors.is_some() {
            // An engine that has ended has nothing to cancel.
            drop(self.commands.send(Command::Cancel(self.id)));
        }
    }
}

impl ReportSink for ReportRouter {
    fn report(&self, report: Report) {
        match report {
            Report::Updates(updates) => self.send_updates(updates),
            Report::Vectors { id, vectors } => self.finish_embedding(id, Some(vectors)),
            Report::Dropped(id) => self.finish_embedding(id, None),
        }
    }

    fn ended(&self) {
        let open = self.lock().take();
        drop(open);
    }
}

impl fmt::Debug for ReportRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportRouter").finish_non_exhaustive()
    }
}

/// The event of an update, if readers get one.
fn event(kind: UpdateKind) -> Option<Event> {
    Some(match kind {
        UpdateKind::Started { queued, cached } => Event::Started { queued, cached },
        UpdateKind::Prompt(logprobs) => Event::Prompt(logprobs),
        UpdateKind::Token(NewToken { text, logprobs, .. })
            if text.is_empty() && logprobs.is_empty() =>
        {
            return None;
        }
        UpdateKind::Token(NewToken { choice, text, tokens, logprobs, .. }) => {
            Event::Delta { choice, text, tokens, logprobs }
        }
        UpdateKind::Finished { choice, reason, tokens } => {
            Event::Finished { choice, reason, tokens }
        }
        UpdateKind::Failed(failure) => Event::Failed(failure),
        UpdateKind::Dropped => return None,
    })
}
