//! The fields that chat completions and completions share.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::unions::{LogitBias, Stop};

/// Declares a generation request: its own fields and those that all of them share, in one flat
/// struct. (A flattened inner struct would lose the path of a bad field in error messages.)
macro_rules! generation_request {
    ($(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, ::serde::Deserialize, ::utoipa::ToSchema)]
        pub struct $name {
            /// Model name or alias.
            pub model: String,
            $($own)*
            /// Upper bound on generated tokens; the context's end is another.
            pub max_tokens: Option<i64>,
            /// Generate at least this many tokens before an end-of-text token or a stop.
            #[schema(minimum = 0)]
            pub min_tokens: Option<i64>,
            /// Whether to answer as server-sent events; default false.
            pub stream: Option<bool>,
            /// Options of a stream; an error without `stream: true`.
            pub stream_options: Option<$crate::generation::StreamOptions>,
            /// Randomness; 0 takes the likeliest token; default 1.
            #[schema(minimum = 0, maximum = 2)]
            pub temperature: Option<f64>,
            /// Nucleus sampling: the likeliest tokens up to this probability mass; default 1.
            #[schema(minimum = 0, maximum = 1)]
            pub top_p: Option<f64>,
            /// Keep this many of the likeliest tokens; 0 or -1 for all; default 0.
            #[schema(minimum = -1)]
            pub top_k: Option<i64>,
            /// Drop tokens below this fraction of the likeliest one's probability; default 0.
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f64>,
            /// Locally typical sampling mass; 1 turns it off; default 1.
            #[schema(minimum = 0, maximum = 1)]
            pub typical_p: Option<f64>,
            /// Divide the logits of tokens already seen by this; 1 turns it off; default 1.
            pub repetition_penalty: Option<f64>,
            /// Subtract this times a token's count in the answer so far; default 0.
            #[schema(minimum = -2, maximum = 2)]
            pub frequency_penalty: Option<f64>,
            /// Subtract this from tokens already in the answer; default 0.
            #[schema(minimum = -2, maximum = 2)]
            pub presence_penalty: Option<f64>,
            /// Token id to a bias from -100 to 100, added to its logit.
            pub logit_bias: Option<$crate::unions::LogitBias>,
            /// A request that runs alone gets the same text with the same seed, unless two tokens are
            /// nearly tied (see the setting `reproducible`).
            pub seed: Option<i64>,
            /// Number of answers; default 1.
            #[schema(minimum = 1)]
            pub n: Option<i64>,
            /// Up to four strings that end the answer; they are not part of it.
            pub stop: Option<$crate::unions::Stop>,
            /// Token ids that end the answer; they are not part of it.
            pub stop_token_ids: Option<Vec<u32>>,
            /// Do not stop at end-of-text tokens; default false.
            pub ignore_eos: Option<bool>,
            /// Constraint on the answer, as vLLM spells it.
            pub structured_outputs: Option<$crate::structured::StructuredOutputs>,
            /// Older name of `structured_outputs.json`.
            #[schema(value_type = Option<Object>)]
            pub guided_json: Option<::serde_json::Value>,
            /// Older name of `structured_outputs.regex`.
            pub guided_regex: Option<String>,
            /// Older name of `structured_outputs.choice`.
            pub guided_choice: Option<Vec<String>>,
            /// Older name of `structured_outputs.grammar`.
            pub guided_grammar: Option<String>,
            /// llama-server's name of `structured_outputs.json`.
            #[schema(value_type = Option<Object>)]
            pub json_schema: Option<::serde_json::Value>,
            /// llama-server's name of `structured_outputs.grammar`.
            pub grammar: Option<String>,
            /// Separates prefix caches: only KV of requests with the same salt is reused.
            #[schema(max_length = 256)]
            pub cache_salt: Option<String>,
            /// Below 0: before all others. Above 0: only while no other request is computed. Default 0.
            pub priority: Option<i64>,
            /// OpenAI's name of `priority`: `priority` and `fast` are below 0, `flex` above; `auto`, `default`
            /// and `scale` are 0.
            pub service_tier: Option<String>,
            /// Everything else the client sent.
            #[serde(flatten)]
            #[schema(ignore)]
            pub extra: ::std::collections::BTreeMap<String, ::serde_json::Value>,
        }

        impl $name {
            /// The fields of vLLM and llama-server that constrain the output.
            pub fn output_constraints(&self) -> $crate::structured::OutputConstraints<'_> {
                $crate::structured::OutputConstraints {
                    structured_outputs: self.structured_outputs.as_ref(),
                    guided_json: self.guided_json.as_ref(),
                    guided_regex: self.guided_regex.as_deref(),
                    guided_choice: self.guided_choice.as_deref(),
                    guided_grammar: self.guided_grammar.as_deref(),
                    json_schema: self.json_schema.as_ref(),
                    grammar: self.grammar.as_deref(),
                }
            }

            /// The fields that every generation request has.
            pub fn common(&self) -> $crate::generation::CommonFields<'_> {
                $crate::generation::CommonFields {
                    max_tokens: self.max_tokens,
                    min_tokens: self.min_tokens,
                    stream: self.stream.unwrap_or(false),
                    stream_options: self.stream_options,
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    typical_p: self.typical_p,
                    repetition_penalty: self.repetition_penalty,
                    frequency_penalty: self.frequency_penalty,
                    presence_penalty: self.presence_penalty,
                    logit_bias: self.logit_bias.as_ref(),
                    seed: self.seed,
                    n: self.n,
                    stop: self.stop.as_ref(),
                    stop_token_ids: self.stop_token_ids.as_deref(),
                    ignore_eos: self.ignore_eos.unwrap_or(false),
                    cache_salt: self.cache_salt.as_deref(),
                    priority: self.priority,
                    service_tier: self.service_tier.as_deref(),
                }
            }
        }
    };
}
pub(crate) use generation_request;

/// The fields that every generation request has, as sent.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "documented where the request structs are declared")]
pub struct CommonFields<'a> {
    pub max_tokens: Option<i64>,
    pub min_tokens: Option<i64>,
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub typical_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub logit_bias: Option<&'a LogitBias>,
    pub seed: Option<i64>,
    pub n: Option<i64>,
    pub stop: Option<&'a Stop>,
    pub stop_token_ids: Option<&'a [u32]>,
    pub ignore_eos: bool,
    pub cache_salt: Option<&'a str>,
    pub priority: Option<i64>,
    pub service_tier: Option<&'a str>,
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Whether a last chunk carries the usage; default false.
    pub include_usage: Option<bool>,
    /// Accepted; no obfuscation is ever sent.
    pub include_obfuscation: Option<bool>,
}
