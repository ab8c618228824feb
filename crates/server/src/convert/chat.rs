//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::http::HeaderMap;
use forebay_chat::{RenderOptions, Turn, normalise};
use forebay_engine::{Event, ParseSpecial, Token, Vocab};
use forebay_protocol::chat::{
    AssistantMessage, ChatChoice, ChatCompletion, ChatCompletionChunk, ChatCompletionRequest,
    ChatLogprobs, ChunkChoice, Delta,
};
use forebay_protocol::fields;
use forebay_protocol::structured::Shape;
use forebay_protocol::usage::Usage;
use serde_json::Map;

use super::grammar::Wanted;
use super::sampling::{MAX_TOP_LOGPROBS, Recipe, integer};
use super::{Stamp, chat_logprobs, check_extra, log_unknown};
use crate::answer::{Answer, Runs, Sourced, finish_reason};
use crate::config::ServerSettings;
use crate::error::ApiError;
use crate::origin;
use crate::registry::Served;
use crate::sse::{Chunks, Encoder};

const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;

/// A validated request but for its prompt's tokens.
#[derive(Debug)]
pub struct Parsed {
    /// What the template gets.
    pub turns: Vec<Turn>,
    /// How to generate.
    pub recipe: Recipe,
    /// What the answer has to be: to be compiled into the recipe.
    pub grammar: Option<Wanted>,
    /// How to spell the answer.
    pub style: Style,
}

/// How to spell the answer.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// As events.
    pub stream: bool,
    /// With a usage chunk at a stream's end.
    pub include_usage: bool,
    /// With log probabilities.
    pub logprobs: bool,
    /// The service tier to report, where the request named one.
    pub tier: Option<&'static str>,
}

