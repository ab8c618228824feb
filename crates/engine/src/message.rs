//! What crosses between an engine and those who use it: plain data, that may as well come from
//! another process.

use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Token;
use crate::failure::Failure;
use crate::request::{FinishReason, GenerateRequest, TokenLogprob};

/// What an engine is asked to do. Numbers of requests are given by whoever asks, each once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Generate text.
    Generate(Box<GenerateCommand>),
    /// Compute vectors.
    Embed(Box<EmbedCommand>),
    /// Whoever asked for it has left.
    Cancel(u64),
    /// End, once what was asked is done.
    Close,
}

/// A request for text on its way to an engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GenerateCommand {
    pub(crate) id: u64,
    pub(crate) request: GenerateRequest,
    pub(crate) submitted: SubmitTime,
    /// Whether it had left another engine's queue: its time in the queue is over.
    pub(crate) started: bool,
    /// What another engine had of each answer, if there was one; `None` of those that are complete.
    pub(crate) partial: Vec<Option<PartialAnswer>>,
}

/// An answer as far as it has come: enough to go on with it elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartialAnswer {
    pub(crate) tokens: Vec<Token>,
    /// Random numbers that its sampler has used.
    pub(crate) rng_position: u64,
    /// Log probabilities whose text is still held back, each with the length of its text in bytes.
    pub(crate) held: Vec<(TokenLogprob, u32)>,
}

/// A request for vectors on its way to an engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct EmbedCommand {
    pub(crate) id: u64,
    pub(crate) inputs: Vec<Vec<Token>>,
    pub(crate) submitted: SubmitTime,
    /// Whether it was in another engine, so that it may have left the queue there.
    pub(crate) started: bool,
    /// The longest it may take from submission to its last vector.
    pub(crate) timeout: Option<Duration>,
}

/// The vectors of a request's inputs, or why there are none.
pub(crate) type EmbedResult = Result<Vec<Vec<f32>>, Failure>;

/// What an engine says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// What came of a step, in order.
    Updates(Vec<Update>),
    /// A request for vectors is over.
    Vectors { id: u64, vectors: EmbedResult },
    /// A request for vectors that was cancelled is forgotten.
    Dropped(u64),
}

/// What happened to a request for text, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) id: u64,
    /// Time since the request was submitted.
    pub(crate) after: Duration,
    pub(crate) kind: UpdateKind,
    /// Whether nothing follows.
    pub(crate) last: bool,
}

/// What happened to a request for text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum UpdateKind {
    /// It has left the queue.
    Started { queued: Duration, cached: u32 },
    /// The log probabilities of its prompt.
    Prompt(Vec<TokenLogprob>),
    /// An answer grew by a token.
    Token(NewToken),
    /// An answer is complete.
    Finished { choice: u32, reason: FinishReason, tokens: u32 },
    /// It is over without an answer.
    Failed(Failure),
    /// It was cancelled, and is forgotten.
    Dropped,
}

/// An answer's newest token, and what may be sent because of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NewToken {
    pub(crate) choice: u32,
    pub(crate) token: Token,
    /// How many tokens the answer has now.
    pub(crate) tokens: u32,
    /// Random numbers that its sampler has used.
    pub(crate) rng_position: u64,
    pub(crate) text: String,
    /// The tokens behind `text`, when asked for.
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Those of them whose text is held back, as [`PartialAnswer::held`].
    pub(crate) held: Vec<(TokenLogprob, u32)>,
}

/// A point in time that crosses as its age: clocks of two processes have nothing in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubmitTime(pub(crate) Instant);

impl SubmitTime {
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }
}

/// How far apart they are does not matter: what was sent is equal to what came.
impl PartialEq for SubmitTime {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Serialize for SubmitTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.elapsed().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SubmitTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let now = Instant::now();
        let age = Duration::deserialize(deserializer)?;
        Ok(Self(now.checked_sub(age).unwrap_or(now)))
    }
}
