//! The scheduler, on a simulated machine with times from a cost table.

use std::sync::Arc;
use std::time::Duration;

use forebay_scheduler::{
    KvLimits, Principal, Priority, Request, RequestId, Salt, Scheduler, SchedulerLimits, SeqId,
    Step, TokenSpan,
};

use super::costs::{CostTable, Part};
use super::replay::{Pass, Server};

/// What a slot holds, in tokens.
const SLOT_TOKENS: u32 = 4096;

/// The scheduler and the times of its calls.
#[derive(Debug)]
pub(crate) struct Forebay<'t> {
    table: &'t CostTable,
    scheduler: Scheduler,
}

impl<'t> Forebay<'t> {
    pub(crate) fn new(table: &'t CostTable) -> Self {
        Self { table, scheduler: Scheduler::new(limits(table)) }
    }

    fn time(&self, spans: &[TokenSpan]) -> Duration {
        let parts =
            spans.iter().map(|w| (w.slot.0 as usize, Part { tokens: w.tokens, depth: w.start }));
        let parts: Vec<_> = parts.collect();
        if spans.iter().all(|w| w.tokens == 1) {
            return self.table.time_of_rows(&parts);
        }
        self.table.time(&parts.iter().map(|part| part.1).collect::<Vec<_>>())
    }

    fn rows_alone(&self, step: &Step) -> Duration {
        let rows: Vec<TokenSpan> = step.spans.iter().filter(|w| w.tokens == 1).cloned().collect();
        if rows.is_empty() { Duration::ZERO } else { self.time(&rows) }
    }
}

/// What the engine would say of such a machine.
fn limits(table: &CostTable) -> SchedulerLimits {
    let CostTable { parallel, shared, block, on_cpu, .. } = *table;
    let cells = SLOT_TOKENS * parallel;
    SchedulerLimits {
        parallel,
        kv: KvLimits {
            slots: if shared { (parallel * 4).max(16) } else { parallel },
            cells,
            slot_tokens: SLOT_TOKENS,
            long_tokens: 0,
            shares: shared,
            rewinds: true,
            parked_tokens: if shared && on_cpu { cells / 8 } else { cells },
            // Copies take no time here, so there is no host memory to copy to.
            saved_tokens: 0,
            saved_bytes: 0,
            checkpoint_every: 0,
        },
        batch_tokens: 2048,
        block,
        itl_target: forebay_scheduler::ItlTarget::DEFAULT,
        reproducible: false,
        all_logits_tokens: 64,
        queue: 1000,
    }
}

impl Server for Forebay<'_> {
    fn submit(&mut self, id: u64, prompt: Arc<[u32]>, answer: u32) {
        let request = Request {
            id: RequestId(id),
            prompt,
            salt: Salt(0),
            principal: Principal(0),
            priority: Priority::Normal,
            max_new_tokens: answer,
            choices: 1,
            all_logits: false,
            generated: Vec::new(),
            borders: [].into(),
        };
        self.scheduler.submit(&request).expect("room for all");
    }

    fn step(&mut self) -> Option<Pass> {
        let step = self.scheduler.plan();
        if step.spans.is_empty() {
            return None;
        }
        let calls = step.calls.iter();
        let took: Vec<Duration> = calls.map(|c| self.time(&step.spans[c.spans.clone()])).collect();
        self.scheduler.complete_step(&step, &took);
        let sampled = step.spans.iter().filter(|w| w.output.samples());
        Some(Pass {
            took: took.iter().sum(),
            rows_alone: self.rows_alone(&step),
            sampled: sampled.map(|w| w.seq.request.0).collect(),
        })
    }

    fn sampled(&mut self, id: u64, token: u32, last: bool) {
        let seq = SeqId { request: RequestId(id), choice: 0 };
        if last { self.scheduler.finish(seq) } else { self.scheduler.append_token(seq, token) }
    }
}
