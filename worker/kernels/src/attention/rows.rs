//! Which query vectors go through the blocks of one KV head together, and what happens on the way?
//!
//! All vectors of a task read the same blocks: the heads of a KV group, and rows with the same
//! block table. Each vector has its own largest score, sum and output, touched block by block in
//! order of position, so it does not know its company.

#![expect(unsafe_code, reason = "the innermost loops read through pointers, without bounds checks")]

use std::array;
use std::ops::Range;

use super::{Attention, AttentionRow, VECTORS};
use crate::cpu::Disjoint;
use crate::kv::Tiles;
use crate::matrix::LANES;
use crate::simd::{Lanes, Level, Work};
use crate::twin::exp::exp;
use crate::{BLOCK_TOKENS, KvCache};

/// Query vectors whose scores are summed at the same time.
const TOGETHER: usize = 4;
/// Registers of output columns that are summed at the same time.
const COLUMNS: usize = 4;

/// Query vectors of one KV head and rows with one block table. Vector `i` is row `first_row + i /
/// group`, and the head `i % group` of the KV head's group.
pub(super) struct Vectors {
    first_row: usize,
    kv_head: usize,
    group: usize,
    range: Range<usize>,
}

impl Vectors {
    fn row(&self, i: usize) -> usize {
        self.first_row + (self.range.start + i) / self.group
    }

    fn head(&self, i: usize) -> usize {
        self.kv_head * self.group + (self.range.start + i) % self.group
    }

    pub(super) fn last_row(&self) -> usize {
        self.row(self.range.len() - 1)
    }

    /// Cuts all heads of all rows into tasks of at most `vectors`.
    pub(super) fn of_rows(
        rows: &[AttentionRow<'_>],
        heads: usize,
        kv_heads: usize,
        vectors: usize,
    ) -> Vec<Self> {
        let group = heads / kv_heads;
        let mut tasks = Vec::new();
        let mut first_row = 0;
        for run in rows.chunk_by(|a, b| a.blocks == b.blocks) {
            let all = run.len() * group;
            for kv_head in 0..kv_heads {
                for start in (0..all).step_by(vectors) {
                    let range = start..all.min(start + vectors);
                    tasks.push(Self { first_row, kv_head, group, range });
                }
            }
            first_row += run.len();
        }
        tasks
    }
}

/// One call of [`super::attention`].
pub(super) struct Job<'a> {
    /// `[rows, heads, head_dim]`
    pub(super) out: Disjoint<'a, f32>,
    /// `[rows, width]`
    pub(super) q: &'a [f32],
    pub(super) width: usize,
    pub(super) cache: &'a KvCache,
    pub(super) shape: Attention,
    pub(super) rows: &'a [AttentionRow<'a>],
}

impl Job<'_> {
    /// Computes the vectors of one task.
    ///
    /// # Safety
    ///
    /// Nobody else runs a task that shares a vector with this one.
    pub(super) unsafe fn run(&self, level: Level, vectors: &Vectors) {
        level.run(Attend { job: self, vectors });
    }
}

struct Attend<'a> {
    job: &'a Job<'a>,
    vectors: &'a Vectors,
}

impl Work for Attend<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { job, vectors } = self;
        let head_dim = job.cache.shape().head_dim;
        let columns = head_dim.next_multiple_of(LANES);
        let count = vectors.range.len();
        let q = |i: usize| {
            let start = vectors.row(i) * job.width + vectors.head(i) * head_dim;
            &job.q[start..start + head_dim]
        };
        let position = |i: usize| job.rows[vectors.row(i)].position as usize;

        let mut outputs = vec![0.0f32; count * columns];
        let mut max = [f32::NEG_INFINITY; VECTORS];
        let mut total = [0.0f32; VECTORS];
        let mut wide = WideTiles::default();
        let blocks = (0..count).map(position).max().map_or(0, |last| last / BLOCK_TOKENS + 1);
        for (block, &id) in job.rows[vectors.first_row].blocks[..blocks].iter().enumerate() {
            let tiles = job.cache.tiles(job.shape.layer, id as usize, vectors.kv_head);
            let (keys, values) = wide.widen(lanes, tiles, head_dim);
            for first in (0..count).step_by(TOGETHER) {
                let together = TOGETHER.min(count - first);
                let visible: [usize; TOGETHER] = array::from_fn(|t| match t < together {
                    true => (position(first + t) + 1).saturating_sub(block * BLOCK_TOKENS),
                    false => 0,
                });
                if visible == [0; TOGETHER] {
                    continue;
                }
                // Where there are fewer than four, the last is computed again; its copies are not
                // used.
                let queries = array::from_fn(|t| q(first + t.min(together - 1)));
                let scores = if together == 1 {
                    [scores(lanes, keys, [queries[0]])[0]; TOGETHER]
                } else {
                    scores::<L, TOGETHER>(lanes, keys, queries)
                };
                for t in 0..together {
                    let (v, visible) = (first + t, visible[t].min(BLOCK_TOKENS));
                    if visible == 0 {
                        continue;
                    }
                    let score = lanes.mul(scores[t], lanes.splat(job.shape.scale));
                    let score = lanes.first(visible, score, lanes.splat(f32::NEG_INFINITY));
                    let largest = lanes.largest(score);
                    let mut shrink = 1.0;
                    if largest > max[v] {
                        shrink = exp(max[v] - largest);
                        total[v] *= shrink;
                        max[v] = largest;
                    }
                    let weight = lanes.exp(lanes.sub(score, lanes.splat(max[v])));
                    let weight = lanes.first(visible, weight, lanes.splat(0.0));
                    total[v] += lanes.sum(weight);
                    let mut weights = [0.0; BLOCK_TOKENS];
                    lanes.store_slice(&mut weights, weight);
                    let output = &mut outputs[v * columns..][..columns];
                    add_values(lanes, output, shrink, &weights[..visible], values);
                }
            }
        }

        for i in 0..count {
            let start = (vectors.row(i) * job.shape.heads + vectors.head(i)) * head_dim;
            // SAFETY: made by `Job::run` alone, whose caller has promised that these vectors are
            // this task's.
            let out = unsafe { job.out.part(start, head_dim) };
            for (out, output) in out.iter_mut().zip(&outputs[i * columns..]) {
                *out = output / total[i];
            }
        }
    }
}

