//! Running generations: reading their events, metering them, and collecting whole answers.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_engine::{Event, FinishReason, GenerateRequest, Generation, TokenLogprob};
use forebay_protocol::usage::Usage;

use crate::error::ApiError;
use crate::lifecycle::{Lifecycle, Phase};
use crate::observe::Record;
use crate::registry::Served;
use crate::state::AppState;

/// The generations of one HTTP request: one for each prompt. Dropping it cancels them.
#[derive(Debug)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    lifecycle: Lifecycle,
    record: Record,
    usage: Usage,
}

/// An event and the prompt it belongs to.
#[derive(Debug)]
pub(crate) struct Sourced {
    /// Index of the prompt.
    pub run: usize,
    /// The event.
    pub event: Event,
}

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// How it grew: the length of the text in bytes, and of the answer in tokens.
    pub growth: Vec<(usize, u32)>,
    /// Its tokens' log probabilities, when asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
    /// The stop string that ended it, if one did.
    pub stopped_by: Option<String>,
}

/// What the generations of one prompt gave.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Log probabilities of the prompt's tokens from the second on, when asked for.
    pub prompt: Vec<TokenLogprob>,
    /// One for each choice.
    pub answers: Vec<Answer>,
}

#[derive(Debug)]
struct Run {
    generation: Generation,
    choices: usize,
    unfinished: u32,
    meter: Meter,
}

/// Records what one generation took. Times are since its submission.
#[derive(Debug)]
struct Meter {
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

impl Runs {
    /// Submits every request, or none.
    ///
    /// # Errors
    /// What the engine refuses.
    pub(crate) fn submit(
        state: &AppState,
        record: Record,
        served: &Arc<Served>,
        requests: Vec<GenerateRequest>,
    ) -> Result<Self, ApiError> {
        let engine = served.engine()?;
        let mut usage = Usage::default();
        let mut runs = Vec::with_capacity(requests.len());
        for request in requests {
            let prompt = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
            let choices = request.choices as usize;
            let unfinished = request.choices;
            usage = usage.plus(prompt, 0, 0);
            let generation =
                engine.generate(request).inspect_err(|_| state.metrics.rejected("engine"))?;
            served.metrics.request_prompt.record(f64::from(prompt));
            let meter = Meter::new(Arc::clone(served), choices);
            runs.push(Run { generation, choices, unfinished, meter });
        }
        served.metrics.prompt_tokens.increment(u64::from(usage.prompt_tokens));
        record.note(|facts| {
            facts.model = Some(Arc::clone(served));
            facts.prompt_tokens = usage.prompt_tokens;
        });
        Ok(Self { runs, lifecycle: state.lifecycle.clone(), record, usage })
    }

    /// No generation at all: it ends at once.
    #[cfg(test)]
    pub(crate) fn none(lifecycle: Lifecycle, record: Record) -> Self {
        Self { runs: Vec::new(), lifecycle, record, usage: Usage::default() }
    }

    /// What it has cost so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// The next event of any generation; `None` when all answers are complete.
    ///
    /// # Errors
    /// When one failed, or the server must end it to shut down.
    pub(crate) async fn next(&mut self) -> Result<Option<Sourced>, ApiError> {
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

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Sourced>, ApiError>> {
        for index in 0..self.runs.len() {
            let run = &mut self.runs[index];
            if run.unfinished == 0 {
                continue;
            }
            match run.generation.poll_next(cx) {
                Poll::Pending => {}
                Poll::Ready(Some(event)) => return Poll::Ready(self.take(index, event).map(Some)),
                Poll::Ready(None) => {
                    let gone = forebay_engine::Failure::EngineGone.into();
                    return Poll::Ready(Err(self.failed(gone)));
                }
            }
        }
        if self.runs.iter().all(|run| run.unfinished == 0) {
            Poll::Ready(Ok(None))
        } else {
            Poll::Pending
        }
    }

    fn take(&mut self, index: usize, event: Event) -> Result<Sourced, ApiError> {
        let run = &mut self.runs[index];
        run.meter.event(&event, run.generation.elapsed(), &self.record);
        match &event {
            Event::Failed(failure) => {
                let error = failure.clone().into();
                return Err(self.failed(error));
            }
            Event::Finished { tokens, reason, .. } => {
                run.unfinished -= 1;
                self.usage = self.usage.plus(0, 0, *tokens);
                self.record.note(|facts| {
                    facts.completion_tokens = self.usage.completion_tokens;
                    facts.finish_reason = Some(finish_reason(reason));
                });
            }
            Event::Started { cached, .. } => {
                self.usage = self.usage.plus(0, *cached, 0);
                self.record.note(|facts| facts.cached_tokens += cached);
            }
            Event::Paused | Event::Prompt(_) | Event::Delta { .. } => {}
        }
        Ok(Sourced { run: index, event })
    }

    /// Puts an error into the request's log line.
    pub(crate) fn failed(&self, error: ApiError) -> ApiError {
        self.record.note(|facts| facts.error = Some(error.log_text().to_owned()));
        error
    }

    /// Reads to the end.
    ///
    /// # Errors
    /// As [`Runs::next`]; no part of an answer is kept then.
    pub(crate) async fn collect(mut self) -> Result<(Vec<Collected>, Usage), ApiError> {
        let empty = |run: &Run| Collected {
            prompt: Vec::new(),
            answers: vec![Answer::default(); run.choices],
        };
        let mut out: Vec<Collected> = self.runs.iter().map(empty).collect();
        while let Some(Sourced { run, event }) = self.next().await? {
            match event {
                Event::Prompt(logprobs) => out[run].prompt = logprobs,
                Event::Delta { choice, text, logprobs, tokens } => {
                    let answer = &mut out[run].answers[choice as usize];
                    answer.text.push_str(&text);
                    answer.growth.push((answer.text.len(), tokens));
                    answer.logprobs.extend(logprobs);
                }
                Event::Finished { choice, reason, .. } => {
                    let answer = &mut out[run].answers[choice as usize];
                    answer.finish_reason = finish_reason(&reason);
                    if let FinishReason::StopString(by) = reason {
                        answer.stopped_by = Some(by);
                    }
                }
                Event::Started { .. } | Event::Paused | Event::Failed(_) => {}
            }
        }
        Ok((out, self.usage))
    }
}

impl Meter {
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
                    record.note(|facts| facts.ttft = Some(at));
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
