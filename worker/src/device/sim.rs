//! A device that waits instead of computing, and checks every plan.

use std::time::Duration;

use glint_core::{Numerics, StepOutcome, StepPlan};
use glint_engine::Executor;
use glint_engine::sim::{Sim, SimConfig};
use glint_kernels::collective::Collective;

use super::{Device, DeviceError};
use crate::config::{SimCosts, WorkerConfig};
use crate::model::Model;

/// Blocks of a device whose owner does not say how many: those of a well-filled accelerator.
const KV_BLOCKS: u32 = 16_384;

/// One simulated rank. The ranks of a group meet once per step, so that one that stops holds the others up.
pub(super) struct SimDevice {
    costs: SimConfig,
    world_size: u32,
    running: Option<(Sim, Box<dyn Collective>)>,
}

impl SimDevice {
    pub(super) fn new(flags: &WorkerConfig, costs: &SimCosts, model: &Model) -> Self {
        let costs = SimConfig {
            prefill_tokens_per_s: costs.prefill_tokens_per_s,
            step: costs.step,
            step_per_sequence: costs.step_per_sequence,
            kv_blocks: flags.kv_blocks.unwrap_or(KV_BLOCKS),
            vocab_size: model.vocab_size(),
            end_probability: costs.end_probability,
            // A rank carries out one plan at a time; those ahead wait in its queue.
            depth: 1,
        };
        Self { costs, world_size: flags.world_size, running: None }
    }
}

impl Device for SimDevice {
    fn numerics(&self) -> Numerics {
        Numerics {
            device: "sim".into(),
            isa: "none".into(),
            compute: "none".into(),
            kv: "none".into(),
            world_size: self.world_size,
            batch_invariant: true,
            version: 1,
        }
    }

    fn kv_blocks_max(&self) -> u32 {
        self.costs.kv_blocks
    }

    fn begin(&mut self, collective: Box<dyn Collective>, kv_blocks: u32) {
        let wait = |time: Duration| {
            if !time.is_zero() {
                std::thread::sleep(time);
            }
        };
        let costs = SimConfig { kv_blocks, ..self.costs.clone() };
        self.running = Some((Sim::new(costs, Box::new(wait)), collective));
    }

    fn execute(&mut self, plan: StepPlan) -> Result<Option<StepOutcome>, DeviceError> {
        let own = |error: &dyn std::fmt::Display| DeviceError::Own { reason: error.to_string() };
        let (sim, collective) = self.running.as_mut().expect("plans come within an epoch");
        sim.submit(plan).map_err(|error| own(&error))?;
        let outcome = sim.settle().map_err(|error| own(&error))?;
        collective.barrier()?;
        Ok((collective.rank() == 0).then_some(outcome))
    }

    fn end(&mut self) {
        self.running = None;
    }
}
