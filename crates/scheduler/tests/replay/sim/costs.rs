//! What decode calls cost: tables that `forebay bench --costs` measured, and a made-up GPU until `costs/gpu.json`
//! has a real one's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

/// Tokens that llama.cpp computes at once; a call with more is cut.
pub(crate) const UBATCH: u32 = 512;

/// How much more than at best a token of an efficient chunk may cost.
const EFFICIENT: f64 = 1.15;

/// One sequence's part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) tokens: u32,
    /// Tokens that the sequence has before.
    pub(crate) depth: u32,
}

/// A chunk of a prompt, and what it costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Efficient {
    pub(crate) tokens: u32,
    pub(crate) time: Duration,
}

/// The times of calls on one machine, for one model and one layout.
#[derive(Debug)]
pub(crate) struct CostTable {
    pub(crate) name: &'static str,
    /// Sequences that run together.
    pub(crate) parallel: u32,
    /// How much faster than the others the machine is: arrivals of scenarios are as much denser.
    pub(crate) pace: f64,
    /// Whether it is a CPU.
    pub(crate) on_cpu: bool,
    /// Whether sequences share one KV stream; else a call holds rows or a prompt's chunk.
    pub(crate) shared: bool,
    /// Tokens that attention computes at once; 1 if that makes no difference.
    pub(crate) block: u32,
    /// Milliseconds by depth, ascending, of each number of rows and tokens of a chunk.
    samples: BTreeMap<(u32, u32), Vec<(f64, f64)>>,
}

/// A file of `forebay bench --costs`.
#[derive(Deserialize)]
struct Recorded {
    shared: bool,
    block: u32,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    rows: u32,
    chunk: u32,
    depth: u32,
    ms: f64,
}

/// The tables.
pub(crate) fn all() -> Vec<CostTable> {
    let recorded = |name, parallel, json: &str| {
        let recorded: Recorded = serde_json::from_str(json).expect("a table of costs");
        CostTable::new(name, parallel, recorded)
    };
    vec![
        recorded("smol-split", 16, include_str!("../../../costs/smol-split.json")),
        recorded("smol-shared", 16, include_str!("../../../costs/smol-shared.json")),
        recorded("qwen-split", 8, include_str!("../../../costs/qwen-split.json")),
        recorded("qwen-shared", 8, include_str!("../../../costs/qwen-shared.json")),
        measured_gpu().map_or_else(made_up, gpu),
    ]
}

fn gpu(costs: Recorded) -> CostTable {
    CostTable { pace: 5.0, on_cpu: false, ..CostTable::new("gpu", 32, costs) }
}

/// The GPU that is made up, whether one was measured or not.
pub(crate) fn made_up() -> CostTable {
    gpu(made_up_gpu())
}

fn measured_gpu() -> Option<Recorded> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/costs/gpu.json");
    match std::fs::read_to_string(path) {
        Ok(json) => Some(serde_json::from_str(&json).expect("a table of costs")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{path}: {error}"),
    }
}

/// A GPU that is bound by memory up to 64 tokens: a call takes 6 ms, 0.07 ms more for each token
/// beyond, and attention 1 us for each token and 1,000 of its depth.
fn made_up_gpu() -> Recorded {
    let mut samples = Vec::new();
    for depth in [0, 512, 2000, 8000] {
        for rows in [0, 1, 2, 4, 8, 16, 32, 48] {
            for chunk in [0, 2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 192, 256, 384, 512] {
                let tokens = f64::from(rows + chunk);
                let attention = 1e-3 * tokens * f64::from(depth) / 1e3;
                let ms = 6.0 + 0.07 * (tokens - 64.0).max(0.0) + attention;
                if tokens > 0.0 {
                    samples.push(Sample { rows, chunk, depth, ms });
                }
            }
        }
    }
    Recorded { shared: true, block: 1, samples }
}

impl CostTable {
    fn new(name: &'static str, parallel: u32, recorded: Recorded) -> Self {
        let Recorded { shared, block, mut samples } = recorded;
        samples.sort_by_key(|s| s.depth);
        let mut by_size: BTreeMap<(u32, u32), Vec<(f64, f64)>> = BTreeMap::new();
        for Sample { rows, chunk, depth, ms } in samples {
            let line = by_size.entry((rows, chunk)).or_default();
            // What lies deeper is never cheaper; where it was measured so, that is noise.
            let least = line.last().map_or(0.0, |&(_, ms)| ms);
            line.push((f64::from(depth), ms.max(least)));
        }
        Self { name, parallel, pace: 1.0, on_cpu: true, shared, block, samples: by_size }
    }

