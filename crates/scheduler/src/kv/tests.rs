use super::*;

const LIMITS: KvLimits = KvLimits {
    slots: 3,
    cells: 1000,
    slot_tokens: 1000,
    long_tokens: 0,
    shares: true,
    rewinds: true,
    parked_tokens: 1000,
    saved_tokens: 0,
    saved_bytes: 0,
    checkpoint_every: 0,
};

fn text(from: u32, len: u32) -> Vec<u32> {
    (from..from + len).collect()
}

/// Runs a prompt to its end and parks it.
fn run(kv: &mut KvCache, salt: Salt, tokens: &[Token]) -> SlotAssignment {
    let begun = kv.assign(salt, tokens, most(count(tokens) - 1)).unwrap();
    kv.extend(begun.slot, &tokens[begun.cached as usize..]);
    kv.park(begun.slot);
    begun
}

fn most(tokens: u32) -> ReuseLimit {
    ReuseLimit { tokens, multiple: 1 }
}

fn count(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap()
}

#[test]
fn a_conversation_continues_in_its_slot() {
    let mut kv = KvCache::new(LIMITS);
    assert_eq!(run(&mut kv, Salt(0), &text(0, 40)).reuse, Reuse::Unseen);
    let next = run(&mut kv, Salt(0), &text(0, 80));
    assert_eq!(next, SlotAssignment { slot: SlotId(0), cached: 40, reuse: Reuse::Device });
    assert_eq!(kv.parked(), 80);
    assert_eq!(
        run(&mut kv, Salt(0), &text(0, 80)).cached,
        79,
        "the last token's logits are missing"
    );
}

#[test]
fn no_prefix_is_found_under_another_salt() {
    let mut kv = KvCache::new(LIMITS);
    run(&mut kv, Salt(1), &text(0, 40));
    assert_eq!(run(&mut kv, Salt(2), &text(0, 40)).cached, 0);
    assert_eq!(kv.longest_reusable(Salt(3), &text(0, 40), most(39)), 0);
    assert_eq!(run(&mut kv, Salt(1), &text(0, 41)).cached, 40);
}

#[test]
fn cells_are_shared_or_copied() {
    for shares in [true, false] {
        let mut kv = KvCache::new(KvLimits { shares, ..LIMITS });
        let first = kv.assign(Salt(0), &text(0, 100), most(99)).unwrap();
        kv.extend(first.slot, &text(0, 100));
        let second = kv.assign(Salt(0), &[text(0, 70), text(500, 10)].concat(), most(79)).unwrap();
        assert_eq!((second.cached, second.reuse), (70, Reuse::Device));
        assert!(kv.ops.contains(&KvOp::Copy { from: first.slot, to: second.slot, keep: 70 }));
        assert_eq!(kv.pinned(), if shares { 100 } else { 170 });
    }
}

#[test]
fn the_minimum_copy_follows_the_size_of_slots() {
    for (slot_tokens, head, cached) in
        [(1000, 24, 24), (1000, 15, 0), (8192, 24, 0), (8192, 70, 70), (32_768, 70, 0)]
    {
        let mut kv =
            KvCache::new(KvLimits { shares: false, slot_tokens, cells: 100_000, ..LIMITS });
        run(&mut kv, Salt(0), &text(0, 200));
        let second = run(&mut kv, Salt(0), &[text(0, head), text(500, 100)].concat());
        assert_eq!(second.cached, cached, "{head} of {slot_tokens}");
    }
}

#[test]
fn without_trimming_all_or_nothing_is_reused() {
    let mut kv = KvCache::new(KvLimits { rewinds: false, ..LIMITS });
    run(&mut kv, Salt(0), &text(0, 40));
    let parted = run(&mut kv, Salt(0), &[text(0, 35), text(500, 30)].concat());
    assert_eq!((parted.cached, parted.reuse), (0, Reuse::NoRewind));
    assert_eq!(run(&mut kv, Salt(0), &text(0, 50)).cached, 40);
    assert_eq!(
        run(&mut kv, Salt(0), &text(0, 50)).cached,
        0,
        "its last token cannot be taken back"
    );
}

