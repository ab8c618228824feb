//! Each filter's effect on what can be drawn, and the distribution of the rng_position.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn plain(seed: u64) -> SamplingParams {
    SamplingParams::plain(1.0, seed)
}

/// Logits of the probabilities 0.5, 0.25, 0.15, 0.1.
fn logits() -> [f32; 4] {
    [0.5_f32, 0.25, 0.15, 0.1].map(f32::ln)
}

fn drawn(params: &SamplingParams, logits: &[f32], forbidden: &[Token]) -> BTreeSet<Token> {
    let mut sampler = Sampler::new(params.clone(), 0, &[]);
    (0..2000).map(|_| sampler.sample(logits, None, forbidden, &mut Scratch::default())).collect()
}

#[track_caller]
fn check(params: &SamplingParams, expected: &[Token]) {
    assert_eq!(drawn(params, &logits(), &[]), expected.iter().copied().collect(), "{params:?}");
}

#[test]
fn filters_keep_what_they_say() {
    check(&plain(1), &[0, 1, 2, 3]);
    check(&SamplingParams { top_k: 2, ..plain(1) }, &[0, 1]);
    check(&SamplingParams { top_p: 0.7, ..plain(1) }, &[0, 1]);
    check(&SamplingParams { top_p: 0.0, ..plain(1) }, &[0]);
    check(&SamplingParams { min_p: 0.29, ..plain(1) }, &[0, 1, 2]);
    check(&SamplingParams { temperature: 0.0, ..plain(1) }, &[0]);
    // Entropy is 1.208 nats; the surprises are 0.69, 1.39, 1.90, 2.30: token 1 is most typical.
    check(&SamplingParams { typical_p: 0.2, ..plain(1) }, &[1]);
    check(&SamplingParams { logit_bias: vec![(3, 100.0)], ..plain(1) }, &[3]);
    check(&SamplingParams { logit_bias: vec![(0, -100.0)], ..plain(1) }, &[1, 2, 3]);
}

#[test]
fn forbidden_tokens_are_never_drawn() {
    assert_eq!(drawn(&plain(2), &logits(), &[0, 2]), BTreeSet::from([1, 3]));
    let greedy = SamplingParams { temperature: 0.0, ..plain(2) };
    assert_eq!(drawn(&greedy, &logits(), &[0]), BTreeSet::from([1]));
}

#[test]
fn draws_follow_the_distribution() {
    let mut sampler = Sampler::new(plain(3), 0, &[]);
    let mut counts = [0_f64; 4];
    let n = 40_000;
    for _ in 0..n {
        counts[sampler.sample(&logits(), None, &[], &mut Scratch::default()) as usize] += 1.0;
    }
    for (count, p) in counts.iter().zip([0.5, 0.25, 0.15, 0.1]) {
        let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
        assert!((count - f64::from(n) * p).abs() < 5.0 * sigma, "{counts:?}");
    }
}

#[test]
fn temperature_sharpens() {
    let cold = SamplingParams { temperature: 0.25, ..plain(4) };
    let mut sampler = Sampler::new(cold, 0, &[]);
    let hits = (0..10_000)
        .filter(|_| sampler.sample(&logits(), None, &[], &mut Scratch::default()) == 0)
        .count();
    // 0.5^4 / sum(p^4) = 0.933
    assert!((9_200..9_450).contains(&hits), "{hits}");
}

#[test]
fn penalties_count_what_was_generated() {
    let params = SamplingParams {
        temperature: 0.0,
        frequency_penalty: 0.3,
        presence_penalty: 0.1,
        ..plain(5)
    };
    let mut sampler = Sampler::new(params, 0, &[0]);
    let row = [1.0, 0.5, 0.0];
    assert_eq!(
        sampler.sample(&row, None, &[], &mut Scratch::default()),
        0,
        "the prompt does not count"
    );
    sampler.accept(0);
    assert_eq!(
        sampler.sample(&row, None, &[], &mut Scratch::default()),
        0,
        "1.0 - 0.4 is still the largest"
    );
    sampler.accept(0);
    assert_eq!(sampler.sample(&row, None, &[], &mut Scratch::default()), 1, "1.0 - 0.7 is not");
}

#[test]
fn repetition_penalty_counts_the_prompt_too() {
    let params = SamplingParams { temperature: 0.0, repetition_penalty: 2.0, ..plain(6) };
    let mut sampler = Sampler::new(params, 0, &[0, 2]);
    assert_eq!(sampler.sample(&[1.0, 0.6, -0.1], None, &[], &mut Scratch::default()), 1);
    assert_eq!(sampler.sample(&[-1.0, -1.5, -0.1], None, &[], &mut Scratch::default()), 2);
}

