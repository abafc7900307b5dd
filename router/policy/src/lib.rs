//! Which group gets the next sequence?
//!
//! The one that holds most of its prompt already, and among those the one with least to do. What a group holds is known
//! from its Watch stream: a [`View`] applies snapshots and deltas in order and says how many leading blocks of a prompt
//! are in the group's cache. It is a *hint*: a stale view costs one prefill that was not needed, never a wrong token.
//!
//! Nothing here waits, locks or looks at a clock; even the tie-break is an argument. So a simulator can run the same
//! code. The interface is narrow on purpose, [`View::apply_snapshot`], [`View::apply_delta`], [`View::cached_blocks`] and
//! [`choose`]: a compressed index over all groups, or a cost in time, can take its place without its callers' notice.
//!
//! Start with [`choose`].

mod choose;
mod view;

pub use choose::{Candidate, Choice, choose};
pub use view::{Position, Snapshot, View, ViewError};
