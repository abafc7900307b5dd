//! An executor without a model: how long would this plan take, and did it make sense?
//!
//! Time follows a cost model and is waited for by a function that the caller gives. Tokens are made up, but each depends
//! on *all* tokens before it, read back through the block table as a rank would read keys and values. So a
//! wrong table, a block that was overwritten or a prefix that was not equal yields other tokens. Every plan is checked
//! against those before it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use glint_core::step::{PromptLogprobs, Sampled};
use glint_core::{BLOCK_SIZE_TOKENS, Chunk, SequenceStart, StepOutcome, StepPlan, TokenLogprobs};

use crate::executor::{Executor, ExecutorError};

/// What a simulated device costs, and what it says.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Prompt tokens per second. Infinite: prefill takes no time.
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
    /// Plans in flight.
    pub depth: usize,
}

/// Waits for a simulated time.
pub type Wait = Box<dyn FnMut(Duration) + Send>;

/// The simulated device.
pub struct Sim {
    config: SimConfig,
    wait: Wait,
    next_step: u64,
    slots: BTreeMap<u32, Slot>,
    /// Per block and offset: what is known of the sequence up to there. It stands for keys and values.
    blocks: Vec<[u64; BLOCK_SIZE_TOKENS]>,
    in_flight: VecDeque<(StepOutcome, Duration)>,
}

/// A sequence as a rank knows it.
struct Slot {
    start: SequenceStart,
    computed: u32,
    table: Vec<u32>,
}

impl Sim {
    /// Returns a device with empty blocks.
    #[must_use]
    pub fn new(config: SimConfig, wait: Wait) -> Self {
        let blocks = vec![[0; BLOCK_SIZE_TOKENS]; config.kv_blocks as usize];
        Self {
            config,
            wait,
            next_step: 0,
            slots: BTreeMap::new(),
            blocks,
            in_flight: VecDeque::new(),
        }
    }

    fn carry_out(&mut self, plan: &StepPlan) -> Result<(StepOutcome, Duration), String> {
        if plan.step != self.next_step {
            return Err(format!("step {} was next", self.next_step));
        }
        self.next_step += 1;
        for slot in &plan.release {
            self.slots.remove(slot).ok_or_else(|| format!("slot {slot} is released unheld"))?;
        }
        for start in &plan.start {
            let table = start.blocks.clone();
            let computed = (table.len() * BLOCK_SIZE_TOKENS) as u32;
            if computed as usize >= start.tokens.len() {
                return Err(format!("slot {} starts with nothing to compute", start.slot));
            }
            let slot = Slot { start: start.clone(), computed, table };
            if self.slots.insert(start.slot, slot).is_some() {
                return Err(format!("slot {} is started while held", start.slot));
            }
        }
        let mut outcome = StepOutcome { step: plan.step, ..StepOutcome::default() };
        let (mut prefill_tokens, mut decodes) = (0, 0);
        let mut seen = Vec::with_capacity(plan.chunks.len());
        for chunk in &plan.chunks {
            if seen.contains(&chunk.slot) {
                return Err(format!("slot {} stands in two chunks", chunk.slot));
            }
            seen.push(chunk.slot);
            self.compute(chunk, &mut outcome)?;
            if chunk.sample && chunk.len == 1 {
                decodes += 1;
            } else {
                prefill_tokens += chunk.len;
            }
        }
        let prefill_s = f64::from(prefill_tokens) / self.config.prefill_tokens_per_s;
        let took = self.config.step
            + self.config.step_per_sequence * decodes
            + Duration::from_secs_f64(prefill_s);
        Ok((outcome, took))
    }

