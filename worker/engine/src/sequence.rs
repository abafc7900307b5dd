//! Where does one sequence stand?

use std::time::Instant;

use glint_core::{
    BLOCK_SIZE_TOKENS, BlockHash, Chunk, FinishReason, Namespace, SamplingParams, SequenceStart,
    Usage, block::reusable_blocks,
};

use crate::pool::{Contents, Hit, NodeRef, Pool};
use crate::request::SequenceId;

/// What a sequence does next. It follows the *plans*: a sequence decodes as soon as its last chunk is planned.
///
/// ```text
/// Waiting ──admit──▶ Prefill ──last chunk──▶ Decode ──stop──▶ Finished
///    ▲                  │                       │
///    └──── preempt ─────┴───────────────────────┘   blocks go, tokens stay
/// ```
///
/// Every phase may be left for `Finished` (a stop that is seen late, an abort) or `Failed`. Results of plans in flight
/// keep coming in whatever phase: a waiting sequence still gets its tokens, an ended one ignores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    Prefill { computed_tokens: u32 },
    Decode,
    Finished(FinishReason),
    Failed,
}

/// What its next full block is chained to in the prefix cache.
#[derive(Clone, Copy, Debug)]
enum Link {
    To(Option<NodeRef>),
    /// One of its blocks could not be kept, so none behind it can be verified.
    Broken,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) tag: u64,
    pub(crate) phase: Phase,
    /// Prompt and all output that is known.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_tokens: u32,
    /// Tokens that came with the request.
    given_tokens: u32,
    /// It ends when it has this many tokens.
    tokens_max: u32,
    sampling: SamplingParams,
    end_token_ids: Vec<u32>,
    namespace: Namespace,
    /// Names of its first full blocks, as far as they were needed.
    names: Vec<BlockHash>,
    /// Its block table. Positions are computed into `blocks[position / 16]`.
    pub(crate) blocks: Vec<u32>,
    /// Leading blocks that the prefix cache has, or was offered.
    kept_blocks: u32,
    link: Link,
    pub(crate) slot: Option<u32>,
    /// Plans in flight that compute some of its positions. Until it is 0, blocks and slot stay as they are.
    pub(crate) plans_in_flight: u32,
    draws_in_flight: u32,
    /// First prompt position whose log-probabilities were not sent; beyond the prompt when none are left.
    pub(crate) next_logprobs: u32,
    pub(crate) cached_tokens: Option<u32>,
    /// Of its tokens, those that were in the cache when it came.
    pub(crate) expected_cached_tokens: u32,
    pub(crate) added_at: Instant,
}

/// What a sequence is made of.
pub(crate) struct NewSequence {
    pub(crate) id: SequenceId,
    pub(crate) tag: u64,
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_tokens: u32,
    pub(crate) tokens_max: u32,
    pub(crate) sampling: SamplingParams,
    pub(crate) end_token_ids: Vec<u32>,
    pub(crate) namespace: Namespace,
    pub(crate) now: Instant,
}

/// Returns how many blocks hold this many positions.
pub(crate) fn blocks_for(positions: u32) -> u32 {
    positions.div_ceil(BLOCK_SIZE_TOKENS as u32)
}

impl Sequence {
    pub(crate) fn new(new: NewSequence) -> Self {
        let NewSequence { id, tag, tokens, prompt_tokens, tokens_max, .. } = new;
        let given_tokens = tokens.len() as u32;
        let wants_logprobs = new.sampling.prompt_logprobs.is_some();
        let next_logprobs =
            if wants_logprobs && given_tokens == prompt_tokens { 1 } else { prompt_tokens };
        Self {
            id,
            tag,
            phase: Phase::Waiting,
            tokens,
            prompt_tokens,
            given_tokens,
            tokens_max,
            sampling: new.sampling,
            end_token_ids: new.end_token_ids,
            namespace: new.namespace,
            names: Vec::new(),
            blocks: Vec::new(),
            kept_blocks: 0,
            link: Link::To(None),
            slot: None,
            plans_in_flight: 0,
            draws_in_flight: 0,
            next_logprobs,
            cached_tokens: None,
            expected_cached_tokens: 0,
            added_at: new.now,
        }
    }

    /// Returns what of it is in the cache and may be used: one token is left to compute, and so is every prompt
    /// position whose log-probabilities are still to be sent.
    pub(crate) fn find(&mut self, pool: &Pool) -> Hit {
        if !pool.caches() {
            return Hit::default();
        }
        let mut blocks = reusable_blocks(self.tokens.len());
        if self.next_logprobs < self.prompt_tokens {
            blocks = blocks.min((self.next_logprobs as usize - 1) / BLOCK_SIZE_TOKENS);
        }
        pool.names(self.namespace, &self.tokens, blocks, &mut self.names);
        let names = &self.names[..blocks.min(self.names.len())];
        pool.find(self.namespace, &self.tokens, names)
    }

    // ## Waiting => Prefill
    //
    // The cached beginning is taken; the ranks learn all that is known about the sequence.
    pub(crate) fn admit(&mut self, slot: u32, hit: &Hit, pool: &mut Pool) -> SequenceStart {
        assert_eq!(self.phase, Phase::Waiting, "only waiting sequences are admitted");
        self.blocks = pool.take(hit);
        self.kept_blocks = hit.blocks();
        self.link = Link::To(hit.last());
        self.slot = Some(slot);
        let computed_tokens = hit.blocks() * BLOCK_SIZE_TOKENS as u32;
        self.phase = Phase::Prefill { computed_tokens };
        let mut sampling = self.sampling.clone();
        if self.next_logprobs >= self.prompt_tokens {
            sampling.prompt_logprobs = None;
        }
        SequenceStart {
            slot,
            sampling,
            end_token_ids: self.end_token_ids.clone(),
            tokens: self.tokens.clone(),
            prompt_tokens: self.prompt_tokens,
            blocks: self.blocks.clone(),
        }
    }

