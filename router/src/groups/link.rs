//! What does a live connection to a group know?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use glint_core::block::reusable_blocks;
use glint_core::load::{REPORT_BUSY, REPORT_IDLE};
use glint_core::{Credits, Epoch, GroupId, LoadSnapshot, ModelDigest, Namespace, WireHash};
use glint_policy::View;
use glint_proto::v1::worker_client::WorkerClient;
use parking_lot::RwLock;
use tonic::transport::Channel;

use super::texts::Text;

/// A group whose Watch stream lives.
#[derive(Debug)]
pub(super) struct Link {
    /// For errors and the log.
    pub(super) group: GroupId,
    pub(super) client: WorkerClient<Channel>,
    pub(super) epoch: Epoch,
    pub(super) digest: ModelDigest,
    pub(super) context_tokens: u32,
    pub(super) vocab_size: u32,
    pub(super) text: Arc<Text>,
    /// Outlives the link if the group's epoch does.
    pub(super) view: Arc<RwLock<View>>,
    pub(super) traffic: Traffic,
}

/// What was sent over a link, and what its group said of it.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    report: RwLock<Option<Report>>,
    dispatches: AtomicU64,
}

#[derive(Clone, Debug)]
struct Report {
    load: LoadSnapshot,
    credits: Credits,
    came: Instant,
}

impl Link {
    /// Takes a load report; returns whether the group began or ceased to drain.
    pub(super) fn reported(&self, load: LoadSnapshot, credits: Credits) -> bool {
        let is_draining = load.draining;
        let report = Report { load, credits, came: Instant::now() };
        let before = self.traffic.report.write().replace(report);
        before.is_some_and(|before| before.load.draining) != is_draining
    }

    pub(super) fn is_draining(&self) -> bool {
        self.traffic.report.read().as_ref().is_some_and(|report| report.load.draining)
    }

    /// Returns the last report while it is fresh, and how many sequences were sent that it does not know of.
    pub(super) fn load(&self) -> (Option<LoadSnapshot>, u64) {
        let sent = self.traffic.dispatches.load(Ordering::Relaxed);
        let report = self.traffic.report.read();
        let Some(Report { load, credits, came }) = &*report else { return (None, sent) };
        let is_busy = load.running_sequences + load.waiting_sequences > 0;
        let interval = if is_busy { REPORT_BUSY } else { REPORT_IDLE };
        let is_fresh = came.elapsed() <= interval * 5 / 2;
        (is_fresh.then(|| load.clone()), sent.saturating_sub(credits.dispatches_seen))
    }

    /// Returns the number of the next dispatch.
    pub(super) fn next_dispatch(&self) -> u64 {
        self.traffic.dispatches.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Returns the names of the blocks that a prompt may take from the cache of a group with these weights.
pub(super) fn reusable_chain(digest: &ModelDigest, salt: &[u8], prompt: &[u32]) -> Vec<WireHash> {
    let mut chain = Namespace::new(digest, b"", salt).chain(prompt);
    chain.truncate(reusable_blocks(prompt.len()));
    chain.into_iter().map(|name| name.wire()).collect()
}
