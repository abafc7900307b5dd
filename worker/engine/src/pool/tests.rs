use std::collections::{BTreeMap, HashMap};

use glint_core::{BLOCK_SIZE_TOKENS, BlockHash, Namespace};
use proptest::prelude::*;

use super::cache::Tokens;
use super::*;

const SPACE: Namespace = Namespace(1);

/// A sequence that computes its tokens at once, as far as they are not in the cache.
struct Holder {
    table: Vec<u32>,
    cached_blocks: u32,
}

/// Gives a sequence all its full blocks, or as many as there are.
fn hold(pool: &mut Pool, namespace: Namespace, tokens: &[u32]) -> Holder {
    let blocks = tokens.len() / BLOCK_SIZE_TOKENS;
    let mut names = Vec::new();
    pool.names(namespace, tokens, blocks, &mut names);
    let hit = pool.find(namespace, tokens, &names);
    let mut parent = Some(hit.last());
    let mut table = pool.take(&hit);
    let cached_blocks = hit.blocks();
    for (tokens, &hash) in tokens.as_chunks().0.iter().zip(&names).skip(table.len()) {
        let Some(block) = pool.allocate() else { break };
        table.push(block);
        parent = parent
            .and_then(|parent| pool.keep(block, Contents { namespace, parent, hash, tokens }))
            .map(Some);
    }
    Holder { table, cached_blocks }
}

/// Returns how many blocks of these tokens the cache holds.
fn found(pool: &Pool, tokens: &[u32]) -> u32 {
    let mut names = Vec::new();
    pool.names(SPACE, tokens, tokens.len() / BLOCK_SIZE_TOKENS, &mut names);
    pool.find(SPACE, tokens, &names).blocks()
}

/// Returns whole blocks, each of one token over and over.
fn blocks_of(tokens: &[u32]) -> Vec<u32> {
    tokens.iter().flat_map(|&token| [token; BLOCK_SIZE_TOKENS]).collect()
}

#[test]
fn what_was_computed_is_found_again() {
    let mut pool = Pool::new(8, PrefixCache::On);
    let first = hold(&mut pool, SPACE, &blocks_of(&[1, 2, 3]));
    assert_eq!(first.cached_blocks, 0);
    let beside = hold(&mut pool, SPACE, &blocks_of(&[1, 2, 4]));
    assert_eq!((beside.cached_blocks, &beside.table[..2]), (2, &first.table[..2]));
    assert_eq!(pool.available(), 4);
    pool.release(&first.table);
    pool.release(&beside.table);
    assert_eq!(pool.available(), 8, "cached blocks are available");
    assert_eq!(found(&pool, &blocks_of(&[1, 2, 3, 9])), 3);
    assert_eq!(found(&pool, &blocks_of(&[2, 3])), 0, "the same tokens after others are no hit");
    assert_eq!(pool.audit(), Ok(()));
}

#[test]
fn the_oldest_leaf_goes_first() {
    let mut pool = Pool::new(4, PrefixCache::On);
    let old = hold(&mut pool, SPACE, &blocks_of(&[1, 2]));
    let young = hold(&mut pool, SPACE, &blocks_of(&[3, 4]));
    pool.release(&old.table);
    pool.release(&young.table);
    let mut left = Vec::new();
    for _ in 0..4 {
        pool.allocate().unwrap();
        left.push((found(&pool, &blocks_of(&[1, 2])), found(&pool, &blocks_of(&[3, 4]))));
        assert_eq!(pool.audit(), Ok(()));
    }
    assert_eq!(left, [(1, 2), (0, 2), (0, 1), (0, 0)]);
    assert_eq!(pool.allocate(), None);
}

#[test]
fn use_makes_young_again() {
    let mut pool = Pool::new(4, PrefixCache::On);
    let old = hold(&mut pool, SPACE, &blocks_of(&[1, 2]));
    let young = hold(&mut pool, SPACE, &blocks_of(&[3, 4]));
    pool.release(&old.table);
    pool.release(&young.table);
    let again = hold(&mut pool, SPACE, &blocks_of(&[1, 2]));
    assert_eq!(again.cached_blocks, 2);
    pool.release(&again.table);
    pool.allocate().unwrap();
    assert_eq!(found(&pool, &blocks_of(&[1, 2])), 2);
    assert_eq!(found(&pool, &blocks_of(&[3, 4])), 1);
}