/// Validates everything that needs no tokeniser.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn parse(
    request: &ChatCompletionRequest,
    headers: &HeaderMap,
    served: &Served,
    settings: &ServerSettings,
) -> Result<Parsed, ApiError> {
    let ServerSettings { max_choices, strict, .. } = *settings;
    let mut unknown = check_extra(fields::CHAT, &request.extra, strict)?;
    let turns = normalise(&request.messages, strict, &mut unknown)?;
    log_unknown(&unknown);
    metadata(request)?;
    if request.continue_final_message == Some(true) && request.add_generation_prompt == Some(true) {
        let message = "'continue_final_message' leaves the last message open; 'add_generation_prompt' opens a new one. Set only one of them.";
        return Err(ApiError::invalid("continue_final_message", "invalid_value", message));
    }
    let mut common = request.common();
    let name = if request.max_completion_tokens.is_some() {
        "max_completion_tokens"
    } else {
        "max_tokens"
    };
    common.max_tokens =
        integer(name, request.max_completion_tokens.or(common.max_tokens), 1, i64::from(i32::MAX))?;
    let origin = origin::read(headers, &common)?;
    let mut recipe = Recipe::new(&common, origin, served.vocab(), max_choices)?;
    let logprobs = request.logprobs.unwrap_or(false);
    let top = integer("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)?.unwrap_or(0);
    if top > 0 && !logprobs {
        let message = "'top_logprobs' is only allowed when 'logprobs' is true.";
        return Err(ApiError::invalid("top_logprobs", "invalid_value", message));
    }
    recipe.logprobs = logprobs.then_some(u32::try_from(top).unwrap_or(0));
    let style = Style {
        stream: common.stream,
        include_usage: common.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        logprobs,
        tier: common.service_tier.map(|_| origin::tier(origin.class)),
    };
    let shape = Shape { response_format: request.response_format.as_ref(), ..request.shape() };
    Ok(Parsed { turns, recipe, grammar: Wanted::of(&shape)?, style })
}

fn metadata(request: &ChatCompletionRequest) -> Result<(), ApiError> {
    let Some(metadata) = &request.metadata else { return Ok(()) };
    let refuse = |message: String| Err(ApiError::invalid("metadata", "invalid_value", message));
    if metadata.len() > MAX_METADATA {
        return refuse(format!("'metadata' can have at most {MAX_METADATA} pairs."));
    }
    for (key, value) in metadata {
        let fits = value.as_str().is_some_and(|v| v.chars().count() <= MAX_METADATA_VALUE);
        if key.chars().count() > MAX_METADATA_KEY || !fits {
            return refuse(format!(
                "'metadata' has keys of at most {MAX_METADATA_KEY} characters and strings of at most {MAX_METADATA_VALUE} as values."
            ));
        }
    }
    Ok(())
}

/// The prompt's tokens. It can take long: not for the reactor's threads.
///
/// # Errors
/// What the template refuses.
pub fn prompt(
    turns: &[Turn],
    served: &Served,
    add_generation_prompt: bool,
    continue_final_message: bool,
    variables: &Map<String, serde_json::Value>,
) -> Result<Vec<Token>, ApiError> {
    let now = std::time::SystemTime::now();
    let options = RenderOptions { add_generation_prompt, continue_final_message, variables, now };
    let pieces = served.template()?.render(turns, &options)?;
    let vocab = served.vocab();
    let tokens = pieces.iter().flat_map(|piece| vocab.tokenize(piece, ParseSpecial::Yes)).collect();
    Ok(vocab.with_prefix(tokens))
}

/// A whole answer.
pub fn completion(
    stamp: Stamp,
    answers: Vec<Answer>,
    usage: Usage,
    style: Style,
    vocab: &Vocab,
    request: ChatCompletionRequest,
) -> ChatCompletion {
    let choices = (0..).zip(answers).map(|(index, answer)| ChatChoice {
        index,
        message: AssistantMessage {
            role: "assistant".to_owned(),
            content: Some(answer.text),
            refusal: None,
            annotations: Vec::new(),
        },
        logprobs: style.logprobs.then(|| ChatLogprobs {
            content: Some(chat_logprobs(vocab, &answer.logprobs)),
            refusal: None,
        }),
        finish_reason: answer.finish_reason.to_owned(),
    });
    ChatCompletion {
        object: "chat.completion".to_owned(),
        choices: choices.collect(),
        usage,
        service_tier: style.tier.map(str::to_owned),
        metadata: request.metadata,
        id: stamp.id,
        created: stamp.created,
        model: stamp.model,
        system_fingerprint: stamp.system_fingerprint,
    }
}

/// Spells a stream.
#[derive(Debug)]
pub struct ChatEncoder {
    /// What all chunks carry.
    pub stamp: Stamp,
    /// Number of answers.
    pub choices: u32,
    /// How to spell them.
    pub style: Style,
    /// For the tokens of log probabilities.
    pub served: Arc<Served>,
}

impl ChatEncoder {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.stamp.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.stamp.created,
            model: self.stamp.model.clone(),
            system_fingerprint: self.stamp.system_fingerprint.clone(),
            service_tier: self.style.tier.map(str::to_owned),
            choices,
            usage: self.style.include_usage.then_some(usage),
        }
    }
}

impl Encoder for ChatEncoder {
    fn start(&mut self, out: &mut Chunks) {
        // All choices at once and in order: a helper takes a new index only if it is the next.
        for index in 0..self.choices {
            let delta = Delta {
                role: Some("assistant".to_owned()),
                content: Some(String::new()),
                refusal: Some(None),
            };
            out.push(&self.chunk(
                vec![ChunkChoice { index, delta, logprobs: None, finish_reason: None }],
                None,
            ));
        }
    }

    fn event(&mut self, Sourced { event, .. }: Sourced, out: &mut Chunks) {
        let choice = match event {
            Event::Delta { choice, text, logprobs, .. } => ChunkChoice {
                index: choice,
                delta: Delta { content: Some(text), ..Delta::default() },
                logprobs: self.style.logprobs.then(|| ChatLogprobs {
                    content: Some(chat_logprobs(self.served.vocab(), &logprobs)),
                    refusal: None,
                }),
                finish_reason: None,
            },
            Event::Finished { choice, reason, .. } => ChunkChoice {
                index: choice,
                delta: Delta::default(),
                logprobs: None,
                finish_reason: Some(finish_reason(&reason).to_owned()),
            },
            Event::Started { .. } | Event::Prompt(_) | Event::Failed(_) => return,
        };
        out.push(&self.chunk(vec![choice], None));
    }

    fn end(&mut self, runs: &Runs, out: &mut Chunks) {
        if self.style.include_usage {
            out.push(&self.chunk(Vec::new(), Some(runs.usage())));
        }
    }
}
