//! A cost curve: estimates the time of a decode call from measured ones.

use std::collections::VecDeque;
use std::time::Duration;

use crate::call_load::{CallLoad, CallSample};

/// Number of features of the fit, see [`CallLoad::features`].
const FEATURES: usize = 4;
/// Samples kept of each size class, and the number of classes: one for each power of two.
pub(crate) const SAMPLES: usize = 8;
pub(crate) const CLASSES: usize = 16;
/// Number of newer samples after which one counts half.
const HALF_LIFE: f64 = 200.0;
/// Weight of a restored sample: the machine may be faster or slower by now.
const KEPT_WEIGHT: f64 = 0.05;
/// Number of first samples to which restored ones are scaled, and the largest scale: samples that differ
/// more are of another machine.
const SCALED_TO: usize = 8;
const LARGEST_SCALE: f64 = 64.0;
/// Upper bound on estimates, in seconds, so that sums of them are durations.
const LONGEST_ESTIMATE: f64 = 86_400.0;
/// Weight of the prior, a price for each token, where samples do not decide.
const FIRMNESS: f64 = 1e-3;
/// Weight of the newest call in the correction for other load on the machine.
const DRIFT_WEIGHT: f64 = 0.1;

/// Estimates the time of a decode call as a base, a price for a token, one for a token that attention
/// reads, and one for mean depth (attention works in blocks, and the last one is rarely full). Fitted to
/// the relative errors of recent samples of all sizes.
#[derive(Debug)]
pub(crate) struct CostCurve {
    classes: [VecDeque<TimedCall>; CLASSES],
    coefficients: [f64; FEATURES],
    drift: f64,
    samples: u32,
    /// Present until restored samples are scaled.
    kept: Option<RestoredSamples>,
}

/// How restored samples compare with the first new ones.
#[derive(Debug)]
struct RestoredSamples {
    /// The fit of the restored samples.
    coefficients: [f64; FEATURES],
    /// Measured times of new calls, relative to that fit.
    ratios: Vec<f64>,
    /// The scale applied so far.
    scale: f64,
}

#[derive(Debug, Clone, Copy)]
struct TimedCall {
    load: CallLoad,
    features: [f64; FEATURES],
    seconds: f64,
    number: u32,
    /// 1; less for a restored sample.
    weight: f64,
}

// === impl CallLoad ===

impl CallLoad {
    /// Base, tokens, depth and mean depth, in units of similar size.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn features(self) -> [f64; FEATURES] {
        let (tokens, depth) = (f64::from(self.tokens), self.depth as f64);
        [1.0, tokens / 64.0, depth / 65536.0, depth / tokens.max(1.0) / 1024.0]
    }

    /// The time by the coefficients of a fit, in seconds.
    fn seconds(self, coefficients: &[f64; FEATURES]) -> f64 {
        coefficients.iter().zip(self.features()).map(|(c, x)| c * x).sum()
    }
}

// === impl CostCurve ===

impl CostCurve {
    pub(crate) fn new() -> Self {
        let classes = std::array::from_fn(|_| VecDeque::with_capacity(SAMPLES));
        Self { classes, coefficients: [0.0; FEATURES], drift: 1.0, samples: 0, kept: None }
    }

    /// Whether nothing was learned yet.
    pub(crate) fn is_blank(&self) -> bool {
        self.samples == 0
    }

    /// Tokens of the largest sampled call, rounded down to a power of two.
    pub(crate) fn largest(&self) -> u32 {
        let class = self.classes.iter().rposition(|samples| !samples.is_empty());
        class.map_or(0, |class| 1 << class)
    }

    /// Learns from the time of a call.
    pub(crate) fn learn(&mut self, load: CallLoad, took: Duration) {
        let seconds = took.as_secs_f64();
        if load.tokens == 0 || seconds <= 0.0 {
            return;
        }
        self.scale_kept(load, seconds);
        if self.classes.iter().any(|class| !class.is_empty()) {
            let ratio = (seconds / self.fitted(load).max(1e-9)).clamp(0.25, 4.0);
            self.drift += DRIFT_WEIGHT * (ratio - self.drift);
        }
        self.insert(load, seconds, 1.0);
        self.fit();
    }

    /// Restores samples of an earlier engine, the oldest first, without implausible ones.
    pub(crate) fn restore(&mut self, kept: &[CallSample]) {
        for sample in kept.iter().filter(|sample| sample.is_plausible()) {
            self.insert(sample.load(), sample.seconds, KEPT_WEIGHT);
        }
        if self.samples > 0 {
            self.fit();
            let (coefficients, ratios) = (self.coefficients, Vec::with_capacity(SCALED_TO));
            self.kept = Some(RestoredSamples { coefficients, ratios, scale: 1.0 });
        }
    }