    fn compute(&mut self, chunk: &Chunk, outcome: &mut StepOutcome) -> Result<(), String> {
        let Chunk { slot: number, first_position, len, ref new_blocks, sample } = *chunk;
        let slot = self.slots.get_mut(&number).ok_or(format!("slot {number} is not held"))?;
        if len == 0 || first_position != slot.computed {
            return Err(format!(
                "slot {number} is at position {}, not {first_position}",
                slot.computed
            ));
        }
        let end = first_position + len;
        if end as usize > slot.start.tokens.len() {
            return Err(format!("slot {number} has no token at position {}", end - 1));
        }
        if sample != (end as usize == slot.start.tokens.len()) {
            return Err(format!("slot {number} draws before its last token, or not behind it"));
        }
        slot.table.extend_from_slice(new_blocks);
        if slot.table.len() != (end as usize).div_ceil(BLOCK_SIZE_TOKENS) {
            return Err(format!("slot {number} has {} blocks for {end} tokens", slot.table.len()));
        }
        let place = |position: u32| {
            let position = position as usize;
            (slot.table[position / BLOCK_SIZE_TOKENS] as usize, position % BLOCK_SIZE_TOKENS)
        };
        let mut known = match first_position.checked_sub(1).map(place) {
            Some((block, offset)) => self.blocks[block][offset],
            None => 0,
        };
        for position in first_position..end {
            let token = slot.start.tokens[position as usize];
            known = mix(known ^ u64::from(token).wrapping_add(0x9E37_79B9_7F4A_7C15));
            let (block, offset) = place(position);
            let block = self.blocks.get_mut(block).ok_or(format!("there is no block {block}"))?;
            block[offset] = known;
        }
        slot.computed = end;
        if let Some(tops) = slot.start.sampling.prompt_logprobs {
            let last = (end + 1).min(slot.start.prompt_tokens);
            let first = first_position + 1;
            if first < last {
                let tokens = (first..last)
                    .map(|at| {
                        made_up_logprobs(
                            slot.start.tokens[at as usize],
                            tops,
                            self.config.vocab_size,
                        )
                    })
                    .collect();
                outcome.prompt_logprobs.push(PromptLogprobs {
                    slot: number,
                    first_position: first,
                    tokens,
                });
            }
        }
        if sample {
            let token = draw(&self.config, &slot.start, known);
            slot.start.tokens.push(token);
            let logprobs = slot.start.sampling.logprobs;
            let logprobs = logprobs.map(|n| made_up_logprobs(token, n, self.config.vocab_size));
            outcome.sampled.push(Sampled { slot: number, token: Some(token), logprobs });
        }
        Ok(())
    }
}

impl Executor for Sim {
    fn submit(&mut self, plan: StepPlan) -> Result<(), ExecutorError> {
        let step = plan.step;
        if self.in_flight.len() >= self.config.depth {
            let message = format!("{} plans are in flight", self.in_flight.len());
            return Err(ExecutorError::BadPlan { step, message });
        }
        let done =
            self.carry_out(&plan).map_err(|message| ExecutorError::BadPlan { step, message })?;
        self.in_flight.push_back(done);
        Ok(())
    }

    fn settle(&mut self) -> Result<StepOutcome, ExecutorError> {
        let Some((outcome, took)) = self.in_flight.pop_front() else {
            let message = "no plan is in flight".to_owned();
            return Err(ExecutorError::BadPlan { step: self.next_step, message });
        };
        (self.wait)(took);
        Ok(outcome)
    }

    fn depth(&self) -> usize {
        self.config.depth
    }
}

/// Makes up the token behind all that is known. A seed counts only where the request draws.
fn draw(config: &SimConfig, start: &SequenceStart, known: u64) -> u32 {
    let sampling = &start.sampling;
    let seed = if sampling.is_greedy() { 0 } else { sampling.seed };
    let random = mix(known ^ mix(seed));
    let output = start.tokens.len() - start.prompt_tokens as usize;
    let may_end = output >= sampling.min_tokens as usize;
    let chance = (random >> 11) as f64 / (1u64 << 53) as f64;
    if let Some(&end) = start.end_token_ids.first().filter(|_| may_end)
        && chance < config.end_probability
    {
        return end;
    }
    let mut token = (mix(random) % u64::from(config.vocab_size)) as u32;
    // Each id is tried once: a vocabulary of nothing but end tokens must not hang.
    for _ in 0..config.vocab_size {
        if !start.end_token_ids.contains(&token) {
            break;
        }
        token = (token + 1) % config.vocab_size;
    }
    token
}

fn made_up_logprobs(token: u32, alternatives: u32, vocab_size: u32) -> TokenLogprobs {
    let top = (0..alternatives.min(vocab_size))
        .map(|n| ((token + n) % vocab_size, -0.5 - n as f32))
        .collect();
    TokenLogprobs { logprob: -0.5, top }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators").
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
