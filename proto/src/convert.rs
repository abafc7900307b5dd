//! The only conversions between wire and vocabulary.
//!
//! Vocabulary to wire is total (`From`); wire to vocabulary checks what the wire cannot promise (`TryFrom`).

use std::time::Duration;

use glint_core::{
    Chunk, Credits, Failure, FinishReason, Kind, LoadSnapshot, ModelDigest, Numerics,
    SamplingParams, SequenceStart, StepPlan, TokenLogprobs, Usage,
};

use crate::v1;

/// A message that no peer of ours sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field without which the message means nothing.
    #[error("{message} has no {field}")]
    Missing {
        /// The message.
        message: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A field whose value contradicts the rest.
    #[error("{message}.{field} makes no sense: {why}")]
    Senseless {
        /// The message.
        message: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Failure for WireError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

fn missing(message: &'static str, field: &'static str) -> WireError {
    WireError::Missing { message, field }
}

fn senseless(message: &'static str, field: &'static str, why: impl Into<String>) -> WireError {
    WireError::Senseless { message, field, why: why.into() }
}

impl From<&SamplingParams> for v1::Sampling {
    fn from(params: &SamplingParams) -> Self {
        let bias = |&(token_id, bias): &(u32, f32)| v1::TokenBias { token_id, bias };
        Self {
            temperature: Some(params.temperature),
            top_p: Some(params.top_p),
            top_k: params.top_k,
            min_p: params.min_p,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            repetition_penalty: Some(params.repetition_penalty),
            logit_bias: params.logit_bias.iter().map(bias).collect(),
            seed: Some(params.seed),
            stop_token_ids: params.stop_token_ids.clone(),
            ignore_eos: params.ignore_eos,
            min_tokens: params.min_tokens,
            max_tokens: params.max_tokens,
            logprobs: params.logprobs,
            prompt_logprobs: params.prompt_logprobs,
        }
    }
}

impl TryFrom<v1::Sampling> for SamplingParams {
    type Error = WireError;

    fn try_from(wire: v1::Sampling) -> Result<Self, WireError> {
        Ok(Self {
            temperature: wire.temperature.unwrap_or(1.0),
            top_p: wire.top_p.unwrap_or(1.0),
            top_k: wire.top_k,
            min_p: wire.min_p,
            presence_penalty: wire.presence_penalty,
            frequency_penalty: wire.frequency_penalty,
            repetition_penalty: wire.repetition_penalty.unwrap_or(1.0),
            logit_bias: wire.logit_bias.into_iter().map(|b| (b.token_id, b.bias)).collect(),
            seed: wire.seed.ok_or(missing("Sampling", "seed"))?,
            stop_token_ids: wire.stop_token_ids,
            ignore_eos: wire.ignore_eos,
            min_tokens: wire.min_tokens,
            max_tokens: wire.max_tokens,
            logprobs: wire.logprobs,
            prompt_logprobs: wire.prompt_logprobs,
        })
    }
}

impl From<TokenLogprobs> for v1::Logprobs {
    fn from(logprobs: TokenLogprobs) -> Self {
        let (top_ids, top_logprobs) = logprobs.top.into_iter().unzip();
        Self { logprob: logprobs.logprob, top_ids, top_logprobs }
    }
}

impl TryFrom<v1::Logprobs> for TokenLogprobs {
    type Error = WireError;

    fn try_from(wire: v1::Logprobs) -> Result<Self, WireError> {
        let v1::Logprobs { logprob, top_ids, top_logprobs } = wire;
        if top_ids.len() != top_logprobs.len() {
            let why = format!("{} values for {} ids", top_logprobs.len(), top_ids.len());
            return Err(senseless("Logprobs", "top_logprobs", why));
        }
        Ok(Self { logprob, top: top_ids.into_iter().zip(top_logprobs).collect() })
    }
}

impl From<FinishReason> for v1::FinishReason {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Stop,
            FinishReason::Length => Self::Length,
            FinishReason::Aborted => Self::Aborted,
        }
    }
}

impl From<(FinishReason, Usage)> for v1::Finished {
    fn from((reason, usage): (FinishReason, Usage)) -> Self {
        Self {
            reason: v1::FinishReason::from(reason).into(),
            prompt_tokens: usage.prompt_tokens,
            cached_tokens: usage.cached_tokens,
            output_tokens: usage.output_tokens,
        }
    }
}

