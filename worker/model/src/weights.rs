//! How do a rank's weights come into memory?
//!
//! Row by row, straight from the file into packed panels, and only the rows and columns of the rank's shard.

use std::ops::Range;

use glint_kernels::{Compute, KvShape, Matrix};

use crate::checkpoint::{Checkpoint, CheckpointError, Stored, WeightFile};
use crate::config::{Config, QkvLayout};
use crate::shard::{Shard, WorldSizeError};
use crate::tensors::{self, LayerNames, QkvNames};

/// Rows that lie behind one another are read together up to this size.
const READ_BYTES: usize = 4 << 20;

/// What a rank is told before it loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankOptions {
    /// The rank, below `world_size`.
    pub rank: u32,
    /// Ranks of the group.
    pub world_size: u32,
    /// Type of weights, and of keys and values.
    pub compute: Compute,
}

/// How far a long read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read so far.
    pub read_bytes: u64,
    /// Bytes to be read in all.
    pub total_bytes: u64,
}

/// Why weights are not loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The model cannot be split like that.
    #[error(transparent)]
    WorldSize(#[from] WorldSizeError),
    /// There is no such rank.
    #[error("rank {rank} does not exist in a group of {world_size}")]
    Rank {
        /// What was asked for.
        rank: u32,
        /// Ranks of the group.
        world_size: u32,
    },
    /// The files cannot be read, or changed since they were opened.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// One rank's shard of a model, ready to be multiplied with.
pub struct RankWeights {
    pub(crate) config: Config,
    pub(crate) shard: Shard,
    pub(crate) compute: Compute,
    /// `[vocab rows of the shard, hidden]`.
    pub(crate) embedding: Matrix,
    /// The same shape; `None` where it is the embedding.
    pub(crate) head: Option<Matrix>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) layers: Vec<LayerWeights>,
}

/// One layer. Norms are whole on every rank.
pub(crate) struct LayerWeights {
    pub(crate) attention_norm: Vec<f32>,
    /// `[(heads + 2 · kv_heads) · head_dim, hidden]`: queries, keys, values.
    pub(crate) qkv: Matrix,
    pub(crate) qkv_bias: Option<Vec<f32>>,
    /// `[hidden, heads · head_dim]`.
    pub(crate) attention_out: Matrix,
    pub(crate) attention_out_norm: Option<Vec<f32>>,
    pub(crate) ffn_norm: Vec<f32>,
    /// `[2 · ffn, hidden]`: gate, up.
    pub(crate) gate_up: Matrix,
    /// `[hidden, ffn]`.
    pub(crate) down: Matrix,
    pub(crate) ffn_out_norm: Option<Vec<f32>>,
}

impl RankWeights {
    /// Reads one rank's shard; `progress` is called after each matrix.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: a world size that does not fit, or files that cannot be read.
    pub fn load(
        checkpoint: &Checkpoint,
        options: RankOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, LoadError> {
        let RankOptions { rank, world_size, compute } = options;
        let config = checkpoint.config();
        config.check_world_size(world_size)?;
        if rank >= world_size {
            return Err(LoadError::Rank { rank, world_size });
        }
        let shard = Shard::new(config, rank, world_size)?;
        let total_bytes = stored_bytes(checkpoint, &shard)?;
        let done = Progress { read_bytes: 0, total_bytes };
        let mut loader = Loader { checkpoint, compute, done, progress, buffer: Vec::new() };
        let all = 0..config.hidden_size;
        let vocab = |name: &str| vec![Part { name: name.into(), rows: shard.vocab.clone() }];
        let embedding = loader.matrix(&vocab(tensors::embedding(config)), all.clone())?;
        let head = match config.tie_embeddings {
            true => None,
            false => Some(loader.matrix(&vocab(tensors::head(config)), all)?),
        };
        let layers = (0..config.layers)
            .map(|layer| loader.layer(config, &shard, layer))
            .collect::<Result<_, _>>()?;
        let final_norm = loader.vector(tensors::final_norm(config), ".weight")?;
        debug_assert_eq!(loader.done.read_bytes, total_bytes, "what is read is what was announced");
        Ok(Self { config: config.clone(), shard, compute, embedding, head, final_norm, layers })
    }

    /// Returns the whole model's numbers.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns which part of the model this is.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// Returns how weights, keys and values are stored.
    #[must_use]
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Returns the memory that the weights take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let of_layer = |layer: &LayerWeights| {
            let LayerWeights { qkv, attention_out, gate_up, down, .. } = layer;
            [qkv, attention_out, gate_up, down].map(Matrix::bytes).iter().sum::<usize>()
        };
        let tables = self.embedding.bytes() + self.head.as_ref().map_or(0, Matrix::bytes);
        (tables + self.layers.iter().map(of_layer).sum::<usize>()) as u64
    }

