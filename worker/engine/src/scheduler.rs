//! Who computes how much in the next step?
//!
//! Under one token budget: first every decoding sequence gets its position, then the prompts that run get chunks,
//! then waiting sequences are admitted, each time in the order in which they came.
//!
//! **Invariant.** Whoever runs came before whoever waits: the head of the queue is admitted, the youngest that runs is
//! preempted and becomes the head again. So the oldest sequence is never preempted, can take the blocks of all others,
//! fits alone ([`AdmitError::OutOfBlocks`](crate::AdmitError::OutOfBlocks)), and ends; then another one is the oldest.
//! Nobody starves.
//!
//! **Invariant.** Blocks and slot of a sequence that is over or preempted change hands only when no plan in
//! flight mentions it. Until then the blocks count as *leaving*, and whoever needs them waits instead of taking more.

mod admit;
mod audit;
mod settle;

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use glint_core::{Chunk, FinishReason, SequenceStart, StepPlan, Usage};

use crate::config::EngineConfig;
use crate::pool::Pool;
use crate::request::{Event, SequenceId};
use crate::sequence::{Phase, Sequence, blocks_for};

/// A plan that was made and not settled.
#[derive(Debug)]
pub(crate) struct PlanInFlight {
    pub(crate) step: u64,
    parts: Vec<Part>,
    /// Positions of prompts, or of what a preemption took.
    pub(crate) prefill_tokens: u32,
}

/// One chunk of a plan in flight. The slot may have changed hands when it is settled, the sequence not.
#[derive(Debug)]
struct Part {
    sequence: SequenceId,
    slot: u32,
    end_position: u32,
    sample: bool,
}

#[derive(Debug)]
pub(crate) struct Scheduler {
    step_tokens_max: u32,
    chunk_tokens_max: u32,
    sequences_max: u32,
    pub(crate) pool: Pool,
    pub(crate) sequences: HashMap<SequenceId, Sequence>,
    /// In the order of ids.
    pub(crate) waiting: VecDeque<SequenceId>,
    /// In the order of ids, all before those that wait.
    pub(crate) running: Vec<SequenceId>,
    free_slots: Vec<u32>,
    /// Slots that the ranks have not yet been told to forget.
    released_slots: Vec<u32>,
    /// Blocks of sequences that no longer run but stand in a plan in flight.
    leaving_blocks: u32,
    pub(crate) in_flight: VecDeque<PlanInFlight>,
    next_step: u64,
    pub(crate) preemptions: u64,
}

/// A plan in the making.
struct Draft {
    budget_tokens: u32,
    start: Vec<SequenceStart>,
    chunks: Vec<Chunk>,
    flight: PlanInFlight,
    /// Someone who runs found no block: nobody is admitted.
    is_short: bool,
}

impl Scheduler {
    pub(crate) fn new(config: &EngineConfig, pool: Pool) -> Self {
        Self {
            step_tokens_max: config.step_tokens_max,
            chunk_tokens_max: config.chunk_tokens_max,
            sequences_max: config.sequences_max,
            pool,
            sequences: HashMap::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            free_slots: (0..config.sequences_max).rev().collect(),
            released_slots: Vec::new(),
            leaving_blocks: 0,
            in_flight: VecDeque::new(),
            next_step: 0,
            preemptions: 0,
        }
    }

    /// Puts a sequence, younger than all others, at the queue's end.
    pub(crate) fn add(&mut self, mut sequence: Sequence) {
        let hit = sequence.find(&self.pool);
        sequence.expected_cached_tokens = hit.blocks() * glint_core::BLOCK_SIZE_TOKENS as u32;
        self.waiting.push_back(sequence.id);
        self.sequences.insert(sequence.id, sequence);
    }

    /// Ends a sequence; nothing if it is unknown or already over.
    pub(crate) fn abort(&mut self, id: SequenceId) -> Option<Usage> {
        let sequence = self.sequences.get(&id).filter(|sequence| !sequence.is_over())?;
        let usage = sequence.usage();
        self.end(id, Phase::Finished(FinishReason::Aborted));
        Some(usage)
    }

