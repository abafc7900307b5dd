//! What do a group's callers see of it?

use std::sync::Arc;

use glint_core::GroupId;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::block_log::BlockLog;
use crate::bond::{Bond, Fault};
use crate::engine_thread::Command;
use crate::group::GroupError;
use crate::load::{Limits, LoadReport, Routers};

/// A group that answers.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) group: GroupId,
    pub(crate) bond: Arc<Bond>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) log: Arc<BlockLog>,
    pub(crate) load: watch::Receiver<Arc<LoadReport>>,
    pub(crate) limits: Limits,
    pub(crate) routers: Arc<Routers>,
    pub(crate) context_tokens: u32,
    pub(crate) kv_blocks: u32,
}

impl Live {
    /// Lets the engine take no new sequences, and returns how many it has; 0 if it is gone.
    pub(crate) async fn drain(&self) -> u32 {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Drain { reply }).await;
        if sent.is_ok() { answer.await.unwrap_or(0) } else { 0 }
    }

    /// Returns what a request is told that the end of the epoch took.
    pub(crate) fn failed(&self, fault: Fault) -> GroupError {
        GroupError::Failed { group: self.group.clone(), fault }
    }
}

/// What the group is doing, as its callers see it.
///
/// ```text
/// Forming ──all ranks met──▶ Live ──drained──▶ Over
///    ▲                        │
///    └──────── fault ─────────┘
/// ```
#[derive(Clone, Debug)]
enum Phase {
    /// Ranks are missing; the fault is why the epoch before ended.
    Forming(Option<Fault>),
    Live(Arc<Live>),
    Over,
}

/// The group as its callers see it. One per process, over all epochs.
#[derive(Debug)]
pub(crate) struct Front {
    group: GroupId,
    phase: RwLock<Phase>,
    pub(crate) routers: Arc<Routers>,
    /// Cancelled when no new sequences are to be taken any more.
    drain: CancellationToken,
}

impl Front {
    pub(crate) fn new(group: GroupId) -> Self {
        let phase = RwLock::new(Phase::Forming(None));
        Self { group, phase, routers: Arc::default(), drain: CancellationToken::new() }
    }

    /// Returns the living group.
    ///
    /// # Errors
    ///
    /// There is none at the moment.
    pub(crate) fn live(&self) -> Result<Arc<Live>, GroupError> {
        let group = self.group.clone();
        match &*self.phase.read() {
            Phase::Live(live) => match live.bond.ended() {
                None => Ok(Arc::clone(live)),
                Some(fault) => Err(live.failed(fault.clone())),
            },
            Phase::Forming(Some(fault)) => Err(GroupError::Failed { group, fault: fault.clone() }),
            Phase::Forming(None) => Err(GroupError::Forming { group }),
            Phase::Over => Err(GroupError::Over { group }),
        }
    }

    /// Takes no new sequences from now on.
    pub(crate) fn drain(&self) {
        self.drain.cancel();
    }

    /// Waits until no new sequences are to be taken.
    pub(crate) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    // ## Forming => Live
    pub(super) fn lives(&self, live: Arc<Live>) {
        *self.phase.write() = Phase::Live(live);
    }

    // ## Live => Forming
    pub(super) fn failed(&self, fault: Fault) {
        *self.phase.write() = Phase::Forming(Some(fault));
    }

    // ## (Forming | Live) => Over
    pub(super) fn over(&self) {
        *self.phase.write() = Phase::Over;
    }
}
