//! What does one rank compute with?

mod cpu;
mod sim;

use glint_core::{Numerics, StepOutcome, StepPlan};
use glint_kernels::collective::{Collective, CollectiveError};
use glint_model::Progress;

use crate::bond::Fault;
use crate::config::{DeviceKind, WorkerConfig};
use crate::error::WorkerError;
use crate::model::Model;

/// A rank's weights, which outlive epochs, and within an epoch its KV blocks. Lives on the rank's own thread.
pub(crate) trait Device {
    /// Returns what decides the bits of its logits besides the weights.
    fn numerics(&self) -> Numerics;

    /// Returns how many KV blocks it has memory for.
    fn kv_blocks_max(&self) -> u32;

    /// Begins an epoch with an empty cache.
    fn begin(&mut self, collective: Box<dyn Collective>, kv_blocks: u32);

    /// Carries out the next plan; rank 0 returns the outcome.
    ///
    /// # Errors
    ///
    /// The epoch is over.
    fn execute(&mut self, plan: StepPlan) -> Result<Option<StepOutcome>, DeviceError>;

    /// Ends the epoch: all but the weights is forgotten.
    fn end(&mut self);
}

/// Why a rank cannot go on in its epoch.
#[derive(Debug)]
pub(crate) enum DeviceError {
    /// Another rank is gone or out of step, as far as this one can tell.
    Peer { rank: u32, reason: String },
    /// It is this rank's own fault.
    Own { reason: String },
}

impl DeviceError {
    /// Returns whom to blame, seen from rank `own`.
    pub(crate) fn fault(self, own: u32) -> Fault {
        match self {
            Self::Peer { rank, reason } => Fault::new(rank, reason),
            Self::Own { reason } => Fault::new(own, reason),
        }
    }
}

impl From<CollectiveError> for DeviceError {
    fn from(error: CollectiveError) -> Self {
        let peer = |rank: usize, reason: String| Self::Peer { rank: rank as u32, reason };
        match error {
            CollectiveError::Timeout { rank, op, waited } => {
                peer(rank, format!("did not come to {op} within {} ms", waited.as_millis()))
            }
            CollectiveError::PeerLost { rank, why } => peer(rank, format!("is lost: {why}")),
            CollectiveError::Mismatch { rank, ours, theirs } => {
                peer(rank, format!("is out of step: it called {theirs} instead of {ours}"))
            }
            error @ (CollectiveError::Aborted
            | CollectiveError::Refused { .. }
            | CollectiveError::Invalid(_)
            | CollectiveError::System { .. }) => {
                Self::Own { reason: format!("cannot meet the others: {error}") }
            }
        }
    }
}

/// Makes a rank's device, with its weights. Blocks for as long as the disk takes.
///
/// # Errors
///
/// One sentence on what is wrong with the checkpoint.
pub(crate) fn load(
    flags: &WorkerConfig,
    model: &Model,
    rank: u32,
    progress: &mut dyn FnMut(Progress),
) -> Result<Box<dyn Device>, WorkerError> {
    match (&flags.device, &model.checkpoint) {
        (DeviceKind::Sim(costs), _) => Ok(Box::new(sim::SimDevice::new(flags, costs, model))),
        (DeviceKind::Cpu, Some(checkpoint)) => {
            Ok(Box::new(cpu::CpuDevice::load(flags, checkpoint, rank, progress)?))
        }
        (DeviceKind::Cpu, None) => unreachable!("a model for the CPU is opened with its weights"),
    }
}
