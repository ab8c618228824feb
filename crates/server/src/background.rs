//! Responses that are generated in the background: each by a task of its own, whose events can be read from
//! the beginning, by several clients, and also after it has ended.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, stream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::convert::to_json;
use crate::cost::Reservation;
use crate::dialects::responses::encode::{
    Event as ResponseEvent, EventSink, Header, Progress, Response, ResponseError, Status,
};
use crate::error::ApiError;
use crate::generations::Updates;
use crate::persistence::{Destination, snapshot};
use crate::reply::{Replies, ReplyUpdate};
use crate::response_store::{ResponseSnapshot, StoreError};

/// Bytes of memory for the events of all running jobs. Beyond that a job goes on, but adds no more
/// deltas to its list: the events that close items repeat their text.
const EVENT_BYTES: usize = 64 << 20;
/// How long a cancelled job has to store its response; then its task is dropped.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// The tasks that run, by the ids of their responses. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jobs(Arc<JobTable>);

#[derive(Debug, Default)]
struct JobTable {
    tasks: TaskTracker,
    jobs: Mutex<HashMap<String, Arc<Job>>>,
    /// Bytes of the events of all jobs.
    bytes: Arc<AtomicUsize>,
}

/// A response that is being generated.
#[derive(Debug)]
pub(crate) struct Job {
    emitted: watch::Sender<Emitted>,
    cancel: CancellationToken,
    task: Mutex<Option<AbortHandle>>,
    destination: Destination,
    /// What is known of the response if the task ends before it has finished it.
    header: Header,
    /// Bytes of events, its own and those of all jobs.
    bytes: AtomicUsize,
    all_bytes: Arc<AtomicUsize>,
}

/// What a job has emitted so far, and whether it is over.
#[derive(Debug, Default)]
struct Emitted {
    /// Its events as JSON, by number.
    events: Vec<Arc<str>>,
    /// Whether its end is being stored.
    ending: bool,
    /// Whether its end is stored.
    over: bool,
}

/// Events on their way to a job's list.
struct NewEvents {
    /// As JSON.
    texts: Vec<Arc<str>>,
    /// Whether there is room for deltas.
    deltas: bool,
}

/// A job's task: generates the response and stores it.
struct JobTask {
    replies: Replies,
    response: Response,
    job: Arc<Job>,
}

/// Ends a job whose task ends in any other way than by [`JobTask::run`].
struct EndOnDrop {
    jobs: Jobs,
    id: String,
    job: Arc<Job>,
}

/// Marks a job as over when dropped, which wakes those that wait for its end.
struct OverOnDrop<'a> {
    job: &'a Job,
    last: Option<Arc<str>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Single values and one map: a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Jobs ===

impl Jobs {
    /// Stores the response as it is and starts a task that generates it. Returns it as JSON, and its job.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub(crate) async fn start(
        &self,
        replies: Replies,
        mut response: Response,
        destination: Destination,
        memory: Reservation,
    ) -> Result<(String, Arc<Job>), StoreError> {
        let Destination { store, entry } = &destination;
        response.set_stored(entry.retrievable, entry.conversation.as_deref());
        let queued = Progress::of(Status::Queued);
        store.save(entry.clone(), snapshot(response.header(), &queued, &[])).await?;
        let object = to_json(&response.object(&queued));
        let header = response.header().clone();
        let job = Job::new(destination, header, Arc::clone(&self.0.bytes));
        let mut events = job.new_events();
        response.opening(&["response.created", "response.queued"], &mut events);
        job.add(events.texts);
        let task = JobTask { replies, response, job: Arc::clone(&job) };
        // What the request has is held until the job is over.
        let run = async move {
            task.run().await;
            drop(memory);
        };
        self.spawn(&job, run);
        Ok((object, job))
    }

    /// Runs a job's work in a task. However that ends, the job is over after it.
    fn spawn(&self, job: &Arc<Job>, work: impl Future<Output = ()> + Send + 'static) {
        let id = job.header.id().to_owned();
        lock(&self.0.jobs).insert(id.clone(), Arc::clone(job));
        let end = EndOnDrop { jobs: self.clone(), id, job: Arc::clone(job) };
        // `idle` waits for it; its panics are caught inside.
        let task = self.0.tasks.spawn(async move {
            let done = AssertUnwindSafe(work).catch_unwind().await;
            if let Err(panic) = done {
                let error = ApiError::panicked(&*panic);
                tracing::error!(
                    id = end.id,
                    error = error.log_text(),
                    "a background task panicked"
                );
                end.job.give_up(Status::Failed, Some(&error)).await;
            }
            drop(end);
        });
        *lock(&job.task) = Some(task.abort_handle());
    }

    /// The task of this response, while it runs.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Job>> {
        lock(&self.0.jobs).get(id).filter(|job| !job.emitted.borrow().over).cloned()
    }

    /// Waits until none runs, once no new ones can come.
    pub(crate) async fn idle(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

// === impl EndOnDrop ===

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        lock(&self.jobs.0.jobs).remove(&self.id);
        if self.job.emitted.borrow().over {
            return;
        }
        // The task was dropped: by `cancel`, or because the runtime ends. Then nothing can be stored
        // any more, and the store marks the response as failed when it is opened again.
        let job = Arc::clone(&self.job);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { job.give_up(Status::Cancelled, None).await });
        }
    }
}

