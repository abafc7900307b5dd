//! How do a rank's weights come into memory?
//!
//! Row by row, straight from the file into packed panels, and only the rows and columns of the rank's shard.

use glint_kernels::{Compute, KvShape, Matrix};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::shard::{Shard, WorldSizeError};
use crate::tensors;

mod load;
mod parts;

use load::Loader;
use parts::Part;
pub(crate) use parts::stored_bytes;

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
