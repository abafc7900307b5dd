//! Do two ranks mean the same operation?

use std::fmt;

use super::{CollectiveError, VALUES_MAX};

/// What a rank calls, in a form that two ranks can compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) kind: Kind,
    /// The receiving or sending rank, 0 where there is none.
    pub(super) root: u32,
    /// Values for sums and gathers, bytes for broadcasts, 0 for barriers.
    pub(super) len: u64,
}

/// The operations, numbered as they travel between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    AllReduce = 1,
    Gather = 2,
    Broadcast = 3,
    Barrier = 4,
}

impl Kind {
    pub(super) fn of(number: u32) -> Option<Self> {
        [Self::AllReduce, Self::Gather, Self::Broadcast, Self::Barrier]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce_sum",
            Self::Gather => "gather",
            Self::Broadcast => "broadcast",
            Self::Barrier => "barrier",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, root, len } = self;
        match kind {
            Kind::AllReduce => write!(f, "all_reduce_sum of {len} values"),
            Kind::Gather => write!(f, "gather of {len} values to rank {root}"),
            Kind::Broadcast => write!(f, "broadcast of {len} bytes from rank {root}"),
            Kind::Barrier => f.write_str("barrier"),
        }
    }
}

impl Call {
    /// Checks the arguments that can be checked without the others.
    pub(super) fn new(
        kind: Kind,
        root: usize,
        len: usize,
        world_size: usize,
    ) -> Result<Self, CollectiveError> {
        let limit =
            if kind == Kind::Broadcast { VALUES_MAX * size_of::<f32>() } else { VALUES_MAX };
        if root >= world_size {
            return Err(CollectiveError::Invalid(format!(
                "{} names rank {root} in a group of {world_size}",
                kind.name()
            )));
        }
        if len > limit {
            return Err(CollectiveError::Invalid(format!(
                "{} of {len} is above the limit of {limit}",
                kind.name()
            )));
        }
        Ok(Self { kind, root: root as u32, len: len as u64 })
    }

    /// Compares with what `rank` called, given as it came from the wire or the segment.
    ///
    /// Only a gather may bring another length, and never more than [`VALUES_MAX`].
    pub(super) fn agree(&self, rank: usize, theirs: RawCall) -> Result<usize, CollectiveError> {
        let mismatch =
            |theirs: String| CollectiveError::Mismatch { rank, ours: self.to_string(), theirs };
        let Some(kind) = Kind::of(theirs.kind) else {
            return Err(mismatch(format!("operation number {}", theirs.kind)));
        };
        let theirs = Call { kind, root: theirs.root, len: theirs.len };
        let len_fits =
            self.len == theirs.len || (kind == Kind::Gather && theirs.len <= VALUES_MAX as u64);
        if kind != self.kind || theirs.root != self.root || !len_fits {
            return Err(mismatch(theirs.to_string()));
        }
        Ok(theirs.len as usize)
    }
}

/// A [`Call`] as another process wrote it, not yet believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawCall {
    pub(super) kind: u32,
    pub(super) root: u32,
    pub(super) len: u64,
}

impl From<Call> for RawCall {
    fn from(call: Call) -> Self {
        Self { kind: call.kind as u32, root: call.root, len: call.len }
    }
}
