//! Do the tiny models give the logits and the greedy tokens of their references?

use std::path::Path;

use glint_kernels::{Compute, Isa};

use crate::fixtures::{Expected, MODELS, largest_difference, tiny};
use crate::plans::{Answer, Hand, Request};
use crate::ranks::{GroupOptions, KV_BLOCKS, Ranks};

/// The fixtures' tolerance for f32 arithmetic.
pub(crate) const TOLERANCE: f32 = 1e-4;
pub(crate) const PROMPTS: [&str; 4] = ["p1", "p7", "p33", "p130"];

/// Compares whatever of a prompt's values the reference has.
pub(crate) fn compare(expected: &Expected, prompt: &str, answer: &Answer, case: &str) {
    let tokens = expected.ids(&format!("{prompt}.ids")).len();
    let last = answer.last_prompt_logits(tokens);
    let (all, at_end) = (format!("{prompt}.logits"), format!("{prompt}.logits_last"));
    if expected.has(&all) {
        let reference = expected.numbers(&all);
        for (position, reference) in (0..).zip(reference.chunks_exact(last.len())) {
            // Positions that were reused were not computed.
            if let Some(logits) = answer.logits.get(&position) {
                let difference = largest_difference(logits, reference);
                assert!(difference <= TOLERANCE, "{case}, {prompt} at {position}: {difference}");
            }
        }
    }
    if expected.has(&at_end) {
        let difference = largest_difference(last, &expected.numbers(&at_end));
        assert!(difference <= TOLERANCE, "{case}, {prompt}: {difference}");
    }
    if expected.has(&format!("{prompt}.greedy")) {
        let greedy = expected.ids(&format!("{prompt}.greedy"));
        assert_eq!(answer.drawn, greedy[..answer.drawn.len()], "{case}, {prompt}");
    }
}

pub(crate) fn requests(expected: &Expected, draws: usize) -> Vec<Request> {
    let ids = |prompt: &&str| expected.ids(&format!("{prompt}.ids"));
    PROMPTS.iter().map(ids).map(|ids| Request::greedy(&ids, draws)).collect()
}

/// Runs a check on every model that is there.
pub(crate) fn each_model(check: impl Fn(&str, &Path, &Expected)) {
    for model in MODELS {
        if let Some(folder) = tiny(model) {
            check(model, &folder, &Expected::of(&folder));
        }
    }
}

#[test]
fn each_prompt_alone_gives_the_reference() {
    each_model(|model, folder, expected| {
        let mut hand = Hand::new(Ranks::alone(folder), KV_BLOCKS);
        for (prompt, request) in PROMPTS.iter().zip(requests(expected, 32)) {
            compare(expected, prompt, &hand.one(request), model);
        }
    });
}

#[test]
fn prompts_batched_with_others_give_the_reference() {
    each_model(|model, folder, expected| {
        let mut hand = Hand::new(Ranks::alone(folder), KV_BLOCKS);
        for (prompt, answer) in PROMPTS.iter().zip(hand.run(requests(expected, 32), 50)) {
            compare(expected, prompt, &answer, model);
        }
        let rows = expected.batch();
        let requests = rows.iter().map(|row| Request::greedy(row, 32)).collect();
        let answers = hand.run(requests, usize::MAX);
        let (logits, greedy) =
            (expected.numbers("batch.logits_last"), expected.ids("batch.greedy"));
        let vocab = logits.len() / rows.len();
        for (i, (row, answer)) in rows.iter().zip(answers).enumerate() {
            let reference = &logits[i * vocab..][..vocab];
            let difference = largest_difference(answer.last_prompt_logits(row.len()), reference);
            assert!(difference <= TOLERANCE, "{model}, row {i}: {difference}");
            assert_eq!(answer.drawn, greedy[i * 32..][..32], "{model}, row {i}");
        }
    });
}

#[test]
fn a_checkpoint_in_two_files_is_the_same_model() {
    let (Some(one), Some(two)) = (tiny("glm-tiny"), tiny("glm-tiny-sharded")) else { return };
    let expected = Expected::of(&one);
    let mut hand = Hand::new(Ranks::of(&two, 2), KV_BLOCKS);
    for (prompt, answer) in PROMPTS.iter().zip(hand.run(requests(&expected, 8), 64)) {
        compare(&expected, prompt, &answer, "glm-tiny-sharded");
    }
}

#[test]
fn four_thousand_positions_give_the_reference() {
    let Some(folder) = tiny("glm-longrope-tiny") else { return };
    let expected = Expected::of(&folder);
    let ids = expected.ids("p4096.ids");
    let kv_blocks = 260;
    let options = GroupOptions { kv_blocks, threads: 2, ..GroupOptions::default() };
    let mut hand = Hand::new(Ranks::load(&folder, options), kv_blocks);
    let answer = hand.run(vec![Request::greedy(&ids, 32)], 512).remove(0);
    compare(&expected, "p4096", &answer, "glm-longrope-tiny");
    let reference = expected.numbers("p4096.logits_at");
    let vocab = answer.last_prompt_logits(ids.len()).len();
    for (position, reference) in expected.ids("p4096.at").iter().zip(reference.chunks_exact(vocab))
    {
        let difference = largest_difference(&answer.logits[position], reference);
        assert!(difference <= TOLERANCE, "at {position}: {difference}");
    }
}

#[test]
fn bf16_arithmetic_stays_as_near_as_the_design_says() {
    each_model(|model, folder, expected| {
        for isa in [Isa::Portable, Isa::detect()] {
            let options = GroupOptions { compute: Compute::Bf16, isa, ..GroupOptions::default() };
            let mut hand = Hand::new(Ranks::load(folder, options), KV_BLOCKS);
            for prompt in ["p7", "p33"] {
                let ids = expected.ids(&format!("{prompt}.ids"));
                let answer = hand.one(Request::greedy(&ids, 1));
                let reference = expected.numbers(&format!("{prompt}.logits"));
                let logits: Vec<f32> = answer.logits.into_values().flatten().collect();
                near(&logits, &reference, ids.len(), Means::Checked, &format!("{model}, {prompt}"));
            }
        }
    });
}

/// Whether the mean difference is compared too; at a single position it says nothing.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Means {
    Checked,
    Ignored,
}

/// Compares logits of bf16 arithmetic with a reference, σ being the standard deviation of all its `rows` together: DESIGN.md
/// section 5.
pub(crate) fn near(logits: &[f32], reference: &[f32], rows: usize, means: Means, case: &str) {
    let count = reference.len() as f32;
    let mean = reference.iter().sum::<f32>() / count;
    let variance = reference.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count;
    let sigma = variance.sqrt();
    let most = largest_difference(logits, reference) / sigma;
    let differences = logits.iter().zip(reference).map(|(a, b)| f64::from((a - b).abs()));
    let mean = differences.sum::<f64>() as f32 / count / sigma;
    assert!(most <= 0.09, "{case}: {most} σ at most");
    assert!(means == Means::Ignored || mean <= 0.018, "{case}: {mean} σ in the mean");
    let width = reference.len() / rows;
    for (row, (logits, reference)) in
        logits.chunks_exact(width).zip(reference.chunks_exact(width)).enumerate()
    {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| reference[b].total_cmp(&reference[a]));
        if reference[order[0]] - reference[order[1]] > 0.18 * sigma {
            assert_eq!(glint_kernels::argmax(logits), Some(order[0]), "{case}, row {row}");
        }
    }
}
