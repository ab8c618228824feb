//! `/v1/embeddings`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use forebay_engine::Token;
use forebay_protocol::embedding::{
    Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingVector,
};
use forebay_protocol::usage::EmbeddingUsage;
use forebay_protocol::{TextOrTokens, fields};

use super::model_view::EmbeddingView;
use super::request_rules::{check_extra, log_unknown};
use super::sampling::integer;
use super::tokens;
use crate::error::{ApiError, shown};

const MAX_INPUTS: usize = 2048;

/// How inputs are read and vectors returned.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingOptions {
    base64: bool,
    /// Leading dimensions to keep.
    dimensions: Option<usize>,
    truncate: bool,
}

impl EmbeddingOptions {
    /// Whole vectors of whole texts.
    pub fn whole() -> Self {
        Self { base64: false, dimensions: None, truncate: false }
    }
}

/// Validates everything that needs no tokeniser.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn read_options(
    request: &EmbeddingRequest,
    model: EmbeddingView<'_>,
    strict: bool,
) -> Result<EmbeddingOptions, ApiError> {
    if model.info.ranking.is_some() {
        let message =
            format!("'{}' is a reranker: it makes no vectors. Use /v1/rerank.", model.name);
        return Err(ApiError::invalid("model", "model_not_supported", message));
    }
    log_unknown(&check_extra(fields::EMBEDDING, &request.extra, strict)?);
    let base64 = match request.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!(
                "Invalid 'encoding_format': '{}' is neither 'float' nor 'base64'.",
                shown(other)
            );
            return Err(ApiError::invalid("encoding_format", "invalid_value", message));
        }
    };
    let dimensions = dimensions(request.dimensions, model)?;
    Ok(EmbeddingOptions { base64, dimensions, truncate: request.truncate.unwrap_or(false) })
}

fn dimensions(wanted: Option<i64>, model: EmbeddingView<'_>) -> Result<Option<usize>, ApiError> {
    let full = model.info.n_embd;
    let Some(wanted) = integer("dimensions", wanted, 1, i64::from(full))? else { return Ok(None) };
    if wanted == i64::from(full) {
        return Ok(None);
    }
    if !model.is_matryoshka {
        let message = format!(
            "'dimensions' is not supported by the model `{}`: its vectors have {full} dimensions \
             and were not trained to be cut.",
            model.name
        );
        return Err(ApiError::invalid("dimensions", "unsupported_value", message));
    }
    Ok(usize::try_from(wanted).ok())
}

/// The inputs' tokens. It can take long, so it runs off the async runtime.
///
/// # Errors
/// 400 for inputs that are too many, empty or too long.
pub fn tokenize(
    input: TextOrTokens,
    options: EmbeddingOptions,
    model: EmbeddingView<'_>,
) -> Result<Vec<Vec<Token>>, ApiError> {
    let (inputs, many) = match input {
        TextOrTokens::Text(one) => (Inputs::Texts(vec![one]), false),
        TextOrTokens::Texts(all) => (Inputs::Texts(all), true),
        TextOrTokens::Tokens(one) => (Inputs::Tokens(vec![one]), false),
        TextOrTokens::TokenLists(all) => (Inputs::Tokens(all), true),
    };
    let param = |index: usize| if many { format!("input[{index}]") } else { "input".to_owned() };
    let tokens = match inputs {
        Inputs::Texts(texts) => {
            check_count(texts.len())?;
            let each = texts.iter().enumerate();
            let cut = each.map(|(index, text)| {
                tokens::cut(text, options.truncate, model.info)
                    .map_err(|error| error.at(param(index)))
            });
            tokens::tokenize_inputs(&cut.collect::<Result<Vec<_>, _>>()?, model.vocab)?
        }
        Inputs::Tokens(lists) => {
            check_count(lists.len())?;
            lists
        }
    };
    let each = tokens.into_iter().enumerate();
    each.map(|(index, tokens)| {
        add_markers(tokens, options, model).map_err(|error| error.at(param(index)))
    })
    .collect()
}

/// Inputs as sent.
enum Inputs {
    Texts(Vec<String>),
    Tokens(Vec<Vec<Token>>),
}

/// Whether a request may hold so many inputs.
///
/// # Errors
/// 400 for none, and for too many.
pub(super) fn check_count(count: usize) -> Result<(), ApiError> {
    if count == 0 {
        return Err(ApiError::invalid(
            "input",
            "empty_array",
            "'input' must hold at least one input.",
        ));
    }
    if count > MAX_INPUTS {
        let message = format!("'input' can hold at most {MAX_INPUTS} inputs, but holds {count}.");
        return Err(ApiError::invalid("input", "array_above_max_length", message));
    }
    Ok(())
}

/// An input with the model's markers, cut to the context's length if the options say so.
///
/// # Errors
/// 400 for an empty input, an unknown token, and more tokens than fit.
fn add_markers(
    tokens: Vec<Token>,
    options: EmbeddingOptions,
    EmbeddingView { vocab, info, .. }: EmbeddingView<'_>,
) -> Result<Vec<Token>, ApiError> {
    let limit = info.slot_tokens;
    let mut tokens = vocab.with_markers(tokens);
    if tokens.is_empty() {
        return Err(ApiError::invalid("input", "invalid_value", "An input cannot be empty."));
    }
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab.len()) {
        let message = format!("The model has no token {token}.");
        return Err(ApiError::invalid("input", "invalid_value", message));
    }
    if tokens.len() > limit as usize {
        if !options.truncate {
            let count = tokens.len();
            let message = format!(
                "This model's maximum input length is {limit} tokens, but the input has {count}. \
                 'truncate': true cuts it there."
            );
            return Err(ApiError::invalid("input", "context_length_exceeded", message));
        }
        tokens.truncate((limit as usize).saturating_sub(vocab.suffix().len()));
        tokens.extend_from_slice(vocab.suffix());
    }
    Ok(tokens)
}

/// The response. It takes long for many inputs, so it is made off the async runtime.
pub fn response(
    vectors: Vec<Vec<f32>>,
    options: EmbeddingOptions,
    model: String,
    prompt_tokens: u32,
) -> EmbeddingResponse {
    let data = (0..).zip(vectors).map(|(index, vector)| Embedding {
        object: "embedding".to_owned(),
        index,
        embedding: encode(cut(vector, options.dimensions), options.base64),
    });
    EmbeddingResponse {
        object: "list".to_owned(),
        data: data.collect(),
        model,
        usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
    }
}

/// The leading dimensions, normalised again.
fn cut(mut vector: Vec<f32>, dimensions: Option<usize>) -> Vec<f32> {
    if let Some(dimensions) = dimensions {
        vector.truncate(dimensions);
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm > 0.0 {
            vector.iter_mut().for_each(|x| *x /= norm);
        }
    }
    vector
}

fn encode(vector: Vec<f32>, base64: bool) -> EmbeddingVector {
    if !base64 {
        return EmbeddingVector::Float(vector);
    }
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    EmbeddingVector::Base64(BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_vectors_are_normalised_again() {
        assert_eq!(cut(vec![3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(cut(vec![0.0, 0.0, 1.0], Some(2)), [0.0, 0.0]);
        assert_eq!(cut(vec![0.5, 0.5], None), [0.5, 0.5]);
    }

    #[test]
    fn base64_is_little_endian_floats() {
        let EmbeddingVector::Base64(text) = encode(vec![1.0, -2.5], true) else { panic!() };
        assert_eq!(BASE64_STANDARD.decode(text).unwrap(), [0, 0, 128, 63, 0, 0, 32, 192]);
    }
}
