//! Which token comes next? (`FORMATS.md` section 2)
//!
//! From the logits of one position and what the request asked for to one token, the same on every device and in any
//! order of candidates. Adjust, cut, draw: penalties, bias and masks change logits (`adjust`); top_k, top_p and
//! min_p become one threshold (`cut`); of what reaches it, the largest sum of scaled logit and noise wins (`draw`).

use glint_core::SamplingParams;
use glint_core::draw::Best;
use glint_kernels::argmax;

mod adjust;
mod cut;
mod draw;
mod logprobs;

pub use adjust::SeenTokens;
pub use logprobs::{LogProbs, token_logprobs};

/// What is known about the token to be drawn, besides its logits.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// What the request asked for.
    pub params: &'a SamplingParams,
    /// The token's 0-based index in prompt and output.
    pub position: u32,
    /// Tokens of the prompt; `position − prompt_tokens` were drawn before.
    pub prompt_tokens: u32,
    /// Tokens that end the sequence.
    pub end_token_ids: &'a [u32],
    /// Tokens so far, for the penalties.
    pub seen: &'a SeenTokens,
}

/// Draws tokens. Holds buffers, and nothing that outlives a call.
#[derive(Debug, Default)]
pub struct Sampler {
    x: Vec<f32>,
    cut: cut::Cut,
}

impl Sampler {
    /// Makes a sampler.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Draws one token from the raw logits of the whole vocabulary; `None` if one of them is NaN or +∞, for then
    /// something is broken and no token is better than another.
    pub fn draw(&mut self, logits: &[f32], draw: Draw<'_>) -> Option<u32> {
        let likeliest = argmax(logits)?;
        if logits[likeliest] == f32::INFINITY {
            return None;
        }
        if draw.params.is_greedy() && !adjust::is_needed(&draw) {
            return Some(likeliest as u32);
        }
        self.x.clear();
        self.x.extend_from_slice(logits);
        adjust::adjust(&mut self.x, &draw);
        let params = draw.params;
        if params.is_greedy() {
            return argmax(&self.x).map(|id| id as u32);
        }
        self.x.iter_mut().for_each(|x| *x /= params.temperature);
        let threshold = self.cut.threshold(&self.x, params);
        let Best { id, .. } = draw::best(&self.x, threshold, params.seed, draw.position);
        // Nothing reaches a threshold only if every candidate is masked.
        (id != Best::NONE.id).then_some(id)
    }
}

#[cfg(test)]
mod tests;
