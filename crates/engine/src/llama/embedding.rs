//! Embedding models on llama.cpp: the contexts of parallel passes.

use std::num::NonZeroU32;

use forebay_scheduler::PassLimits;
use llama_cpp_2::context::params::LlamaPoolingType;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::context_params::context_params;
use super::loaded_model::{LoadedModel, Served};
use super::{Movable, error_log, llama_id, new_batch, step_error};
use crate::Token;
use crate::embed::EmbeddingContexts;
use crate::engine_thread::EngineThread;
use crate::layout::{ATTENTION_BLOCK, EmbeddingLayout, MAX_EMBEDDING_INPUTS};
use crate::model::{EmbeddingModel, StepError};
use crate::model_config::Pooling;
use crate::model_info::Kind;
use crate::vocab::Vocab;

pub(super) fn serve(loaded: &LoadedModel<'_>, vocab: Vocab, engine: EngineThread) -> Served {
    let &LoadedModel { backend, model, metadata, placement } = loaded;
    let config = &engine.config;
    let on_cpu = placement.on_cpu();
    let EmbeddingLayout { slot_tokens, budget, wide, lanes } =
        EmbeddingLayout::of(config, metadata.n_ctx_train, on_cpu);
    let pooling = match config.pooling {
        Some(Pooling::Mean) => LlamaPoolingType::Mean,
        Some(Pooling::Cls) => LlamaPoolingType::Cls,
        Some(Pooling::Last) => LlamaPoolingType::Last,
        None if metadata.pooling.is_some_and(|p| p != 0) => LlamaPoolingType::Unspecified,
        None if metadata.causal => LlamaPoolingType::Last,
        None => LlamaPoolingType::Mean,
    };
    let threads = config.thread_count();
    let pooler = |threads: u32, tokens: u32| -> Result<EmbeddingContext<'_>, u32> {
        // llama.cpp aborts unless the tokens divide evenly by the inputs.
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
        Ok(EmbeddingContext { context: Movable(context), batch: new_batch(tokens, 1) })
    };
    let contexts = || -> Result<(EmbeddingContext<'_>, Vec<EmbeddingContext<'_>>), u32> {
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
            return Err(Box::new((engine, placement.explained(&why))));
        }
    };
    let mut info = metadata.info(model, Kind::Embedding, MAX_EMBEDDING_INPUTS, slot_tokens);
    if config.pooling.is_some() {
        // With configured pooling the output is vectors, not scores.
        info.ranking = None;
    }
    let block = if on_cpu { ATTENTION_BLOCK } else { 1 };
    let pass = PassLimits { tokens: budget, inputs: MAX_EMBEDDING_INPUTS as usize, block };
    engine.serve_embedding(info, vocab, EmbeddingContexts { wide, narrow, pass });
    Ok(())
}

/// A context that computes vectors.
struct EmbeddingContext<'m> {
    context: Movable<'m>,
    batch: LlamaBatch<'static>,
}

impl EmbeddingModel for EmbeddingContext<'_> {
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
