//! Text to tokens within limits: a text that cannot fit is refused before it is tokenised whole.
//!
//! llama.cpp's tokenisers take more than a hundred bytes of memory for each byte of a text.

use forebay_engine::{ModelInfo, ParseSpecial, Token, TokenizeError, Vocab};

use super::model_view::ModelView;
use crate::error::ApiError;

/// Refuses a text that is longer than any prompt may be.
///
/// # Errors
/// 400 at `param`.
pub(super) fn check_text(param: &str, bytes: usize, model: ModelView<'_>) -> Result<(), ApiError> {
    let max = model.max_text_bytes;
    if bytes > max {
        let message = format!("The text of '{param}' has {bytes} bytes; the most is {max}.");
        return Err(ApiError::invalid(param, "context_length_exceeded", message));
    }
    let least = model.vocab.fewest_tokens(bytes);
    let limit = model.info.slot_tokens;
    if least > limit as usize {
        return Err(ApiError::context_length_at_least(param, least, limit));
    }
    Ok(())
}

/// The tokens of a rendered prompt, its control tokens recognised.
///
/// # Errors
/// 400 at `param` for more than the model's context holds.
pub fn tokenize_prompt(
    param: &str,
    pieces: &[String],
    model: ModelView<'_>,
) -> Result<Vec<Token>, ApiError> {
    check_text(param, pieces.iter().map(String::len).sum(), model)?;
    let limit = model.info.slot_tokens;
    let tokens = model.vocab.tokenize_within(pieces, ParseSpecial::Yes, limit as usize);
    tokens.map_err(|none| match none {
        TokenizeError::TooMany { count, exact: true } => {
            ApiError::context_length(param, count, limit)
        }
        TokenizeError::TooMany { count, exact: false } => {
            ApiError::context_length_at_least(param, count, limit)
        }
        TokenizeError::Failed(failure) => failure.into(),
    })
}

/// Bytes of text for each token of an embedding model's context. Its tokeniser drops white space and
/// makes one token of an unknown word, so nothing is certain, but no real text comes near.
const BYTES_PER_TOKEN: usize = 64;
/// What an input may have in any case, in bytes.
const MIN_INPUT: usize = 16 << 10;

/// The part of an embedding model's input that is tokenised: all of it, or with `truncate` as much as
/// could fit.
///
/// # Errors
/// 400 for more text than could fit.
pub(super) fn cut<'t>(
    text: &'t str,
    truncate: bool,
    info: &ModelInfo,
) -> Result<&'t str, ApiError> {
    let max = (info.slot_tokens as usize * BYTES_PER_TOKEN).max(MIN_INPUT);
    match text.len() {
        len if len <= max => Ok(text),
        _ if truncate => Ok(&text[..text.floor_char_boundary(max)]),
        len => {
            let message = format!("An input can have at most {max} bytes, but this has {len}.");
            Err(ApiError::invalid("input", "context_length_exceeded", message))
        }
    }
}

/// The tokens of each of an embedding model's inputs, which were [`cut`].
///
/// # Errors
/// 500 if the model's engine does not answer.
pub(super) fn tokenize_inputs(texts: &[&str], vocab: &Vocab) -> Result<Vec<Vec<Token>>, ApiError> {
    Ok(vocab.tokenize_all(texts, ParseSpecial::No)?)
}
