//! A small simulated engine: it runs what `plan` says and checks each step against the rules.

use std::collections::BTreeSet;

use super::*;
use crate::call_load::CallLoad;

/// How long each call takes on a slow machine.
pub(super) fn took(step: &Step) -> Vec<Duration> {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let time = |CallLoad { tokens, depth }: CallLoad| {
        Duration::from_secs_f64(8e-3 + 4e-3 * f64::from(tokens) + 4e-7 * depth as f64)
    };
    step.calls.iter().map(|call| time(call.load)).collect()
}

/// A model that says what the tokens so far say: their sum.
pub(super) struct Engine {
    pub(super) scheduler: Scheduler,
    limits: SchedulerLimits,
    requests: BTreeMap<RequestId, Request>,
    /// What each sequence has generated.
    texts: BTreeMap<SeqId, Vec<u32>>,
    slots: BTreeMap<SlotId, Vec<u32>>,
    copies: BTreeMap<HostCopyId, Vec<u32>>,
    /// Whose tokens they are.
    salts: (BTreeMap<SlotId, Salt>, BTreeMap<HostCopyId, Salt>),
    /// Drafts offered for each row; every third one is wrong.
    pub(super) drafts: Option<u32>,
    /// Whether every fifth token brings the next ones with it.
    pub(super) forces: bool,
    pub(super) computed: u32,
    pub(super) steps: usize,
}

/// What a slot's state takes in host memory: a recurrent one, a window, and all that attention sees.
fn state_bytes(tokens: &[Token]) -> u64 {
    2000 + 20 * tokens.len().min(50) as u64 + 4 * tokens.len() as u64
}

fn next(tokens: &[Token]) -> u32 {
    tokens.iter().fold(7_u32, |sum, &t| sum.wrapping_mul(31).wrapping_add(t)) % 1000
}

impl Engine {
    pub(super) fn new(limits: SchedulerLimits) -> Self {
        Self {
            scheduler: Scheduler::new(limits),
            limits,
            requests: BTreeMap::new(),
            texts: BTreeMap::new(),
            slots: BTreeMap::new(),
            copies: BTreeMap::new(),
            salts: (BTreeMap::new(), BTreeMap::new()),
            drafts: None,
            forces: false,
            computed: 0,
            steps: 0,
        }
    }

    /// Submits what is not refused.
    pub(super) fn submit(&mut self, requests: &[Request]) {
        for request in requests {
            self.scheduler.submit(request).unwrap();
            self.requests.insert(request.id, request.clone());
        }
    }

    /// Runs steps until nothing is left. Returns how many tokens each sequence generated.
    pub(super) fn run(&mut self, max_steps: usize) -> BTreeMap<SeqId, u32> {
        for _ in 0..max_steps {
            let step = self.scheduler.plan();
            if step.spans.is_empty() {
                self.change(&step);
                assert_eq!(self.scheduler.waiting(), 0, "sequences are queued and nothing runs");
                let texts = self.texts.iter();
                return texts.map(|(&seq, t)| (seq, u32::try_from(t.len()).unwrap())).collect();
            }
            self.step(&step);
        }
        panic!("not finished after {max_steps} steps");
    }

