//! What does a user see who names a broken checkpoint?

use std::{fs, path::Path};

use crate::support::glint_output;

const GOOD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny/glm4-0414-tiny-bf16");

/// Copies the good checkpoint, lets `damage` at it, and returns what each command says about it.
fn complaints(damage: impl Fn(&Path)) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(GOOD).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    damage(folder.path());
    let path = folder.path().to_str().unwrap();
    let commands: [&[&str]; 3] = [
        &["model", "inspect", path],
        &["model", "plan", path, "--world-size=2"],
        &["up", "--port=0", "--model", path, "--world-size=1"],
    ];
    commands.iter().map(|command| complaint(command)).collect()
}

/// Returns the one sentence by which a command fails.
fn complaint(command: &[&str]) -> String {
    let output = glint_output(command);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{command:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    lines[0].to_owned()
}

#[test]
fn a_good_checkpoint_is_described() {
    let text = |arguments: &[&str]| {
        let output = glint_output(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let inspect = text(&["model", "inspect", GOOD]);
    assert!(inspect.contains("glm4") && inspect.contains("KV"), "{inspect}");
    let plan = text(&["model", "plan", GOOD, "--world-size=4"]);
    assert!(plan.contains("replicated"), "{plan}");
}

#[test]
fn a_path_that_is_none_is_named() {
    for complaint in [
        complaint(&["model", "inspect", "/no/such/folder"]),
        complaint(&["up", "--port=0", "--model=/no/such/folder"]),
    ] {
        assert!(complaint.contains("/no/such/folder"), "{complaint}");
    }
}

#[test]
fn a_truncated_file_is_named() {
    let said = complaints(|folder| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    for said in said {
        assert!(said.contains("model.safetensors"), "{said}");
    }
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    let old = "\"model.layers.1.mlp.down_proj.weight\"";
    let new = "\"model.layers.1.mlp.down_proj.wEight\"";
    let said = complaints(|folder| edit(&folder.join("model.safetensors"), old, new));
    for said in said {
        assert!(said.contains("model.layers.1.mlp.down_proj.weight"), "{said}");
        assert!(said.contains("model.safetensors"), "{said}");
    }
    let said = complaints(|folder| {
        edit(
            &folder.join("config.json"),
            "\"intermediate_size\": 160",
            "\"intermediate_size\": 176",
        );
    });
    for said in said {
        assert!(said.contains("mlp.") && said.contains("176"), "{said}");
    }
}

#[test]
fn a_config_that_is_no_json_or_another_model_is_named() {
    let said = complaints(|folder| fs::write(folder.join("config.json"), "{").unwrap());
    for said in said {
        assert!(said.contains("config.json"), "{said}");
    }
    let said = complaints(|folder| {
        fs::write(folder.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    });
    for said in said {
        assert!(said.contains("llama"), "{said}");
    }
}

#[test]
fn a_world_size_that_splits_heads_is_refused_with_those_that_would_do() {
    for command in [
        ["model", "plan", GOOD, "--world-size=3", "", ""],
        ["up", "--port=0", "--model", GOOD, "--world-size=3", ""],
    ] {
        let command: Vec<&str> = command.into_iter().filter(|word| !word.is_empty()).collect();
        let said = complaint(&command);
        assert!(said.contains("1, 2, 4"), "{said}");
    }
}

/// Replaces text of equal length in a binary file, or any text in a text file.
fn edit(path: &Path, old: &str, new: &str) {
    let bytes = fs::read(path).unwrap();
    let at = bytes.windows(old.len()).position(|window| window == old.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{old} is not in {}", path.display()));
    let edited = [&bytes[..at], new.as_bytes(), &bytes[at + old.len()..]].concat();
    fs::write(path, edited).unwrap();
}