    // ## Prefill => (Prefill | Decode), Decode => Decode
    //
    // The last chunk also draws the first token. `new_blocks` make room for `len` positions.
    pub(crate) fn plan(&mut self, len: u32, new_blocks: Vec<u32>) -> Chunk {
        let first_position = self.next_position();
        let end = first_position + len;
        let sample = end == self.planned_tokens();
        self.phase = match self.phase {
            Phase::Prefill { .. } if !sample => Phase::Prefill { computed_tokens: end },
            Phase::Prefill { .. } | Phase::Decode => Phase::Decode,
            Phase::Waiting | Phase::Finished(_) | Phase::Failed => {
                unreachable!("only running sequences are planned, this one is {:?}", self.phase)
            }
        };
        self.blocks.extend_from_slice(&new_blocks);
        self.plans_in_flight += 1;
        self.draws_in_flight += u32::from(sample);
        let slot = self.slot.expect("running sequences have a slot");
        Chunk { slot, first_position, len, new_blocks, sample }
    }

    // ## (Prefill | Decode) => Waiting
    pub(crate) fn preempt(&mut self) {
        assert!(self.is_running(), "only running sequences are preempted, not {:?}", self.phase);
        self.phase = Phase::Waiting;
        self.expected_cached_tokens = 0;
    }

    // ## (Waiting | Prefill | Decode) => (itself | Finished)
    //
    // A token came. Returns why it was the last one, if it was.
    pub(crate) fn push(&mut self, token: u32) -> Option<FinishReason> {
        self.tokens.push(token);
        self.end()
    }

    // ## any => (Finished | Failed)
    pub(crate) fn end_as(&mut self, phase: Phase) {
        assert!(!self.is_over(), "a sequence ends once, this one is {:?}", self.phase);
        self.phase = phase;
    }

    /// Returns why nothing may follow its last token, or nothing if something may.
    pub(crate) fn end(&self) -> Option<FinishReason> {
        let has_output = self.tokens.len() > self.prompt_tokens as usize;
        if has_output && self.tokens.last().is_some_and(|token| self.end_token_ids.contains(token))
        {
            Some(FinishReason::Stop)
        } else if self.tokens.len() >= self.tokens_max as usize {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Notes that the oldest plan in flight with this sequence is done, and whether it drew.
    pub(crate) fn settled(&mut self, drew: bool) {
        self.plans_in_flight -= 1;
        self.draws_in_flight -= u32::from(drew);
    }

    /// Offers blocks to the cache that are full, now that the positions before `end` are computed.
    pub(crate) fn keep_full_blocks(&mut self, end: u32, pool: &mut Pool) {
        if !pool.caches() || self.phase == Phase::Failed {
            return;
        }
        // The last positions of an ended sequence may hold surplus tokens, which nobody knows.
        let full = (end as usize).min(self.tokens.len()) / BLOCK_SIZE_TOKENS;
        pool.names(self.namespace, &self.tokens, full, &mut self.names);
        let tokens = self.tokens.as_chunks().0;
        while (self.kept_blocks as usize) < full
            && let Link::To(parent) = self.link
        {
            let at = self.kept_blocks as usize;
            let (namespace, hash) = (self.namespace, self.names[at]);
            let contents = Contents { namespace, parent, hash, tokens: &tokens[at] };
            self.link = match pool.keep(self.blocks[at], contents) {
                Some(node) => Link::To(Some(node)),
                None => Link::Broken,
            };
            self.kept_blocks += 1;
        }
    }

    /// Gives up blocks and slot, which no plan in flight mentions.
    pub(crate) fn depart(&mut self, pool: &mut Pool) -> Option<u32> {
        assert_eq!(self.plans_in_flight, 0, "blocks stay while a plan in flight writes them");
        pool.release(&std::mem::take(&mut self.blocks));
        self.slot.take()
    }

    /// Returns the first position that no plan computes.
    pub(crate) fn next_position(&self) -> u32 {
        match self.phase {
            Phase::Waiting => 0,
            Phase::Prefill { computed_tokens } => computed_tokens,
            Phase::Decode | Phase::Finished(_) | Phase::Failed => self.planned_tokens() - 1,
        }
    }

    /// Returns how many tokens it has, with those still being drawn.
    pub(crate) fn planned_tokens(&self) -> u32 {
        self.tokens.len() as u32 + self.draws_in_flight
    }

    /// Returns whether the tokens being drawn are its last ones.
    pub(crate) fn is_full(&self) -> bool {
        self.planned_tokens() >= self.tokens_max
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Prefill { .. } | Phase::Decode)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Finished(_) | Phase::Failed)
    }

    /// Returns how many tokens of prompt, or of what a preemption took, are still to be planned.
    pub(crate) fn prefill_tokens(&self) -> u32 {
        match self.phase {
            Phase::Waiting => self.tokens.len() as u32 - self.expected_cached_tokens,
            Phase::Prefill { computed_tokens } => self.tokens.len() as u32 - computed_tokens,
            Phase::Decode | Phase::Finished(_) | Phase::Failed => 0,
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            output_tokens: self.tokens.len() as u32 - self.given_tokens,
        }
    }
}
