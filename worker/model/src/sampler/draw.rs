//! The Gumbel-max draw over a vocabulary, without computing noise for candidates that cannot win.

use glint_core::draw::{Best, gumbel, philox};

/// Above every noise: the smallest random word gives 22.87.
const GUMBEL_MAX: f32 = 22.9;

/// Returns the candidate with `x ≥ threshold` whose sum of `x` and noise is the largest.
pub(super) fn best(x: &[f32], threshold: f32, seed: u64, position: u32) -> Best {
    let key = [seed as u32, (seed >> 32) as u32];
    let mut best = Best::NONE;
    for (group, x) in x.chunks(4).enumerate() {
        // Rounding is monotonic: a sum with a bound is never below the sum with what it bounds.
        let may_win = |x: f32, noise: f32| x >= threshold && x + noise >= best.score;
        if !x.iter().any(|&x| may_win(x, GUMBEL_MAX)) {
            continue;
        }
        let words = philox(key, [group as u32, position, 0, 0]);
        for (i, (&x, word)) in x.iter().zip(words).enumerate() {
            if x >= threshold && x + gumbel_bound(word) >= best.score {
                let id = 4 * group as u32 + i as u32;
                best = best.or(Best { score: x + gumbel(word), id });
            }
        }
    }
    best
}

/// Returns a number not below `gumbel(word)`: −ln(−log1p(−v)) ≤ −ln v, and v ≥ 2^−(zeros + 1).
fn gumbel_bound(word: u32) -> f32 {
    (word.leading_zeros() + 1) as f32 * 0.693_148 + 1e-4
}

#[cfg(test)]
mod tests {
    use glint_core::draw::word;
    use proptest::prelude::*;

    use super::*;

    /// The definition, candidate by candidate.
    fn plain(x: &[f32], threshold: f32, seed: u64, position: u32) -> Best {
        let candidates = x.iter().enumerate().filter(|(_, x)| **x >= threshold);
        candidates.fold(Best::NONE, |best, (id, x)| {
            let id = id as u32;
            best.or(Best { score: x + gumbel(word(seed, position, id)), id })
        })
    }

    #[test]
    fn the_bounds_are_above_the_noise() {
        assert!(gumbel(0) < GUMBEL_MAX);
        for zeros in 0..32 {
            for offset in [0, 1, 77] {
                let smallest = (1u32 << (31 - zeros)) + offset % (1 << (31 - zeros));
                assert!(gumbel(smallest) <= gumbel_bound(smallest), "{smallest}");
            }
        }
        assert!(gumbel(0) <= gumbel_bound(0));
    }

    #[test]
    fn scores_are_those_of_the_format() {
        let vectors = [
            (0, 0, 0u32, 0.674_840f32),
            (42, 7, 151_336, 1.121_922),
            (0x0123_4567_89ab_cdef, 1000, 5, 2.249_945),
        ];
        for (seed, position, id, noise) in vectors {
            let mut x = vec![f32::NEG_INFINITY; 151_552];
            x[id as usize] = 0.0;
            let best = best(&x, f32::NEG_INFINITY, seed, position);
            assert_eq!(best.id, id);
            assert!((best.score - noise).abs() < 1e-6, "{seed}, {position}, {id}: {}", best.score);
        }
    }

    proptest! {
        #[test]
        fn leaving_out_hopeless_candidates_changes_nothing(
            x in prop::collection::vec(-30f32..30.0, 1..200),
            threshold in prop_oneof![Just(f32::NEG_INFINITY), -20f32..20.0],
            seed: u64, position: u32,
        ) {
            prop_assert_eq!(
                best(&x, threshold, seed, position), plain(&x, threshold, seed, position)
            );
        }
    }
}
