//! What does a rank remember about a sequence between steps?

use std::collections::BTreeMap;

use glint_core::{Chunk, SamplingParams, SequenceStart, StepPlan};
use glint_kernels::BLOCK_TOKENS;

use crate::sampler::{Draw, SeenTokens};

/// One sequence as a rank knows it.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Prompt and output; drawn tokens are appended by every rank alike.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_tokens: usize,
    /// Block table.
    pub(crate) blocks: Vec<u32>,
    pub(crate) sampling: SamplingParams,
    end_token_ids: Vec<u32>,
    seen: SeenTokens,
    /// Leading positions whose keys and values are in the blocks.
    computed: usize,
}

impl Sequence {
    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.seen.push(token);
    }

    /// Returns what is to be drawn behind the last token.
    pub(crate) fn draw(&self) -> Draw<'_> {
        Draw {
            params: &self.sampling,
            position: self.tokens.len() as u32,
            prompt_tokens: self.prompt_tokens as u32,
            end_token_ids: &self.end_token_ids,
            seen: &self.seen,
        }
    }

    /// Returns where the keys and values of a position are kept.
    pub(crate) fn kv_slot(&self, position: usize) -> usize {
        self.blocks[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
    }
}

/// The sequences of a rank, by slot.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    by_slot: BTreeMap<u32, Sequence>,
    next_step: u64,
}

/// Limits that every plan keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) kv_blocks: u32,
    pub(crate) vocab_size: u32,
}

impl Sequences {
    pub(crate) fn get(&self, slot: u32) -> &Sequence {
        self.by_slot.get(&slot).expect("plans were checked to name held slots")
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut Sequence {
        self.by_slot.get_mut(&slot).expect("plans were checked to name held slots")
    }

    /// Takes in what a plan changes, up to the chunks' new blocks. After an error the sequences are in no defined state.
    ///
    /// Every index that the step will use is checked here, so that no plan can make a rank panic.
    pub(crate) fn apply(&mut self, plan: &StepPlan, limits: Limits) -> Result<(), String> {
        if plan.step != self.next_step {
            return Err(format!("step {} was next", self.next_step));
        }
        self.next_step += 1;
        for slot in &plan.release {
            self.by_slot.remove(slot).ok_or_else(|| format!("slot {slot} is released unheld"))?;
        }
        for start in &plan.start {
            self.start(start, limits)?;
        }
        let mut seen = Vec::with_capacity(plan.chunks.len());
        for chunk in &plan.chunks {
            seen.push(chunk.slot);
            self.extend(chunk, limits)?;
        }
        seen.sort_unstable();
        match seen.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("slot {} stands in two chunks", pair[0])),
            None => Ok(()),
        }
    }

    fn start(&mut self, start: &SequenceStart, limits: Limits) -> Result<(), String> {
        let SequenceStart { slot, ref tokens, ref blocks, .. } = *start;
        let prompt_tokens = start.prompt_tokens as usize;
        if prompt_tokens == 0 || prompt_tokens > tokens.len() {
            return Err(format!(
                "slot {slot} starts with {} tokens, {prompt_tokens} of them prompt",
                tokens.len()
            ));
        }
        if let Some(token) = tokens.iter().find(|&&token| token >= limits.vocab_size) {
            return Err(format!("slot {slot} has token {token} of {}", limits.vocab_size));
        }
        check_blocks(slot, blocks, limits)?;
        let computed = blocks.len() * BLOCK_TOKENS;
        if computed >= tokens.len() {
            return Err(format!("slot {slot} starts with nothing to compute"));
        }
        let sequence = Sequence {
            tokens: tokens.clone(),
            prompt_tokens,
            blocks: blocks.clone(),
            sampling: start.sampling.clone(),
            end_token_ids: start.end_token_ids.clone(),
            seen: SeenTokens::new(&start.sampling, tokens, prompt_tokens),
            computed,
        };
        match self.by_slot.insert(slot, sequence) {
            Some(_) => Err(format!("slot {slot} is started while held")),
            None => Ok(()),
        }
    }

    fn extend(&mut self, chunk: &Chunk, limits: Limits) -> Result<(), String> {
        let Chunk { slot, first_position, len, ref new_blocks, sample } = *chunk;
        let sequence =
            self.by_slot.get_mut(&slot).ok_or_else(|| format!("slot {slot} is not held"))?;
        let (first, end) = (first_position as usize, first_position as usize + len as usize);
        if len == 0 || first != sequence.computed {
            return Err(format!(
                "slot {slot} is at position {}, the chunk has {len} from {first}",
                sequence.computed
            ));
        }
        if end > sequence.tokens.len() {
            return Err(format!("slot {slot} has no token at position {}", end - 1));
        }
        if sample && end != sequence.tokens.len() {
            return Err(format!("slot {slot} draws at {end}, before its last token"));
        }
        check_blocks(slot, new_blocks, limits)?;
        sequence.blocks.extend_from_slice(new_blocks);
        if sequence.blocks.len() < end.div_ceil(BLOCK_TOKENS) {
            return Err(format!(
                "slot {slot} has {} blocks for {end} positions",
                sequence.blocks.len()
            ));
        }
        sequence.computed = end;
        Ok(())
    }
}

fn check_blocks(slot: u32, blocks: &[u32], limits: Limits) -> Result<(), String> {
    match blocks.iter().find(|&&block| block >= limits.kv_blocks) {
        Some(block) => Err(format!("slot {slot} has block {block} of {}", limits.kv_blocks)),
        None => Ok(()),
    }
}