    /// Returns the memory that this rank needs for one KV block of 16 tokens.
    #[must_use]
    pub fn kv_block_bytes(&self) -> u64 {
        self.kv_shape(1).block_bytes(self.compute) as u64
    }

    pub(crate) fn kv_shape(&self, blocks: u32) -> KvShape {
        KvShape {
            layers: self.config.layers,
            blocks: blocks as usize,
            kv_heads: self.shard.kv_heads.len(),
            head_dim: self.config.head_dim,
        }
    }
}

/// Consecutive rows of one tensor. A rank's matrix is made of one or more such parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Without `.weight` or `.bias`.
    pub(crate) name: String,
    pub(crate) rows: Range<usize>,
}

/// Returns the parts of the checkpoint that make up a rank's queries, keys and values, in this order.
pub(crate) fn qkv_parts(config: &Config, shard: &Shard, names: &QkvNames) -> Vec<Part> {
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

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    compute: Compute,
    done: Progress,
    progress: &'a mut dyn FnMut(Progress),
    buffer: Vec<u8>,
}

impl Loader<'_> {
    fn layer(
        &mut self,
        config: &Config,
        shard: &Shard,
        layer: usize,
    ) -> Result<LayerWeights, CheckpointError> {
        let names = LayerNames::new(config, layer);
        let (hidden, ffn) = (config.hidden_size, &shard.ffn);
        let heads = shard.heads.start * config.head_dim..shard.heads.end * config.head_dim;
        let qkv = qkv_parts(config, shard, &names.qkv);
        let qkv_bias = if config.qkv_bias { Some(self.bias(&qkv)?) } else { None };
        let gate = Part { name: names.gate_up.clone(), rows: ffn.clone() };
        let up = ffn.start + config.ffn_size..ffn.end + config.ffn_size;
        let up = Part { name: names.gate_up, rows: up };
        let whole = |name: String| [Part { name, rows: 0..hidden }];
        Ok(LayerWeights {
            attention_norm: self.vector(&names.attention_norm, ".weight")?,
            qkv: self.matrix(&qkv, 0..hidden)?,
            qkv_bias,
            attention_out: self.matrix(&whole(names.attention_out), heads)?,
            attention_out_norm: self.norm_if_any(names.attention_out_norm)?,
            ffn_norm: self.vector(&names.ffn_norm, ".weight")?,
            gate_up: self.matrix(&[gate, up], 0..hidden)?,
            down: self.matrix(&whole(names.down), ffn.clone())?,
            ffn_out_norm: self.norm_if_any(names.ffn_out_norm)?,
        })
    }

    fn norm_if_any(&mut self, name: Option<String>) -> Result<Option<Vec<f32>>, CheckpointError> {
        name.map(|name| self.vector(&name, ".weight")).transpose()
    }

    /// Reads a whole vector.
    fn vector(&mut self, name: &str, suffix: &str) -> Result<Vec<f32>, CheckpointError> {
        let (_, stored) = self.checkpoint.find(&format!("{name}{suffix}"))?;
        let len = stored.shape.iter().product();
        let mut out = vec![0.0; len];
        self.slice(&format!("{name}{suffix}"), 0, &mut out)?;
        Ok(out)
    }

    /// Reads the biases of these rows.
    fn bias(&mut self, parts: &[Part]) -> Result<Vec<f32>, CheckpointError> {
        let mut out = vec![0.0; parts.iter().map(|part| part.rows.len()).sum()];
        let mut rest = out.as_mut_slice();
        for Part { name, rows } in parts {
            let (these, others) = rest.split_at_mut(rows.len());
            self.slice(&format!("{name}.bias"), rows.start, these)?;
            rest = others;
        }
        Ok(out)
    }

    fn slice(
        &mut self,
        tensor: &str,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let (file, stored) = self.checkpoint.find(tensor)?;
        let kind = stored.element_type(file.path(), tensor)?;
        self.buffer.resize(out.len() * kind.bytes(), 0);
        file.read(stored, (first * kind.bytes()) as u64, &mut self.buffer)?;
        kind.decode(&self.buffer, out);
        self.done.read_bytes += self.buffer.len() as u64;
        Ok(())
    }

    /// Packs these rows, one part below the other, and of each row the columns `cols`.
    fn matrix(&mut self, parts: &[Part], cols: Range<usize>) -> Result<Matrix, CheckpointError> {
        let mut sources = Vec::with_capacity(parts.len());
        for part in parts {
            let tensor = format!("{}.weight", part.name);
            let (file, stored) = self.checkpoint.find(&tensor)?;
            let element_bytes = stored.element_type(file.path(), &tensor)?.bytes();
            let rows = part.rows.clone();
            sources.push(Source { file, stored, tensor, element_bytes, next: rows.start, rows });
        }
        let rows = parts.iter().map(|part| part.rows.len()).sum();
        let mut reader = RowReader {
            sources,
            current: 0,
            cols: cols.clone(),
            buffer: std::mem::take(&mut self.buffer),
            buffered: 0..0,
            read_bytes: 0,
        };
        let mut failure = None;
        let matrix = Matrix::pack(self.compute, rows, cols.len(), &mut |_, row| {
            if failure.is_none() {
                failure = reader.next(row).err();
            }
        });
        self.done.read_bytes += reader.read_bytes;
        self.buffer = reader.buffer;
        (self.progress)(self.done);
        failure.map_or(Ok(matrix), Err)
    }
}

