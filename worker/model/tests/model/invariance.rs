//! Are a position's logits the same bits, however they came about?

use glint_core::SamplingParams;
use glint_kernels::{Compute, Isa};

use crate::fixtures::{Expected, bits, tiny};
use crate::parity::{PROMPTS, compare, each_model, requests};
use crate::plans::{Answer, Hand, Request};
use crate::ranks::{GroupOptions, KV_BLOCKS, Ranks};

/// Asserts that all logits that both have are the same bits, and that some are.
fn assert_same_bits(a: &Answer, b: &Answer, case: &str) {
    let mut compared = 0;
    for (position, logits) in &a.logits {
        if let Some(others) = b.logits.get(position) {
            assert_eq!(bits(logits), bits(others), "{case}, position {position}");
            compared += 1;
        }
    }
    assert!(compared > 0, "{case}: nothing to compare");
}

#[test]
fn chunks_of_every_size_give_the_same_bits() {
    each_model(|model, folder, expected| {
        let mut hand = Hand::new(Ranks::alone(folder), KV_BLOCKS);
        let ids = expected.ids("p130.ids");
        let whole = hand.one(Request::greedy(&ids, 2));
        compare(expected, "p130", &whole, model);
        for size in 1..=64 {
            let chunked = hand.run(vec![Request::greedy(&ids, 2)], size).remove(0);
            assert_same_bits(&whole, &chunked, &format!("{model}, chunks of {size}"));
            assert_eq!(whole.drawn, chunked.drawn);
        }
    });
}

#[test]
fn decoded_prefilled_alone_and_prefilled_in_a_batch_are_the_same_bits() {
    each_model(|model, folder, expected| {
        let fast = Isa::detect();
        for (compute, isa) in
            [(Compute::F32, fast), (Compute::Bf16, fast), (Compute::F32, Isa::Portable)]
        {
            let case = format!("{model}, {} on {isa}", compute.name());
            let options = GroupOptions { compute, isa, ..GroupOptions::default() };
            let mut hand = Hand::new(Ranks::load(folder, options), KV_BLOCKS);
            let decoded = hand.run(requests(expected, 20), usize::MAX);
            let whole: Vec<Request> = PROMPTS
                .iter()
                .zip(&decoded)
                .map(|(prompt, answer)| {
                    let ids = expected.ids(&format!("{prompt}.ids"));
                    Request::greedy(&[ids, answer.drawn.clone()].concat(), 1)
                })
                .collect();
            let batched = hand.run(whole.clone(), 37);
            for ((decoded, batched), whole) in decoded.iter().zip(&batched).zip(whole) {
                let alone = hand.one(whole);
                assert_same_bits(decoded, &alone, &case);
                assert_same_bits(batched, &alone, &case);
            }
        }
    });
}

#[test]
fn reused_blocks_give_the_same_bits_and_tokens() {
    each_model(|model, folder, expected| {
        let mut hand = Hand::new(Ranks::alone(folder), KV_BLOCKS);
        let ids = expected.ids("p130.ids");
        let first = hand.run_keeping_blocks(vec![Request::greedy(&ids, 32)], 48).remove(0);
        for blocks in 1..=8 {
            let reused_blocks = first.blocks[..blocks].to_vec();
            let request = Request { reused_blocks, ..Request::greedy(&ids, 32) };
            let again = hand.run(vec![request], 33).remove(0);
            assert_same_bits(&first, &again, &format!("{model}, {blocks} blocks"));
            compare(expected, "p130", &again, model);
        }
        // A block that was computed by decoding is as good as one of a prompt.
        let longer = [ids, first.drawn.clone()].concat();
        let reused_blocks = first.blocks[..10].to_vec();
        let request = Request { reused_blocks, ..Request::greedy(&longer, 2) };
        let reused = hand.one(request);
        let anew = hand.one(Request::greedy(&longer, 2));
        assert_same_bits(&reused, &anew, model);
        assert_eq!(reused.drawn, anew.drawn);
    });
}

