//! Checkpoints of random models, of whatever shape a test wants.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

/// A model to be made up.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) family: &'static str,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) vocab: usize,
    pub(crate) tied: bool,
}

const HIDDEN: usize = 72;
const LAYERS: usize = 2;

pub(crate) type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Writes a checkpoint whose weights depend on nothing but its shape.
pub(crate) fn write(folder: &Path, shape: Shape) {
    write_tensors(folder, shape, &mut |_| {});
}

/// The same, after something was done to the tensors.
pub(crate) fn write_tensors(folder: &Path, shape: Shape, change: &mut dyn FnMut(&mut Tensors)) {
    std::fs::write(folder.join("config.json"), config(shape).to_string()).unwrap();
    let mut tensors = tensors(shape);
    change(&mut tensors);
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, numbers)| numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

fn config(shape: Shape) -> Value {
    let Shape { family, heads, kv_heads, head_dim, ffn, vocab, tied } = shape;
    match family {
        "chatglm" => json!({
            "model_type": family, "num_layers": LAYERS, "hidden_size": HIDDEN,
            "ffn_hidden_size": ffn, "num_attention_heads": heads, "kv_channels": head_dim,
            "multi_query_attention": kv_heads != heads, "multi_query_group_num": kv_heads,
            "layernorm_epsilon": 1e-5, "padded_vocab_size": vocab, "seq_length": 2048,
            "add_qkv_bias": true, "tie_word_embeddings": tied
        }),
        _ => json!({
            "model_type": family, "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
            "intermediate_size": ffn, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim, "rms_norm_eps": 1e-5,
            "vocab_size": vocab, "max_position_embeddings": 2048, "attention_bias": true,
            "tie_word_embeddings": tied,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
        }),
    }
}

fn tensors(shape: Shape) -> Tensors {
    let Shape { family, heads, kv_heads, head_dim, ffn, vocab, tied } = shape;
    let (q, kv) = (heads * head_dim, kv_heads * head_dim);
    let mut all: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
    let thudm = family == "chatglm";
    let [embedding, head, norm, layers] = match thudm {
        true => [
            "transformer.embedding.word_embeddings",
            "transformer.output_layer",
            "transformer.encoder.final_layernorm",
            "transformer.encoder.layers",
        ],
        false => ["model.embed_tokens", "lm_head", "model.norm", "model.layers"],
    };
    add(format!("{embedding}.weight"), &[vocab, HIDDEN]);
    add(format!("{norm}.weight"), &[HIDDEN]);
    if !tied {
        add(format!("{head}.weight"), &[vocab, HIDDEN]);
    }
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| add(format!("{layers}.{layer}.{name}"), shape);
        add("input_layernorm.weight", &[HIDDEN]);
        add("post_attention_layernorm.weight", &[HIDDEN]);
        if family == "glm4" {
            add("post_self_attn_layernorm.weight", &[HIDDEN]);
            add("post_mlp_layernorm.weight", &[HIDDEN]);
        }
        if thudm {
            add("self_attention.query_key_value.weight", &[q + 2 * kv, HIDDEN]);
            add("self_attention.query_key_value.bias", &[q + 2 * kv]);
            add("self_attention.dense.weight", &[HIDDEN, q]);
            add("mlp.dense_h_to_4h.weight", &[2 * ffn, HIDDEN]);
            add("mlp.dense_4h_to_h.weight", &[HIDDEN, ffn]);
        } else {
            for (part, rows) in [("q", q), ("k", kv), ("v", kv)] {
                add(&format!("self_attn.{part}_proj.weight"), &[rows, HIDDEN]);
                add(&format!("self_attn.{part}_proj.bias"), &[rows]);
            }
            add("self_attn.o_proj.weight", &[HIDDEN, q]);
            add("mlp.gate_up_proj.weight", &[2 * ffn, HIDDEN]);
            add("mlp.down_proj.weight", &[HIDDEN, ffn]);
        }
    }
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    all.into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            // Activations keep their size and logits spread: gaps between tokens are far above rounding.
            let (centre, width) = match (name.contains("norm"), shape.as_slice()) {
                (true, _) => (1.0, 0.3),
                (false, [_, cols]) if name.contains("layers") => (0.0, 3.0 / (*cols as f32).sqrt()),
                _ => (0.0, 1.0),
            };
            let numbers = (0..count).map(|_| centre + width * random.next()).collect();
            (name, shape, numbers)
        })
        .collect()
}

/// Tokens that depend on `seed` alone.
pub(crate) fn tokens(seed: u64, len: usize, vocab: usize) -> Vec<u32> {
    let mut random = Random(seed.wrapping_mul(0xD129_0D3B_5BF4_1A75) | 1);
    (0..len).map(|_| ((random.next() + 1.0) / 2.0 * (vocab - 1) as f32) as u32).collect()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    /// Returns a number in −1..1.
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32;
        word / (1u64 << 23) as f32 - 1.0
    }
}
