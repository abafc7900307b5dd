//! A group of ranks in this process, one thread each while a step runs.

use std::path::Path;
use std::time::Duration;

use glint_core::{StepOutcome, StepPlan};
use glint_kernels::collective::{Collective, Solo, threads};
use glint_kernels::{Compute, Cpu, Isa};
use glint_model::{Checkpoint, ExecuteError, RankModel, RankOptions, RankWeights};

/// Blocks of every group here, unless a test wants few.
pub(crate) const KV_BLOCKS: u32 = 64;

/// The ranks of one group.
pub(crate) struct Ranks {
    models: Vec<RankModel>,
}

/// One position's logits, as rank 0 saw them.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) slot: u32,
    pub(crate) position: u32,
    pub(crate) logits: Vec<f32>,
}

#[derive(Clone, Copy)]
pub(crate) struct GroupOptions {
    pub(crate) world_size: u32,
    pub(crate) compute: Compute,
    pub(crate) isa: Isa,
    pub(crate) kv_blocks: u32,
    pub(crate) threads: usize,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            world_size: 1,
            compute: Compute::F32,
            isa: Isa::detect(),
            kv_blocks: KV_BLOCKS,
            threads: 1,
        }
    }
}

impl Ranks {
    pub(crate) fn alone(folder: &Path) -> Self {
        Self::load(folder, GroupOptions::default())
    }

    pub(crate) fn of(folder: &Path, world_size: u32) -> Self {
        Self::load(folder, GroupOptions { world_size, ..GroupOptions::default() })
    }

    pub(crate) fn load(folder: &Path, options: GroupOptions) -> Self {
        let checkpoint = Checkpoint::open(folder).unwrap_or_else(|error| panic!("{error}"));
        let GroupOptions { world_size, compute, isa, kv_blocks, threads } = options;
        let models = collectives(world_size).into_iter().zip(0..).map(|(collective, rank)| {
            let options = RankOptions { rank, world_size, compute };
            let weights = RankWeights::load(&checkpoint, options, &mut |_| {}).unwrap();
            RankModel::new(weights, Cpu::new(isa, threads), collective, kv_blocks)
        });
        Self { models: models.collect() }
    }

    pub(crate) fn leader(&self) -> &RankModel {
        &self.models[0]
    }

    pub(crate) fn execute(&mut self, plan: &StepPlan) -> Result<StepOutcome, ExecuteError> {
        self.observe(plan).map(|(outcome, _)| outcome)
    }

    /// Carries out a plan on all ranks and returns what rank 0 says.
    pub(crate) fn observe(
        &mut self,
        plan: &StepPlan,
    ) -> Result<(StepOutcome, Vec<Seen>), ExecuteError> {
        let mut seen = Vec::new();
        let (leader, followers) = self.models.split_first_mut().unwrap();
        let outcome = std::thread::scope(|scope| {
            let followers: Vec<_> = followers
                .iter_mut()
                .map(|model| scope.spawn(move || model.execute(plan)))
                .collect();
            let outcome = leader.execute_observed(plan, &mut |position| {
                seen.push(Seen {
                    slot: position.slot,
                    position: position.position,
                    logits: position.logits.to_vec(),
                });
            });
            for follower in followers {
                match follower.join().unwrap() {
                    Ok(outcome) => assert_eq!(outcome, None, "only rank 0 has an outcome"),
                    Err(error) => assert_eq!(Some(&error), outcome.as_ref().err()),
                }
            }
            outcome
        })?;
        Ok((outcome.expect("rank 0 has an outcome"), seen))
    }
}

fn collectives(world_size: u32) -> Vec<Box<dyn Collective>> {
    if world_size == 1 {
        return vec![Box::new(Solo::new())];
    }
    let ranks = threads(world_size as usize, Duration::from_secs(60));
    ranks.into_iter().map(|rank| Box::new(rank) as Box<dyn Collective>).collect()
}
