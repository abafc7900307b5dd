//! Which token follows?

use glint_core::{SequenceStart, TokenLogprobs};

/// Makes up the token behind all that is `known`. A seed counts only where the request draws, and no end token is
/// drawn before `min_tokens`.
pub(super) fn draw(
    start: &SequenceStart,
    known: u64,
    vocab_size: u32,
    end_probability: f64,
) -> u32 {
    let sampling = &start.sampling;
    let seed = if sampling.is_greedy() { 0 } else { sampling.seed };
    let random = mix(known ^ mix(seed));
    let other = mix(random);
    let output = start.tokens.len() - start.prompt_tokens as usize;
    let may_end = output >= sampling.min_tokens as usize && !start.end_token_ids.is_empty();
    let chance = (random >> 11) as f64 / (1u64 << 53) as f64;
    if may_end && chance < end_probability {
        return start.end_token_ids[(other % start.end_token_ids.len() as u64) as usize];
    }
    let mut token = (other % u64::from(vocab_size)) as u32;
    // Each id is tried once: a vocabulary of nothing but end tokens must not hang.
    for _ in 0..vocab_size {
        if !start.end_token_ids.contains(&token) {
            break;
        }
        token = (token + 1) % vocab_size;
    }
    token
}

/// Makes up log-probabilities under which the token is the likeliest.
pub(super) fn logprobs(token: u32, alternatives: u32, vocab_size: u32) -> TokenLogprobs {
    let top = (0..alternatives.min(vocab_size))
        .map(|n| ((token + n) % vocab_size, -0.5 - n as f32))
        .collect();
    TokenLogprobs { logprob: -0.5, top }
}

/// Returns what is known after one more value.
pub(super) fn chain(known: u64, value: u64) -> u64 {
    mix(known ^ value.wrapping_add(0x9E37_79B9_7F4A_7C15))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators").
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
