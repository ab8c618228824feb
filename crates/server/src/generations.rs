//! The generations of a request: their events, and what is measured of them.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_engine::{Event, FinishReason, GenerateRequest, Generation};
use forebay_protocol::usage::Usage;

use crate::error::ApiError;
use crate::lifecycle::{Lifecycle, Phase};
use crate::record::Record;
use crate::registry::Served;

/// The updates of all answers to one request, in order: streams and whole answers are made of them.
pub(crate) trait Updates: Send + 'static {
    /// One of them.
    type Update: Send;
    /// Whether it is only a notice that the model is being restarted.
    fn is_pause(update: &Self::Update) -> bool;
    /// The next one; `None` when all answers are complete.
    ///
    /// # Errors
    /// When one failed, or the server must end it to shut down.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Update>, ApiError>> + Send;
    /// Reads to the end.
    ///
    /// # Errors
    /// As [`Self::next`].
    async fn read_all(&mut self, mut update: impl FnMut(Self::Update)) -> Result<(), ApiError> {
        while let Some(next) = self.next().await? {
            update(next);
        }
        Ok(())
    }
    /// Tokens so far.
    fn usage(&self) -> Usage;
    /// Adds an error to the request's log line, and returns it.
    fn failed(&self, error: ApiError) -> ApiError;
}

/// The generations of one HTTP request: one for each prompt. Dropping it cancels them.
#[derive(Debug)]
pub(crate) struct Generations {
    running: Vec<RunningGeneration>,
    lifecycle: Lifecycle,
    record: Record,
    usage: Usage,
}

/// An event of a prompt's generation.
#[derive(Debug)]
pub(crate) struct PromptEvent {
    /// Index of the prompt.
    pub prompt: usize,
    /// The event.
    pub event: Event,
}

#[derive(Debug)]
struct RunningGeneration {
    generation: Generation,
    unfinished: u32,
    meter: GenerationMeter,
}

/// Records what one generation took. Times are since its submission.
#[derive(Debug)]
struct GenerationMeter {
    served: Arc<Served>,
    started: Duration,
    first_token: bool,
    /// For each choice: when its last token came, its first, and how many there are.
    choices: Vec<(Duration, Duration, u32)>,
}

/// OpenAI's word for why an answer ended.
pub(crate) fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfText | FinishReason::StopString(_) | FinishReason::StopToken(_) => {
            "stop"
        }
        FinishReason::Length => "length",
    }
}

impl Generations {
    /// Submits every request, or none.
    ///
    /// # Errors
    /// What the engine refuses.
    pub(crate) fn submit(
        requests: Vec<GenerateRequest>,
        served: &Arc<Served>,
        record: Record,
        lifecycle: &Lifecycle,
    ) -> Result<Self, ApiError> {
        let engine = served.engine()?;
        let mut usage = Usage::default();
        let mut running = Vec::with_capacity(requests.len());
        for request in requests {
            let prompt = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
            let choices = request.choices as usize;
            let unfinished = request.choices;
            usage = usage.plus(prompt, 0, 0);
            let generation = engine.generate(request)?;
            served.metrics.request_prompt.record(f64::from(prompt));
            let meter = GenerationMeter::new(Arc::clone(served), choices);
            running.push(RunningGeneration { generation, unfinished, meter });
        }
        served.metrics.prompt_tokens.increment(u64::from(usage.prompt_tokens));
        record.update(|facts| {
            facts.model = Some(Arc::clone(served));
            facts.prompt_tokens = usage.prompt_tokens;
        });
        Ok(Self { running, lifecycle: lifecycle.clone(), record, usage })
    }

