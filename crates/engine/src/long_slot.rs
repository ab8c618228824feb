//! The long slot: a context besides the one with the standard slots, made when it is first needed.
//!
//! With a split KV cache each slot has an equal share of the cells. A request that outgrows its share continues here,
//! with as many cells as all shares together. Both contexts use the same host tier, which carries sequences over.

use std::time::Duration;

use forebay_scheduler::{HostCopyId, KvOp, SlotId};

use crate::model::{GenerationModel, Row, StepError};

/// A model whose last slot has a context of its own.
pub(crate) struct LongSlotModel<M, F> {
    standard: M,
    long: Option<M>,
    make: F,
    slot: SlotId,
    /// For each row of the last step: whether it is in the long slot, and its index in that context's step.
    rows: Vec<(bool, usize)>,
}

impl<M: GenerationModel, F: FnMut() -> Result<M, StepError>> LongSlotModel<M, F> {
    /// `slot` is the long one; `make` makes the context whose slot 0 it is.
    pub(crate) fn new(standard: M, slot: SlotId, make: F) -> Self {
        Self { standard, long: None, make, slot, rows: Vec::new() }
    }
}

impl<M: GenerationModel, F: FnMut() -> Result<M, StepError>> GenerationModel
    for LongSlotModel<M, F>
{
    fn open(&mut self, slot: SlotId) -> Result<(), StepError> {
        if slot == self.slot && self.long.is_none() {
            self.long = Some((self.make)()?);
        }
        Ok(())
    }

    /// A call has rows of the long slot alone, or none.
    fn step(&mut self, rows: &[Row], calls: &[usize]) -> Result<Vec<Duration>, StepError> {
        let mut parts = [(Vec::with_capacity(rows.len()), Vec::new()), (Vec::new(), Vec::new())];
        let mut is_long_call = Vec::with_capacity(calls.len());
        self.rows.clear();
        let mut rest = rows.iter();
        for &count in calls {
            let mut call = rest.by_ref().take(count).peekable();
            let is_long = call.peek().is_some_and(|row| row.slot == self.slot.0);
            is_long_call.push(is_long);
            let (rows, counts) = &mut parts[usize::from(is_long)];
            counts.push(count);
            for &row in call {
                self.rows.push((is_long, rows.len()));
                rows.push(Row { slot: if is_long { 0 } else { row.slot }, ..row });
            }
        }
        let [standard, long] = parts;
        let mut took = [Vec::new().into_iter(), Vec::new().into_iter()];
        if !standard.0.is_empty() {
            took[0] = self.standard.step(&standard.0, &standard.1)?.into_iter();
        }
        if let (false, Some(model)) = (long.0.is_empty(), &mut self.long) {
            took[1] = model.step(&long.0, &long.1)?.into_iter();
        }
        let each = is_long_call.into_iter().map(|is_long| took[usize::from(is_long)].next());
        Ok(each.map(Option::unwrap_or_default).collect())
    }

    fn logits(&self, index: usize) -> &[f32] {
        match (self.rows[index], &self.long) {
            ((true, row), Some(long)) => long.logits(row),
            ((_, row), _) => self.standard.logits(row),
        }
    }

    fn change(&mut self, op: KvOp) -> Result<(), StepError> {
        let there = SlotId(0);
        let (is_long, op) = match op {
            KvOp::Trim { slot, keep } if slot == self.slot => {
                (true, KvOp::Trim { slot: there, keep })
            }
            KvOp::Save { slot, copy } if slot == self.slot => {
                (true, KvOp::Save { slot: there, copy })
            }
            KvOp::Restore { copy, slot, keep } if slot == self.slot => {
                (true, KvOp::Restore { copy, slot: there, keep })
            }
            other => (false, other),
        };
        match (is_long, &mut self.long) {
            (false, _) => self.standard.change(op),
            (true, Some(long)) => long.change(op),
            // The context was not made, so the slot is empty.
            (true, None) => Ok(()),
        }
    }

    fn copy_bytes(&self, copy: HostCopyId) -> Option<u64> {
        let long = || self.long.as_ref().and_then(|long| long.copy_bytes(copy));
        self.standard.copy_bytes(copy).or_else(long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its logits are the tokens of its rows; it counts what is changed.
    #[derive(Default)]
    struct Echo {
        rows: Vec<[f32; 1]>,
        changes: usize,
    }

    impl GenerationModel for Echo {
        fn step(&mut self, rows: &[Row], calls: &[usize]) -> Result<Vec<Duration>, StepError> {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let echo = |row: &Row| [row.token as f32 + 100.0 * row.slot as f32];
            self.rows = rows.iter().map(echo).collect();
            Ok(calls.iter().map(|&rows| Duration::from_millis(rows as u64)).collect())
        }

        fn logits(&self, index: usize) -> &[f32] {
            &self.rows[index]
        }

        fn change(&mut self, _: KvOp) -> Result<(), StepError> {
            self.changes += 1;
            Ok(())
        }

        fn copy_bytes(&self, _: HostCopyId) -> Option<u64> {
            None
        }
    }

    fn row(token: u32, slot: u32) -> Row {
        Row { token, pos: 0, slot, logits: true }
    }

    #[test]
    fn rows_and_changes_go_to_whom_they_belong() {
        let mut model = LongSlotModel::new(Echo::default(), SlotId(2), || Ok(Echo::default()));
        model.open(SlotId(1)).unwrap();
        assert!(model.long.is_none(), "made when it is needed, not before");
        model.open(SlotId(2)).unwrap();
        let rows = [row(1, 0), row(4, 1), row(2, 2), row(3, 1)];
        let took = model.step(&rows, &[2, 1, 1]).unwrap();
        assert_eq!(took, [2, 1, 1].map(Duration::from_millis));
        let logits: Vec<f32> = (0..4).map(|i| model.logits(i)[0]).collect();
        assert_eq!(logits, [1.0, 104.0, 2.0, 103.0]);
        model.change(KvOp::Trim { slot: SlotId(2), keep: 0 }).unwrap();
        model.change(KvOp::Trim { slot: SlotId(0), keep: 0 }).unwrap();
        assert_eq!((model.standard.changes, model.long.unwrap().changes), (1, 1));
    }

    #[test]
    fn without_memory_only_the_long_slot_is_missing() {
        let none = || Err(StepError("no memory".to_owned()));
        let mut model = LongSlotModel::new(Echo::default(), SlotId(2), none);
        assert!(model.open(SlotId(2)).is_err());
        let copy = HostCopyId(0);
        model.change(KvOp::Restore { copy, slot: SlotId(2), keep: 5 }).unwrap();
        model.step(&[row(1, 0)], &[1]).unwrap();
        assert_eq!(model.logits(0), [1.0]);
    }
}
