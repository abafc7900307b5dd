//! Who is taken, who is refused, and who comes first?

use glint_core::{Failure, Kind, SamplingError};
use glint_engine::{AdmitError, ConfigError, Engine, EngineConfig, EngineRequest, Intake};

use crate::group::{CONTEXT_TOKENS_MAX, Group, Limits, VOCAB_SIZE, prompt, request};
use crate::record::End;
use crate::spy::Spy;

#[test]
fn a_request_that_cannot_be_served_is_refused_with_numbers() {
    let mut group = Group::new(&Limits { kv_blocks: 4, ..Limits::default() });
    let change = |change: fn(&mut EngineRequest)| {
        let mut request = request(prompt(1, 10), 10);
        change(&mut request);
        request
    };
    let limit_tokens = CONTEXT_TOKENS_MAX - 1;
    let bad = [
        (change(|r| r.tokens.clear()), AdmitError::EmptyPrompt),
        (
            request(prompt(1, CONTEXT_TOKENS_MAX), 1),
            AdmitError::PromptTooLong { prompt_tokens: CONTEXT_TOKENS_MAX, limit_tokens },
        ),
        (
            change(|r| r.tokens[3] = VOCAB_SIZE),
            AdmitError::UnknownToken { id: VOCAB_SIZE, position: 3, vocab_size: VOCAB_SIZE },
        ),
        (change(|r| r.prompt_tokens = 11), AdmitError::BadResume { prompt_tokens: 11, tokens: 10 }),
        (change(|r| r.prompt_tokens = 0), AdmitError::BadResume { prompt_tokens: 0, tokens: 10 }),
        (change(|r| r.adapter.push('a')), AdmitError::UnknownAdapter { adapter: "a".to_owned() }),
        (change(|r| r.sampling.max_tokens = 0), AdmitError::Sampling(SamplingError::NoTokens)),
        // 10 and 55 tokens: the last one is drawn and not computed, so 64 positions would do.
        (request(prompt(1, 10), 56), AdmitError::OutOfBlocks { needed_blocks: 5, total_blocks: 4 }),
    ];
    for (request, expected) in bad {
        assert_eq!(group.add(request), Err(expected.clone()));
        let kind = match expected {
            AdmitError::OutOfBlocks { .. } => Kind::Exhausted,
            _ => Kind::Invalid,
        };
        assert_eq!(expected.kind(), kind);
    }
    assert!(group.engine.is_idle());
    assert_eq!(group.run(request(prompt(1, 10), 55)).request.tokens.len(), 10);
}

#[test]
fn the_queue_has_an_end() {
    let limits = Limits { waiting_max: 3, sequences_max: 2, ..Limits::default() };
    let mut group = Group::new(&limits);
    let full = Err(AdmitError::QueueFull { waiting: 3, waiting_max: 3 });
    for seed in 0..3 {
        group.add(request(prompt(seed, 20), 30)).unwrap();
    }
    assert_eq!(group.add(request(prompt(9, 20), 30)), full);
    group.step();
    assert_eq!(group.engine.load().waiting_sequences, 1, "two were admitted");
    group.add(request(prompt(5, 20), 30)).unwrap();
    // Complete ones count until their end was told.
    let mut complete = request(prompt(6, 20), 4);
    complete.prompt_tokens = 16;
    group.add(complete.clone()).unwrap();
    assert_eq!(group.add(complete), full);
    assert_eq!(AdmitError::QueueFull { waiting: 3, waiting_max: 3 }.kind(), Kind::Exhausted);
    group.finish();
}

#[test]
fn a_draining_group_finishes_what_it_has() {
    let mut group = Group::new(&Limits::default());
    let id = group.add(request(prompt(1, 20), 10)).unwrap();
    group.step();
    group.engine.set_intake(Intake::Draining);
    assert!(group.engine.load().draining);
    assert_eq!(group.add(request(prompt(2, 20), 10)), Err(AdmitError::Draining));
    assert_eq!(AdmitError::Draining.kind(), Kind::Unavailable);
    group.finish();
    assert!(matches!(group.records[&id].end, Some(End::Finished(..))));
    group.engine.set_intake(Intake::Open);
    group.run(request(prompt(2, 20), 10));
}

#[test]
fn a_limit_of_nothing_is_no_configuration() {
    let new = |change: fn(&mut EngineConfig)| {
        let limits = Limits::default();
        let mut config = limits.config();
        change(&mut config);
        let sim = glint_engine::sim::Sim::new(limits.sim_config(), Box::new(|_| ()));
        let spy = Spy::new(sim, config.clone());
        Engine::new(config, spy).map(|_| ())
    };
    assert_eq!(new(|_| ()), Ok(()));
    assert_eq!(new(|c| c.kv_blocks = 0), Err(ConfigError::Zero { name: "kv_blocks" }));
    assert_eq!(new(|c| c.sequences_max = 0), Err(ConfigError::Zero { name: "sequences_max" }));
    let vocab_size = VOCAB_SIZE;
    let unknown = Err(ConfigError::UnknownEndToken { id: VOCAB_SIZE, vocab_size });
    assert_eq!(new(|c| c.eos_token_ids.push(VOCAB_SIZE)), unknown);
}

#[test]
fn whoever_came_first_starts_first() {
    let limits = Limits { sequences_max: 2, kv_blocks: 10, ..Limits::default() };
    let mut group = Group::new(&limits);
    // The second needs more than is left; the third would fit and waits its turn.
    for (seed, tokens) in [(1, 90), (2, 80), (3, 5)] {
        group.add(request(prompt(seed, tokens), 20)).unwrap();
    }
    group.finish();
    let starts = group.engine.executor_mut().plans.iter().flat_map(|plan| &plan.start);
    let order: Vec<u32> = starts.map(|start| start.prompt_tokens).collect();
    assert_eq!(order, [90, 80, 5]);
}

#[test]
fn a_newcomer_leaves_a_prompt_in_progress_its_blocks() {
    let limits = Limits { kv_blocks: 8, chunk_tokens_max: 16, ..Limits::default() };
    let mut group = Group::new(&limits);
    group.add(request(prompt(1, 100), 4)).unwrap();
    group.add(request(prompt(2, 20), 4)).unwrap();
    group.step();
    let load = group.engine.load();
    assert!(load.kv_blocks_used < 4, "there would be room now");
    assert_eq!((load.waiting_sequences, load.running_sequences), (1, 1));
    group.finish();
    assert_eq!(group.engine.load().preemptions, 0);
}

/// A tiny budget, few blocks, and a new short request whenever one fits into the queue.
#[test]
fn nobody_starves_though_others_keep_coming() {
    for (step_tokens_max, kv_blocks) in [(1, 8), (4, 9), (32, 12)] {
        let limits = Limits { step_tokens_max, kv_blocks, waiting_max: 4, ..Limits::default() };
        let mut group = Group::new(&limits);
        let mut ids = Vec::new();
        for step in 0..3_000 {
            let long = step % 50 == 0;
            let (tokens, max_tokens) = if long { (80, 40) } else { (1 + step % 20, 10) };
            let mut request = request(prompt(step, tokens), max_tokens);
            request.sampling.ignore_eos = true;
            if let Ok(id) = group.add(request) {
                ids.push(id);
            }
            group.step();
        }
        let living = ids.iter().filter(|id| group.records[id].end.is_none()).count();
        let oldest = ids.iter().position(|id| group.records[id].end.is_none());
        let oldest = oldest.unwrap_or(ids.len());
        assert!(ids.len() - oldest <= 13, "{living} live, the oldest is {oldest} of {}", ids.len());
        group.finish();
    }
}
