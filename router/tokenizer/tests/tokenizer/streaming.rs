//! Tokens that become text one by one.

use std::sync::{Arc, LazyLock};

use glint_tokenizer::{Specials, StreamDecoder, Tokenizer};
use proptest::prelude::*;

use crate::shared::{Files, fixtures, ids, json, read};
use crate::small;

fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], specials: Specials) -> String {
    let mut decoder = StreamDecoder::new(Arc::clone(tokenizer), specials);
    let mut text = String::new();
    for id in ids {
        text.push_str(decoder.push(*id));
    }
    text.push_str(decoder.finish());
    text
}

#[test]
fn the_bytes_of_the_golden_tokens_come_as_whole_characters() {
    let Some(fixtures) = fixtures() else { return };
    for name in ["glm4", "glm4-trunc8k", "glm4-trunc512"] {
        let folder = fixtures.join("tokenizers").join(name);
        let tokenizer = Arc::new(
            Files::default()
                .with("tokenizer.model", read(&folder.join("tokenizer.model")))
                .with("tokenizer_config.json", read(&folder.join("tokenizer_config.json")))
                .tokenizer(),
        );
        let golden = json(&folder.join("stream_decode.json"));
        let (tokens, text) = (ids(&golden["ids"]), golden["text"].as_str().unwrap());
        assert_eq!(tokenizer.encode(text).unwrap(), tokens, "{name}");
        let mut decoder = StreamDecoder::new(Arc::clone(&tokenizer), Specials::Skip);
        let (mut bytes, mut shown) = (Vec::new(), String::new());
        for (id, hex) in tokens.iter().zip(golden["token_bytes_hex"].as_array().unwrap()) {
            let token = tokenizer.token_bytes(*id).unwrap();
            let spelled: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(spelled, hex.as_str().unwrap(), "{name} {id}");
            bytes.extend_from_slice(token);
            shown.push_str(decoder.push(*id));
            // As much as is certain, and no more.
            let whole = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
            assert_eq!(shown, whole, "{name} after {id}");
        }
        assert_eq!(decoder.finish(), "");
        assert_eq!(shown, text, "{name}");
    }
}

#[test]
fn a_character_in_byte_tokens_is_held_until_it_is_whole() {
    let tokenizer = Arc::new(small::sentence_piece());
    let byte = |byte: u8| 3 + u32::from(byte);
    let mut decoder = StreamDecoder::new(Arc::clone(&tokenizer), Specials::Skip);
    // "▁a" begins the answer: its space is the vocabulary's, not the text's.
    assert_eq!(decoder.push(262), "a");
    assert_eq!(decoder.push(byte(0xF0)), "");
    assert_eq!(decoder.push(byte(0x9F)), "");
    assert_eq!(decoder.push(byte(0x91)), "");
    assert_eq!(decoder.push(byte(0x8B)), "👋");
    assert_eq!(decoder.push(262), " a");
    assert_eq!(decoder.push(2), "", "</s> is special");
    assert_eq!(decoder.push(byte(0xE4)), "");
    assert_eq!(decoder.push(260), "\u{FFFD}a", "what cannot become a character is replaced");
    assert_eq!(decoder.push(byte(0xE4)), "");
    assert_eq!(decoder.finish(), "\u{FFFD}");
    assert_eq!(decoder.finish(), "");
}

/// Made once: a property looks at them hundreds of times.
static GLM4: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(small::glm4()));
static PIECES: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(small::sentence_piece()));

proptest! {
    /// Whatever bytes the tokens stand for, the stream says what `from_utf8_lossy` says about all of them.
    #[test]
    fn a_stream_of_any_bytes_is_their_lossy_text(
        bytes in prop::collection::vec(
            prop::sample::select(vec![b'a', b' ', 0x80, 0xBF, 0xC3, 0xE4, 0xBD, 0xA0, 0xED, 0xF0, 0x9F, 0xF4, 0xFF]),
            0..24,
        )
    ) {
        let tokenizer = &*GLM4;
        let ids: Vec<u32> = bytes.iter().copied().map(u32::from).collect();
        let lossy = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(streamed(tokenizer, &ids, Specials::Keep), lossy.as_ref());
        prop_assert_eq!(tokenizer.decode(&ids, Specials::Keep), lossy.as_ref());
    }

    /// A stream and a decoding at once say the same, with byte fallback, special tokens and ids that do not exist.
    #[test]
    fn a_stream_says_what_decode_says(
        ids in prop::collection::vec(prop_oneof![Just(0_u32), Just(2), 3..266_u32, 259..264_u32], 0..24),
        keep in any::<bool>(),
    ) {
        let specials = if keep { Specials::Keep } else { Specials::Skip };
        let tokenizer = &*PIECES;
        prop_assert_eq!(streamed(tokenizer, &ids, specials), tokenizer.decode(&ids, specials));
    }

    #[test]
    fn text_survives_a_round_trip(text in "\\PC{0,40}") {
        let tokenizer = &*GLM4;
        let ids = tokenizer.encode_ordinary(&text).unwrap();
        prop_assert_eq!(streamed(tokenizer, &ids, Specials::Keep), text);
    }
}
