//! One rank: from a step plan to drawn tokens.

use glint_core::step::{PromptLogprobs, Sampled};
use glint_core::{Chunk, Failure, Kind, Numerics, StepOutcome, StepPlan};
use glint_kernels::collective::{AbortHandle, Collective, CollectiveError};
use glint_kernels::{AttentionRow, Compute, Cpu};

use crate::config::Config;
use crate::forward::{Batch, Device};
use crate::sampler::{Sampler, token_logprobs};
use crate::sequence::{Limits, Sequences};
use crate::shard::Shard;
use crate::weights::RankWeights;

/// Bumped whenever the order of any sum changes, here or in the kernels.
const NUMERICS_VERSION: u32 = 1;

/// Rows of logits that are in memory at once. A prompt's log-probabilities would otherwise need gigabytes.
const LOGITS_ROWS_MAX: usize = 32;

/// Told by rank 0 in place of a token when a logit is NaN; no vocabulary is that large.
const NO_TOKEN: u32 = u32::MAX;

/// What stands in a sequence for a token that could not be drawn. The sequence is over, but a plan that computes this
/// position may already be under way.
const PLACEHOLDER: u32 = 0;

/// One rank of a model that carries out plans.
///
/// All ranks of a group are given the same plans in the same order. Rank 0 draws, all ranks append what was drawn.
pub struct RankModel {
    device: Device,
    sequences: Sequences,
    limits: Limits,
    sampler: Sampler,
}

/// The raw logits of one position, as rank 0 sees them before anything is drawn from them.
#[derive(Clone, Copy, Debug)]
pub struct PositionLogits<'a> {
    /// The sequence's slot.
    pub slot: u32,
    /// Position whose successor they predict.
    pub position: u32,
    /// `[vocab_size]`.
    pub logits: &'a [f32],
}

/// Why a plan was not carried out. The rank is of no use afterwards, and so is its group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The plan contradicts what came before it: a bug of the engine.
    #[error("step {step} cannot be carried out: {message}")]
    BadPlan {
        /// The plan's number.
        step: u64,
        /// What is wrong with it.
        message: String,
    },
    /// Another rank is gone, stuck or out of step.
    #[error("step {step} was lost: {error}")]
    Collective {
        /// The plan's number.
        step: u64,
        /// Which rank, and why.
        error: CollectiveError,
    },
}

impl Failure for ExecuteError {
    fn kind(&self) -> Kind {
        match self {
            Self::BadPlan { .. } => Kind::Internal,
            Self::Collective { .. } => Kind::Unavailable,
        }
    }
}

/// A token of the batch whose logits are needed.
#[derive(Clone, Copy)]
struct Wanted {
    /// Index in the batch.
    row: usize,
    /// Index of its chunk in the plan.
    chunk: usize,
    position: u32,
}

impl RankModel {
    /// Makes a rank with an empty cache of `kv_blocks` blocks of 16 tokens, at [`RankWeights::kv_block_bytes`] each.
    ///
    /// # Panics
    ///
    /// Panics if the collective is another rank's, or of another world size than the weights.
    #[must_use]
    pub fn new(
        weights: RankWeights,
        cpu: Cpu,
        collective: Box<dyn Collective>,
        kv_blocks: u32,
    ) -> Self {
        let Shard { rank, world_size, .. } = weights.shard;
        assert_eq!(
            (collective.rank(), collective.world_size()),
            (rank as usize, world_size as usize),
            "weights and collective are of one rank"
        );
        let limits = Limits { kv_blocks, vocab_size: weights.config.vocab_size as u32 };
        Self {
            device: Device::new(weights, cpu, collective, kv_blocks),
            sequences: Sequences::default(),
            limits,
            sampler: Sampler::new(),
        }
    }

    /// Takes the model apart, so that its weights can serve in a group that forms anew.
    #[must_use]
    pub fn into_weights(self) -> (RankWeights, Cpu) {
        (self.device.weights, self.device.cpu)
    }

