//! What do all ranks of a group do next?
//!
//! The leader's engine plans one step at a time and streams the plans to every rank. Each rank keeps, per
//! sequence, its tokens and its block table; a plan only says what changes. That is why a plan names no token that
//! was drawn: rank 0 draws and tells the others by the collective, and each rank appends it by itself. So plan
//! n + 1 can be sent before the tokens of plan n are known.

use crate::{SamplingParams, TokenLogprobs};

/// One forward pass over a batch. Order of effects: `release`, then `start`, then `chunks`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepPlan {
    /// Counts from 0 in each epoch, without gaps.
    pub step: u64,
    /// Slots whose sequences are over or preempted; the ranks forget them.
    pub release: Vec<u32>,
    /// Sequences that run for the first time, or again after a preemption.
    pub start: Vec<SequenceStart>,
    /// The batch. A slot stands in at most one chunk.
    pub chunks: Vec<Chunk>,
}

/// A sequence as a rank gets to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceStart {
    /// Names the sequence from now until its slot is released; slots are small and reused.
    pub slot: u32,
    /// How its tokens are drawn.
    pub sampling: SamplingParams,
    /// Token ids that end it, masked while the output is shorter than `sampling.min_tokens`.
    pub end_token_ids: Vec<u32>,
    /// Prompt, then output so far.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are prompt.
    pub prompt_tokens: u32,
    /// Its block table so far: blocks that the prefix cache gave it.
    pub blocks: Vec<u32>,
}

/// Consecutive positions of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The sequence.
    pub slot: u32,
    /// First position to compute; all before it are in the sequence's blocks.
    pub first_position: u32,
    /// Positions to compute. Their tokens are known to the rank when the step runs, for drawn ones were appended.
    pub len: u32,
    /// Appended to the block table before the step.
    pub new_blocks: Vec<u32>,
    /// Whether to draw the token that follows the last position, and append it.
    pub sample: bool,
}

/// What one step yielded, as rank 0 tells the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutcome {
    /// The plan's number.
    pub step: u64,
    /// One entry for each chunk that sampled, in the order of the chunks.
    pub sampled: Vec<Sampled>,
    /// Log-probabilities of prompt tokens, for chunks of sequences that asked for them.
    pub prompt_logprobs: Vec<PromptLogprobs>,
}

/// A token that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The sequence.
    pub slot: u32,
    /// The token, or nothing when a logit was NaN: that sequence fails alone.
    pub token: Option<u32>,
    /// Present if asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities of consecutive prompt tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptLogprobs {
    /// The sequence.
    pub slot: u32,
    /// Position of the first token described; never 0, for nothing precedes it.
    pub first_position: u32,
    /// One entry per position.
    pub tokens: Vec<TokenLogprobs>,
}
