//! What is a KV block called?
//!
//! A block's name covers its tokens and everything before it, back to the model's weights, the adapter and the
//! tenant's salt: `FORMATS.md` section 1. Worker and router compute the same names.

use std::fmt;

use xxhash_rust::xxh3::xxh3_128;

use crate::ModelDigest;

/// Tokens in a KV block.
pub const BLOCK_SIZE_TOKENS: usize = 16;

/// Begins every chain of block names: weights, block size, adapter and salt.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Namespace(pub u128);

/// Names one full KV block *and everything before it*: equal names, equal prefixes, but for a collision.
///
/// The block pool reuses a block only if namespace, tokens and verified parent are equal as well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockHash(pub u128);

/// The low half of a [`BlockHash`], as it travels to routers. It only hints.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireHash(pub u64);

impl Namespace {
    /// Returns the namespace of blocks of [`BLOCK_SIZE_TOKENS`] under these weights, adapter and salt.
    ///
    /// Equal salts share blocks; an empty adapter or salt means none.
    #[must_use]
    pub fn new(digest: &ModelDigest, adapter: &[u8], salt: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(64 + adapter.len() + salt.len());
        bytes.extend_from_slice(b"glint/kv/1\0");
        bytes.extend_from_slice(&digest.0);
        bytes.extend_from_slice(&(BLOCK_SIZE_TOKENS as u32).to_le_bytes());
        for part in [adapter, salt] {
            let len = u32::try_from(part.len()).expect("names are far shorter than 4 GiB");
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(part);
        }
        Self(xxh3_128(&bytes))
    }

    /// Returns the names of the full blocks of `tokens`, first to last.
    #[must_use]
    pub fn chain(self, tokens: &[u32]) -> Vec<BlockHash> {
        let mut parent = self.0;
        let name = |block: &[u32; BLOCK_SIZE_TOKENS]| {
            let hash = BlockHash::after(parent, block);
            parent = hash.0;
            hash
        };
        tokens.as_chunks().0.iter().map(name).collect()
    }

    /// Returns the name of a first block.
    #[must_use]
    pub fn first(self, tokens: &[u32; BLOCK_SIZE_TOKENS]) -> BlockHash {
        BlockHash::after(self.0, tokens)
    }
}

impl BlockHash {
    /// Returns the name of the block that follows this one.
    #[must_use]
    pub fn next(self, tokens: &[u32; BLOCK_SIZE_TOKENS]) -> Self {
        Self::after(self.0, tokens)
    }

    /// Returns what routers see of it.
    #[must_use]
    pub fn wire(self) -> WireHash {
        WireHash(self.0 as u64)
    }

    fn after(parent: u128, tokens: &[u32; BLOCK_SIZE_TOKENS]) -> Self {
        let mut bytes = [0; 16 + 4 * BLOCK_SIZE_TOKENS];
        let (head, tail) = bytes.split_at_mut(16);
        head.copy_from_slice(&parent.to_le_bytes());
        for (place, token) in tail.as_chunks_mut::<4>().0.iter_mut().zip(tokens) {
            *place = token.to_le_bytes();
        }
        Self(xxh3_128(&bytes))
    }
}

/// Returns how many leading blocks a prompt may take from the cache: one token is always left to compute, for
/// without it there are no logits to draw from.
#[must_use]
pub fn reusable_blocks(prompt_tokens: usize) -> usize {
    prompt_tokens.saturating_sub(1) / BLOCK_SIZE_TOKENS
}

macro_rules! hex {
    ($($name:ident, $width:literal);+) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+ };
}

hex!(Namespace, 32; BlockHash, 32; WireHash, 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_format() {
        let plain = Namespace::new(&ModelDigest([0; 32]), b"", b"");
        assert_eq!(plain.to_string(), "91f4e8736abab2e04257d5c05c461d64");
        let chain = plain.chain(&(0..40).collect::<Vec<_>>());
        assert_eq!(chain.len(), 2, "only full blocks have names");
        assert_eq!(chain[0].to_string(), "13425d1876788f569920f2fcc21ab71f");
        assert_eq!(chain[0].wire().to_string(), "9920f2fcc21ab71f");
        assert_eq!(chain[1].to_string(), "befe370035ace63afad17358edebcf79");
        assert_eq!(chain[1].wire().to_string(), "fad17358edebcf79");

        let digest = ModelDigest(std::array::from_fn(|i| i as u8));
        let named = Namespace::new(&digest, b"lora-a", b"tenant-7");
        assert_eq!(named.to_string(), "831a4e12ab6d62c164eeab26ba9bdc9c");
    }

    #[test]
    fn a_chain_is_its_steps() {
        let namespace = Namespace::new(&ModelDigest([7; 32]), b"", b"s");
        let tokens: Vec<u32> = (100..132).collect();
        let first = namespace.first(tokens[..16].try_into().unwrap());
        let second = first.next(tokens[16..].try_into().unwrap());
        assert_eq!(namespace.chain(&tokens), [first, second]);
    }

    #[test]
    fn one_token_is_left_to_compute() {
        let reusable = [0, 1, 16, 17, 32, 33].map(reusable_blocks);
        assert_eq!(reusable, [0, 0, 0, 1, 1, 2]);
    }
}
