//! A stranger's files may be anything; they must give an error, never a panic.

use glint_tokenizer::{
    Assets, ChatTemplate, GenerationConfig, Specials, StopMatcher, StopText, Tokenizer,
};
use proptest::prelude::*;

use crate::shared::Files;
use crate::small;
use crate::templates::render;

/// Does with the files whatever a router does.
fn use_up(assets: &Assets<'_>) {
    let _ = GenerationConfig::load(assets);
    let Ok(tokenizer) = Tokenizer::load(assets) else { return };
    for text in ["", "hello <|user|> é\u{301}\r\n  7", "\u{10FFFF}\0"] {
        if let Ok(ids) = tokenizer.encode(text) {
            tokenizer.decode(&ids, Specials::Keep);
        }
    }
    if let Ok(Some(template)) = ChatTemplate::load(assets, &tokenizer) {
        let messages = serde_json::json!([{"role": "user", "content": "<|user|> hi"}]);
        let _ = render(&template, &messages, None, true);
    }
}

/// Changes some bytes of a good file.
fn damage(
    mut file: Vec<u8>,
    changes: &[(prop::sample::Index, u8)],
    cut: Option<prop::sample::Index>,
) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(file.len());
        file[at] = *byte;
    }
    if let Some(cut) = cut {
        file.truncate(cut.index(file.len()));
    }
    file
}

const CONFIG: &str = r#"{"tokenizer_class": "ChatGLM4Tokenizer", "eos_token": "<|endoftext|>",
    "added_tokens_decoder": {"260": {"content": "<|endoftext|>", "special": true, "lstrip": true},
        "261": {"content": "<|user|>", "rstrip": true}, "262": {"content": "x y", "single_word": true}},
    "chat_template": "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim | tojson(indent=2) }}{% endfor %}{{ messages[0].content.split(' ')[-1] }}"}"#;

fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\"':,%|0159-e \\<".to_vec())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_files_do_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), byte()), 0..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        which in 0..3,
    ) {
        let damaged = |file: &str| damage(file.as_bytes().to_vec(), &changes, cut);
        let ranks = small::ranks(&["he", "ll", "llo", "hello"]);
        let files = match which {
            0 => Files::default().with("tokenizer.model", damaged(&ranks)).with("tokenizer_config.json", CONFIG),
            1 => Files::default().with("tokenizer.model", ranks).with("tokenizer_config.json", damaged(CONFIG)),
            _ => Files::default()
                .with("tokenizer.model", ranks)
                .with("generation_config.json", damaged(r#"{"eos_token_id": [1, 2], "top_k": 3, "top_p": 0.5}"#)),
        };
        use_up(&files.assets());
    }

    #[test]
    fn a_damaged_tokenizer_json_does_not_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), byte()), 0..3),
        model in prop::sample::select(vec!["BPE", "WordPiece", "Unigram", "WordLevel", "Nothing"]),
    ) {
        let json = format!(
            r#"{{"version":"1.0","added_tokens":[{{"id":3,"content":"<x>","single_word":false,"lstrip":false,
            "rstrip":false,"normalized":false,"special":true}}],"pre_tokenizer":{{"type":"ByteLevel",
            "add_prefix_space":false,"trim_offsets":true,"use_regex":true}},"decoder":{{"type":"ByteLevel",
            "add_prefix_space":false,"trim_offsets":true,"use_regex":true}},"model":{{"type":"{model}",
            "unk_token":"a","vocab":{{"a":0,"b":1,"ab":2}},"merges":["a b"]}}}}"#
        );
        use_up(&Files::default().with("tokenizer.json", damage(json.into_bytes(), &changes, None)).assets());
    }

    #[test]
    fn any_template_source_does_not_panic(source in "(\\{\\{|\\{%|%\\}|\\}\\}|for|in|messages|if|end|[a-z0-9 .|()'\\[\\]-]){0,20}") {
        let files = Files::default()
            .with("tokenizer.model", small::ranks(&[]))
            .with("chat_template.jinja", source);
        use_up(&files.assets());
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for name in Assets::NAMES {
            use_up(&Files::default().with(name, bytes.clone()).assets());
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        StopMatcher::new(&[text.clone(), String::new()], StopText::Include).push(&text);
    }
}
