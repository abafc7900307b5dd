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
mod publish;

use std::collections::{BTreeSet, HashMap};

use glint_core::{BLOCK_SIZE_TOKENS, BlockHash, Namespace, WireHash};

use crate::config::PrefixCache;

pub use publish::{BlockDelta, BlockRun};

/// The tokens of one block.
type Tokens = [u32; BLOCK_SIZE_TOKENS];

/// What a block's name is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// It is the first of its prompt.
    Root(Namespace),
    /// It follows this one.
    Block(BlockHash),
}

/// Names a block. [`Parent::name`] but in tests, which forge collisions.
pub type NameBlock = fn(Parent, &Tokens) -> BlockHash;

impl Parent {
    /// Returns the name of a block behind this parent (`FORMATS.md` section 1).
    #[must_use]
    pub fn name(self, tokens: &Tokens) -> BlockHash {
        match self {
            Self::Root(namespace) => namespace.first(tokens),
            Self::Block(parent) => parent.next(tokens),
        }
    }
}

/// A node, and which of its lives: a place is used again after an eviction, with another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeRef {
    index: u32,
    generation: u32,
}

/// A full block's contents, offered to the cache.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Weights, adapter and salt under which they were computed.
    pub namespace: Namespace,
    /// What precedes them; nothing for a first block.
    pub parent: Option<NodeRef>,
    /// Their name.
    pub hash: BlockHash,
    /// The tokens.
    pub tokens: &'a Tokens,
}

/// The verified beginning of a prompt in the cache. Void after any change of the pool.
#[derive(Clone, Debug, Default)]
pub struct Hit {
    nodes: Vec<NodeRef>,
    idle: u32,
}

impl Hit {
    /// Returns the number of blocks found.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Returns how many of them nobody owns: taking the hit makes that many blocks unavailable.
    #[must_use]
    pub fn idle_blocks(&self) -> u32 {
        self.idle
    }

    /// Returns the node of the last block found.
    #[must_use]
    pub fn last(&self) -> Option<NodeRef> {
        self.nodes.last().copied()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    owners: u32,
    node: Option<u32>,
}

#[derive(Debug)]
struct Node {
    generation: u32,
    alive: bool,
    hash: BlockHash,
    namespace: Namespace,
    parent: Option<NodeRef>,
    tokens: Tokens,
    /// Blocks with these contents: owned ones, or a single cached one.
    copies: Vec<u32>,
    /// Owners of all copies together.
    owners: u32,
    /// Living nodes right behind this one.
    children: u32,
    /// When its last owner went, in releases.
    released_at: u64,
    /// Stored since the last delta was taken.
    fresh: bool,
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

    /// Completes the names of the first `blocks` full blocks of `tokens`; `names` holds those already known.
    pub fn names(
        &self,
        namespace: Namespace,
        tokens: &[u32],
        blocks: usize,
        names: &mut Vec<BlockHash>,
    ) {
        let full = tokens.as_chunks().0;
        for tokens in full.iter().take(blocks).skip(names.len()) {
            let parent = names.last().map_or(Parent::Root(namespace), |&hash| Parent::Block(hash));
            names.push((self.name)(parent, tokens));
        }
    }

    /// Returns the longest beginning of `tokens` that is in the cache, of at most as many blocks as `names` has.
    #[must_use]
    pub fn find(&self, namespace: Namespace, tokens: &[u32], names: &[BlockHash]) -> Hit {
        let mut hit = Hit::default();
        for (tokens, &hash) in tokens.as_chunks().0.iter().zip(names) {
            let Some(&index) = self.index.get(&hash.wire()) else { break };
            let contents = Contents { namespace, parent: hit.last(), hash, tokens };
            let node = &self.nodes[index as usize];
            if !node.holds(&contents) {
                break;
            }
            hit.nodes.push(NodeRef { index, generation: node.generation });
            hit.idle += u32::from(node.owners == 0);
        }
        hit
    }

    /// Adds an owner to each block of a hit and returns them.
    pub fn take(&mut self, hit: &Hit) -> Vec<u32> {
        hit.nodes.iter().map(|&node| self.take_one(node)).collect()
    }

