//! Which model needs no download?
//!
//! `tiny` has random weights, so what it says means nothing, but it is a checkpoint like any other: every path that
//! a real model takes is taken by it too. It has GLM-4-0414's architecture with 8 heads in 2 KV groups, so that all of
//! the world sizes 1, 2, 4 and 8 can be tried, the last two with replicated KV heads. Its tokenizer knows the 256
//! bytes and GLM-4's special tokens.
//!
//! The weights are the draws of [`glint_core::draw`], a fixed function of tensor, row and column: every machine
//! writes the same bytes and so the same model digest. `weights.rs` explains how they come to write letters.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::write::{self, WriteError};

mod tokenizer;
mod weights;

const LAYERS: usize = 3;
const HIDDEN: usize = 64;
const FFN: usize = 192;
const HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
/// The bytes and the special tokens: every row of the output head is a token.
const VOCABULARY: usize = 256 + tokenizer::SPECIALS.len();
const CONTEXT_TOKENS_MAX: usize = 8192;

const CHAT_TEMPLATE: &str = include_str!("tiny/chat_template.jinja");

/// Writes the model `tiny` as a checkpoint folder. Files that are there already and right are left alone, so it may
/// be called at every start, also by several processes at once.
///
/// # Errors
///
/// [`WriteError`] names the file that the system refused.
pub fn write(folder: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(folder).map_err(WriteError::at(folder))?;
    let pretty = |json: serde_json::Value| format!("{json:#}\n").into_bytes();
    let files = [
        ("model.safetensors", weights::safetensors()),
        ("tokenizer.json", pretty(tokenizer::json())),
        ("tokenizer_config.json", pretty(tokenizer::config())),
        ("chat_template.jinja", CHAT_TEMPLATE.into()),
        ("generation_config.json", pretty(generation_config())),
        ("config.json", pretty(config())),
    ];
    files.iter().try_for_each(|(name, bytes)| write::bytes(&folder.join(name), bytes))
}

fn config() -> serde_json::Value {
    json!({
        "architectures": ["Glm4ForCausalLM"],
        "model_type": "glm4",
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_TOKENS_MAX,
        "hidden_size": HIDDEN,
        "intermediate_size": FFN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "partial_rotary_factor": 0.5,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": true,
        "attention_dropout": 0.0,
        "tie_word_embeddings": false,
        "use_cache": true,
        "eos_token_id": tokenizer::stop_ids(),
        "pad_token_id": tokenizer::id("<|endoftext|>"),
        "torch_dtype": "bfloat16",
    })
}

fn generation_config() -> serde_json::Value {
    json!({
        "eos_token_id": tokenizer::stop_ids(),
        "pad_token_id": tokenizer::id("<|endoftext|>"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sha2::{Digest, Sha256};

    use super::*;

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
            })
            .collect()
    }

    #[test]
    fn writing_twice_changes_nothing_and_a_spoilt_file_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("models").join("tiny");
        write(&path).unwrap();
        let first = files(&path);
        assert_eq!(first.len(), 6);
        let weights = path.join("model.safetensors");
        let modified = fs::metadata(&weights).unwrap().modified().unwrap();
        fs::write(path.join("tokenizer.json"), "{}").unwrap();
        write(&path).unwrap();
        assert_eq!(files(&path), first);
        assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), modified);
    }

    /// The digest is part of what caches and recorded answers depend on: it changes when somebody means it to.
    #[test]
    fn the_weights_are_these_bytes_on_every_machine() {
        let digest: String = Sha256::digest(weights::safetensors())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(digest, "44ac231e79428560e388ef2597351eb6808e52bf4de3d171225ee5f9a66660e8");
    }

    #[test]
    fn it_opens_like_any_checkpoint_and_takes_every_world_size_up_to_its_heads() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let checkpoint = crate::Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.config().world_sizes(), [1, 2, 4, 8]);
    }

    #[test]
    fn the_weights_are_those_of_the_config() {
        let bytes = weights::safetensors();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
        assert_eq!(tensors.len(), LAYERS * 13 + 3);
        assert_eq!(shape("lm_head.weight"), [VOCABULARY, HIDDEN]);
        assert_eq!(shape("model.layers.2.self_attn.k_proj.weight"), [KV_HEADS * HEAD_DIM, HIDDEN]);
        assert_eq!(shape("model.layers.0.mlp.gate_up_proj.weight"), [2 * FFN, HIDDEN]);
        let finite = |name: &str| {
            let values: &[half::bf16] = bytemuck::cast_slice(tensors.tensor(name).unwrap().data());
            values.iter().all(|value| value.is_finite())
        };
        assert!(tensors.names().into_iter().all(finite));
    }
}
