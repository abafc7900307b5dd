//! This machine's processors as a device.

use glint_core::{BLOCK_SIZE_TOKENS, Numerics, StepOutcome, StepPlan};
use glint_kernels::collective::Collective;
use glint_kernels::{Compute, Cpu, Isa};
use glint_model::{
    Checkpoint, ExecuteError, Progress, RankModel, RankOptions, RankWeights, numerics,
};

use super::{Device, DeviceError};
use crate::config::{ComputeKind, WorkerConfig};
use crate::error::WorkerError;

/// One rank's shard on the CPU.
pub(super) struct CpuDevice {
    state: State,
    numerics: Numerics,
    kv_blocks_max: u32,
}

enum State {
    Resting(Box<RankWeights>, Cpu),
    Running(Box<RankModel>),
    /// Between the two; seen by nobody.
    Moving,
}

impl CpuDevice {
    pub(super) fn load(
        flags: &WorkerConfig,
        checkpoint: &Checkpoint,
        rank: u32,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, WorkerError> {
        let isa = Isa::detect();
        let compute = match flags.compute {
            Some(ComputeKind::F32) => Compute::F32,
            Some(ComputeKind::Bf16) => Compute::Bf16,
            None if isa == Isa::Avx512Bf16 => Compute::Bf16,
            None => Compute::F32,
        };
        let options = RankOptions { rank, world_size: flags.world_size, compute };
        let weights = RankWeights::load(checkpoint, options, progress)
            .map_err(|error| WorkerError::Model(error.to_string()))?;
        let cpu = Cpu::new(isa, threads(flags));
        let numerics = numerics(&cpu, compute, flags.world_size);
        let kv_blocks_max = flags.kv_blocks.unwrap_or_else(|| {
            // More than this no batch can use.
            let context = checkpoint.config().context_tokens_max;
            let context = flags.context.map_or(context, |asked| context.min(asked as usize));
            let usable =
                context.div_ceil(BLOCK_SIZE_TOKENS) as u64 * u64::from(flags.max_sequences);
            let fitting = flags.kv_memory / weights.kv_block_bytes().max(1);
            u32::try_from(fitting.min(usable).max(1)).unwrap_or(u32::MAX)
        });
        Ok(Self { state: State::Resting(Box::new(weights), cpu), numerics, kv_blocks_max })
    }
}

fn threads(flags: &WorkerConfig) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    flags.threads.map_or((cores / flags.ranks.count() as usize).max(1), usize::from)
}

impl Device for CpuDevice {
    fn numerics(&self) -> Numerics {
        self.numerics.clone()
    }

    fn kv_blocks_max(&self) -> u32 {
        self.kv_blocks_max
    }

    fn begin(&mut self, collective: Box<dyn Collective>, kv_blocks: u32) {
        self.end();
        let State::Resting(weights, cpu) = std::mem::replace(&mut self.state, State::Moving) else {
            unreachable!("a device that has ended its epoch rests")
        };
        let model = RankModel::new(*weights, cpu, collective, kv_blocks);
        self.state = State::Running(Box::new(model));
    }

    fn execute(&mut self, plan: StepPlan) -> Result<Option<StepOutcome>, DeviceError> {
        let State::Running(model) = &mut self.state else {
            unreachable!("plans come within an epoch")
        };
        model.execute(&plan).map_err(|error| match error {
            ExecuteError::Collective { error, .. } => error.into(),
            ExecuteError::BadPlan { .. } => DeviceError::Own { reason: error.to_string() },
        })
    }

    fn end(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Moving) {
            State::Running(model) => {
                let (weights, cpu) = model.into_weights();
                State::Resting(Box::new(weights), cpu)
            }
            state @ (State::Resting(..) | State::Moving) => state,
        };
    }
}
