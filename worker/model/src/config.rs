//! What shape has the model, according to its `config.json`?
//!
//! Three spellings of one family: Hugging Face `glm` and `glm4`, and THUDM's `chatglm`. All become a [`Config`].
//! Nothing is guessed that would change a logit: a value that is missing, contradictory or of a kind that is not
//! computed here is refused by name.

use std::fmt;

use serde_json::Value;

mod fields;
mod read;

/// Which layer formula, and which names the tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Hugging Face `glm`: GLM-4-9B-chat-hf, and the demo model.
    Glm,
    /// Hugging Face `glm4`: GLM-4-0414 and GLM-Z1. A second norm after attention and after the feed-forward part.
    Glm4,
    /// THUDM `chatglm`: ChatGLM2/3-6B, GLM-4-9B, CodeGeeX4. The formula of [`Family::Glm`].
    ChatGlm,
}

impl Family {
    /// Returns whether what attention and feed-forward part yield is normalised before it is added.
    #[must_use]
    pub fn has_sandwich_norms(self) -> bool {
        match self {
            Self::Glm4 => true,
            Self::Glm | Self::ChatGlm => false,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Glm => "glm",
            Self::Glm4 => "glm4",
            Self::ChatGlm => "chatglm",
        })
    }
}

/// How the rows of a fused query, key and value projection lie in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QkvLayout {
    /// Three tensors.
    Separate,
    /// One tensor: all queries, all keys, all values.
    Stacked,
    /// One tensor: query, key and value of head 0, then of head 1, and so on.
    PerHead,
}

/// The numbers that define a model's computation. Sizes are those of the whole model, not of a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Layer formula and tensor names.
    pub family: Family,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part, per half of gate and up.
    pub ffn_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, called groups where they are fewer than the query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Leading dimensions of a head that RoPE turns, in interleaved pairs.
    pub rotary_dim: usize,
    /// RoPE's base.
    pub rope_theta: f64,
    /// Added to the mean square in RMS norms.
    pub rms_eps: f32,
    /// Rows of embedding and output head; ids below exist, special and padding ids included.
    pub vocab_size: usize,
    /// Positions that the model was trained for.
    pub context_tokens_max: usize,
    /// Whether query, key and value projections add a bias.
    pub qkv_bias: bool,
    /// How those projections lie in the checkpoint.
    pub qkv_layout: QkvLayout,
    /// Whether the output head is the embedding.
    pub tie_embeddings: bool,
    /// Ids that end a text, as far as `config.json` says so.
    pub eos_token_ids: Vec<u32>,
}

impl Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: no JSON, values missing, contradictory or not supported.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let json: Value =
            serde_json::from_str(text).map_err(|error| ConfigError::Json(error.to_string()))?;
        let config = read::config(&fields::Fields::of(&json)?)?;
        config.check()?;
        Ok(config)
    }

    /// Returns how many numbers the model has; a tied head is counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let wide = |n: usize| n as u64;
        let qkv_rows = wide(self.heads + 2 * self.kv_heads) * wide(self.head_dim);
        let norms = if self.family.has_sandwich_norms() { 4 } else { 2 };
        let layer = qkv_rows * (wide(self.hidden_size) + u64::from(self.qkv_bias))
            + wide(self.hidden_size) * wide(self.heads * self.head_dim)
            + 3 * wide(self.ffn_size) * wide(self.hidden_size)
            + norms * wide(self.hidden_size);
        let tables = if self.tie_embeddings { 1 } else { 2 };
        wide(self.layers) * layer
            + tables * wide(self.vocab_size) * wide(self.hidden_size)
            + wide(self.hidden_size)
    }

    /// Returns the bytes of keys and values per token over the whole model, at this many bytes per number.
    #[must_use]
    pub fn kv_bytes_per_token(&self, bytes_per_value: usize) -> u64 {
        (2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value) as u64
    }

    fn check(&self) -> Result<(), ConfigError> {
        let contradiction = |text: String| Err(ConfigError::Contradiction(text));
        let Self { heads, kv_heads, head_dim, rotary_dim, .. } = *self;
        if heads % kv_heads != 0 {
            return contradiction(format!(
                "{heads} attention heads cannot share {kv_heads} key/value heads evenly"
            ));
        }
        if rotary_dim == 0 || rotary_dim % 2 != 0 || rotary_dim > head_dim {
            return contradiction(format!(
                "RoPE would turn {rotary_dim} of {head_dim} dimensions per head, an even number from 2 to {head_dim} is needed"
            ));
        }
        Ok(())
    }
}

/// Why a `config.json` gives no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The folder has none.
    #[error("there is no config.json, so this is no checkpoint folder")]
    NoConfig,
    /// The system does not give it out.
    #[error("cannot read config.json: {0}")]
    Read(String),
    /// It is no JSON object.
    #[error("config.json is no JSON object: {0}")]
    Json(String),
    /// A value that decides logits is not there.
    #[error("config.json has no {key}")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value is of the wrong kind or size.
    #[error("config.json has {key} = {value}, {expected} is needed")]
    Value {
        /// The key.
        key: &'static str,
        /// What it says, shortened.
        value: String,
        /// What would do.
        expected: &'static str,
    },
    /// Two values cannot both be true.
    #[error("config.json contradicts itself: {0}")]
    Contradiction(String),
    /// A model that exists, and is not computed here.
    #[error("{0} is not supported yet")]
    Unsupported(String),
    /// Another model family.
    #[error("model_type {0:?} is not supported, glm, glm4 and chatglm are")]
    OtherFamily(String),
}
