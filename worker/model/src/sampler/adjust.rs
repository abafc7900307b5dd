//! Penalties, bias and masks: what changes logits before the temperature.

use std::collections::HashMap;

use glint_core::SamplingParams;

use super::Draw;

/// How often each token was seen, kept only for requests with a penalty.
#[derive(Clone, Debug, Default)]
pub struct SeenTokens {
    /// Occurrences in the output; 0 for a token of the prompt alone. `None`: nobody asks.
    output_counts: Option<HashMap<u32, u32>>,
}

impl SeenTokens {
    /// Counts the tokens so far, prompt first, if these parameters have a penalty.
    #[must_use]
    pub fn new(params: &SamplingParams, tokens: &[u32], prompt_tokens: usize) -> Self {
        if !has_penalty(params) {
            return Self::default();
        }
        let (prompt, output) = tokens.split_at(prompt_tokens);
        let mut seen = Self { output_counts: Some(prompt.iter().map(|&id| (id, 0)).collect()) };
        output.iter().for_each(|&id| seen.push(id));
        seen
    }

    /// Counts one more token of the output.
    pub fn push(&mut self, id: u32) {
        if let Some(counts) = &mut self.output_counts {
            *counts.entry(id).or_default() += 1;
        }
    }
}

fn has_penalty(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0
}

fn may_not_end(draw: &Draw<'_>) -> bool {
    draw.position.saturating_sub(draw.prompt_tokens) < draw.params.min_tokens
}

/// Returns whether [`adjust`] would change anything.
pub(super) fn is_needed(draw: &Draw<'_>) -> bool {
    has_penalty(draw.params) || !draw.params.logit_bias.is_empty() || may_not_end(draw)
}

/// Changes the raw logits: repetition, frequency and presence penalty, bias, masks. Tokens beyond the vocabulary are passed over.
pub(super) fn adjust(x: &mut [f32], draw: &Draw<'_>) {
    let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } =
        *draw.params;
    for (&id, &count) in draw.seen.output_counts.iter().flatten() {
        let Some(x) = x.get_mut(id as usize) else { continue };
        if repetition_penalty != 1.0 {
            *x = if *x > 0.0 { *x / repetition_penalty } else { *x * repetition_penalty };
        }
        if count > 0 {
            *x -= frequency_penalty * count as f32;
            *x -= presence_penalty;
        }
    }
    for &(id, bias) in &draw.params.logit_bias {
        if let Some(x) = x.get_mut(id as usize) {
            *x += bias;
        }
    }
    if may_not_end(draw) {
        for &id in draw.end_token_ids {
            if let Some(x) = x.get_mut(id as usize) {
                *x = f32::NEG_INFINITY;
            }
        }
    }
}