#[test]
fn the_lowest_score_is_evicted() {
    let mut kv = KvCache::new(LIMITS);
    run(&mut kv, Salt(0), &text(0, 100));
    run(&mut kv, Salt(0), &text(1000, 100));
    run(&mut kv, Salt(0), &text(2000, 100));
    // The first is the oldest, but was used twice.
    run(&mut kv, Salt(0), &text(0, 110));
    run(&mut kv, Salt(0), &text(3000, 100));
    assert_eq!(kv.longest_reusable(Salt(0), &text(0, 110), most(110)), 110);
    assert_eq!(kv.longest_reusable(Salt(0), &text(1000, 100), most(100)), 0);
    assert_eq!(run(&mut kv, Salt(0), &text(1000, 100)).reuse, Reuse::Evicted);
}

#[test]
fn parked_cells_are_bounded_and_make_room_for_active_ones() {
    let mut kv = KvCache::new(KvLimits { parked_tokens: 250, ..LIMITS });
    for from in 0..3 {
        run(&mut kv, Salt(0), &text(from * 1000, 100));
    }
    assert_eq!((kv.parked(), kv.evictions()), (200, 1));
    assert!(kv.make_room(850));
    assert_eq!(kv.parked(), 100);
    assert!(!kv.make_room(1001));
}

#[test]
fn evicted_slots_are_copied_to_host_memory_and_restored() {
    let mut kv = KvCache::new(KvLimits { parked_tokens: 100, saved_tokens: 250, ..LIMITS });
    for from in 0..3 {
        run(&mut kv, Salt(0), &text(from * 1000, 100));
    }
    assert_eq!((kv.parked(), kv.host_tokens()), (100, 200));
    kv.take_ops(true);
    let back = run(&mut kv, Salt(0), &[text(0, 90), text(9000, 30)].concat());
    assert_eq!((back.cached, back.reuse), (90, Reuse::Host));
    let ops = kv.take_ops(true);
    assert!(ops.contains(&KvOp::Restore { copy: HostCopyId(0), slot: back.slot, keep: 90 }));
    // Host memory keeps its own budget as well: the one that was not used goes.
    assert!(ops.contains(&KvOp::Forget { copy: HostCopyId(1) }), "{ops:?}");
    assert!(kv.host_tokens() <= 250, "{}", kv.host_tokens());
}

#[test]
fn gaps_between_active_slots_are_filled_first() {
    let mut kv = KvCache::new(KvLimits { slots: 8, shares: false, ..LIMITS });
    let begin = |kv: &mut KvCache, from: u32| {
        let tokens = text(from, 100);
        let begun = kv.assign(Salt(0), &tokens, most(99)).unwrap();
        kv.extend(begun.slot, &tokens[begun.cached as usize..]);
        begun.slot
    };
    let slots: Vec<SlotId> = (0..8).map(|i| begin(&mut kv, i * 1000)).collect();
    // All but the first four go; what the third slot held was of use more than once.
    for &slot in &slots[4..] {
        kv.park(slot);
    }
    kv.park(slots[2]);
    kv.count_parked_use(slots[2]);
    assert_eq!(begin(&mut kv, 9000), slots[2]);
    // A conversation that is parked apart from the others comes to them.
    kv.park(slots[1]);
    let next = kv.assign(Salt(0), &text(7000, 120), most(119)).unwrap();
    assert_eq!((next.slot, next.cached), (slots[1], 100));
    assert!(kv.ops.contains(&KvOp::Copy { from: slots[7], to: slots[1], keep: 100 }));
}

