//! What are the logits? One rank's share of the forward pass over a batch of tokens.
//!
//! ```text
//! x = embedding[token]                                   summed over ranks: each has some rows
//! per layer:
//!     y = Wo · attention(rope(Wqkv · rms(x)))            summed over ranks: each has some heads
//!     x += y            (glm4: x += rms(y))
//!     y = Wdown · silu(gate) ⊙ up,  [gate; up] = Wgu · rms(x)     summed: each has some of the width
//!     x += y            (glm4: x += rms(y))
//! logits = Whead · rms(x)                                gathered: each has some rows
//! ```
//!
//! The residual stream is f32 and whole on every rank. Keys and values of the step are written before anything attends, so
//! a token reads its own and its neighbours' from the cache in the cache's type, as it would in a later step.

use glint_kernels::collective::{Collective, CollectiveError};
use glint_kernels::{
    Attention, AttentionRow, Cpu, KvCache, RopeStyle, RopeTable, add, add_rms_norm, attention,
    matmul, rms_norm, rope, silu_mul,
};

use crate::shard::Shard;
use crate::weights::{LayerWeights, RankWeights};

/// The tokens of one step.
pub(crate) struct Batch<'a> {
    pub(crate) tokens: Vec<u32>,
    /// Where keys and values go, per token.
    pub(crate) kv_slots: Vec<usize>,
    /// Position and block table, per token.
    pub(crate) rows: Vec<AttentionRow<'a>>,
}

/// A rank's device: weights, cache and a way to the other ranks.
pub(crate) struct Device {
    pub(crate) weights: RankWeights,
    pub(crate) cpu: Cpu,
    pub(crate) collective: Box<dyn Collective>,
    pub(crate) kv: KvCache,
    rope: RopeTable,
    scratch: Scratch,
}

/// Buffers that keep their memory from step to step; each is `[tokens, its width]`.
#[derive(Default)]
struct Scratch {
    /// Residual stream.
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    activated: Vec<f32>,
    /// What a half layer yields, to be summed over ranks.
    y: Vec<f32>,
    /// Logits of this rank's vocabulary rows.
    logits: Vec<f32>,
    gathered: Vec<f32>,
}

impl Device {
    pub(crate) fn new(
        weights: RankWeights,
        cpu: Cpu,
        collective: Box<dyn Collective>,
        kv_blocks: u32,
    ) -> Self {
        let config = &weights.config;
        let rope = RopeTable::new(config.rotary_dim, config.rope_theta, RopeStyle::Interleaved);
        let kv = KvCache::new(weights.compute, weights.kv_shape(kv_blocks));
        Self { weights, cpu, collective, kv, rope, scratch: Scratch::default() }
    }

    /// Runs all layers over a batch; the residual stream stays here for [`Self::logits`].
    pub(crate) fn run(&mut self, batch: &Batch<'_>) -> Result<(), CollectiveError> {
        let Self { weights, cpu, collective, kv, rope: table, scratch } = self;
        let tokens = batch.tokens.len();
        let hidden = weights.config.hidden_size;
        let positions: Vec<u32> = batch.rows.iter().map(|row| row.position).collect();
        let rotation = table.rotation(&positions);

        let x = sized(&mut scratch.x, tokens * hidden);
        embed(weights, x, &batch.tokens);
        collective.all_reduce_sum(x)?;
        for (index, layer) in weights.layers.iter().enumerate() {
            let step = LayerStep { weights, cpu, layer, index, batch };
            step.attend(scratch, kv, &rotation);
            collective.all_reduce_sum(&mut scratch.y)?;
            step.feed_forward(scratch);
            collective.all_reduce_sum(&mut scratch.y)?;
            step.finish(scratch);
        }
        Ok(())
    }

    /// Computes the logits of some tokens of the last [`Self::run`], by their index in its batch. Rank 0 gets
    /// `[rows, vocab_size]`, other ranks nothing.
    pub(crate) fn logits(&mut self, rows: &[usize]) -> Result<&[f32], CollectiveError> {
        let Self { weights, cpu, collective, scratch, .. } = self;
        let (hidden, vocab) = (weights.config.hidden_size, weights.config.vocab_size);
        let y = sized(&mut scratch.y, rows.len() * hidden);
        for (out, &row) in y.chunks_exact_mut(hidden).zip(rows) {
            out.copy_from_slice(&scratch.x[row * hidden..][..hidden]);
        }
        let normed = sized(&mut scratch.normed, rows.len() * hidden);
        rms_norm(cpu, normed, y, &weights.final_norm, weights.config.rms_eps, rows.len());
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        let local = sized(&mut scratch.logits, rows.len() * head.rows());
        matmul(cpu, local, normed, head, None, rows.len());
        if collective.world_size() == 1 {
            return Ok(&scratch.logits);
        }
        collective.gather(0, local, &mut scratch.gathered)?;
        if collective.rank() != 0 {
            return Ok(&[]);
        }
        // From one table per rank to one row per token.
        let all = sized(&mut scratch.logits, rows.len() * vocab);
        let (mut gathered, mut start) = (scratch.gathered.as_slice(), 0);
        for rank in 0..weights.shard.world_size {
            let width = Shard::cut(&weights.config, rank, weights.shard.world_size).vocab.len();
            let (table, rest) = gathered.split_at(rows.len() * width);
            for (row, part) in all.chunks_exact_mut(vocab).zip(table.chunks_exact(width)) {
                row[start..start + width].copy_from_slice(part);
            }
            (gathered, start) = (rest, start + width);
        }
        Ok(all)
    }
}

