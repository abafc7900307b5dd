//! Where does a rank live? On a thread of its own, with its weights, for as long as the process.
//!
//! The thread loads the weights once, then takes one [`Order`] per epoch: meet the other ranks, carry out plans until
//! their sender goes or the bond ends, forget all but the weights.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use glint_core::{Numerics, StepOutcome, StepPlan};
use glint_kernels::collective::{self, Collective, CollectiveError, Host};
use glint_model::Progress;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use crate::bond::{Bond, Fault};
use crate::config::WorkerConfig;
use crate::device::{self, Device, DeviceError};
use crate::error::WorkerError;
use crate::model::Model;

/// Plans that may lie before a rank. The leader has two in flight, so a rank that is further behind is broken.
pub(crate) const PLANS_AHEAD_MAX: usize = 16;

/// Between two records on how far loading is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// One epoch of one rank.
pub(crate) struct Order {
    pub(crate) bond: Arc<Bond>,
    pub(crate) meeting: Meeting,
    pub(crate) group: collective::Group,
    pub(crate) kv_blocks: u32,
    pub(crate) plans: mpsc::Receiver<StepPlan>,
    /// Rank 0's.
    pub(crate) outcomes: Option<SyncSender<StepOutcome>>,
    pub(crate) steps_done: Arc<AtomicU64>,
    /// Told once the ranks have met.
    pub(crate) met: oneshot::Sender<()>,
}

/// Where the ranks' tensors meet.
pub(crate) enum Meeting {
    /// Rank 0 waits there.
    Host(Box<Host>),
    /// The others come.
    Address(String),
}

/// A rank whose weights are loaded.
#[derive(Debug)]
pub(crate) struct Rank {
    pub(crate) rank: u32,
    pub(crate) numerics: Numerics,
    pub(crate) kv_blocks_max: u32,
    orders: mpsc::Sender<Order>,
}

impl Rank {
    /// Starts a rank's thread and waits until its weights are loaded. The thread ends when the rank is dropped.
    ///
    /// # Errors
    ///
    /// The weights cannot be loaded, or the thread not be started.
    pub(crate) async fn load(
        flags: Arc<WorkerConfig>,
        model: Arc<Model>,
        rank: u32,
    ) -> Result<Self, WorkerError> {
        // One more than runs: an order may come while the thread still leaves the epoch before.
        let (orders, received) = mpsc::channel(1);
        let (tell, loaded) = oneshot::channel();
        let work = move || live(&flags, &model, rank, tell, received);
        std::thread::Builder::new().name(format!("rank-{rank}")).spawn(work)?;
        let (numerics, kv_blocks_max) =
            loaded.await.map_err(|_| WorkerError::Lost("a rank's thread"))??;
        Ok(Self { rank, numerics, kv_blocks_max, orders })
    }

    /// Gives the rank its next epoch.
    ///
    /// # Errors
    ///
    /// Its device is still busy with the epoch before, and another order waits already.
    pub(crate) fn order(&self, order: Order) -> Result<(), Fault> {
        self.orders.try_send(order).map_err(|_| {
            Fault::new(self.rank, "has a device that is still busy with an earlier epoch")
        })
    }
}

type Loaded = oneshot::Sender<Result<(Numerics, u32), WorkerError>>;

fn live(
    flags: &WorkerConfig,
    model: &Model,
    rank: u32,
    loaded: Loaded,
    mut orders: mpsc::Receiver<Order>,
) {
    let mut told_at = Instant::now();
    let mut progress = |progress: Progress| {
        let Progress { read_bytes, total_bytes } = progress;
        if read_bytes == total_bytes || told_at.elapsed() >= PROGRESS_INTERVAL {
            told_at = Instant::now();
            info!(rank, loaded_bytes = read_bytes, total_bytes, "loading weights");
        }
    };
    let mut device = match device::load(flags, model, rank, &mut progress) {
        Ok(device) => device,
        Err(error) => {
            // Unheard only when the whole process ends.
            let _ending = loaded.send(Err(error));
            return;
        }
    };
    if loaded.send(Ok((device.numerics(), device.kv_blocks_max()))).is_err() {
        return;
    }
    while let Some(order) = orders.blocking_recv() {
        let bond = Arc::clone(&order.bond);
        let epoch = AssertUnwindSafe(|| take_part(device.as_mut(), order));
        match catch_unwind(epoch) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => bond.end(failure.fault(rank)),
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                error!(rank, message, "a device panicked");
                bond.end(Fault::new(rank, format!("has a device that panicked: {message}")));
            }
        }
        device.end();
    }
}

fn take_part(device: &mut dyn Device, order: Order) -> Result<(), DeviceError> {
    let Order { bond, meeting, group, kv_blocks, mut plans, outcomes, steps_done, met } = order;
    if bond.ended().is_some() {
        return Ok(());
    }
    let collective = meet(meeting, bond.own_rank() as usize, &group)?;
    device.begin(collective, kv_blocks);
    // Unheard when the epoch ended in this moment.
    let _over = met.send(());
    while let Some(plan) = plans.blocking_recv() {
        if bond.ended().is_some() {
            break;
        }
        let step = plan.step;
        let outcome = device.execute(plan)?;
        steps_done.store(step + 1, Ordering::Relaxed);
        if let (Some(outcomes), Some(outcome)) = (&outcomes, outcome)
            && outcomes.send(outcome).is_err()
        {
            break;
        }
    }
    Ok(())
}

fn meet(
    meeting: Meeting,
    rank: usize,
    group: &collective::Group,
) -> Result<Box<dyn Collective>, CollectiveError> {
    match meeting {
        Meeting::Host(host) => host.accept(),
        Meeting::Address(address) => collective::join(&address, rank, group),
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
