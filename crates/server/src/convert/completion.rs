//! `/v1/completions`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use forebay_engine::{Event, GenerateRequest, Token, TokenLogprob, Vocab};
use forebay_protocol::completion::{
    Completion, CompletionChoice, CompletionLogprobs, CompletionRequest,
};
use forebay_protocol::usage::Usage;
use forebay_protocol::{Prompt, fields};

use super::grammar::Wanted;
use super::prepare::Context;
use super::sampling::{MAX_TOP_LOGPROBS, Recipe, StopNames, integer};
use super::{Stamp, check_extra, finite, log_unknown, token_text, tokens};
use crate::admission;
use crate::config::{LimitSettings, ServerSettings};
use crate::error::ApiError;
use crate::generations::{Generations, PromptEvent, Updates, finish_reason};
use crate::registry::Served;
use crate::sse::{Chunks, Encoder};

/// What an answer has at most when the request does not say: OpenAI's number.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A validated request but for its prompts' tokens.
#[derive(Debug)]
struct Parsed {
    /// The prompts as sent.
    prompts: Vec<Source>,
    /// How to generate.
    recipe: Recipe,
    /// What the answer has to be: to be compiled into the recipe.
    grammar: Option<Wanted>,
    /// How to spell the answer.
    style: Style,
}

/// How to spell the answer.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// As events.
    pub stream: bool,
    /// With a usage chunk at a stream's end.
    pub include_usage: bool,
    /// Behind its prompt.
    pub echo: bool,
    /// With log probabilities.
    pub logprobs: bool,
    /// Answers for each prompt.
    pub choices: u32,
}

/// One prompt as sent.
#[derive(Debug, Clone)]
enum Source {
    /// Text, in which control tokens may be spelled.
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<Token>),
}

/// A checked request whose prompts are tokenised.
#[derive(Debug)]
pub struct Prepared {
    /// The engine's requests, without a grammar: one for each prompt.
    pub requests: Vec<GenerateRequest>,
    /// The grammar to compile into them.
    pub wanted: Option<Wanted>,
    /// What `echo` needs of each prompt.
    pub prompts: Vec<Prompted>,
    /// How to spell the answer.
    pub style: Style,
}

/// One prompt as the model gets it.
#[derive(Debug, Clone)]
pub struct Prompted {
    /// What `echo` repeats.
    pub text: String,
    /// The tokens.
    pub tokens: Vec<Token>,
    /// How many at the front the server added.
    pub added: usize,
}

/// Validates everything that needs no tokeniser.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
fn parse(
    mut request: CompletionRequest,
    headers: &HeaderMap,
    served: &Served,
    settings: &ServerSettings,
) -> Result<Parsed, ApiError> {
    let ServerSettings { max_choices, strict, .. } = *settings;
    log_unknown(&check_extra(fields::COMPLETION, &request.extra, strict)?);
    let prompts = match request.prompt.take() {
        None => return Err(ApiError::missing("prompt")),
        Some(Prompt::Text(text)) => vec![Source::Text(text)],
        Some(Prompt::Texts(texts)) => texts.into_iter().map(Source::Text).collect(),
        Some(Prompt::Tokens(tokens)) => vec![Source::Tokens(tokens)],
        Some(Prompt::TokenLists(lists)) => lists.into_iter().map(Source::Tokens).collect(),
    };
    if prompts.is_empty() {
        return Err(ApiError::invalid(
            "prompt",
            "empty_array",
            "'prompt' must hold at least one prompt.",
        ));
    }
    let most = served.engine()?.capacity();
    if prompts.len() > most {
        let message = format!("'prompt' can hold at most {most} prompts.");
        return Err(ApiError::invalid("prompt", "array_above_max_length", message));
    }
    let mut common = request.common();
    let echo = request.echo.unwrap_or(false);
    let least = i64::from(!echo);
    common.max_tokens = integer("max_tokens", common.max_tokens, least, i64::from(i32::MAX))?;
    let mut recipe = Recipe::new(
        &common,
        admission::read(headers, &common)?,
        served.vocab(),
        max_choices,
        StopNames::default(),
    )?;
    recipe.max_tokens =
        Some(recipe.max_tokens.unwrap_or_else(|| DEFAULT_MAX_TOKENS.max(recipe.stop.min_tokens)));
    if request.best_of.is_some_and(|best| best != i64::from(recipe.choices)) {
        let message = "'best_of' is only supported when it is the same as 'n'.";
        return Err(ApiError::invalid("best_of", "unsupported_value", message));
    }
    let logprobs = integer("logprobs", request.logprobs, 0, MAX_TOP_LOGPROBS)?;
    recipe.logprobs = logprobs.map(|top| u32::try_from(top).unwrap_or(0));
    recipe.prompt_logprobs = recipe.logprobs.filter(|_| echo);
    let style = Style {
        stream: common.stream,
        include_usage: common.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        echo,
        logprobs: logprobs.is_some(),
        choices: recipe.choices,
    };
    Ok(Parsed { prompts, recipe, grammar: Wanted::of(&request.shape(), None)?, style })
}