#[test]
fn a_seed_fixes_the_draws_and_choices_differ() {
    let row: Vec<f32> = (0..250_u8).map(|i| f32::from(i % 7) * 0.1).collect();
    let rng_position = |seed, choice| {
        let mut sampler = Sampler::new(plain(seed), choice, &[]);
        (0..20)
            .map(|_| sampler.sample(&row, None, &[], &mut Scratch::default()))
            .collect::<Vec<_>>()
    };
    assert_eq!(rng_position(7, 0), rng_position(7, 0));
    assert_ne!(rng_position(7, 0), rng_position(8, 0));
    assert_ne!(rng_position(7, 0), rng_position(7, 1));
}

#[test]
fn hopeless_logits_still_give_a_token() {
    for row in [[f32::NAN; 3], [f32::NEG_INFINITY; 3]] {
        assert!(
            Sampler::new(plain(1), 0, &[]).sample(&row, None, &[], &mut Scratch::default()) < 3
        );
        let greedy = SamplingParams { temperature: 0.0, ..plain(1) };
        assert!(Sampler::new(greedy, 0, &[]).sample(&row, None, &[], &mut Scratch::default()) < 3);
    }
}

proptest! {
    #[test]
    fn top_k_and_min_p_keep_what_a_sort_would(
        row in proptest::collection::vec(-8.0_f32..8.0, 2..3000),
        k in 0_u32..80, min_p in 0.0_f32..0.5,
    ) {
        let mut scratch = Scratch::default();
        let params = SamplingParams { top_k: k, min_p, ..plain(1) };
        let token = Sampler::new(params, 0, &[]).sample(&row, None, &[], &mut scratch);
        let mut weights = Vec::new();
        softmax::weigh(&row, softmax::maximum(&row), 1.0, &mut weights);
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        order.truncate(if k == 0 { row.len() } else { k as usize });
        order.retain(|&t| weights[t] > 0.0 && weights[t] >= min_p);
        let expected: BTreeSet<usize> = order.into_iter().collect();
        prop_assert!(expected.contains(&(token as usize)));
        if k > 0 || min_p > 0.0 {
            let kept: BTreeSet<usize> =
                scratch.candidates.iter().map(|c| c.token as usize).collect();
            prop_assert_eq!(kept, expected);
        }
    }

    #[test]
    fn a_draw_is_where_the_running_sum_passes_the_number(
        row in proptest::collection::vec(-8.0_f32..8.0, 1..1000), uniform in 0.0_f64..1.0,
    ) {
        let mut weights = Vec::new();
        softmax::weigh(&row, softmax::maximum(&row), 1.0, &mut weights);
        let target = uniform * weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        let drawn = draw(&weights, uniform).unwrap() as usize;
        let below: f64 = weights[..drawn].iter().map(|&w| f64::from(w)).sum();
        prop_assert!(below <= target + 1e-9);
        prop_assert!(below + f64::from(weights[drawn]) >= target - 1e-9);
    }

    #[test]
    fn top_p_keeps_the_smallest_sufficient_head(
        row in proptest::collection::vec(-8.0_f32..8.0, 2..3000), top_p in 0.01_f32..0.999,
    ) {
        let mut sampler = Sampler::new(SamplingParams { top_p, ..plain(1) }, 0, &[]);
        let mut scratch = Scratch::default();
        let token = sampler.sample(&row, None, &[], &mut scratch);
        let mut order: Vec<f64> = row.iter().map(|&l| f64::from(l).exp()).collect();
        order.sort_by(|a, b| b.total_cmp(a));
        let total: f64 = order.iter().sum();
        let mut mass = 0.0;
        let needed = order.iter().take_while(|&&w| {
            let more = mass < f64::from(top_p) * total;
            mass += w;
            more
        }).count();
        prop_assert!(scratch.candidates.len().abs_diff(needed) <= 1 + needed / 1000);
        prop_assert!((token as usize) < row.len());
    }

    #[test]
    fn the_border_of_a_mass_is_where_a_full_sort_has_it(
        numbers in proptest::collection::vec(0_u32..50, 1..1500), part in 0.0_f64..1.1,
        offset in 0_u32..3,
    ) {
        // Whole numbers add up to the same in any order, and many of them are equal.
        let weight = |item: &(u32, usize)| f64::from(item.0 + offset);
        let order = |a: &(u32, usize), b: &(u32, usize)| b.0.cmp(&a.0).then(a.1.cmp(&b.1));
        let mut items: Vec<(u32, usize)> = numbers.iter().copied().zip(0..).collect();
        let target = part * items.iter().map(weight).sum::<f64>();
        let mut sorted = items.clone();
        sorted.sort_by(order);
        let mut mass = 0.0;
        let enough = |item: &(u32, usize)| {
            mass += weight(item);
            mass >= target
        };
        let expected = sorted.iter().position(enough).map_or(sorted.len(), |at| at + 1);
        let keep = select_mass(&mut items, target, order, weight);
        prop_assert_eq!(keep, expected);
        let (kept, all): (BTreeSet<_>, BTreeSet<_>) =
            (items[..keep].iter().collect(), sorted[..keep].iter().collect());
        prop_assert_eq!(kept, all);
        prop_assert_eq!(&items[..keep.min(SORTED)], &sorted[..keep.min(SORTED)]);
    }

    #[test]
    fn typical_p_keeps_what_a_sort_by_surprise_would(
        row in proptest::collection::vec(-8.0_f32..8.0, 2..3000), typical_p in 0.0_f32..1.0,
    ) {
        let mut scratch = Scratch::default();
        let params = SamplingParams { typical_p, ..plain(1) };
        let token = Sampler::new(params, 0, &[]).sample(&row, None, &[], &mut scratch);
        let mut weights = Vec::new();
        softmax::weigh(&row, softmax::maximum(&row), 1.0, &mut weights);
        let total = softmax::sum(&weights);
        let surprise = |t: usize| -(f64::from(weights[t]) / total).ln();
        let all = 0..row.len();
        let entropy: f64 =
            all.clone().map(|t| f64::from(weights[t]) / total * surprise(t)).sum();
        let mut order: Vec<usize> = all.collect();
        order.sort_by(|&a, &b| {
            let (a, b) = ((surprise(a) - entropy).abs(), (surprise(b) - entropy).abs());
            a.total_cmp(&b)
        });
        let mut mass = 0.0;
        let enough = |&t: &usize| {
            mass += f64::from(weights[t]);
            mass >= f64::from(typical_p) * total
        };
        let needed = order.iter().position(enough).map_or(order.len(), |at| at + 1);
        let expected: BTreeSet<usize> = order[..needed].iter().copied().collect();
        prop_assert!(expected.contains(&(token as usize)));
        let kept: BTreeSet<usize> = scratch.candidates.iter().map(|c| c.token as usize).collect();
        prop_assert_eq!(kept, expected);
    }
}

