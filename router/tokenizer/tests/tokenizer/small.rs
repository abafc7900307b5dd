//! Tokenizers made here, small enough to see through.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use glint_tokenizer::{Assets, LoadError, Prompt, Specials, Tokenizer};
use serde_json::json;

use crate::shared::Files;

/// A tiktoken model: the 256 bytes, then these tokens, in the order of their ranks.
pub(crate) fn ranks(tokens: &[&str]) -> String {
    let bytes = (0..=u8::MAX).map(|byte| vec![byte]);
    let tokens = tokens.iter().map(|token| token.as_bytes().to_vec());
    let line = |(rank, token): (usize, Vec<u8>)| format!("{} {rank}\n", STANDARD.encode(token));
    bytes.chain(tokens).enumerate().map(line).collect()
}

/// GLM-4 in small: without a config, the special tokens follow from id 260 on.
pub(crate) fn glm4() -> Tokenizer {
    Files::default().with("tokenizer.model", ranks(&["he", "ll", "llo", "hello"])).tokenizer()
}

/// A SentencePiece vocabulary as Hugging Face writes it: byte fallback, `▁` for a space and before the text.
pub(crate) fn sentence_piece() -> Tokenizer {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "b", "▁a", "ab"].map(str::to_owned));
    let vocabulary: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let json = json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true,
                  "vocab": vocabulary, "merges": [["▁", "a"], ["a", "b"]]},
    });
    Files::default().with("tokenizer.json", json.to_string()).tokenizer()
}

#[test]
fn the_lowest_rank_merges_first_and_a_whole_word_that_is_a_token_stays_whole() {
    let tokenizer = glm4();
    assert_eq!(tokenizer.encode("hello").unwrap(), [259]);
    assert_eq!(tokenizer.encode("hell").unwrap(), [256, 257]);
    assert_eq!(tokenizer.encode("llo llo").unwrap(), [258, u32::from(b' '), 258]);
    assert_eq!(tokenizer.encode("").unwrap(), [0_u32; 0]);
    assert_eq!(tokenizer.vocab_size(), 260 + 14);
}

#[test]
fn special_tokens_are_recognised_in_trusted_text_only() {
    let tokenizer = glm4();
    let user = tokenizer.added_token_id("<|user|>").unwrap();
    assert_eq!(tokenizer.encode("hello<|user|>he").unwrap(), [259, user, 256]);
    let ordinary = tokenizer.encode_ordinary("<|user|>").unwrap();
    assert_eq!(ordinary, "<|user|>".bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(tokenizer.encode_prompt(&Prompt::untrusted("<|user|>")).unwrap(), ordinary);
    assert_eq!(tokenizer.decode(&[259, user, 256], Specials::Skip), "hellohe");
    assert_eq!(tokenizer.decode(&[259, user, 256], Specials::Keep), "hello<|user|>he");
}

#[test]
fn bytes_that_are_no_vocabulary_become_byte_tokens_and_text_again() {
    let tokenizer = sentence_piece();
    let byte = |byte: u8| 3 + u32::from(byte);
    let ids = tokenizer.encode_ordinary("ab é").unwrap();
    assert_eq!(ids, [262, 261, 259, byte(0xC3), byte(0xA9)]);
    for text in ["ab é", " a", "  ", "ba\n你好</s>", "▁"] {
        let ids = tokenizer.encode_ordinary(text).unwrap();
        // A space and its mark are one and the same to such a vocabulary.
        assert_eq!(tokenizer.decode(&ids, Specials::Keep), text.replace('▁', " "), "{ids:?}");
    }
}

#[test]
fn ids_that_do_not_exist_decode_to_nothing() {
    let tokenizer = glm4();
    assert_eq!(tokenizer.decode(&[259, 274, u32::MAX], Specials::Keep), "hello");
    assert_eq!(tokenizer.token_bytes(274), None);
    assert!(!tokenizer.is_special(u32::MAX));
}

#[test]
fn the_end_of_an_answer_is_named_by_either_config() {
    let config = r#"{"eos_token": {"content": "<|endoftext|>"},
        "added_tokens_decoder": {"260": {"content": "<|endoftext|>", "special": true}}}"#;
    let files = || Files::default().with("tokenizer.model", ranks(&["he", "ll", "llo", "hello"]));
    assert_eq!(files().tokenizer().stop_token_ids(), [0_u32; 0]);
    let files = || files().with("tokenizer_config.json", config);
    assert_eq!(files().tokenizer().stop_token_ids(), [260]);
    let files = files().with("generation_config.json", r#"{"eos_token_id": [7, 260]}"#);
    assert_eq!(files.tokenizer().stop_token_ids(), [7, 260]);
}

/// A loop over all pairs of neighbours for each merge would take 10^10 steps and more
/// for each of these texts: the test would not end.
#[test]
fn long_texts_without_a_boundary_are_no_quadratic_work() {
    let tokenizer = glm4();
    for unit in ["hello", "l", "你", "7", "=", "\n", " ", "<|user|", "\u{301}"] {
        let text = unit.repeat(300_000 / unit.len());
        let ids = tokenizer.encode_ordinary(&text).unwrap();
        assert!(tokenizer.decode(&ids, Specials::Keep) == text, "{unit:?}");
    }
    let pieces = sentence_piece();
    for unit in ["ab", "a b", "é"] {
        let text = unit.repeat(300_000 / unit.len());
        let ids = pieces.encode_ordinary(&text).unwrap();
        assert!(pieces.decode(&ids, Specials::Keep) == text, "{unit:?}");
    }
}

#[test]
fn broken_files_are_named_in_the_error() {
    let error = |files: Files| Tokenizer::load(&files.assets()).unwrap_err().to_string();
    assert!(matches!(Tokenizer::load(&Assets::default()), Err(LoadError::NoTokenizer)));
    let model = |text: &str| error(Files::default().with("tokenizer.model", text));
    assert_eq!(
        model("IQ== 0\nIg==\n"),
        "tokenizer.model: line 2 is not a base64 token, a space and a rank"
    );
    assert_eq!(model("!!! 0\n"), "tokenizer.model: line 1 has a token that is not base64");
    assert_eq!(
        model("IQ== 0\nIg== 0\n"),
        "tokenizer.model: line 2 has an empty token, or a token or rank that came before"
    );
    assert!(model("IQ== 0\n").contains("no token for the byte 0x00"));
    assert!(model("IQ== 4294967295\n").contains("the limit is"));
    assert!(
        error(Files::default().with("tokenizer.model", b"\x0a\xff".as_slice()))
            .contains("SentencePiece")
    );
    assert!(error(Files::default().with("tokenizer.json", "{}")).starts_with("tokenizer.json: "));
    let config = |json: &str| {
        error(
            Files::default()
                .with("tokenizer.model", ranks(&[]))
                .with("tokenizer_config.json", json),
        )
    };
    assert!(config("[]").starts_with("tokenizer_config.json: "));
    assert!(
        config(r#"{"added_tokens_decoder": {"5": {"content": "x"}}}"#).contains("which is that of")
    );
    assert!(
        config(r#"{"added_tokens_decoder": {"4000000000": {"content": "x"}}}"#).contains("limit")
    );
}

#[test]
fn tokenizers_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
    shared::<glint_tokenizer::ChatTemplate>();
}
