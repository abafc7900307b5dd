//! How do weights lie in memory?
//!
//! In panels of 32 output rows, each as steps of two cache lines, so that one linear stream of memory feeds 32 lanes. A
//! line holds sixteen rows' next column in f32, or their next two columns in bf16 (a `u32` per row, the earlier column in
//! the low half): a step takes one `u32` of the activations either way.

use half::bf16;

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
    steps: usize,
    /// `[panel][step][2][16]`: f32 bits, or two bf16.
    lanes: Buffer<u32>,
}

impl Matrix {
    /// Packs a matrix whose row `r` is what `fill_row(r, buffer)` writes into a buffer of `cols` zeroes.
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
        let mut row = vec![0.0; cols];
        for r in 0..rows {
            row.fill(0.0);
            fill_row(r, &mut row);
            let panel = &mut lanes.as_mut_slice()[r / PANEL_ROWS * steps * PANEL_ROWS..];
            let lane = panel[r % PANEL_ROWS..].iter_mut().step_by(PANEL_ROWS);
            match compute {
                Compute::F32 => {
                    lane.zip(&row).for_each(|(lane, value)| *lane = value.to_bits());
                }
                Compute::Bf16 => {
                    lane.zip(row.chunks(2)).for_each(|(lane, pair)| *lane = bf16_pair(pair));
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

    /// Returns the memory that the weights take, padding included.
    pub fn bytes(&self) -> usize {
        self.lanes.bytes()
    }
}

/// Rounds one or two values to bf16 (to nearest, ties to even), the first in the low half.
pub(crate) fn bf16_pair(values: &[f32]) -> u32 {
    let half = |i: usize| values.get(i).map_or(0, |&value| bf16::from_f32(value).to_bits());
    u32::from(half(1)) << 16 | u32::from(half(0))
}
