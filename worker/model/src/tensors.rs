//! What are the tensors called, and which shapes do they have?

use crate::config::{Config, Family, QkvLayout};

/// A tensor that a checkpoint must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
}

/// Names of one layer's tensors, without `.weight` and `.bias`.
pub(crate) struct LayerNames {
    pub(crate) attention_norm: String,
    pub(crate) qkv: QkvNames,
    pub(crate) attention_out: String,
    /// Norm of what attention yields.
    pub(crate) attention_out_norm: Option<String>,
    pub(crate) ffn_norm: String,
    pub(crate) gate_up: String,
    pub(crate) down: String,
    /// Norm of what the feed-forward part yields.
    pub(crate) ffn_out_norm: Option<String>,
}

pub(crate) enum QkvNames {
    Separate([String; 3]),
    Fused(String),
}

pub(crate) fn embedding(config: &Config) -> &'static str {
    match config.family {
        Family::Glm | Family::Glm4 => "model.embed_tokens",
        Family::ChatGlm => "transformer.embedding.word_embeddings",
    }
}

/// Returns the output head's name, whether or not it is the embedding.
pub(crate) fn head(config: &Config) -> &'static str {
    match config.family {
        Family::Glm | Family::Glm4 => "lm_head",
        Family::ChatGlm => "transformer.output_layer",
    }
}

pub(crate) fn final_norm(config: &Config) -> &'static str {
    match config.family {
        Family::Glm | Family::Glm4 => "model.norm",
        Family::ChatGlm => "transformer.encoder.final_layernorm",
    }
}

impl LayerNames {
    pub(crate) fn new(config: &Config, layer: usize) -> Self {
        let sandwich = config.family.has_sandwich_norms();
        match config.family {
            Family::Glm | Family::Glm4 => {
                let name = |part: &str| format!("model.layers.{layer}.{part}");
                Self {
                    attention_norm: name("input_layernorm"),
                    qkv: QkvNames::Separate(
                        ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj"))),
                    ),
                    attention_out: name("self_attn.o_proj"),
                    attention_out_norm: sandwich.then(|| name("post_self_attn_layernorm")),
                    ffn_norm: name("post_attention_layernorm"),
                    gate_up: name("mlp.gate_up_proj"),
                    down: name("mlp.down_proj"),
                    ffn_out_norm: sandwich.then(|| name("post_mlp_layernorm")),
                }
            }
            Family::ChatGlm => {
                let name = |part: &str| format!("transformer.encoder.layers.{layer}.{part}");
                Self {
                    attention_norm: name("input_layernorm"),
                    qkv: QkvNames::Fused(name("self_attention.query_key_value")),
                    attention_out: name("self_attention.dense"),
                    attention_out_norm: None,
                    ffn_norm: name("post_attention_layernorm"),
                    gate_up: name("mlp.dense_h_to_4h"),
                    down: name("mlp.dense_4h_to_h"),
                    ffn_out_norm: None,
                }
            }
        }
    }
}

/// Returns the projections of queries, keys and values with their rows, in the order of the checkpoint.
pub(crate) fn qkv_rows(config: &Config, names: &QkvNames) -> Vec<(String, usize)> {
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    match names {
        QkvNames::Separate([q_name, k_name, v_name]) => {
            vec![(q_name.clone(), q), (k_name.clone(), kv), (v_name.clone(), kv)]
        }
        QkvNames::Fused(name) => {
            debug_assert_ne!(config.qkv_layout, QkvLayout::Separate, "one tensor, one layout");
            vec![(name.clone(), q + 2 * kv)]
        }
    }
}

/// Returns a tensor that only a checkpoint with all layers has.
pub(crate) fn last_layer_norm(config: &Config) -> String {
    format!("{}.weight", LayerNames::new(config, config.layers - 1).attention_norm)
}

/// Returns every tensor of the whole model.
pub(crate) fn expected(config: &Config) -> Vec<Expected> {
    let mut all = Vec::new();
    let mut weight = |name: &str, shape: &[usize]| {
        all.push(Expected { name: format!("{name}.weight"), shape: shape.to_vec() });
    };
    let Config { hidden_size: hidden, ffn_size: ffn, vocab_size: vocab, .. } = *config;
    weight(embedding(config), &[vocab, hidden]);
    let mut biases = Vec::new();
    for layer in 0..config.layers {
        let names = LayerNames::new(config, layer);
        weight(&names.attention_norm, &[hidden]);
        for (name, rows) in qkv_rows(config, &names.qkv) {
            weight(&name, &[rows, hidden]);
            if config.qkv_bias {
                biases.push(Expected { name: format!("{name}.bias"), shape: vec![rows] });
            }
        }
        weight(&names.attention_out, &[hidden, config.heads * config.head_dim]);
        weight(&names.ffn_norm, &[hidden]);
        // This one first: where the width is wrong, its shape says so without a factor of two.
        weight(&names.down, &[hidden, ffn]);
        weight(&names.gate_up, &[2 * ffn, hidden]);
        for norm in [&names.attention_out_norm, &names.ffn_out_norm].into_iter().flatten() {
            weight(norm, &[hidden]);
        }
    }
    weight(final_norm(config), &[hidden]);
    if !config.tie_embeddings {
        weight(head(config), &[vocab, hidden]);
    }
    all.append(&mut biases);
    all
}

/// Returns whether a tensor beyond the expected ones may be there: RoPE's frequencies, which follow from the config, and
/// a copy of the embedding that some writers store as the head of a tied model.
pub(crate) fn is_ignored(config: &Config, name: &str) -> bool {
    name.ends_with(".inv_freq")
        || config.tie_embeddings && name.strip_suffix(".weight") == Some(head(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_have_as_many_numbers_as_the_config_counts() {
        let text = |family: &str| {
            let config = match family {
                "chatglm" => serde_json::json!({
                    "model_type": family, "num_layers": 3, "hidden_size": 64, "ffn_hidden_size": 160,
                    "num_attention_heads": 4, "kv_channels": 16, "multi_query_attention": true,
                    "multi_query_group_num": 2, "layernorm_epsilon": 1e-5, "padded_vocab_size": 528,
                    "seq_length": 8192, "add_qkv_bias": true
                }),
                _ => serde_json::json!({
                    "model_type": family, "hidden_size": 64, "num_hidden_layers": 3,
                    "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
                    "head_dim": 32, "rms_norm_eps": 1e-5, "vocab_size": 512, "rope_theta": 1e4,
                    "max_position_embeddings": 8192, "tie_word_embeddings": family == "glm"
                }),
            };
            config.to_string()
        };
        for family in ["glm", "glm4", "chatglm"] {
            let config = Config::parse(&text(family)).unwrap();
            let numbers: usize =
                expected(&config).iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
            assert_eq!(numbers as u64, config.parameters(), "{family}");
        }
    }
}
