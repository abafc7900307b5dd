//! Which group is this, and what can a caller do when it does not answer?

use std::time::Duration;

use glint_core::{Epoch, Failure, GroupId, Kind, ModelId};
use glint_fleet::Keys;

use crate::bond::Fault;

/// A replica group's names.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) keys: Keys,
    pub(crate) model: ModelId,
    pub(crate) group: GroupId,
    pub(crate) world_size: u32,
}

impl Identity {
    pub(crate) fn group_key(&self) -> String {
        self.keys.group(&self.model, &self.group)
    }

    pub(crate) fn rendezvous_key(&self, epoch: Epoch, rank: u32) -> String {
        self.keys.rendezvous(&self.model, &self.group, epoch, rank)
    }

    pub(crate) fn rendezvous_prefix(&self) -> String {
        self.keys.rendezvous_of(&self.model, &self.group)
    }
}

/// Why a group does not answer; another one may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GroupError {
    /// It failed while the request ran, or since.
    #[error("group {group} failed: {fault}")]
    Failed { group: GroupId, fault: Fault },
    /// Its ranks have not come together yet.
    #[error("group {group} is forming, ask again soon")]
    Forming { group: GroupId },
    /// The process ends.
    #[error("group {group} has ended, ask another one")]
    Over { group: GroupId },
    /// Its engine stands still, and nobody has found out why yet.
    #[error("group {group} did not answer within {waited:?}, ask another one")]
    Stuck { group: GroupId, waited: Duration },
    /// The caller read too slowly.
    #[error("{unread_tokens} tokens of the answer are unread, the sequence was ended")]
    TooSlow { unread_tokens: usize },
    /// The caller's time is up.
    #[error("the sequence did not end by its deadline")]
    Deadline,
    /// The sequence failed alone, and it is our fault.
    #[error("the sequence failed")]
    Sequence,
}

impl Failure for GroupError {
    fn kind(&self) -> Kind {
        match self {
            Self::Failed { .. } | Self::Forming { .. } | Self::Over { .. } | Self::Stuck { .. } => {
                Kind::Unavailable
            }
            Self::TooSlow { .. } => Kind::Cancelled,
            Self::Deadline => Kind::Deadline,
            Self::Sequence => Kind::Internal,
        }
    }
}
