//! What is computed once is used again, by those who may.

use glint_core::{BlockHash, Namespace};
use glint_engine::{NameBlock, Parent, PrefixCache};

use crate::group::{Group, Limits, alone, prompt, request};
use crate::spy::{FAILS, FAILS_AFTER_TOKENS};

#[test]
fn a_repeated_request_hits_and_gets_the_same_tokens() {
    let mut group = Group::new(&Limits::default());
    for (tokens, cached_tokens) in [(16, 0), (17, 16), (32, 16), (33, 32), (60, 48)] {
        let request = request(prompt(1, tokens), 8);
        let mut fresh = Group::new(&Limits::default());
        let first = fresh.run(request.clone()).tokens.clone();
        let again = fresh.run(request.clone());
        assert_eq!((again.cached_tokens, &again.tokens), (Some(cached_tokens), &first));
        // Longer and longer beginnings of one prompt: never more than what came before, and never wrong.
        assert_eq!(group.run(request).tokens, first);
    }
}

#[test]
fn an_answer_is_cached_for_the_next_turn() {
    let mut group = Group::new(&Limits::default());
    let mut first = request(prompt(1, 20), 40);
    first.sampling.ignore_eos = true;
    let mut tokens = first.tokens.clone();
    tokens.extend(&group.run(first).tokens);
    // The last of its 60 tokens was drawn and not computed.
    tokens.extend([1, 2, 3, 0, 1, 2, 3, 0]);
    assert_eq!(group.run(request(tokens, 5)).cached_tokens, Some(48));
}

#[test]
fn the_published_names_are_those_of_the_format() {
    let mut group = Group::new(&Limits::default());
    let mut request = request(prompt(1, 40), 1);
    request.salt = b"tenant-7".to_vec();
    group.run(request.clone());
    let mut fresh = Group::new(&Limits::default());
    let id = fresh.add(request.clone()).unwrap();
    while fresh.records[&id].end.is_none() {
        fresh.step();
    }
    let space = Namespace::new(&fresh.engine.config().digest, b"", b"tenant-7");
    let names: Vec<_> = space.chain(&request.tokens).into_iter().map(BlockHash::wire).collect();
    let delta = fresh.take_delta();
    assert_eq!((delta.stored.len(), delta.removed.len()), (1, 0));
    assert_eq!((delta.stored[0].parent, &delta.stored[0].hashes), (None, &names));
    assert_eq!(fresh.engine.snapshot(), delta.stored);
    assert!(fresh.take_delta().is_empty());
}

#[test]
fn different_salts_never_share() {
    let mut group = Group::new(&Limits::default());
    let of = |salt: &[u8]| {
        let mut request = request(prompt(1, 60), 8);
        request.salt = salt.to_vec();
        request.sampling.seed = salt.len() as u64;
        request
    };
    let first = group.run(of(b"")).tokens.clone();
    for salt in [b"a".as_slice(), b"ab", b"abc"] {
        let record = group.run(of(salt));
        assert_eq!((record.cached_tokens, &record.tokens), (Some(0), &first));
        assert_eq!(group.run(of(salt)).cached_tokens, Some(48));
    }
}

fn one_wire_hash(parent: Parent, tokens: &[u32; 16]) -> BlockHash {
    BlockHash(parent.name(tokens).0 & !u128::from(u64::MAX))
}

fn one_name(_: Parent, _: &[u32; 16]) -> BlockHash {
    BlockHash(0)
}

#[test]
fn forged_collisions_are_not_reused() {
    for names in [one_wire_hash as NameBlock, one_name] {
        let limits = Limits { names, ..Limits::default() };
        let mut group = Group::new(&limits);
        for seed in 1..4 {
            let request = request(prompt(seed, 50), 20);
            let record = group.run(request.clone());
            assert_eq!(record.tokens, alone(&request, limits.end_probability).0);
            if seed > 1 {
                assert_eq!(record.cached_tokens, Some(0), "other tokens under the same name");
            }
        }
        let published: usize = group.engine.snapshot().iter().map(|run| run.hashes.len()).sum();
        assert_eq!(published, 1, "one block per wire hash");
        assert_eq!(group.run(request(prompt(1, 50), 20)).cached_tokens, Some(16));
    }
}

#[test]
fn prompt_logprobs_forgo_the_cache_and_fill_it() {
    let mut group = Group::new(&Limits::default());
    let plain = request(prompt(1, 60), 4);
    let mut described = plain.clone();
    described.sampling.prompt_logprobs = Some(2);
    for _ in 0..2 {
        let record = group.run(described.clone());
        assert_eq!((record.cached_tokens, record.described), (Some(0), 60));
    }
    assert_eq!(group.run(plain).cached_tokens, Some(48));
}

#[test]
fn nothing_is_shared_or_published_without_a_cache() {
    let mut group = Group::new(&Limits { prefix_cache: PrefixCache::Off, ..Limits::default() });
    for _ in 0..2 {
        assert_eq!(group.run(request(prompt(1, 60), 4)).cached_tokens, Some(0));
    }
    assert!(group.take_delta().is_empty() && group.engine.snapshot().is_empty());
}

#[test]
fn what_may_be_broken_is_forgotten() {
    let mut group = Group::new(&Limits::default());
    group.run(request(prompt(1, 40), 4));
    let mut fails = request(prompt(1, 60), 10);
    fails.sampling.seed = FAILS;
    group.run(fails);
    assert!(group.engine.snapshot().is_empty());
    assert_eq!(group.run(request(prompt(1, 40), 4)).cached_tokens, Some(0));

    // Its first block becomes full with the plan that was in flight when it failed.
    let mut group = Group::new(&Limits::default());
    let mut fails = request(prompt(1, 16 - FAILS_AFTER_TOKENS), 10);
    fails.sampling.seed = FAILS;
    fails.sampling.min_tokens = 10;
    group.run(fails);
    assert!(group.engine.snapshot().is_empty());
}

#[test]
fn the_cache_makes_room_for_whoever_runs() {
    let limits = Limits { kv_blocks: 8, ..Limits::default() };
    let mut group = Group::new(&limits);
    for seed in 0..20 {
        group.run(request(prompt(seed, 60), 60));
        assert_eq!(group.engine.load().preemptions, 0, "cached blocks are free for the asking");
    }
}
