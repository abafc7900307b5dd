//! What can go wrong between ranks, and who is to blame?

use std::fmt;
use std::time::Duration;

/// Why a group's operation, or its forming, came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// A rank did not come in time: it is stopped, overloaded, or cut off.
    #[error("rank {rank} did not come to {op} within {} ms", waited.as_millis())]
    Timeout {
        /// The rank that did not come.
        rank: usize,
        /// What the others were doing.
        op: &'static str,
        /// How long this rank waited for it.
        waited: Duration,
    },
    /// A rank is gone, or gave up on the group.
    #[error("rank {rank} is lost: {why}")]
    PeerLost {
        /// The rank that is lost.
        rank: usize,
        /// What was seen.
        why: String,
    },
    /// Another thread of this process called [`AbortHandle::abort`](super::AbortHandle::abort).
    #[error("the group was aborted")]
    Aborted,
    /// Two ranks called different operations, or the same with lengths that do not fit.
    #[error("ranks are out of step: this rank called {ours}, rank {rank} called {theirs}")]
    Mismatch {
        /// The rank that called something else.
        rank: usize,
        /// What this rank called.
        ours: String,
        /// What that rank called.
        theirs: String,
    },
    /// The group at this address is another one, or does not want this rank.
    #[error("cannot join the group at {address}: {why}")]
    Refused {
        /// Where the group was to be.
        address: String,
        /// What does not fit.
        why: String,
    },
    /// An argument cannot be right on any rank.
    #[error("{0}")]
    Invalid(String),
    /// The operating system refused memory or a socket.
    #[error("cannot {what}: {why}")]
    System {
        /// What was asked of it, as a verb phrase.
        what: String,
        /// What it said.
        why: String,
    },
}

impl CollectiveError {
    pub(super) fn system(what: impl Into<String>, error: impl fmt::Display) -> Self {
        Self::System { what: what.into(), why: error.to_string() }
    }

    /// Returns the rank that the others are to blame when rank `own` gives up with this error.
    pub(super) fn culprit(&self, own: usize) -> usize {
        match self {
            Self::Timeout { rank, .. }
            | Self::PeerLost { rank, .. }
            | Self::Mismatch { rank, .. } => *rank,
            Self::Aborted | Self::Refused { .. } | Self::Invalid(_) | Self::System { .. } => own,
        }
    }

    /// What rank `own` makes of it that rank `by` gave up and blamed `culprit`, a number not yet believed.
    pub(super) fn told(own: usize, by: usize, culprit: usize, world_size: usize) -> Self {
        let (rank, why) = if culprit == own || culprit >= world_size {
            (by, "it gave up on this rank".to_owned())
        } else if culprit == by {
            (by, "it gave up on the group".to_owned())
        } else {
            (culprit, format!("rank {by} gave up on it"))
        };
        Self::PeerLost { rank, why }
    }
}
