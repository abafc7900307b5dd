//! What does the cache hold, and is it what a prompt begins with?

use glint_core::{BLOCK_SIZE_TOKENS, BlockHash, Namespace};

use super::Pool;

/// The tokens of one block.
pub(super) type Tokens = [u32; BLOCK_SIZE_TOKENS];

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
    pub(super) index: u32,
    pub(super) generation: u32,
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

#[derive(Debug)]
pub(super) struct Node {
    pub(super) generation: u32,
    pub(super) alive: bool,
    pub(super) hash: BlockHash,
    pub(super) namespace: Namespace,
    pub(super) parent: Option<NodeRef>,
    pub(super) tokens: Tokens,
    /// Blocks with these contents: owned ones, or a single cached one.
    pub(super) copies: Vec<u32>,
    /// Owners of all copies together.
    pub(super) owners: u32,
    /// Living nodes right behind this one.
    pub(super) children: u32,
    /// When its last owner went, in releases.
    pub(super) released_at: u64,
    /// Stored since the last delta was taken.
    pub(super) fresh: bool,
}

impl Pool {
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

    pub(super) fn lives(&self, at: NodeRef) -> bool {
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
