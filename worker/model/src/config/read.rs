//! From the three spellings to one [`Config`].

use super::fields::Fields;
use super::{Config, ConfigError, Family, QkvLayout};

/// RoPE's base in every GLM but for `rope_ratio`, which multiplies it.
const CHATGLM_ROPE_THETA: f64 = 10_000.0;

pub(super) fn config(fields: &Fields) -> Result<Config, ConfigError> {
    let model_type =
        fields.text("model_type")?.ok_or(ConfigError::Missing { key: "model_type" })?;
    let unsupported = |what: &str| Err(ConfigError::Unsupported(what.to_owned()));
    if fields.get("vision_config").is_some() {
        return unsupported("a model with a vision part (GLM-4V: config.json has vision_config)");
    }
    if fields.get("quantization_config").is_some() {
        return unsupported("a quantised checkpoint (config.json has quantization_config)");
    }
    match model_type {
        "glm" => hugging_face(fields, Family::Glm),
        "glm4" => hugging_face(fields, Family::Glm4),
        "chatglm" => chatglm(fields),
        "glm4_moe" => unsupported("a mixture of experts (GLM-4.5: model_type glm4_moe)"),
        "glm4v" | "glm4v_moe" => unsupported("a model with a vision part (GLM-4.1V)"),
        other => Err(ConfigError::OtherFamily(other.chars().take(60).collect())),
    }
}

fn hugging_face(fields: &Fields, family: Family) -> Result<Config, ConfigError> {
    if let Some(act) = fields.text("hidden_act")?.filter(|&act| act != "silu" && act != "swish") {
        return Err(ConfigError::Unsupported(format!("activation {act:?} (hidden_act)")));
    }
    let head_dim = fields.size("head_dim")?;
    let rope = Rope::read(fields)?;
    Ok(Config {
        family,
        layers: fields.size("num_hidden_layers")?,
        hidden_size: fields.size("hidden_size")?,
        ffn_size: fields.size("intermediate_size")?,
        heads: fields.size("num_attention_heads")?,
        kv_heads: fields.size("num_key_value_heads")?,
        head_dim,
        // As Hugging Face does it: the product is cut, not rounded.
        rotary_dim: (head_dim as f64 * rope.partial_rotary_factor) as usize,
        rope_theta: rope.theta,
        rms_eps: eps(fields, "rms_norm_eps")?,
        vocab_size: fields.size("vocab_size")?,
        context_tokens_max: fields.size("max_position_embeddings")?,
        // The defaults of the two classes; the weights are checked against it.
        qkv_bias: fields.flag("attention_bias")?.unwrap_or(family == Family::Glm),
        qkv_layout: QkvLayout::Separate,
        tie_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        eos_token_ids: fields.ids("eos_token_id")?,
    })
}

struct Rope {
    theta: f64,
    partial_rotary_factor: f64,
}

impl Rope {
    /// Transformers 5 moved the values into `rope_parameters`; both places are read, and must agree.
    fn read(fields: &Fields) -> Result<Self, ConfigError> {
        let nested = fields.object("rope_parameters")?;
        for rope in [&nested, &fields.object("rope_scaling")?].into_iter().flatten() {
            for key in ["rope_type", "type"] {
                if let Some(kind) = rope.text(key)?.filter(|&kind| kind != "default") {
                    return Err(ConfigError::Unsupported(format!("RoPE scaling {kind:?}")));
                }
            }
        }
        let either = |key| -> Result<Option<f64>, ConfigError> {
            let inner = nested.as_ref().map(|rope| rope.positive(key)).transpose()?.flatten();
            match (fields.positive(key)?, inner) {
                (Some(outer), Some(inner)) if outer != inner => Err(ConfigError::Contradiction(
                    format!("{key} is {outer} at the top and {inner} in rope_parameters"),
                )),
                (outer, inner) => Ok(inner.or(outer)),
            }
        };
        Ok(Self {
            theta: either("rope_theta")?.ok_or(ConfigError::Missing { key: "rope_theta" })?,
            // The default of both classes, which some versions of transformers leave out.
            partial_rotary_factor: either("partial_rotary_factor")?.unwrap_or(0.5),
        })
    }
}

