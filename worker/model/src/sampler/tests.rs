use glint_core::draw::{gumbel, word};
use proptest::prelude::*;

use super::*;

fn params() -> SamplingParams {
    SamplingParams::plain(7, 100)
}

fn draw_at(logits: &[f32], params: &SamplingParams, tokens: &[u32], prompt: u32) -> Option<u32> {
    let seen = SeenTokens::new(params, tokens, prompt as usize);
    let draw = Draw {
        params,
        position: tokens.len() as u32,
        prompt_tokens: prompt,
        end_token_ids: &[2],
        seen: &seen,
    };
    Sampler::new().draw(logits, draw)
}

/// Draws at many positions and counts how often each candidate came.
fn counts(logits: &[f32], params: &SamplingParams, draws: u32) -> Vec<u32> {
    let seen = SeenTokens::default();
    let mut sampler = Sampler::new();
    let mut counts = vec![0; logits.len()];
    for position in 1..=draws {
        let draw = Draw { params, position, prompt_tokens: 1, end_token_ids: &[], seen: &seen };
        counts[sampler.draw(logits, draw).unwrap() as usize] += 1;
    }
    counts
}

fn kept(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
    let counts = counts(logits, params, 4000);
    (0..).zip(counts).filter(|&(_, count)| count > 0).map(|(id, _)| id).collect()
}

#[test]
fn greedy_takes_the_largest_logit_and_then_the_smallest_id() {
    let greedy = SamplingParams::greedy(10);
    assert_eq!(draw_at(&[0.0, 3.0, 1.0, 3.0], &greedy, &[0], 1), Some(1));
    let nearly = SamplingParams { temperature: 9.9e-6, ..params() };
    assert_eq!(draw_at(&[0.0, 3.0, 1.0, 3.0], &nearly, &[0], 1), Some(1));
}

#[test]
fn a_logit_that_is_not_a_number_gives_no_token() {
    for params in [SamplingParams::greedy(10), params()] {
        for broken in [f32::NAN, f32::INFINITY] {
            assert_eq!(draw_at(&[0.0, broken, 1.0], &params, &[0], 1), None);
        }
        assert!(draw_at(&[0.0, f32::NEG_INFINITY, 1.0], &params, &[0], 1).is_some());
    }
}

#[test]
fn a_draw_is_the_argmax_of_scaled_logit_and_noise() {
    let logits: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 25.0).collect();
    for position in 1..50u32 {
        let tokens = vec![0; position as usize];
        let params = SamplingParams { temperature: 0.7, seed: 99, ..params() };
        let score = |id: u32| logits[id as usize] / 0.7 + gumbel(word(99, position, id));
        let best = (0..1000).max_by(|&a, &b| score(a).total_cmp(&score(b)).then(b.cmp(&a)));
        assert_eq!(draw_at(&logits, &params, &tokens, 1), best);
    }
}

