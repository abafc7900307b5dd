//! What did the oldest plan in flight yield?

use glint_core::step::{PromptLogprobs, Sampled};
use glint_core::{FinishReason, StepOutcome};

use crate::executor::ExecutorError;
use crate::request::{Event, SequenceId};
use crate::sequence::Phase;

use super::{Part, PlanInFlight, Scheduler};

impl Scheduler {
    /// Takes the outcome of the oldest plan in flight and returns that plan.
    ///
    /// Surplus tokens, drawn before it was known that their sequence is over, are thrown away here.
    pub(crate) fn settle(
        &mut self,
        outcome: StepOutcome,
        events: &mut Vec<Event>,
    ) -> Result<PlanInFlight, ExecutorError> {
        let step = outcome.step;
        let bad = |message| ExecutorError::BadOutcome { step, message };
        let flight =
            self.in_flight.pop_front().ok_or_else(|| bad("no plan is in flight".to_owned()))?;
        if flight.step != step {
            return Err(bad(format!("step {} is the oldest in flight", flight.step)));
        }
        for logprobs in outcome.prompt_logprobs {
            self.take_prompt_logprobs(&flight, logprobs, events).map_err(bad)?;
        }
        let mut sampled = outcome.sampled.into_iter();
        for part in &flight.parts {
            let drawn = if part.sample {
                let drawn = sampled.next().filter(|drawn| drawn.slot == part.slot);
                Some(drawn.ok_or_else(|| bad(format!("slot {} drew nothing", part.slot)))?)
            } else {
                None
            };
            self.settle_part(part, drawn, events).map_err(bad)?;
        }
        match sampled.next() {
            Some(surplus) => Err(bad(format!("slot {} was not to draw", surplus.slot))),
            None => Ok(flight),
        }
    }

    fn settle_part(
        &mut self,
        part: &Part,
        drawn: Option<Sampled>,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        let id = part.sequence;
        let sequence = self.sequences.get_mut(&id).expect("sequences outlive their plans");
        sequence.settled(part.sample);
        let mut end = None;
        if let Some(Sampled { token, logprobs, .. }) = drawn.filter(|_| !sequence.is_over()) {
            if sequence.next_logprobs < sequence.prompt_tokens {
                let missing = sequence.next_logprobs;
                return Err(format!("no log-probabilities of prompt position {missing}"));
            }
            if let Some(token) = token {
                end = sequence.push(token).map(Phase::Finished);
                events.push(Event::Token { id, token, logprobs });
            } else {
                end = Some(Phase::Failed);
            }
        }
        if end != Some(Phase::Failed) {
            sequence.keep_full_blocks(part.end_position, &mut self.pool);
        }
        match end {
            Some(Phase::Failed) => self.fail(id, events),
            Some(Phase::Finished(reason)) => self.finish(id, reason, events),
            Some(Phase::Waiting | Phase::Prefill { .. } | Phase::Decode) | None => {
                self.depart_if_settled(id);
            }
        }
        Ok(())
    }

    fn finish(&mut self, id: SequenceId, reason: FinishReason, events: &mut Vec<Event>) {
        let usage = self.sequences[&id].usage();
        events.push(Event::Finished { id, reason, usage });
        self.end(id, Phase::Finished(reason));
    }

    /// Ends a sequence that got a NaN. What it has read may be what is broken, so the cache forgets it: the next
    /// request with this beginning computes it anew.
    fn fail(&mut self, id: SequenceId, events: &mut Vec<Event>) {
        let sequence = &self.sequences[&id];
        let position = sequence.tokens.len();
        let message = format!("a logit of the token at position {position} is not a number");
        events.push(Event::Failed { id, message });
        self.pool.forget(&sequence.blocks);
        self.end(id, Phase::Failed);
    }

    /// Passes on each position once, also when a preempted sequence computes it again.
    fn take_prompt_logprobs(
        &mut self,
        flight: &PlanInFlight,
        logprobs: PromptLogprobs,
        events: &mut Vec<Event>,
    ) -> Result<(), String> {
        let PromptLogprobs { slot, first_position, mut tokens } = logprobs;
        let part = flight.parts.iter().find(|part| part.slot == slot);
        let part = part.ok_or_else(|| format!("slot {slot} was not computed"))?;
        let id = part.sequence;
        let sequence = self.sequences.get_mut(&id).expect("sequences outlive their plans");
        let next = sequence.next_logprobs;
        if sequence.is_over() || next >= sequence.prompt_tokens {
            return Ok(());
        }
        if first_position > next {
            return Err(format!("no log-probabilities of prompt position {next}"));
        }
        tokens.truncate(sequence.prompt_tokens.saturating_sub(first_position) as usize);
        tokens.drain(..tokens.len().min((next - first_position) as usize));
        if !tokens.is_empty() {
            sequence.next_logprobs += tokens.len() as u32;
            events.push(Event::PromptLogprobs { id, first_position: next, tokens });
        }
        Ok(())
    }
}