/// Checks a request and tokenises its prompts. It can take long: not for the reactor's threads.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn prepare_all(request: CompletionRequest, context: &Context) -> Result<Prepared, ApiError> {
    let Context { served, headers, settings, limits } = context;
    let Parsed { prompts, recipe, grammar, style } = parse(request, headers, served, settings)?;
    let many = prompts.len() > 1;
    let (mut requests, mut tokenised) = (Vec::new(), Vec::new());
    for (index, prompt) in prompts.into_iter().enumerate() {
        let param = if many { format!("prompt[{index}]") } else { "prompt".to_owned() };
        let prompt = prepare(&param, prompt, served, limits)?;
        requests.push(recipe.request(&param, prompt.tokens.clone(), served.info())?);
        tokenised.push(prompt);
    }
    Ok(Prepared { requests, wanted: grammar, prompts: tokenised, style })
}

fn prepare(
    param: &str,
    source: Source,
    served: &Served,
    limits: &LimitSettings,
) -> Result<Prompted, ApiError> {
    let vocab = served.vocab();
    Ok(match source {
        Source::Text(text) => {
            let bare = tokens::of_pieces(param, std::slice::from_ref(&text), served, limits)?;
            let before = bare.len();
            let tokens = vocab.with_prefix(bare);
            Prompted { text, added: tokens.len() - before, tokens }
        }
        Source::Tokens(tokens) => {
            let limit = served.info().slot_tokens;
            if tokens.len() > limit as usize {
                return Err(ApiError::context_length(param, tokens.len(), limit));
            }
            let bytes: Vec<u8> = tokens.iter().flat_map(|&t| vocab.piece(t)).copied().collect();
            Prompted { text: String::from_utf8_lossy(&bytes).into_owned(), added: 0, tokens }
        }
    })
}

/// Builds the columns of log probabilities, `text_offset` going on from chunk to chunk.
#[derive(Debug, Clone, Default)]
struct Columns {
    /// Characters that have begun so far.
    offset: u32,
}

impl Columns {
    fn prompt(
        &mut self,
        vocab: &Vocab,
        prompt: &Prompted,
        logprobs: &[TokenLogprob],
    ) -> CompletionLogprobs {
        let mut out = empty();
        for (at, &token) in prompt.tokens.iter().enumerate().skip(prompt.added) {
            // The model says nothing about the first token.
            let known = at.checked_sub(1).and_then(|before| logprobs.get(before));
            self.push(&mut out, vocab, token, known);
        }
        out
    }

    fn answer(&mut self, vocab: &Vocab, logprobs: &[TokenLogprob]) -> CompletionLogprobs {
        let mut out = empty();
        for entry in logprobs {
            self.push(&mut out, vocab, entry.token, Some(entry));
        }
        out
    }