    /// How long a call takes. Its parts of one token are rows, the others make up one chunk.
    pub(crate) fn time(&self, parts: &[Part]) -> Duration {
        let mut ms = 0.0;
        let mut rest: Vec<Part> = parts.to_vec();
        rest.sort_by_key(|part| part.tokens > 1);
        while !rest.is_empty() {
            let (mut room, mut now, mut later) = (UBATCH, Vec::new(), Vec::new());
            for Part { tokens, depth } in rest {
                let fits = tokens.min(room);
                room -= fits;
                now.extend((fits > 0).then_some(Part { tokens: fits, depth }));
                let left = Part { tokens: tokens - fits, depth: depth + fits };
                later.extend((left.tokens > 0).then_some(left));
            }
            ms += self.ubatch_ms(&now);
            rest = later;
        }
        // Whole microseconds, so that the last bits of a logarithm do not matter.
        Duration::from_micros((ms * 1e3).round() as u64)
    }

    /// How long rows take that are in these slots, in ascending order: with a KV stream for each slot, a
    /// call for each group of slots side by side.
    pub(crate) fn time_of_rows(&self, rows: &[(usize, Part)]) -> Duration {
        let joins = |a: &(usize, Part), b: &(usize, Part)| self.shared || a.0 + 1 == b.0;
        let groups = rows.chunk_by(joins);
        let parts = |group: &[(usize, Part)]| group.iter().map(|row| row.1).collect::<Vec<_>>();
        groups.map(|group| self.time(&parts(group))).sum()
    }

    /// The smallest chunk whose tokens cost little more than those of the best one, and its time at
    /// a depth. Its size is that at the deepest that was measured: further down the last bits of
    /// what was would decide.
    pub(crate) fn efficient_chunk(&self, depth: u32) -> Efficient {
        let lines = self.samples.values().filter_map(|line| line.last());
        let measured = lines.map(|&(depth, _)| depth).fold(0.0, f64::max).min(depth.into());
        let per_token = |tokens: u32| self.chunk_ms(tokens, measured) / f64::from(tokens);
        let best = (2..=UBATCH).map(per_token).fold(f64::INFINITY, f64::min);
        let tokens = (2..=UBATCH).find(|&tokens| per_token(tokens) <= best * EFFICIENT);
        let tokens = tokens.unwrap_or(UBATCH);
        Efficient { tokens, time: self.time(&[Part { tokens, depth }]) }
    }

    /// Calls without anything before them, of at most so many rows: rows, tokens of a chunk and
    /// milliseconds, of the sizes that were measured and of that many rows.
    pub(crate) fn calls(&self, most_rows: u32) -> Vec<(u32, u32, f64)> {
        let sizes = |of: fn(&(u32, u32)) -> u32| -> BTreeSet<u32> {
            self.samples.keys().map(of).chain([0]).collect()
        };
        let (mut rows, chunks) = (sizes(|key| key.0), sizes(|key| key.1));
        rows.insert(most_rows);
        let rows = rows.into_iter().filter(|&rows| rows <= most_rows);
        let sizes = rows.flat_map(|rows| chunks.iter().map(move |&chunk| (rows, chunk)));
        let sizes = sizes.filter(|(rows, chunk)| rows + chunk > 0);
        sizes.map(|(rows, chunk)| (rows, chunk, self.ms(rows, 0.0, chunk, 0.0))).collect()
    }

    fn ubatch_ms(&self, parts: &[Part]) -> f64 {
        let (rows, chunks): (Vec<Part>, Vec<Part>) = parts.iter().partition(|p| p.tokens == 1);
        let count = |of: &[Part]| of.iter().map(|part| part.tokens).sum::<u32>();
        let row_depths = rows.iter().map(|row| f64::from(row.depth));
        let row_depth = row_depths.sum::<f64>() / f64::from(count(&rows).max(1));
        self.ms(count(&rows), row_depth, count(&chunks), self.chunk_depth(&chunks))
    }

    /// The depth in tokens at which one chunk of as many tokens takes as long as these. In a shared cache each
    /// block of attention goes over the cells of every sequence that it holds tokens of.
    fn chunk_depth(&self, chunks: &[Part]) -> f64 {
        let tokens = chunks.iter().map(|part| part.tokens).sum::<u32>();
        if !self.shared || self.block == 1 || chunks.len() < 2 {
            let depths = chunks.iter().map(|part| f64::from(part.tokens) * f64::from(part.depth));
            return depths.sum::<f64>() / f64::from(tokens.max(1));
        }
        let mut offset = 0;
        let spans = chunks.iter().map(|part| {
            offset += part.tokens;
            (offset - part.tokens, part)
        });
        let spans: Vec<(u32, &Part)> = spans.collect();
        let mut weighted = 0.0;
        for begin in (0..tokens).step_by(self.block as usize) {
            let block_end = tokens.min(begin + self.block);
            let inside =
                spans.iter().filter(|(at, part)| *at < block_end && at + part.tokens > begin);
            let cells = inside.map(|(at, part)| part.depth + part.tokens.min(block_end - at));
            // One chunk at a depth goes over that and the call's tokens up to the end of this block.
            let depth = f64::from(cells.sum::<u32>()) - f64::from(block_end);
            weighted += depth * f64::from(block_end - begin);
        }
        (weighted / f64::from(tokens)).max(0.0)
    }