#[test]
fn of_two_that_computed_the_same_one_stays() {
    let mut pool = Pool::new(6, PrefixCache::On);
    let tokens = blocks_of(&[1, 2]);
    let mut names = Vec::new();
    pool.names(SPACE, &tokens, 2, &mut names);
    let mut tables = [vec![], vec![]];
    let mut parents = [None, None];
    for (at, &hash) in names.iter().enumerate() {
        for side in 0..2 {
            let block = pool.allocate().unwrap();
            let tokens = &tokens.as_chunks().0[at];
            let contents = Contents { namespace: SPACE, parent: parents[side], hash, tokens };
            parents[side] = pool.keep(block, contents);
            tables[side].push(block);
        }
    }
    assert_eq!(parents[0], parents[1], "they are told to be the same");
    assert_eq!(pool.take_delta().stored.len(), 1, "they are published once");
    pool.release(&tables[0]);
    assert_eq!((pool.available(), pool.audit()), (4, Ok(())));
    pool.release(&tables[1]);
    assert_eq!((pool.available(), pool.audit()), (6, Ok(())));
    assert_eq!(pool.snapshot().iter().map(|run| run.hashes.len()).sum::<usize>(), 2);
    assert_eq!(pool.take_delta(), BlockDelta::default());
}

/// Names that differ, but not for routers.
fn one_wire_hash(parent: Parent, tokens: &Tokens) -> BlockHash {
    BlockHash(parent.name(tokens).0 & !u128::from(u64::MAX) | 7)
}

/// One name for everything.
fn one_name(_: Parent, _: &Tokens) -> BlockHash {
    BlockHash(7)
}

#[test]
fn a_forged_collision_is_neither_reused_nor_published() {
    for name in [one_wire_hash as NameBlock, one_name] {
        let mut pool = Pool::with_names(8, PrefixCache::On, name);
        let honest = hold(&mut pool, SPACE, &blocks_of(&[1]));
        let forged = hold(&mut pool, SPACE, &blocks_of(&[2]));
        assert_eq!(forged.cached_blocks, 0, "other tokens");
        let stranger = hold(&mut pool, Namespace(2), &blocks_of(&[1]));
        assert_eq!(stranger.cached_blocks, 0, "another namespace");
        let longer = hold(&mut pool, SPACE, &blocks_of(&[1, 1]));
        assert_eq!(longer.cached_blocks, 1, "the same tokens behind another parent");
        let stored = pool.take_delta().stored;
        assert_eq!(stored.iter().map(|run| run.hashes.len()).sum::<usize>(), 1);
        for holder in [forged, stranger, longer, honest] {
            pool.release(&holder.table);
            assert_eq!(pool.audit(), Ok(()));
        }
        assert_eq!(found(&pool, &blocks_of(&[1])), 1);
        assert_eq!(found(&pool, &blocks_of(&[2])), 0);
    }
}

#[test]
fn what_is_forgotten_is_not_found_and_goes_with_all_behind_it() {
    let mut pool = Pool::new(8, PrefixCache::On);
    let bad = hold(&mut pool, SPACE, &blocks_of(&[1, 2]));
    let behind = hold(&mut pool, SPACE, &blocks_of(&[1, 2, 3]));
    let beside = hold(&mut pool, SPACE, &blocks_of(&[4]));
    let gone = hold(&mut pool, SPACE, &blocks_of(&[1, 5]));
    pool.release(&gone.table);
    assert_eq!(pool.take_delta().removed, []);
    pool.forget(&bad.table);
    assert_eq!(pool.audit(), Ok(()));
    assert_eq!(pool.take_delta().removed.len(), 4);
    assert_eq!(found(&pool, &blocks_of(&[1, 2, 3])), 0);
    assert_eq!(found(&pool, &blocks_of(&[4])), 1);
    for holder in [bad, behind, beside] {
        pool.release(&holder.table);
        assert_eq!(pool.audit(), Ok(()));
    }
    assert_eq!(pool.available(), 8);
}

#[test]
fn nothing_is_kept_without_a_cache() {
    let mut pool = Pool::new(4, PrefixCache::Off);
    let holder = hold(&mut pool, SPACE, &blocks_of(&[1, 2]));
    pool.release(&holder.table);
    assert_eq!(found(&pool, &blocks_of(&[1, 2])), 0);
    assert!(pool.take_delta().is_empty() && pool.snapshot().is_empty());
}

