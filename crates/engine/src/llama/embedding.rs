//! Embedding models on llama.cpp: what one pass holds, and contexts for passes side by side.

use std::num::NonZeroU32;

use forebay_scheduler::Pass;
use llama_cpp_2::context::params::LlamaPoolingType;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::place::{context_params, threads};
use super::{
    ATTENTION_BLOCK, DEFAULT_BATCH, Loaded, Movable, Served, error_log, llama_id, new_batch,
    step_error,
};
use crate::Token;
use crate::embed::Contexts;
use crate::host::Host;
use crate::model::{EmbeddingModel, Kind, ModelConfig, Pooling, StepError};
use crate::vocab::Vocab;

/// Context of one embedding input when nobody says otherwise: it costs no KV cache.
const DEFAULT_EMBEDDING_TOKENS: u32 = 8192;
/// Inputs of one embedding pass.
pub(super) const MAX_EMBEDDING_INPUTS: u32 = 64;
/// Tokens of one embedding pass: attention is computed over all of them, so more of them cost
/// more each, and fewer leave the matrix products too thin. See docs/performance.md.
const DEFAULT_EMBEDDING_BATCH: u32 = 128;
/// Embedding passes side by side on a CPU, each with its share of the threads.
const MAX_LANES: u32 = 8;

/// How many tokens the contexts of an embedding model hold.
pub(super) struct Sizes {
    /// The longest input.
    pub(super) slot_tokens: u32,
    /// Tokens of a usual pass.
    pub(super) budget: u32,
    /// Tokens of the largest pass: an input is pooled whole, so the longest one must fit.
    pub(super) wide: u32,
    /// Usual passes side by side, each with a context of its own where there are several.
    pub(super) lanes: u32,
}

impl Sizes {
    pub(super) fn of(config: &ModelConfig, n_ctx_train: u32, on_cpu: bool) -> Self {
        let slot_tokens = n_ctx_train.min(config.ctx_size.unwrap_or(DEFAULT_EMBEDDING_TOKENS));
        let default = if on_cpu { DEFAULT_EMBEDDING_BATCH } else { DEFAULT_BATCH };
        let budget = config.batch_size.unwrap_or(default);
        let lanes = if on_cpu { threads(config).min(MAX_LANES) } else { 1 };
        Self { slot_tokens, budget, wide: budget.max(slot_tokens), lanes }
    }
}

pub(super) fn serve(loaded: &Loaded<'_>, vocab: Vocab, host: Host) -> Served {
    let &Loaded { backend, model, metadata, placed } = loaded;
    let config = &host.config;
    let on_cpu = placed.on_cpu();
    let Sizes { slot_tokens, budget, wide, lanes } =
        Sizes::of(config, metadata.n_ctx_train, on_cpu);
    let pooling = match config.pooling {
        Some(Pooling::Mean) => LlamaPoolingType::Mean,
        Some(Pooling::Cls) => LlamaPoolingType::Cls,
        Some(Pooling::Last) => LlamaPoolingType::Last,
        None if metadata.pooling.is_some_and(|p| p != 0) => LlamaPoolingType::Unspecified,
        None if metadata.causal => LlamaPoolingType::Last,
        None => LlamaPoolingType::Mean,
    };
    let threads = threads(config);
    let pooler = |threads: u32, tokens: u32| -> Result<Pooler<'_>, u32> {
        // llama.cpp aborts where the inputs cannot have equal shares of the tokens.
        let tokens = tokens.next_multiple_of(MAX_EMBEDDING_INPUTS);
        let params = context_params(config, threads)
            .with_embeddings(true)
            .with_pooling_type(pooling)
            .with_n_ctx(NonZeroU32::new(tokens))
            .with_n_seq_max(MAX_EMBEDDING_INPUTS)
            .with_kv_unified(true)
            .with_n_batch(tokens)
            .with_n_ubatch(tokens);
        error_log::clear();
        let context = model.new_context(backend, params).map_err(|_| tokens)?;
        Ok(Pooler { context: Movable(context), batch: new_batch(tokens, 1) })
    };
    let contexts = || -> Result<(Pooler<'_>, Vec<Pooler<'_>>), u32> {
        let wide = pooler(threads, wide)?;
        let narrow = (0..lanes).filter(|_| lanes > 1).map(|_| pooler(threads / lanes, budget));
        Ok((wide, narrow.collect::<Result<_, _>>()?))
    };
    let (wide, narrow) = match contexts() {
        Ok(contexts) => contexts,
        Err(tokens) => {
            let why = format!(
                "llama.cpp cannot make a context of {tokens} tokens, which ctx_size and batch_size decide"
            );
            return Err(Box::new((host, placed.explained(&why))));
        }
    };
    let mut info = metadata.info(model, Kind::Embedding, MAX_EMBEDDING_INPUTS, slot_tokens);
    if config.pooling.is_some() {
        // Whoever says how vectors are made wants vectors.
        info.ranking = None;
    }
    let block = if on_cpu { ATTENTION_BLOCK } else { 1 };
    let pass = Pass { tokens: budget, inputs: MAX_EMBEDDING_INPUTS as usize, block };
    host.serve_embedding(info, vocab, Contexts { wide, narrow, pass });
    Ok(())
}

/// A context that embeds.
struct Pooler<'m> {
    context: Movable<'m>,
    batch: LlamaBatch<'static>,
}

impl EmbeddingModel for Pooler<'_> {
    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, StepError> {
        self.batch.clear();
        self.context.0.clear_kv_cache();
        for (seq, input) in (0..).zip(inputs) {
            for (pos, &token) in (0..).zip(*input) {
                let token = LlamaToken(llama_id(token));
                self.batch.add(token, pos, &[seq], true).map_err(step_error)?;
            }
        }
        self.context.0.decode(&mut self.batch).map_err(step_error)?;
        (0..)
            .zip(inputs)
            .map(|(seq, _)| self.context.0.embeddings_seq_ith(seq).map(<[f32]>::to_vec))
            .collect::<Result<_, _>>()
            .map_err(step_error)
    }
}
