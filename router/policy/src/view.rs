//! What does one group hold?
//!
//! A snapshot replaces the view as a whole, once its last chunk is in; deltas then follow without gaps. After a gap the
//! view stays as it was, as a prediction, until the stream that was resumed has caught up.

use std::collections::HashSet;

use glint_core::{Epoch, WireHash};

/// Up to where a view has followed its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The group's life.
    pub epoch: Epoch,
    /// The last sequence number applied.
    pub sequence: u64,
}

/// One chunk of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The state that it describes; equal in all chunks.
    pub position: Position,
    /// Names of blocks that the group holds.
    pub stored: Vec<WireHash>,
    /// Whether no further chunk follows.
    pub is_last: bool,
}

/// A message that does not fit what came before; the stream must be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Deltas are missing.
    #[error("delta {got} came where {expected} was due")]
    Gap {
        /// The sequence number that was due.
        expected: u64,
        /// The one that came.
        got: u64,
    },
    /// A delta came before any snapshot was complete.
    #[error("delta {got} came before a whole snapshot")]
    NoSnapshot {
        /// Its sequence number.
        got: u64,
    },
    /// The group says that it holds more than it can.
    #[error("more than {blocks_max} blocks were announced, the group has no more")]
    TooManyBlocks {
        /// The group's KV blocks.
        blocks_max: usize,
    },
}

/// The blocks that one group holds, as far as it has told.
#[derive(Clone, Debug)]
pub struct View {
    blocks_max: usize,
    held: HashSet<WireHash>,
    position: Option<Position>,
    /// A snapshot whose last chunk is not in yet.
    incoming: Option<(Position, HashSet<WireHash>)>,
}

impl View {
    /// Returns an empty view of a group that has `blocks_max` KV blocks.
    #[must_use]
    pub fn new(blocks_max: usize) -> Self {
        Self { blocks_max, held: HashSet::new(), position: None, incoming: None }
    }

    /// Returns where to resume; nothing if a snapshot is needed.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Returns how many blocks are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns whether no block is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Returns how many leading blocks of a prompt the group holds.
    #[must_use]
    pub fn cached_blocks(&self, chain: &[WireHash]) -> usize {
        chain.iter().take_while(|name| self.held.contains(name)).count()
    }

    /// Forgets a snapshot that broke off: the stream it came by has ended.
    pub fn interrupt(&mut self) {
        self.incoming = None;
    }

    /// Takes a chunk of a snapshot. The view changes with the last one.
    ///
    /// # Errors
    ///
    /// More blocks than the group has. The chunks so far are forgotten.
    pub fn apply_snapshot(&mut self, chunk: Snapshot) -> Result<(), ViewError> {
        let mut held = match self.incoming.take() {
            Some((position, held)) if position == chunk.position => held,
            Some(_) | None => HashSet::new(),
        };
        held.extend(chunk.stored);
        self.check(held.len())?;
        if chunk.is_last {
            self.held = held;
            self.position = Some(chunk.position);
        } else {
            self.incoming = Some((chunk.position, held));
        }
        Ok(())
    }

    /// Takes a delta: `removed` go, then `stored` come.
    ///
    /// # Errors
    ///
    /// It is not the one that is due; the view stays as it was. Or the group holds more than it can; the next resume asks
    /// for a snapshot then.
    pub fn apply_delta(
        &mut self,
        sequence: u64,
        removed: &[WireHash],
        stored: &[WireHash],
    ) -> Result<(), ViewError> {
        if self.incoming.is_some() {
            return Err(ViewError::NoSnapshot { got: sequence });
        }
        let Some(position) = &mut self.position else {
            return Err(ViewError::NoSnapshot { got: sequence });
        };
        let expected = position.sequence.wrapping_add(1);
        if sequence != expected {
            return Err(ViewError::Gap { expected, got: sequence });
        }
        position.sequence = sequence;
        for name in removed {
            self.held.remove(name);
        }
        self.held.extend(stored);
        self.check(self.held.len()).inspect_err(|_| {
            self.position = None;
            self.held.clear();
        })
    }

    fn check(&self, blocks: usize) -> Result<(), ViewError> {
        if blocks > self.blocks_max {
            return Err(ViewError::TooManyBlocks { blocks_max: self.blocks_max });
        }
        Ok(())
    }
}