#[test]
fn a_delta_is_silent_about_what_came_and_went() {
    let mut pool = Pool::new(1, PrefixCache::On);
    for token in 0..10 {
        let holder = hold(&mut pool, SPACE, &blocks_of(&[token]));
        pool.release(&holder.table);
    }
    let delta = pool.take_delta();
    assert_eq!((delta.removed.len(), delta.stored.len()), (0, 1));
    let holder = hold(&mut pool, SPACE, &blocks_of(&[10]));
    pool.release(&holder.table);
    let holder = hold(&mut pool, SPACE, &blocks_of(&[9]));
    pool.release(&holder.table);
    let again = pool.take_delta();
    assert_eq!(again.removed, again.stored[0].hashes, "gone and back: removed applies first");
}

/// What a router knows: each block and its parent.
type View = BTreeMap<WireHash, Option<WireHash>>;

fn store(view: &mut View, runs: &[BlockRun]) {
    for run in runs {
        let mut parent = run.parent;
        for &hash in &run.hashes {
            assert!(parent.is_none_or(|parent| view.contains_key(&parent)), "parents come first");
            assert_eq!(view.insert(hash, parent), None, "{hash} was published twice");
            parent = Some(hash);
        }
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Hold { namespace: u8, patterns: Vec<u32> },
    Release { nth: usize },
    Forget { nth: usize },
    TakeDelta,
}

fn deed() -> impl Strategy<Value = Deed> {
    let patterns = prop::collection::vec(0..2_u32, 0..5);
    prop_oneof![
        4 => (0..2_u8, patterns).prop_map(|(namespace, patterns)| Deed::Hold { namespace, patterns }),
        3 => (0..8_usize).prop_map(|nth| Deed::Release { nth }),
        1 => (0..8_usize).prop_map(|nth| Deed::Forget { nth }),
        1 => Just(Deed::TakeDelta),
    ]
}

/// Few names: everything collides with something.
fn four_names(parent: Parent, tokens: &Tokens) -> BlockHash {
    BlockHash(parent.name(tokens).0 & 3)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Every block is free, cached or owned, exactly once; what the cache gives holds what was asked for; and deltas
    /// add up to the snapshot, whatever happened before.
    #[test]
    fn the_pool_keeps_its_promises(
        blocks in 1..12_u32,
        name in prop::sample::select(vec![
            Parent::name as NameBlock, one_wire_hash, four_names, one_name,
        ]),
        deeds in prop::collection::vec(deed(), 1..60),
    ) {
        let mut pool = Pool::with_names(blocks, PrefixCache::On, name);
        let mut holders: Vec<Holder> = Vec::new();
        // What every block holds, by who wrote it last: the namespace and all tokens up to its end.
        let mut written: HashMap<u32, (u8, Vec<u32>)> = HashMap::new();
        let mut view = View::new();
        for deed in deeds {
            match deed {
                Deed::Hold { namespace, patterns } => {
                    let tokens = blocks_of(&patterns);
                    let space = Namespace(u128::from(namespace));
                    let holder = hold(&mut pool, space, &tokens);
                    for (at, &block) in holder.table.iter().enumerate() {
                        let contents = (namespace, patterns[..=at].to_vec());
                        if at < holder.cached_blocks as usize {
                            prop_assert_eq!(&written[&block], &contents);
                        } else {
                            let others = holders.iter().flat_map(|holder| &holder.table);
                            prop_assert!(!others.into_iter().any(|&other| other == block));
                            written.insert(block, contents);
                        }
                    }
                    holders.push(holder);
                }
                Deed::Release { nth } if nth < holders.len() => {
                    pool.release(&holders.swap_remove(nth).table);
                }
                Deed::Forget { nth } if nth < holders.len() => pool.forget(&holders[nth].table),
                Deed::Release { .. } | Deed::Forget { .. } => {}
                Deed::TakeDelta => {
                    let delta = pool.take_delta();
                    for hash in &delta.removed {
                        prop_assert!(view.remove(hash).is_some());
                    }
                    store(&mut view, &delta.stored);
                    let mut there = View::new();
                    store(&mut there, &pool.snapshot());
                    prop_assert_eq!(&view, &there);
                }
            }
            prop_assert_eq!(pool.audit(), Ok(()));
        }
        for holder in holders {
            pool.release(&holder.table);
        }
        prop_assert_eq!(pool.audit(), Ok(()));
        prop_assert_eq!(pool.available(), blocks);
    }
}