/// What a token costs with a vocabulary of 262,144, for each kind of sampling:
/// `cargo test --release -p forebay-engine what_sampling_costs -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
#[expect(clippy::cast_possible_truncation, reason = "numbers that look like logits")]
fn what_sampling_costs() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let sharp: Vec<f32> = (0..1 << 18).map(|_| uniform(&mut rng).ln() as f32 * -4.0).collect();
    let flat: Vec<f32> = (0..1 << 18).map(|_| uniform(&mut rng) as f32).collect();
    let bias = (0..1024).map(|t| (t * 7, 1.0)).collect();
    let kinds = [
        ("greedy", SamplingParams { temperature: 0.0, ..plain(1) }),
        ("plain", plain(1)),
        ("top_k 40", SamplingParams { top_k: 40, ..plain(1) }),
        ("top_k 200000", SamplingParams { top_k: 200_000, ..plain(1) }),
        ("top_p 0.95", SamplingParams { top_p: 0.95, ..plain(1) }),
        ("top_p 0.9999", SamplingParams { top_p: 0.9999, ..plain(1) }),
        ("min_p 0.01", SamplingParams { min_p: 0.01, ..plain(1) }),
        ("typical_p 0.5", SamplingParams { typical_p: 0.5, ..plain(1) }),
        ("typical_p 0.99", SamplingParams { typical_p: 0.99, ..plain(1) }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 1.1, ..plain(1) }),
        ("logit_bias", SamplingParams { logit_bias: bias, ..plain(1) }),
    ];
    let prompt: Vec<Token> = (0..131_072).map(|t| t * 2).collect();
    for (name, params) in kinds {
        for (row, kind) in [(&sharp, "sharp"), (&flat, "flat")] {
            let mut sampler = Sampler::new(params.clone(), 0, &prompt);
            let mut scratch = Scratch::default();
            let mut least = std::time::Duration::MAX;
            for _ in 0..10 {
                let begin = std::time::Instant::now();
                let token = sampler.sample(row, None, &[], &mut scratch);
                least = least.min(begin.elapsed());
                assert!((token as usize) < row.len());
            }
            println!("{name:>20} {kind:>6} {least:>12.1?}");
        }
    }
    let begin = std::time::Instant::now();
    crate::logprobs::token_logprob(&sharp, 5, 20);
    println!("{:>20} {:>6} {:>12.1?}", "logprobs 20", "sharp", begin.elapsed());
}
