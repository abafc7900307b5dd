//! What the ops mean: plain loops in the order that every instruction set follows.

use crate::matrix::LANES;
use crate::{Attention, AttentionRow, BLOCK_TOKENS, KvCache};

/// Adds lanes in the one order that is used: halves onto each other.
fn add_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

/// [`crate::rms_norm`] in plain loops. The squares of columns that are equal modulo 16 are summed in order, then those sums.
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    for (out, x) in out.chunks_exact_mut(weight.len()).zip(x.chunks_exact(weight.len())) {
        let mut squares = [0.0; LANES];
        for (i, x) in x.iter().enumerate() {
            squares[i % LANES] = x.mul_add(*x, squares[i % LANES]);
        }
        let scale = 1.0 / (add_lanes(squares) / weight.len() as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// [`crate::silu_mul`] in plain loops.
pub fn silu_mul(out: &mut [f32], gate_up: &[f32], ffn: usize) {
    for (out, gate_up) in out.chunks_exact_mut(ffn).zip(gate_up.chunks_exact(2 * ffn)) {
        let (gate, up) = gate_up.split_at(ffn);
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + (-g).exp()) * u;
        }
    }
}

/// [`crate::attention`] in plain loops.
pub fn attention(
    out: &mut [f32],
    q: &[f32],
    cache: &KvCache,
    shape: Attention,
    rows: &[AttentionRow<'_>],
) {
    let head_dim = cache.shape().head_dim;
    let group = shape.heads / cache.shape().kv_heads;
    let width = q.len() / rows.len();
    for (r, row) in rows.iter().enumerate() {
        for h in 0..shape.heads {
            let q = &q[r * width + h * head_dim..][..head_dim];
            let out = &mut out[(r * shape.heads + h) * head_dim..][..head_dim];
            let (mut scores, mut values) = (Vec::new(), Vec::new());
            for position in 0..=row.position as usize {
                let block = row.blocks[position / BLOCK_TOKENS] as usize;
                let slot = block * BLOCK_TOKENS + position % BLOCK_TOKENS;
                let (k, v) = cache.token(shape.layer, slot, h / group);
                scores.push(shape.scale * q.iter().zip(&k).fold(0.0, |s, (q, k)| q.mul_add(*k, s)));
                values.push(v);
            }
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = scores.iter().map(|s| (s - max).exp()).sum();
            out.fill(0.0);
            for (s, v) in scores.iter().zip(&values) {
                let p = (s - max).exp() / sum;
                out.iter_mut().zip(v).for_each(|(out, v)| *out = p.mul_add(*v, *out));
            }
        }
    }
}