#[test]
fn a_preempted_sequence_goes_on_with_the_same_bits() {
    each_model(|model, folder, expected| {
        let mut hand = Hand::new(Ranks::alone(folder), KV_BLOCKS);
        let whole = hand.run(requests(expected, 32), 64);
        for (prompt, whole) in PROMPTS.iter().zip(whole) {
            let ids = expected.ids(&format!("{prompt}.ids"));
            for drawn in [1, 13, 31] {
                let tokens = [&ids, &whole.drawn[..drawn]].concat();
                let request = Request {
                    prompt_tokens: ids.len() as u32,
                    ..Request::greedy(&tokens, 32 - drawn)
                };
                let rest = hand.one(request);
                assert_eq!(rest.drawn, whole.drawn[drawn..], "{model}, {prompt}");
                assert_same_bits(&whole, &rest, &format!("{model}, {prompt} after {drawn}"));
            }
        }
    });
}

#[test]
fn a_drawn_text_does_not_depend_on_its_neighbours_or_its_chunks() {
    let Some(folder) = tiny("glm-tiny-bf16") else { return };
    let expected = Expected::of(&folder);
    let mut hand = Hand::new(Ranks::alone(&folder), KV_BLOCKS);
    let drawn = |seed| SamplingParams {
        temperature: 0.9,
        top_p: 0.95,
        top_k: 200,
        repetition_penalty: 1.1,
        presence_penalty: 0.2,
        ..SamplingParams::plain(seed, u32::MAX)
    };
    let request = |prompt: &str, seed| Request {
        sampling: drawn(seed),
        ..Request::greedy(&expected.ids(&format!("{prompt}.ids")), 24)
    };
    let alone: Vec<Answer> =
        [("p33", 1), ("p33", 2), ("p7", 1)].map(|(p, seed)| hand.one(request(p, seed))).into();
    assert_ne!(alone[0].drawn, alone[1].drawn, "seeds matter");
    let all = vec![request("p33", 1), request("p33", 2), request("p7", 1)];
    for chunk_tokens in [1, 5, 16, 100] {
        let batched = hand.run(all.clone(), chunk_tokens);
        for (alone, batched) in alone.iter().zip(batched) {
            assert_eq!(alone.drawn, batched.drawn, "chunks of {chunk_tokens}");
        }
    }
    // Moved to another group in the middle: penalties and positions go on.
    let ids = expected.ids("p33.ids");
    let moved = Request {
        tokens: [&ids, &alone[0].drawn[..10]].concat(),
        prompt_tokens: ids.len() as u32,
        draws: 14,
        ..request("p33", 1)
    };
    assert_eq!(hand.one(moved).drawn, alone[0].drawn[10..]);
}

#[test]
fn prompt_log_probabilities_describe_every_token_but_the_first() {
    let Some(folder) = tiny("glm4-0414-tiny-bf16") else { return };
    let expected = Expected::of(&folder);
    let ids = expected.ids("p33.ids");
    let reference = expected.numbers("p33.logits");
    let vocab = reference.len() / ids.len();
    let mut hand = Hand::new(Ranks::of(&folder, 2), KV_BLOCKS);
    for chunk_tokens in [1, 7, 32, 33] {
        let sampling = SamplingParams { prompt_logprobs: Some(3), ..SamplingParams::greedy(9) };
        let request = Request { sampling, ..Request::greedy(&ids, 1) };
        let answer = hand.run(vec![request], chunk_tokens).remove(0);
        assert!(answer.prompt_logprobs.keys().copied().eq(1..33), "chunks of {chunk_tokens}");
        for (&position, described) in &answer.prompt_logprobs {
            let logits = &reference[(position as usize - 1) * vocab..][..vocab];
            let log_sum = logits.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let want = f64::from(logits[ids[position as usize] as usize]) - log_sum;
            assert!((f64::from(described.logprob) - want).abs() < 1e-3, "position {position}");
            assert_eq!(described.top.len(), 3);
            assert_eq!(glint_kernels::argmax(logits), Some(described.top[0].0 as usize));
        }
    }
}
