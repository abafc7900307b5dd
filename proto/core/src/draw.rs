//! How is a token drawn, so that any device in any order draws the same one?
//!
//! Each candidate gets noise that depends only on the request's seed, the token's position and the candidate's id,
//! and the largest sum of scaled logit and noise wins (the Gumbel-max trick): `FORMATS.md` section 2.

use crate::math::{ln, log1p};

/// Returns Philox4x32-10 of a counter under a key (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").
#[must_use]
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut k0, mut k1] = key;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xD251_1F53;
        let p1 = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) =
            ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// Returns the random word of a candidate: `seed` is the sequence's, `position` the 0-based index of the token
/// being drawn in prompt and output, `id` the candidate's id in the whole vocabulary.
#[must_use]
pub fn word(seed: u64, position: u32, id: u32) -> u32 {
    let key = [seed as u32, (seed >> 32) as u32];
    philox(key, [id >> 2, position, 0, 0])[(id & 3) as usize]
}

/// Returns the uniform number of a random word, in (0, 1].
#[must_use]
pub fn uniform(word: u32) -> f32 {
    (word as f32 + 0.5) * (1.0 / 4_294_967_296.0)
}

/// Returns the Gumbel noise of a random word; −∞, which never wins, for the one in 2³³ that rounds to 1.
#[must_use]
pub fn gumbel(word: u32) -> f32 {
    -ln(-log1p(-uniform(word)))
}

/// The best candidate so far, in an order that does not depend on who was compared first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Scaled logit plus noise, or the plain logit when greedy.
    pub score: f32,
    /// The candidate.
    pub id: u32,
}

impl Best {
    /// Loses against any candidate.
    pub const NONE: Self = Self { score: f32::NEG_INFINITY, id: u32::MAX };

    /// Returns the better one: the larger score, then the smaller id.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if other.score > self.score || (other.score == self.score && other.id < self.id) {
            other
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_the_format() {
        let vectors = [
            (0, 0, 0, 0x6627_e8d5, 0x3ecc_4fd2, 0.674_840f32),
            (42, 7, 151_336, 0x4727_6090, 0x3e8e_4ec1, 1.121_922),
            (0x0123_4567_89ab_cdef, 1000, 5, 0x199c_38ff, 0x3dcc_e1c8, 2.249_945),
        ];
        for (seed, position, id, w, v_bits, g) in vectors {
            let got = word(seed, position, id);
            assert_eq!(got, w, "word of {seed}, {position}, {id}");
            assert_eq!(uniform(got).to_bits(), v_bits);
            let v = f64::from(uniform(got));
            let exact = -(-(-v).ln_1p()).ln();
            assert!(
                (f64::from(gumbel(got)) - exact).abs() <= f64::from(f32::EPSILON) * exact.abs()
            );
            assert!((gumbel(got) - g).abs() < 1e-6);
        }
    }

    #[test]
    fn philox_gives_the_published_vectors() {
        let ones = u32::MAX;
        assert_eq!(philox([0, 0], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([ones; 2], [ones; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn a_word_that_rounds_to_one_never_wins() {
        assert_eq!(uniform(u32::MAX), 1.0);
        assert_eq!(gumbel(u32::MAX), f32::NEG_INFINITY);
        assert!(uniform(0) > 0.0 && gumbel(0).is_finite());
    }

    #[test]
    fn the_best_does_not_depend_on_order() {
        let a = Best { score: 1.0, id: 9 };
        let b = Best { score: 1.0, id: 3 };
        assert_eq!(a.or(b), b);
        assert_eq!(b.or(a), b);
        assert_eq!(Best::NONE.or(a), a);
        assert_eq!(a.or(Best { score: f32::NAN, id: 0 }), a);
    }
}
