//! Is every block accounted for?

use std::collections::BTreeSet;

use super::{Node, Pool};

impl Pool {
    /// Checks that every block is free, cached or owned exactly once, and that the tree of nodes is one.
    ///
    /// # Errors
    ///
    /// A sentence about the first contradiction.
    pub fn audit(&self) -> Result<(), String> {
        self.audit_blocks()?;
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.alive) {
            self.audit_node(index as u32, node).map_err(|what| format!("node {index}: {what}"))?;
        }
        let alive = || self.nodes.iter().enumerate().filter(|(_, node)| node.alive);
        claim(self.index.len() == alive().count(), "the index has one entry per node")?;
        let leaves: BTreeSet<_> = alive()
            .filter(|(_, node)| node.owners == 0 && node.children == 0)
            .map(|(index, node)| (node.released_at, index as u32))
            .collect();
        claim(leaves == self.leaves, "the leaves are the nodes without owners and children")?;
        let vacant: BTreeSet<_> = self.vacant.iter().collect();
        claim(vacant.len() == self.vacant.len(), "no place is vacant twice")?;
        claim(vacant.len() + alive().count() == self.nodes.len(), "a place is vacant or alive")
    }

    fn audit_blocks(&self) -> Result<(), String> {
        let free: BTreeSet<u32> = self.free.iter().copied().collect();
        claim(free.len() == self.free.len(), "no block is free twice")?;
        let mut cached = 0;
        for (id, block) in self.blocks.iter().enumerate() {
            let is_free = free.contains(&(id as u32));
            let is_cached = block.owners == 0 && block.node.is_some();
            cached += u32::from(is_cached);
            let states = [is_free, is_cached, block.owners > 0];
            if states.iter().filter(|&&state| state).count() != 1 {
                return Err(format!("block {id} is [free, cached, owned] = {states:?}"));
            }
            if let Some(node) = block.node {
                let node = &self.nodes[node as usize];
                let copies = node.copies.iter().filter(|&&copy| copy == id as u32).count();
                claim(node.alive && copies == 1, "a described block is a copy of its node")?;
            }
        }
        claim(cached == self.cached, "cached blocks are counted")
    }

    fn audit_node(&self, index: u32, node: &Node) -> Result<(), String> {
        let owners = node.copies.iter().map(|&copy| self.blocks[copy as usize].owners).sum();
        claim(node.owners == owners, "its owners are its copies' owners")?;
        claim(!node.copies.is_empty(), "it has a copy")?;
        claim(node.copies.len() == 1 || node.owners > 0, "only owned nodes have several copies")?;
        for &copy in &node.copies {
            let block = &self.blocks[copy as usize];
            claim(block.node == Some(index), "its copies know it")?;
            claim(node.copies.len() == 1 || block.owners > 0, "surplus copies are owned")?;
        }
        claim(self.index.get(&node.hash.wire()) == Some(&index), "its hash leads to it")?;
        let is_child =
            |child: &&Node| child.alive && child.parent.is_some_and(|at| at.index == index);
        let children = self.nodes.iter().filter(is_child).count();
        claim(children == node.children as usize, "its children are counted")?;
        let Some(at) = node.parent else { return Ok(()) };
        claim(self.lives(at), "its parent lives")?;
        let parent = &self.nodes[at.index as usize];
        claim(parent.owners >= node.owners, "who owns it owns its parent")?;
        claim(parent.namespace == node.namespace, "its parent is of its namespace")
    }
}

fn claim(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("not true that {what}")) }
}
