//! What is said about checkpoints, sound and broken?

use std::fs;
use std::path::{Path, PathBuf};

use glint_kernels::Compute;
use glint_model::{
    Checkpoint, CheckpointError, Inspection, LoadError, Plan, RankOptions, RankWeights,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixtures::{MODELS, tiny};
use crate::random::{self, Shape, Tensors};

const SHAPE: Shape =
    Shape { family: "glm", heads: 4, kv_heads: 2, head_dim: 16, ffn: 160, vocab: 96, tied: false };

fn sound() -> TempDir {
    changed(&mut |_| {})
}

fn changed(change: &mut dyn FnMut(&mut Tensors)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    random::write_tensors(folder.path(), SHAPE, change);
    folder
}

fn edit_config(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

fn refusal(folder: &Path) -> String {
    let error = Checkpoint::open(folder).expect_err("this is broken").to_string();
    assert!(!error.contains('\n') && !error.ends_with('.'), "one sentence: {error}");
    error
}

/// Splits `model.safetensors` into two files and writes the index.
fn split(folder: &Path) {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for part in [0, 1] {
        let name = format!("model-0000{}-of-00002.safetensors", part + 1);
        let views: Vec<_> =
            all.tensors().into_iter().filter(|(name, _)| name.len() % 2 == part).collect();
        for (tensor, _) in &views {
            map.insert(tensor.clone(), json!(name));
        }
        safetensors::serialize_to_file(views, None, &folder.join(name)).unwrap();
    }
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

#[test]
fn every_tiny_text_model_opens() {
    for model in MODELS.into_iter().chain(["glm-tiny-sharded"]) {
        if let Some(folder) = tiny(model) {
            Checkpoint::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn models_that_are_not_computed_here_are_refused_by_name() {
    let models = [
        ("chatglm-6b-v1-tiny", "first ChatGLM-6B"),
        ("glm4v-9b-tiny", "GLM-4V"),
        ("glm4-moe-tiny", "mixture of experts"),
        ("glm4-moe-qknorm-tiny", "mixture of experts"),
    ];
    for (model, name) in models {
        if let Some(folder) = crate::fixtures::shared(&format!("tiny/{model}")) {
            let refusal = refusal(&folder);
            assert!(refusal.contains(name) && refusal.contains("not supported"), "{refusal}");
        }
    }
}

#[test]
fn a_path_that_is_no_checkpoint_is_named() {
    assert!(refusal(Path::new("/no/such/folder")).starts_with("/no/such/folder is no folder"));
    let folder = sound();
    let file = folder.path().join("model.safetensors");
    assert!(refusal(&file).contains("model.safetensors is no folder"));
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(empty.path()).contains("there is no config.json"));
    fs::remove_file(&file).unwrap();
    assert!(refusal(folder.path()).contains("has no weights"));
    fs::create_dir(&file).unwrap();
    assert!(refusal(folder.path()).contains("model.safetensors is no safetensors file"));
}

#[test]
fn pickled_weights_are_refused() {
    let folder = sound();
    fs::rename(
        folder.path().join("model.safetensors"),
        folder.path().join("pytorch_model-00001-of-00007.bin"),
    )
    .unwrap();
    let refusal = refusal(folder.path());
    assert!(refusal.contains("pytorch_model-00001-of-00007.bin"), "{refusal}");
    assert!(refusal.contains("convert them to safetensors"), "{refusal}");
}

#[test]
fn a_file_that_is_cut_off_is_named_with_the_first_tensor_that_is_not_whole() {
    let folder = sound();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for keep in (0..bytes.len()).step_by(bytes.len() / 40) {
        fs::write(&path, &bytes[..keep]).unwrap();
        let refusal = refusal(folder.path());
        assert!(refusal.contains("model.safetensors is"), "{refusal}");
        if keep > 10_000 {
            let needle = format!("is cut off: it has {keep} bytes, tensor ");
            assert!(refusal.contains(&needle), "{refusal}");
        }
    }
}

#[test]
fn a_missing_tensor_is_named() {
    for (tensor, in_config) in [
        ("model.layers.1.mlp.down_proj.weight", "down_proj"),
        ("model.layers.0.self_attn.k_proj.bias", "k_proj.bias"),
        ("lm_head.weight", "lm_head"),
    ] {
        let folder = changed(&mut |tensors| tensors.retain(|(name, ..)| name != tensor));
        let said = refusal(folder.path());
        assert!(said.contains(&format!("model.safetensors has no tensor {tensor}")), "{said}");
        assert!(said.contains(in_config), "{said}");
        split(folder.path());
        let said = refusal(folder.path());
        assert!(said.contains(&format!("index.json has no tensor {tensor}")), "{said}");
    }
}

#[test]
fn a_wrong_shape_is_named_with_both() {
    let folder = changed(&mut |tensors| {
        let (_, shape, _) = tensors
            .iter_mut()
            .find(|(name, ..)| name == "model.layers.0.self_attn.q_proj.weight")
            .unwrap();
        *shape = vec![72, 64];
    });
    let said = refusal(folder.path());
    let tail = "tensor model.layers.0.self_attn.q_proj.weight has shape [72, 64], by config.json it is [64, 72]";
    assert!(said.contains("model.safetensors") && said.ends_with(tail), "{said}");
}

#[test]
fn a_type_that_is_not_read_is_named() {
    let folder = sound();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\"F32\"").unwrap();
    let edited = [&bytes[..at], b"\"I32\"", &bytes[at + 5..]].concat();
    fs::write(&path, edited).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("has type I32, only F32, F16 and BF16 are read"), "{said}");
}

#[test]
fn a_config_that_contradicts_the_weights_is_found() {
    let cases: [(&str, Value, &str); 10] = [
        ("num_hidden_layers", json!(1 << 24), "has no tensor model.layers.16777215."),
        ("intermediate_size", json!(176), "176"),
        ("num_hidden_layers", json!(3), "has no tensor model.layers.2."),
        ("num_hidden_layers", json!(1), "has a tensor model.layers.1."),
        ("attention_bias", json!(false), "proj.bias"),
        ("tie_word_embeddings", json!(true), ""),
        ("vocab_size", json!(95), "embed_tokens"),
        ("num_key_value_heads", json!(4), "k_proj"),
        ("hidden_size", json!(64), "embed_tokens"),
        ("model_type", json!("glm4"), "post_self_attn_layernorm"),
    ];
    for (key, value, needle) in cases {
        let folder = sound();
        edit_config(folder.path(), |config| config[key] = value.clone());
        // A tied model may come with a copy of its embedding; that is the one contradiction that harms nobody.
        if key == "tie_word_embeddings" {
            assert!(Checkpoint::open(folder.path()).is_ok());
            continue;
        }
        let said = refusal(folder.path());
        assert!(said.contains(needle) && said.contains("config.json"), "{key}: {said}");
    }
    let folder = sound();
    fs::write(folder.path().join("config.json"), b"\xff\xfe").unwrap();
    assert!(refusal(folder.path()).contains("cannot read config.json"));
}

#[test]
fn an_index_is_checked() {
    let folder = sound();
    split(folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.digest_files().len(), 3);
    let index = folder.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();

    let second = folder.path().join("model-00002-of-00002.safetensors");
    let bytes = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("cannot read") && said.contains("model-00002-of-00002"), "{said}");
    fs::write(&second, &bytes[..bytes.len() - 4]).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("model-00002-of-00002.safetensors is cut off"), "{said}");
    fs::write(&second, bytes).unwrap();

    for outside in ["../model.safetensors", "/etc/passwd", "", "..", "a/b"] {
        let broken = text.replace("model-00001-of-00002.safetensors", outside);
        fs::write(&index, broken).unwrap();
        let said = refusal(folder.path());
        assert!(said.contains("is not in a file of this folder"), "{said}");
    }
    fs::write(&index, text.replace("00001-of", "00002-of")).unwrap();
    assert!(refusal(folder.path()).contains("model-00002-of-00002.safetensors has no tensor"));
    for broken in ["{", "[]", "{}", r#"{"weight_map": 3}"#] {
        fs::write(&index, broken).unwrap();
        assert!(refusal(folder.path()).contains("is no index of weights"), "{broken}");
    }
}

#[test]
fn each_rank_reads_its_shard_and_says_how_far_it_is() {
    let folder = sound();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let plan = Plan::of(&checkpoint, 4).unwrap();
    let (mut ranks_bytes, mut held) = (0, 0);
    for rank in 0..4 {
        let options = RankOptions { rank, world_size: 4, compute: Compute::F32 };
        let mut told = Vec::new();
        let weights =
            RankWeights::load(&checkpoint, options, &mut |progress| told.push(progress)).unwrap();
        let total = plan.ranks[rank as usize].read_bytes;
        assert!(told.windows(2).all(|pair| pair[0].read_bytes < pair[1].read_bytes));
        assert!(told.iter().all(|progress| progress.total_bytes == total));
        // What comes behind the last matrix is the last norm.
        assert!(total - told.last().unwrap().read_bytes <= 72 * 4);
        ranks_bytes += total;
        held += weights.bytes();
    }
    let Inspection { weight_bytes, .. } = Inspection::of(&checkpoint).unwrap();
    assert!(ranks_bytes > weight_bytes, "norms and KV heads are held more than once");
    assert!(
        ranks_bytes < weight_bytes * 5 / 4,
        "but nothing else: {ranks_bytes} of {weight_bytes}"
    );
    assert!(held > 0);
}

#[test]
fn what_is_missing_when_loading_is_said() {
    let folder = sound();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let load = |rank, world_size| {
        let options = RankOptions { rank, world_size, compute: Compute::Bf16 };
        RankWeights::load(&checkpoint, options, &mut |_| {}).map(|_| ()).unwrap_err()
    };
    assert!(matches!(load(0, 3), LoadError::WorldSize(_)));
    assert_eq!(load(2, 2).to_string(), "rank 2 does not exist in a group of 2");
    // Cut off after it was opened: positioned reads fail, a mapping would kill the process.
    let path = folder.path().join("model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(path.metadata().unwrap().len() / 2).unwrap();
    let error = load(0, 1);
    assert!(matches!(error, LoadError::Checkpoint(CheckpointError::Read { .. })), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn inspection_and_plan_read_like_this() {
    let folder = sound();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let text = Inspection::of(&checkpoint).unwrap().to_string();
    for line in [
        "architecture   glm",
        "attention      4 heads of 16 in 2 KV groups, with bias",
        "KV per token   256 B (bf16), 512 B (f32)",
        "world sizes    1, 2, 4",
    ] {
        assert!(text.lines().any(|said| said == line), "{line} in\n{text}");
    }
    assert!(text.contains("in 1 file (f32)"), "{text}");
    let text = Plan::of(&checkpoint, 4).unwrap().to_string();
    assert!(text.contains("KV heads are replicated: each is held by 2 ranks"), "{text}");
    assert!(text.contains("1 (as ranks 2-3)"), "{text}");
    let text = Plan::of(&checkpoint, 2).unwrap().to_string();
    assert!(!text.contains("replicated") && text.contains("0-1"), "{text}");
    let refused = Plan::of(&checkpoint, 3).unwrap_err().to_string();
    assert!(refused.ends_with("use one of 1, 2, 4"), "{refused}");
}

/// Opens, looks at and loads a folder; whatever is in it, an answer comes.
fn survive(folder: &Path) {
    if let Ok(checkpoint) = Checkpoint::open(folder) {
        let _ = Inspection::of(&checkpoint);
        let _ = Plan::of(&checkpoint, 2);
        let options = RankOptions { rank: 1, world_size: 2, compute: Compute::F32 };
        let _ = RankWeights::load(&checkpoint, options, &mut |_| {});
    }
}

fn small() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    random::write(folder.path(), Shape { ffn: 16, vocab: 16, head_dim: 4, ..SHAPE });
    let path = folder.path().join("model.safetensors");
    (folder, path)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_is_refused_and_never_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..300)) {
        let (folder, path) = small();
        fs::write(&path, &garbage).unwrap();
        survive(folder.path());
        let length = [&(garbage.len() as u64).to_le_bytes()[..], &garbage].concat();
        fs::write(&path, length).unwrap();
        survive(folder.path());
        fs::remove_file(&path).unwrap();
        fs::write(folder.path().join("model.safetensors.index.json"), &garbage).unwrap();
        survive(folder.path());
    }

    #[test]
    fn a_header_with_wrong_characters_is_never_a_panic(
        edits in prop::collection::vec((0usize..2000, prop::sample::select(&b"0123456789-[]{},:\"eF\0"[..])), 1..6),
    ) {
        let (folder, path) = small();
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        fs::write(&path, bytes).unwrap();
        survive(folder.path());
    }

    #[test]
    fn a_config_with_any_number_is_never_a_panic(
        key in 0usize..20,
        value in prop_oneof![
            any::<u64>().prop_map(Value::from), (0u64..200).prop_map(Value::from),
            any::<f64>().prop_map(Value::from), Just(json!(null)), Just(json!("x")), Just(json!([1])),
        ],
    ) {
        let (folder, _) = small();
        edit_config(folder.path(), |config| {
            let config = config.as_object_mut().unwrap();
            let key = config.keys().nth(key % config.len()).unwrap().clone();
            config.insert(key, value.clone());
        });
        survive(folder.path());
    }
}