    /// Scales restored samples to the speed of the first new calls: the machine may have changed, and sizes
    /// not measured for long rest on them. Removes them if the scale is implausible.
    fn scale_kept(&mut self, load: CallLoad, seconds: f64) {
        let Some(mut kept) = self.kept.take() else { return };
        kept.ratios.push(seconds / load.seconds(&kept.coefficients).max(1e-12));
        kept.ratios.sort_by(f64::total_cmp);
        let scale = kept.ratios[kept.ratios.len() / 2];
        let others = self.classes.iter_mut();
        if !(1.0 / LARGEST_SCALE..=LARGEST_SCALE).contains(&scale) {
            others.for_each(|class| class.retain(|sample| sample.weight >= 1.0));
            return;
        }
        let samples = others.flatten().filter(|sample| sample.weight < 1.0);
        samples.for_each(|sample| sample.seconds *= scale / kept.scale);
        self.fit();
        kept.scale = scale;
        self.kept = Some(kept).filter(|kept| kept.ratios.len() < SCALED_TO);
    }

    /// The samples of the fit, the oldest first.
    pub(crate) fn learned(&self) -> Vec<CallSample> {
        let mut samples: Vec<&TimedCall> = self.classes.iter().flatten().collect();
        samples.sort_by_key(|sample| sample.number);
        let kept = |&TimedCall { load: CallLoad { tokens, depth }, seconds, .. }: &TimedCall| {
            CallSample { tokens, depth, seconds }
        };
        samples.into_iter().map(kept).collect()
    }

    /// Number of samples so far.
    pub(crate) fn count(&self) -> u32 {
        self.samples
    }

    fn insert(&mut self, load: CallLoad, seconds: f64, weight: f64) {
        self.samples = self.samples.saturating_add(1);
        let class = &mut self.classes[(load.tokens.ilog2() as usize).min(CLASSES - 1)];
        if class.len() == SAMPLES {
            class.pop_front();
        }
        let (features, number) = (load.features(), self.samples);
        class.push_back(TimedCall { load, features, seconds, number, weight });
    }

    /// Estimated time of a call.
    pub(crate) fn predict(&self, load: CallLoad) -> Duration {
        if load.tokens == 0 {
            return Duration::ZERO;
        }
        let seconds = (self.fitted(load) * self.drift).min(LONGEST_ESTIMATE);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
    }

    fn fitted(&self, load: CallLoad) -> f64 {
        load.seconds(&self.coefficients)
    }

