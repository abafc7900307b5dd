//! Rotary position embedding: pairs of a head's columns, turned by an angle that grows with the
//! position.

#![expect(unsafe_code, reason = "tasks write to their own rows of one slice")]

use crate::Cpu;
use crate::cpu::Disjoint;

/// Which columns of a head are a pair. With `r` columns rotated in all, for `i < r/2`:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeStyle {
    /// Columns `2i` and `2i + 1`: ChatGLM and GLM-4.
    Interleaved,
    /// Columns `i` and `i + r/2`: "neox", GLM-4.5, Llama.
    HalfSplit,
}

/// The angles per position of one model.
#[derive(Clone, Debug)]
pub struct RopeTable {
    style: RopeStyle,
    /// Radians per position, one for each pair.
    frequencies: Vec<f32>,
}

impl RopeTable {
    /// Returns the table that turns the first `rotary_dim` columns of a head; pair `i` by
    /// `base^(−2i / rotary_dim)` per position.
    ///
    /// Frequencies are f32 as Hugging Face computes them: `1 / base^(2i as f32 / rotary_dim)`.
    ///
    /// # Panics
    ///
    /// Panics if `rotary_dim` is odd.
    pub fn new(rotary_dim: usize, base: f64, style: RopeStyle) -> Self {
        assert_eq!(rotary_dim % 2, 0, "rotary_dim {rotary_dim} is not made of pairs");
        let frequency = |i: usize| {
            let exponent = (2 * i) as f32 / rotary_dim as f32;
            1.0 / base.powf(f64::from(exponent)) as f32
        };
        Self { style, frequencies: (0..rotary_dim / 2).map(frequency).collect() }
    }

    /// Returns the sines and cosines for the tokens of one step, at these positions.
    ///
    /// They serve every layer: compute them once a step. The angle is the f32 product of position
    /// and frequency, as in Hugging Face.
    pub fn rotation(&self, positions: &[u32]) -> Rotation {
        let mut pairs = Vec::with_capacity(positions.len() * self.frequencies.len());
        for &position in positions {
            pairs.extend(self.frequencies.iter().map(|frequency| {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                (cos, sin)
            }));
        }
        Rotation { style: self.style, tokens: positions.len(), pairs }
    }
}

/// The rotation of the tokens of one step, for every layer.
#[derive(Clone, Debug)]
pub struct Rotation {
    style: RopeStyle,
    tokens: usize,
    /// `[tokens, rotary_dim / 2]` of (cosine, sine).
    pairs: Vec<(f32, f32)>,
}

impl Rotation {
    /// Returns the number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// Turns the first `heads` heads of every row of `x` in place: `(a, b) → (a·cos − b·sin, b·cos +
/// a·sin)`
///
/// `x`: `[tokens, width]` with `width >= heads · head_dim`; what lies behind the heads is left
/// alone. So a fused row of q, k and v is turned by one call with the sum of q and k heads. Columns
/// of a head beyond `rotary_dim` are left alone too.
///
/// # Panics
///
/// Panics if `x` is not `[rotation.tokens(), width]`, or heads are narrower than the rotation.
pub fn rope(cpu: &Cpu, x: &mut [f32], rotation: &Rotation, heads: usize, head_dim: usize) {
    let tokens = rotation.tokens;
    if tokens == 0 {
        assert!(x.is_empty(), "x has {} elements for no token", x.len());
        return;
    }
    let width = x.len() / tokens;
    let pairs = rotation.pairs.len() / tokens;
    assert_eq!(x.len(), tokens * width, "x is [{tokens}, width]");
    assert!(heads * head_dim <= width, "{heads} heads of {head_dim} in a row of {width}");
    assert!(2 * pairs <= head_dim, "{} columns turned in a head of {head_dim}", 2 * pairs);
    if pairs == 0 || heads == 0 {
        return;
    }
    let x = Disjoint::new(x);
    cpu.parallel_rows(tokens, 4 * heads * pairs, &|rows| {
        // SAFETY: ranges of one call do not overlap.
        let x = unsafe { x.part(rows.start * width, rows.len() * width) };
        let angles = rotation.pairs[rows.start * pairs..].chunks_exact(pairs);
        for (row, angles) in x.chunks_exact_mut(width).zip(angles) {
            for head in row[..heads * head_dim].chunks_exact_mut(head_dim) {
                turn(head, angles, rotation.style);
            }
        }
    });
}

fn turn(head: &mut [f32], angles: &[(f32, f32)], style: RopeStyle) {
    let turned = |a: f32, b: f32, (cos, sin): (f32, f32)| (a * cos - b * sin, b * cos + a * sin);
    match style {
        RopeStyle::Interleaved => {
            for (pair, &angle) in head.chunks_exact_mut(2).zip(angles) {
                (pair[0], pair[1]) = turned(pair[0], pair[1], angle);
            }
        }
        RopeStyle::HalfSplit => {
            let (first, second) = head.split_at_mut(angles.len());
            for ((a, b), &angle) in first.iter_mut().zip(second).zip(angles) {
                (*a, *b) = turned(*a, *b, angle);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn pairs_are_turned_by_position_times_frequency() {
        let cpu = Cpu::new(Isa::Portable, 1);
        for style in [RopeStyle::Interleaved, RopeStyle::HalfSplit] {
            // Two heads of six columns, four of them turned, and one column behind the heads.
            let rotation = RopeTable::new(4, 100.0, style).rotation(&[0, 3]);
            let mut x: Vec<f32> = (0..26).map(|i| i as f32 + 1.0).collect();
            let before = x.clone();
            rope(&cpu, &mut x, &rotation, 2, 6);
            assert_eq!(x[..13], before[..13], "position 0 turns nothing");
            for head in [13, 19] {
                for (pair, frequency) in [(0, 1.0f32), (1, 0.1)] {
                    let (a, b) = match style {
                        RopeStyle::Interleaved => (head + 2 * pair, head + 2 * pair + 1),
                        RopeStyle::HalfSplit => (head + pair, head + pair + 2),
                    };
                    let (sin, cos) = (3.0 * frequency).sin_cos();
                    let expected =
                        (before[a] * cos - before[b] * sin, before[b] * cos + before[a] * sin);
                    assert!((x[a] - expected.0).abs() < 1e-5, "{style:?} pair {pair}");
                    assert!((x[b] - expected.1).abs() < 1e-5, "{style:?} pair {pair}");
                }
                assert_eq!(x[head + 4..head + 6], before[head + 4..head + 6]);
            }
            assert_eq!(x[25], before[25]);
        }
    }

    #[test]
    #[should_panic(expected = "rotary_dim 3 is not made of pairs")]
    fn an_odd_rotation_is_refused() {
        RopeTable::new(3, 10_000.0, RopeStyle::Interleaved);
    }
}
