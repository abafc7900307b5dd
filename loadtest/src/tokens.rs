//! Which tokens is a piece of a prompt made of, and how much of a prompt was there before?
//!
//! Token `i` of the sequence that a name names is a pure function of both: nothing is remembered, so a trace of a hundred
//! million tokens costs no memory, and two prompts begin with the same tokens exactly where their pieces have the same names.
//! [`IdealCache`] reads the tokens that are sent and says how much of them an unbounded prefix cache would have held.

mod ideal;
mod words;

use std::ops::RangeInclusive;

pub use ideal::{HitRate, IdealCache};

use crate::{
    plan::{Piece, PlanError},
    workload::seed::{STEP, mix},
};

/// The ids that prompts are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    first: u32,
    count: u64,
}

impl Vocabulary {
    /// Ids from the range's first to its last.
    ///
    /// # Errors
    /// Where the range is empty.
    pub fn new(ids: RangeInclusive<u32>) -> Result<Self, PlanError> {
        let (first, last) = (*ids.start(), *ids.end());
        if first > last {
            return Err(PlanError::Impossible(format!(
                "no token id is from {first} to {last}; write the lower one first"
            )));
        }
        Ok(Self { first, count: u64::from(last - first) + 1 })
    }

    /// Appends the ids of a piece.
    pub fn push(&self, piece: Piece, ids: &mut Vec<u32>) {
        let start = mix(piece.name);
        ids.extend(
            (0..u64::from(piece.tokens)).map(|at| self.first + below(self.count, start, at)),
        );
    }

    /// The ids of a prompt.
    #[must_use]
    pub fn ids(&self, pieces: &[Piece]) -> Vec<u32> {
        let tokens: usize = pieces.iter().map(|piece| piece.tokens as usize).sum();
        let mut ids = Vec::with_capacity(tokens);
        for piece in pieces {
            self.push(*piece, &mut ids);
        }
        ids
    }
}

/// Appends a piece as text: one short English word with a space before it for each token, which most tokenizers take as one
/// token each. It is text of as many tokens only nearly; the server's count is what counts.
pub fn push_text(piece: Piece, text: &mut String) {
    let start = mix(piece.name);
    let count = words::WORDS.len() as u64;
    text.reserve(piece.tokens as usize * 6);
    for at in 0..u64::from(piece.tokens) {
        text.push(' ');
        text.push_str(words::WORDS[below(count, start, at) as usize]);
    }
}

/// A prompt as text.
#[must_use]
pub fn text(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        push_text(*piece, &mut text);
    }
    text
}

/// A number below `count`, evenly: the upper half of a 32 by 33 bit product.
#[inline]
fn below(count: u64, start: u64, at: u64) -> u32 {
    let scattered = mix(start.wrapping_add(at.wrapping_mul(STEP)));
    (((scattered >> 32) * count) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_shorter_piece_is_the_beginning_of_a_longer_one() {
        let vocabulary = Vocabulary::new(10..=1_000).unwrap();
        let long = vocabulary.ids(&[Piece { name: 7, tokens: 100 }]);
        let short = vocabulary.ids(&[Piece { name: 7, tokens: 60 }]);
        assert_eq!(long[..60], short);
        let (long, short) =
            (text(&[Piece { name: 7, tokens: 100 }]), text(&[Piece { name: 7, tokens: 60 }]));
        assert!(long.starts_with(&short));
        assert_eq!(long.split(' ').skip(1).count(), 100);
    }

    #[test]
    fn ids_are_spread_evenly_over_the_whole_range_and_stay_in_it() {
        for (first, last) in [(0, 0), (5, 12), (0, u32::MAX), (u32::MAX - 7, u32::MAX)] {
            let vocabulary = Vocabulary::new(first..=last).unwrap();
            let ids = vocabulary.ids(&[Piece { name: 1, tokens: 80_000 }]);
            assert!(ids.iter().all(|id| (first..=last).contains(id)));
            if last - first == 7 {
                for id in first..=last {
                    let count = ids.iter().filter(|one| **one == id).count();
                    assert!(count.abs_diff(10_000) < 400, "{id}: {count}");
                }
            }
        }
        #[expect(clippy::reversed_empty_ranges, reason = "this is what must be refused")]
        let backwards = Vocabulary::new(5..=4);
        assert!(backwards.is_err());
    }

    #[test]
    fn neighbouring_names_have_nothing_in_common() {
        let vocabulary = Vocabulary::new(0..=9_999).unwrap();
        let one = vocabulary.ids(&[Piece { name: 1, tokens: 1_000 }]);
        for name in [0, 2, STEP, STEP.wrapping_add(1)] {
            let other = vocabulary.ids(&[Piece { name, tokens: 1_000 }]);
            for shift in 0..3 {
                let equal = one.iter().skip(shift).zip(&other).filter(|(a, b)| a == b).count();
                assert!(equal < 10, "name {name}, shift {shift}: {equal} equal tokens");
            }
        }
    }

    /// A guard against a slow way, not a benchmark: ten times slower than what is wanted fails.
    #[test]
    fn ten_million_tokens_take_no_second() {
        let vocabulary = Vocabulary::new(0..=151_000).unwrap();
        let begun = Instant::now();
        let ids = vocabulary.ids(&[Piece { name: 3, tokens: 10_000_000 }]);
        assert_eq!(ids.len(), 10_000_000);
        assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    }

    #[test]
    fn words_are_distinct_and_plain() {
        let mut words = words::WORDS.to_vec();
        assert!(words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), words::WORDS.len());
        assert!(words.len() >= 256);
    }
}
