//! Queries and documents as a reranker reads them, and scores as clients read them.

use forebay_engine::{ParseSpecial, Ranking, Token};

use super::embedding::check_count;
use crate::error::ApiError;
use crate::registry::Served;

/// Each document behind the query, the texts' first.
///
/// # Errors
/// 400 for too many texts, or a pair that is too long.
pub fn pairs(
    texts: &[String],
    ranking: &Ranking,
    served: &Served,
) -> Result<Vec<Vec<Token>>, ApiError> {
    // As many as an embedding model takes.
    check_count(texts.len()).map_err(|error| error.at("documents"))?;
    let vocab = served.vocab();
    let Some((query, documents)) = texts.split_first() else { return Ok(Vec::new()) };
    let begin = vocab.with_markers(vocab.tokenize(query, ParseSpecial::No));
    // The query is in every pair: a short request can have a great many tokens.
    let (most, mut total) = (served.embedder()?.max_request_tokens(), 0);
    let pair = |(index, document): (usize, &String)| {
        let tokens = match &ranking.template {
            Some(template) => templated(template, query, document, served),
            None => {
                let mut tokens = begin.clone();
                if ranking.twice {
                    tokens.extend_from_slice(vocab.suffix());
                }
                tokens.extend(vocab.tokenize(document, ParseSpecial::No));
                tokens.extend_from_slice(vocab.suffix());
                tokens
            }
        };
        let limit = served.info().slot_tokens as usize;
        if tokens.len() > limit {
            let param = format!("documents[{index}]");
            let message = format!(
                "'{param}' and the query have {} tokens together; the model's maximum is {limit}.",
                tokens.len()
            );
            return Err(ApiError::invalid(param, "context_length_exceeded", message));
        }
        total += tokens.len();
        if total > most {
            return Err(ApiError::too_many_tokens(total, most).at("documents"));
        }
        Ok(tokens)
    };
    documents.iter().enumerate().map(pair).collect()
}

/// The template's own text with control tokens, the user's without.
fn templated(template: &str, query: &str, document: &str, served: &Served) -> Vec<Token> {
    let vocab = served.vocab();
    let (mut tokens, mut rest) = (Vec::new(), template);
    let texts = [("{query}", query), ("{document}", document)];
    loop {
        let next =
            texts.iter().filter_map(|(mark, text)| Some((rest.find(mark)?, mark, text))).min();
        let Some((at, mark, text)) = next else { break };
        tokens.extend(vocab.tokenize(&rest[..at], ParseSpecial::Yes));
        tokens.extend(vocab.tokenize(text, ParseSpecial::No));
        rest = &rest[at + mark.len()..];
    }
    tokens.extend(vocab.tokenize(rest, ParseSpecial::Yes));
    tokens
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
