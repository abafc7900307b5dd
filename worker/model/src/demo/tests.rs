use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::gguf;

const SHARED: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures/smollm2-135m-glm");

/// The real GGUF file: named by GLINT_DEMO_GGUF, or where `glint up` keeps it.
fn gguf_file() -> Option<PathBuf> {
    let named = std::env::var_os("GLINT_DEMO_GGUF").map(PathBuf::from);
    let path = named.or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty());
        let cache = cache
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
        Some(cache?.join("glint/downloads/SmolLM2-135M-Instruct.Q4_1.gguf"))
    });
    let found = path.filter(|path| path.exists());
    if found.is_none() {
        assert!(!required("GLINT_REQUIRE_DEMO"), "the demo model's GGUF is missing");
        eprintln!("skipped: the demo model's GGUF is not here, `glint up` fetches it");
    }
    found
}

/// A file of the reference data, if it lies beside the repository.
fn reference(name: &str) -> Option<Value> {
    match fs::read(Path::new(SHARED).join(name)) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(error) => {
            assert!(!required("GLINT_REQUIRE_SHARED"), "{SHARED}/{name}: {error}");
            eprintln!("skipped: {name} of the reference data is not beside the repository");
            None
        }
    }
}

fn required(switch: &str) -> bool {
    std::env::var(switch).is_ok_and(|value| value == "1")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_tensor_of_the_real_file_has_the_numbers_of_the_reference() {
    let (Some(path), Some(hashes)) = (gguf_file(), reference("gguf_dequant_hashes.json")) else {
        return;
    };
    let gguf = Gguf::open(&path).unwrap();
    let expected = hashes["tensors"].as_object().unwrap();
    assert_eq!(gguf.tensors().count(), expected.len());
    for (name, tensor) in gguf.tensors() {
        let numbers = gguf.read(name).unwrap();
        assert_eq!(numbers.len(), tensor.len());
        assert_eq!(serde_json::json!(tensor.shape), expected[name]["shape"], "{name}");
        let hash = sha256(bytemuck::cast_slice(&numbers));
        assert_eq!(hash, expected[name]["sha256_f32le"], "{name}");
    }
}

#[test]
fn the_real_file_becomes_the_checkpoint_of_the_reference() {
    let Some(path) = gguf_file() else { return };
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("demo");
    let mut last = (0, 0);
    convert(&path, &folder, &mut |done, total| {
        assert!(last.0 <= done && done <= total);
        last = (done, total);
    })
    .unwrap();
    assert_eq!(last, (269_030_016, 269_030_016));
    let weights = fs::read(folder.join("model.safetensors")).unwrap();
    assert_eq!(
        sha256(&weights),
        "359e323985271b31583b72d8f194528e130da49d991b15baf905ae9a1e8122f2"
    );
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    {
        let written: Value = serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap();
        if let Some(mut expected) = reference(name) {
            if name == "generation_config.json" {
                let ours = json!({"do_sample": true, "temperature": 0.2, "top_p": 0.9});
                let ours = ours.as_object().unwrap().clone();
                expected.as_object_mut().unwrap().extend(ours);
            }
            assert!(written == expected, "{name} is not that of the reference");
        }
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing else is left");
}

/// A Llama of one layer: hidden 4, two heads, one KV head, feed-forward 3, five tokens. Tensor `i` has the numbers i, i + 1, …
fn small(change: impl FnOnce(&mut Vec<(&str, Vec<u8>)>, &mut Vec<(&str, Vec<u64>)>)) -> Vec<u8> {
    let number = |value: u32| [&4_u32.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let float = |value: f32| [&6_u32.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let text = gguf::text_value;
    let array = |kind: u32, items: &[Vec<u8>]| {
        let head = [9_u32.to_le_bytes(), kind.to_le_bytes()].concat();
        [&head[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
    };
    let texts = |items: &[&str]| {
        // An item of an array has no type of its own.
        array(8, &items.iter().map(|item| text(item)[4..].to_vec()).collect::<Vec<_>>())
    };
    let types = [3, 3, 1, 1, 1].map(|kind: i32| kind.to_le_bytes().to_vec());
    let mut pairs = vec![
        ("general.architecture", text("llama")),
        ("llama.block_count", number(1)),
        ("llama.context_length", number(64)),
        ("llama.embedding_length", number(4)),
        ("llama.feed_forward_length", number(3)),
        ("llama.attention.head_count", number(2)),
        ("llama.attention.head_count_kv", number(1)),
        ("llama.rope.freq_base", float(1e5)),
        ("llama.attention.layer_norm_rms_epsilon", float(1e-5)),
        ("llama.vocab_size", number(5)),
        ("llama.rope.dimension_count", number(2)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", texts(&["<a>", "<z>", "x", "y", "xy"])),
        ("tokenizer.ggml.token_type", array(5, &types)),
        ("tokenizer.ggml.merges", texts(&["x y"])),
        ("tokenizer.ggml.bos_token_id", number(0)),
        ("tokenizer.ggml.eos_token_id", number(1)),
        ("tokenizer.ggml.padding_token_id", number(1)),
        ("tokenizer.ggml.unknown_token_id", number(0)),
        ("tokenizer.chat_template", text("{{ messages }}")),
    ];
    let mut tensors = vec![
        ("token_embd.weight", vec![4, 5]),
        ("output_norm.weight", vec![4]),
        ("blk.0.attn_norm.weight", vec![4]),
        ("blk.0.attn_q.weight", vec![4, 4]),
        ("blk.0.attn_k.weight", vec![4, 2]),
        ("blk.0.attn_v.weight", vec![4, 2]),
        ("blk.0.attn_output.weight", vec![4, 4]),
        ("blk.0.ffn_norm.weight", vec![4]),
        ("blk.0.ffn_up.weight", vec![4, 3]),
        ("blk.0.ffn_gate.weight", vec![4, 3]),
        ("blk.0.ffn_down.weight", vec![3, 4]),
    ];
    change(&mut pairs, &mut tensors);
    let mut numbers = Vec::new();
    let places: Vec<(&str, &[u64], u32, u64)> = (0_usize..)
        .zip(&tensors)
        .map(|(first, (name, dimensions))| {
            let offset = numbers.len() as u64;
            let count: u64 = dimensions.iter().product();
            numbers.extend((0..count as usize).flat_map(|i| ((first + i) as f32).to_le_bytes()));
            (*name, dimensions.as_slice(), 0, offset)
        })
        .collect();
    let mut file = gguf::file_without_numbers(&pairs, &places);
    file.extend(numbers);
    file
}

fn convert_bytes(bytes: &[u8], folder: &Path) -> Result<(), ConvertError> {
    let path = folder.with_file_name("model.gguf");
    fs::write(&path, bytes).unwrap();
    convert(&path, folder, &mut |_, _| {})
}

#[test]
fn tensors_are_renamed_and_gate_lies_above_up() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("demo");
    // What a killed conversion leaves is no obstacle.
    fs::create_dir(home.path().join(".demo.part")).unwrap();
    fs::write(home.path().join(".demo.part/model.safetensors"), "half").unwrap();
    convert_bytes(&small(|_, _| {}), &folder).unwrap();

    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| {
        let tensor = tensors.tensor(name).unwrap();
        let values = tensor.data().chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]));
        (tensor.shape().to_vec(), values.map(bf16::to_f32).collect::<Vec<_>>())
    };
    let run = |first: usize, len: usize| (first..first + len).map(|i| i as f32).collect::<Vec<_>>();
    assert_eq!(tensors.len(), 10);
    assert_eq!(numbers("model.embed_tokens.weight"), (vec![5, 4], run(0, 20)));
    assert_eq!(numbers("model.layers.0.self_attn.k_proj.weight"), (vec![2, 4], run(4, 8)));
    let gate_up = [run(9, 12), run(8, 12)].concat();
    assert_eq!(numbers("model.layers.0.mlp.gate_up_proj.weight"), (vec![6, 4], gate_up));
    assert_eq!(numbers("model.layers.0.mlp.down_proj.weight"), (vec![4, 3], run(10, 12)));

    let json = |name: &str| {
        serde_json::from_slice::<Value>(&fs::read(folder.join(name)).unwrap()).unwrap()
    };
    assert_eq!(json("config.json")["rms_norm_eps"], 1e-5);
    assert_eq!(json("tokenizer.json")["model"]["merges"], serde_json::json!([["x", "y"]]));
    assert_eq!(json("tokenizer_config.json")["eos_token"], "<z>");

    // The second conversion sees that there is nothing to do, and does not even look at the file.
    convert_bytes(b"garbage", &folder).unwrap();
}

#[test]
fn another_model_is_refused_in_one_sentence_and_leaves_nothing() {
    type Change = fn(&mut Vec<(&str, Vec<u8>)>, &mut Vec<(&str, Vec<u64>)>);
    let cases: [(Change, &str); 8] = [
        (|pairs, _| pairs[0].1 = gguf::text_value("qwen2"), "general.architecture = \"qwen2\""),
        (|pairs, _| drop(pairs.remove(5)), "has no key llama.attention.head_count"),
        (
            |pairs, _| pairs[5].1 = gguf::text_value("2"),
            "llama.attention.head_count that is no size",
        ),
        (|pairs, _| pairs[5].1[4] = 3, "3 heads"),
        (|pairs, _| pairs[9].1[4] = 6, "5 tokens for a vocabulary of 6"),
        (|pairs, _| pairs[17].1[4] = 5, "eos_token_id = 5"),
        (|_, tensors| tensors[3].1[1] = 3, "blk.0.attn_q.weight has the shape [3, 4]"),
        (|_, tensors| tensors.push(("output.weight", vec![4, 5])), "has 12 tensors"),
    ];
    for (change, words) in cases {
        let home = tempfile::tempdir().unwrap();
        let error = convert_bytes(&small(change), &home.path().join("demo")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("model.gguf: ") && text.contains(words), "{words}: {text}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "{words}");
    }
}
