//! Which rows of which tensors make up a rank's matrices?

use std::ops::Range;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{Config, QkvLayout};
use crate::shard::Shard;
use crate::tensors::{self, LayerNames, QkvNames};

/// Consecutive rows of one tensor. A rank's matrix is made of one or more such parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Without `.weight` or `.bias`.
    pub(super) name: String,
    pub(super) rows: Range<usize>,
}

/// Returns the parts of the checkpoint that make up a rank's queries, keys and values, in this order.
pub(super) fn qkv_parts(config: &Config, shard: &Shard, names: &QkvNames) -> Vec<Part> {
    let d = config.head_dim;
    let part = |name: &String, first_head: usize, heads: &Range<usize>| Part {
        name: name.clone(),
        rows: (first_head + heads.start) * d..(first_head + heads.end) * d,
    };
    match names {
        QkvNames::Separate([q, k, v]) => {
            vec![part(q, 0, &shard.heads), part(k, 0, &shard.kv_heads), part(v, 0, &shard.kv_heads)]
        }
        QkvNames::Fused(name) if config.qkv_layout == QkvLayout::PerHead => {
            let head = |of: usize, h: usize| part(name, 3 * h + of, &(0..1));
            let q = shard.heads.clone().map(|h| head(0, h));
            let k = shard.kv_heads.clone().map(|h| head(1, h));
            let v = shard.kv_heads.clone().map(|h| head(2, h));
            q.chain(k).chain(v).collect()
        }
        QkvNames::Fused(name) => vec![
            part(name, 0, &shard.heads),
            part(name, config.heads, &shard.kv_heads),
            part(name, config.heads + config.kv_heads, &shard.kv_heads),
        ],
    }
}

/// Returns the bytes of the files that a rank reads.
pub(crate) fn stored_bytes(checkpoint: &Checkpoint, shard: &Shard) -> Result<u64, CheckpointError> {
    let config = checkpoint.config();
    let bytes_of = |name: &str, rows: usize, cols: usize| -> Result<u64, CheckpointError> {
        let (file, stored) = checkpoint.find(name)?;
        Ok((rows * cols * stored.element_type(file.path(), name)?.bytes()) as u64)
    };
    let weight = |name: &str, rows, cols| bytes_of(&format!("{name}.weight"), rows, cols);
    let hidden = config.hidden_size;
    let mut total = weight(tensors::embedding(config), shard.vocab.len(), hidden)?
        + weight(tensors::final_norm(config), 1, hidden)?;
    if !config.tie_embeddings {
        total += weight(tensors::head(config), shard.vocab.len(), hidden)?;
    }
    for layer in 0..config.layers {
        let names = LayerNames::new(config, layer);
        for Part { name, rows } in qkv_parts(config, shard, &names.qkv) {
            total += weight(&name, rows.len(), hidden)?;
            if config.qkv_bias {
                total += bytes_of(&format!("{name}.bias"), rows.len(), 1)?;
            }
        }
        total += weight(&names.attention_out, hidden, shard.heads.len() * config.head_dim)?
            + weight(&names.gate_up, 2 * shard.ffn.len(), hidden)?
            + weight(&names.down, hidden, shard.ffn.len())?;
        let sandwich = [&names.attention_out_norm, &names.ffn_out_norm].into_iter().flatten();
        for norm in [&names.attention_norm, &names.ffn_norm].into_iter().chain(sandwich) {
            total += weight(norm, 1, hidden)?;
        }
    }
    Ok(total)
}
