//! The text files of the checkpoint, as Hugging Face's libraries would have written them.

use serde_json::{Map, Value, json};

use crate::bpe::Bpe;

use super::facts::Facts;

/// The version of transformers in which the `glm` architecture appeared; it stands in the files that one writes.
const TRANSFORMERS: &str = "4.46.0";

pub(super) fn config(facts: &Facts<'_>) -> Value {
    json!({
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": facts.vocabulary,
        "max_position_embeddings": facts.context_tokens_max,
        "hidden_size": facts.hidden,
        "intermediate_size": facts.ffn,
        "num_hidden_layers": facts.layers,
        "num_attention_heads": facts.heads,
        "num_key_value_heads": facts.kv_heads,
        "partial_rotary_factor": 1.0,
        "head_dim": facts.head_dim(),
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": facts.rms_eps,
        "use_cache": true,
        "rope_theta": facts.rope_theta,
        "attention_bias": false,
        "attention_dropout": 0.0,
        "tie_word_embeddings": true,
        "bos_token_id": facts.bos,
        "eos_token_id": [facts.eos],
        "pad_token_id": facts.pad,
        "torch_dtype": "bfloat16",
        "transformers_version": TRANSFORMERS,
    })
}

/// Unlike the reference's, it says how the model's authors sample it: at temperature 1 so small a model talks nonsense.
pub(super) fn generation_config(facts: &Facts<'_>) -> Value {
    json!({
        "do_sample": true,
        "temperature": 0.2,
        "top_p": 0.9,
        "bos_token_id": facts.bos,
        "eos_token_id": [facts.eos],
        "pad_token_id": facts.pad,
        "max_length": facts.context_tokens_max,
        "transformers_version": TRANSFORMERS,
    })
}

pub(super) fn tokenizer(facts: &Facts<'_>) -> Value {
    let added: Vec<Value> = facts
        .specials
        .iter()
        .map(|&id| {
            let mut token = added_token(&facts.tokens[id]);
            token.insert("id".to_owned(), json!(id));
            token.into()
        })
        .collect();
    let vocabulary: Map<String, Value> =
        facts.tokens.iter().cloned().zip((0..).map(|id: u32| id.into())).collect();
    let byte_level = |add_prefix_space: bool| {
        json!({
            "type": "ByteLevel",
            "add_prefix_space": add_prefix_space,
            "trim_offsets": true,
            "use_regex": true,
        })
    };
    Bpe {
        added_tokens: added,
        pre_tokenizer: json!({
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level(false)],
        }),
        decoder: byte_level(true),
        vocabulary,
        merges: json!(facts.merges),
    }
    .json()
}

pub(super) fn tokenizer_config(facts: &Facts<'_>) -> Value {
    let decoder: Map<String, Value> = facts
        .specials
        .iter()
        .map(|&id| (id.to_string(), added_token(&facts.tokens[id]).into()))
        .collect();
    let token = |id: usize| facts.tokens[id].as_str();
    json!({
        "added_tokens_decoder": decoder,
        "additional_special_tokens": [token(facts.bos), token(facts.eos)],
        "bos_token": token(facts.bos),
        "eos_token": token(facts.eos),
        "pad_token": token(facts.pad),
        "unk_token": token(facts.unknown),
        "chat_template": facts.chat_template,
        "clean_up_tokenization_spaces": false,
        "model_max_length": facts.context_tokens_max,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
    })
}

fn added_token(content: &str) -> Map<String, Value> {
    let mut token = Map::new();
    token.insert("content".to_owned(), content.into());
    for flag in ["single_word", "lstrip", "rstrip", "normalized"] {
        token.insert(flag.to_owned(), false.into());
    }
    token.insert("special".to_owned(), true.into());
    token
}
