//! A sequence may be given up at any time.

use crate::group::{Group, Limits, alone, prompt, request};
use crate::record::End;

/// In the queue, between chunks, in flight, between tokens, at its end: blocks come back and nobody is disturbed.
#[test]
fn an_abort_at_any_step_gives_everything_back() {
    for depth in 1..=2 {
        let limits = Limits { chunk_tokens_max: 16, depth, ..Limits::default() };
        for steps in 0..20 {
            let mut group = Group::new(&limits);
            let mut first = request(prompt(1, 70), 10);
            first.sampling.ignore_eos = true;
            let second = request(prompt(1, 50), 12);
            let aborted = group.add(first).unwrap();
            let stays = group.add(second.clone()).unwrap();
            (0..steps).for_each(|_| group.step());
            group.abort(aborted);
            group.finish();
            assert_eq!(group.records[&stays].tokens, alone(&second, limits.end_probability).0);
        }
    }
}

#[test]
fn what_an_aborted_sequence_computed_is_of_use() {
    let mut group = Group::new(&Limits::default());
    let id = group.add(request(prompt(1, 60), 60)).unwrap();
    group.step();
    group.abort(id);
    assert_eq!(group.records[&id].end, Some(End::Aborted));
    group.finish();
    assert_eq!(group.run(request(prompt(1, 60), 4)).cached_tokens, Some(48));
}

#[test]
fn a_complete_request_can_be_aborted_before_its_end_is_told() {
    let mut group = Group::new(&Limits::default());
    let mut complete = request(prompt(1, 20), 4);
    complete.prompt_tokens = 16;
    let usage = {
        let id = group.engine.add(complete, group.now()).unwrap();
        group.engine.abort(id)
    };
    assert_eq!(usage.unwrap().output_tokens, 0);
    assert!(group.engine.is_idle(), "nothing follows an abort");
}

#[test]
fn a_preempted_sequence_can_be_aborted_in_the_queue() {
    let limits = Limits { kv_blocks: 9, ..Limits::default() };
    let mut group = Group::new(&limits);
    let mut ids = Vec::new();
    for (seed, tokens) in [(1, 40), (2, 40)] {
        let mut request = request(prompt(seed, tokens), 60);
        request.sampling.ignore_eos = true;
        ids.push(group.add(request).unwrap());
    }
    while group.engine.load().preemptions == 0 {
        group.step();
    }
    group.abort(ids[1]);
    group.finish();
    assert_eq!(group.records[&ids[0]].tokens.len(), 60);
}