#[test]
fn a_slot_evicted_for_a_failed_restore_is_not_copied_from() {
    let mut kv =
        KvCache::new(KvLimits { cells: 200, parked_tokens: 200, saved_tokens: 150, ..LIMITS });
    run(&mut kv, Salt(0), &text(0, 100));
    assert!(kv.make_room(150));
    let running = kv.assign(Salt(0), &text(5000, 150), most(149)).unwrap();
    kv.extend(running.slot, &text(5000, 150));
    run(&mut kv, Salt(0), &[text(0, 10), text(9000, 20)].concat());
    assert_eq!((kv.parked(), kv.host_tokens()), (30, 100));
    // Host memory has more of it than the parked sequence, which goes to make room for that: in vain,
    // since the running sequence holds too much.
    let begun = kv.assign(Salt(0), &text(0, 101), most(100)).unwrap();
    assert_eq!((begun.cached, kv.parked()), (0, 0));
    assert!(!kv.take_ops(true).iter().any(|op| matches!(op, KvOp::Copy { .. })));
}

const CHECKPOINTS: KvLimits =
    KvLimits { slots: 8, rewinds: false, saved_bytes: 10_000, checkpoint_every: 100, ..LIMITS };

/// Runs a prompt with a checkpoint at each of its hundreds of tokens.
fn run_with_checkpoints(kv: &mut KvCache, tokens: &[Token]) -> SlotAssignment {
    let begun = kv.assign(Salt(0), tokens, most(count(tokens) - 1)).unwrap();
    let mut at = begun.cached;
    while at < count(tokens) {
        let next = (at + 100 - at % 100).min(count(tokens));
        kv.extend(begun.slot, &tokens[at as usize..next as usize]);
        at = next;
        if at.is_multiple_of(100) {
            kv.checkpoint(begun.slot);
        }
        for op in kv.take_ops(true) {
            if let KvOp::Save { copy, .. } = op {
                let len = kv.copies.len(copy);
                kv.record_copy_size(copy, Some(1000 + u64::from(len)));
            }
        }
    }
    kv.park(begun.slot);
    begun
}

#[test]
fn checkpoints_are_found_by_prompts_with_the_prefix() {
    let mut kv = KvCache::new(CHECKPOINTS);
    run_with_checkpoints(&mut kv, &text(0, 350));
    assert_eq!(kv.host_tokens(), 300, "they share their tokens in the index");
    let parted = run_with_checkpoints(&mut kv, &[text(0, 260), text(500, 90)].concat());
    assert_eq!((parted.cached, parted.reuse), (200, Reuse::Host));
    assert_eq!(kv.longest_reusable(Salt(1), &text(0, 350), most(349)), 0, "another salt");
    assert_eq!(
        kv.known_prefix(Salt(0), &text(0, 400)),
        checkpoints::KnownPrefix { kept: 300, parts: 350 }
    );
}

#[test]
fn checkpoints_are_bounded_and_used_ones_stay() {
    let mut kv = KvCache::new(CHECKPOINTS);
    let held = |kv: &KvCache| {
        kv.copy_scores.keys().map(|&s| 1000 + u64::from(kv.copies.len(s))).sum::<u64>()
    };
    run_with_checkpoints(&mut kv, &text(0, 150));
    for turn in 0..20 {
        let own = text(1000 * (turn + 1), 200);
        let begun = run_with_checkpoints(&mut kv, &[text(0, 100), own].concat());
        assert_eq!(begun.cached, 100, "{turn}");
        assert!(held(&kv) <= 10_000, "{}", held(&kv));
    }
    assert!(held(&kv) > 7_000, "{}", held(&kv));
}

