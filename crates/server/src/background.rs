//! Responses that are generated while nobody waits: each a task of its own, whose events anybody
//! may read from the beginning, also after it has ended.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::response::sse::Event as SseEvent;
use forebay_engine::Event;
use futures_util::{Stream, stream};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::answer::{Runs, Sourced};
use crate::convert::responses::output::Response;
use crate::error::ApiError;
use crate::store::{Kept, Store};

/// The tasks that run, by the ids of their responses. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Jobs(Arc<watch::Sender<HashMap<String, Arc<Job>>>>);

/// A response that is being generated.
#[derive(Debug)]
pub(crate) struct Job {
    told: watch::Sender<Told>,
    cancel: Notify,
}

/// What it has told so far.
#[derive(Debug, Default)]
struct Told {
    /// Its events as JSON, by number.
    events: Vec<Arc<str>>,
    over: bool,
}

/// One task's work.
struct Work {
    runs: Runs,
    response: Response,
    store: Store,
    kept: Kept,
    job: Arc<Job>,
}

// === impl Jobs ===

impl Default for Jobs {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }
}

impl Jobs {
    /// Keeps the response as it is and goes on with it in a task. Returns it, and what it will tell.
    ///
    /// # Errors
    /// Where it cannot be kept.
    pub(crate) async fn start(
        &self,
        runs: Runs,
        mut response: Response,
        store: Store,
        kept: Kept,
    ) -> Result<(Value, Arc<Job>), ApiError> {
        let object = response.object("queued", None);
        store.keep(kept.clone(), object.clone()).await?;
        let job = Arc::new(Job { told: watch::Sender::default(), cancel: Notify::new() });
        let opening = response.opening(&["created", "queued"]);
        job.tell(&response.number(opening));
        let id = object["id"].as_str().unwrap_or_default().to_owned();
        self.0.send_modify(|jobs| drop(jobs.insert(id.clone(), Arc::clone(&job))));
        let work = Work { runs, response, store, kept, job: Arc::clone(&job) };
        let jobs = self.clone();
        tokio::spawn(async move {
            work.run().await;
            jobs.0.send_modify(|jobs| drop(jobs.remove(&id)));
        });
        Ok((object, job))
    }

    /// The task of this response, while it runs.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.0.borrow().get(id).cloned()
    }

    /// Waits until none runs.
    pub(crate) async fn idle(&self) {
        let mut jobs = self.0.subscribe();
        // The sender lives in `self`.
        drop(jobs.wait_for(HashMap::is_empty).await);
    }
}

// === impl Job ===

impl Job {
    /// Ends it where it is, and waits until that is kept.
    pub(crate) async fn cancel(&self) {
        self.cancel.notify_one();
        let mut told = self.told.subscribe();
        drop(told.wait_for(|told| told.over).await);
    }

    /// Its events from this number on, until it is over.
    pub(crate) fn events(self: Arc<Self>, from: usize) -> impl Stream<Item = SseEvent> + Send {
        let told = self.told.subscribe();
        // The job is held so that its sender lives.
        let state = (self, told, from, VecDeque::new());
        stream::unfold(state, |(job, mut told, mut next, mut ready)| async move {
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((event, (job, told, next, ready)));
                }
                {
                    let now = told.wait_for(|told| told.over || told.events.len() > next).await;
                    let now = now.ok()?;
                    let new = now.events.get(next..).unwrap_or_default();
                    if new.is_empty() {
                        return None;
                    }
                    next += new.len();
                    ready.extend(new.iter().map(|event| named(event)));
                }
            }
        })
    }

    fn tell(&self, events: &[Value]) {
        let events: Vec<Arc<str>> = events.iter().map(|event| event.to_string().into()).collect();
        self.told.send_modify(|told| told.events.extend(events));
    }
}

/// An event under its name.
pub(crate) fn named(json: &str) -> SseEvent {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(rename = "type", borrow)]
        name: &'a str,
    }
    let name = serde_json::from_str(json).map_or("", |Named { name }| name);
    SseEvent::default().event(name).data(json)
}

// === impl Work ===

impl Work {
    async fn run(mut self) {
        let object = self.generate().await;
        self.finish(object).await;
    }

    /// The whole object at the end.
    async fn generate(&mut self) -> Value {
        let job = Arc::clone(&self.job);
        loop {
            let next = tokio::select! {
                biased;
                () = job.cancel.notified() => return self.response.object("cancelled", None),
                next = self.runs.next() => next,
            };
            match next {
                Ok(Some(Sourced { event, .. })) => {
                    let mut events = Vec::new();
                    if matches!(event, Event::Started { .. }) {
                        events = self.response.opening(&["in_progress"]);
                        self.keep(self.response.object("in_progress", None)).await;
                    }
                    self.response.event(event, &mut events);
                    self.job.tell(&self.response.number(events));
                }
                Ok(None) => return self.response.finished(self.runs.usage()),
                Err(error) => return self.response.failure(&error),
            }
        }
    }

    async fn finish(&mut self, object: Value) {
        let last = self.response.number(vec![Response::closing(&object)]);
        let last: Arc<str> = last.first().map(Value::to_string).unwrap_or_default().into();
        self.kept.events = self.job.told.borrow().events.clone();
        self.kept.events.push(Arc::clone(&last));
        let (id, status) = (object["id"].clone(), object["status"].clone());
        self.keep(object).await;
        tracing::info!(%id, %status, usage = ?self.runs.usage(), "a background response is over");
        self.job.told.send_modify(|told| {
            told.events.push(last);
            told.over = true;
        });
    }

    async fn keep(&self, object: Value) {
        if let Err(error) = self.store.keep(self.kept.clone(), object).await {
            tracing::error!(error = error.log_text(), "a response could not be kept");
        }
    }
}
