//! Generation models on llama.cpp: the contexts of the KV cache's layout, and steps in them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use forebay_scheduler::{HostCopyId, KvOp};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::context_params::context_params;
use super::loaded_model::{LoadedModel, Served};
use super::{error_log, llama_id, new_batch, restore_bytes, saved_bytes, step_error};
use crate::engine_thread::EngineThread;
use crate::layout::{self, ATTENTION_BLOCK, ModelFacts, batch_sizes};
use crate::long_slot::LongSlotModel;
use crate::model::{Capacity, GenerationModel, Row, StepError};
use crate::model_info::Kind;
use crate::sequence_state::{StateLayout, of_one_stream, of_streams};
use crate::vocab::Vocab;

pub(super) fn serve(loaded: &LoadedModel<'_>, vocab: Vocab, engine: EngineThread) -> Served {
    let &LoadedModel { backend, model, metadata, placement } = loaded;
    let config = &engine.config;
    let (batch_tokens, ubatch_tokens) = batch_sizes(config);
    // The loaded model is asked again: its header may leave open what llama.cpp knows of the architecture.
    let memory = metadata.sequence_memory(model);
    let facts = ModelFacts {
        n_ctx_train: metadata.n_ctx_train,
        on_cpu: placement.on_cpu(),
        memory,
        ..placement.facts
    };
    let kv = layout::kv_limits(config, &facts);
    let block = if placement.on_cpu() { ATTENTION_BLOCK } else { 1 };
    let params = context_params(config, config.thread_count())
        .with_kv_unified(kv.shares)
        // Cells that have left the window are not used again.
        .with_swa_full(kv.rewinds)
        .with_n_ubatch(ubatch_tokens);
    let saved = SavedStates::default();
    let runner = move |slots: u32, cells: u32| -> Result<GenerationContext<'_>, StepError> {
        let params = params
            .clone()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_seq_max(slots)
            // llama.cpp reserves an output for each sequence, and aborts if a batch has fewer tokens.
            .with_n_batch(batch_tokens.max(slots));
        error_log::clear();
        let none = |_| StepError(format!("llama.cpp cannot make a context of {cells} tokens"));
        let context = model.new_context(backend, params).map_err(none)?;
        let streams = if kv.shares { 1 } else { slots };
        let (batch, saved) = (new_batch(batch_tokens, 1), Rc::clone(&saved));
        let (logits, earlier_logits) = (Vec::new(), Vec::new());
        Ok(GenerationContext {
            context,
            batch,
            logits,
            earlier_logits,
            streams,
            saved,
            has_state: memory.state,
        })
    };
    let standard = match runner(kv.slots, kv.cells) {
        Ok(standard) => standard,
        Err(why) => return Err(Box::new((engine, placement.explained(&why.to_string())))),
    };
    let info = metadata.info(model, Kind::Chat, config.parallel, kv.request_tokens());
    tracing::info!(
        cells = kv.cells,
        slot_tokens = kv.slot_tokens,
        request_tokens = kv.request_tokens(),
        layout = if kv.shares { "shared" } else { "split" },
        host_tokens = kv.saved_tokens,
        host_mib = kv.saved_bytes >> 20,
        "KV cache"
    );
    let capacity = Capacity { kv, batch_tokens, block };
    match kv.long_slot() {
        None => engine.serve_generation(info, vocab, capacity, standard),
        Some(slot) => {
            let with_long = LongSlotModel::new(standard, slot, move || runner(1, kv.long_tokens));
            engine.serve_generation(info, vocab, capacity, with_long);
        }
    }
    Ok(())
}

/// Copies of slots in host memory, for all contexts of a model, in the form of a cache with one stream.
type SavedStates = Rc<RefCell<HashMap<HostCopyId, (Vec<u8>, StateLayout)>>>;

/// A context that generates.
struct GenerationContext<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    /// Where the logits of each row of the last step are.
    logits: Vec<LogitsLocation>,
    /// Logits of calls that another call followed, row after row.
    earlier_logits: Vec<f32>,
    saved: SavedStates,
    /// Streams of the KV cache.
    streams: u32,
    /// Whether the model has a recurrent state.
    has_state: bool,
}

/// Where a row's logits are.
#[derive(Clone, Copy)]
enum LogitsLocation {
    /// In llama.cpp's output, by the row's index in its batch.
    Batch(i32),
    /// In `earlier_logits`, between these.
    Earlier { start: usize, end: usize },
}

impl<'m> GenerationContext<'m> {
    fn trim(&mut self, slot: u32, keep: u32) -> Result<(), StepError> {
        match self.context.clear_kv_cache_seq(Some(slot), Some(keep), None).map_err(step_error)? {
            true => Ok(()),
            false => Err(StepError(format!("slot {slot} cannot be cut back to {keep} tokens"))),
        }
    }

