//! What the sampler asks of a row of logits.

/// Returns the index of the largest logit, the smallest index among equals; `None` if there is a
/// NaN or no logit.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best = None;
    for (i, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if best.is_none_or(|(_, most)| logit > most) {
            best = Some((i, logit));
        }
    }
    best.map(|(i, _)| i)
}

/// Returns `ln Σ exp(logit)`, so that `logit − log_sum_exp(logits)` is a log probability.
///
/// The sum is in f64 and in order: the error is that of one rounding to f32.
pub fn log_sum_exp(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return max;
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    (f64::from(max) + sum.ln()) as f32
}