    fn push(
        &mut self,
        out: &mut CompletionLogprobs,
        vocab: &Vocab,
        token: Token,
        known: Option<&TokenLogprob>,
    ) {
        out.tokens.push(token_text(vocab, token));
        out.token_logprobs.push(known.map(|k| finite(k.logprob)));
        let top = known.map(|known| {
            let chosen = std::iter::once((known.token, known.logprob));
            let likeliest = known.top.iter().map(|t| (t.token, t.logprob));
            let named =
                chosen.chain(likeliest).map(|(t, logprob)| (token_text(vocab, t), finite(logprob)));
            named.collect::<BTreeMap<String, f32>>()
        });
        if let Some(column) = &mut out.top_logprobs {
            column.push(top);
        }
        out.text_offset.push(self.offset);
        let begun = vocab.piece(token).iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        self.offset += u32::try_from(begun).unwrap_or(u32::MAX);
    }
}

fn empty() -> CompletionLogprobs {
    CompletionLogprobs { top_logprobs: Some(Vec::new()), ..CompletionLogprobs::default() }
}

fn append(left: &mut CompletionLogprobs, right: CompletionLogprobs) {
    left.tokens.extend(right.tokens);
    left.token_logprobs.extend(right.token_logprobs);
    left.text_offset.extend(right.text_offset);
    if let (Some(left), Some(right)) = (&mut left.top_logprobs, right.top_logprobs) {
        left.extend(right);
    }
}