    fn take_one(&mut self, at: NodeRef) -> u32 {
        let node = &mut self.nodes[at.index as usize];
        assert!(node.generation == at.generation && node.alive, "a hit is taken as it was found");
        let block = node.copies[0];
        if node.owners == 0 {
            self.leaves.remove(&(node.released_at, at.index));
            self.cached -= 1;
        }
        node.owners += 1;
        self.blocks[block as usize].owners += 1;
        block
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

    /// Describes an owned block whose tokens are all computed, and returns its node, or nothing if it stays private:
    /// its name collides, its parent is no longer known, or nothing is cached.
    ///
    /// The block has one owner, who also owns the parent.
    pub fn keep(&mut self, block: u32, contents: Contents<'_>) -> Option<NodeRef> {
        debug_assert_eq!(self.blocks[block as usize].owners, 1, "only its owner knows the block");
        debug_assert_eq!(self.blocks[block as usize].node, None, "a block is described once");
        if !self.caches() || contents.parent.is_some_and(|parent| !self.lives(parent)) {
            return None;
        }
        let index = match self.index.get(&contents.hash.wire()) {
            Some(&index) if self.nodes[index as usize].holds(&contents) => index,
            Some(_) => return None,
            None => self.insert(&contents),
        };
        let node = &mut self.nodes[index as usize];
        if node.owners == 0 && !node.copies.is_empty() {
            // It was cached, and its new owner brought a copy along: one of the two is enough.
            self.leaves.remove(&(node.released_at, index));
            self.cached -= 1;
            for copy in node.copies.drain(..) {
                self.blocks[copy as usize].node = None;
                self.free.push(copy);
            }
        }
        node.copies.push(block);
        node.owners += 1;
        self.blocks[block as usize].node = Some(index);
        Some(NodeRef { index, generation: node.generation })
    }

    fn insert(&mut self, contents: &Contents<'_>) -> u32 {
        let &Contents { namespace, parent, hash, tokens } = contents;
        let mut node = Node {
            generation: 0,
            alive: true,
            hash,
            namespace,
            parent,
            tokens: *tokens,
            copies: Vec::new(),
            owners: 0,
            children: 0,
            released_at: 0,
            fresh: true,
        };
        let index = if let Some(index) = self.vacant.pop() {
            node.generation = self.nodes[index as usize].generation + 1;
            self.nodes[index as usize] = node;
            index
        } else {
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        };
        if let Some(parent) = parent {
            self.nodes[parent.index as usize].children += 1;
        }
        self.index.insert(hash.wire(), index);
        self.note_stored(NodeRef { index, generation: self.nodes[index as usize].generation });
        index
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

    /// Makes the cache forget what a sequence's table holds, from its first block on, and all that was computed from
    /// it, because it cannot be trusted. Owned blocks stay with their owners.
    pub fn forget(&mut self, table: &[u32]) {
        // Reversed, so that the first block is looked at first and everything else comes behind its parent.
        let mut open: Vec<u32> =
            table.iter().rev().filter_map(|&block| self.blocks[block as usize].node).collect();
        if open.is_empty() {
            return;
        }
        let mut children = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            if let Some(parent) = node.parent {
                children[parent.index as usize].push(index as u32);
            }
        }
        let mut order = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut seen[index as usize], true) {
                order.push(index);
                open.append(&mut children[index as usize]);
            }
        }
        for index in order.into_iter().rev() {
            self.leaves.remove(&(self.nodes[index as usize].released_at, index));
            self.evict(index);
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

    fn lives(&self, at: NodeRef) -> bool {
        let node = &self.nodes[at.index as usize];
        node.alive && node.generation == at.generation
    }
}

impl Node {
    /// Returns whether this is what the node holds, to the last token and, by induction, back to the first.
    fn holds(&self, contents: &Contents<'_>) -> bool {
        self.alive
            && self.hash == contents.hash
            && self.namespace == contents.namespace
            && self.parent == contents.parent
            && self.tokens == *contents.tokens
    }
}
