//! Who may come in?

use std::time::Instant;

use super::{Draft, Scheduler};
use crate::request::Event;
use crate::sequence::{Phase, Sequence, blocks_for};

impl Scheduler {
    /// Admits sequences in their order, while budget, slots and blocks last.
    ///
    /// One is admitted when the blocks for all its tokens are there, beyond those that prompts in progress will
    /// need, and beyond a watermark: without one, the next decode would preempt it again.
    pub(super) fn admit(&mut self, draft: &mut Draft, now: Instant, events: &mut Vec<Event>) {
        let mut promised = None;
        while draft.budget_tokens > 0
            && self.running.len() < self.sequences_max as usize
            && let Some(&id) = self.waiting.front()
            && let Some(&slot) = self.free_slots.last()
        {
            let promised = promised.get_or_insert_with(|| self.promised_blocks());
            let watermark = if self.running.is_empty() { 0 } else { self.watermark_blocks() };
            let sequence = self.sequences.get_mut(&id).expect("waiting sequences are known");
            if sequence.plans_in_flight > 0 {
                return; // It was preempted, and its last tokens are still coming.
            }
            let reserved = *promised + watermark;
            if self.pool.available() <= reserved {
                return;
            }
            let hit = sequence.find(&self.pool);
            let needed = blocks_for(sequence.tokens.len() as u32) - hit.blocks();
            if self.pool.available() - hit.idle_blocks() < needed + reserved {
                return;
            }
            self.waiting.pop_front();
            self.free_slots.pop();
            draft.start.push(sequence.admit(slot, &hit, &mut self.pool));
            if sequence.cached_tokens.is_none() {
                let cached_tokens = sequence.next_position();
                sequence.cached_tokens = Some(cached_tokens);
                let waited = now.saturating_duration_since(sequence.added_at);
                events.push(Event::Started { id, cached_tokens, waited });
            }
            self.running.push(id);
            self.plan_one(id, draft);
            *promised += missing_blocks(&self.sequences[&id]);
        }
    }

    /// Returns how many blocks the running prompts will still take before they decode.
    fn promised_blocks(&self) -> u32 {
        self.running.iter().map(|id| missing_blocks(&self.sequences[id])).sum()
    }

    fn watermark_blocks(&self) -> u32 {
        self.pool.total().div_ceil(100)
    }
}

/// Returns how many blocks a prompt in progress will still take.
fn missing_blocks(sequence: &Sequence) -> u32 {
    match sequence.phase {
        Phase::Prefill { .. } => {
            blocks_for(sequence.tokens.len() as u32) - sequence.blocks.len() as u32
        }
        Phase::Waiting | Phase::Decode | Phase::Finished(_) | Phase::Failed => 0,
    }
}
