//! Tables of costs say what was measured, and something sensible in between.

use std::time::Duration;

use crate::sim::costs::{self, CostTable, Part, UBATCH};

fn rows(count: usize, depth: u32) -> Vec<Part> {
    vec![Part { tokens: 1, depth }; count]
}

fn chunk(tokens: u32, depth: u32) -> Part {
    Part { tokens, depth }
}

#[test]
fn a_made_up_gpu_takes_what_its_rule_says() {
    let gpu = costs::made_up();
    let ms = |parts: &[Part]| gpu.time(parts).as_secs_f64() * 1e3;
    for (parts, expected) in [
        (rows(1, 0), 6.0),
        (rows(32, 1000), 6.0 + 0.032),
        (vec![chunk(512, 0)], 6.0 + 0.07 * 448.0),
        (vec![chunk(512, 4000)], 6.0 + 0.07 * 448.0 + 2.048),
        ([rows(32, 0), vec![chunk(96, 0)]].concat(), 6.0 + 0.07 * 64.0),
        (vec![chunk(64, 0), chunk(32, 0)], 6.0 + 0.07 * 32.0),
        // Two ubatches, the second of which lies deeper.
        (vec![chunk(1024, 0)], 2.0 * (6.0 + 0.07 * 448.0) + 0.512 * 0.512),
    ] {
        let actual = ms(&parts);
        assert!((actual - expected).abs() < 0.02 * expected, "{parts:?}: {actual} for {expected}");
    }
}

#[test]
fn more_and_deeper_takes_longer() {
    for table in costs::all() {
        let block = table.block;
        for depth in [0, 100, 700, 3000] {
            let mut least = Duration::ZERO;
            for count in 1..=40 {
                let time = table.time(&rows(count, depth));
                assert!(time >= least && time > Duration::ZERO, "{} {count} rows", table.name);
                assert!(time <= table.time(&rows(count, depth + 300)));
                least = time;
            }
            // A block may cost less than what is just too short for one.
            let mut least = Duration::ZERO;
            for tokens in (2..=UBATCH).filter(|&tokens| tokens >= block) {
                let time = table.time(&[chunk(tokens, depth)]);
                assert!(time >= least && time > Duration::ZERO, "{} {tokens} tokens", table.name);
                assert!(time <= table.time(&[chunk(tokens, depth + 300)]));
                least = time;
            }
        }
    }
}

#[test]
fn a_call_with_rows_and_a_chunk_takes_longer_than_either() {
    for table in costs::all().into_iter().filter(|table| table.shared) {
        for (count, tokens) in [(1, 64), (4, 128), (8, 512 - 8), (16, 16), (3, 300)] {
            let (rows, chunk) = (rows(count, 400), chunk(tokens, 100));
            let both = table.time(&[&rows[..], &[chunk]].concat());
            let (rows, chunk) = (table.time(&rows), table.time(&[chunk]));
            let name = table.name;
            assert!(both >= rows.max(chunk).mul_f64(0.8), "{name}: {both:?} {rows:?} {chunk:?}");
            // On a CPU, where attention goes through everybody's cells, together they cost more.
            assert!(both <= (rows + chunk).mul_f64(2.0), "{name}: {both:?} {rows:?} {chunk:?}");
        }
    }
}

#[test]
fn a_block_goes_over_the_cells_of_all_sequences_in_it() {
    let tables = costs::all().into_iter().filter(|table| table.shared && table.block > 1);
    let tables: Vec<CostTable> = tables.collect();
    assert!(tables.len() >= 2, "no table of a shared cache on a CPU");
    for table in tables {
        let name = table.name;
        // Two halves of a block: each goes over the cells of both.
        let both = table.time(&[chunk(32, 400), chunk(32, 400)]);
        assert_eq!(both, table.time(&[chunk(64, 800)]), "{name}");
        // Whole blocks: the second does not go over the first one's tokens.
        let apart = table.time(&[chunk(64, 400), chunk(64, 400)]);
        let one = |depth| table.time(&[chunk(128, depth)]);
        assert!(apart < one(400) && apart >= one(360), "{name}: {apart:?}");
    }
}
