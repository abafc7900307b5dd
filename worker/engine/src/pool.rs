//! Which KV blocks are free, which are owned, and which hold the beginning of somebody's prompt?
//!
//! A block is *free* (it holds nothing), *owned* (sequences count on it) or *cached* (nobody owns it, but it holds
//! tokens that a later prompt may begin with). What a full block holds is described by a *node*: tokens, namespace
//! and the node before it. Sequences that computed the same tokens side by side hold *copies* of one node; when
//! the last owner goes, one copy stays.
//!
//! **Invariant.** Who owns a copy of a node owns copies of all nodes before it. So below a node without owners
//! there are no owners either, and all cached blocks can be evicted, oldest leaf first: `available` needs no look at
//! the tree.
//!
//! **Invariant.** A node is found by its wire hash, so there is one per wire hash, and used only if the whole
//! hash, the namespace, the tokens and the already verified parent are equal. What collides is not cached.

mod audit;
mod cache;
mod publish;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use glint_core::WireHash;

use crate::config::PrefixCache;
use cache::Node;

pub use cache::{Contents, Hit, NameBlock, NodeRef, Parent};
pub use publish::{BlockDelta, BlockRun};

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    owners: u32,
    node: Option<u32>,
}

/// The KV blocks of a group. Ranks hold the same blocks under the same numbers, so the pool exists once.
#[derive(Debug)]
pub struct Pool {
    cache: PrefixCache,
    name: NameBlock,
    blocks: Vec<Block>,
    free: Vec<u32>,
    nodes: Vec<Node>,
    vacant: Vec<u32>,
    index: HashMap<WireHash, u32>,
    /// Nodes without owners and children, by the time they were released.
    leaves: BTreeSet<(u64, u32)>,
    /// Blocks that are cached.
    cached: u32,
    releases: u64,
    removed: Vec<WireHash>,
    stored: Vec<NodeRef>,
}

impl Pool {
    /// Returns a pool of free blocks, numbered from 0.
    #[must_use]
    pub fn new(blocks: u32, cache: PrefixCache) -> Self {
        Self::with_names(blocks, cache, Parent::name)
    }

    /// Returns a pool that names blocks its own way, for tests with forged collisions.
    #[must_use]
    pub fn with_names(blocks: u32, cache: PrefixCache, name: NameBlock) -> Self {
        Self {
            cache,
            name,
            blocks: vec![Block::default(); blocks as usize],
            free: (0..blocks).rev().collect(),
            nodes: Vec::new(),
            vacant: Vec::new(),
            index: HashMap::new(),
            leaves: BTreeSet::new(),
            cached: 0,
            releases: 0,
            removed: Vec::new(),
            stored: Vec::new(),
        }
    }

    /// Returns the number of blocks.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Returns the number of blocks that [`allocate`](Self::allocate) could hand out: free and cached ones.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.free.len() as u32 + self.cached
    }

    /// Returns how many tables a block stands in.
    #[must_use]
    pub fn owners(&self, block: u32) -> u32 {
        self.blocks[block as usize].owners
    }

    /// Returns whether full blocks are kept at all.
    #[must_use]
    pub fn caches(&self) -> bool {
        self.cache == PrefixCache::On
    }

    /// Returns a block with one owner and no contents; evicts the oldest leaf if no block is free.
    pub fn allocate(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let (_, oldest) = self.leaves.pop_first()?;
            self.evict(oldest);
        }
        let block = self.free.pop()?;
        self.blocks[block as usize].owners = 1;
        Some(block)
    }

    /// Takes one owner from each of the blocks, a sequence's whole table. Described blocks without owners stay as
    /// cached ones, all others become free.
    pub fn release(&mut self, table: &[u32]) {
        self.releases += 1;
        for &block in table {
            let state = &mut self.blocks[block as usize];
            state.owners = state.owners.checked_sub(1).expect("tables hold only owned blocks");
            let gone = state.owners == 0;
            let Some(index) = state.node else {
                if gone {
                    self.free.push(block);
                }
                continue;
            };
            let node = &mut self.nodes[index as usize];
            node.owners -= 1;
            if node.owners == 0 {
                node.released_at = self.releases;
                self.cached += 1;
                if node.children == 0 {
                    self.leaves.insert((node.released_at, index));
                }
            } else if gone {
                node.copies.retain(|&copy| copy != block);
                self.blocks[block as usize].node = None;
                self.free.push(block);
            }
        }
    }

    fn evict(&mut self, index: u32) {
        let parent = self.nodes[index as usize].parent;
        self.retire(index);
        if let Some(NodeRef { index: parent, .. }) = parent {
            let node = &self.nodes[parent as usize];
            if node.owners == 0 && node.children == 0 {
                self.leaves.insert((node.released_at, parent));
            }
        }
    }

    /// Ends a node's life: its blocks become free or their owners' own.
    fn retire(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        node.alive = false;
        let (hash, fresh, parent) = (node.hash.wire(), node.fresh, node.parent);
        if node.owners == 0 {
            self.cached -= 1;
        }
        for copy in std::mem::take(&mut node.copies) {
            self.blocks[copy as usize].node = None;
            if self.blocks[copy as usize].owners == 0 {
                self.free.push(copy);
            }
        }
        if let Some(parent) = parent {
            self.nodes[parent.index as usize].children -= 1;
        }
        self.index.remove(&hash);
        self.vacant.push(index);
        if !fresh {
            self.removed.push(hash);
        }
    }
}
