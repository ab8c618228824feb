//! Log probabilities as responses spell them.

use forebay_engine::{TokenLogprob, Vocab};
use forebay_protocol::chat;

/// A log probability as a JSON number, which has no -infinity.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

/// A token's text as far as it is UTF-8 alone.
pub(crate) fn token_text(vocab: &Vocab, token: u32) -> String {
    String::from_utf8_lossy(vocab.piece(token)).into_owned()
}

/// The tokens' log probabilities in chat's shape.
pub(crate) fn chat_logprobs(vocab: &Vocab, tokens: &[TokenLogprob]) -> Vec<chat::TokenLogprob> {
    let each = tokens.iter().map(|entry| chat::TokenLogprob {
        token: token_text(vocab, entry.token),
        logprob: finite(entry.logprob),
        bytes: Some(vocab.piece(entry.token).to_vec()),
        top_logprobs: entry
            .top
            .iter()
            .map(|top| chat::TopLogprob {
                token: token_text(vocab, top.token),
                logprob: finite(top.logprob),
                bytes: Some(vocab.piece(top.token).to_vec()),
            })
            .collect(),
    });
    each.collect()
}