    /// Returns the whole model's numbers.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.device.weights.config
    }

    /// Returns which part of the model this rank holds.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.device.weights.shard
    }

    /// Returns what decides the bits of its logits besides the weights.
    #[must_use]
    pub fn numerics(&self) -> Numerics {
        let weights = &self.device.weights;
        numerics(&self.device.cpu, weights.compute, weights.shard.world_size)
    }

    /// Returns a handle with which another thread ends a step that waits for other ranks.
    #[must_use]
    pub fn abort_handle(&self) -> AbortHandle {
        self.device.collective.abort_handle()
    }

    /// Carries out the next plan. Rank 0 gets the outcome, other ranks `None`.
    ///
    /// # Errors
    ///
    /// [`ExecuteError`]; the rank is of no use afterwards.
    pub fn execute(&mut self, plan: &StepPlan) -> Result<Option<StepOutcome>, ExecuteError> {
        self.execute_observed(plan, &mut |_| {})
    }

    /// Carries out the next plan and shows rank 0 the logits that it computes: those of positions behind which a token is
    /// drawn, and of all prompt positions of sequences that ask for prompt log-probabilities.
    ///
    /// # Errors
    ///
    /// [`ExecuteError`]; the rank is of no use afterwards.
    pub fn execute_observed(
        &mut self,
        plan: &StepPlan,
        observe: &mut dyn FnMut(PositionLogits<'_>),
    ) -> Result<Option<StepOutcome>, ExecuteError> {
        let step = plan.step;
        self.sequences
            .apply(plan, self.limits)
            .map_err(|message| ExecuteError::BadPlan { step, message })?;
        let lost = |error| ExecuteError::Collective { step, error };
        let mut outcome = self.compute(plan, observe).map_err(lost)?;
        self.append(plan, &mut outcome).map_err(lost)?;
        Ok((self.shard().rank == 0).then_some(outcome))
    }

    /// Runs the batch. On rank 0 the outcome has what was drawn, on others nothing.
    fn compute(
        &mut self,
        plan: &StepPlan,
        observe: &mut dyn FnMut(PositionLogits<'_>),
    ) -> Result<StepOutcome, CollectiveError> {
        let mut outcome = StepOutcome { step: plan.step, ..StepOutcome::default() };
        if plan.chunks.is_empty() {
            return Ok(outcome);
        }
        let (batch, wanted) = assemble(plan, &self.sequences);
        self.device.run(&batch)?;
        let vocab = self.limits.vocab_size as usize;
        for piece in wanted.chunks(LOGITS_ROWS_MAX) {
            let rows: Vec<usize> = piece.iter().map(|wanted| wanted.row).collect();
            let logits = self.device.logits(&rows)?;
            // Empty on all ranks but 0.
            for (wanted, logits) in piece.iter().zip(logits.chunks_exact(vocab)) {
                let chunk = &plan.chunks[wanted.chunk];
                observe(PositionLogits { slot: chunk.slot, position: wanted.position, logits });
                let sequence = self.sequences.get(chunk.slot);
                let next = wanted.position as usize + 1;
                if let Some(top) = sequence.sampling.prompt_logprobs
                    && next < sequence.prompt_tokens
                {
                    let token = token_logprobs(logits, sequence.tokens[next], top);
                    let described = &mut outcome.prompt_logprobs;
                    match described.last_mut().filter(|last| last.slot == chunk.slot) {
                        Some(last) => last.tokens.push(token),
                        None => described.push(PromptLogprobs {
                            slot: chunk.slot,
                            first_position: next as u32,
                            tokens: vec![token],
                        }),
                    }
                }
                if chunk.sample && wanted.position + 1 == chunk.first_position + chunk.len {
                    let token = self.sampler.draw(logits, sequence.draw());
                    let logprobs = token
                        .zip(sequence.sampling.logprobs)
                        .map(|(token, top)| token_logprobs(logits, token, top));
                    outcome.sampled.push(Sampled { slot: chunk.slot, token, logprobs });
                }
            }
        }
        Ok(outcome)
    }

    /// Tells all ranks what was drawn, and appends it.
    fn append(
        &mut self,
        plan: &StepPlan,
        outcome: &mut StepOutcome,
    ) -> Result<(), CollectiveError> {
        let drawing = plan.chunks.iter().filter(|chunk| chunk.sample);
        let slots: Vec<u32> = drawing.map(|chunk| chunk.slot).collect();
        if slots.is_empty() {
            return Ok(());
        }
        let told = outcome.sampled.iter().map(|sampled| sampled.token.unwrap_or(NO_TOKEN));
        let mut tokens: Vec<u32> = told.collect();
        tokens.resize(slots.len(), NO_TOKEN);
        self.device.collective.broadcast(0, bytemuck::cast_slice_mut(&mut tokens))?;
        for (slot, token) in slots.into_iter().zip(tokens) {
            let token = if token == NO_TOKEN { PLACEHOLDER } else { token };
            self.sequences.get_mut(slot).push(token);
        }
        Ok(())
    }
}

/// Returns what decides the bits of a logit of such a group besides the weights.
#[must_use]
pub fn numerics(cpu: &Cpu, compute: Compute, world_size: u32) -> Numerics {
    Numerics {
        device: "cpu".into(),
        isa: cpu.isa().name().into(),
        compute: compute.name().into(),
        kv: compute.name().into(),
        world_size,
        batch_invariant: true,
        version: NUMERICS_VERSION,
    }
}

/// Lays the chunks of a plan side by side, and finds the tokens whose logits are needed.
fn assemble<'a>(plan: &StepPlan, sequences: &'a Sequences) -> (Batch<'a>, Vec<Wanted>) {
    let tokens = plan.chunks.iter().map(|chunk| chunk.len as usize).sum();
    let mut batch = Batch {
        tokens: Vec::with_capacity(tokens),
        kv_slots: Vec::with_capacity(tokens),
        rows: Vec::with_capacity(tokens),
    };
    let mut wanted = Vec::new();
    for (index, &Chunk { slot, first_position, len, sample, .. }) in plan.chunks.iter().enumerate()
    {
        let sequence = sequences.get(slot);
        let described = match sequence.sampling.prompt_logprobs {
            // The last prompt token describes nothing but what is drawn.
            Some(_) => sequence.prompt_tokens - 1,
            None => 0,
        };
        let end = first_position + len;
        for position in first_position..end {
            if (position as usize) < described || sample && position + 1 == end {
                wanted.push(Wanted { row: batch.tokens.len(), chunk: index, position });
            }
            batch.tokens.push(sequence.tokens[position as usize]);
            batch.kv_slots.push(sequence.kv_slot(position as usize));
            batch.rows.push(AttentionRow { position, blocks: &sequence.blocks });
        }
    }
    (batch, wanted)
}
