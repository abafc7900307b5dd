//! How do weights lie in memory?
//!
//! In panels of 32 output rows, each as steps of two cache lines, so that one linear stream of
//! memory feeds 32 lanes. A line holds sixteen rows' next column in f32, or their next two columns
//! in bf16 (a `u32` per row, the earlier column in the low half): a step takes one `u32` of the
//! activations either way.

use crate::buffer::Buffer;

/// Rows that one cache line serves, one per 32-bit lane.
pub(crate) const LANES: usize = 16;
/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 2 * LANES;

/// How weights and KV blocks are stored and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Everything in f32: the parity mode.
    F32,
    /// Weights, activations of a product, keys and values in bf16; sums in f32.
    Bf16,
}

impl Compute {
    /// Returns the name as it stands in flags and in a group's `numerics`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Returns the size of one stored element.
    pub fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// Returns how many columns a step covers.
    pub(crate) fn step_columns(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// A weight matrix `[rows, cols]`, packed for [`crate::matmul`].
pub struct Matrix {
    compute: Compute,
    rows: usize,
    cols: usize,
    /// Pairs of cache lines of a panel.
    steps: usize,
    /// `[panel][step][2][16]`: f32 bits, or two bf16.
    lanes: Buffer<u32>,
}

impl Matrix {
    /// Packs a matrix whose row `r` is what `fill_row(r, buffer)` writes into a buffer of `cols`
    /// zeroes.
    ///
    /// Rows are asked for once each, in order.
    pub fn pack(
        compute: Compute,
        rows: usize,
        cols: usize,
        fill_row: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Self {
        let steps = cols.div_ceil(compute.step_columns());
        let mut lanes = Buffer::zeroed(rows.div_ceil(PANEL_ROWS) * steps * PANEL_ROWS);
        // A whole panel of rows at a time: then its lines are written once, in order.
        let mut block = vec![0.0f32; PANEL_ROWS.min(rows) * cols];
        let panels = lanes.as_mut_slice().chunks_exact_mut((steps * PANEL_ROWS).max(1));
        for (panel, first) in panels.zip((0..rows).step_by(PANEL_ROWS)) {
            let filled = PANEL_ROWS.min(rows - first);
            block.fill(0.0);
            for (i, row) in block.chunks_exact_mut(cols.max(1)).take(filled).enumerate() {
                fill_row(first + i, row);
            }
            for (step, lanes) in panel.chunks_exact_mut(PANEL_ROWS).enumerate() {
                for (lane, row) in
                    lanes.iter_mut().zip(block.chunks_exact(cols.max(1))).take(filled)
                {
                    *lane = match compute {
                        Compute::F32 => row[step].to_bits(),
                        Compute::Bf16 => bf16_pair(&row[2 * step..cols.min(2 * step + 2)]),
                    };
                }
            }
        }
        Self { compute, rows, cols, steps, lanes }
    }

    /// Unpacks row `r` into `out`, as f32.
    ///
    /// # Panics
    ///
    /// Panics if there is no row `r`, or `out` is not `cols` long.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows, "row {r} of a matrix of {} rows", self.rows);
        assert_eq!(out.len(), self.cols, "a row has {} columns", self.cols);
        if self.cols == 0 {
            return;
        }
        let panel = &self.lanes.as_slice()[r / PANEL_ROWS * self.steps * PANEL_ROWS..];
        let lane = panel[r % PANEL_ROWS..].iter().step_by(PANEL_ROWS);
        match self.compute {
            Compute::F32 => {
                out.iter_mut().zip(lane).for_each(|(out, &bits)| *out = f32::from_bits(bits));
            }
            Compute::Bf16 => {
                for (out, &pair) in out.chunks_mut(2).zip(lane) {
                    out[0] = f32::from_bits(pair << 16);
                    if let Some(odd) = out.get_mut(1) {
                        *odd = f32::from_bits(pair & 0xffff_0000);
                    }
                }
            }
        }
    }

    /// Returns how the weights are stored.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Returns the number of output rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns, the length of the sums.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Returns how many pairs of lines a panel has, one for each one or two columns.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// Returns the weights, `[panel][step][2][16]`.
    pub(crate) fn lanes(&self) -> &[u32] {
        self.lanes.as_slice()
    }

    /// Returns the memory that the weights take, padding included.
    pub fn bytes(&self) -> usize {
        self.lanes.bytes()
    }
}

/// Rounds one or two values to bf16 (to nearest, ties to even), the first in the low half.
#[inline(always)]
pub(crate) fn bf16_pair(values: &[f32]) -> u32 {
    let low = rounded_to_bf16(values[0].to_bits()) >> 16;
    match values.get(1) {
        Some(value) => rounded_to_bf16(value.to_bits()) & 0xffff_0000 | low,
        None => low,
    }
}

/// Returns f32 bits of which the upper half is the nearest bf16, ties to even; a number that is
/// none stays none.
///
/// The same as `bf16::from_f32`, without a branch, so that loops of it become vector code.
#[inline(always)]
pub(crate) fn rounded_to_bf16(bits: u32) -> u32 {
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if bits & 0x7fff_ffff > 0x7f80_0000 { bits | 0x0040_0000 } else { nearest }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rounding_to_bf16_is_that_of_the_half_crate() {
        for i in 0..1u32 << 22 {
            let bits = i.wrapping_mul(2_654_435_761);
            let ours = (rounded_to_bf16(bits) >> 16) as u16;
            assert_eq!(ours, bf16::from_f32(f32::from_bits(bits)).to_bits(), "{bits:#x}");
        }
        for bits in [0, 0x8000_0000, 0x7f80_0000, 0x7f80_0001, 0xffff_ffff, 0x7f7f_ffff, 1] {
            let ours = (rounded_to_bf16(bits) >> 16) as u16;
            assert_eq!(ours, bf16::from_f32(f32::from_bits(bits)).to_bits(), "{bits:#x}");
        }
    }

    #[test]
    fn a_packed_row_comes_back_as_it_was_or_rounded() {
        for (rows, cols) in [(1, 1), (31, 7), (33, 8), (64, 1), (70, 33), (3, 0), (0, 3)] {
            let value = |r: usize, c: usize| (r * cols + c) as f32 * 0.37 - 3.1;
            for compute in [Compute::F32, Compute::Bf16] {
                let matrix = Matrix::pack(compute, rows, cols, &mut |r, row| {
                    row.iter_mut().enumerate().for_each(|(c, x)| *x = value(r, c));
                });
                assert_eq!((matrix.rows(), matrix.cols()), (rows, cols));
                let mut row = vec![0.0; cols];
                for r in 0..rows {
                    matrix.row(r, &mut row);
                    for (c, &x) in row.iter().enumerate() {
                        let expected = match compute {
                            Compute::F32 => value(r, c),
                            Compute::Bf16 => bf16::from_f32(value(r, c)).to_f32(),
                        };
                        assert_eq!(x, expected, "{compute:?} {rows}x{cols} at {r}, {c}");
                    }
                }
            }
        }
    }
}