#[test]
fn a_copy_that_failed_or_is_too_large_is_dropped() {
    let mut kv = KvCache::new(CHECKPOINTS);
    for (bytes, kept) in [(None, 0), (Some(20_000), 0), (Some(9000), 1)] {
        let slot = kv.assign(Salt(0), &text(0, 200), most(199)).unwrap().slot;
        kv.extend(slot, &text(0, 200));
        kv.copy_sizes = CopySizes::default();
        kv.checkpoint(slot);
        let saves = kv.take_ops(true).into_iter().filter_map(|op| match op {
            KvOp::Save { copy, .. } => Some(copy),
            _ => None,
        });
        saves.for_each(|copy| kv.record_copy_size(copy, bytes));
        assert_eq!(kv.copy_scores.len(), kept);
        let forgets =
            kv.take_ops(true).iter().filter(|op| matches!(op, KvOp::Forget { .. })).count();
        assert_eq!(forgets, 1 - kept);
        kv.release(slot);
    }
    // One that is known to be too large is not tried.
    assert!(
        checkpoint(&mut kv, 5000, 400, 18_000).is_some(),
        "it may be no larger than that of 200"
    );
    assert_eq!(checkpoint(&mut kv, 6000, 400, 18_000), None);
}

/// Copies a prompt that is computed, which takes so many bytes; `None` where that is not tried.
fn checkpoint(kv: &mut KvCache, from: u32, len: u32, bytes: u64) -> Option<HostCopyId> {
    let slot = kv.assign(Salt(0), &text(from, len), most(len - 1)).unwrap().slot;
    kv.extend(slot, &text(from, len));
    kv.take_ops(true);
    kv.checkpoint(slot);
    let new = kv.take_ops(true).into_iter().find_map(|op| match op {
        KvOp::Save { copy, .. } => Some(copy),
        _ => None,
    });
    new.into_iter().for_each(|copy| kv.record_copy_size(copy, Some(bytes)));
    kv.release(slot);
    assert!(kv.copy_sizes.total <= kv.limits.saved_bytes, "{}", kv.copy_sizes.total);
    new
}

#[test]
fn a_short_copy_is_not_estimated_as_large_as_a_long_one() {
    let mut kv = KvCache::new(CHECKPOINTS);
    for (from, len) in [(0, 800), (2000, 80), (3000, 80)] {
        checkpoint(&mut kv, from, len, 10 * u64::from(len)).unwrap();
    }
    assert_eq!(kv.copy_scores.len(), 3);
    // Where a part of it does not grow.
    let mut kv = KvCache::new(CHECKPOINTS);
    let bytes = |len: u32| 3000 + 2 * u64::from(len);
    for (from, len) in [(0, 900), (2000, 100)] {
        checkpoint(&mut kv, from, len, bytes(len)).unwrap();
    }
    for len in [50, 100, 500, 900, 1000] {
        assert_eq!(kv.copy_sizes.estimate(len, 10_000), bytes(len), "{len}");
    }
}

#[test]
fn a_too_large_copy_does_not_prevent_smaller_ones() {
    let mut kv = KvCache::new(CHECKPOINTS);
    checkpoint(&mut kv, 0, 900, 18_000).unwrap();
    checkpoint(&mut kv, 2000, 300, 6000).unwrap();
    assert_eq!(kv.copy_scores.len(), 1);
    // All of them are as large: only what is much shorter is tried.
    let mut kv = KvCache::new(CHECKPOINTS);
    for (from, len, tried) in
        [(0, 900, true), (2000, 600, false), (3000, 400, true), (4000, 300, false)]
    {
        assert_eq!(checkpoint(&mut kv, from, len, 20_000).is_some(), tried, "{len}");
    }
    // A window that is full grows no more.
    let mut kv = KvCache::new(CHECKPOINTS);
    checkpoint(&mut kv, 0, 250, 4000).unwrap();
    checkpoint(&mut kv, 2000, 900, 4800).unwrap();
    assert_eq!(kv.copy_scores.len(), 2);
}

#[test]
fn a_too_large_copy_is_dropped_before_any_other() {
    let mut kv = KvCache::new(CHECKPOINTS);
    let first = checkpoint(&mut kv, 0, 100, 4000).unwrap();
    let large = checkpoint(&mut kv, 2000, 900, 40_000).unwrap();
    assert!(kv.copy_scores.contains_key(&first) && !kv.copy_scores.contains_key(&large));
}
