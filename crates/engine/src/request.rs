//! Requests and their events: the plain data that enters and leaves an engine.

use std::sync::Arc;
use std::time::Duration;

use forebay_scheduler::{Principal, Priority, Salt};
use serde::{Deserialize, Serialize};

use crate::Token;
use crate::failure::Failure;
use crate::grammar::Grammar;
use crate::reasoning_budget::ReasoningBudget;

/// A validated request for text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// The prompt, at least one token.
    pub prompt: Arc<[Token]>,
    /// Number of answers, at least 1 and at most the number of slots.
    pub choices: u32,
    /// The most tokens an answer can have; with the prompt it fits into a slot. May be 0.
    pub max_tokens: u32,
    /// How to choose tokens.
    pub sampling: SamplingParams,
    /// When an answer ends.
    pub stop: StopRules,
    /// Control tokens whose names appear in the answer's text.
    pub visible_controls: Arc<[Token]>,
    /// The bound on reasoning tokens.
    pub reasoning_budget: Option<ReasoningBudget>,
    /// The grammar that the answer follows; it was compiled before.
    pub grammar: Option<Grammar>,
    /// Reports each token's log probability and this many alternatives.
    pub logprobs: Option<u32>,
    /// Reports the prompt's log probabilities and this many alternatives.
    pub prompt_logprobs: Option<u32>,
    /// Tenant, principal, priority and timeout.
    pub admission: AdmissionParams,
}

impl GenerateRequest {
    /// A request for one answer, with defaults for all else.
    pub fn plain(
        prompt: impl Into<Arc<[Token]>>,
        max_tokens: u32,
        sampling: SamplingParams,
    ) -> Self {
        Self {
            prompt: prompt.into(),
            choices: 1,
            max_tokens,
            sampling,
            stop: StopRules::default(),
            visible_controls: Vec::new().into(),
            reasoning_budget: None,
            grammar: None,
            logprobs: None,
            prompt_logprobs: None,
            admission: AdmissionParams::default(),
        }
    }
}

impl SamplingParams {
    /// The model's own distribution at this temperature: no filters, penalties or bias.
    pub fn plain(temperature: f32, seed: u64) -> Self {
        Self {
            temperature,
            top_k: 0,
            typical_p: 1.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed,
        }
    }
}

/// What admission needs of a request: whose cache it shares, and its place in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionParams {
    /// Only KV of requests with the same salt is reused.
    pub salt: Salt,
    /// Tokens are shared fairly between principals.
    pub principal: Principal,
    /// How urgent it is.
    pub priority: Priority,
    /// The longest time from submission to the last token.
    pub timeout: Option<Duration>,
}

/// How tokens are chosen. Filters apply after temperature, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Locally typical mass; 1 keeps all.
    pub typical_p: f32,
    /// Nucleus mass; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens below this fraction of the likeliest one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits (multiplies negative ones) of tokens in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit for each time it is in the answer.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit if it is in the answer.
    pub presence_penalty: f32,
    /// Added to logits.
    pub logit_bias: Vec<(Token, f32)>,
    /// Seed of the answer with index 0; the others' seeds derive from it.
    pub seed: u64,
}

/// When an answer ends, besides at its length limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRules {
    /// Texts that end it and are not part of it; each has at least one character.
    pub strings: Vec<String>,
    /// Tokens that end it and are not part of it.
    pub tokens: Vec<Token>,
    /// Never samples an end-of-generation token.
    pub ignore_eos: bool,
    /// The answer does not end before this many tokens.
    pub min_tokens: u32,
}

/// An event of a request. A request's channel takes all its events, so a slow reader never delays the batch; unread
/// events are bounded in bytes over all requests.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The request has left the queue.
    Started {
        /// Time in the queue.
        queued: Duration,
        /// Prompt tokens that were in the prefix cache.
        cached: u32,
    },
    /// The engine's process has died: it restarts, and the request continues.
    Paused,
    /// Log probabilities of the prompt's tokens from the second on, in order.
    Prompt(Vec<TokenLogprob>),
    /// An answer grew.
    Delta {
        /// Which answer.
        choice: u32,
        /// Whole characters; never a part of a stop string.
        text: String,
        /// Tokens of the answer so far.
        tokens: u32,
        /// The tokens of `text`, if requested.
        logprobs: Vec<TokenLogprob>,
    },
    /// An answer is complete.
    Finished {
        /// Which answer.
        choice: u32,
        /// The reason.
        reason: FinishReason,
        /// Tokens generated for it, an end-of-generation token included.
        tokens: u32,
    },
    /// The request failed; no event follows.
    Failed(Failure),
}

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimedEvent {
    /// Time since the request was submitted.
    pub(crate) after: Duration,
    pub(crate) event: Event,
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinishReason {
    /// The model sampled an end-of-generation token.
    EndOfText,
    /// A stop string appeared.
    StopString(String),
    /// A stop token was sampled.
    StopToken(Token),
    /// `max_tokens` is reached.
    Length,
}

/// One token with its log probability (natural logarithm, before temperature and filters).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub token: Token,
    /// Its log probability.
    pub logprob: f32,
    /// The likeliest tokens at its position, likeliest first.
    pub top: Vec<TopLogprob>,
}

/// An alternative.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// The token.
    pub token: Token,
    /// Its log probability.
    pub logprob: f32,
}