/// Writes the embeddings of the tokens that this rank has, and zeroes for the others.
fn embed(weights: &RankWeights, x: &mut [f32], tokens: &[u32]) {
    let vocab = &weights.shard.vocab;
    for (x, &token) in x.chunks_exact_mut(weights.config.hidden_size).zip(tokens) {
        match vocab.contains(&(token as usize)) {
            true => weights.embedding.row(token as usize - vocab.start, x),
            false => x.fill(0.0),
        }
    }
}

/// One layer of one step.
struct LayerStep<'a> {
    weights: &'a RankWeights,
    cpu: &'a Cpu,
    layer: &'a LayerWeights,
    index: usize,
    batch: &'a Batch<'a>,
}

impl LayerStep<'_> {
    fn tokens(&self) -> usize {
        self.batch.tokens.len()
    }

    /// From the residual stream to this rank's share of what attention yields, in `y`.
    fn attend(&self, scratch: &mut Scratch, kv: &mut KvCache, rotation: &glint_kernels::Rotation) {
        let Self { weights, cpu, layer, index, batch } = *self;
        let (config, shard, tokens) = (&weights.config, &weights.shard, self.tokens());
        let (heads, kv_heads, head_dim) =
            (shard.heads.len(), shard.kv_heads.len(), config.head_dim);

        let normed = sized(&mut scratch.normed, tokens * config.hidden_size);
        rms_norm(cpu, normed, &scratch.x, &layer.attention_norm, config.rms_eps, tokens);
        let qkv = sized(&mut scratch.qkv, tokens * layer.qkv.rows());
        matmul(cpu, qkv, normed, &layer.qkv, layer.qkv_bias.as_deref(), tokens);
        rope(cpu, qkv, rotation, heads + kv_heads, head_dim);
        let (keys, values) = (heads * head_dim, (heads + kv_heads) * head_dim);
        for (row, &slot) in qkv.chunks_exact(layer.qkv.rows()).zip(&batch.kv_slots) {
            kv.write(index, slot, &row[keys..values], &row[values..]);
        }
        let attended = sized(&mut scratch.attended, tokens * heads * head_dim);
        let shape = Attention { layer: index, heads, scale: 1.0 / (head_dim as f32).sqrt() };
        attention(cpu, attended, qkv, kv, shape, &batch.rows);
        let y = sized(&mut scratch.y, tokens * config.hidden_size);
        matmul(cpu, y, attended, &layer.attention_out, None, tokens);
    }

    /// Adds what attention yielded, and goes on to this rank's share of what the feed-forward part yields, in `y`.
    fn feed_forward(&self, scratch: &mut Scratch) {
        let Self { weights, cpu, layer, .. } = *self;
        let (config, tokens) = (&weights.config, self.tokens());
        self.norm_output(scratch, layer.attention_out_norm.as_deref());
        let Scratch { x, normed, gate_up, activated, y, .. } = scratch;
        let normed = sized(normed, tokens * config.hidden_size);
        add_rms_norm(cpu, normed, x, y, &layer.ffn_norm, config.rms_eps, tokens);
        let gate_up = sized(gate_up, tokens * layer.gate_up.rows());
        matmul(cpu, gate_up, normed, &layer.gate_up, None, tokens);
        let activated = sized(activated, tokens * layer.down.cols());
        silu_mul(cpu, activated, gate_up, tokens);
        matmul(cpu, y, activated, &layer.down, None, tokens);
    }

    /// Adds what the feed-forward part yielded.
    fn finish(&self, scratch: &mut Scratch) {
        self.norm_output(scratch, self.layer.ffn_out_norm.as_deref());
        add(self.cpu, &mut scratch.x, &scratch.y);
    }

    /// glm4's norm of what half a layer yields, summed over ranks.
    fn norm_output(&self, scratch: &mut Scratch, norm: Option<&[f32]>) {
        if let Some(norm) = norm {
            let Scratch { normed, y, .. } = scratch;
            let normed = sized(normed, y.len());
            rms_norm(self.cpu, normed, y, norm, self.weights.config.rms_eps, self.tokens());
            std::mem::swap(&mut scratch.normed, &mut scratch.y);
        }
    }
}

/// Returns the buffer at exactly this length; what it holds is of no meaning.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}