/// A part of a matrix and how much of it was read.
struct Source<'a> {
    file: &'a WeightFile,
    stored: &'a Stored,
    tensor: String,
    element_bytes: usize,
    next: usize,
    rows: Range<usize>,
}

/// Gives out rows in order, reading many at once where they lie together.
struct RowReader<'a> {
    sources: Vec<Source<'a>>,
    current: usize,
    cols: Range<usize>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were not given out.
    buffered: Range<usize>,
    read_bytes: u64,
}

impl RowReader<'_> {
    fn next(&mut self, row: &mut [f32]) -> Result<(), CheckpointError> {
        while self.buffered.is_empty()
            && self.sources[self.current].next >= self.sources[self.current].rows.end
        {
            self.current += 1;
        }
        if self.buffered.is_empty() {
            self.fill()?;
        }
        let source = &self.sources[self.current];
        let bytes = self.cols.len() * source.element_bytes;
        let at = self.buffered.start;
        let kind = source.stored.element_type(source.file.path(), &source.tensor)?;
        kind.decode(&self.buffer[at..at + bytes], row);
        self.buffered.start += bytes;
        Ok(())
    }

    fn fill(&mut self) -> Result<(), CheckpointError> {
        let source = &mut self.sources[self.current];
        let width = source.stored.shape[1];
        let row_bytes = self.cols.len() * source.element_bytes;
        // Whole rows lie together, parts of rows do not.
        let rows = match self.cols.len() == width {
            true => (READ_BYTES / row_bytes).clamp(1, source.rows.end - source.next),
            false => 1,
        };
        self.buffered = 0..rows * row_bytes;
        if self.buffer.len() < self.buffered.end {
            self.buffer.resize(self.buffered.end, 0);
        }
        let offset = (source.next * width + self.cols.start) * source.element_bytes;
        source.file.read(source.stored, offset as u64, &mut self.buffer[self.buffered.clone()])?;
        source.next += rows;
        self.read_bytes += self.buffered.len() as u64;
        Ok(())
    }
}
