//! Commands to an engine and reports from it: plain data, which may cross to another process.

use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Token;
use crate::failure::Failure;
use crate::request::{FinishReason, GenerateRequest, TokenLogprob};

/// A command to an engine. The sender numbers the requests, each number once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Generate text.
    Generate(Box<GenerateCommand>),
    /// Compute vectors.
    Embed(Box<EmbedCommand>),
    /// Cancels a request.
    Cancel(u64),
    /// Ends the engine once all requests are done.
    Close,
}

/// A request for text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GenerateCommand {
    pub(crate) id: u64,
    pub(crate) request: GenerateRequest,
    pub(crate) submitted: SubmitTime,
    /// Whether it has left the queue of an earlier process: the queue timeout no longer counts.
    pub(crate) started: bool,
    /// What an earlier process had generated, by choice; `None` for complete answers.
    pub(crate) partial: Vec<Option<PartialAnswer>>,
}

/// An answer so far: enough to continue it in another process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartialAnswer {
    pub(crate) tokens: Vec<Token>,
    /// Position of its random number generator.
    pub(crate) rng_position: u64,
    /// Log probabilities whose text is held back, each with the length of its text in bytes.
    pub(crate) held: Vec<(TokenLogprob, u32)>,
}

/// A request for vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct EmbedCommand {
    pub(crate) id: u64,
    pub(crate) inputs: Vec<Vec<Token>>,
    pub(crate) submitted: SubmitTime,
    /// Whether an earlier process had it: it may have left the queue there.
    pub(crate) started: bool,
    /// The longest time from submission to the last vector.
    pub(crate) timeout: Option<Duration>,
}

/// The vectors of a request's inputs, or why it failed.
pub(crate) type EmbedResult = Result<Vec<Vec<f32>>, Failure>;

/// A report from an engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The updates of a step, in order.
    Updates(Vec<Update>),
    /// A request for vectors is done.
    Vectors { id: u64, vectors: EmbedResult },
    /// A cancelled request for vectors was removed.
    Dropped(u64),
}

/// An update of a request for text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) id: u64,
    /// Time since the request was submitted.
    pub(crate) after: Duration,
    pub(crate) kind: UpdateKind,
    /// Whether no update follows.
    pub(crate) last: bool,
}

/// What an update reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum UpdateKind {
    /// The request has left the queue.
    Started { queued: Duration, cached: u32 },
    /// The log probabilities of its prompt.
    Prompt(Vec<TokenLogprob>),
    /// An answer grew by a token.
    Token(NewToken),
    /// An answer is complete.
    Finished { choice: u32, reason: FinishReason, tokens: u32 },
    /// The request failed.
    Failed(Failure),
    /// The cancelled request was removed.
    Dropped,
}

/// An answer's newest token, and the text that may be sent with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NewToken {
    pub(crate) choice: u32,
    pub(crate) token: Token,
    /// Tokens of the answer so far.
    pub(crate) tokens: u32,
    /// Position of its random number generator.
    pub(crate) rng_position: u64,
    pub(crate) text: String,
    /// The tokens of `text`, if requested.
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Log probabilities whose text is held back, as [`PartialAnswer::held`].
    pub(crate) held: Vec<(TokenLogprob, u32)>,
}

/// When a request was submitted. Serialised as its age: the clocks of two processes differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubmitTime(pub(crate) Instant);

impl SubmitTime {
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }
}

/// Any two are equal, so that a message equals its copy in another process.
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