    /// Least squares over relative errors; no coefficient may be negative.
    fn fit(&mut self) {
        let (mut matrix, mut target) = ([[0.0_f64; FEATURES]; FEATURES], [0.0_f64; FEATURES]);
        let (mut time, mut tokens) = (0.0, 0.0);
        for sample in self.classes.iter().flatten() {
            let age = f64::from(self.samples - sample.number);
            let weight = sample.weight * 0.5_f64.powf(age / HALF_LIFE);
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
    use proptest::prelude::*;

    use super::*;
    use crate::call_load::any_sample;

    /// The true time of a call in these tests.
    fn truth(load: CallLoad) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let depth = load.depth as f64;
        Duration::from_secs_f64(8e-3 + 4e-3 * f64::from(load.tokens) + 4e-7 * depth)
    }

    fn trained() -> CostCurve {
        let mut curve = CostCurve::new();
        for round in 0..40 {
            let load = CallLoad::of(1 << (round % 9), 37 * round);
            curve.learn(load, truth(load));
        }
        curve
    }

    fn close(one: Duration, other: Duration) -> bool {
        (one.as_secs_f64() / other.as_secs_f64() - 1.0).abs() < 0.05
    }

    #[test]
    fn samples_of_another_engine_are_scaled_to_this_machine() {
        for times in [0.1, 4.0, 10.0] {
            let mut curve = CostCurve::new();
            curve.restore(&trained().learned());
            for round in 0..30_u32 {
                let load = CallLoad::of(1 << (round % 3), 37 * round);
                curve.learn(load, truth(load).mul_f64(times));
            }
            for tokens in [1, 64, 256] {
                let load = CallLoad::of(tokens, 100);
                let ratio = curve.predict(load).as_secs_f64() / truth(load).as_secs_f64() / times;
                assert!((0.7..1.4).contains(&ratio), "{times}, {tokens} tokens: {ratio}");
            }
        }
    }

    #[test]
    fn samples_of_another_machine_are_removed() {
        for seconds in [1e-6, 3600.0] {
            let kept: Vec<CallSample> =
                (0..9).map(|n| CallSample { tokens: 1 << n, depth: 0, seconds }).collect();
            let mut curve = CostCurve::new();
            curve.restore(&kept);
            let load = CallLoad::of(64, 100);
            for _ in 0..3 {
                curve.learn(load, truth(load));
            }
            let ratio = curve.predict(load).as_secs_f64() / truth(load).as_secs_f64();
            assert!((0.9..1.1).contains(&ratio), "{seconds}: {ratio}");
            assert_eq!(curve.learned().len(), 3);
        }
    }

    #[test]
    fn the_fit_finds_base_tokens_and_depth() {
        let curve = trained();
        for load in [
            CallLoad::of(3, 10),
            CallLoad::of(100, 0),
            CallLoad::of(300, 1000),
            CallLoad::of(1, 1200),
        ] {
            let (seen, real) = (curve.predict(load), truth(load));
            assert!(close(seen, real), "{load:?}: {seen:?} instead of {real:?}");
        }
    }

    #[test]
    fn one_sample_gives_a_price_for_a_token() {
        let mut curve = CostCurve::new();
        assert!(curve.is_blank());
        curve.learn(CallLoad::of(64, 0), Duration::from_millis(64));
        assert!(curve.predict(CallLoad::of(128, 0)) > Duration::from_millis(70));
        assert!(curve.predict(CallLoad::of(32, 0)) < Duration::from_millis(60));
    }

    #[test]
    fn estimates_follow_a_slower_machine() {
        let mut curve = trained();
        let load = CallLoad::of(64, 100);
        for _ in 0..30 {
            curve.learn(load, truth(load) * 2);
        }
        let seen = curve.predict(load);
        assert!(seen > truth(load).mul_f64(1.7), "{seen:?}");
        assert!(seen < truth(load).mul_f64(2.6), "{seen:?}");
    }

    /// A curve with restored samples.
    fn restored() -> CostCurve {
        let mut curve = CostCurve::new();
        curve.restore(&trained().learned());
        curve
    }

    #[test]
    fn restored_samples_predict_as_before() {
        let curve = restored();
        assert!(!curve.is_blank());
        for load in [
            CallLoad::of(3, 10),
            CallLoad::of(100, 0),
            CallLoad::of(300, 1000),
            CallLoad::of(1, 1200),
        ] {
            let (seen, real) = (curve.predict(load), truth(load));
            assert!(close(seen, real), "{load:?}: {seen:?} instead of {real:?}");
        }
        assert_eq!(curve.learned(), trained().learned());
    }

    #[test]
    fn restored_samples_give_way_on_a_slower_or_faster_machine() {
        for times in [2.0, 0.5] {
            let real = |load| truth(load).mul_f64(times);
            let check = |curve: &CostCurve, load| {
                let seen = curve.predict(load).as_secs_f64() / truth(load).as_secs_f64() / times;
                assert!((0.85..1.3).contains(&seen), "{load:?}, {times} times: {seen}");
            };
            let (mut same, mut all) = (restored(), restored());
            for round in 0..30 {
                same.learn(CallLoad::of(64, 100), real(CallLoad::of(64, 100)));
                let load = CallLoad::of(1 << (round % 5), 37 * round);
                all.learn(load, real(load));
            }
            check(&same, CallLoad::of(64, 100));
            for tokens in [1, 3, 16, 64, 200] {
                check(&all, CallLoad::of(tokens, 500));
            }
        }
    }

    #[test]
    fn implausible_samples_are_not_restored() {
        let good = CallSample { tokens: 64, depth: 2048, seconds: 0.1 };
        let seconds = [f64::NAN, f64::INFINITY, 0.0, -0.0, -1.0, 3601.0, f64::MIN_POSITIVE];
        let bad = seconds.map(|seconds| CallSample { seconds, ..good });
        let more = [CallSample { tokens: 0, ..good }, CallSample { depth: u64::MAX, ..good }];
        let mut curve = CostCurve::new();
        curve.restore(&bad);
        curve.restore(&more);
        assert!(curve.is_blank());
        assert_eq!(curve.predict(good.load()), Duration::ZERO);
        curve.restore(&[good]);
        assert!(close(curve.predict(good.load()), Duration::from_millis(100)));
    }

    proptest! {
        /// With any restored samples, estimates are durations and new samples are learned.
        #[test]
        fn any_restored_samples_give_finite_estimates(
            kept in proptest::collection::vec(any_sample(), 0..200),
            asked in (any::<u32>(), any::<u64>()),
            new in proptest::collection::vec((1_u32..5000, 0_u32..100_000, 1_u64..10_000_000), 0..20),
        ) {
            let mut curve = CostCurve::new();
            curve.restore(&kept);
            let load = CallLoad { tokens: asked.0, depth: asked.1 };
            for (tokens, before, micros) in new {
                prop_assert!(curve.coefficients.iter().all(|&c| c.is_finite() && c >= 0.0));
                prop_assert!(curve.predict(load).as_secs_f64() <= LONGEST_ESTIMATE);
                curve.learn(CallLoad::of(tokens, before), Duration::from_micros(micros));
            }
            prop_assert!(curve.coefficients.iter().all(|&c| c.is_finite() && c >= 0.0));
            prop_assert!(curve.drift.is_finite() && curve.drift > 0.0);
            prop_assert!(curve.learned().len() <= SAMPLES * CLASSES);
        }
    }

    #[test]
    fn an_empty_call_takes_no_time() {
        let curve = trained();
        assert_eq!(curve.predict(CallLoad::default()), Duration::ZERO);
    }
}
