//! How does a Llama in a GGUF file become a GLM checkpoint?
//!
//! The demo model is SmolLM2-135M-Instruct. Its formula is that of GLM-4 with other numbers: RoPE over whole heads, three KV
//! groups, an output head tied to the embedding. The one difference that matters is the order of the dimensions that RoPE
//! pairs, and llama.cpp has already brought the query and key rows of Llamas into interleaved pairs, GLM's order. So
//! tensors are renamed, gate and up are stacked, and nothing is permuted. Weights are stored in bf16.
//!
//! Text files come from the same GGUF: tokenizer, chat template and the ids that end an answer.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use half::bf16;

use crate::gguf::{Gguf, GgufError};
use crate::write::{self, WriteError};

mod facts;
mod text;

use facts::Facts;

/// Why there is no demo model.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The GGUF file is broken, or another model.
    #[error(transparent)]
    Source(#[from] GgufError),
    /// The checkpoint folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Converts the GGUF file of a small Llama with a GPT-2 tokenizer into the checkpoint folder `folder`, which appears whole or
/// not at all. A folder that is there already is left alone. `progress` is told bytes written and bytes to write.
///
/// It works in a folder of its own beside `folder`, always the same: one conversion at a time, the caller sees to it.
///
/// # Errors
///
/// [`ConvertError`] names the file and what is wrong with it.
pub fn convert(
    gguf: &Path,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ConvertError> {
    if folder.join("config.json").exists() {
        return Ok(());
    }
    let gguf = Gguf::open(gguf)?;
    let facts = Facts::of(&gguf)?;
    let tensors = tensors(&gguf, &facts)?;

    let mut name = std::ffi::OsString::from(".");
    name.push(folder.file_name().unwrap_or_default());
    name.push(".part");
    let part = folder.with_file_name(name);
    if part.exists() {
        // Left by a conversion that was killed.
        fs::remove_dir_all(&part).map_err(WriteError::at(&part))?;
    }
    fs::create_dir_all(&part).map_err(WriteError::at(&part))?;
    for (name, json) in [
        ("tokenizer.json", text::tokenizer(&facts)),
        ("tokenizer_config.json", text::tokenizer_config(&facts)),
        ("generation_config.json", text::generation_config(&facts)),
        ("config.json", text::config(&facts)),
    ] {
        write::bytes(&part.join(name), json.to_string().as_bytes())?;
    }
    write_weights(&gguf, &tensors, &part.join("model.safetensors"), progress)?;
    fs::rename(&part, folder).map_err(WriteError::at(folder))?;
    Ok(())
}

/// A tensor of the checkpoint: the rows of one or two of the GGUF.
struct Target {
    shape: Vec<usize>,
    sources: Vec<String>,
}

/// Returns the checkpoint's tensors by name, after a look at every shape.
fn tensors(gguf: &Gguf, facts: &Facts) -> Result<BTreeMap<String, Target>, GgufError> {
    let Facts { layers, hidden, ffn, heads, kv_heads, vocabulary, .. } = *facts;
    let kv = kv_heads * facts.head_dim();
    let queries = heads * facts.head_dim();
    let mut targets = BTreeMap::new();
    let mut taken = 0;
    let mut add = |name: String, sources: &[String], shape: &[usize]| {
        for source in sources {
            let mut expected = shape.to_vec();
            expected[0] /= sources.len();
            match gguf.tensor(source) {
                Some(tensor) if tensor.shape == expected => taken += 1,
                Some(tensor) => {
                    let found = &tensor.shape;
                    return Err(gguf.error(format!(
                        "tensor {source} has the shape {found:?}, its keys say {expected:?}"
                    )));
                }
                None => return Err(gguf.error(format!("has no tensor {source}"))),
            }
        }
        targets.insert(name, Target { shape: shape.to_vec(), sources: sources.to_vec() });
        Ok(())
    };
    let named = |name: &str| [name.to_owned()];
    add(
        "model.embed_tokens.weight".to_owned(),
        &named("token_embd.weight"),
        &[vocabulary, hidden],
    )?;
    add("model.norm.weight".to_owned(), &named("output_norm.weight"), &[hidden])?;
    for layer in 0..layers {
        let from = |part: &str| format!("blk.{layer}.{part}.weight");
        let mut add = |part: &str, sources: &[String], shape: &[usize]| {
            add(format!("model.layers.{layer}.{part}.weight"), sources, shape)
        };
        add("input_layernorm", &[from("attn_norm")], &[hidden])?;
        add("self_attn.q_proj", &[from("attn_q")], &[queries, hidden])?;
        add("self_attn.k_proj", &[from("attn_k")], &[kv, hidden])?;
        add("self_attn.v_proj", &[from("attn_v")], &[kv, hidden])?;
        add("self_attn.o_proj", &[from("attn_output")], &[hidden, queries])?;
        add("post_attention_layernorm", &[from("ffn_norm")], &[hidden])?;
        add("mlp.gate_up_proj", &[from("ffn_gate"), from("ffn_up")], &[2 * ffn, hidden])?;
        add("mlp.down_proj", &[from("ffn_down")], &[hidden, ffn])?;
    }
    let there = gguf.tensors().count();
    if taken != there {
        // An output head of its own, for example: left out, the model would be another one.
        return Err(gguf.error(format!("has {there} tensors, a Llama with tied head has {taken}")));
    }
    Ok(targets)
}

fn write_weights(
    gguf: &Gguf,
    tensors: &BTreeMap<String, Target>,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ConvertError> {
    let shapes = || tensors.iter().map(|(name, target)| (name.as_str(), target.shape.as_slice()));
    let numbers: usize = shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let total = (numbers * size_of::<bf16>()) as u64;
    let mut done = 0;
    progress(done, total);
    write::file(path, |out| {
        out.write_all(&write::bf16_header(shapes())).map_err(WriteError::at(path))?;
        for source in tensors.values().flat_map(|target| &target.sources) {
            let numbers: Vec<bf16> = gguf.read(source)?.into_iter().map(bf16::from_f32).collect();
            // Little-endian, as the format wants it, on every machine that Glint runs on.
            let bytes: &[u8] = bytemuck::cast_slice(&numbers);
            out.write_all(bytes).map_err(WriteError::at(path))?;
            done += bytes.len() as u64;
            progress(done, total);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
