//! Which beginnings do prompts share?

use std::{fmt, str::FromStr, sync::Arc};

use rand::{Rng, RngExt as _};

use super::seed;
use crate::{
    arrivals::spec,
    plan::{Piece, PlanError},
};

/// A tree of beginnings that prompts share. On a command line, from the root, `branches x tokens` of each level: `1x2000,8x500` is one
/// system prompt of 2000 tokens that all share, and after it one of 8 pieces of 500 tokens. Every prompt takes a way from the
/// root to a leaf, all leaves equally often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixTree {
    levels: Arc<[Level]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    branches: u32,
    tokens: u32,
}

impl PrefixTree {
    /// Tokens from the root to a leaf.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.levels.iter().map(|level| u64::from(level.tokens)).sum()
    }

    /// Whether nothing is shared.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// A way from the root to a leaf. Pieces of one node have one name, those of different nodes different ones.
    pub(crate) fn path(&self, run_seed: u64, rng: &mut impl Rng) -> Vec<Piece> {
        let mut node = seed::name(&[run_seed, seed::PREFIX]);
        let mut path = Vec::with_capacity(self.levels.len() + 1);
        for level in self.levels.iter() {
            node = seed::name(&[node, u64::from(rng.random_range(0..level.branches))]);
            path.push(Piece { name: node, tokens: level.tokens });
        }
        path
    }
}

impl FromStr for PrefixTree {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let level = |level: &str| {
            let (branches, tokens) = level.trim().split_once('x')?;
            let (branches, tokens) = (branches.parse().ok()?, tokens.parse().ok()?);
            (branches > 0 && tokens > 0).then_some(Level { branches, tokens })
        };
        let levels: Option<Arc<[Level]>> = text.split(',').map(level).collect();
        let usage =
            "levels as `branches x tokens` from the root, both above 0, such as `1x2000,8x500`";
        let levels = levels.ok_or_else(|| spec::refuse(text, "this is no prefix tree", usage))?;
        Ok(Self { levels })
    }
}

impl fmt::Display for PrefixTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, level) in self.levels.iter().enumerate() {
            let before = if at == 0 { "" } else { "," };
            write!(f, "{before}{}x{}", level.branches, level.tokens)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_tree_has_as_many_nodes_as_its_branches_make_and_all_are_taken() {
        let tree: PrefixTree = "2x10,3x20".parse().unwrap();
        assert_eq!(tree.tokens(), 30);
        let mut rng = seed::rng(&[1]);
        let paths: HashSet<Vec<Piece>> = (0..1_000).map(|_| tree.path(5, &mut rng)).collect();
        assert_eq!(paths.len(), 6);
        let names: HashSet<u64> = paths.iter().flatten().map(|piece| piece.name).collect();
        assert_eq!(names.len(), 2 + 6);
    }

    #[test]
    fn a_tree_reads_what_it_writes_and_says_what_to_write() {
        assert_eq!("1x2000,8x500".parse::<PrefixTree>().unwrap().to_string(), "1x2000,8x500");
        for text in ["", "2000", "0x5", "1x0", "1x2,", "ax2", "1x-3"] {
            let error = text.parse::<PrefixTree>().unwrap_err().to_string();
            assert!(error.contains("such as `1x2000,8x500`"), "{text}: {error}");
        }
    }
}
