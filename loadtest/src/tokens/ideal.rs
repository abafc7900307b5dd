//! How much of what is sent was sent before?

use std::{collections::HashSet, fmt};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Blocks and tokens that were asked for, and those of them that were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HitRate {
    /// Blocks of all prompts.
    pub blocks: u64,
    /// Blocks whose prompt had the same tokens up to their end as an earlier one.
    pub hit_blocks: u64,
    /// Tokens of these blocks.
    pub tokens: u64,
    /// Tokens of the blocks that were there.
    pub hit_tokens: u64,
}

impl HitRate {
    /// Counts a block.
    pub(crate) fn count(&mut self, tokens: u64, hit: bool) {
        self.blocks += 1;
        self.tokens += tokens;
        if hit {
            self.hit_blocks += 1;
            self.hit_tokens += tokens;
        }
    }

    /// Share of the blocks, 0 to 1; 0 of none.
    #[must_use]
    pub fn of_blocks(&self) -> f64 {
        self.hit_blocks as f64 / self.blocks.max(1) as f64
    }

    /// Share of the tokens, 0 to 1; 0 of none.
    #[must_use]
    pub fn of_tokens(&self) -> f64 {
        self.hit_tokens as f64 / self.tokens.max(1) as f64
    }
}

impl fmt::Display for HitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} % of {} blocks, {:.3} % of {} tokens",
            100.0 * self.of_blocks(),
            self.blocks,
            100.0 * self.of_tokens(),
            self.tokens
        )
    }
}

/// A prefix cache that forgets nothing; 8 bytes and some for each new block.
///
/// A block is known by a 64-bit hash of its tokens that is chained to the block before, so that equal hashes mean equal prompts up to
/// there, but for a collision.
#[derive(Clone, Debug)]
pub struct IdealCache {
    block_tokens: usize,
    seen: HashSet<u64>,
    bytes: Vec<u8>,
    hits: HitRate,
    whole_blocks: HitRate,
}

impl IdealCache {
    /// An empty cache of blocks of `block_tokens`; of at least 1.
    #[must_use]
    pub fn new(block_tokens: u32) -> Self {
        Self {
            block_tokens: block_tokens.max(1) as usize,
            seen: HashSet::new(),
            bytes: Vec::new(),
            hits: HitRate::default(),
            whole_blocks: HitRate::default(),
        }
    }

    /// Takes the next prompt. Returns how many of its tokens were there, in whole blocks.
    pub fn ask(&mut self, ids: &[u32]) -> u64 {
        let before = self.whole_blocks.hit_tokens;
        let mut parent = 0;
        let mut held = true;
        for block in ids.chunks(self.block_tokens) {
            self.bytes.clear();
            self.bytes.extend(block.iter().flat_map(|id| id.to_le_bytes()));
            parent = xxh3_64_with_seed(&self.bytes, parent);
            held &= !self.seen.insert(parent);
            self.hits.count(block.len() as u64, held);
            if block.len() == self.block_tokens {
                self.whole_blocks.count(block.len() as u64, held);
            }
        }
        self.whole_blocks.hit_tokens - before
    }

    /// So far, the last and shorter block of each prompt counted like the others.
    #[must_use]
    pub fn hits(&self) -> HitRate {
        self.hits
    }

    /// So far, whole blocks only, as a real cache holds them.
    #[must_use]
    pub fn whole_blocks(&self) -> HitRate {
        self.whole_blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_held_only_with_all_that_was_before_it() {
        let mut cache = IdealCache::new(2);
        assert_eq!(cache.ask(&[1, 2, 3, 4, 5]), 0);
        assert_eq!(cache.ask(&[1, 2, 3, 4, 5]), 4);
        // The second block is known, but not after this first one.
        assert_eq!(cache.ask(&[9, 9, 3, 4]), 0);
        assert_eq!(cache.ask(&[1, 2, 9, 9]), 2);
        assert_eq!(cache.hits(), HitRate { blocks: 10, hit_blocks: 4, tokens: 18, hit_tokens: 7 });
        assert_eq!(
            cache.whole_blocks(),
            HitRate { blocks: 8, hit_blocks: 3, tokens: 16, hit_tokens: 6 }
        );
    }

    /// Against the definition, with an alphabet so small that prefixes collide all the time.
    #[test]
    fn the_cache_finds_the_longest_common_beginning_with_any_prompt_before() {
        use rand::RngExt as _;
        for seed in 0..50 {
            let mut rng = crate::workload::seed::rng(&[seed]);
            let mut cache = IdealCache::new(3);
            let mut before: Vec<Vec<u32>> = Vec::new();
            for _ in 0..60 {
                let length = rng.random_range(0..14);
                let prompt: Vec<u32> = (0..length).map(|_| rng.random_range(0..2)).collect();
                let common = |other: &Vec<u32>| {
                    let equal = prompt.iter().zip(other).take_while(|(a, b)| a == b).count();
                    (equal / 3 * 3) as u64
                };
                let expected = before.iter().map(common).max().unwrap_or(0);
                assert_eq!(cache.ask(&prompt), expected, "{prompt:?} after {before:?}");
                before.push(prompt);
            }
        }
    }
}
