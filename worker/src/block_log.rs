//! What changed in the cache since a router last heard of it?

use std::collections::VecDeque;
use std::sync::Arc;

use glint_core::WireHash;
use glint_engine::{BlockDelta, BlockRun};
use glint_proto::v1;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Block names that the log remembers; a router that missed more gets a snapshot.
const BLOCKS_KEPT_MAX: usize = 1 << 18;
/// Changes that the log remembers.
const DELTAS_KEPT_MAX: usize = 1 << 13;
/// Block names in one message: 8 bytes each, and as much again for runs that are short, are below 1 MiB.
pub(crate) const BLOCKS_PER_MESSAGE_MAX: usize = 1 << 15;

/// The latest changes of one epoch's cache, numbered from 1 without gaps.
#[derive(Debug)]
pub(crate) struct BlockLog {
    kept: Mutex<Kept>,
    latest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    deltas: VecDeque<Arc<v1::Delta>>,
    blocks: usize,
    latest: u64,
}

impl BlockLog {
    pub(crate) fn new() -> Self {
        Self { kept: Mutex::default(), latest: watch::Sender::new(0) }
    }

    /// Adds what changed, as one numbered change, or several when it is more than a message holds.
    pub(crate) fn push(&self, delta: BlockDelta) {
        if delta.is_empty() {
            return;
        }
        let mut kept = self.kept.lock();
        for removed in delta.removed.chunks(BLOCKS_PER_MESSAGE_MAX) {
            let removed = removed.iter().map(|hash| hash.0).collect();
            kept.add(|sequence| v1::Delta { sequence, removed, stored: Vec::new() });
        }
        for (index, stored) in messages(delta.stored).into_iter().enumerate() {
            match kept.deltas.back_mut().filter(|_| index == 0 && !delta.removed.is_empty()) {
                // The usual case: one evicted, one stored, one message.
                Some(last) if last.removed.len() + size_of(&stored) <= BLOCKS_PER_MESSAGE_MAX => {
                    kept.blocks += size_of(&stored);
                    let last = kept.deltas.back_mut().expect("it was just looked at");
                    Arc::make_mut(last).stored = stored;
                }
                Some(_) | None => {
                    kept.add(|sequence| v1::Delta { sequence, removed: Vec::new(), stored });
                }
            }
        }
        kept.forget();
        self.latest.send_replace(kept.latest);
    }

    /// Returns the number of the latest change.
    pub(crate) fn latest(&self) -> u64 {
        self.kept.lock().latest
    }

    /// Tells of each new change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Returns the changes after `sequence`, or nothing if some of them are forgotten or it is in the future.
    pub(crate) fn since(&self, sequence: u64) -> Option<Vec<Arc<v1::Delta>>> {
        let kept = self.kept.lock();
        let missed = usize::try_from(kept.latest.checked_sub(sequence)?).ok()?;
        let first = kept.deltas.len().checked_sub(missed)?;
        Some(kept.deltas.range(first..).cloned().collect())
    }
}

impl Kept {
    fn add(&mut self, make: impl FnOnce(u64) -> v1::Delta) {
        self.latest += 1;
        let delta = make(self.latest);
        self.blocks += size(&delta);
        self.deltas.push_back(Arc::new(delta));
    }

    fn forget(&mut self) {
        while self.deltas.len() > DELTAS_KEPT_MAX || self.blocks > BLOCKS_KEPT_MAX {
            let Some(oldest) = self.deltas.pop_front() else { break };
            self.blocks -= size(&oldest);
        }
    }
}

fn size(delta: &v1::Delta) -> usize {
    delta.removed.len() + size_of(&delta.stored)
}

fn size_of(runs: &[v1::Run]) -> usize {
    runs.iter().map(|run| run.hashes.len()).sum()
}