fn characters(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

/// What was generated for one prompt.
#[derive(Debug, Clone, Default)]
pub struct Generated {
    /// Log probabilities of the prompt's tokens from the second on, when asked for.
    prompt: Vec<TokenLogprob>,
    /// One for each choice.
    choices: Vec<Choice>,
}

/// One continuation of a prompt.
#[derive(Debug, Clone, Default)]
struct Choice {
    text: String,
    /// Its tokens' log probabilities, when asked for.
    logprobs: Vec<TokenLogprob>,
    /// `stop` or `length`.
    finish_reason: &'static str,
}

/// Reads all continuations of so many prompts to their ends.
///
/// # Errors
/// As [`Updates::next`]; no part of an answer is kept then.
pub(crate) async fn collect(
    generations: &mut Generations,
    prompts: &[Prompted],
    style: Style,
) -> Result<Vec<Generated>, ApiError> {
    let choices = vec![Choice::default(); style.choices as usize];
    let mut out = vec![Generated { prompt: Vec::new(), choices }; prompts.len()];
    let add = |PromptEvent { prompt, event }| match event {
        Event::Prompt(logprobs) => out[prompt].prompt = logprobs,
        Event::Delta { choice, text, logprobs, .. } => {
            let choice = &mut out[prompt].choices[choice as usize];
            choice.text.push_str(&text);
            choice.logprobs.extend(logprobs);
        }
        Event::Finished { choice, reason, .. } => {
            out[prompt].choices[choice as usize].finish_reason = finish_reason(&reason);
        }
        Event::Started { .. } | Event::Paused | Event::Failed(_) => {}
    };
    generations.read_all(add).await?;
    Ok(out)
}

/// A whole answer.
pub fn completion(
    stamp: &Stamp,
    prompts: &[Prompted],
    generated: Vec<Generated>,
    usage: Usage,
    style: Style,
    vocab: &Vocab,
) -> Completion {
    let mut choices = Vec::new();
    for (prompt, generated) in prompts.iter().zip(generated) {
        for answer in generated.choices {
            let mut columns = Columns::default();
            let mut logprobs = style.logprobs.then(empty);
            if let (Some(logprobs), true) = (&mut logprobs, style.echo) {
                append(logprobs, columns.prompt(vocab, prompt, &generated.prompt));
                columns.offset = characters(&prompt.text);
            }
            if let Some(logprobs) = &mut logprobs {
                append(logprobs, columns.answer(vocab, &answer.logprobs));
            }
            let text =
                if style.echo { format!("{}{}", prompt.text, answer.text) } else { answer.text };
            choices.push(CompletionChoice {
                index: u32::try_from(choices.len()).unwrap_or(u32::MAX),
                text,
                logprobs,
                finish_reason: Some(answer.finish_reason.to_owned()),
            });
        }
    }
    spell(stamp, choices, Some(Some(usage)))
}

fn spell(
    stamp: &Stamp,
    choices: Vec<CompletionChoice>,
    usage: Option<Option<Usage>>,
) -> Completion {
    Completion {
        id: stamp.id.clone(),
        object: "text_completion".to_owned(),
        created: stamp.created,
        model: stamp.model.clone(),
        system_fingerprint: stamp.system_fingerprint.clone(),
        choices,
        usage,
    }
}

/// Spells a stream.
#[derive(Debug)]
pub struct CompletionEncoder {
    stamp: Stamp,
    style: Style,
    served: Arc<Served>,
    prompts: Vec<Prompted>,
    /// One for each choice of each prompt.
    columns: Vec<Columns>,
}

impl CompletionEncoder {
    /// An encoder for the answers to `prompts`.
    pub fn new(stamp: Stamp, style: Style, served: Arc<Served>, prompts: Vec<Prompted>) -> Self {
        let columns = vec![Columns::default(); prompts.len() * style.choices as usize];
        Self { stamp, style, served, prompts, columns }
    }

    fn push(&self, choice: CompletionChoice, out: &mut Chunks) {
        let usage = self.style.include_usage.then_some(None);
        out.push(&spell(&self.stamp, vec![choice], usage));
    }

    /// The indices of a prompt's choices.
    fn indices(&self, run: usize) -> std::ops::Range<usize> {
        let each = self.style.choices as usize;
        run * each..(run + 1) * each
    }

    fn echo(&mut self, run: usize, logprobs: Option<&[TokenLogprob]>, out: &mut Chunks) {
        for index in self.indices(run) {
            let prompt = &self.prompts[run];
            let columns = &mut self.columns[index];
            let logprobs = logprobs.map(|known| columns.prompt(self.served.vocab(), prompt, known));
            columns.offset = characters(&prompt.text);
            let text = prompt.text.clone();
            self.push(
                CompletionChoice { index: narrow(index), text, logprobs, finish_reason: None },
                out,
            );
        }
    }
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Encoder for CompletionEncoder {
    type Updates = Generations;

    fn start(&mut self, out: &mut Chunks) {
        if self.style.echo && !self.style.logprobs {
            for run in 0..self.prompts.len() {
                self.echo(run, None, out);
            }
        }
    }

    fn update(&mut self, PromptEvent { prompt, event }: PromptEvent, out: &mut Chunks) {
        let first = self.indices(prompt).start;
        let choice = match event {
            Event::Prompt(logprobs) => return self.echo(prompt, Some(&logprobs), out),
            Event::Delta { choice, text, logprobs, .. } => {
                let index = first + choice as usize;
                let vocab = self.served.vocab();
                let logprobs =
                    self.style.logprobs.then(|| self.columns[index].answer(vocab, &logprobs));
                CompletionChoice { index: narrow(index), text, logprobs, finish_reason: None }
            }
            Event::Finished { choice, reason, .. } => CompletionChoice {
                index: narrow(first + choice as usize),
                text: String::new(),
                logprobs: None,
                finish_reason: Some(finish_reason(&reason).to_owned()),
            },
            Event::Started { .. } | Event::Paused | Event::Failed(_) => return,
        };
        self.push(choice, out);
    }

    fn end(&mut self, usage: Usage, out: &mut Chunks) {
        if self.style.include_usage {
            out.push(&spell(&self.stamp, Vec::new(), Some(Some(usage))));
        }
    }
}
