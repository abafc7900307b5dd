//! `out[r, h, :] = softmax(scale · q[r, h, :] · Kᵀ) · V` over the keys `0..=position` of each row

#![expect(unsafe_code, reason = "tasks write to interleaved places of one slice")]

mod rows;

use rows::{Job, Vectors};

use crate::cpu::Disjoint;
use crate::{BLOCK_TOKENS, Cpu, KvCache};

/// Query vectors that share the loads of a block, at most.
const VECTORS: usize = 16;
/// Query vectors times KV blocks below which a second thread is not worth waking.
const GRAIN: usize = 48;

/// What all rows of one call of [`attention`] have in common.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// The layer whose keys and values are read.
    pub layer: usize,
    /// Query heads of this rank, a multiple of the cache's KV heads: head `h` reads KV head `h /
    /// (heads / kv_heads)`.
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
/// `q`: `[rows, width]` with `width >= heads · head_dim`, the query heads first in each row (a
/// fused row of q, k and v will do); `out`: `[rows, heads · head_dim]`. Neighbouring rows with the
/// same block table share the loads of keys and values.
///
/// # Panics
///
/// Panics if a shape does not fit, or a block table is too short or names a block that the cache
/// has not.
pub fn attention(
    cpu: &Cpu,
    out: &mut [f32],
    q: &[f32],
    cache: &KvCache,
    shape: Attention,
    rows: &[AttentionRow<'_>],
) {
    if rows.is_empty() {
        assert!(out.is_empty() && q.is_empty(), "elements for no row");
        return;
    }
    let (head_dim, kv_heads) = (cache.shape().head_dim, cache.shape().kv_heads);
    let width = q.len() / rows.len();
    assert_eq!(q.len(), rows.len() * width, "q is [{}, width]", rows.len());
    assert!(shape.heads * head_dim <= width, "{} heads in a row of {width}", shape.heads);
    assert!(
        kv_heads > 0 && shape.heads.is_multiple_of(kv_heads),
        "{} heads over {kv_heads} KV heads",
        shape.heads
    );
    assert_eq!(out.len(), rows.len() * shape.heads * head_dim, "out is [{}, heads]", rows.len());
    for row in rows {
        let needed = row.position as usize / BLOCK_TOKENS + 1;
        assert!(needed <= row.blocks.len(), "{} blocks, {needed} needed", row.blocks.len());
    }
    if out.is_empty() {
        return;
    }

    let blocks: usize = rows.iter().map(|row| row.position as usize / BLOCK_TOKENS + 1).sum();
    let vectors = match (blocks * shape.heads, cpu.threads()) {
        (..GRAIN, _) | (_, 1) => VECTORS,
        (_, threads) => (rows.len() * shape.heads).div_ceil(2 * threads).min(VECTORS),
    };
    // Longest first, so that no thread is left with the longest at the end.
    let mut tasks = Vectors::of_rows(rows, shape.heads, kv_heads, vectors);
    tasks.sort_by_key(|task| std::cmp::Reverse(rows[task.last_row()].position));
    let job = Job { out: Disjoint::new(out), q, width, cache, shape, rows };
    let level = cpu.level();
    let together = if blocks * shape.heads < GRAIN { tasks.len() } else { 1 };
    cpu.parallel(tasks.len().div_ceil(together), &|i| {
        for task in tasks.iter().skip(i * together).take(together) {
            // SAFETY: the tasks are parts of the vectors, and each is run once.
            unsafe { job.run(level, task) };
        }
    });
}