/// Cuts runs into messages. A run that is cut goes on under its last block as the parent.
pub(crate) fn messages(runs: Vec<BlockRun>) -> Vec<Vec<v1::Run>> {
    let mut messages = Vec::new();
    let (mut message, mut room) = (Vec::new(), BLOCKS_PER_MESSAGE_MAX);
    for run in runs {
        let mut parent = run.parent;
        let mut rest = run.hashes.as_slice();
        while !rest.is_empty() {
            if room == 0 {
                messages.push(std::mem::take(&mut message));
                room = BLOCKS_PER_MESSAGE_MAX;
            }
            let (piece, later) = rest.split_at(rest.len().min(room));
            room -= piece.len();
            message.push(v1::Run {
                parent: parent.map(|hash| hash.0),
                hashes: piece.iter().map(|hash: &WireHash| hash.0).collect(),
            });
            parent = piece.last().copied();
            rest = later;
        }
    }
    if !message.is_empty() {
        messages.push(message);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(hashes: std::ops::Range<u64>) -> BlockDelta {
        BlockDelta { removed: hashes.map(WireHash).collect(), stored: Vec::new() }
    }

    fn run(parent: Option<u64>, hashes: std::ops::Range<u64>) -> BlockRun {
        BlockRun { parent: parent.map(WireHash), hashes: hashes.map(WireHash).collect() }
    }

    fn numbers(log: &BlockLog, since: u64) -> Option<Vec<u64>> {
        log.since(since).map(|deltas| deltas.iter().map(|delta| delta.sequence).collect())
    }

    #[test]
    fn a_router_gets_what_it_missed_or_nothing_at_all() {
        let log = BlockLog::new();
        log.push(BlockDelta::default());
        for n in 1..=3 {
            log.push(removed(n..n + 1));
        }
        assert_eq!(numbers(&log, 0), Some(vec![1, 2, 3]));
        assert_eq!(numbers(&log, 2), Some(vec![3]));
        assert_eq!(numbers(&log, 3), Some(vec![]));
        assert_eq!(numbers(&log, 4), None);
        for _ in 0..DELTAS_KEPT_MAX {
            log.push(removed(0..1));
        }
        assert_eq!(numbers(&log, 2), None);
        assert_eq!(numbers(&log, 3).map(|n| n.len()), Some(DELTAS_KEPT_MAX));
    }

    #[test]
    fn what_left_and_what_came_travel_together_until_they_fill_a_message() {
        let log = BlockLog::new();
        log.push(BlockDelta { removed: vec![WireHash(9)], stored: vec![run(None, 0..2)] });
        let deltas = log.since(0).unwrap();
        assert_eq!((deltas.len(), deltas[0].removed.len(), deltas[0].stored.len()), (1, 1, 1));

        let many = BLOCKS_PER_MESSAGE_MAX as u64;
        let removed = (0..many + 1).map(WireHash).collect();
        log.push(BlockDelta { removed, stored: vec![run(None, 0..many)] });
        let deltas = log.since(1).unwrap();
        assert_eq!(deltas.iter().map(|delta| delta.sequence).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(deltas.iter().all(|delta| size(delta) <= BLOCKS_PER_MESSAGE_MAX));
        assert_eq!(deltas.iter().map(|delta| size(delta)).sum::<usize>() as u64, 2 * many + 1);
    }

    #[test]
    fn the_log_is_bounded_in_blocks_as_well() {
        let log = BlockLog::new();
        let many = BLOCKS_PER_MESSAGE_MAX as u64;
        let kept = BLOCKS_KEPT_MAX / BLOCKS_PER_MESSAGE_MAX;
        (0..kept + 1).for_each(|_| log.push(removed(0..many)));
        assert_eq!(numbers(&log, 0), None);
        assert_eq!(numbers(&log, 1).map(|deltas| deltas.len()), Some(kept));
    }

    #[test]
    fn runs_are_cut_into_messages_that_follow_each_other() {
        assert_eq!(messages(Vec::new()), Vec::<Vec<v1::Run>>::new());
        let most = BLOCKS_PER_MESSAGE_MAX as u64;
        let cut = messages(vec![run(None, 0..10), run(Some(3), 10..2 * most + 5)]);
        let sizes: Vec<usize> = cut.iter().map(|runs| size_of(runs)).collect();
        assert_eq!(sizes, [most as usize, most as usize, 5]);
        assert_eq!(cut[0][1].parent, Some(3));
        assert_eq!(cut[1][0].parent, cut[0][1].hashes.last().copied());
        let all: Vec<u64> = cut.into_iter().flatten().flat_map(|run| run.hashes).collect();
        assert_eq!(all, (0..2 * most + 5).collect::<Vec<_>>());
    }
}
