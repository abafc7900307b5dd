//! What do routers learn about the cache?
//!
//! A delta says what changed since the last one was taken, however much that was: what came and went in between is
//! not mentioned. A snapshot says what is there.

use glint_core::WireHash;

use super::{NodeRef, Pool};

/// Blocks that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// What precedes the first of them; nothing if it is the first of a prompt.
    pub parent: Option<WireHash>,
    /// Their hashes, each the parent of the next.
    pub hashes: Vec<WireHash>,
}

/// Blocks that entered or left the cache. Removed apply first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDelta {
    /// Blocks that left, children before or after parents.
    pub removed: Vec<WireHash>,
    /// Blocks that entered, parents before children.
    pub stored: Vec<BlockRun>,
}

impl BlockDelta {
    /// Returns whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.stored.is_empty()
    }
}

impl Pool {
    /// Returns what changed since the last call.
    pub fn take_delta(&mut self) -> BlockDelta {
        let stored = std::mem::take(&mut self.stored);
        let stored: Vec<NodeRef> = stored.into_iter().filter(|&at| self.lives(at)).collect();
        for at in &stored {
            self.nodes[at.index as usize].fresh = false;
        }
        BlockDelta { removed: std::mem::take(&mut self.removed), stored: self.runs(stored) }
    }

    /// Returns all that is published, including what no delta has told yet: take the delta first.
    #[must_use]
    pub fn snapshot(&self) -> Vec<BlockRun> {
        let mut children = vec![Vec::new(); self.nodes.len()];
        let mut open = Vec::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            let at = NodeRef { index: index as u32, generation: node.generation };
            match node.parent {
                Some(parent) => children[parent.index as usize].push(at),
                None => open.push(at),
            }
        }
        let mut order = Vec::with_capacity(self.index.len());
        while let Some(at) = open.pop() {
            order.push(at);
            open.append(&mut children[at.index as usize]);
        }
        self.runs(order)
    }

    /// Joins blocks that follow each other.
    fn runs(&self, order: impl IntoIterator<Item = NodeRef>) -> Vec<BlockRun> {
        let mut runs: Vec<BlockRun> = Vec::new();
        for at in order {
            let node = &self.nodes[at.index as usize];
            let hash = node.hash.wire();
            let parent = node.parent.map(|at| self.nodes[at.index as usize].hash.wire());
            match runs.last_mut() {
                Some(run) if parent.is_some() && run.hashes.last() == parent.as_ref() => {
                    run.hashes.push(hash);
                }
                _ => runs.push(BlockRun { parent, hashes: vec![hash] }),
            }
        }
        runs
    }

    pub(super) fn note_stored(&mut self, at: NodeRef) {
        self.stored.push(at);
        // Nobody takes deltas: keep what a delta would say, which the pool bounds.
        if self.stored.len() > 2 * self.blocks.len() {
            let stored = std::mem::take(&mut self.stored);
            self.stored = stored.into_iter().filter(|&at| self.lives(at)).collect();
        }
    }
}
