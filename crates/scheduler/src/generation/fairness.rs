//! What principals with many sequences leave to those with few.
//!
//! AdmittedCounts are shared by admission. Here the steps are: where principals run beside each other, the
//! rows and prompts of those with more sequences than others are left out until time for them is
//! saved up, a part of what the others' rows take. Then all of their rows go at once: a wide step
//! costs little more than a narrow one. Where rows cost next to nothing, as on a GPU, they are in
//! every step. With one principal, or where all have alike, nothing of this applies.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Scheduler;
use super::allowance::{Allowance, PROMPTS, ROWS};
use super::sequence::ScheduledSequence;
use crate::ids::{Principal, SeqId};
use crate::step::TokenSpan;
use crate::step_budget::StepBudget;

/// Principals beside each other, some of which have more sequences than others.
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
    /// Whether some of the principals that run have more sequences, waiting or running, than others.
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
        // Background sequences keep their slot, but take no part while others run.
        counts.retain(|_, count| *count > 0);
        let fewest = counts.values().copied().min()?;
        let heavy: Vec<_> = counts.iter().filter(|&(_, &n)| n > fewest).map(|(&p, _)| p).collect();
        (!heavy.is_empty()).then_some(Contention { heavy })
    }

    /// Leaves out the rows of those who have more, unless time for them is saved up.
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
        self.allowance.prompts += base.mul_f64(PROMPTS);
        self.allowance.rows += base.mul_f64(ROWS);
        match self.allowance.rows.checked_sub(cost) {
            Some(left) => {
                self.allowance.rows = left.min(cost);
                rows
            }
            None => light,
        }
    }

    /// The prompts that may be computed beside these rows: those of principals with more sequences
    /// than others only once the time is saved up for one.
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

    /// Takes what the prompts of those who have more used of the time saved up.
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
