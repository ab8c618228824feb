//! The fields that every generation request has: ranges, defaults, and the engine's form.

use std::sync::Arc;

use forebay_engine::{
    AdmissionParams, GenerateRequest, Grammar, ModelInfo, ReasoningBudget, SamplingParams,
    StopRules, Token, Vocab,
};
use forebay_protocol::generation::CommonFields;
use forebay_protocol::{LogitBias, Stop};
use rand_core::{OsRng, TryRngCore};

use crate::conversation::fields::StopField;
use crate::error::{ApiError, shown};

const MAX_STOP_BYTES: usize = 256;
const MAX_BIASES: usize = 1024;
const MAX_STOP_TOKENS: usize = 64;
/// The largest top_logprobs, and logprobs of /v1/completions.
pub const MAX_TOP_LOGPROBS: i64 = 20;

/// Parameters of a generation: the engine's request without its prompt.
#[derive(Debug, Clone)]
pub struct GenerationParams {
    /// Replies to generate for a prompt.
    pub choices: u32,
    /// The most tokens of a reply, if the client limits them.
    pub max_tokens: Option<u32>,
    /// How tokens are sampled.
    pub sampling: SamplingParams,
    /// When generation stops.
    pub stop: StopRules,
    /// Control tokens that show in the reply's text.
    pub visible_controls: Arc<[Token]>,
    /// The limit on reasoning.
    pub reasoning_budget: Option<ReasoningBudget>,
    /// The grammar of the output.
    pub grammar: Option<Grammar>,
    /// Alternatives to report for each generated token.
    pub logprobs: Option<u32>,
    /// Alternatives to report for each token of the prompt.
    pub prompt_logprobs: Option<u32>,
    /// The principal, the cache salt, the priority and the timeout.
    pub admission: AdmissionParams,
}

impl GenerationParams {
    /// Validates and converts the fields that every generation request has.
    ///
    /// # Errors
    /// 400 for the first field that is out of range.
    pub fn new(
        fields: &CommonFields<'_>,
        admission: AdmissionParams,
        vocab: &Vocab,
        max_choices: u32,
        stop_field: StopField,
    ) -> Result<Self, ApiError> {
        if fields.stream_options.is_some() && !fields.stream {
            let message = "'stream_options' is only allowed when 'stream' is true.";
            return Err(ApiError::invalid("stream_options", "invalid_value", message));
        }
        let choices = integer("n", fields.n, 1, i64::from(max_choices))?.unwrap_or(1);
        let seed = fields.seed.map_or_else(random_seed, i64::cast_unsigned);
        Ok(Self {
            choices: narrow(choices),
            max_tokens: integer("max_tokens", fields.max_tokens, 0, i64::from(i32::MAX))?
                .map(narrow),
            sampling: SamplingParams {
                temperature: number("temperature", fields.temperature, 0.0, 2.0, 1.0)?,
                top_k: integer("top_k", fields.top_k, -1, i64::from(i32::MAX))?
                    .map_or(0, |k| narrow(k.max(0))),
                typical_p: number("typical_p", fields.typical_p, 0.0, 1.0, 1.0)?,
                top_p: number("top_p", fields.top_p, 0.0, 1.0, 1.0)?,
                min_p: number("min_p", fields.min_p, 0.0, 1.0, 0.0)?,
                repetition_penalty: number(
                    "repetition_penalty",
                    fields.repetition_penalty,
                    0.01,
                    10.0,
                    1.0,
                )?,
                frequency_penalty: number(
                    "frequency_penalty",
                    fields.frequency_penalty,
                    -2.0,
                    2.0,
                    0.0,
                )?,
                presence_penalty: number(
                    "presence_penalty",
                    fields.presence_penalty,
                    -2.0,
                    2.0,
                    0.0,
                )?,
                logit_bias: fields
                    .logit_bias
                    .map_or(Ok(Vec::new()), |bias| logit_bias(bias, vocab))?,
                seed,
            },
            stop: StopRules {
                strings: fields
                    .stop
                    .map_or(Ok(Vec::new()), |stop| stop_strings(stop, stop_field))?,
                tokens: stop_tokens(fields.stop_token_ids.unwrap_or_default(), vocab)?,
                ignore_eos: fields.ignore_eos,
                min_tokens: integer("min_tokens", fields.min_tokens, 0, i64::from(i32::MAX))?
                    .map_or(0, narrow),
            },
            visible_controls: Vec::new().into(),
            reasoning_budget: None,
            grammar: None,
            logprobs: None,
            prompt_logprobs: None,
            admission,
        })
    }

