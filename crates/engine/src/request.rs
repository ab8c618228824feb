//! The plain data that goes into the engine and comes out of it.

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
    /// When to end.
    pub stop: StopRules,
    /// Control tokens that show in the answer's text by their names.
    pub visible_controls: Arc<[Token]>,
    /// How long it may think.
    pub reasoning_budget: Option<ReasoningBudget>,
    /// What the answer has to be: a grammar that was compiled before, so it can be enforced.
    pub grammar: Option<Grammar>,
    /// Report each token's log probability and this many alternatives.
    pub logprobs: Option<u32>,
    /// Report the prompt's own log probabilities and this many alternatives.
    pub prompt_logprobs: Option<u32>,
    /// Who asks, and how urgently.
    pub admission: AdmissionParams,
}

impl GenerateRequest {
    /// One answer, and nothing else is asked for.
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

/// Where a request comes from: it decides whose turn it is and whose KV it may reuse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionParams {
    /// Only KV of requests with the same salt is reused.
    pub salt: Salt,
    /// Tokens are shared fairly between principals.
    pub principal: Principal,
    /// How urgent it is.
    pub priority: Priority,
    /// The longest it may take from submission to its last token.
    pub timeout: Option<Duration>,
}

/// How tokens are chosen. Filters apply after temperature, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// 0 takes the likeliest token.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Locally typical mass; 1 keeps all.
    pub typical_p: f32,
    /// Nucleus mass; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens below this fraction of the likeliest one's probability; 0 keeps all.
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

/// When an answer ends, besides its length.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRules {
    /// Texts that end it and are not part of it. None is empty.
    pub strings: Vec<String>,
    /// Tokens that end it and are not part of it.
    pub tokens: Vec<Token>,
    /// Never choose an end-of-generation token.
    pub ignore_eos: bool,
    /// Before this many tokens nothing ends it.
    pub min_tokens: u32,
}

/// News about a request. A request's channel takes all its events, so a reader that is slow never
/// holds up the batch; what is unread over all requests is bounded in bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// It has left the queue.
    Started {
        /// How long it waited.
        queued: Duration,
        /// Tokens of the prompt whose KV was there already.
        cached: u32,
    },
    /// The engine has died: it is started again, and the request goes on.
    Paused,
    /// Log probabilities of the prompt's tokens from the second on, in order.
    Prompt(Vec<TokenLogprob>),
    /// An answer grew.
    Delta {
        /// Which answer.
        choice: u32,
        /// Whole characters; never a part of a stop string.
        text: String,
        /// How many tokens the answer has now.
        tokens: u32,
        /// The tokens behind `text`, when asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// An answer is complete.
    Finished {
        /// Which answer.
        choice: u32,
        /// Why.
        reason: FinishReason,
        /// How many tokens were generated for it, an end-of-generation token included.
        tokens: u32,
    },
    /// The request is over without an answer.
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
    /// The model chose an end-of-generation token.
    EndOfText,
    /// A stop string appeared.
    StopString(String),
    /// A stop token was chosen.
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