impl TryFrom<v1::Finished> for (FinishReason, Usage) {
    type Error = WireError;

    fn try_from(wire: v1::Finished) -> Result<Self, WireError> {
        let reason = match wire.reason() {
            v1::FinishReason::Unspecified => return Err(missing("Finished", "reason")),
            v1::FinishReason::Stop => FinishReason::Stop,
            v1::FinishReason::Length => FinishReason::Length,
            v1::FinishReason::Aborted => FinishReason::Aborted,
        };
        let usage = Usage {
            prompt_tokens: wire.prompt_tokens,
            cached_tokens: wire.cached_tokens,
            output_tokens: wire.output_tokens,
        };
        Ok((reason, usage))
    }
}

impl From<&Numerics> for v1::Numerics {
    fn from(numerics: &Numerics) -> Self {
        let Numerics { device, isa, compute, kv, world_size, batch_invariant, version } =
            numerics.clone();
        Self { device, isa, compute, kv, world_size, batch_invariant, version }
    }
}

impl From<v1::Numerics> for Numerics {
    fn from(wire: v1::Numerics) -> Self {
        let v1::Numerics { device, isa, compute, kv, world_size, batch_invariant, version } = wire;
        Self { device, isa, compute, kv, world_size, batch_invariant, version }
    }
}

/// Reads a model digest from a message's field.
///
/// # Errors
///
/// When it has not 32 bytes.
pub fn digest(message: &'static str, bytes: &[u8]) -> Result<ModelDigest, WireError> {
    let fit = bytes.try_into().map_err(|_| {
        senseless(message, "model_digest", format!("{} bytes, not 32", bytes.len()))
    })?;
    Ok(ModelDigest(fit))
}

/// Returns the wire's load report. `routers` are the in-flight sums by router.
#[must_use]
pub fn load(
    epoch: u64,
    snapshot: &LoadSnapshot,
    credits: Credits,
    routers: Vec<v1::RouterLoad>,
) -> v1::Load {
    v1::Load {
        dispatches_seen: credits.dispatches_seen,
        credit_sequences: credits.sequences,
        credit_tokens: credits.tokens,
        epoch,
        steps: snapshot.steps,
        waiting_sequences: snapshot.waiting_sequences,
        running_sequences: snapshot.running_sequences,
        queued_prefill_tokens: snapshot.queued_prefill_tokens,
        kv_blocks_total: snapshot.kv_blocks_total,
        kv_blocks_used: snapshot.kv_blocks_used,
        prefill_tokens_per_s: snapshot.prefill_tokens_per_s,
        decode_step_ms: snapshot.decode_step.map(|step| step.as_secs_f32() * 1e3),
        preemptions: snapshot.preemptions,
        draining: snapshot.draining,
        routers,
    }
}

impl From<&v1::Load> for LoadSnapshot {
    fn from(wire: &v1::Load) -> Self {
        let sane = |ms: &f32| ms.is_finite() && (0.0..1e9).contains(ms);
        Self {
            steps: wire.steps,
            waiting_sequences: wire.waiting_sequences,
            running_sequences: wire.running_sequences,
            queued_prefill_tokens: wire.queued_prefill_tokens,
            kv_blocks_total: wire.kv_blocks_total,
            kv_blocks_used: wire.kv_blocks_used,
            prefill_tokens_per_s: wire.prefill_tokens_per_s.filter(sane),
            decode_step: wire
                .decode_step_ms
                .filter(sane)
                .map(|ms| Duration::from_secs_f32(ms * 1e-3)),
            preemptions: wire.preemptions,
            draining: wire.draining,
        }
    }
}

impl From<&v1::Load> for Credits {
    fn from(wire: &v1::Load) -> Self {
        Self {
            dispatches_seen: wire.dispatches_seen,
            sequences: wire.credit_sequences,
            tokens: wire.credit_tokens,
        }
    }
}

impl From<&StepPlan> for v1::StepPlan {
    fn from(plan: &StepPlan) -> Self {
        let start = |start: &SequenceStart| v1::SequenceStart {
            slot: start.slot,
            sampling: Some((&start.sampling).into()),
            end_token_ids: start.end_token_ids.clone(),
            tokens: start.tokens.clone(),
            prompt_tokens: start.prompt_tokens,
            blocks: start.blocks.clone(),
        };
        let chunk = |chunk: &Chunk| v1::Chunk {
            slot: chunk.slot,
            first_position: chunk.first_position,
            len: chunk.len,
            new_blocks: chunk.new_blocks.clone(),
            sample: chunk.sample,
        };
        Self {
            step: plan.step,
            release: plan.release.clone(),
            start: plan.start.iter().map(start).collect(),
            chunks: plan.chunks.iter().map(chunk).collect(),
        }
    }
}

