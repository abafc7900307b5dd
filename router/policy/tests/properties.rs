//! What holds for every order of messages, and for every set of candidates?

use std::collections::BTreeSet;

use glint_core::{Epoch, LoadSnapshot, WireHash};
use glint_policy::{Candidate, Position, Snapshot, View, ViewError, choose};
use proptest::collection::vec;
use proptest::prelude::*;

/// Few names, so that they meet all the time.
fn names() -> impl Strategy<Value = Vec<u64>> {
    vec(0_u64..6, 0..5)
}

#[derive(Clone, Debug)]
enum Step {
    Snapshot { epoch: u64, sequence: u64, stored: Vec<u64>, is_last: bool },
    Delta { skip: u64, removed: Vec<u64>, stored: Vec<u64> },
    Interrupt,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u64..3, 0_u64..4, names(), any::<bool>()).prop_map(
            |(epoch, sequence, stored, is_last)| Step::Snapshot {
                epoch,
                sequence,
                stored,
                is_last
            }
        ),
        (prop_oneof![4 => Just(1_u64), 1 => 0_u64..4], names(), names())
            .prop_map(|(skip, removed, stored)| Step::Delta { skip, removed, stored }),
        Just(Step::Interrupt),
    ]
}

/// The slow and obvious view: whole snapshots as lists of chunks.
#[derive(Default)]
struct Model {
    held: BTreeSet<u64>,
    position: Option<(u64, u64)>,
    chunks: Vec<(u64, u64, Vec<u64>)>,
}

fn wire(names: &[u64]) -> Vec<WireHash> {
    names.iter().copied().map(WireHash).collect()
}

proptest! {
    #[test]
    fn a_view_is_what_the_messages_say(steps in vec(step(), 0..40), chain in names()) {
        let mut view = View::new(1_000);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Snapshot { epoch, sequence, stored, is_last } => {
                    let position = Position { epoch: Epoch(epoch), sequence };
                    let chunk = Snapshot { position, stored: wire(&stored), is_last };
                    prop_assert_eq!(view.apply_snapshot(chunk), Ok(()));
                    model.chunks.retain(|chunk| (chunk.0, chunk.1) == (epoch, sequence));
                    model.chunks.push((epoch, sequence, stored));
                    if is_last {
                        model.held = model.chunks.drain(..).flat_map(|chunk| chunk.2).collect();
                        model.position = Some((epoch, sequence));
                    }
                }
                Step::Delta { skip, removed, stored } => {
                    let sequence = model.position.map_or(0, |(_, last)| last) + skip;
                    let applied = view.apply_delta(sequence, &wire(&removed), &wire(&stored));
                    match model.position.filter(|_| model.chunks.is_empty()) {
                        None => prop_assert_eq!(applied, Err(ViewError::NoSnapshot { got: sequence })),
                        Some((_, last)) if skip != 1 => {
                            let gap = ViewError::Gap { expected: last + 1, got: sequence };
                            prop_assert_eq!(applied, Err(gap));
                        }
                        Some((epoch, _)) => {
                            prop_assert_eq!(applied, Ok(()));
                            model.held.retain(|name| !removed.contains(name));
                            model.held.extend(stored);
                            model.position = Some((epoch, sequence));
                        }
                    }
                }
                Step::Interrupt => {
                    view.interrupt();
                    model.chunks.clear();
                }
            }
            let position = model.position.map(|(epoch, sequence)| Position { epoch: Epoch(epoch), sequence });
            prop_assert_eq!(view.position(), position);
            prop_assert_eq!(view.len(), model.held.len());
            let cached = chain.iter().position(|name| !model.held.contains(name)).unwrap_or(chain.len());
            prop_assert_eq!(view.cached_blocks(&wire(&chain)), cached);
        }
    }

    #[test]
    fn a_view_never_holds_more_than_its_group_has(steps in vec(step(), 0..40), blocks_max in 0_usize..4) {
        let mut view = View::new(blocks_max);
        for step in steps {
            // Refusals are expected here; what counts is what is held.
            let _refused = match step {
                Step::Snapshot { epoch, sequence, stored, is_last } => {
                    let position = Position { epoch: Epoch(epoch), sequence };
                    view.apply_snapshot(Snapshot { position, stored: wire(&stored), is_last })
                }
                Step::Delta { skip, removed, stored } => {
                    let sequence = view.position().map_or(0, |position| position.sequence) + skip;
                    view.apply_delta(sequence, &wire(&removed), &wire(&stored))
                }
                Step::Interrupt => {
                    view.interrupt();
                    Ok(())
                }
            };
            prop_assert!(view.len() <= blocks_max);
        }
    }

    #[test]
    fn nobody_is_better_than_the_chosen_group(
        groups in vec((names(), prop::option::of((0_u32..4, 0_u64..3)), 0_u64..3), 1..6),
        chain in names(),
        turn in any::<u64>(),
    ) {
        let chain = wire(&chain);
        let known: Vec<(View, Option<LoadSnapshot>, u64)> = groups
            .into_iter()
            .map(|(held, load, unseen)| {
                let mut view = View::new(100);
                let position = Position { epoch: Epoch(1), sequence: 0 };
                view.apply_snapshot(Snapshot { position, stored: wire(&held), is_last: true }).unwrap();
                let load = load.map(|(running_sequences, queued_prefill_tokens)| LoadSnapshot {
                    running_sequences,
                    queued_prefill_tokens,
                    ..LoadSnapshot::default()
                });
                (view, load, unseen)
            })
            .collect();
        let candidates: Vec<_> = known
            .iter()
            .map(|(view, load, unseen_sequences)| Candidate {
                view,
                chain: &chain,
                load: load.as_ref(),
                unseen_sequences: *unseen_sequences,
            })
            .collect();
        let choice = choose(&candidates, turn).unwrap();
        let chosen = &candidates[choice.candidate];
        prop_assert_eq!(chosen.view.cached_blocks(&chain), choice.cached_blocks);
        for other in &candidates {
            let cached = other.view.cached_blocks(&chain);
            prop_assert!(cached <= choice.cached_blocks);
            if let (true, Some(mine), Some(theirs)) = (cached == choice.cached_blocks, chosen.load, other.load) {
                let sequences = |load: &LoadSnapshot, unseen| u64::from(load.running_sequences) + unseen;
                let (mine, theirs) =
                    (sequences(mine, chosen.unseen_sequences), sequences(theirs, other.unseen_sequences));
                prop_assert!(mine <= theirs);
            }
        }
    }
}
