//! The group of one: nothing to wait for, nothing to add.

use super::{AbortHandle, Call, Collective, CollectiveError, Kind};

/// A group whose only rank is 0.
#[derive(Clone, Debug, Default)]
pub struct Solo {
    abort: AbortHandle,
}

impl Solo {
    /// Makes the group.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn with_abort(abort: AbortHandle) -> Self {
        Self { abort }
    }

    fn check(&self, kind: Kind, root: usize, len: usize) -> Result<(), CollectiveError> {
        if self.abort.is_aborted() {
            return Err(CollectiveError::Aborted);
        }
        Call::new(kind, root, len, 1).map(drop)
    }
}

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn all_reduce_sum(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        self.check(Kind::AllReduce, 0, x.len())
    }

    fn gather(
        &mut self,
        root: usize,
        x: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<(), CollectiveError> {
        self.check(Kind::Gather, root, x.len())?;
        out.clear();
        out.extend_from_slice(x);
        Ok(())
    }

    fn broadcast(&mut self, root: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        self.check(Kind::Broadcast, root, bytes.len())
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.check(Kind::Barrier, 0, 0)
    }
}