    /// Makes the next plan, or nothing if no sequence can be moved on before a plan in flight is settled.
    pub(crate) fn plan(&mut self, now: Instant, events: &mut Vec<Event>) -> Option<StepPlan> {
        let flight = PlanInFlight {
            step: self.next_step,
            parts: Vec::with_capacity(self.running.len()),
            prefill_tokens: 0,
        };
        let mut draft = Draft {
            budget_tokens: self.step_tokens_max,
            start: Vec::new(),
            chunks: Vec::with_capacity(self.running.len()),
            flight,
            is_short: false,
        };
        self.plan_running(&mut draft, |phase| phase == Phase::Decode);
        self.plan_running(&mut draft, |phase| matches!(phase, Phase::Prefill { .. }));
        if !draft.is_short {
            self.admit(&mut draft, now, events);
        }
        if draft.chunks.is_empty() {
            return None;
        }
        self.next_step += 1;
        let Draft { start, chunks, flight, .. } = draft;
        let release = std::mem::take(&mut self.released_slots);
        let plan = StepPlan { step: flight.step, release, start, chunks };
        self.in_flight.push_back(flight);
        Some(plan)
    }

    /// Plans those that run and are of this phase, the oldest first.
    fn plan_running(&mut self, draft: &mut Draft, of: impl Fn(Phase) -> bool) {
        let mut next = 0;
        // By index: whoever is preempted meanwhile stands at the end.
        while let Some(&id) = self.running.get(next)
            && draft.budget_tokens > 0
        {
            let sequence = &self.sequences[&id];
            if of(sequence.phase) && !sequence.is_full() {
                self.plan_one(id, draft);
            }
            next += 1;
        }
    }

    /// Plans as much of a running sequence as budget and blocks allow.
    fn plan_one(&mut self, id: SequenceId, draft: &mut Draft) {
        let sequence = &self.sequences[&id];
        let is_decode = sequence.phase == Phase::Decode;
        let first = sequence.next_position();
        let limit = draft.budget_tokens.min(self.chunk_tokens_max);
        let mut end = sequence.planned_tokens().min(first + limit);
        let held = sequence.blocks.len() as u32;
        let mut new_blocks = Vec::new();
        while held + (new_blocks.len() as u32) < blocks_for(end) {
            if let Some(block) = self.block_for(id) {
                new_blocks.push(block);
            } else {
                draft.is_short = true;
                let blocks = held + new_blocks.len() as u32;
                end = blocks * glint_core::BLOCK_SIZE_TOKENS as u32;
            }
        }
        if end <= first {
            return;
        }
        let sequence = self.sequences.get_mut(&id).expect("running sequences are known");
        let chunk = sequence.plan(end - first, new_blocks);
        draft.budget_tokens -= chunk.len;
        if !is_decode {
            draft.flight.prefill_tokens += chunk.len;
        }
        let Chunk { slot, sample, .. } = chunk;
        draft.flight.parts.push(Part { sequence: id, slot, end_position: end, sample });
        draft.chunks.push(chunk);
    }

    /// Returns a block for a running sequence; if there is none, preempts younger ones until there is, but not while
    /// others are about to leave some.
    fn block_for(&mut self, id: SequenceId) -> Option<u32> {
        loop {
            if let Some(block) = self.pool.allocate() {
                return Some(block);
            }
            let &youngest = self.running.last()?;
            if self.leaving_blocks > 0 || youngest == id {
                return None;
            }
            self.preempt(youngest);
        }
    }

    fn preempt(&mut self, id: SequenceId) {
        let youngest = self.running.pop();
        debug_assert_eq!(youngest, Some(id), "the youngest is preempted");
        self.sequences.get_mut(&id).expect("running sequences are known").preempt();
        self.waiting.push_front(id);
        self.preemptions += 1;
        self.leave(id);
    }

    /// Ends a sequence in whatever phase it is.
    fn end(&mut self, id: SequenceId, phase: Phase) {
        let sequence = self.sequences.get_mut(&id).expect("whoever ends is known");
        let was_running = sequence.is_running();
        sequence.end_as(phase);
        if was_running {
            let at = self.running.binary_search(&id).expect("it runs");
            self.running.remove(at);
            self.leave(id);
        } else {
            let at = self.waiting.binary_search(&id).expect("it waits");
            self.waiting.remove(at);
            self.depart_if_settled(id);
        }
    }

    /// Takes blocks and slot of a sequence that no longer runs, now or when its last plan is settled.
    fn leave(&mut self, id: SequenceId) {
        self.leaving_blocks += self.sequences[&id].blocks.len() as u32;
        self.depart_if_settled(id);
    }

    fn depart_if_settled(&mut self, id: SequenceId) {
        let sequence = self.sequences.get_mut(&id).expect("whoever departs is known");
        if sequence.is_running() || sequence.plans_in_flight > 0 {
            return;
        }
        self.leaving_blocks -= sequence.blocks.len() as u32;
        if let Some(slot) = sequence.depart(&mut self.pool) {
            self.released_slots.push(slot);
            self.free_slots.push(slot);
        }
        if sequence.is_over() {
            self.sequences.remove(&id);
        }
    }
}