    /// A step that does not work: its slots hold anything.
    pub(super) fn fail(&mut self, step: &Step) {
        self.change(step);
        for span in &step.spans {
            self.slots.entry(span.slot).or_default().push(u32::MAX);
            self.scheduler.discard(span.seq.request);
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        self.change(step);
        self.check(step);
        for span in &step.spans {
            let all = self.all_tokens(span.seq);
            let cells = self.slots.entry(span.slot).or_default();
            let salt = self.requests[&span.seq.request].salt;
            let held = self.salts.0.insert(span.slot, salt);
            assert!(
                cells.is_empty() || held == Some(salt),
                "{span:?} continues under another salt"
            );
            assert_eq!(*cells, all[..span.start as usize], "the slot holds what came before");
            let sure = (span.start + span.tokens - span.drafts) as usize;
            cells.extend_from_slice(&all[span.start as usize..sure]);
            let mut text = all[..sure].to_vec();
            for i in 0..span.drafts {
                let wrong = u32::from((self.steps + i as usize).is_multiple_of(3));
                text.push(next(&text) + wrong);
            }
            cells.extend_from_slice(&text[sure..]);
            self.computed += span.tokens - span.drafts;
        }
        let cells: BTreeSet<&[u32]> = self.slots.values().map(Vec::as_slice).collect();
        assert!(!cells.is_empty() || step.spans.is_empty());
        self.scheduler.complete_step(step, &took(step));
        self.steps += 1;
        for span in step.spans.iter().filter(|w| w.output.samples()) {
            self.sample(span);
        }
    }

    /// Chooses tokens until one is not what was drafted.
    fn sample(&mut self, span: &TokenSpan) {
        let drafted: Vec<u32> = {
            let held = &self.slots[&span.slot];
            held[held.len() - span.drafts as usize..].to_vec()
        };
        let new = self.requests[&span.seq.request].max_new_tokens;
        for i in 0..=span.drafts as usize {
            let token = next(&self.all_tokens(span.seq));
            let text = self.texts.entry(span.seq).or_default();
            text.push(token);
            let right = drafted.get(i) == Some(&token);
            if u32::try_from(text.len()).unwrap() == new {
                return self.scheduler.finish(span.seq);
            }
            if right {
                self.scheduler.accept_draft(span.seq, token);
            } else {
                self.scheduler.append_token(span.seq, token);
                if self.forces && token.is_multiple_of(5) && !self.force(span.seq, new) {
                    return;
                }
                break;
            }
        }
        if let Some(drafts) = self.drafts {
            self.scheduler.offer_drafts(span.seq, drafts, 0.9);
        }
    }

    /// Adds up to 40 tokens at once. Returns whether the sequence goes on.
    fn force(&mut self, seq: SeqId, new: u32) -> bool {
        for _ in 0..40 {
            let token = next(&self.all_tokens(seq));
            let text = self.texts.entry(seq).or_default();
            text.push(token);
            if u32::try_from(text.len()).unwrap() == new {
                self.scheduler.finish(seq);
                return false;
            }
            self.scheduler.append_token(seq, token);
            if token.is_multiple_of(7) {
                break;
            }
        }
        true
    }

    fn all_tokens(&self, seq: SeqId) -> Vec<u32> {
        let mut all = self.requests[&seq.request].prompt.to_vec();
        all.extend(self.texts.get(&seq).into_iter().flatten());
        all
    }

    fn change(&mut self, step: &Step) {
        let rewinds = self.limits.kv.rewinds;
        for &op in &step.kv {
            match op {
                KvOp::Trim { slot, keep } => {
                    let cells = self.slots.entry(slot).or_default();
                    let keep = keep as usize;
                    assert!(rewinds || keep == 0 || keep >= cells.len(), "{op:?}");
                    cells.truncate(keep);
                }
                KvOp::Copy { from, to, keep } => {
                    let all = self.slots[&from].clone();
                    self.salts.0.insert(to, self.salts.0[&from]);
                    self.put(to, &all, keep);
                }
                KvOp::Save { slot, copy } => {
                    self.salts.1.insert(copy, self.salts.0[&slot]);
                    assert!(self.copies.insert(copy, self.slots[&slot].clone()).is_none());
                }
                KvOp::Restore { copy, slot, keep } => {
                    let all = self.copies[&copy].clone();
                    self.salts.0.insert(slot, self.salts.1[&copy]);
                    self.put(slot, &all, keep);
                }
                KvOp::Forget { copy } => assert!(self.copies.remove(&copy).is_some()),
            }
        }
        let mut new = BTreeSet::new();
        for &op in &step.kv {
            if let KvOp::Save { copy, .. } = op {
                new.insert(copy);
                let tokens = self.copies.get(&copy);
                self.scheduler.record_copy_size(copy, tokens.map(|tokens| state_bytes(tokens)));
            }
        }
        if self.limits.kv.rewinds {
            let tokens: usize = self.copies.values().map(Vec::len).sum();
            assert!(tokens <= self.limits.kv.saved_tokens as usize);
        } else {
            // How large a new copy is was a guess: what is too much goes with the next step.
            let known = self.copies.iter().filter(|(copy, _)| !new.contains(copy));
            let bytes: u64 = known.map(|(_, tokens)| state_bytes(tokens)).sum();
            assert!(bytes <= self.limits.kv.saved_bytes, "{bytes} bytes");
        }
    }

    fn put(&mut self, slot: SlotId, all: &[Token], keep: u32) {
        let keep = keep as usize;
        assert!(self.limits.kv.rewinds || keep == all.len(), "a part of what cannot be cut");
        let cells = self.slots.entry(slot).or_default();
        assert!(cells.is_empty(), "{slot:?} is not empty");
        cells.extend_from_slice(&all[..keep]);
    }

    /// Cells in use, equal beginnings once where they can be shared. What two computed on their own
    /// is counted once here, so this is a lower bound.
    fn cells(&self) -> usize {
        let mut prefixes = BTreeSet::new();
        let mut count = 0;
        let long = self.limits.kv.long_slot();
        for held in self.slots.iter().filter(|(s, _)| Some(**s) != long).map(|(_, held)| held) {
            for len in 1..=held.len() {
                if !self.limits.kv.shares || prefixes.insert(held[..len].to_vec()) {
                    count += 1;
                }
            }
        }
        count
    }

    fn check(&self, step: &Step) {
        let total: u32 = step.spans.iter().map(|w| w.tokens).sum();
        assert!(total <= self.limits.batch_tokens, "{step:?}");
        let mut slots: BTreeMap<SlotId, (SeqId, u32)> = BTreeMap::new();
        for span in &step.spans {
            let after = slots.insert(span.slot, (span.seq, span.start + span.tokens));
            // A prompt that lends a token to the rows goes on in its chunk.
            assert!(after.is_none_or(|lent| lent == (span.seq, span.start)), "{step:?}");
        }
        let seqs: BTreeSet<_> = step.spans.iter().map(|w| w.seq).collect();
        assert_eq!(seqs.len(), slots.len(), "a sequence is in one slot");
        for call in &step.calls {
            let of: BTreeSet<_> = step.spans[call.spans.clone()].iter().map(|w| w.slot).collect();
            assert_eq!(of.len(), call.spans.len(), "a slot is in a call once");
        }
        let kv = &self.limits.kv;
        let usual = slots.keys().filter(|slot| Some(**slot) != kv.long_slot());
        assert!(usual.count() <= self.limits.parallel as usize);
        for span in &step.spans {
            assert!(span.start + span.tokens <= kv.capacity(span.slot), "{span:?}");
        }
        if self.steps.is_multiple_of(16) {
            let long = step.spans.iter().filter(|w| Some(w.slot) == kv.long_slot());
            let long: u32 = long.map(|w| w.tokens).sum();
            let cells = self.cells() + (total - long) as usize;
            assert!(cells <= self.limits.kv.cells as usize, "{cells} cells");
        }
    }
}