/// Returns the products of each query with the sixteen keys of a tile, `[head_dim][16]`.
#[inline(always)]
fn scores<L: Lanes, const T: usize>(lanes: L, keys: &[f32], q: [&[f32]; T]) -> [L::V; T] {
    let columns = keys.len() / BLOCK_TOKENS;
    assert!(q.iter().all(|q| q.len() == columns), "queries of {columns} columns");
    let q: [*const f32; T] = array::from_fn(|t| q[t].as_ptr());
    let mut sums = [lanes.splat(0.0); T];
    for d in 0..columns {
        // SAFETY: column d of the tile is sixteen f32 from 16 · d on, within `keys`.
        let k = unsafe { lanes.load(keys.as_ptr().add(d * BLOCK_TOKENS)) };
        for t in 0..T {
            // SAFETY: each query has `columns` columns, as asserted.
            let q = lanes.splat(unsafe { *q[t].add(d) });
            sums[t] = lanes.fma(q, k, sums[t]);
        }
    }
    sums
}

/// Computes `output · shrink + Σ weights[j] · values[j]`, key by key; `values` is
/// `[keys][output.len()]`.
#[inline(always)]
fn add_values<L: Lanes>(
    lanes: L,
    output: &mut [f32],
    shrink: f32,
    weights: &[f32],
    values: &[f32],
) {
    let columns = output.len();
    let mut c = 0;
    while c + COLUMNS * LANES <= columns {
        add_value_columns::<L, COLUMNS>(lanes, output, c, shrink, weights, values);
        c += COLUMNS * LANES;
    }
    while c < columns {
        add_value_columns::<L, 1>(lanes, output, c, shrink, weights, values);
        c += LANES;
    }
}

#[inline(always)]
fn add_value_columns<L: Lanes, const C: usize>(
    lanes: L,
    output: &mut [f32],
    first: usize,
    shrink: f32,
    weights: &[f32],
    values: &[f32],
) {
    let columns = output.len();
    assert!(first + C * LANES <= columns && weights.len() * columns <= values.len(), "short tile");
    let to = output[first..].as_mut_ptr();
    let mut sums = [lanes.splat(0.0); C];
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: C times 16 columns from `first` on are within the output, as asserted.
        *sum = lanes.mul(unsafe { lanes.load(to.add(i * LANES)) }, lanes.splat(shrink));
    }
    for (j, &weight) in weights.iter().enumerate() {
        let weight = lanes.splat(weight);
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: row j has `columns` values, as asserted, and these are within it.
            let v = unsafe { lanes.load(values.as_ptr().add(j * columns + first + i * LANES)) };
            *sum = lanes.fma(weight, v, *sum);
        }
    }
    for (i, &sum) in sums.iter().enumerate() {
        // SAFETY: as for the loads.
        unsafe { lanes.store(to.add(i * LANES), sum) };
    }
}

/// Room for a block in f32, with the columns of values padded to whole registers.
#[derive(Default)]
struct WideTiles(Vec<f32>);

impl WideTiles {
    /// Returns a key tile `[head_dim][16]` and a value tile `[16][head_dim, padded]`, in place if
    /// they are that already.
    #[inline(always)]
    fn widen<'a, L: Lanes>(
        &'a mut self,
        lanes: L,
        tiles: Tiles<'a>,
        head_dim: usize,
    ) -> (&'a [f32], &'a [f32]) {
        let columns = head_dim.next_multiple_of(LANES);
        let tile = head_dim * BLOCK_TOKENS;
        if let Tiles::F32(tiles) = tiles
            && columns == head_dim
        {
            return tiles.split_at(tile);
        }
        self.0.resize(tile + columns * BLOCK_TOKENS, 0.0);
        let (keys, values) = self.0.split_at_mut(tile);
        match tiles {
            Tiles::F32(tiles) => {
                keys.copy_from_slice(&tiles[..tile]);
                let rows = tiles[tile..].chunks_exact(head_dim);
                for (wide, row) in values.chunks_exact_mut(columns).zip(rows) {
                    wide[..head_dim].copy_from_slice(row);
                }
            }
            Tiles::Bf16(tiles) => {
                widen_bf16(lanes, keys, &tiles[..tile]);
                let rows = tiles[tile..].chunks_exact(head_dim);
                for (wide, row) in values.chunks_exact_mut(columns).zip(rows) {
                    widen_bf16(lanes, &mut wide[..head_dim], row);
                }
            }
        }
        (keys, values)
    }
}

#[inline(always)]
fn widen_bf16<L: Lanes>(lanes: L, wide: &mut [f32], bits: &[u16]) {
    let mut wide = wide.chunks_exact_mut(LANES);
    let mut bits = bits.chunks_exact(LANES);
    for (wide, bits) in wide.by_ref().zip(bits.by_ref()) {
        // SAFETY: both chunks have sixteen elements.
        unsafe { lanes.store(wide.as_mut_ptr(), lanes.load_bf16(bits.as_ptr())) };
    }
    for (wide, &bits) in wide.into_remainder().iter_mut().zip(bits.remainder()) {
        *wide = f32::from_bits(u32::from(bits) << 16);
    }
}
