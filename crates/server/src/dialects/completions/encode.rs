//! Completions as responses and streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_engine::{Event, Token, TokenLogprob, Vocab};
use forebay_protocol::completion::{Completion, CompletionChoice, CompletionLogprobs};
use forebay_protocol::usage::Usage;

use super::request::{CompletionOptions, TokenizedPrompt};
use crate::convert::{Stamp, finite, token_text};
use crate::error::ApiError;
use crate::generations::{Generations, PromptEvent, Updates, finish_reason};
use crate::registry::Served;
use crate::sse::{Chunks, Encoder};

/// Builds the columns of log probabilities; `text_offset` continues from chunk to chunk.
#[derive(Debug, Clone, Default)]
struct LogprobColumns {
    /// Characters so far.
    offset: u32,
}

impl LogprobColumns {
    fn prompt(
        &mut self,
        vocab: &Vocab,
        prompt: &TokenizedPrompt,
        logprobs: &[TokenLogprob],
    ) -> CompletionLogprobs {
        let mut out = empty();
        for (at, &token) in prompt.tokens.iter().enumerate().skip(prompt.added) {
            // The first token has no log probability.
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

/// The output for one prompt.
#[derive(Debug, Clone, Default)]
pub struct PromptOutput {
    /// Log probabilities of the prompt's tokens from the second on, if requested.
    prompt: Vec<TokenLogprob>,
    /// One for each choice.
    choices: Vec<Continuation>,
}

/// One continuation of a prompt.
#[derive(Debug, Clone, Default)]
struct Continuation {
    text: String,
    /// Its tokens' log probabilities, if requested.
    logprobs: Vec<TokenLogprob>,
    /// `stop` or `length`.
    finish_reason: &'static str,
}

/// Collects all continuations of the prompts.
///
/// # Errors
/// As [`Updates::next`]; what was generated so far is dropped.
pub(crate) async fn collect(
    generations: &mut Generations,
    prompts: &[TokenizedPrompt],
    options: CompletionOptions,
) -> Result<Vec<PromptOutput>, ApiError> {
    let choices = vec![Continuation::default(); options.choices as usize];
    let mut out = vec![PromptOutput { prompt: Vec::new(), choices }; prompts.len()];
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

/// A whole response.
pub fn completion(
    stamp: &Stamp,
    prompts: &[TokenizedPrompt],
    generated: Vec<PromptOutput>,
    usage: Usage,
    options: CompletionOptions,
    vocab: &Vocab,
) -> Completion {
    let mut choices = Vec::new();
    for (prompt, generated) in prompts.iter().zip(generated) {
        for continuation in generated.choices {
            let mut columns = LogprobColumns::default();
            let mut logprobs = options.logprobs.then(empty);
            if let (Some(logprobs), true) = (&mut logprobs, options.echo) {
                append(logprobs, columns.prompt(vocab, prompt, &generated.prompt));
                columns.offset = characters(&prompt.text);
            }
            if let Some(logprobs) = &mut logprobs {
                append(logprobs, columns.answer(vocab, &continuation.logprobs));
            }
            let text = if options.echo {
                format!("{}{}", prompt.text, continuation.text)
            } else {
                continuation.text
            };
            choices.push(CompletionChoice {
                index: u32::try_from(choices.len()).unwrap_or(u32::MAX),
                text,
                logprobs,
                finish_reason: Some(continuation.finish_reason.to_owned()),
            });
        }
    }
    chunk(stamp, choices, Some(Some(usage)))
}

fn chunk(
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

/// Encodes a stream.
#[derive(Debug)]
pub struct CompletionEncoder {
    stamp: Stamp,
    options: CompletionOptions,
    served: Arc<Served>,
    prompts: Vec<TokenizedPrompt>,
    /// One for each choice of each prompt.
    columns: Vec<LogprobColumns>,
}

impl CompletionEncoder {
    /// An encoder for the continuations of `prompts`.
    pub fn new(
        stamp: Stamp,
        options: CompletionOptions,
        served: Arc<Served>,
        prompts: Vec<TokenizedPrompt>,
    ) -> Self {
        let columns = vec![LogprobColumns::default(); prompts.len() * options.choices as usize];
        Self { stamp, options, served, prompts, columns }
    }

    fn push(&self, choice: CompletionChoice, out: &mut Chunks) {
        let usage = self.options.include_usage.then_some(None);
        out.push(&chunk(&self.stamp, vec![choice], usage));
    }

    /// The indices of a prompt's choices.
    fn indices(&self, prompt: usize) -> std::ops::Range<usize> {
        let each = self.options.choices as usize;
        prompt * each..(prompt + 1) * each
    }

    fn echo(&mut self, at: usize, logprobs: Option<&[TokenLogprob]>, out: &mut Chunks) {
        for index in self.indices(at) {
            let prompt = &self.prompts[at];
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
        if self.options.echo && !self.options.logprobs {
            for prompt in 0..self.prompts.len() {
                self.echo(prompt, None, out);
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
                    self.options.logprobs.then(|| self.columns[index].answer(vocab, &logprobs));
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
        if self.options.include_usage {
            out.push(&chunk(&self.stamp, Vec::new(), Some(Some(usage))));
        }
    }
}
