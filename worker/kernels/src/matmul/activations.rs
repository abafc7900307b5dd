//! How do activations lie, so that a product reads them in order and from different cache sets?
//!
//! Tokens are cut into *tiles*, as many as have sums in the registers, and columns into *blocks*. A
//! tile's tokens lie beside each other block by block, at a distance that is not a power of two:
//! `[tile][block][token][STRIDE_WORDS]`. A word is an f32, or two bf16.

#![expect(unsafe_code, reason = "tiles are packed by several tasks")]

use std::ops::Range;

use crate::cpu::Disjoint;
use crate::matrix::{bf16_pair, rounded_to_bf16};
use crate::simd::{Lanes, Level, Work};
use crate::{Compute, Cpu, Isa, Matrix};

/// Words of one token in one block: with its weights, a block stays in the nearest caches while all
/// tiles pass over it.
pub(super) const BLOCK_WORDS: usize = 256;
/// From one token of a tile to the next.
pub(super) const STRIDE_WORDS: usize = BLOCK_WORDS + 16;

/// What a word of activations holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// The next column.
    F32,
    /// The next column, rounded to bf16.
    RoundedF32,
    /// The next two columns in bf16, the first in the low half.
    Pairs,
}

impl Words {
    fn of(compute: Compute, isa: Isa) -> Self {
        match (compute, isa) {
            (Compute::F32, _) => Self::F32,
            (Compute::Bf16, Isa::Avx512Bf16) => Self::Pairs,
            (Compute::Bf16, Isa::Portable | Isa::Avx2 | Isa::Avx512) => Self::RoundedF32,
        }
    }

    /// Returns how many words face the two lines of a step.
    pub(super) fn per_step(self) -> usize {
        match self {
            Self::F32 | Self::Pairs => 1,
            Self::RoundedF32 => 2,
        }
    }
}

/// The activations of one product, packed.
pub(super) struct Activations<'a> {
    packed: &'a [u32],
    pub(super) words: Words,
    tokens: usize,
    tiles: usize,
    blocks: usize,
}

impl<'a> Activations<'a> {
    /// Packs `x`, `[tokens, w.cols()]`, into `buffer`, which grows as needed.
    pub(super) fn pack(
        cpu: &Cpu,
        buffer: &'a mut Vec<u32>,
        x: &[f32],
        w: &Matrix,
        tokens: usize,
    ) -> Self {
        let (level, cols, words) = (cpu.level(), w.cols(), Words::of(w.compute(), cpu.isa()));
        let blocks = (w.steps() * words.per_step()).div_ceil(BLOCK_WORDS);
        let tiles = tokens.div_ceil(tile_tokens_max(level));
        let token_words = blocks * STRIDE_WORDS;
        if buffer.len() < tokens * token_words {
            buffer.resize(tokens * token_words, 0);
        }
        let packed = Disjoint::new(buffer.as_mut_slice());
        cpu.parallel_rows(tiles, cols * tokens.div_ceil(tiles), &|range| {
            for tile in range.map(|tile| bounds(tokens, tiles, tile)) {
                // SAFETY: tokens of one tile are packed by one task, and tiles do not overlap.
                let out =
                    unsafe { packed.part(tile.start * token_words, tile.len() * token_words) };
                let x = &x[tile.start * cols..tile.end * cols];
                level.run(Pack { out, x, tokens: tile.len(), words });
            }
        });
        Self { packed: &buffer[..tokens * token_words], words, tokens, tiles, blocks }
    }

    pub(super) fn tiles(&self) -> usize {
        self.tiles
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Returns the tokens of a tile.
    pub(super) fn bounds(&self, tile: usize) -> Range<usize> {
        bounds(self.tokens, self.tiles, tile)
    }

    /// Returns `[tokens of the tile][STRIDE_WORDS]`.
    #[inline(always)]
    pub(super) fn block(&self, tile: &Range<usize>, block: usize) -> &[u32] {
        let start = (tile.start * self.blocks + block * tile.len()) * STRIDE_WORDS;
        &self.packed[start..][..tile.len() * STRIDE_WORDS]
    }
}

/// Returns the tokens of one tile, cut so that tiles differ by at most one token.
fn bounds(tokens: usize, tiles: usize, tile: usize) -> Range<usize> {
    tokens * tile / tiles..tokens * (tile + 1) / tiles
}

fn tile_tokens_max(level: Level) -> usize {
    match level {
        Level::Portable(_) => crate::simd::Portable::TOKENS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => crate::simd::Avx2::TOKENS,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) | Level::Avx512Bf16(..) => crate::simd::Avx512::TOKENS,
    }
}

/// Packs one tile: `[block][token][STRIDE_WORDS]` from `[token][cols]`.
struct Pack<'a> {
    out: &'a mut [u32],
    x: &'a [f32],
    tokens: usize,
    words: Words,
}

impl Work for Pack<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let Self { out, x, tokens, words } = self;
        let cols = x.len() / tokens;
        let block_cols = match words {
            Words::F32 | Words::RoundedF32 => BLOCK_WORDS,
            Words::Pairs => 2 * BLOCK_WORDS,
        };
        for (t, x) in x.chunks_exact(cols).enumerate() {
            for (block, x) in x.chunks(block_cols).enumerate() {
                let out = &mut out[(block * tokens + t) * STRIDE_WORDS..][..BLOCK_WORDS];
                match words {
                    Words::F32 => {
                        for (out, x) in out.iter_mut().zip(x) {
                            *out = x.to_bits();
                        }
                    }
                    Words::RoundedF32 => {
                        for (out, x) in out.iter_mut().zip(x) {
                            *out = rounded_to_bf16(x.to_bits()) & 0xffff_0000;
                        }
                        // The second column of the last step, where the columns are odd.
                        if let Some(odd) = out.get_mut(x.len()) {
                            *odd = 0;
                        }
                    }
                    Words::Pairs => {
                        for (out, pair) in out.iter_mut().zip(x.chunks_exact(2)) {
                            *out = bf16_pair(pair);
                        }
                        if x.len() % 2 == 1 {
                            out[x.len() / 2] = bf16_pair(&x[x.len() - 1..]);
                        }
                    }
                }
            }
        }
    }
}
