//! Queries and documents as a reranker reads them, and scores as clients read them.

use forebay_engine::{ParseSpecial, Ranking, Token, Vocab};

use super::embedding::check_count;
use super::model_view::EmbeddingView;
use super::tokens;
use crate::error::ApiError;

/// Query and document together, for each document. The first of the texts is the query.
///
/// # Errors
/// 400 for too many texts, or a pair that is too long.
pub fn tokenize_pairs(
    texts: &[String],
    ranking: &Ranking,
    model: EmbeddingView<'_>,
) -> Result<Vec<Vec<Token>>, ApiError> {
    // As many as an embedding model takes.
    check_count(texts.len()).map_err(|error| error.at("documents"))?;
    let param = |index: usize| format!("documents[{index}]");
    let texts = texts.iter().enumerate().map(|(index, text)| {
        let at = || index.checked_sub(1).map_or_else(|| "query".to_owned(), param);
        tokens::cut(text, false, model.info).map_err(|error| error.at(at()))
    });
    let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
    let mut texts = tokens::tokenize_inputs(&texts, model.vocab)?.into_iter();
    let Some(query) = texts.next() else { return Ok(Vec::new()) };
    let frame = frame(query, ranking, model.vocab)?;
    let limit = model.info.slot_tokens as usize;
    // The query is in every pair: a short request can have a great many tokens.
    let (max, mut total) = (model.max_request_tokens, 0);
    let pair = |(index, document): (usize, Vec<Token>)| {
        let tokens = frame.join(&document[..]);
        if tokens.len() > limit {
            let param = param(index);
            let message = format!(
                "'{param}' and the query have {} tokens together; the model's maximum is {limit}.",
                tokens.len()
            );
            return Err(ApiError::invalid(param, "context_length_exceeded", message));
        }
        total += tokens.len();
        if total > max {
            return Err(ApiError::too_many_tokens(total, max).at("documents"));
        }
        Ok(tokens)
    };
    texts.enumerate().map(pair).collect()
}

/// The tokens around each document, the query among them, tokenised once for all documents. A template's own
/// text is read with control tokens, the user's without.
fn frame(query: Vec<Token>, ranking: &Ranking, vocab: &Vocab) -> Result<Vec<Vec<Token>>, ApiError> {
    let Some(template) = &ranking.template else {
        let mut before = vocab.with_markers(query);
        if ranking.twice {
            before.extend_from_slice(vocab.suffix());
        }
        return Ok(vec![before, vocab.suffix().to_vec()]);
    };
    let around = template.split("{document}").map(|part| {
        let mut tokens = Vec::new();
        for (at, own) in part.split("{query}").enumerate() {
            if at > 0 {
                tokens.extend_from_slice(&query);
            }
            tokens.extend(vocab.tokenize(own, ParseSpecial::Yes)?);
        }
        Ok(tokens)
    });
    around.collect()
}

/// The cosine of the first vector with each of the others; vectors have length 1.
pub fn cosines(vectors: &[Vec<f32>]) -> Vec<f32> {
    let Some((query, documents)) = vectors.split_first() else { return Vec::new() };
    documents.iter().map(|v| query.iter().zip(v).map(|(a, b)| a * b).sum()).collect()
}

/// How likely each pair is relevant: one number is its logit, of several the first is a probability.
pub fn probabilities(outputs: &[Vec<f32>]) -> Vec<f32> {
    let probability = |output: &Vec<f32>| match output.as_slice() {
        [logit] => 1.0 / (1.0 + (-logit).exp()),
        [first, ..] => *first,
        [] => 0.0,
    };
    outputs.iter().map(probability).collect()
}
