//! How busy is the group, and with what first?

use std::time::Duration;

use glint_engine::TagLoad;

use crate::group::{Group, Limits, prompt, request};

#[test]
fn decodes_come_first_and_prompts_get_the_rest() {
    let limits = Limits { step_tokens_max: 8, ..Limits::default() };
    let mut group = Group::new(&limits);
    let mut short = request(prompt(1, 3), 40);
    short.sampling.ignore_eos = true;
    let decodes = group.add(short).unwrap();
    group.step();
    group.add(request(prompt(2, 60), 4)).unwrap();
    while group.records[&decodes].end.is_none() {
        group.step();
    }
    let plans = &group.engine.executor_mut().plans;
    let lens: Vec<Vec<u32>> =
        plans.iter().map(|plan| plan.chunks.iter().map(|chunk| chunk.len).collect()).collect();
    assert_eq!(lens[..2], [vec![3], vec![1]]);
    assert!(lens[2..10].iter().all(|lens| *lens == [1, 7]), "{lens:?}");
}

#[test]
fn a_load_counts_what_is_there() {
    let limits = Limits { sequences_max: 2, chunk_tokens_max: 16, depth: 1, ..Limits::default() };
    let mut group = Group::new(&limits);
    for (tag, tokens) in [(1, 40), (2, 30), (1, 20)] {
        let mut request = request(prompt(tag as u32, tokens), 10);
        request.tag = tag;
        group.add(request).unwrap();
    }
    let load = group.engine.load();
    assert_eq!((load.steps, load.waiting_sequences, load.running_sequences), (0, 3, 0));
    assert_eq!((load.kv_blocks_total, load.kv_blocks_used), (64, 0));
    assert_eq!((load.queued_prefill_tokens, load.prefill_tokens_per_s), (90, None));
    group.step();
    let load = group.engine.load();
    assert_eq!((load.steps, load.waiting_sequences, load.running_sequences), (1, 1, 2));
    assert_eq!((load.kv_blocks_used, load.queued_prefill_tokens), (2, 24 + 14 + 20));
    let by_tag = group.engine.load_by_tag();
    let first =
        TagLoad { waiting_sequences: 1, running_sequences: 1, queued_prefill_tokens: 24 + 20 };
    let second = TagLoad { waiting_sequences: 0, running_sequences: 1, queued_prefill_tokens: 14 };
    assert_eq!((by_tag.len(), by_tag[&1], by_tag[&2]), (2, first, second));
    group.finish();
    assert!(group.engine.load_by_tag().is_empty());
}

#[test]
fn what_is_cached_is_not_queued() {
    let mut group = Group::new(&Limits::default());
    group.run(request(prompt(1, 40), 4));
    group.add(request(prompt(1, 40), 4)).unwrap();
    assert_eq!(group.engine.load().queued_prefill_tokens, 8);
}

#[test]
fn measured_rates_are_those_of_the_device() {
    let mut group = Group::new(&Limits::default());
    let mut request = request(prompt(1, 50), 40);
    request.sampling.ignore_eos = true;
    let id = group.add(request).unwrap();
    group.finish();
    let load = group.engine.load();
    // 50 tokens at 1000 per second, and a millisecond for the step.
    let rate = load.prefill_tokens_per_s.unwrap();
    assert!((rate - 50.0 / 0.051).abs() < 1.0, "{rate}");
    assert_eq!(load.decode_step, Some(Duration::from_millis(2)));
    assert_eq!(group.records[&id].waited, Duration::ZERO);
}

#[test]
fn the_wait_in_the_queue_is_told() {
    let mut group = Group::new(&Limits { sequences_max: 1, depth: 1, ..Limits::default() });
    let mut first = request(prompt(1, 50), 3);
    first.sampling.ignore_eos = true;
    group.add(first).unwrap();
    let second = group.add(request(prompt(2, 50), 3)).unwrap();
    group.finish();
    // A prefill of 51 ms and two decodes of 2 ms.
    assert_eq!(group.records[&second].waited, Duration::from_millis(55));
}

#[test]
fn what_a_preemption_took_is_queued() {
    let limits = Limits { kv_blocks: 9, depth: 1, ..Limits::default() };
    let mut group = Group::new(&limits);
    group.run(request(prompt(2, 40), 1));
    let ids = [1, 2].map(|seed| {
        let mut request = request(prompt(seed, 40), 60);
        request.sampling.ignore_eos = true;
        group.add(request).unwrap()
    });
    while group.engine.load().preemptions == 0 {
        group.step();
    }
    let load = group.engine.load();
    assert_eq!((load.waiting_sequences, load.running_sequences), (1, 1));
    let record = &group.records[&ids[1]];
    assert_eq!(record.cached_tokens, Some(32));
    let tokens = record.request.tokens.len() + record.tokens.len();
    assert_eq!(load.queued_prefill_tokens, tokens as u64);
    group.finish();
}