// === impl Job ===

impl Job {
    fn new(destination: Destination, header: Header, all_bytes: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            emitted: watch::Sender::default(),
            cancel: CancellationToken::new(),
            task: Mutex::new(None),
            destination,
            header,
            bytes: AtomicUsize::new(0),
            all_bytes,
        })
    }

    /// Ends it where it is, and waits until that is stored. A task that does not answer in time is
    /// dropped, and the response is stored without its output.
    pub(crate) async fn cancel(&self) {
        self.cancel.cancel();
        let mut emitted = self.emitted.subscribe();
        let over = emitted.wait_for(|emitted| emitted.over);
        if tokio::time::timeout(CANCEL_WAIT, over).await.is_ok() {
            return;
        }
        tracing::error!(id = self.header.id(), "a background task does not end; dropping it");
        if let Some(task) = &*lock(&self.task) {
            task.abort();
        }
        self.give_up(Status::Cancelled, None).await;
    }

    /// Ends it from outside its task: all that is known of the response is how it began.
    async fn give_up(&self, status: Status, error: Option<&ApiError>) {
        let error = error.map(ResponseError::from);
        let progress = Progress { error, ..Progress::of(status) };
        let object = self.header.object(&progress, &[]);
        let number = self.emitted.borrow().events.len() as u64;
        let last = ResponseEvent::closing(&object).numbered(number);
        self.end(snapshot(&self.header, &progress, &[]), to_json(&last).into()).await;
    }

    /// Stores the response as it is at its end, and its events. Only the first end counts.
    async fn end(&self, response: ResponseSnapshot, last: Arc<str>) {
        let mut destination = self.destination.clone();
        let first = self.emitted.send_if_modified(|emitted| {
            destination.entry.events.clone_from(&emitted.events);
            !std::mem::replace(&mut emitted.ending, true)
        });
        if first {
            destination.entry.events.push(Arc::clone(&last));
            // Waiting readers go on even if this task is dropped while it waits for the store.
            let _over = OverOnDrop { job: self, last: Some(last) };
            destination.save(response).await;
        }
    }

    /// Stores the response as it is so far, unless it has been ended.
    async fn save_progress(&self, response: ResponseSnapshot) {
        if !self.emitted.borrow().ending {
            self.destination.clone().save(response).await;
        }
    }

    /// Its events from number `from` on, as JSON, until it is over.
    pub(crate) fn events(self: Arc<Self>, from: usize) -> impl Stream<Item = Arc<str>> + Send {
        let emitted = self.emitted.subscribe();
        // The job is held so that its sender lives.
        stream::unfold((self, emitted, from), |(job, mut emitted, next)| async move {
            let event = {
                let now = emitted
                    .wait_for(|emitted| emitted.over || emitted.events.len() > next)
                    .await
                    .ok()?;
                Arc::clone(now.events.get(next)?)
            };
            Some((event, (job, emitted, next + 1)))
        })
    }

    /// An empty list of events, with deltas as far as there is room for them.
    fn new_events(&self) -> NewEvents {
        let deltas = self.all_bytes.load(Ordering::Relaxed) <= EVENT_BYTES;
        NewEvents { texts: Vec::new(), deltas }
    }

    /// Adds events to the list.
    fn add(&self, events: Vec<Arc<str>>) {
        let bytes = events.iter().map(|event| event.len()).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.emitted.send_modify(|emitted| emitted.events.extend(events));
    }
}

impl EventSink for NewEvents {
    fn wants_deltas(&self) -> bool {
        self.deltas
    }

    fn push(&mut self, event: &ResponseEvent<'_>) {
        self.texts.push(to_json(event).into());
    }
}

impl Drop for OverOnDrop<'_> {
    fn drop(&mut self) {
        self.job.emitted.send_modify(|emitted| {
            emitted.events.extend(self.last.take());
            emitted.over = true;
        });
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

// === impl JobTask ===

impl JobTask {
    async fn run(mut self) {
        let end = self.generate().await;
        let mut last = NewEvents { texts: Vec::new(), deltas: false };
        self.response.closing(&end, &mut last);
        let last = last.texts.pop().unwrap_or_default();
        self.job.end(self.snapshot(&end), last).await;
        let (id, status) = (self.job.header.id(), end.status);
        tracing::info!(id, ?status, usage = ?self.replies.usage(), "a background response is over");
    }

    fn snapshot(&self, progress: &Progress) -> ResponseSnapshot {
        snapshot(self.response.header(), progress, self.response.items())
    }

    /// Generates the response to its end.
    async fn generate(&mut self) -> Progress {
        let job = Arc::clone(&self.job);
        loop {
            let next = tokio::select! {
                biased;
                () = job.cancel.cancelled() => return Progress::of(Status::Cancelled),
                next = self.replies.next() => next,
            };
            match next {
                Ok(Some(update)) => {
                    let mut events = job.new_events();
                    if matches!(update, ReplyUpdate::Started { .. }) {
                        self.response.opening(&["response.in_progress"], &mut events);
                        let running = Progress::of(Status::InProgress);
                        job.save_progress(self.snapshot(&running)).await;
                    }
                    self.response.update(update, &mut events);
                    job.add(events.texts);
                }
                Ok(None) => return self.response.finished(self.replies.usage()),
                Err(error) => return Response::failure(&error),
            }
        }
    }
}

#[cfg(test)]
mod tests;
