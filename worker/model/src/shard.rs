//! Which part of the model does a rank hold? (`FORMATS.md` section 6)
//!
//! Every dimension is cut into units, a rank holds consecutive ones: attention heads with their KV heads, feed-forward
//! rows in eights, vocabulary rows in eights. With more ranks than KV heads, each KV head is held by several
//! ranks, all of whose query heads read it: replicated, not split.

use std::ops::Range;

use crate::config::Config;

/// Rows of feed-forward width and vocabulary that stay together.
const UNIT_ROWS: usize = 8;

/// The most ranks that a group can have, a limit of the collectives.
const WORLD_SIZE_MAX: u32 = glint_kernels::collective::WORLD_SIZE_MAX as u32;

/// What one rank holds of each dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The rank, below `world_size`.
    pub rank: u32,
    /// Ranks of the group.
    pub world_size: u32,
    /// Query heads.
    pub heads: Range<usize>,
    /// Key and value heads, those that `heads` read.
    pub kv_heads: Range<usize>,
    /// Rows of the gate's half of the feed-forward width, and equally of the other half.
    pub ffn: Range<usize>,
    /// Rows of embedding and output head.
    pub vocab: Range<usize>,
}

/// A number of ranks that the model cannot be split over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "world size {world_size} does not fit a model of {heads} attention heads in {kv_heads} KV groups, use one of {}",
    list(allowed)
)]
pub struct WorldSizeError {
    /// What was asked for.
    pub world_size: u32,
    /// Query heads of the model.
    pub heads: usize,
    /// Key and value heads of the model.
    pub kv_heads: usize,
    /// World sizes that would do.
    pub allowed: Vec<u32>,
}

