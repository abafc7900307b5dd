//! `out[r, h, :] = softmax(scale · q[r, h, :] · Kᵀ) · V` over the keys `0..=position` of each row

use crate::{Cpu, KvCache, twin};

/// What all rows of one call of [`attention`] have in common.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The layer whose keys and values are read.
    pub layer: usize,
    /// Query heads of this rank, a multiple of the cache's KV heads: head `h` reads KV head `h / (heads / kv_heads)`.
    pub heads: usize,
    /// What scores are multiplied by, usually `1 / √head_dim`.
    pub scale: f32,
}

/// One token that attends.
#[derive(Clone, Copy, Debug)]
pub struct AttentionRow<'a> {
    /// The token's position in its sequence; it attends to keys `0..=position`, its own included.
    pub position: u32,
    /// The sequence's block table: position `p` lies in block `blocks[p / 16]`.
    pub blocks: &'a [u32],
}

/// `out[r, h, :] = softmax(scale · q[r, h, :] · Kᵀ) · V` over the keys `0..=position` of each row
///
/// `q`: `[rows, width]` with `width >= heads · head_dim`, the query heads first in each row (a fused row of q, k and v will do); `out`:
/// `[rows, heads · head_dim]`. Neighbouring rows with the same block table share the loads of keys and values.
///
/// # Panics
///
/// Panics if a shape does not fit, or a block table is too short or names a block that the cache has not.
pub fn attention(
    _cpu: &Cpu,
    out: &mut [f32],
    q: &[f32],
    cache: &KvCache,
    shape: Attention,
    rows: &[AttentionRow<'_>],
) {
    if rows.is_empty() {
        return;
    }
    let (head_dim, kv_heads) = (cache.shape().head_dim, cache.shape().kv_heads);
    let width = q.len() / rows.len();
    assert_eq!(q.len(), rows.len() * width, "q is [{}, width]", rows.len());
    assert!(shape.heads * head_dim <= width, "{} heads in a row of {width}", shape.heads);
    assert_eq!(shape.heads % kv_heads, 0, "{} heads over {kv_heads} KV heads", shape.heads);
    assert_eq!(out.len(), rows.len() * shape.heads * head_dim, "out is [{}, heads]", rows.len());
    twin::attention(out, q, cache, shape, rows);
}
