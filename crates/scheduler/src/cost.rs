//! What steps cost, learned from the steps that were run.

use std::collections::VecDeque;
use std::time::Duration;

/// What the time of one decode call depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Tokens in it.
    pub tokens: u32,
    /// Sum over its tokens of the tokens before each in its sequence: what attention reads.
    pub depth: u64,
}

/// What a call's time is fitted to, see [`Load::features`].
const FEATURES: usize = 4;
/// Samples kept of each size class, and the number of classes: one for each power of two.
const SAMPLES: usize = 8;
const CLASSES: usize = 16;
/// Samples after which an old one counts half.
const HALF_LIFE: f64 = 200.0;
/// How firmly the estimate is held to "so much a token" where the samples do not say otherwise.
const FIRMNESS: f64 = 1e-3;
/// Weight of the newest step in the correction for what a machine does beside us.
const DRIFT_WEIGHT: f64 = 0.1;

/// An estimate of a decode call's time: a base, so much a token, so much a token read by attention,
/// and so much for the depth whatever the tokens (attention works in blocks, and the last one is
/// rarely full), fitted to the relative error of recent samples of all sizes.
#[derive(Debug)]
pub(crate) struct Curve {
    classes: [VecDeque<Sample>; CLASSES],
    coefficients: [f64; FEATURES],
    drift: f64,
    samples: u32,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    features: [f64; FEATURES],
    seconds: f64,
    number: u32,
}

// === impl Load ===

impl Load {
    /// `tokens` tokens of one sequence that has `before` already.
    pub fn of(tokens: u32, before: u32) -> Self {
        let (tokens64, before) = (u64::from(tokens), u64::from(before));
        Self { tokens, depth: tokens64 * before + tokens64 * tokens64 / 2 }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            depth: self.depth.saturating_add(other.depth),
        }
    }

    /// Base, tokens, depth and mean depth, in units that make them alike.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn features(self) -> [f64; FEATURES] {
        let (tokens, depth) = (f64::from(self.tokens), self.depth as f64);
        [1.0, tokens / 64.0, depth / 65536.0, depth / tokens.max(1.0) / 1024.0]
    }
}

// === impl Curve ===

impl Curve {
    pub(crate) fn new() -> Self {
        let classes = std::array::from_fn(|_| VecDeque::with_capacity(SAMPLES));
        Self { classes, coefficients: [0.0; FEATURES], drift: 1.0, samples: 0 }
    }

    /// Whether nothing was learned yet.
    pub(crate) fn is_blank(&self) -> bool {
        self.samples == 0
    }

    /// Tokens of the largest call that the estimate rests on, down to a power of two.
    pub(crate) fn largest(&self) -> u32 {
        let class = self.classes.iter().rposition(|samples| !samples.is_empty());
        class.map_or(0, |class| 1 << class)
    }

    /// Takes in how long a call took.
    pub(crate) fn learn(&mut self, load: Load, took: Duration) {
        let seconds = took.as_secs_f64();
        if load.tokens == 0 || seconds <= 0.0 {
            return;
        }
        if self.samples > 0 {
            let ratio = (seconds / self.fitted(load).max(1e-9)).clamp(0.25, 4.0);
            self.drift += DRIFT_WEIGHT * (ratio - self.drift);
        }
        self.samples = self.samples.saturating_add(1);
        let class = &mut self.classes[(load.tokens.ilog2() as usize).min(CLASSES - 1)];
        if class.len() == SAMPLES {
            class.pop_front();
        }
        class.push_back(Sample { features: load.features(), seconds, number: self.samples });
        self.fit();
    }

    /// How long a call will take.
    pub(crate) fn predict(&self, load: Load) -> Duration {
        if load.tokens == 0 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(self.fitted(load) * self.drift).unwrap_or(Duration::ZERO)
    }

    fn fitted(&self, load: Load) -> f64 {
        self.coefficients.iter().zip(load.features()).map(|(c, x)| c * x).sum()
    }