    /// A copy of a slot, in the form of a KV cache with one stream.
    fn save(&self, slot: u32) -> Result<(Vec<u8>, StateLayout), StepError> {
        let (slot, flags) = (llama_id(slot), LlamaStateSeqFlags::empty());
        let all = self.context.state_seq_get_size_ext(slot, flags);
        // The partial state is what follows the cells of all tokens, if there are any.
        let part = self.context.state_seq_get_size_ext(slot, LlamaStateSeqFlags::PARTIAL_ONLY);
        let shape = match (all.saturating_sub(part), self.has_state) {
            (0, false) => StateLayout::Cells,
            (0, true) => StateLayout::Recurrent,
            (first, false) => StateLayout::Windowed(first),
            (first, true) => StateLayout::Hybrid(first),
        };
        let bytes = saved_bytes(&self.context, slot, all);
        bytes
            .and_then(|bytes| of_one_stream(bytes, shape, self.streams))
            .ok_or_else(|| StepError(format!("slot {slot} cannot be saved")))
    }

    fn restore(&mut self, slot: u32, state: &[u8]) -> Result<(), StepError> {
        if restore_bytes(&mut self.context, llama_id(slot), state) {
            Ok(())
        } else {
            Err(StepError(format!("slot {slot} cannot be restored")))
        }
    }

    /// Computes the chosen rows of a step in one decode call. Returns its time.
    fn call(&mut self, rows: &[Row], chosen: Range<usize>) -> Result<Duration, StepError> {
        let started = Instant::now();
        self.batch.clear();
        for i in chosen {
            let Row { token, pos, slot, logits } = rows[i];
            self.logits[i] = LogitsLocation::Batch(self.batch.n_tokens());
            self.batch
                .add(LlamaToken(llama_id(token)), llama_id(pos), &[llama_id(slot)], logits)
                .map_err(step_error)?;
        }
        self.context.decode(&mut self.batch).map_err(step_error)?;
        // On an asynchronous device the call returns before the work is done.
        self.context.synchronize();
        Ok(started.elapsed())
    }

    /// Copies the chosen rows' logits, which the next call overwrites.
    fn keep_logits(&mut self, rows: &[Row], chosen: Range<usize>) {
        for i in chosen {
            if let (true, LogitsLocation::Batch(index)) = (rows[i].logits, self.logits[i]) {
                let start = self.earlier_logits.len();
                self.earlier_logits.extend_from_slice(self.context.get_logits_ith(index));
                self.logits[i] = LogitsLocation::Earlier { start, end: self.earlier_logits.len() };
            }
        }
    }
}

impl GenerationModel for GenerationContext<'_> {
    fn step(&mut self, rows: &[Row], calls: &[usize]) -> Result<Vec<Duration>, StepError> {
        self.logits.clear();
        self.logits.resize(rows.len(), LogitsLocation::Batch(0));
        self.earlier_logits.clear();
        let mut before = 0..0;
        let mut took = Vec::with_capacity(calls.len());
        for count in calls {
            self.keep_logits(rows, before.clone());
            before = before.end..before.end + count;
            took.push(self.call(rows, before.clone())?);
        }
        Ok(took)
    }

    fn logits(&self, index: usize) -> &[f32] {
        match self.logits[index] {
            LogitsLocation::Batch(index) => self.context.get_logits_ith(index),
            LogitsLocation::Earlier { start, end } => &self.earlier_logits[start..end],
        }
    }

    fn change(&mut self, op: KvOp) -> Result<(), StepError> {
        match op {
            KvOp::Trim { slot, keep } => self.trim(slot.0, keep),
            KvOp::Copy { from, to, keep } => {
                let (from, id) = (llama_id(from.0), llama_id(to.0));
                // Whole sequences only: between streams llama.cpp aborts on a part of one.
                self.context.copy_kv_cache_seq(from, id, None, None).map_err(step_error)?;
                self.trim(to.0, keep)
            }
            KvOp::Save { slot, copy } => {
                match self.save(slot.0) {
                    Ok(state) => drop(self.saved.borrow_mut().insert(copy, state)),
                    // The scheduler sees the failure from the missing size.
                    Err(error) => tracing::warn!(%error, "no copy in engine memory"),
                }
                Ok(())
            }
            KvOp::Restore { copy, slot, keep } => {
                let none = || StepError(format!("nothing was saved as {}", copy.0));
                let states = Rc::clone(&self.saved);
                let states = states.borrow();
                let (state, shape) = states.get(&copy).ok_or_else(none)?;
                match self.streams {
                    1 => self.restore(slot.0, state)?,
                    streams => self.restore(slot.0, &of_streams(state, *shape, streams))?,
                }
                self.trim(slot.0, keep)
            }
            KvOp::Forget { copy } => {
                self.saved.borrow_mut().remove(&copy);
                Ok(())
            }
        }
    }

    fn copy_bytes(&self, copy: HostCopyId) -> Option<u64> {
        self.saved.borrow().get(&copy).map(|(state, _)| state.len() as u64)
    }
}