fn list(sizes: &[u32]) -> String {
    sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

impl Config {
    /// Returns every number of ranks that the model can be split over, smallest first; 1 is always there.
    #[must_use]
    pub fn world_sizes(&self) -> Vec<u32> {
        let units = units(self.ffn_size).min(units(self.vocab_size));
        let fits = |&ranks: &u32| {
            let ranks = ranks as usize;
            let shares_kv =
                self.kv_heads.is_multiple_of(ranks) || ranks.is_multiple_of(self.kv_heads);
            self.heads.is_multiple_of(ranks) && shares_kv && ranks <= units
        };
        (1..=WORLD_SIZE_MAX).filter(fits).collect()
    }

    /// Checks that the model can be split over this many ranks.
    ///
    /// # Errors
    ///
    /// [`WorldSizeError`], with the numbers that would do.
    pub fn check_world_size(&self, world_size: u32) -> Result<(), WorldSizeError> {
        let allowed = self.world_sizes();
        if allowed.contains(&world_size) {
            return Ok(());
        }
        let Self { heads, kv_heads, .. } = *self;
        Err(WorldSizeError { world_size, heads, kv_heads, allowed })
    }

    /// Returns the smallest number of ranks above 1 that the model can be split over, or 1 if there is none.
    #[must_use]
    pub fn smallest_world_size_above_one(&self) -> u32 {
        self.world_sizes().into_iter().find(|&ranks| ranks > 1).unwrap_or(1)
    }
}

impl Shard {
    /// Returns what rank `rank` of `world_size` holds.
    ///
    /// # Errors
    ///
    /// [`WorldSizeError`] if the model cannot be split like that.
    ///
    /// # Panics
    ///
    /// Panics if `rank` is not below `world_size`.
    pub fn new(config: &Config, rank: u32, world_size: u32) -> Result<Self, WorldSizeError> {
        config.check_world_size(world_size)?;
        assert!(rank < world_size, "rank {rank} of {world_size}");
        Ok(Self::cut(config, rank, world_size))
    }

    /// Returns what a rank of a group of an allowed size holds.
    pub(crate) fn cut(config: &Config, rank: u32, world_size: u32) -> Self {
        let (r, t) = (rank as usize, world_size as usize);
        let kv_heads = if t > config.kv_heads {
            let kv_head = r * config.kv_heads / t;
            kv_head..kv_head + 1
        } else {
            part(config.kv_heads, r, t)
        };
        let rows = |rows: usize| {
            let Range { start, end } = part(units(rows), r, t);
            (start * UNIT_ROWS).min(rows)..(end * UNIT_ROWS).min(rows)
        };
        Self {
            rank,
            world_size,
            heads: part(config.heads, r, t),
            kv_heads,
            ffn: rows(config.ffn_size),
            vocab: rows(config.vocab_size),
        }
    }

    /// Returns how many ranks hold the same KV heads: 1, or more where there are more ranks than KV heads.
    #[must_use]
    pub fn kv_replicas(&self, config: &Config) -> u32 {
        (self.world_size / config.kv_heads as u32).max(1)
    }
}

fn units(rows: usize) -> usize {
    rows.div_ceil(UNIT_ROWS)
}

fn part(units: usize, rank: usize, ranks: usize) -> Range<usize> {
    rank * units / ranks..(rank + 1) * units / ranks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Family, QkvLayout};

    fn config(heads: usize, kv_heads: usize, ffn_size: usize, vocab_size: usize) -> Config {
        Config {
            family: Family::Glm,
            layers: 2,
            hidden_size: 64,
            ffn_size,
            heads,
            kv_heads,
            head_dim: 16,
            rotary_dim: 8,
            rope_theta: 1e4,
            rms_eps: 1e-5,
            vocab_size,
            context_tokens_max: 1024,
            qkv_bias: true,
            qkv_layout: QkvLayout::Separate,
            tie_embeddings: false,
            eos_token_ids: Vec::new(),
        }
    }

    #[test]
    fn world_sizes_are_those_of_the_format() {
        let sizes = |heads, kv| config(heads, kv, 13696, 151_552).world_sizes();
        assert_eq!(sizes(32, 2), [1, 2, 4, 8, 16, 32], "GLM-4-9B");
        assert_eq!(sizes(48, 2), [1, 2, 4, 6, 8, 12, 16, 24, 48], "GLM-4-32B");
        assert_eq!(config(9, 3, 1536, 49152).world_sizes(), [1, 3, 9], "the demo model");
        assert_eq!(config(9, 3, 1536, 49152).smallest_world_size_above_one(), 3);
        assert_eq!(config(4, 4, 8, 49152).world_sizes(), [1], "one unit of feed-forward width");
        assert_eq!(config(4, 4, 8, 49152).smallest_world_size_above_one(), 1);
    }

    #[test]
    fn a_world_size_that_does_not_fit_is_refused_with_those_that_would_do() {
        let error = config(4, 2, 160, 512).check_world_size(3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "world size 3 does not fit a model of 4 attention heads in 2 KV groups, use one of 1, 2, 4"
        );
        for none in [0, 5, 65] {
            assert!(config(4, 2, 160, 512).check_world_size(none).is_err());
        }
    }

    #[test]
    fn ranks_beyond_the_kv_heads_hold_copies() {
        let config = config(8, 2, 160, 512);
        let kv = |rank| Shard::new(&config, rank, 8).unwrap().kv_heads;
        assert_eq!((0..8).map(kv).map(|kv| kv.start).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(Shard::new(&config, 0, 8).unwrap().kv_replicas(&config), 4);
        assert_eq!(Shard::new(&config, 0, 2).unwrap().kv_replicas(&config), 1);
    }

    proptest! {
        #[test]
        fn every_row_is_held_once_and_every_head_finds_its_kv_head(
            kv_heads in 1usize..6, group in 1usize..10, ffn in 1usize..500, vocab in 1usize..900,
        ) {
            let config = config(kv_heads * group, kv_heads, ffn, vocab);
            for world_size in config.world_sizes() {
                let shards: Vec<Shard> =
                    (0..world_size).map(|rank| Shard::new(&config, rank, world_size).unwrap()).collect();
                let (mut heads, mut ffn, mut vocab) = (0, 0, 0);
                for shard in &shards {
                    prop_assert_eq!(shard.heads.start, heads);
                    prop_assert_eq!(shard.ffn.start, ffn);
                    prop_assert_eq!(shard.vocab.start, vocab);
                    prop_assert_eq!(shard.heads.len(), config.heads / world_size as usize);
                    prop_assert!(!shard.ffn.is_empty() && !shard.vocab.is_empty());
                    prop_assert!(shard.vocab.start % 8 == 0 && shard.ffn.start % 8 == 0);
                    (heads, ffn, vocab) = (shard.heads.end, shard.ffn.end, shard.vocab.end);
                    // The local rule, head / (heads / kv_heads) within the shard, finds the global KV head.
                    let per_kv = shard.heads.len() / shard.kv_heads.len();
                    prop_assert_eq!(shard.heads.len() % shard.kv_heads.len(), 0);
                    for head in shard.heads.clone() {
                        let local = (head - shard.heads.start) / per_kv;
                        prop_assert_eq!(shard.kv_heads.start + local, head / group);
                    }
                }
                prop_assert_eq!((heads, ffn, vocab), (config.heads, config.ffn_size, config.vocab_size));
            }
        }
    }
}
