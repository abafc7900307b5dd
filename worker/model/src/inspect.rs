//! What is in a checkpoint, and what would each rank hold of it? For people.

use std::fmt;

use glint_kernels::Compute;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::shard::{Shard, WorldSizeError};
use crate::weights::stored_bytes;

/// What `glint model inspect` prints.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// What `config.json` says.
    pub config: Config,
    /// Bytes of all tensors in the weight files.
    pub weight_bytes: u64,
    /// Weight files.
    pub files: usize,
    /// How the first tensor's numbers are stored, as an example of all: `f32`, `f16` or `bf16`.
    pub element_type: &'static str,
    /// World sizes that the model can be split over.
    pub world_sizes: Vec<u32>,
}

impl Inspection {
    /// Looks at a checkpoint.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if a tensor cannot be found.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let config = checkpoint.config();
        let embedding = format!("{}.weight", crate::tensors::embedding(config));
        let (file, stored) = checkpoint.find(&embedding)?;
        let files = checkpoint.files();
        let tensors = files.iter().flat_map(|file| file.tensors());
        Ok(Self {
            config: config.clone(),
            weight_bytes: tensors.map(|stored| stored.bytes()).sum(),
            files: files.len(),
            element_type: stored.element_type(file.path(), &embedding)?.name(),
            world_sizes: config.world_sizes(),
        })
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, weight_bytes, files, element_type, world_sizes } = self;
        let Config { layers, hidden_size, ffn_size, heads, kv_heads, head_dim, .. } = config;
        let tied = if config.tie_embeddings { ", output head tied to the embedding" } else { "" };
        let bias = if config.qkv_bias { ", with bias" } else { "" };
        let plural = if *files == 1 { "file" } else { "files" };
        let sizes = world_sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let [kv_bf16, kv_f32] =
            [Compute::Bf16, Compute::F32].map(|c| config.kv_bytes_per_token(c.element_bytes()));
        writeln!(f, "architecture   {}", config.family)?;
        writeln!(f, "parameters     {}", Count(config.parameters()))?;
        writeln!(
            f,
            "weights        {} in {files} {plural} ({element_type})",
            Bytes(*weight_bytes)
        )?;
        writeln!(f, "layers         {layers}, hidden size {hidden_size}, feed-forward {ffn_size}")?;
        writeln!(f, "attention      {heads} heads of {head_dim} in {kv_heads} KV groups{bias}")?;
        writeln!(
            f,
            "RoPE           {} of {head_dim} dimensions, base {}",
            config.rotary_dim, config.rope_theta
        )?;
        writeln!(f, "vocabulary     {} tokens{tied}", config.vocab_size)?;
        writeln!(f, "context        {} tokens", config.context_tokens_max)?;
        writeln!(f, "KV per token   {} (bf16), {} (f32)", Bytes(kv_bf16), Bytes(kv_f32))?;
        writeln!(f, "world sizes    {sizes}")
    }
}

/// What `glint model plan` prints.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The whole model.
    pub config: Config,
    /// How many ranks hold the same KV heads; above 1 they are replicated.
    pub kv_replicas: u32,
    /// What each rank holds, by rank.
    pub ranks: Vec<RankPlan>,
}

/// What one rank would hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RankPlan {
    /// Heads and rows.
    pub shard: Shard,
    /// Bytes that it reads from the weight files.
    pub read_bytes: u64,
    /// Bytes of keys and values per token in bf16; twice that in f32.
    pub kv_bytes_per_token: u64,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The model cannot be split like that.
    #[error(transparent)]
    WorldSize(#[from] WorldSizeError),
    /// A tensor cannot be found.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Plan {
    /// Splits a checkpoint over this many ranks.
    ///
    /// # Errors
    ///
    /// [`PlanError::WorldSize`] with the sizes that would do.
    pub fn of(checkpoint: &Checkpoint, world_size: u32) -> Result<Self, PlanError> {
        let config = checkpoint.config();
        config.check_world_size(world_size)?;
        let mut ranks = Vec::with_capacity(world_size as usize);
        let mut kv_replicas = 1;
        for rank in 0..world_size {
            let shard = Shard::new(config, rank, world_size)?;
            kv_replicas = shard.kv_replicas(config);
            let read_bytes = stored_bytes(checkpoint, &shard)?;
            let of_kv = |config: &Config| config.kv_bytes_per_token(Compute::Bf16.element_bytes());
            let held = Config { kv_heads: shard.kv_heads.len(), ..config.clone() };
            ranks.push(RankPlan { shard, read_bytes, kv_bytes_per_token: of_kv(&held) });
        }
        Ok(Self { config: config.clone(), kv_replicas, ranks })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, kv_replicas, ranks } = self;
        let Config { heads, kv_heads, .. } = config;
        writeln!(
            f,
            "{} over {} ranks: {heads} attention heads, {kv_heads} KV heads",
            config.family,
            ranks.len()
        )?;
        match kv_replicas {
            1 => writeln!(f, "each KV head is held by one rank")?,
            _ => writeln!(
                f,
                "KV heads are replicated: each is held by {kv_replicas} ranks, for there are more ranks than KV heads"
            )?,
        }
        writeln!(f)?;
        writeln!(
            f,
            "{:<6}{:<12}{:<22}{:<16}{:<18}{:<12}KV per token (bf16)",
            "rank", "heads", "KV heads", "feed-forward", "vocabulary", "reads"
        )?;
        for RankPlan { shard, read_bytes, kv_bytes_per_token } in ranks {
            let mut kv = span(&shard.kv_heads);
            if *kv_replicas > 1 {
                let first = shard.rank / kv_replicas * kv_replicas;
                kv = format!("{kv} (as ranks {first}-{})", first + kv_replicas - 1);
            }
            writeln!(
                f,
                "{:<6}{:<12}{kv:<22}{:<16}{:<18}{:<12}{}",
                shard.rank,
                span(&shard.heads),
                span(&shard.ffn),
                span(&shard.vocab),
                Bytes(*read_bytes).to_string(),
                Bytes(*kv_bytes_per_token)
            )?;
        }
        Ok(())
    }
}

/// Returns `first-last`, both included.
fn span(range: &std::ops::Range<usize>) -> String {
    match range.len() {
        0 => "none".into(),
        1 => range.start.to_string(),
        _ => format!("{}-{}", range.start, range.end - 1),
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let (mut value, mut unit) = (self.0 as f64 / 1024.0, 0);
        while value >= 1024.0 && unit + 1 < units.len() {
            (value, unit) = (value / 1024.0, unit + 1);
        }
        match value.fract() == 0.0 {
            true => write!(f, "{value} {}", units[unit]),
            false => write!(f, "{value:.1} {}", units[unit]),
        }
    }
}

struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1_000_000_000 => write!(f, "{:.2} billion", n as f64 / 1e9),
            n if n >= 1_000_000 => write!(f, "{:.1} million", n as f64 / 1e6),
            n => write!(f, "{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let bytes = |n| Bytes(n).to_string();
        assert_eq!(
            [bytes(17), bytes(40 << 10), bytes(18_800_000_000)],
            ["17 B", "40 KiB", "17.5 GiB"]
        );
        let count = |n| Count(n).to_string();
        assert_eq!([count(999), count(134_515_008)], ["999", "134.5 million"]);
        assert_eq!(count(9_399_951_360), "9.40 billion");
        assert_eq!([span(&(3..4)), span(&(0..8)), span(&(2..2))], ["3", "0-7", "none"]);
    }
}
