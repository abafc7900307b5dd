//! What is an engine told once, at its start?

use glint_core::{Failure, Kind, ModelDigest};

/// An engine's limits. All of them are hard: no plan and no queue ever exceeds one.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// KV blocks of 16 tokens on every rank.
    pub kv_blocks: u32,
    /// Positions computed in one step, decodes and prefill together. Bounds a decode's delay by a neighbour's prompt.
    pub step_tokens_max: u32,
    /// Positions of one sequence in one step.
    pub chunk_tokens_max: u32,
    /// Sequences that run at once; slots in plans are below this number.
    pub sequences_max: u32,
    /// Requests that wait for admission; one more is refused as exhausted. Preempted sequences wait here as well
    /// and are never refused.
    pub waiting_max: u32,
    /// Longest sequence, prompt and output together.
    pub context_tokens_max: u32,
    /// Token ids below this one exist.
    pub vocab_size: u32,
    /// Tokens by which the model ends its answer.
    pub eos_token_ids: Vec<u32>,
    /// Names the weights in block hashes.
    pub digest: ModelDigest,
    /// Whether equal prefixes share blocks.
    pub prefix_cache: PrefixCache,
}

/// Whether blocks outlive the sequence that computed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixCache {
    /// Full blocks stay until their room is needed, and later prompts with the same beginning use them.
    On,
    /// Every prompt is computed from its first token, and no block is published.
    Off,
}

/// Whether new requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// Requests are taken.
    Open,
    /// Requests are refused as unavailable; those that are here run to their end.
    Draining,
}

/// A configuration under which nothing could run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A limit of 0.
    #[error("{name} is 0, use at least 1")]
    Zero {
        /// The limit.
        name: &'static str,
    },
    /// An end token that the vocabulary does not have.
    #[error("end token id {id} is beyond the vocabulary of {vocab_size} tokens")]
    UnknownEndToken {
        /// The id.
        id: u32,
        /// Ids below this one exist.
        vocab_size: u32,
    },
}

impl Failure for ConfigError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

impl EngineConfig {
    /// Checks that something can run.
    ///
    /// # Errors
    ///
    /// The first limit that is 0, or an end token beyond the vocabulary.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = [
            ("kv_blocks", self.kv_blocks),
            ("step_tokens_max", self.step_tokens_max),
            ("chunk_tokens_max", self.chunk_tokens_max),
            ("sequences_max", self.sequences_max),
            ("waiting_max", self.waiting_max),
            ("context_tokens_max", self.context_tokens_max),
            ("vocab_size", self.vocab_size),
        ];
        if let Some(&(name, _)) = limits.iter().find(|(_, limit)| *limit == 0) {
            return Err(ConfigError::Zero { name });
        }
        let vocab_size = self.vocab_size;
        match self.eos_token_ids.iter().find(|&&id| id >= vocab_size) {
            Some(&id) => Err(ConfigError::UnknownEndToken { id, vocab_size }),
            None => Ok(()),
        }
    }
}