    /// Least squares over relative errors; no coefficient may be negative.
    fn fit(&mut self) {
        let (mut matrix, mut target) = ([[0.0_f64; FEATURES]; FEATURES], [0.0_f64; FEATURES]);
        let (mut time, mut tokens) = (0.0, 0.0);
        for sample in self.classes.iter().flatten() {
            let age = f64::from(self.samples - sample.number);
            let weight = 0.5_f64.powf(age / HALF_LIFE);
            let row = sample.features.map(|x| x / sample.seconds);
            for i in 0..FEATURES {
                target[i] += weight * row[i];
                for j in 0..FEATURES {
                    matrix[i][j] += weight * row[i] * row[j];
                }
            }
            time += weight * sample.seconds;
            tokens += weight * sample.features[1];
        }
        let prior = [0.0, time / tokens, 0.0, 0.0];
        for i in 0..FEATURES {
            let hold = FIRMNESS * matrix[i][i] + 1e-12;
            matrix[i][i] += hold;
            target[i] += hold * prior[i];
        }
        let mut used = [true; FEATURES];
        loop {
            let solution = solve(matrix, target, used);
            let lowest =
                (0..FEATURES).min_by(|&a, &b| solution[a].total_cmp(&solution[b])).unwrap_or(0);
            if solution[lowest] >= 0.0 {
                self.coefficients = solution;
                return;
            }
            used[lowest] = false;
        }
    }
}

/// Solves a symmetric positive definite system by elimination; unknowns not `used` are zero.
fn solve(
    mut matrix: [[f64; FEATURES]; FEATURES],
    mut target: [f64; FEATURES],
    used: [bool; FEATURES],
) -> [f64; FEATURES] {
    for i in 0..FEATURES {
        if !used[i] {
            matrix[i] = [0.0; FEATURES];
            matrix.iter_mut().for_each(|row| row[i] = 0.0);
            (matrix[i][i], target[i]) = (1.0, 0.0);
        }
    }
    for i in 0..FEATURES {
        for j in i + 1..FEATURES {
            let pivot = matrix[i];
            let factor = matrix[j][i] / pivot[i];
            matrix[j].iter_mut().zip(pivot).for_each(|(x, p)| *x -= factor * p);
            target[j] -= factor * target[i];
        }
    }
    let mut solution = [0.0; FEATURES];
    for i in (0..FEATURES).rev() {
        let known: f64 = (i + 1..FEATURES).map(|j| matrix[i][j] * solution[j]).sum();
        solution[i] = (target[i] - known) / matrix[i][i];
    }
    solution
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table: a base, so much a token, so much for depth.
    fn truth(load: Load) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let depth = load.depth as f64;
        Duration::from_secs_f64(8e-3 + 4e-3 * f64::from(load.tokens) + 4e-7 * depth)
    }

    fn trained() -> Curve {
        let mut curve = Curve::new();
        for round in 0..40 {
            let load = Load::of(1 << (round % 9), 37 * round);
            curve.learn(load, truth(load));
        }
        curve
    }

    fn close(one: Duration, other: Duration) -> bool {
        (one.as_secs_f64() / other.as_secs_f64() - 1.0).abs() < 0.05
    }

    #[test]
    fn it_finds_what_the_times_depend_on() {
        let curve = trained();
        for load in [Load::of(3, 10), Load::of(100, 0), Load::of(300, 1000), Load::of(1, 1200)] {
            let (seen, real) = (curve.predict(load), truth(load));
            assert!(close(seen, real), "{load:?}: {seen:?} instead of {real:?}");
        }
    }

    #[test]
    fn one_sample_gives_a_price_for_a_token() {
        let mut curve = Curve::new();
        assert!(curve.is_blank());
        curve.learn(Load::of(64, 0), Duration::from_millis(64));
        assert!(curve.predict(Load::of(128, 0)) > Duration::from_millis(70));
        assert!(curve.predict(Load::of(32, 0)) < Duration::from_millis(60));
    }

    #[test]
    fn it_follows_a_machine_that_becomes_slower() {
        let mut curve = trained();
        let load = Load::of(64, 100);
        for _ in 0..30 {
            curve.learn(load, truth(load) * 2);
        }
        let seen = curve.predict(load);
        assert!(seen > truth(load).mul_f64(1.7), "{seen:?}");
        assert!(seen < truth(load).mul_f64(2.6), "{seen:?}");
    }

    #[test]
    fn nothing_takes_no_time() {
        let curve = trained();
        assert_eq!(curve.predict(Load::default()), Duration::ZERO);
    }
}
