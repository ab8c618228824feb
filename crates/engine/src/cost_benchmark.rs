//! Measures what decode calls cost on a machine, over rows, chunks and depths, for the scheduler's simulator.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use forebay_scheduler::{HostCopyId, KvOp, SlotId};
use serde::{Deserialize, Serialize};

use crate::model::{Capacity, GenerationModel, Row, StepError};

/// Sizes to measure, each in ascending order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CostPlan {
    /// Counts of decode rows, each row in a slot of its own.
    pub rows: Vec<u32>,
    /// Tokens of a prefill chunk.
    pub chunks: Vec<u32>,
    /// Tokens that each sequence has already.
    pub depths: Vec<u32>,
    /// Times each call is made; the median counts.
    pub repeats: usize,
    /// After this time no further call is measured; the table then has what was measured so far.
    #[serde(default)]
    pub time_limit: Option<Duration>,
}

/// One kind of call and its time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CostSample {
    /// Decode rows in it.
    pub rows: u32,
    /// Prefill tokens in it.
    pub chunk: u32,
    /// Tokens that each of its sequences has already.
    pub depth: u32,
    /// The median of its times, in milliseconds.
    pub ms: f64,
}

/// What calls cost on one machine, for one model and one layout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CostTable {
    /// Whether sequences share one KV stream; else each has its own, and a call holds rows or a chunk.
    pub shared: bool,
    /// Tokens that attention computes at once; 1 if that makes no difference.
    pub block: u32,
    /// The samples.
    pub samples: Vec<CostSample>,
    /// What logits cost, in calls of rows alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logits: Vec<LogitsCost>,
}

/// What logits add to a call: the output layer, and the copy to host memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LogitsCost {
    /// Rows in the call.
    pub rows: u32,
    /// How much longer the call takes if all of them have logits than if one has, in milliseconds.
    pub ms: f64,
}

/// Asks an engine's thread to measure its model instead of serving it.
#[derive(Debug)]
pub(crate) struct CostMeasurement {
    pub(crate) plan: CostPlan,
    pub(crate) reply: SyncSender<Result<CostTable, StepError>>,
}

impl Default for CostPlan {
    fn default() -> Self {
        Self {
            rows: vec![1, 2, 4, 8, 16, 32],
            chunks: vec![2, 4, 8, 16, 32, 48, 64, 128, 256, 512],
            depths: vec![0, 512, 2000, 8000],
            repeats: 3,
            time_limit: None,
        }
    }
}

impl CostPlan {
    /// A plan with the larger calls that a GPU computes.
    pub fn wide() -> Self {
        let mut plan = Self::default();
        plan.rows.extend([64, 128]);
        plan.chunks.extend([1024, 2048]);
        plan
    }

    /// Slots that the plan needs: one for the chunk, the others for rows.
    pub fn slots(&self) -> u32 {
        1 + self.rows.iter().max().copied().unwrap_or(0)
    }

    /// Tokens that a slot has to hold.
    pub fn slot_tokens(&self) -> u32 {
        let most = |of: &[u32]| of.iter().max().copied().unwrap_or(0);
        most(&self.depths) + most(&self.chunks) + 1
    }
}

impl CostMeasurement {
    /// Measures and replies; `vocab` is the number of tokens of the vocabulary.
    pub(crate) fn run(self, model: impl GenerationModel, capacity: &Capacity, vocab: usize) {
        let (shared, block) = (capacity.kv.shares, capacity.block);
        let table = CostTable { shared, block, ..CostTable::default() };
        let started = Instant::now();
        let vocab = u32::try_from(vocab).unwrap_or(u32::MAX).max(1);
        let mut bench =
            CostBenchmark { model, table, plan: &self.plan, capacity, vocab, depth: 0, started };
        let measured = bench.measure().map(|()| bench.table);
        // The caller may have left.
        drop(self.reply.send(measured));
    }
}

/// The slot of chunks; rows are in the following ones.
const PROMPT: u32 = 0;
const SAVED: HostCopyId = HostCopyId(0);
/// Tokens computed at once when a slot is filled.
const FILL: u32 = 512;
/// The largest depth at which rows and a chunk are measured together on a CPU.
const MIXED_DEPTH: u32 = 512;

struct CostBenchmark<'p, M> {
    model: M,
    table: CostTable,
    plan: &'p CostPlan,
    capacity: &'p Capacity,
    /// Tokens of the vocabulary.
    vocab: u32,
    /// Tokens that each slot in use holds before a call.
    depth: u32,
    started: Instant,
}

