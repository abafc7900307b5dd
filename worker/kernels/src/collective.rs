//! How do the ranks of one group add up what each of them computed?
//!
//! A tensor-parallel step needs little: a sum over ranks after every row-split product, the logits brought
//! to one rank, a few bytes told to all. [`Collective`] is that and no more, over three transports with one
//! contract: threads of one process ([`threads`]), processes of one host ([`Transport::SharedMemory`]) and
//! processes of several hosts ([`Transport::Tcp`]). The sums are taken in rank order in f32 on every
//! transport, whatever the length, so all ranks see the same bits and a group may move from one transport
//! to another without a token changing.
//!
//! All ranks call the same operations in the same order with the same lengths; every operation ends when
//! all ranks have come to it. A rank that calls another operation, or brings another length, is a
//! [`CollectiveError::Mismatch`] on both sides. No wait is unbounded: a rank that does not come is named
//! in [`CollectiveError::Timeout`], one that died in [`CollectiveError::PeerLost`], and an [`AbortHandle`]
//! ends a wait from another thread within milliseconds. After the first error a handle answers nothing but
//! that error, because ranks that stopped at different places can never be in step again: the group
//! re-forms under a new epoch.
//!
//! Left out: encryption (ranks of a group trust their network; the token only keeps strangers and stale
//! ranks out), and GPUs (NCCL has its own launcher). Start with [`shared`] for the algorithm, then `tcp`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod address;
mod call;
mod error;
mod liveness;
mod region;
mod rendezvous;
pub mod shared;
mod solo;
pub mod tcp;

use call::{Call, Kind, RawCall};
pub use error::CollectiveError;
pub use rendezvous::{Host, Transport, host, join};
pub use shared::{SharedCollective, threads};
pub use solo::Solo;
pub use tcp::TcpCollective;

/// The most values one rank may bring to one operation: 1 GiB of f32, far above any logits.
///
/// A limit that both sides know keeps a peer gone mad from making us allocate what it says.
pub const VALUES_MAX: usize = 1 << 28;

/// The most ranks in a group.
pub const WORLD_SIZE_MAX: usize = 64;

/// Operations that all ranks of a group call in the same order.
///
/// After an error every further call returns that same error.
pub trait Collective: Send {
    /// Returns the rank of this participant, in `0..world_size`.
    fn rank(&self) -> usize;

    /// Returns how many ranks take part.
    fn world_size(&self) -> usize;

    /// Returns a handle with which another thread ends this participant's waits.
    fn abort_handle(&self) -> AbortHandle;

    /// Replaces `x` by its sum over ranks, added in rank order in f32: the same bits on every rank.
    ///
    /// `x` has the same length on every rank.
    ///
    /// # Errors
    /// See [`CollectiveError`]; the contents of `x` are then unspecified.
    fn all_reduce_sum(&mut self, x: &mut [f32]) -> Result<(), CollectiveError>;

    /// Brings every rank's `x` to `root`, where `out` becomes their concatenation in rank order.
    ///
    /// Each rank may bring another length. On the other ranks `out` is emptied.
    ///
    /// # Errors
    /// See [`CollectiveError`]; the contents of `out` are then unspecified.
    fn gather(&mut self, root: usize, x: &[f32], out: &mut Vec<f32>)
    -> Result<(), CollectiveError>;

    /// Copies `bytes` of rank `root` to all ranks; the length is the same on every rank.
    ///
    /// # Errors
    /// See [`CollectiveError`]; the contents of `bytes` are then unspecified.
    fn broadcast(&mut self, root: usize, bytes: &mut [u8]) -> Result<(), CollectiveError>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// See [`CollectiveError`].
    fn barrier(&mut self) -> Result<(), CollectiveError>;
}

impl<C: Collective + ?Sized> Collective for Box<C> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world_size(&self) -> usize {
        (**self).world_size()
    }

    fn abort_handle(&self) -> AbortHandle {
        (**self).abort_handle()
    }

    fn all_reduce_sum(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        (**self).all_reduce_sum(x)
    }

    fn gather(
        &mut self,
        root: usize,
        x: &[f32],
        out: &mut Vec<f32>,
    ) -> Result<(), CollectiveError> {
        (**self).gather(root, x, out)
    }

    fn broadcast(&mut self, root: usize, bytes: &mut [u8]) -> Result<(), CollectiveError> {
        (**self).broadcast(root, bytes)
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        (**self).barrier()
    }
}

/// Ends the waits of one participant, or of a whole [`Group`] that is forming, from another thread.
///
/// Clones are one handle. It cannot be undone.
#[derive(Clone, Debug, Default)]
pub struct AbortHandle(Arc<AtomicBool>);

impl AbortHandle {
    /// Makes a handle that has not been used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the waits now under way and all later ones with [`CollectiveError::Aborted`].
    pub fn abort(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Returns whether [`AbortHandle::abort`] was called.
    pub fn is_aborted(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What the ranks of a group must agree on before they meet, and how long each waits for the others.
#[derive(Clone, Debug)]
pub struct Group {
    /// How many ranks there are.
    pub world_size: usize,
    /// Which incarnation of the group this is: a rank of another epoch is refused.
    pub epoch: u64,
    /// The longest wait for another rank, while forming and in each round of an operation.
    pub timeout: Duration,
    /// Ends all waits of this participant, forming included.
    pub abort: AbortHandle,
}

impl Group {
    /// Describes a group whose waits nobody aborts yet.
    pub fn new(world_size: usize, epoch: u64, timeout: Duration) -> Self {
        Self { world_size, epoch, timeout, abort: AbortHandle::new() }
    }

    fn check(&self, rank: usize) -> Result<(), CollectiveError> {
        let Self { world_size, .. } = *self;
        if world_size == 0 || world_size > WORLD_SIZE_MAX {
            return Err(CollectiveError::Invalid(format!(
                "world size {world_size} is not in 1..={WORLD_SIZE_MAX}"
            )));
        }
        if rank >= world_size {
            return Err(CollectiveError::Invalid(format!(
                "rank {rank} does not exist in a group of {world_size}"
            )));
        }
        Ok(())
    }
}
