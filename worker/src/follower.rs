//! How does a rank follow rank 0, from epoch to epoch?
//!
//! It watches the rendezvous of its group for an epoch that it has not seen the end of, joins it, carries out plans, and
//! says every 100 ms that it lives. When anything breaks it leaves the epoch, tells the leader why if it can, and waits
//! for the next.

mod call;
mod rendezvous;

use std::sync::Arc;

use glint_core::{Epoch, ModelDigest};
use glint_service::{Drain, Readiness};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::bond::{Fault, pause_between_epochs};
use crate::config::WorkerConfig;
use crate::group::Identity;
use crate::rank::Rank;
use call::Refused;
pub(crate) use rendezvous::{Rendezvous, watch_rendezvous};

/// A rank that is not rank 0.
pub(crate) struct Follower {
    pub(crate) flags: Arc<WorkerConfig>,
    pub(crate) identity: Identity,
    pub(crate) digest: ModelDigest,
    pub(crate) rank: Rank,
    pub(crate) rendezvous: watch::Receiver<Option<Rendezvous>>,
    /// Where to say why the process is not ready; nothing where another rank of it does.
    pub(crate) readiness: Option<Readiness>,
}

impl Follower {
    /// Follows until the drain. A drain does not cut an epoch short: the leader hears of it, and ends the epoch when its
    /// sequences have ended.
    pub(crate) async fn follow(self, drain: Drain) {
        let mut over: Option<Epoch> = None;
        let mut pause = pause_between_epochs();
        let mut refused_before = None;
        loop {
            self.not_ready("waits for an epoch of rank 0");
            let open = tokio::select! {
                open = newer_than(self.rendezvous.clone(), over) => open,
                () = drain.draining() => return,
            };
            let Some(open) = open else { return };
            let epoch = open.epoch;
            match self.take_part(&open, &drain).await {
                Ok(fault) => {
                    let Fault { rank, reason } = fault;
                    let (group, own) = (&self.identity.group, self.rank.rank);
                    info!(%group, %epoch, own_rank = own, rank, reason, "the epoch ended");
                    over = Some(epoch);
                    pause.reset();
                }
                Err(Refused(why)) => {
                    self.not_ready(&why);
                    if refused_before.as_ref() != Some(&why) {
                        warn!(%epoch, own_rank = self.rank.rank, why, "cannot join, goes on trying");
                        refused_before = Some(why);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause.take()) => {}
                        _newer = newer_than(self.rendezvous.clone(), Some(epoch)) => {}
                        () = drain.draining() => return,
                    }
                }
            }
            if drain.is_draining() {
                return;
            }
        }
    }

    fn not_ready(&self, why: &str) {
        if let Some(readiness) = &self.readiness {
            readiness.not_ready("group", why);
        }
    }

    fn ready(&self) {
        if let Some(readiness) = &self.readiness {
            readiness.ready("group");
        }
    }
}

/// Waits for an epoch above `over`. Nothing if none will ever come.
async fn newer_than(
    mut rendezvous: watch::Receiver<Option<Rendezvous>>,
    over: Option<Epoch>,
) -> Option<Rendezvous> {
    let is_newer = |open: &Option<Rendezvous>| {
        open.as_ref().is_some_and(|open| over.is_none_or(|over| open.epoch > over))
    };
    rendezvous.wait_for(is_newer).await.ok()?.clone()
}
