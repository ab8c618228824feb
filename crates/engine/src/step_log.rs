//! Logs each step at trace level, and once that the target cannot be kept.

use std::time::Duration;

use forebay_scheduler::{BudgetReason, CallKind, ItlTarget, Step};

/// Steps above the target until that is logged: the first ones measure what chunks cost.
const STEPS: u32 = 8;

/// Logs steps.
#[derive(Debug)]
pub(crate) struct StepLog {
    target: ItlTarget,
    /// Steps whose chunks exceeded the target so far, up to [`STEPS`].
    over: u32,
}

impl StepLog {
    pub(crate) fn new(target: ItlTarget) -> Self {
        Self { target, over: 0 }
    }

    /// Logs what a step held and why, how long it was expected to take and how long it took.
    pub(crate) fn log(&mut self, step: &Step, took: &[Duration]) {
        self.over_target(step, took);
        if !tracing::enabled!(target: "forebay::step", tracing::Level::TRACE) {
            return;
        }
        let sum = |rows: bool| {
            let calls = step.calls.iter().zip(took);
            let of = calls.filter(|(call, _)| (call.kind == CallKind::Rows) == rows);
            of.fold((0, Duration::ZERO, Duration::ZERO), |sum, (call, took)| {
                (sum.0 + call.load.tokens, sum.1 + *took, sum.2 + call.predicted)
            })
        };
        let (decode, decode_took, decode_expected) = sum(true);
        let (prefill, prefill_took, prefill_expected) = sum(false);
        tracing::trace!(
            target: "forebay::step",
            decode,
            decode_us = decode_took.as_micros(),
            decode_expected_us = decode_expected.as_micros(),
            prefill,
            prefill_us = prefill_took.as_micros(),
            prefill_expected_us = prefill_expected.as_micros(),
            prompts = step.spans.iter().filter(|w| w.tokens > 1).count(),
            calls = step.calls.len(),
            drafts = step.spans.iter().map(|w| w.drafts).sum::<u32>(),
            kv_ops = step.kv.len(),
            why = ?step.budget_reason,
        );
    }

    /// Logs once that this machine cannot compute prompts efficiently within the target.
    fn over_target(&mut self, step: &Step, took: &[Duration]) {
        let (ItlTarget::Held(target) | ItlTarget::Adaptive(target)) = self.target;
        let time = took.iter().sum::<Duration>();
        if step.budget_reason != BudgetReason::Efficient || self.over >= STEPS || time <= target {
            return;
        }
        self.over += 1;
        if self.over < STEPS {
            return;
        }
        let step_ms = time.as_millis();
        match self.target {
            ItlTarget::Held(target) => tracing::info!(
                itl_target_ms = target.as_millis(),
                step_ms,
                "an efficient chunk takes longer than itl_target_ms leaves: there are steps without prompts in between, unless decode rows alone take as long"
            ),
            ItlTarget::Adaptive(target) => tracing::info!(
                usual_target_ms = target.as_millis(),
                step_ms,
                "steps with prompts take longer than usual, for efficiency; itl_target_ms sets a limit"
            ),
        }
    }
}
