//! Is what the engine plans within its limits, and does nobody read another tenant's blocks?

use std::collections::{BTreeMap, BTreeSet};

use glint_core::{StepOutcome, StepPlan};
use glint_engine::sim::Sim;
use glint_engine::{EngineConfig, Executor, ExecutorError};

/// Seeds carry what an executor does not know: the salt in the lowest two bits, and in the third whether the
/// sequence is to fail at its third token.
pub(crate) const FAILS: u64 = 4;
/// Output tokens before a sequence fails that is to.
pub(crate) const FAILS_AFTER_TOKENS: u32 = 2;

/// The simulated device under observation.
pub(crate) struct Spy {
    sim: Sim,
    config: EngineConfig,
    slots: BTreeMap<u32, Seen>,
    /// Under which salt each block was written last.
    salts: BTreeMap<u32, u64>,
    /// All plans so far.
    pub(crate) plans: Vec<StepPlan>,
    /// Whether sequences that are to fail do.
    pub(crate) may_fail: bool,
    /// Changes outcomes before the engine sees them.
    pub(crate) meddle: Box<dyn FnMut(&mut StepOutcome) + Send>,
}

struct Seen {
    seed: u64,
    output_tokens: u32,
}

impl Spy {
    pub(crate) fn new(sim: Sim, config: EngineConfig) -> Self {
        let (slots, salts) = (BTreeMap::new(), BTreeMap::new());
        let plans = Vec::new();
        Self { sim, config, slots, salts, plans, may_fail: true, meddle: Box::new(|_| ()) }
    }

    fn observe(&mut self, plan: &StepPlan) {
        assert!(!plan.chunks.is_empty(), "a plan without work");
        let tokens: u32 = plan.chunks.iter().map(|chunk| chunk.len).sum();
        assert!(tokens <= self.config.step_tokens_max, "{tokens} tokens in a step");
        for slot in &plan.release {
            self.slots.remove(slot);
        }
        for start in &plan.start {
            assert!(start.slot < self.config.sequences_max, "slot {}", start.slot);
            let seed = start.sampling.seed;
            for block in &start.blocks {
                assert_eq!(self.salts[block], seed & 3, "block {block} is another tenant's");
            }
            let output_tokens = start.tokens.len() as u32 - start.prompt_tokens;
            self.slots.insert(start.slot, Seen { seed, output_tokens });
        }
        let started: BTreeSet<u32> = plan.start.iter().map(|start| start.slot).collect();
        let computed: BTreeSet<u32> = plan.chunks.iter().map(|chunk| chunk.slot).collect();
        assert!(started.is_subset(&computed), "whoever is started is computed");
        for chunk in &plan.chunks {
            assert!(chunk.len <= self.config.chunk_tokens_max, "a chunk of {}", chunk.len);
            let seed = self.slots[&chunk.slot].seed;
            self.salts.extend(chunk.new_blocks.iter().map(|&block| (block, seed & 3)));
        }
    }
}

impl Executor for Spy {
    fn submit(&mut self, plan: StepPlan) -> Result<(), ExecutorError> {
        self.observe(&plan);
        self.plans.push(plan.clone());
        self.sim.submit(plan)
    }

    fn settle(&mut self) -> Result<StepOutcome, ExecutorError> {
        let mut outcome = self.sim.settle()?;
        for sampled in &mut outcome.sampled {
            let seen = self.slots.get_mut(&sampled.slot).expect("slots stay while in flight");
            if self.may_fail && seen.seed & FAILS > 0 && seen.output_tokens >= FAILS_AFTER_TOKENS {
                sampled.token = None;
            }
            seen.output_tokens += 1;
        }
        (self.meddle)(&mut outcome);
        Ok(outcome)
    }

    fn depth(&self) -> usize {
        self.sim.depth()
    }
}