impl TryFrom<v1::StepPlan> for StepPlan {
    type Error = WireError;

    fn try_from(wire: v1::StepPlan) -> Result<Self, WireError> {
        let start = |start: v1::SequenceStart| {
            if start.prompt_tokens as usize > start.tokens.len() {
                let why = format!("{} of {} tokens", start.prompt_tokens, start.tokens.len());
                return Err(senseless("SequenceStart", "prompt_tokens", why));
            }
            Ok(SequenceStart {
                slot: start.slot,
                sampling: start.sampling.ok_or(missing("SequenceStart", "sampling"))?.try_into()?,
                end_token_ids: start.end_token_ids,
                tokens: start.tokens,
                prompt_tokens: start.prompt_tokens,
                blocks: start.blocks,
            })
        };
        let chunk = |chunk: v1::Chunk| Chunk {
            slot: chunk.slot,
            first_position: chunk.first_position,
            len: chunk.len,
            new_blocks: chunk.new_blocks,
            sample: chunk.sample,
        };
        Ok(Self {
            step: wire.step,
            release: wire.release,
            start: wire.start.into_iter().map(start).collect::<Result<_, _>>()?,
            chunks: wire.chunks.into_iter().map(chunk).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> StepPlan {
        let mut sampling = SamplingParams::plain(7, 20);
        sampling.logit_bias = vec![(3, -1.5)];
        sampling.logprobs = Some(0);
        sampling.stop_token_ids = vec![9];
        StepPlan {
            step: 4,
            release: vec![1, 2],
            start: vec![SequenceStart {
                slot: 3,
                sampling,
                end_token_ids: vec![9, 2],
                tokens: vec![5, 6, 7],
                prompt_tokens: 2,
                blocks: vec![8],
            }],
            chunks: vec![Chunk {
                slot: 3,
                first_position: 0,
                len: 3,
                new_blocks: vec![11],
                sample: true,
            }],
        }
    }

    #[test]
    fn a_plan_survives_the_wire() {
        assert_eq!(StepPlan::try_from(v1::StepPlan::from(&plan())), Ok(plan()));
    }

    #[test]
    fn absent_means_the_default_and_a_missing_seed_is_refused() {
        let wire = v1::Sampling { seed: Some(1), max_tokens: 5, ..Default::default() };
        assert_eq!(SamplingParams::try_from(wire.clone()), Ok(SamplingParams::plain(1, 5)));
        let error = SamplingParams::try_from(v1::Sampling { seed: None, ..wire }).unwrap_err();
        assert_eq!(error.to_string(), "Sampling has no seed");
    }

    #[test]
    fn senseless_messages_are_refused_by_name() {
        let mut wire = v1::StepPlan::from(&plan());
        wire.start[0].prompt_tokens = 4;
        let error = StepPlan::try_from(wire).unwrap_err().to_string();
        assert_eq!(error, "SequenceStart.prompt_tokens makes no sense: 4 of 3 tokens");
        let lopsided = v1::Logprobs { logprob: 0.0, top_ids: vec![1], top_logprobs: vec![] };
        assert!(TokenLogprobs::try_from(lopsided).is_err());
        assert!(digest("Hello", &[0; 31]).is_err());
    }

    #[test]
    fn a_load_report_survives_the_wire_and_unknown_is_not_zero() {
        let snapshot = LoadSnapshot {
            steps: 9,
            running_sequences: 2,
            decode_step: Some(Duration::from_millis(8)),
            ..LoadSnapshot::default()
        };
        let credits = Credits { dispatches_seen: 1, sequences: 2, tokens: 3 };
        let wire = load(5, &snapshot, credits, Vec::new());
        assert_eq!(wire.prefill_tokens_per_s, None);
        assert_eq!(LoadSnapshot::from(&wire), snapshot);
        assert_eq!(Credits::from(&wire), credits);
        let broken = v1::Load { decode_step_ms: Some(f32::NAN), ..wire };
        assert_eq!(LoadSnapshot::from(&broken).decode_step, None);
    }
}
