//! Whatever happens, in whatever order: accounts balance, nobody starves, and tokens are those of a sequence alone.

use glint_core::{BlockHash, SamplingParams};
use glint_engine::{AdmitError, EngineRequest, NameBlock, Parent, PrefixCache};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::group::{Group, Limits, VOCAB_SIZE, alone};
use crate::record::End;
use crate::spy::{FAILS, FAILS_AFTER_TOKENS};

#[derive(Clone, Debug)]
enum Action {
    Add(EngineRequest),
    Abort(Index),
    Steps(u8),
    TakeDelta,
}

/// Names that differ, but for routers there are only two.
fn two_wire_hashes(parent: Parent, tokens: &[u32; 16]) -> BlockHash {
    BlockHash(parent.name(tokens).0 & !u128::from(u64::MAX - 1))
}

/// Four names for everything.
fn four_names(parent: Parent, tokens: &[u32; 16]) -> BlockHash {
    BlockHash(parent.name(tokens).0 & 3)
}

fn limits() -> impl Strategy<Value = Limits> {
    let names = select(vec![Parent::name as NameBlock, Parent::name, two_wire_hashes, four_names]);
    let prefix_cache = select(vec![PrefixCache::On, PrefixCache::On, PrefixCache::Off]);
    ((2..14_u32, 1..40_u32, 1..40_u32), (1..6_u32, 1..8_u32, 1..4_usize), names, prefix_cache)
        .prop_map(|((kv_blocks, step, chunk), (sequences, waiting, depth), names, prefix_cache)| {
            Limits {
                kv_blocks,
                step_tokens_max: step,
                chunk_tokens_max: chunk,
                sequences_max: sequences,
                waiting_max: waiting,
                depth,
                prefix_cache,
                names,
                ..Limits::default()
            }
        })
}

/// Prompts of few patterns, so that beginnings are often equal.
fn tokens() -> impl Strategy<Value = Vec<u32>> {
    (prop::collection::vec(0..2_u32, 0..4), prop::collection::vec(0..2_u32, 1..12)).prop_map(
        |(patterns, tail)| {
            let blocks =
                patterns.into_iter().flat_map(|pattern| (0..16).map(move |at| at * pattern % 3));
            blocks.chain(tail).collect()
        },
    )
}

fn sampling() -> impl Strategy<Value = SamplingParams> {
    let ends = (any::<bool>(), select(vec![vec![], vec![6], vec![5, 6]]), 0..10_u32);
    let logprobs = (prop::option::of(0..3_u32), prop::option::weighted(0.3, 0..3_u32));
    (1..40_u32, any::<bool>(), 0..3_u64, ends, logprobs).prop_map(
        |(max_tokens, is_greedy, seed, (ignore_eos, stop_token_ids, min_tokens), logprobs)| {
            SamplingParams {
                temperature: if is_greedy { 0.0 } else { 1.0 },
                ignore_eos,
                stop_token_ids,
                min_tokens: min_tokens.min(max_tokens),
                logprobs: logprobs.0,
                prompt_logprobs: logprobs.1,
                ..SamplingParams::plain(seed << 3, max_tokens)
            }
        },
    )
}

fn request() -> impl Strategy<Value = EngineRequest> {
    (tokens(), 0..4_u32, sampling(), 0..3_u8, prop::bool::weighted(0.05), 0..2_u64).prop_map(
        |(tokens, given_output, mut sampling, salt, fails, tag)| {
            // See `spy`: the seed tells the executor what it does not need to know.
            sampling.seed |= u64::from(salt) | if fails { FAILS } else { 0 };
            let prompt_tokens = (tokens.len() as u32).saturating_sub(given_output).max(1);
            let salt = vec![b's'; usize::from(salt)];
            EngineRequest { tokens, prompt_tokens, sampling, adapter: String::new(), salt, tag }
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => request().prop_map(Action::Add),
        1 => any::<Index>().prop_map(Action::Abort),
        5 => (1..8_u8).prop_map(Action::Steps),
        1 => Just(Action::TakeDelta),
    ]
}

fn act(group: &mut Group, limits: &Limits, action: Action) {
    match action {
        Action::Add(request) => {
            let waiting = group.engine.load().waiting_sequences;
            match group.add(request) {
                Ok(_) => assert!(waiting < limits.waiting_max),
                Err(AdmitError::QueueFull { waiting: told, waiting_max }) => {
                    assert!(told >= waiting && waiting_max == limits.waiting_max);
                }
                Err(AdmitError::OutOfBlocks { needed_blocks, total_blocks }) => {
                    assert!(needed_blocks > total_blocks && total_blocks == limits.kv_blocks);
                }
                Err(error) => panic!("{error}"),
            }
        }
        Action::Abort(which) => {
            let ids: Vec<_> = group.records.keys().copied().collect();
            if !ids.is_empty() {
                group.abort(*which.get(&ids));
            }
        }
        Action::Steps(steps) => (0..steps).for_each(|_| group.step()),
        Action::TakeDelta => drop(group.take_delta()),
    }
}

/// Compares everything that was told with what each sequence gets alone.
fn compare(group: &Group, limits: &Limits) {
    for (id, record) in &group.records {
        let (tokens, reason) = alone(&record.request, limits.end_probability);
        assert!(record.tokens.iter().all(|&token| token < VOCAB_SIZE));
        let told = &record.tokens;
        match record.end.as_ref().expect("all are over") {
            End::Finished(told_reason, _) => {
                assert_eq!((told, *told_reason), (&tokens, reason), "{id:?}");
            }
            End::Aborted => assert!(tokens.starts_with(told), "{id:?}: {told:?}, {tokens:?}"),
            End::Failed(_) => {
                assert!(record.request.sampling.seed & FAILS > 0, "{id:?} was not to fail");
                assert!(told.len() <= FAILS_AFTER_TOKENS as usize && tokens.starts_with(told));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_nobody_notices_but_the_clock(
        limits in limits(),
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let mut group = Group::new(&limits);
        for action in actions {
            act(&mut group, &limits, action);
        }
        group.finish();
        compare(&group, &limits);
    }
}
