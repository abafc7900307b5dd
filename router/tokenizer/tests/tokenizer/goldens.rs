//! Ids that tiktoken and Hugging Face's tokenizers give.

use std::path::Path;

use glint_tokenizer::{Prompt, Specials, Tokenizer};
use serde_json::Value;

use crate::shared::{Files, fixtures, ids, json, read};

/// Checks every case, and that its tokens give back its text.
fn check(tokenizer: &Tokenizer, golden: &Value, name: &str) {
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 200, "{name}: only {} cases", cases.len());
    for case in cases {
        let (key, text) = (&case["key"], case["text"].as_str().unwrap());
        let whole = tokenizer.encode(text).unwrap();
        assert_eq!(whole, ids(&case["ids"]), "{name} {key}: {text:?}");
        assert_eq!(tokenizer.decode(&whole, Specials::Keep), text, "{name} {key}, decoded");

        // Absent and not null: nobody computed it, so it is known only where no token is special.
        let ordinary = match case.get("ids_ordinary") {
            None if whole.iter().any(|id| tokenizer.is_special(*id)) => continue,
            None | Some(Value::Null) => &case["ids"],
            Some(ordinary) => ordinary,
        };
        assert_eq!(
            tokenizer.encode_ordinary(text).unwrap(),
            ids(ordinary),
            "{name} {key}, ordinary"
        );
        let untrusted = tokenizer.encode_prompt(&Prompt::untrusted(text)).unwrap();
        assert_eq!(untrusted, ids(ordinary), "{name} {key}, as an untrusted prompt");
        assert_eq!(
            tokenizer.decode(&untrusted, Specials::Skip),
            text,
            "{name} {key}, ordinary decoded"
        );
    }
}

fn tiktoken(folder: &Path) -> Tokenizer {
    Files::default()
        .with("tokenizer.model", read(&folder.join("tokenizer.model")))
        .with("tokenizer_config.json", read(&folder.join("tokenizer_config.json")))
        .tokenizer()
}

#[test]
fn a_tiktoken_model_and_its_tokenizer_json_give_the_golden_ids() {
    let Some(fixtures) = fixtures() else { return };
    for (name, json_name) in [
        ("glm4-trunc512", "tokenizer.json"),
        ("glm4-trunc8k", "tokenizer.json"),
        ("glm4", "tokenizer.json.gz"),
    ] {
        let folder = fixtures.join("tokenizers").join(name);
        let golden = json(&folder.join("golden.json"));
        let hugging_face = Files::default()
            .with("tokenizer.json", read(&folder.join(json_name)))
            .with("tokenizer_config.json", read(&folder.join("tokenizer_config.hf.json")))
            .tokenizer();
        for tokenizer in [tiktoken(&folder), hugging_face] {
            check(&tokenizer, &golden, name);
            for (text, id) in golden["special"].as_object().unwrap() {
                let id = u32::try_from(id.as_u64().unwrap()).unwrap();
                assert_eq!(tokenizer.added_token_id(text), Some(id), "{name}");
                assert!(tokenizer.is_special(id));
                assert_eq!(tokenizer.token_bytes(id), Some(text.as_bytes()));
                assert!(id < tokenizer.vocab_size());
            }
            let size =
                golden["vocab_size"].as_u64().unwrap() + golden["n_special"].as_u64().unwrap();
            assert_eq!(u64::from(tokenizer.vocab_size()), size);
            assert_eq!(tokenizer.token_bytes(tokenizer.vocab_size()), None);
        }
    }
}

#[test]
fn glm4_without_its_config_has_the_same_special_tokens() {
    let Some(fixtures) = fixtures() else { return };
    let folder = fixtures.join("tokenizers/glm4-trunc512");
    let tokenizer =
        Files::default().with("tokenizer.model", read(&folder.join("tokenizer.model"))).tokenizer();
    check(&tokenizer, &json(&folder.join("golden.json")), "glm4-trunc512 without config");
}

#[test]
fn glm4_gives_the_ids_that_others_published() {
    let Some(fixtures) = fixtures() else { return };
    let folder = fixtures.join("tokenizers/glm4");
    let tokenizer = tiktoken(&folder);
    let external = json(&folder.join("external_golden.json"));
    for case in external["chat"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

#[test]
fn chatglm3_gives_the_golden_ids() {
    let Some(fixtures) = fixtures() else { return };
    let folder = fixtures.join("tokenizers/chatglm3");
    let files = || Files::default().with("tokenizer.json", read(&folder.join("tokenizer.json.gz")));
    let config = read(&folder.join("tokenizer_config.json"));
    let tokenizer = files().with("tokenizer_config.json", config).tokenizer();
    // The golden ids were made without the config, which names commands.
    let without_config = files().tokenizer();
    let golden = json(&folder.join("golden.json"));
    for part in ["verified", "cases"] {
        for case in golden[part].as_array().unwrap() {
            let (key, text) = (&case["key"], case["text"].as_str().unwrap());
            let whole = without_config.encode(text).unwrap();
            assert_eq!(whole, ids(&case["ids"]), "{part} {key}: {text:?}");
            let ordinary = tokenizer.encode_ordinary(text).unwrap();
            if !whole.iter().any(|id| without_config.is_special(*id)) {
                assert_eq!(ordinary, whole, "{part} {key}: {text:?}");
            }
            assert_eq!(tokenizer.decode(&ordinary, Specials::Skip), text, "{part} {key}");
        }
    }
    // The commands are in no file but the code of THUDM's tokenizer.
    let commands = [
        "[MASK]",
        "[gMASK]",
        "[sMASK]",
        "sop",
        "eop",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
    ];
    for (id, command) in (64_789..).zip(commands) {
        assert_eq!(tokenizer.added_token_id(command), Some(id), "{command}");
        assert!(tokenizer.is_special(id), "{command}");
    }
}

#[test]
fn smollm2_gives_the_golden_ids_and_prompts() {
    let Some(fixtures) = fixtures() else { return };
    let folder = fixtures.join("smollm2-135m-glm");
    let files = Files::default()
        .with("tokenizer.json", read(&folder.join("tokenizer.json")))
        .with("tokenizer_config.json", read(&folder.join("tokenizer_config.json")))
        .with("generation_config.json", read(&folder.join("generation_config.json")));
    let tokenizer = files.tokenizer();
    assert_eq!(tokenizer.stop_token_ids(), [2]);
    check(&tokenizer, &json(&folder.join("tokenizer_golden.json")), "smollm2");

    let template = files.template(&tokenizer);
    let expected = json(&folder.join("expected.json"));
    let chats = expected["chats"].as_array().unwrap();
    assert_eq!(chats.len(), 8);
    for chat in chats {
        let prompt = crate::templates::render(&template, &chat["messages"], None, true).unwrap();
        assert_eq!(prompt.text(), chat["prompt_text"].as_str().unwrap());
        let tokens = tokenizer.encode_prompt(&prompt).unwrap();
        assert_eq!(tokens.len() as u64, chat["n_prompt"].as_u64().unwrap());
        assert_eq!(tokens, tokenizer.encode(prompt.text()).unwrap());
    }
}