fn chatglm(fields: &Fields) -> Result<Config, ConfigError> {
    let first_generation = fields.get("position_encoding_2d").is_some()
        || fields.get("inner_hidden_size").is_some() && fields.get("ffn_hidden_size").is_none();
    if first_generation {
        return Err(ConfigError::Unsupported(
            "the first ChatGLM-6B (position_encoding_2d in config.json)".into(),
        ));
    }
    fields.refuse_unless("rmsnorm", true, "LayerNorm in place of RMSNorm")?;
    fields.refuse_unless("post_layer_norm", true, "a model without a last norm")?;
    fields.refuse_unless("add_bias_linear", false, "a bias in every projection")?;
    fields.refuse_unless("original_rope", true, "RoPE in split halves")?;
    fields.refuse_unless(
        "apply_residual_connection_post_layernorm",
        false,
        "a residual taken after the norm",
    )?;
    if fields.get("pre_seq_len").is_some() {
        return Err(ConfigError::Unsupported("a learned prefix (pre_seq_len)".into()));
    }
    if fields.get("quantization_bit").is_some_and(|bits| bits.as_u64() != Some(0)) {
        return Err(ConfigError::Unsupported("a quantised checkpoint (quantization_bit)".into()));
    }
    if let Some(kind) = fields.object("rope_scaling")?.map(|rope| rope.text("type")).transpose()? {
        let kind = kind.unwrap_or("of no named type");
        return Err(ConfigError::Unsupported(format!("RoPE scaling {kind:?}")));
    }
    let layers = fields.size("num_layers")?;
    if let Some(other) = fields.size_if_any("num_hidden_layers")?.filter(|&n| n != layers) {
        return Err(ConfigError::Contradiction(format!(
            "num_layers is {layers} and num_hidden_layers {other}"
        )));
    }
    let hidden_size = fields.size("hidden_size")?;
    let heads = fields.size("num_attention_heads")?;
    let head_dim = fields.size_if_any("kv_channels")?.unwrap_or(hidden_size / heads);
    let shared_kv = fields.flag("multi_query_attention")?.unwrap_or(false);
    let vocab_size = match fields.size_if_any("padded_vocab_size")? {
        Some(size) => size,
        None => fields
            .size_if_any("vocab_size")?
            .ok_or(ConfigError::Missing { key: "padded_vocab_size" })?,
    };
    Ok(Config {
        family: Family::ChatGlm,
        layers,
        hidden_size,
        ffn_size: fields.size("ffn_hidden_size")?,
        heads,
        kv_heads: if shared_kv { fields.size("multi_query_group_num")? } else { heads },
        head_dim,
        rotary_dim: head_dim / 2,
        rope_theta: CHATGLM_ROPE_THETA * fields.positive("rope_ratio")?.unwrap_or(1.0),
        rms_eps: eps(fields, "layernorm_epsilon")?,
        vocab_size,
        context_tokens_max: fields.size("seq_length")?,
        qkv_bias: fields.flag("add_qkv_bias")?.unwrap_or(false),
        qkv_layout: if shared_kv { QkvLayout::Stacked } else { QkvLayout::PerHead },
        tie_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        eos_token_ids: fields.ids("eos_token_id")?,
    })
}

