//! Weights that make a random model pleasant to look at.
//!
//! All are uniform random numbers, scaled so that logits spread by about 2, a little less than those of real models. Only
//! one thing is arranged. Dimension 0 of the residual stream carries a constant: each embedding begins with it, and the
//! norms around attention and feed-forward part have weight 0 there, so no layer sees it or adds to it. The first column
//! of the output head thereby acts as a bias per token. It makes lowercase letters and spaces likely and bytes that are
//! no text, as well as the tokens that end an answer, so unlikely that they do not come without being asked for.

use glint_core::draw;
use half::bf16;

use super::{FFN, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCABULARY};
use crate::write;

/// What dimension 0 of the residual stream carries: about twice what the others have after the last layer.
const CONSTANT: f32 = 6.0;

/// How the numbers of a tensor are made.
#[derive(Clone, Copy)]
enum Fill {
    /// Uniform with this standard deviation.
    Spread(f32),
    /// Uniform around 1, as trained norms are.
    Norm,
    /// As [`Fill::Norm`], and keeps a layer away from dimension 0.
    LayerNorm,
    /// [`Fill::Spread`] of 1 after the constant.
    Embedding,
    /// [`Fill::Spread`] after the token's bias.
    Head(f32),
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    fill: Fill,
}

/// Returns `model.safetensors`, all of it bf16.
pub(super) fn safetensors() -> Vec<u8> {
    let tensors = tensors();
    let shapes = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()));
    let mut file = write::bf16_header(shapes);
    for (seed, tensor) in (0..).zip(&tensors) {
        for value in values(seed, tensor) {
            file.extend(bf16::from_f32(value).to_le_bytes());
        }
    }
    file
}

fn tensors() -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize], fill| {
        tensors.push(Tensor { name, shape: shape.to_vec(), fill });
    };
    // Inputs have a standard deviation of 1 behind every norm; `gain` is that of the product.
    let product = |gain: f32, columns: usize| Fill::Spread(gain / (columns as f32).sqrt());

    add("model.embed_tokens.weight".to_owned(), &[VOCABULARY, HIDDEN], Fill::Embedding);
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        add(name("input_layernorm.weight"), &[HIDDEN], Fill::LayerNorm);
        // Queries and keys are large, so that attention looks at few tokens and the answer depends on the prompt.
        for (part, heads, gain) in [("q", HEADS, 2.0), ("k", KV_HEADS, 2.0), ("v", KV_HEADS, 1.0)] {
            let rows = heads * HEAD_DIM;
            add(
                name(&format!("self_attn.{part}_proj.weight")),
                &[rows, HIDDEN],
                product(gain, HIDDEN),
            );
            add(name(&format!("self_attn.{part}_proj.bias")), &[rows], Fill::Spread(0.2));
        }
        let heads = HEADS * HEAD_DIM;
        add(name("self_attn.o_proj.weight"), &[HIDDEN, heads], product(1.0, heads));
        add(name("post_self_attn_layernorm.weight"), &[HIDDEN], Fill::LayerNorm);
        add(name("post_attention_layernorm.weight"), &[HIDDEN], Fill::LayerNorm);
        add(name("mlp.gate_up_proj.weight"), &[2 * FFN, HIDDEN], product(1.5, HIDDEN));
        add(name("mlp.down_proj.weight"), &[HIDDEN, FFN], product(1.0, FFN));
        add(name("post_mlp_layernorm.weight"), &[HIDDEN], Fill::LayerNorm);
    }
    add("model.norm.weight".to_owned(), &[HIDDEN], Fill::Norm);
    add(
        "lm_head.weight".to_owned(),
        &[VOCABULARY, HIDDEN],
        Fill::Head(2.2 / (HIDDEN as f32).sqrt()),
    );
    tensors
}

/// The numbers of a tensor, row by row.
fn values(seed: u64, tensor: &Tensor) -> Vec<f32> {
    let columns = *tensor.shape.last().expect("no tensor is a scalar");
    let rows = tensor.shape.iter().product::<usize>() / columns;
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let uniform = draw::uniform(draw::word(seed, row as u32, column as u32));
            // From -√3 to √3: a standard deviation of 1.
            let unit = (2.0 * uniform - 1.0) * 1.732_050_8;
            values.push(match tensor.fill {
                Fill::LayerNorm if column == 0 => 0.0,
                Fill::Embedding if column == 0 => CONSTANT,
                Fill::Head(_) if column == 0 => bias(row) / 2.0,
                Fill::Norm | Fill::LayerNorm => 1.0 + 0.1 * unit,
                Fill::Embedding => unit,
                Fill::Spread(deviation) | Fill::Head(deviation) => deviation * unit,
            });
        }
    }
    values
}

/// What is added to a token's logit, roughly.
fn bias(token: usize) -> f32 {
    match u8::try_from(token) {
        Ok(b' ') => 2.0,
        Ok(b'a'..=b'z') => 0.0,
        Ok(b'\n' | b'!'..=b'~') => -5.0,
        Ok(_) | Err(_) => -20.0,
    }
}
