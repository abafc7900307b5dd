//! What does the GGUF say about the model?

use crate::gguf::{Gguf, GgufError, Value};

/// The keys that the checkpoint needs, checked.
pub(super) struct Facts<'a> {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) ffn: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) vocabulary: usize,
    pub(super) context_tokens_max: usize,
    pub(super) rms_eps: f64,
    pub(super) rope_theta: f64,
    /// Every token as byte-level BPE spells it, by id.
    pub(super) tokens: &'a [String],
    /// The ids of special tokens.
    pub(super) specials: Vec<usize>,
    /// Two tokens with a space between.
    pub(super) merges: Vec<(&'a str, &'a str)>,
    pub(super) bos: usize,
    pub(super) eos: usize,
    pub(super) pad: usize,
    pub(super) unknown: usize,
    pub(super) chat_template: &'a str,
}

/// In `tokenizer.ggml.token_type`: a control token.
const SPECIAL: i64 = 3;

/// Keeps sizes so small that no product of two of them overflows.
const SIZE_MAX: i64 = 1 << 24;

impl<'a> Facts<'a> {
    pub(super) fn of(gguf: &'a Gguf) -> Result<Self, GgufError> {
        let keys = Keys(gguf);
        for (key, expected) in [
            ("general.architecture", "llama"),
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", "smollm"),
        ] {
            let found = keys.text(key)?;
            if found != expected {
                return Err(gguf.error(format!("has {key} = {found:?}, {expected:?} is converted")));
            }
        }
        let tokens = keys.texts("tokenizer.ggml.tokens")?;
        let id = |key: &str| {
            let id = keys.size(key)?;
            let token = tokens.get(id).map(|_| id);
            token.ok_or_else(|| gguf.error(format!("has {key} = {id} of {} tokens", tokens.len())))
        };
        let facts = Self {
            layers: keys.size("llama.block_count")?,
            hidden: keys.size("llama.embedding_length")?,
            ffn: keys.size("llama.feed_forward_length")?,
            heads: keys.size("llama.attention.head_count")?,
            kv_heads: keys.size("llama.attention.head_count_kv")?,
            vocabulary: keys.size("llama.vocab_size")?,
            context_tokens_max: keys.size("llama.context_length")?,
            rms_eps: keys.float("llama.attention.layer_norm_rms_epsilon")?,
            rope_theta: keys.float("llama.rope.freq_base")?,
            tokens,
            specials: keys.specials()?,
            merges: keys.merges()?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            chat_template: keys.text("tokenizer.chat_template")?,
        };
        let Self { hidden, heads, kv_heads, vocabulary, .. } = facts;
        let rotated = keys.size("llama.rope.dimension_count")?;
        let contradiction = if heads == 0 || hidden % heads != 0 || kv_heads == 0 {
            format!("says {heads} heads, {kv_heads} of keys, over a width of {hidden}")
        } else if rotated != facts.head_dim() {
            format!("turns {rotated} of {} dimensions, all are converted", facts.head_dim())
        } else if facts.ffn == 0 || tokens.len() != vocabulary {
            format!("has {} tokens for a vocabulary of {vocabulary}", tokens.len())
        } else {
            return Ok(facts);
        };
        Err(gguf.error(contradiction))
    }

    pub(super) fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
}

/// Values by key, or the sentence that says what is missing.
struct Keys<'a>(&'a Gguf);

impl<'a> Keys<'a> {
    fn value<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, GgufError> {
        let value = self.0.value(key);
        let value = value.ok_or_else(|| self.0.error(format!("has no key {key}")))?;
        read(value).ok_or_else(|| self.0.error(format!("has a {key} that is no {expected}")))
    }

    fn size(&self, key: &str) -> Result<usize, GgufError> {
        self.value(key, "size", |value| match value {
            Value::Integer(size @ 0..=SIZE_MAX) => usize::try_from(*size).ok(),
            _ => None,
        })
    }

    /// An f32 of the file as the f64 with the same shortest decimal form: 1e-5, not 9.999999747e-6.
    fn float(&self, key: &str) -> Result<f64, GgufError> {
        self.value(key, "number", |value| match value {
            Value::Float(value) if value.is_finite() => (*value as f32).to_string().parse().ok(),
            _ => None,
        })
    }

    fn text(&self, key: &str) -> Result<&'a str, GgufError> {
        self.value(key, "text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    fn texts(&self, key: &str) -> Result<&'a [String], GgufError> {
        self.value(key, "list of texts", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    fn merges(&self) -> Result<Vec<(&'a str, &'a str)>, GgufError> {
        let key = "tokenizer.ggml.merges";
        let merges = self.texts(key)?.iter().map(|merge| merge.split_once(' '));
        let merges: Option<_> = merges.collect();
        merges.ok_or_else(|| self.0.error(format!("has a merge without a space in {key}")))
    }

    fn specials(&self) -> Result<Vec<usize>, GgufError> {
        let tokens = self.texts("tokenizer.ggml.tokens")?.len();
        self.value("tokenizer.ggml.token_type", "list of one type per token", |value| match value {
            Value::Integers(types) if types.len() == tokens => {
                Some((0..tokens).filter(|&id| types[id] == SPECIAL).collect())
            }
            _ => None,
        })
    }
}
