//! What does a rank remember, and does a plan fit it?

use std::collections::BTreeMap;
use std::ops::Range;

use glint_core::step::{PromptLogprobs, Sampled};
use glint_core::{BLOCK_SIZE_TOKENS, Chunk, SequenceStart, StepOutcome};

use super::draw::{chain, draw, logprobs};

/// One rank's slots and blocks.
pub(super) struct Rank {
    vocab_size: u32,
    end_probability: f64,
    slots: BTreeMap<u32, Slot>,
    /// Per block and offset: a digest of all tokens up to there. It stands for keys and values.
    pub(super) blocks: Vec<[u64; BLOCK_SIZE_TOKENS]>,
    /// How many slots' tables each block stands in.
    holders: Vec<u32>,
}

/// A sequence as a rank knows it.
struct Slot {
    start: SequenceStart,
    computed: u32,
    table: Vec<u32>,
}

impl Slot {
    /// Returns a position's block and its offset there.
    fn place(&self, position: u32) -> (usize, usize) {
        let position = position as usize;
        (self.table[position / BLOCK_SIZE_TOKENS] as usize, position % BLOCK_SIZE_TOKENS)
    }
}

impl Rank {
    pub(super) fn new(kv_blocks: u32, vocab_size: u32, end_probability: f64) -> Self {
        Self {
            vocab_size,
            end_probability,
            slots: BTreeMap::new(),
            blocks: vec![[0; BLOCK_SIZE_TOKENS]; kv_blocks as usize],
            holders: vec![0; kv_blocks as usize],
        }
    }

    pub(super) fn release(&mut self, slot: u32) -> Result<(), String> {
        let known = self.slots.remove(&slot).ok_or_else(|| format!("slot {slot} is not held"))?;
        for block in known.table {
            self.holders[block as usize] -= 1;
        }
        Ok(())
    }

    pub(super) fn start(&mut self, start: &SequenceStart) -> Result<(), String> {
        let number = start.slot;
        let prompt = 1..=start.tokens.len();
        if !prompt.contains(&(start.prompt_tokens as usize)) {
            let SequenceStart { prompt_tokens, tokens, .. } = start;
            let tokens = tokens.len();
            return Err(format!("slot {number} has {prompt_tokens} prompt of {tokens} tokens"));
        }
        if let Some(token) = start.tokens.iter().find(|&&token| token >= self.vocab_size) {
            return Err(format!("slot {number} has token {token}, which does not exist"));
        }
        let computed = start.blocks.len() * BLOCK_SIZE_TOKENS;
        if computed >= start.tokens.len() {
            return Err(format!("slot {number} starts with nothing to compute"));
        }
        let table = start.blocks.clone();
        for (at, &block) in table.iter().enumerate() {
            if table[..at].contains(&block) {
                return Err(format!("block {block} stands twice in slot {number}'s table"));
            }
            *self.holders_mut(block)? += 1;
        }
        let slot = Slot { start: start.clone(), computed: computed as u32, table };
        match self.slots.insert(number, slot) {
            Some(_) => Err(format!("slot {number} is started while held")),
            None => Ok(()),
        }
    }

    /// Computes a chunk and adds what it yields to the outcome.
    pub(super) fn compute(
        &mut self,
        chunk: &Chunk,
        outcome: &mut StepOutcome,
    ) -> Result<(), String> {
        let number = chunk.slot;
        for &block in &chunk.new_blocks {
            let holders = self.holders_mut(block)?;
            if *holders > 0 {
                return Err(format!("block {block} is given to slot {number} while held"));
            }
            *holders = 1;
        }
        let slot =
            self.slots.get_mut(&number).ok_or_else(|| format!("slot {number} is not held"))?;
        slot.table.extend_from_slice(&chunk.new_blocks);
        let positions = slot.check(chunk)?;
        let mut known = match positions.start.checked_sub(1).map(|last| slot.place(last)) {
            Some((block, offset)) => self.blocks[block][offset],
            None => 0,
        };
        for position in positions.clone() {
            let (block, offset) = slot.place(position);
            if self.holders[block] > 1 {
                return Err(format!("slot {number} writes block {block}, which others hold"));
            }
            known = chain(known, u64::from(slot.start.tokens[position as usize]));
            self.blocks[block][offset] = known;
        }
        slot.computed = positions.end;
        if let Some(prompt_logprobs) = slot.prompt_logprobs(&positions, self.vocab_size) {
            outcome.prompt_logprobs.push(prompt_logprobs);
        }
        if chunk.sample {
            // Attention looks back into every block: whoever overwrote one began at its first position.
            let first = |&block: &u32| self.blocks[block as usize][0];
            let known = slot.table.iter().map(first).fold(known, chain);
            let token = draw(&slot.start, known, self.vocab_size, self.end_probability);
            slot.start.tokens.push(token);
            let wanted = slot.start.sampling.logprobs;
            let logprobs = wanted.map(|n| logprobs(token, n, self.vocab_size));
            outcome.sampled.push(Sampled { slot: number, token: Some(token), logprobs });
        }
        Ok(())
    }

    fn holders_mut(&mut self, block: u32) -> Result<&mut u32, String> {
        self.holders.get_mut(block as usize).ok_or_else(|| format!("there is no block {block}"))
    }
}

impl Slot {
    /// Returns the positions of a chunk that fits.
    fn check(&self, chunk: &Chunk) -> Result<Range<u32>, String> {
        let Chunk { slot, first_position, len, sample, .. } = *chunk;
        let Self { start, computed, table } = self;
        if len == 0 || first_position != *computed {
            return Err(format!("slot {slot} is at position {computed}, not {first_position}"));
        }
        let end = first_position + len;
        if end as usize > start.tokens.len() {
            return Err(format!("slot {slot} has no token at position {}", end - 1));
        }
        if sample != (end as usize == start.tokens.len()) {
            return Err(format!("slot {slot} draws before its last token, or not behind it"));
        }
        if table.len() != (end as usize).div_ceil(BLOCK_SIZE_TOKENS) {
            return Err(format!("slot {slot} has {} blocks for {end} positions", table.len()));
        }
        Ok(first_position..end)
    }

    /// Describes the prompt tokens that follow these positions, if that was asked for.
    fn prompt_logprobs(&self, positions: &Range<u32>, vocab_size: u32) -> Option<PromptLogprobs> {
        let SequenceStart { slot, ref sampling, ref tokens, prompt_tokens, .. } = self.start;
        let alternatives = sampling.prompt_logprobs?;
        let first_position = positions.start + 1;
        let described = tokens.get(first_position as usize..)?;
        let end = (positions.end + 1).min(prompt_tokens);
        let tokens: Vec<_> = described
            .iter()
            .take(end.saturating_sub(first_position) as usize)
            .map(|&token| logprobs(token, alternatives, vocab_size))
            .collect();
        (!tokens.is_empty()).then_some(PromptLogprobs { slot, first_position, tokens })
    }
}
