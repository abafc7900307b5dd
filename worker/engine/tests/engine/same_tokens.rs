//! Chunks, depth, preemption, company, the cache and an interruption change when a token comes, never which.

use glint_core::FinishReason;
use glint_engine::{EngineRequest, PrefixCache};

use crate::group::{Group, Limits, alone, prompt, request};
use crate::record::End;

/// Three prompts that need several chunks and begin alike.
fn requests() -> Vec<EngineRequest> {
    [70, 33, 48]
        .into_iter()
        .map(|tokens| {
            let mut request = request(prompt(1, tokens), 24);
            request.sampling.ignore_eos = true;
            request.sampling.prompt_logprobs = (tokens == 33).then_some(1);
            request
        })
        .collect()
}

/// Adds all requests, runs to the end and compares; returns the group.
fn check(limits: &Limits, requests: &[EngineRequest]) -> Group {
    let mut group = Group::new(limits);
    let ids: Vec<_> = requests.iter().map(|r| group.add(r.clone()).unwrap()).collect();
    group.finish();
    for (id, request) in ids.iter().zip(requests) {
        let (tokens, _) = alone(request, limits.end_probability);
        assert_eq!(group.records[id].tokens, tokens, "{limits:?}");
    }
    group
}

#[test]
fn every_chunk_size_gives_the_same_tokens() {
    let requests = requests();
    for chunk_tokens_max in 1..=64 {
        for (depth, prefix_cache) in
            [(1, PrefixCache::On), (2, PrefixCache::Off), (2, PrefixCache::On)]
        {
            let limits = Limits { chunk_tokens_max, depth, prefix_cache, ..Limits::default() };
            check(&limits, &requests);
        }
    }
}

#[test]
fn every_budget_gives_the_same_tokens() {
    let requests = requests();
    for step_tokens_max in 1..=64 {
        check(&Limits { step_tokens_max, ..Limits::default() }, &requests);
    }
}

#[test]
fn a_preempted_sequence_gets_the_tokens_that_it_gets_alone() {
    for depth in 1..=3 {
        for prefix_cache in [PrefixCache::On, PrefixCache::Off] {
            // Room for the longest, but not for what the three are going to need together.
            let limits = Limits { kv_blocks: 13, depth, prefix_cache, ..Limits::default() };
            let mut requests = requests();
            for (salt, request) in requests.iter_mut().enumerate() {
                request.salt = vec![salt as u8];
                request.sampling.seed = salt as u64;
                request.sampling.max_tokens = 55;
            }
            let group = check(&limits, &requests);
            assert!(group.engine.load().preemptions > 0, "{limits:?} never ran out of blocks");
        }
    }
}

/// Its positions are computed twice and described once.
#[test]
fn a_prompt_may_be_preempted_while_it_is_described() {
    for prefix_cache in [PrefixCache::On, PrefixCache::Off] {
        let limits =
            Limits { kv_blocks: 9, chunk_tokens_max: 2, prefix_cache, ..Limits::default() };
        let mut grows = request(prompt(1, 20), 60);
        grows.sampling.ignore_eos = true;
        let mut described = request(prompt(2, 90), 10);
        described.sampling.prompt_logprobs = Some(1);
        let mut group = check(&limits, &[grows, described]);
        let starts = group.engine.executor_mut().plans.iter().flat_map(|plan| &plan.start);
        let again = starts.filter(|start| start.tokens.len() == 90).count();
        assert_eq!(again, 2, "it was preempted before it drew anything");
    }
}

/// Every block is in use when the first one needs another, in plan 9: the last one goes. The second one's end, seen in
/// plan 7, leaves room for both, but plan 8 still writes the last one's blocks.
#[test]
fn a_preempted_sequence_waits_for_its_own_plans() {
    let limits = Limits {
        kv_blocks: 11,
        depth: 3,
        step_tokens_max: 256,
        chunk_tokens_max: 256,
        ..Limits::default()
    };
    let requests = [(1, 40, 30), (2, 50, 8), (3, 45, 30)].map(|(seed, tokens, max_tokens)| {
        let mut request = request(prompt(seed, tokens), max_tokens);
        request.sampling.ignore_eos = true;
        request
    });
    let mut group = check(&limits, &requests);
    assert_eq!(group.engine.load().preemptions, 1);
    let plans = &group.engine.executor_mut().plans;
    let starts: Vec<usize> = plans.iter().map(|plan| plan.start.len()).collect();
    assert_eq!((starts[0], &starts[9..12]), (3, [0, 0, 1].as_slice()));
}

#[test]
fn the_oldest_is_never_preempted() {
    let limits = Limits { kv_blocks: 9, ..Limits::default() };
    let mut group = Group::new(&limits);
    for (seed, tokens) in [(1, 40), (2, 20), (3, 20)] {
        let mut request = request(prompt(seed, tokens), 60);
        request.sampling.ignore_eos = true;
        group.add(request).unwrap();
    }
    group.finish();
    assert!(group.engine.load().preemptions > 0);
    let starts = group.engine.executor_mut().plans.iter().flat_map(|plan| &plan.start);
    let first = starts.filter(|start| start.prompt_tokens == 40).count();
    assert_eq!(first, 1, "it started once");
}

#[test]
fn a_resumed_request_goes_on_as_it_would_have() {
    let limits = Limits::default();
    for (temperature, seed) in [(0.0, 0), (1.0, 8), (1.0, 16)] {
        let mut whole = request(prompt(3, 37), 30);
        (whole.sampling.temperature, whole.sampling.seed) = (temperature, seed);
        whole.sampling.min_tokens = 10;
        let (tokens, reason) = alone(&whole, limits.end_probability);
        assert!(tokens.len() >= 10);
        // One group that has seen everything, and a fresh one each time.
        let mut warm = Group::new(&limits);
        for received in 0..=tokens.len() {
            let mut rest = whole.clone();
            rest.tokens.extend(&tokens[..received]);
            for group in [&mut warm, &mut Group::new(&limits)] {
                let record = group.run(rest.clone());
                assert_eq!(record.tokens, tokens[received..], "{received} received");
                let Some(End::Finished(told, usage)) = record.end else {
                    panic!("{:?}", record.end)
                };
                assert_eq!((told, usage.prompt_tokens), (reason, 37));
            }
        }
    }
}

#[test]
fn what_was_complete_ends_at_once() {
    let mut group = Group::new(&Limits::default());
    let mut full = request(prompt(1, 20), 4);
    full.prompt_tokens = 16;
    let record = group.run(full.clone());
    assert!(matches!(record.end, Some(End::Finished(FinishReason::Length, _))));
    assert!(record.tokens.is_empty());

    let mut stopped = full.clone();
    stopped.sampling.max_tokens = 10;
    stopped.tokens[19] = crate::group::EOS;
    let record = group.run(stopped.clone());
    assert!(matches!(record.end, Some(End::Finished(FinishReason::Stop, _))));

    stopped.sampling.ignore_eos = true;
    assert_eq!(group.run(stopped).tokens.len(), 6, "that was a token like any other");
    assert_eq!(group.engine.load().steps, 6, "nothing was computed for the others");
}