    /// Builds the engine's request for a prompt. `max_tokens` is clamped to the end of the context: clients set
    /// generous limits without knowing the model.
    ///
    /// # Errors
    /// 400 if the prompt leaves no room for a token.
    pub fn to_request(
        &self,
        param: &str,
        prompt: Vec<Token>,
        info: &ModelInfo,
    ) -> Result<GenerateRequest, ApiError> {
        if prompt.is_empty() {
            return Err(ApiError::invalid(
                param,
                "invalid_value",
                format!("'{param}' is empty, and the model has no token to begin with."),
            ));
        }
        let length = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let room = info.room_after(length);
        let nothing_wanted = self.max_tokens == Some(0);
        if room == 0 && !(nothing_wanted && length == info.slot_tokens) {
            return Err(ApiError::context_length(param, prompt.len(), info.slot_tokens));
        }
        let max_tokens = self.max_tokens.map_or(room, |max| max.min(room));
        let min_tokens = self.stop.min_tokens;
        if min_tokens > max_tokens {
            let message = format!(
                "'min_tokens' is {min_tokens}, but only {max_tokens} tokens may be generated."
            );
            return Err(ApiError::invalid("min_tokens", "integer_above_max_value", message));
        }
        Ok(GenerateRequest {
            prompt: prompt.into(),
            choices: self.choices,
            max_tokens,
            sampling: self.sampling.clone(),
            stop: self.stop.clone(),
            visible_controls: Arc::clone(&self.visible_controls),
            reasoning_budget: self.reasoning_budget.clone(),
            grammar: self.grammar.clone(),
            logprobs: self.logprobs,
            prompt_logprobs: self.prompt_logprobs,
            admission: self.admission,
        })
    }
}

/// A seed for a request that has none.
fn random_seed() -> u64 {
    // Without the system's randomness a fixed seed is better than no reply.
    OsRng.try_next_u64().unwrap_or(0)
}

fn narrow(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A whole number in `min..=max`.
///
/// # Errors
/// 400 with OpenAI's codes.
pub fn integer(
    name: &str,
    value: Option<i64>,
    min: i64,
    max: i64,
) -> Result<Option<i64>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    let refuse = |code, bound: &str, limit: i64| {
        let message =
            format!("Invalid '{name}': expected a value {bound} {limit}, but got {value} instead.");
        Err(ApiError::invalid(name, code, message))
    };
    if value < min {
        return refuse("integer_below_min_value", ">=", min);
    }
    if value > max {
        return refuse("integer_above_max_value", "<=", max);
    }
    Ok(Some(value))
}

fn number(
    name: &str,
    value: Option<f64>,
    min: f64,
    max: f64,
    default: f64,
) -> Result<f32, ApiError> {
    let value = value.unwrap_or(default);
    let refuse = |code, bound: &str, limit: f64| {
        let message =
            format!("Invalid '{name}': expected a value {bound} {limit}, but got {value} instead.");
        Err(ApiError::invalid(name, code, message))
    };
    if value < min {
        return refuse("decimal_below_min_value", ">=", min);
    }
    if value > max || value.is_nan() {
        return refuse("decimal_above_max_value", "<=", max);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "small numbers; the engine computes in f32"
    )]
    let value = value as f32;
    Ok(value)
}

fn stop_strings(
    stop: &Stop,
    StopField { name, max_strings }: StopField,
) -> Result<Vec<String>, ApiError> {
    let strings = stop.clone().into_vec();
    if strings.len() > max_strings {
        let message = format!(
            "Invalid '{name}': expected at most {max_strings} strings, but got {}.",
            strings.len()
        );
        return Err(ApiError::invalid(name, "array_above_max_length", message));
    }
    for (index, string) in strings.iter().enumerate() {
        let param = format!("{name}[{index}]");
        if string.is_empty() {
            return Err(ApiError::invalid(
                param,
                "string_below_min_length",
                "A stop string cannot be empty.",
            ));
        }
        if string.len() > MAX_STOP_BYTES {
            let message = format!("A stop string can have at most {MAX_STOP_BYTES} bytes.");
            return Err(ApiError::invalid(param, "string_above_max_length", message));
        }
    }
    Ok(strings)
}

fn stop_tokens(tokens: &[Token], vocab: &Vocab) -> Result<Vec<Token>, ApiError> {
    if tokens.len() > MAX_STOP_TOKENS {
        let message = format!("'stop_token_ids' can have at most {MAX_STOP_TOKENS} entries.");
        return Err(ApiError::invalid("stop_token_ids", "array_above_max_length", message));
    }
    match tokens.iter().position(|&token| token as usize >= vocab.len()) {
        Some(at) => {
            let message = format!("The model has no token {}.", tokens[at]);
            Err(ApiError::invalid(format!("stop_token_ids[{at}]"), "invalid_value", message))
        }
        None => Ok(tokens.to_vec()),
    }
}

fn logit_bias(bias: &LogitBias, vocab: &Vocab) -> Result<Vec<(Token, f32)>, ApiError> {
    let refuse = |message: String| Err(ApiError::invalid("logit_bias", "invalid_value", message));
    if bias.0.len() > MAX_BIASES {
        return refuse(format!("'logit_bias' can have at most {MAX_BIASES} entries."));
    }
    let mut out = Vec::with_capacity(bias.0.len());
    for (key, &value) in &bias.0 {
        let token = key.parse::<Token>().ok().filter(|&token| (token as usize) < vocab.len());
        let Some(token) = token else {
            return refuse(format!(
                "'logit_bias' has the key '{}', which is not a token of the model.",
                shown(key)
            ));
        };
        if !(-100.0..=100.0).contains(&value) {
            return refuse(format!(
                "'logit_bias' for token {token} is {value}; it must be between -100 and 100."
            ));
        }
        out.push((token, value));
    }
    Ok(out)
}
