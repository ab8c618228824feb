//! Completion requests to the engine's requests.

use forebay_engine::{GenerateRequest, Token};
use forebay_protocol::completion::CompletionRequest;
use forebay_protocol::{TextOrTokens, fields};

use crate::conversation::fields::StopField;
use crate::convert::grammar::OutputGrammar;
use crate::convert::sampling::{GenerationParams, MAX_TOP_LOGPROBS, integer};
use crate::convert::tokens::tokenize_prompt;
use crate::convert::{ModelView, RequestRules, check_extra, log_unknown};
use crate::error::ApiError;

/// `max_tokens` of a request that has none: OpenAI's default.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// A validated request whose prompts are not tokenised yet.
#[derive(Debug)]
struct Parsed {
    /// The prompts as sent.
    prompts: Vec<PromptInput>,
    /// How to generate.
    params: GenerationParams,
    /// The grammar of the output.
    grammar: Option<OutputGrammar>,
    /// How to return the output.
    options: CompletionOptions,
}

/// How the output is returned.
#[derive(Debug, Clone, Copy)]
pub struct CompletionOptions {
    /// As server-sent events.
    pub stream: bool,
    /// With a usage chunk at a stream's end.
    pub include_usage: bool,
    /// After its prompt.
    pub echo: bool,
    /// With log probabilities.
    pub logprobs: bool,
    /// Continuations of each prompt.
    pub choices: u32,
}

/// A prompt as sent.
#[derive(Debug, Clone)]
enum PromptInput {
    /// Text; names of control tokens in it are recognized.
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<Token>),
}

/// A validated request whose prompts are tokenised.
#[derive(Debug)]
pub struct PreparedCompletion {
    /// The engine's requests, without a grammar: one for each prompt.
    pub requests: Vec<GenerateRequest>,
    /// The grammar to compile into them.
    pub grammar: Option<OutputGrammar>,
    /// What `echo` needs of each prompt.
    pub prompts: Vec<TokenizedPrompt>,
    /// How to return the output.
    pub options: CompletionOptions,
}

/// A prompt as the model reads it.
#[derive(Debug, Clone)]
pub struct TokenizedPrompt {
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
    rules: &RequestRules<'_>,
    max_prompts: usize,
) -> Result<Parsed, ApiError> {
    log_unknown(&check_extra(fields::COMPLETION, &request.extra, rules.strict)?);
    let prompts = match request.prompt.take() {
        None => return Err(ApiError::missing("prompt")),
        Some(TextOrTokens::Text(text)) => vec![PromptInput::Text(text)],
        Some(TextOrTokens::Texts(texts)) => texts.into_iter().map(PromptInput::Text).collect(),
        Some(TextOrTokens::Tokens(tokens)) => vec![PromptInput::Tokens(tokens)],
        Some(TextOrTokens::TokenLists(lists)) => {
            lists.into_iter().map(PromptInput::Tokens).collect()
        }
    };
    if prompts.is_empty() {
        return Err(ApiError::invalid(
            "prompt",
            "empty_array",
            "'prompt' must hold at least one prompt.",
        ));
    }
    if prompts.len() > max_prompts {
        let message = format!("'prompt' can hold at most {max_prompts} prompts.");
        return Err(ApiError::invalid("prompt", "array_above_max_length", message));
    }
    let mut common = request.common();
    let echo = request.echo.unwrap_or(false);
    let least = i64::from(!echo);
    common.max_tokens = integer("max_tokens", common.max_tokens, least, i64::from(i32::MAX))?;
    let admission = rules.caller.admission(&common)?;
    let mut params = GenerationParams::new(
        &common,
        admission,
        rules.vocab,
        rules.max_choices,
        StopField::default(),
    )?;
    params.max_tokens =
        Some(params.max_tokens.unwrap_or_else(|| DEFAULT_MAX_TOKENS.max(params.stop.min_tokens)));
    if request.best_of.is_some_and(|best| best != i64::from(params.choices)) {
        let message = "'best_of' is only supported when it is the same as 'n'.";
        return Err(ApiError::invalid("best_of", "unsupported_value", message));
    }
    let logprobs = integer("logprobs", request.logprobs, 0, MAX_TOP_LOGPROBS)?;
    params.logprobs = logprobs.map(|top| u32::try_from(top).unwrap_or(0));
    params.prompt_logprobs = params.logprobs.filter(|_| echo);
    let options = CompletionOptions {
        stream: common.stream,
        include_usage: common.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        echo,
        logprobs: logprobs.is_some(),
        choices: params.choices,
    };
    Ok(Parsed {
        prompts,
        params,
        grammar: OutputGrammar::from_constraints(&request.output_constraints(), None)?,
        options,
    })
}

/// Validates a request for at most `max_prompts` prompts and tokenises these. It can take long, so it runs off the
/// async runtime.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn prepare(
    request: CompletionRequest,
    rules: &RequestRules<'_>,
    model: ModelView<'_>,
    max_prompts: usize,
) -> Result<PreparedCompletion, ApiError> {
    let Parsed { prompts, params, grammar, options } = parse(request, rules, max_prompts)?;
    let many = prompts.len() > 1;
    let (mut requests, mut tokenized) = (Vec::new(), Vec::new());
    for (index, prompt) in prompts.into_iter().enumerate() {
        let param = if many { format!("prompt[{index}]") } else { "prompt".to_owned() };
        let prompt = tokenize(&param, prompt, model)?;
        requests.push(params.to_request(&param, prompt.tokens.clone(), model.info)?);
        tokenized.push(prompt);
    }
    Ok(PreparedCompletion { requests, grammar, prompts: tokenized, options })
}

fn tokenize(
    param: &str,
    prompt: PromptInput,
    model: ModelView<'_>,
) -> Result<TokenizedPrompt, ApiError> {
    let ModelView { vocab, info, .. } = model;
    Ok(match prompt {
        PromptInput::Text(text) => {
            let bare = tokenize_prompt(param, std::slice::from_ref(&text), model)?;
            let before = bare.len();
            let tokens = vocab.with_prefix(bare);
            TokenizedPrompt { text, added: tokens.len() - before, tokens }
        }
        PromptInput::Tokens(tokens) => {
            let limit = info.slot_tokens;
            if tokens.len() > limit as usize {
                return Err(ApiError::context_length(param, tokens.len(), limit));
            }
            let bytes: Vec<u8> = tokens.iter().flat_map(|&t| vocab.piece(t)).copied().collect();
            TokenizedPrompt { text: String::from_utf8_lossy(&bytes).into_owned(), added: 0, tokens }
        }
    })
}
