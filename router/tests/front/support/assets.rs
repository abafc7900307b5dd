//! The text files of a model whose tokens are bytes.

use serde_json::{Map, Value, json};

pub(crate) const END: u32 = 256;
pub(crate) const USER: u32 = 257;
pub(crate) const ASSISTANT: u32 = 258;
pub(crate) const SYSTEM: u32 = 259;
pub(crate) const VOCAB_SIZE: u32 = 260;
const SPECIALS: [(u32, &str); 4] = [
    (END, "<|endoftext|>"),
    (USER, "<|user|>"),
    (ASSISTANT, "<|assistant|>"),
    (SYSTEM, "<|system|>"),
];

/// Returns names and contents.
pub(crate) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let template = "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}\
        {% if shout is defined %}{{ shout }}{% endif %}\
        {% if add_generation_prompt %}<|assistant|>\n{% endif %}";
    let advice =
        json!({"do_sample": true, "temperature": 0.5, "top_p": 0.9, "eos_token_id": [END]});
    vec![
        ("tokenizer.json", tokenizer().to_string().into_bytes()),
        ("chat_template.jinja", template.into()),
        ("generation_config.json", advice.to_string().into_bytes()),
    ]
}

/// A byte-level BPE without merges: the id of a byte is its value.
fn tokenizer() -> Value {
    let mut vocab = Map::new();
    let mut stand_in = 256;
    for byte in 0..=255_u32 {
        // GPT-2's way to write bytes as letters.
        let is_letter = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let letter = if is_letter { byte } else { stand_in };
        stand_in += u32::from(!is_letter);
        vocab.insert(char::from_u32(letter).unwrap().to_string(), byte.into());
    }
    let special = |(id, content): (u32, &str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                            "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": SPECIALS.map(special),
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}