impl<M: GenerationModel> CostBenchmark<'_, M> {
    fn measure(&mut self) -> Result<(), StepError> {
        let plan = self.plan;
        for &depth in &plan.depths {
            self.depth = depth;
            // A slot that cannot be trimmed to this depth cannot be measured there again.
            let cuts_back = depth == 0 || self.capacity.kv.rewinds;
            if !cuts_back || !self.fits(0, 1) || self.is_over() {
                break;
            }
            self.fill()?;
            let mixes = self.mixes();
            for &chunk in &plan.chunks {
                self.sample(0, chunk)?;
            }
            let mut filled = 0;
            for &rows in &plan.rows {
                if !self.fits(rows, 0) || self.is_over() {
                    break;
                }
                for slot in filled + 1..=rows {
                    self.copy_to(slot)?;
                }
                filled = rows;
                let with_logits = self.sample(rows, 0)?;
                if let Some(ms) = with_logits.filter(|_| depth == plan.depths[0] && rows > 1) {
                    self.logits(rows, ms)?;
                }
                for &chunk in plan.chunks.iter().filter(|_| mixes) {
                    self.sample(rows, chunk)?;
                }
            }
            for slot in PROMPT..=filled {
                self.change(KvOp::Trim { slot: SlotId(slot), keep: 0 })?;
            }
            if depth > 0 {
                self.change(KvOp::Forget { copy: SAVED })?;
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.plan.time_limit.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    /// Whether a batch has room for these rows and this chunk, and the KV cache for their cells: each row's slot has a
    /// copy of the sequence, and the chunk's slot has one more.
    fn fits(&self, rows: u32, chunk: u32) -> bool {
        let Capacity { kv, batch_tokens, .. } = self.capacity;
        let in_slot = self.depth.saturating_add(chunk.max(1));
        let in_pool = u64::from(rows) * u64::from(self.depth + 1) + u64::from(self.depth + chunk);
        rows + chunk <= *batch_tokens
            && rows < kv.slots
            && in_slot <= kv.slot_tokens
            && (!kv.shares || in_pool <= kv.cells.into())
    }

    /// Whether calls are measured that hold rows and a chunk. With a stream for each slot llama.cpp would cut
    /// them itself; where attention computes blocks, deep mixed calls take minutes and the scheduler makes none.
    fn mixes(&self) -> bool {
        let Capacity { kv, block, .. } = self.capacity;
        kv.shares && (*block == 1 || self.depth <= MIXED_DEPTH)
    }

    fn change(&mut self, op: KvOp) -> Result<(), StepError> {
        self.model.change(op)
    }

    /// Computes tokens in the slot of chunks, up to the depth, and keeps a copy for the other slots.
    fn fill(&mut self) -> Result<(), StepError> {
        let depth = self.depth;
        let most = FILL.min(self.capacity.batch_tokens).max(1);
        for start in (0..depth).step_by(most as usize) {
            let end = depth.min(start + most);
            let rows: Vec<Row> = (start..end).map(|pos| self.row(PROMPT, pos, end)).collect();
            self.model.step(&rows, &[rows.len()])?;
        }
        if depth > 0 {
            self.change(KvOp::Save { slot: SlotId(PROMPT), copy: SAVED })?;
        }
        Ok(())
    }

    /// Fills a slot with a copy of the sequence.
    fn copy_to(&mut self, slot: u32) -> Result<(), StepError> {
        if self.depth == 0 {
            return Ok(());
        }
        self.change(KvOp::Restore { copy: SAVED, slot: SlotId(slot), keep: self.depth })
    }

    /// Measures one kind of call, in milliseconds, if it fits and there is time.
    fn sample(&mut self, rows: u32, chunk: u32) -> Result<Option<f64>, StepError> {
        if !self.fits(rows, chunk) || self.is_over() {
            return Ok(None);
        }
        let end = self.depth + chunk;
        let mut all: Vec<Row> = (self.depth..end).map(|pos| self.row(PROMPT, pos, end)).collect();
        all.extend(self.decode_rows(rows));
        let ms = self.time(&all)?;
        self.table.samples.push(CostSample { rows, chunk, depth: self.depth, ms });
        Ok(Some(ms))
    }

    /// Measures a call with logits for one row alone; with logits for all rows it took `with` milliseconds.
    fn logits(&mut self, rows: u32, with: f64) -> Result<(), StepError> {
        let mut all = self.decode_rows(rows);
        all.iter_mut().skip(1).for_each(|row| row.logits = false);
        let ms = with - self.time(&all)?;
        self.table.logits.push(LogitsCost { rows, ms });
        Ok(())
    }

    fn decode_rows(&self, rows: u32) -> Vec<Row> {
        (1..=rows).map(|slot| self.row(slot, self.depth, self.depth + 1)).collect()
    }

    /// A row whose token depends on its slot and position; the last one of its slot has logits.
    fn row(&self, slot: u32, pos: u32, end: u32) -> Row {
        Row {
            token: (100 + (slot * 31 + pos * 7) % 1000) % self.vocab,
            pos,
            slot,
            logits: pos + 1 == end,
        }
    }

    /// The median time of a call, in milliseconds. Afterwards the slots are as before.
    fn time(&mut self, rows: &[Row]) -> Result<f64, StepError> {
        let mut times = Vec::new();
        for _ in 0..self.plan.repeats.max(1) {
            if !times.is_empty() && self.is_over() {
                break;
            }
            times.push(self.model.step(rows, &[rows.len()])?.iter().sum::<Duration>());
            let mut used: Vec<u32> = rows.iter().map(|row| row.slot).collect();
            used.dedup();
            for slot in used {
                self.change(KvOp::Trim { slot: SlotId(slot), keep: self.depth })?;
            }
        }
        times.sort_unstable();
        Ok(times[times.len() / 2].as_secs_f64() * 1e3)
    }
}
