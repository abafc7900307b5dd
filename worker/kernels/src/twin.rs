//! What the ops mean: plain loops in the order that every instruction set follows.

pub mod exp;

use half::bf16;

use crate::matrix::LANES;
use crate::{Attention, AttentionRow, BLOCK_TOKENS, Compute, KvCache, Matrix};
use exp::exp;

/// Combines lanes in the one order that is used: halves onto each other.
#[inline(always)]
pub(crate) fn fold_lanes(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
    }
    lanes[0]
}

/// Returns the larger of two, and `b` if one is no number, as vector instructions do.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Returns the smaller of two, and `b` if one is no number, as vector instructions do.
#[inline(always)]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// [`crate::matmul`] in plain loops.
///
/// [`crate::Isa::Avx512Bf16`] differs from it, within the rounding of f32 sums, where weights are
/// bf16: its dot product of pairs rounds once where this rounds twice.
pub fn matmul(out: &mut [f32], x: &[f32], w: &Matrix, bias: Option<&[f32]>, tokens: usize) {
    let mut row = vec![0.0; w.cols()];
    for r in 0..w.rows() {
        w.row(r, &mut row);
        for t in 0..tokens {
            let x = &x[t * w.cols()..][..w.cols()];
            let sum = x.iter().zip(&row).fold(0.0f32, |sum, (&x, &w_rk)| {
                let x = match w.compute() {
                    Compute::F32 => x,
                    Compute::Bf16 => bf16::from_f32(x).to_f32(),
                };
                x.mul_add(w_rk, sum)
            });
            out[t * w.rows() + r] = bias.map_or(sum, |bias| sum + bias[r]);
        }
    }
}

/// [`crate::rms_norm`] in plain loops. The squares of columns that are equal modulo 16 are summed
/// in order, then those sums.
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    if weight.is_empty() {
        return;
    }
    for (out, x) in out.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
        let mut squares = [0.0; LANES];
        for (i, x) in x.iter().enumerate() {
            squares[i % LANES] = x.mul_add(*x, squares[i % LANES]);
        }
        let sum = fold_lanes(squares, |a, b| a + b);
        let scale = rms_scale(sum, weight.len(), eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// Returns what `hidden` columns with this sum of squares are multiplied by.
#[inline(always)]
pub(crate) fn rms_scale(sum: f32, hidden: usize, eps: f32) -> f32 {
    1.0 / (sum / hidden as f32 + eps).sqrt()
}

/// [`crate::silu_mul`] in plain loops.
pub fn silu_mul(out: &mut [f32], gate_up: &[f32], ffn: usize) {
    if ffn == 0 {
        return;
    }
    for (out, gate_up) in out.chunks_exact_mut(ffn).zip(gate_up.chunks_exact(2 * ffn)) {
        let (gate, up) = gate_up.split_at(ffn);
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-g)) * u;
        }
    }
}

/// [`crate::attention`] in plain loops: block by block, each with the largest score so far as its
/// reference.
pub fn attention(
    out: &mut [f32],
    q: &[f32],
    cache: &KvCache,
    shape: Attention,
    rows: &[AttentionRow<'_>],
) {
    if rows.is_empty() {
        return;
    }
    let head_dim = cache.shape().head_dim;
    let group = shape.heads / cache.shape().kv_heads;
    let width = q.len() / rows.len();
    for (r, row) in rows.iter().enumerate() {
        for h in 0..shape.heads {
            let q = &q[r * width + h * head_dim..][..head_dim];
            let out = &mut out[(r * shape.heads + h) * head_dim..][..head_dim];
            out.fill(0.0);
            let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f32);
            for (block, &block_id) in row.blocks.iter().enumerate() {
                let keys = (row.position as usize + 1).saturating_sub(block * BLOCK_TOKENS);
                let keys = keys.min(BLOCK_TOKENS);
                if keys == 0 {
                    break;
                }
                let (mut scores, mut values) = ([f32::NEG_INFINITY; LANES], Vec::new());
                for (key, score) in scores.iter_mut().enumerate().take(keys) {
                    let slot = block_id as usize * BLOCK_TOKENS + key;
                    let (k, v) = cache.token(shape.layer, slot, h / group);
                    let dot = q.iter().zip(&k).fold(0.0f32, |s, (q, k)| q.mul_add(*k, s));
                    *score = dot * shape.scale;
                    values.push(v);
                }
                let largest = fold_lanes(scores, larger);
                if largest > max {
                    let shrink = exp(max - largest);
                    sum *= shrink;
                    out.iter_mut().for_each(|out| *out *= shrink);
                    max = largest;
                }
                let mut weights = [0.0; LANES];
                for (weight, score) in weights.iter_mut().zip(scores).take(keys) {
                    *weight = exp(score - max);
                }
                sum += fold_lanes(weights, |a, b| a + b);
                for (weight, v) in weights.iter().zip(&values) {
                    out.iter_mut().zip(v).for_each(|(out, v)| *out = weight.mul_add(*v, *out));
                }
            }
            out.iter_mut().for_each(|out| *out /= sum);
        }
    }
}