    /// How long so many rows and a chunk take in one call; one after the other where they cannot
    /// share it.
    fn ms(&self, rows: u32, row_depth: f64, chunk: u32, chunk_depth: f64) -> f64 {
        let rows_ms = |depth| if rows > 0 { self.rows_ms(rows, depth) } else { 0.0 };
        let chunk_ms = |depth| if chunk > 0 { self.chunk_ms(chunk, depth) } else { 0.0 };
        if rows == 0 || chunk == 0 || !self.shared {
            return rows_ms(row_depth) + chunk_ms(chunk_depth);
        }
        // Mixed calls were measured with rows and chunk equally deep: what either is deeper costs as
        // much as it does alone.
        let depth = row_depth.min(chunk_depth);
        self.mixed_ms(rows, chunk, depth) + rows_ms(row_depth) - rows_ms(depth)
            + chunk_ms(chunk_depth)
            - chunk_ms(depth)
    }

    fn rows_ms(&self, rows: u32, depth: f64) -> f64 {
        on_curve(&self.curve(|r, c| (r > 0 && c == 0).then_some(r), depth), rows)
    }

    fn chunk_ms(&self, chunk: u32, depth: f64) -> f64 {
        if chunk < 2 {
            return self.rows_ms(chunk, depth);
        }
        let like = |r, c| (r == 0 && c > 0 && self.is_alike(c, chunk)).then_some(c);
        on_curve(&self.curve(like, depth), chunk)
    }

    fn mixed_ms(&self, rows: u32, chunk: u32, depth: f64) -> f64 {
        let widths: Vec<u32> = self.samples.keys().filter(|k| k.1 == 0).map(|k| k.0).collect();
        let beside = |width: &u32| {
            let is_alike = |r, c| c > 0 && self.is_alike(r + c, rows + chunk);
            let like = |r, c| (r == *width && is_alike(r, c)).then_some(c);
            (*width, on_curve(&self.curve(like, depth), chunk))
        };
        on_curve(&widths.iter().map(beside).collect::<Vec<_>>(), rows)
    }

    /// Whether attention computes calls of so many tokens in the same way: less than a block is
    /// computed otherwise.
    fn is_alike(&self, a: u32, b: u32) -> bool {
        (a < self.block) == (b < self.block)
    }

    /// The times of those sizes, ascending, that `size` gives a number.
    fn curve(&self, size: impl Fn(u32, u32) -> Option<u32>, depth: f64) -> Vec<(u32, f64)> {
        let points = self.samples.iter();
        points.filter_map(|(k, line)| Some((size(k.0, k.1)?, on_line(line, depth)))).collect()
    }
}

/// The value at `x` of a line through points in ascending order, continued beyond the last.
fn on_line(points: &[(f64, f64)], x: f64) -> f64 {
    match points {
        [] => 0.0,
        [(_, only)] => *only,
        [(x0, y0), (x1, y1), rest @ ..] if x <= *x1 || rest.is_empty() => {
            (y0 + (y1 - y0) * (x - x0) / (x1 - x0)).max(0.0)
        }
        [_, rest @ ..] => on_line(rest, x),
    }
}

/// The value at `size` of a curve through points in ascending order: between two of them a power of
/// the size, beyond them a line, and never less than for a smaller one.
fn on_curve(points: &[(u32, f64)], size: u32) -> f64 {
    let mut most = 0.0_f64;
    let points: Vec<(f64, f64)> = points
        .iter()
        .map(|&(x, y)| {
            most = most.max(y);
            (f64::from(x), most)
        })
        .collect();
    let (size, after) = (f64::from(size), points.iter().position(|p| p.0 >= f64::from(size)));
    match (after, points.as_slice()) {
        (_, []) => 0.0,
        (Some(0), [first]) => first.1,
        (Some(0), [a, b, ..]) => on_line(&[*a, *b], size),
        (Some(after), points) => {
            let ((x0, y0), (x1, y1)) = (points[after - 1], points[after]);
            y0 * (y1 / y0).powf((size / x0).ln() / (x1 / x0).ln())
        }
        (None, [only]) => only.1 * size / only.0,
        (None, [.., a, b]) => on_line(&[*a, *b], size),
    }
}
