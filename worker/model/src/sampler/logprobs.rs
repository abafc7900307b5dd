//! Log-probabilities of the raw logits.

use glint_core::TokenLogprobs;
use glint_kernels::log_sum_exp;

/// The log-probabilities of one position.
#[derive(Clone, Copy, Debug)]
pub struct LogProbs<'a> {
    logits: &'a [f32],
    log_sum: f32,
}

impl<'a> LogProbs<'a> {
    /// Normalises the raw logits of the whole vocabulary.
    #[must_use]
    pub fn new(logits: &'a [f32]) -> Self {
        Self { logits, log_sum: log_sum_exp(logits) }
    }

    /// Returns one token's; −∞ for a token that the vocabulary does not have.
    #[must_use]
    pub fn of(&self, id: u32) -> f32 {
        let logit = self.logits.get(id as usize).copied();
        logit.map_or(f32::NEG_INFINITY, |logit| logit - self.log_sum)
    }

    /// Returns the `n` likeliest tokens, best first, the smaller id first among equals.
    #[must_use]
    pub fn top(&self, n: usize) -> Vec<(u32, f32)> {
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
        if n == 0 {
            return top;
        }
        for (id, &logit) in self.logits.iter().enumerate() {
            if top.len() == n && top.last().is_some_and(|&(_, least)| logit <= least) {
                continue;
            }
            let at = top.partition_point(|&(_, better)| better >= logit);
            top.insert(at, (id as u32, logit));
            top.truncate(n);
        }
        top.iter_mut().for_each(|(_, logit)| *logit -= self.log_sum);
        top
    }
}

/// Returns one token's log-probability and the `top` likeliest.
#[must_use]
pub fn token_logprobs(logits: &[f32], id: u32, top: u32) -> TokenLogprobs {
    let all = LogProbs::new(logits);
    TokenLogprobs { logprob: all.of(id), top: all.top(top as usize) }
}