fn eps(fields: &Fields, key: &'static str) -> Result<f32, ConfigError> {
    let eps = fields.positive(key)?.ok_or(ConfigError::Missing { key })?;
    if eps < 0.1 {
        return Ok(eps as f32);
    }
    Err(ConfigError::Value { key, value: eps.to_string(), expected: "a number below 0.1" })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::config::{Config, ConfigError, Family, QkvLayout};

    fn glm() -> Value {
        json!({
            "model_type": "glm", "hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 160,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1.5625e-07,
            "vocab_size": 512, "max_position_embeddings": 8192, "rope_theta": 5e6, "hidden_act": "silu",
            "partial_rotary_factor": 0.5, "attention_bias": true, "eos_token_id": [498, 505]
        })
    }

    fn chatglm() -> Value {
        json!({
            "model_type": "chatglm", "num_layers": 3, "hidden_size": 64, "ffn_hidden_size": 160,
            "num_attention_heads": 4, "kv_channels": 16, "multi_query_attention": true,
            "multi_query_group_num": 2, "layernorm_epsilon": 1e-5, "padded_vocab_size": 528,
            "seq_length": 8192, "add_qkv_bias": true, "rmsnorm": true, "post_layer_norm": true,
            "original_rope": true, "eos_token_id": 2
        })
    }

    fn parse(config: &Value) -> Result<Config, ConfigError> {
        Config::parse(&config.to_string())
    }

    fn with(mut config: Value, key: &str, value: Value) -> Value {
        config[key] = value;
        config
    }

    fn without(mut config: Value, key: &str) -> Value {
        config.as_object_mut().unwrap().shift_remove(key);
        config
    }

    #[test]
    fn both_spellings_of_rope_are_read() {
        let top = parse(&glm()).unwrap();
        assert_eq!((top.rope_theta, top.rotary_dim), (5e6, 8));
        let nested =
            json!({"rope_theta": 5e6, "partial_rotary_factor": 0.5, "rope_type": "default"});
        let bare = without(without(glm(), "rope_theta"), "partial_rotary_factor");
        assert_eq!(parse(&with(bare.clone(), "rope_parameters", nested)).unwrap(), top);
        let error = parse(&bare).unwrap_err();
        assert_eq!(error, ConfigError::Missing { key: "rope_theta" });
        let two = with(glm(), "rope_parameters", json!({"rope_theta": 1e4}));
        assert!(matches!(parse(&two), Err(ConfigError::Contradiction(_))));
    }

    #[test]
    fn scaled_rope_is_refused_by_name() {
        for place in ["rope_parameters", "rope_scaling"] {
            for key in ["rope_type", "type"] {
                let config = with(glm(), place, json!({key: "yarn", "factor": 4.0}));
                let error = parse(&config).unwrap_err().to_string();
                assert_eq!(error, "RoPE scaling \"yarn\" is not supported yet");
            }
        }
    }

    #[test]
    fn rope_ratio_multiplies_the_base_of_chatglm() {
        assert_eq!(parse(&chatglm()).unwrap().rope_theta, 1e4);
        assert_eq!(parse(&with(chatglm(), "rope_ratio", json!(500))).unwrap().rope_theta, 5e6);
    }

    #[test]
    fn chatglm_without_shared_kv_has_a_head_of_its_own_for_each_query() {
        let config = parse(&with(chatglm(), "multi_query_attention", json!(false))).unwrap();
        assert_eq!((config.kv_heads, config.qkv_layout), (4, QkvLayout::PerHead));
        let config = parse(&chatglm()).unwrap();
        assert_eq!((config.kv_heads, config.qkv_layout), (2, QkvLayout::Stacked));
        assert_eq!(config.eos_token_ids, [2]);
    }

    #[test]
    fn attention_bias_is_read_and_has_the_default_of_its_class() {
        let glm4 = with(glm(), "model_type", json!("glm4"));
        assert!(parse(&glm4).unwrap().qkv_bias);
        assert!(!parse(&with(glm4.clone(), "attention_bias", json!(false))).unwrap().qkv_bias);
        assert!(!parse(&without(glm4.clone(), "attention_bias")).unwrap().qkv_bias);
        assert!(parse(&without(glm(), "attention_bias")).unwrap().qkv_bias);
        assert_eq!(parse(&glm4).unwrap().family, Family::Glm4);
    }

    #[test]
    fn models_that_would_be_computed_wrong_are_refused_by_name() {
        let cases = [
            (with(chatglm(), "position_encoding_2d", json!(true)), "position_encoding_2d"),
            (with(chatglm(), "vision_config", json!({})), "GLM-4V"),
            (with(glm(), "model_type", json!("glm4_moe")), "glm4_moe"),
            (with(glm(), "model_type", json!("llama")), "llama"),
            (with(glm(), "hidden_act", json!("gelu")), "gelu"),
            (with(glm(), "quantization_config", json!({"bits": 4})), "quantization_config"),
            (with(chatglm(), "quantization_bit", json!(4)), "quantization_bit"),
            (with(chatglm(), "rmsnorm", json!(false)), "rmsnorm"),
            (with(chatglm(), "add_bias_linear", json!(true)), "add_bias_linear"),
            (with(chatglm(), "original_rope", json!(false)), "original_rope"),
        ];
        for (config, name) in cases {
            let error = parse(&config).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("supported"), "{name}: {error}");
        }
    }

    #[test]
    fn each_missing_value_is_named() {
        for (config, keys) in [
            (
                glm(),
                &[
                    "hidden_size",
                    "num_hidden_layers",
                    "intermediate_size",
                    "num_attention_heads",
                    "num_key_value_heads",
                    "head_dim",
                    "rms_norm_eps",
                    "vocab_size",
                    "max_position_embeddings",
                    "rope_theta",
                    "model_type",
                ][..],
            ),
            (
                chatglm(),
                &[
                    "num_layers",
                    "hidden_size",
                    "ffn_hidden_size",
                    "num_attention_heads",
                    "multi_query_group_num",
                    "layernorm_epsilon",
                    "padded_vocab_size",
                    "seq_length",
                ],
            ),
        ] {
            for &key in keys {
                let error = parse(&without(config.clone(), key)).unwrap_err();
                assert_eq!(error.to_string(), format!("config.json has no {key}"));
                let error = parse(&with(config.clone(), key, json!({}))).unwrap_err().to_string();
                assert!(error.starts_with(&format!("config.json has {key} = {{}}, ")), "{error}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for config in [
            with(glm(), "num_key_value_heads", json!(3)),
            with(glm(), "partial_rotary_factor", json!(2.0)),
            with(glm(), "partial_rotary_factor", json!(0.2)),
            with(chatglm(), "num_hidden_layers", json!(4)),
        ] {
            assert!(matches!(parse(&config), Err(ConfigError::Contradiction(_))), "{config}");
        }
        for config in [with(glm(), "hidden_size", json!(0)), with(glm(), "vocab_size", json!(1e9))]
        {
            assert!(matches!(parse(&config), Err(ConfigError::Value { .. })), "{config}");
        }
        assert!(matches!(Config::parse("[1]"), Err(ConfigError::Json(_))));
        assert!(matches!(Config::parse("{"), Err(ConfigError::Json(_))));
    }

    #[test]
    fn parameters_are_counted_as_published() {
        let big = json!({
            "model_type": "glm", "hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 13696,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "rms_norm_eps": 1.5625e-07,
            "vocab_size": 151552, "max_position_embeddings": 131072, "rope_theta": 5e6, "attention_bias": true
        });
        let config = parse(&big).unwrap();
        assert_eq!(config.parameters(), 9_399_951_360);
        assert_eq!(config.kv_bytes_per_token(2), 40 << 10);
    }
}