#[test]
fn draws_have_the_frequencies_of_the_softmax() {
    // χ² against f64 probabilities, 19 degrees of freedom: above 43.8 with p = 0.001.
    let logits: Vec<f32> = (0..20).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
    for (temperature, seed) in [(1.0, 1), (0.6, 2), (1.7, 3)] {
        let params = SamplingParams { temperature, seed, ..params() };
        let weights: Vec<f64> =
            logits.iter().map(|&x| (f64::from(x) / f64::from(temperature)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let draws = 200_000;
        let counts = counts(&logits, &params, draws);
        let chi_square: f64 = counts
            .iter()
            .zip(&weights)
            .map(|(&count, weight)| {
                let expected = weight / total * f64::from(draws);
                (f64::from(count) - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 43.8, "temperature {temperature}: χ² = {chi_square}");
    }
}

#[test]
fn rare_tokens_are_drawn_as_often_as_they_should() {
    // 40 candidates share a tail of 2e-4; a coarse uniform number would draw them wrongly or never.
    let mut logits = vec![0.0; 41];
    logits[0] = (40.0f32 / 2e-4).ln();
    let draws = 500_000;
    let tail: u32 = counts(&logits, &params(), draws)[1..].iter().sum();
    let expected = 100.0;
    assert!((f64::from(tail) - expected).abs() < 4.0 * f64::sqrt(expected), "{tail} of {draws}");
}

#[test]
fn top_k_keeps_the_kth_and_its_ties() {
    let logits = [1.0, 2.0, 0.0, 2.0, 1.0, -1.0];
    let top_k = |top_k| kept(&logits, &SamplingParams { top_k, ..params() });
    assert_eq!(top_k(1), [1, 3]);
    assert_eq!(top_k(2), [1, 3]);
    assert_eq!(top_k(3), [0, 1, 3, 4]);
    assert_eq!(top_k(6), [0, 1, 2, 3, 4, 5]);
    assert_eq!(top_k(600), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn top_p_keeps_the_least_that_reaches_it() {
    // Probabilities 1/2, 1/4, 1/8, 1/16, 1/16.
    let logits = [16f32, 8.0, 4.0, 2.0, 2.0].map(f32::ln);
    let top_p = |top_p| kept(&logits, &SamplingParams { top_p, ..params() });
    assert_eq!(top_p(0.01), [0]);
    assert_eq!(top_p(0.49), [0]);
    assert_eq!(top_p(0.51), [0, 1]);
    assert_eq!(top_p(0.74), [0, 1]);
    assert_eq!(top_p(0.76), [0, 1, 2]);
    assert_eq!(top_p(0.9), [0, 1, 2, 3, 4], "ties stay");
    // Over what top_k kept: 2/3, 1/3.
    let both = SamplingParams { top_p: 0.6, top_k: 2, ..params() };
    assert_eq!(kept(&logits, &both), [0]);
}

#[test]
fn min_p_keeps_a_fraction_of_the_likeliest() {
    let logits = [16f32, 8.0, 4.0, 2.0, 2.0].map(f32::ln);
    let min_p = |min_p| kept(&logits, &SamplingParams { min_p, ..params() });
    assert_eq!(min_p(0.6), [0]);
    assert_eq!(min_p(0.4), [0, 1]);
    assert_eq!(min_p(0.2), [0, 1, 2]);
    assert_eq!(min_p(0.1), [0, 1, 2, 3, 4]);
    assert_eq!(min_p(1.0), [0]);
}

#[test]
fn penalties_count_what_they_should() {
    let adjusted = |params: &SamplingParams, tokens: &[u32], prompt: u32| {
        let seen = SeenTokens::new(params, tokens, prompt as usize);
        let mut x = [1.0, 2.0, -2.0, 4.0];
        let position = tokens.len() as u32;
        let draw =
            Draw { params, position, prompt_tokens: prompt, end_token_ids: &[], seen: &seen };
        adjust::adjust(&mut x, &draw);
        x
    };
    // Prompt: 0, 2. Output: 2, 3, 3.
    let tokens = [0, 2, 2, 3, 3];
    let repetition = SamplingParams { repetition_penalty: 2.0, ..params() };
    assert_eq!(adjusted(&repetition, &tokens, 2), [0.5, 2.0, -4.0, 2.0]);
    let presence = SamplingParams { presence_penalty: 0.5, ..params() };
    assert_eq!(adjusted(&presence, &tokens, 2), [1.0, 2.0, -2.5, 3.5]);
    let frequency = SamplingParams { frequency_penalty: 0.5, ..params() };
    assert_eq!(adjusted(&frequency, &tokens, 2), [1.0, 2.0, -2.5, 3.0]);
    let all = SamplingParams {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.5,
        logit_bias: vec![(1, 7.0), (3, -1.0)],
        ..params()
    };
    // Repetition first, so that what is subtracted is not scaled.
    assert_eq!(adjusted(&all, &tokens, 2), [0.5, 9.0, -5.0, -0.5]);
}

#[test]
fn no_end_token_comes_before_min_tokens() {
    let logits = [0.0, 1.0, 9.0, 2.0];
    let greedy = SamplingParams { min_tokens: 2, ..SamplingParams::greedy(10) };
    let at = |tokens: &[u32]| draw_at(&logits, &greedy, tokens, 2).unwrap();
    assert_eq!(at(&[5, 5]), 3, "the output is empty");
    assert_eq!(at(&[5, 5, 1]), 3, "the output has one token");
    assert_eq!(at(&[5, 5, 1, 1]), 2);
    // However strong the bias towards it.
    let biased = SamplingParams { logit_bias: vec![(2, 100.0)], ..greedy };
    assert_eq!(draw_at(&logits, &biased, &[5, 5], 2), Some(3));
}

#[test]
fn a_ban_by_bias_is_not_drawn() {
    let banned = SamplingParams { logit_bias: vec![(1, -100.0)], ..params() };
    assert_eq!(kept(&[0.0, 3.0, 0.0], &banned), [0, 2]);
}

#[test]
fn log_probabilities_are_of_the_raw_logits() {
    let logits = [1.0f32, 3.0, 2.0, 3.0];
    let log_sum = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
    let TokenLogprobs { logprob, top } = token_logprobs(&logits, 2, 3);
    assert!((f64::from(logprob) - (2.0 - log_sum)).abs() < 1e-6);
    let ids: Vec<u32> = top.iter().map(|&(id, _)| id).collect();
    assert_eq!(ids, [1, 3, 2], "equal ones in the order of ids");
    assert_eq!(top[2].1, logprob);
    assert!(token_logprobs(&logits, 0, 0).top.is_empty());
    assert_eq!(token_logprobs(&logits, 0, 20).top.len(), 4);
}

use glint_core::TokenLogprobs;

proptest! {
    #[test]
    fn the_top_is_a_sort(
        logits in prop::collection::vec((-4i8..4).prop_map(f32::from), 1..60), n in 0usize..20,
    ) {
        let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
        sorted.sort_by(|&a, &b| {
            logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
        });
        sorted.truncate(n);
        let top: Vec<u32> = LogProbs::new(&logits).top(n).iter().map(|&(id, _)| id).collect();
        prop_assert_eq!(top, sorted);
    }

    #[test]
    fn thresholds_are_those_of_the_definition(
        x in prop::collection::vec((-12i8..12).prop_map(|x| f32::from(x) / 3.0), 1..40),
        top_k in 0u32..12, top_p in 0.01f32..1.0, min_p in 0f32..1.0,
    ) {
        let params = SamplingParams { top_k, top_p, min_p, ..params() };
        let threshold = cut::Cut::default().threshold(&x, &params);
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sorted = x.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let k = if top_k == 0 { sorted.len() } else { (top_k as usize).min(sorted.len()) };
        let of_k = sorted[k - 1];
        let mass = |x: f32| (glint_core::math::exp(x - max) * 2f32.powi(31)).floor() as u64;
        let sum = |from: f32| x.iter().filter(|&&x| x >= from).map(|&x| mass(x)).sum::<u64>();
        let target = (f64::from(top_p) * sum(of_k) as f64).ceil() as u64;
        let of_p = sorted.iter().copied().find(|&tau| sum(tau) >= target).unwrap();
        let of_min = max + glint_core::math::ln(min_p);
        for &x in &x {
            prop_assert_eq!(x >= threshold, x >= of_k && x >= of_p && x >= of_min);
        }
    }
}
