//! Fair steps: how principals with different numbers of sequences share the time of steps.
//!
//! Admission shares slots. Here, rows and prompts of principals with more sequences than others are left
//! out of steps until time for them is saved, a part of the time of the others' rows. Then all of their
//! rows take part at once: a wide step costs little more than a narrow one. If rows cost next to nothing,
//! as on a GPU, they take part in every step. With one principal, or equal numbers, none of this applies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Scheduler;
use super::allowance::{Allowance, PROMPT_SHARE, ROW_SHARE};
use super::sequence::ScheduledSequence;
use crate::ids::{Principal, SeqId};
use crate::step::TokenSpan;
use crate::step_budget::StepBudget;

/// The principals with more sequences than another one that is active.
#[derive(Debug)]
pub(super) struct Contention {
    heavy: Vec<Principal>,
}

impl Contention {
    /// Whether a principal has more sequences than another.
    pub(super) fn is_heavy(&self, principal: Principal) -> bool {
        self.heavy.contains(&principal)
    }
}

impl Scheduler {
    /// Finds active principals with more sequences, queued or admitted, than another one.
    pub(super) fn contention(&self) -> Option<Contention> {
        let least = self.least_urgent();
        let running = self.admitted_sequences().filter(|(_, s)| s.slot().is_some());
        let mut counts: BTreeMap<Principal, usize> =
            running.map(|(_, s)| (s.principal, 0)).collect();
        if counts.len() < 2 {
            return None;
        }
        for (&principal, count) in &mut counts {
            *count = self.queue.len_of(principal, least);
        }
        for (_, s) in self.admitted_sequences().filter(|(_, s)| s.priority <= least) {
            counts.entry(s.principal).and_modify(|count| *count += 1);
        }
        // Background sequences keep their slot, but take no part while others are active.
        counts.retain(|_, count| *count > 0);
        let fewest = counts.values().copied().min()?;
        let heavy: Vec<_> = counts.iter().filter(|&(_, &n)| n > fewest).map(|(&p, _)| p).collect();
        (!heavy.is_empty()).then_some(Contention { heavy })
    }

    /// Leaves out rows of heavy principals, unless time for them is saved.
    pub(super) fn fair_rows(
        &mut self,
        rows: Vec<TokenSpan>,
        contention: &Contention,
    ) -> Vec<TokenSpan> {
        let is_heavy = |row: &TokenSpan| {
            self.sequences.get(&row.seq).is_some_and(|s| contention.is_heavy(s.principal))
        };
        let light: Vec<TokenSpan> = rows.iter().filter(|row| !is_heavy(row)).cloned().collect();
        if light.is_empty() {
            self.allowance = Allowance::default();
            return rows;
        }
        let time = |rows: &[TokenSpan]| self.costs.time(rows);
        let base = time(&light);
        let cost = time(&rows).saturating_sub(base);
        self.allowance.prompts += base.mul_f64(PROMPT_SHARE);
        self.allowance.rows += base.mul_f64(ROW_SHARE);
        match self.allowance.rows.checked_sub(cost) {
            Some(left) => {
                self.allowance.rows = left.min(cost);
                rows
            }
            None => light,
        }
    }

    /// The prompts that may be computed beside these rows: those of heavy principals only if time for a
    /// chunk is saved.
    pub(super) fn fair_prompts<'s>(
        &self,
        prompts: Vec<(SeqId, &'s ScheduledSequence)>,
        rows: &[TokenSpan],
        contention: &Contention,
    ) -> Vec<(SeqId, &'s ScheduledSequence)> {
        let light = |s: &ScheduledSequence| !contention.is_heavy(s.principal);
        let of = |row: &TokenSpan| self.sequences.get(&row.seq);
        let is_felt = rows.iter().filter_map(of).any(light);
        let mut allowance = self.allowance.prompts;
        let may = |&(seq, s): &(SeqId, &ScheduledSequence)| {
            if light(s) || !is_felt {
                return true;
            }
            let cost = StepBudget::smallest_chunk_time(
                &self.costs,
                (self.chunk_limit(seq, s), s.computed),
            );
            let saved = allowance >= cost;
            allowance = allowance.saturating_sub(cost);
            saved
        };
        prompts.into_iter().filter(may).collect()
    }

    /// Deducts the time of chunks of heavy principals from what was saved.
    pub(super) fn charge_allowance(
        &mut self,
        chunks: &[TokenSpan],
        contention: Option<&Contention>,
    ) {
        let Some(contention) = contention else {
            self.allowance = Allowance::default();
            return;
        };
        let heavy = chunks.iter().filter(|w| {
            self.sequences.get(&w.seq).is_some_and(|s| contention.is_heavy(s.principal))
        });
        let used: Duration = heavy.map(|w| self.costs.chunk_time(w.tokens, w.start)).sum();
        self.allowance.prompts = self.allowance.prompts.saturating_sub(used);
    }
}