    /// No generation at all: it ends at once.
    #[cfg(test)]
    pub(crate) fn none(lifecycle: Lifecycle, record: Record) -> Self {
        Self { running: Vec::new(), lifecycle, record, usage: Usage::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<PromptEvent>, ApiError>> {
        for index in 0..self.running.len() {
            let run = &mut self.running[index];
            if run.unfinished == 0 {
                continue;
            }
            match run.generation.poll_next(cx) {
                Poll::Pending => {}
                Poll::Ready(Some(event)) => {
                    return Poll::Ready(self.observe(index, event).map(Some));
                }
                Poll::Ready(None) => {
                    let gone = forebay_engine::Failure::EngineGone.into();
                    return Poll::Ready(Err(self.failed(gone)));
                }
            }
        }
        if self.running.iter().all(|run| run.unfinished == 0) {
            Poll::Ready(Ok(None))
        } else {
            Poll::Pending
        }
    }

    /// Measures an event; a failure becomes an error.
    fn observe(&mut self, index: usize, event: Event) -> Result<PromptEvent, ApiError> {
        let run = &mut self.running[index];
        run.meter.event(&event, run.generation.elapsed(), &self.record);
        match &event {
            Event::Failed(failure) => {
                let error = failure.clone().into();
                return Err(self.failed(error));
            }
            Event::Finished { tokens, reason, .. } => {
                run.unfinished -= 1;
                self.usage = self.usage.plus(0, 0, *tokens);
                self.record.update(|facts| {
                    facts.completion_tokens = self.usage.completion_tokens;
                    facts.finish_reason = Some(finish_reason(reason));
                });
            }
            Event::Started { cached, .. } => {
                self.usage = self.usage.plus(0, *cached, 0);
                self.record.update(|facts| facts.cached_tokens += cached);
            }
            Event::Paused | Event::Prompt(_) | Event::Delta { .. } => {}
        }
        Ok(PromptEvent { prompt: index, event })
    }
}

impl Updates for Generations {
    type Update = PromptEvent;

    fn is_pause(update: &PromptEvent) -> bool {
        matches!(update.event, Event::Paused)
    }

    async fn next(&mut self) -> Result<Option<PromptEvent>, ApiError> {
        let lifecycle = self.lifecycle.clone();
        tokio::select! {
            biased;
            next = poll_fn(|cx| self.poll(cx)) => next,
            () = lifecycle.reached(Phase::Cut) => Err(self.failed(ApiError::unavailable(
                "shutting_down",
                "The server is shutting down before the answer is complete.",
            ))),
        }
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    fn failed(&self, error: ApiError) -> ApiError {
        self.record.update(|facts| facts.error = Some(error.log_text().to_owned()));
        error
    }
}

impl GenerationMeter {
    fn new(served: Arc<Served>, choices: usize) -> Self {
        let choices = vec![(Duration::ZERO, Duration::ZERO, 0); choices];
        Self { served, started: Duration::ZERO, first_token: true, choices }
    }

    fn event(&mut self, event: &Event, at: Duration, record: &Record) {
        let metrics = &self.served.metrics;
        match event {
            Event::Started { queued, cached } => {
                self.started = *queued;
                metrics.cached_tokens.increment(u64::from(*cached));
                metrics.queue.record(queued.as_secs_f64());
            }
            Event::Delta { choice, tokens, .. } => {
                if std::mem::replace(&mut self.first_token, false) {
                    metrics.ttft.record(at.as_secs_f64());
                    metrics.prefill.record(at.saturating_sub(self.started).as_secs_f64());
                    record.update(|facts| facts.ttft = Some(at));
                }
                let Some((last, first, count)) = self.choices.get_mut(*choice as usize) else {
                    return;
                };
                let new = tokens.saturating_sub(*count);
                if *count == 0 {
                    *first = at;
                } else if new > 0 {
                    let each = at.saturating_sub(*last).as_secs_f64() / f64::from(new);
                    metrics.itl.record_many(each, new as usize);
                }
                (*last, *count) = (at, *tokens);
            }
            Event::Finished { choice, tokens, reason } => {
                let Some((_, first, count)) = self.choices.get(*choice as usize) else { return };
                if *count > 0 {
                    metrics.decode.record(at.saturating_sub(*first).as_secs_f64());
                }
                metrics.generation_tokens.increment(u64::from(*tokens));
                metrics.request_generated.record(f64::from(*tokens));
                let counter = match finish_reason(reason) {
                    "length" => &metrics.finished_length,
                    _ => &metrics.finished_stop,
                };
                counter.increment(1);
            }
            Event::Paused | Event::Prompt(_) | Event::Failed(_) => {}
        }
    }
}
