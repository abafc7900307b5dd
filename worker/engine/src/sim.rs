//! An executor without a model: how long would this plan take, and does it make sense?
//!
//! Time follows a cost model and is waited for by a function that the caller gives. Tokens are made up, but each
//! depends on *all* tokens before it, read back through the block table as a rank would read keys and values. So a
//! wrong table, a block that was overwritten or a prefix that was not equal yields other tokens. Every plan is
//! checked against those before it: the ranks would compute nonsense in silence, this one refuses.

mod draw;
mod rank;

use std::collections::VecDeque;
use std::time::Duration;

use glint_core::{StepOutcome, StepPlan};

use crate::executor::{Executor, ExecutorError};
use rank::Rank;

/// What a simulated device costs, and what it says.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Prompt tokens per second. 0 or infinite: prefill takes no time.
    pub prefill_tokens_per_s: f64,
    /// A step's time without any sequence.
    pub step: Duration,
    /// What each decoding sequence adds to a step.
    pub step_per_sequence: Duration,
    /// KV blocks of the device.
    pub kv_blocks: u32,
    /// Token ids below this one exist.
    pub vocab_size: u32,
    /// Probability that a token ends its sequence, where one may.
    pub end_probability: f64,
    /// Plans in flight; 0 counts as 1.
    pub depth: usize,
}

impl SimConfig {
    /// Returns how long a step takes in which prompts get this many positions and this many sequences decode.
    #[must_use]
    pub fn cost(&self, prefill_tokens: u32, decodes: u32) -> Duration {
        let prefill_s = f64::from(prefill_tokens) / self.prefill_tokens_per_s;
        let prefill = Duration::try_from_secs_f64(prefill_s).unwrap_or_default();
        self.step + self.step_per_sequence * decodes + prefill
    }
}

/// Waits for a simulated time.
pub type Wait = Box<dyn FnMut(Duration) + Send>;

/// The simulated device.
pub struct Sim {
    config: SimConfig,
    wait: Wait,
    next_step: u64,
    rank: Rank,
    in_flight: VecDeque<Flight>,
}

/// A plan that was submitted and not settled.
struct Flight {
    outcome: StepOutcome,
    took: Duration,
    slots: Vec<u32>,
}

impl Sim {
    /// Returns a device with empty blocks.
    #[must_use]
    pub fn new(config: SimConfig, wait: Wait) -> Self {
        let rank = Rank::new(config.kv_blocks, config.vocab_size, config.end_probability);
        Self { config, wait, next_step: 0, rank, in_flight: VecDeque::new() }
    }

    fn carry_out(&mut self, plan: &StepPlan) -> Result<Flight, String> {
        if self.in_flight.len() >= self.depth() {
            return Err(format!("{} plans are in flight", self.in_flight.len()));
        }
        if plan.step != self.next_step {
            return Err(format!("step {} was next", self.next_step));
        }
        self.next_step += 1;
        for &slot in &plan.release {
            // Its blocks go with it, and a plan in flight still writes them.
            if self.in_flight.iter().any(|flight| flight.slots.contains(&slot)) {
                return Err(format!("slot {slot} is released while a plan in flight computes it"));
            }
            self.rank.release(slot)?;
        }
        for start in &plan.start {
            self.rank.start(start)?;
        }
        let mut outcome = StepOutcome { step: plan.step, ..StepOutcome::default() };
        let (mut prefill_tokens, mut decodes) = (0, 0);
        let mut slots = Vec::with_capacity(plan.chunks.len());
        for chunk in &plan.chunks {
            if slots.contains(&chunk.slot) {
                return Err(format!("slot {} stands in two chunks", chunk.slot));
            }
            slots.push(chunk.slot);
            self.rank.compute(chunk, &mut outcome)?;
            if chunk.sample && chunk.len == 1 {
                decodes += 1;
            } else {
                prefill_tokens += chunk.len;
            }
        }
        Ok(Flight { outcome, took: self.config.cost(prefill_tokens, decodes), slots })
    }
}

impl Executor for Sim {
    fn submit(&mut self, plan: StepPlan) -> Result<(), ExecutorError> {
        let step = plan.step;
        let flight =
            self.carry_out(&plan).map_err(|message| ExecutorError::BadPlan { step, message })?;
        self.in_flight.push_back(flight);
        Ok(())
    }

    fn settle(&mut self) -> Result<StepOutcome, ExecutorError> {
        let Some(Flight { outcome, took, .. }) = self.in_flight.pop_front() else {
            let message = "it was never submitted".to_owned();
            return Err(ExecutorError::BadPlan { step: self.next_step, message });
        };
        (self.wait)(took);
        Ok(outcome)
    }

    fn depth(&self) -> usize {
        self.config.depth.max(1)
    }
}

#[cfg(test)]
mod tests;
