//! The text side of `tiny`: token ids below 256 are bytes, those after them GLM-4's special tokens.

use serde_json::{Value, json};

use crate::bpe::Bpe;

/// In this order from id 256 on.
pub(super) const SPECIALS: [&str; 8] = [
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "<sop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

/// Returns the id of a special token.
pub(super) fn id(special: &str) -> u32 {
    let place = (256..).zip(SPECIALS).find(|(_, name)| *name == special);
    place.map(|(id, _)| id).expect("callers name special tokens of the list")
}

/// Returns the ids that end an answer: those of GLM-4.
pub(super) fn stop_ids() -> [u32; 3] {
    ["<|endoftext|>", "<|user|>", "<|observation|>"].map(id)
}

/// Returns `tokenizer.json`: byte-level BPE without a single merge.
pub(super) fn json() -> Value {
    let vocabulary: serde_json::Map<_, _> =
        (0..).zip(byte_chars()).map(|(id, char)| (char.to_string(), json!(id))).collect();
    let added: Vec<Value> = (256..)
        .zip(SPECIALS)
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    Bpe {
        added_tokens: added,
        pre_tokenizer: byte_level.clone(),
        decoder: byte_level,
        vocabulary,
        merges: json!([]),
    }
    .json()
}

/// Returns `tokenizer_config.json`.
pub(super) fn config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIALS[0],
        "pad_token": SPECIALS[0],
        "model_max_length": super::CONTEXT_TOKENS_MAX,
        "clean_up_tokenization_spaces": false,
    })
}

/// The character by which byte-level vocabularies spell each byte, in the order of bytes: printable Latin-1 is itself, the
/// others follow each other from U+0100 on.
fn byte_chars() -> impl Iterator<Item = char> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX).map(move |byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => others.next().expect("U+0100 and the next 67 are characters"),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own_and_every_special_an_id() {
        let chars: Vec<char> = byte_chars().collect();
        assert_eq!(chars.iter().collect::<HashSet<_>>().len(), 256);
        assert_eq!((chars[usize::from(b' ')], chars[usize::from(b'\n')]), ('Ġ', 'Ċ'));
        assert_eq!(SPECIALS.map(id), std::array::from_fn(|place| 256 + place as u32));
        assert_eq!(json()["model"]["vocab"]["Ġ"], 32);
    }
}
