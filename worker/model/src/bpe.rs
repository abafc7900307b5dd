//! What is the `tokenizer.json` of a byte-level BPE?

use serde_json::{Map, Value, json};

/// What differs between one and another.
pub(crate) struct Bpe {
    pub(crate) added_tokens: Vec<Value>,
    pub(crate) pre_tokenizer: Value,
    pub(crate) decoder: Value,
    pub(crate) vocabulary: Map<String, Value>,
    pub(crate) merges: Value,
}

impl Bpe {
    /// Returns the file, as the `tokenizers` library writes it.
    pub(crate) fn json(self) -> Value {
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens,
            "normalizer": null,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": null,
            "decoder": self.decoder,
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": false,
                "vocab": self.vocabulary,
                "merges": self.merges,
            },
        })
    }
}
