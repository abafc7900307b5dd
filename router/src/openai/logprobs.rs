//! How are log-probabilities written?

use glint_core::TokenLogprobs;
use glint_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use crate::answer::Token;

/// JSON has no infinity; this is what OpenAI writes for a token that cannot be drawn.
const IMPOSSIBLE: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

/// Returns a token's text; bytes that are no text become U+FFFD.
fn text(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
}

/// Returns a token's text in a way that keeps tokens apart that are no text, as OpenAI's completions do.
pub(super) fn distinct_text(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", hex.collect::<String>())
        }
    }
}

fn entry(tokenizer: &Tokenizer, id: u32, logprob: f32) -> Map<String, Value> {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    let value = json!({
        "token": text(tokenizer, id),
        "logprob": finite(logprob),
        "bytes": bytes,
    });
    match value {
        Value::Object(entry) => entry,
        _ => unreachable!("it is written as an object above"),
    }
}

/// Chat: `choices[].logprobs`.
pub(super) fn chat(tokenizer: &Tokenizer, tokens: &[Token]) -> Value {
    let content: Vec<Value> = tokens
        .iter()
        .filter_map(|token| token.logprobs.as_ref().map(|logprobs| (token.id, logprobs)))
        .map(|(id, logprobs)| {
            let top =
                logprobs.top.iter().map(|&(id, logprob)| entry(tokenizer, id, logprob).into());
            let mut entry = entry(tokenizer, id, logprobs.logprob);
            entry.insert("top_logprobs".to_owned(), Value::Array(top.collect()));
            entry.into()
        })
        .collect();
    json!({"content": content, "refusal": null})
}

/// Completions: `choices[].logprobs`, which grows by prompt and pieces.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    /// Where the next token begins, in characters.
    offset: usize,
    has_top: bool,
}

impl Columns {
    /// Starts at a character of the text.
    pub(super) fn new(offset: usize, alternatives: u32) -> Self {
        Self {
            tokens: Vec::new(),
            token_logprobs: Vec::new(),
            top_logprobs: Vec::new(),
            text_offset: Vec::new(),
            offset,
            has_top: alternatives > 0,
        }
    }

    /// Adds one token; without log-probabilities it is the first of a prompt.
    pub(super) fn push(
        &mut self,
        tokenizer: &Tokenizer,
        id: u32,
        logprobs: Option<&TokenLogprobs>,
    ) {
        let text = distinct_text(tokenizer, id);
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.token_logprobs.push(logprobs.map(|logprobs| finite(logprobs.logprob)));
        self.top_logprobs.push(logprobs.map_or(Value::Null, |logprobs| {
            let top = logprobs.top.iter();
            let pairs =
                top.map(|&(id, logprob)| (distinct_text(tokenizer, id), finite(logprob).into()));
            Value::Object(pairs.collect())
        }));
    }

    /// Returns the object so far and goes on behind it.
    pub(super) fn take(&mut self) -> Value {
        let next = Self::new(self.offset, u32::from(self.has_top));
        let done = std::mem::replace(self, next);
        json!({
            "tokens": done.tokens,
            "token_logprobs": done.token_logprobs,
            "top_logprobs": done.has_top.then_some(done.top_logprobs),
            "text_offset": done.text_offset,
        })
    }
}

/// The extension `prompt_logprobs`: per prompt token an object by token id; null for the first.
pub(super) fn prompt(tokenizer: &Tokenizer, ids: &[u32], logprobs: &[TokenLogprobs]) -> Value {
    let of_token = |(&id, logprobs): (&u32, &TokenLogprobs)| {
        let mut object = Map::new();
        for (rank, &(id, logprob)) in (1_u32..).zip(&logprobs.top) {
            let value = json!({
                "logprob": finite(logprob),
                "rank": rank,
                "decoded_token": text(tokenizer, id),
            });
            object.insert(id.to_string(), value);
        }
        object.entry(id.to_string()).or_insert_with(|| {
            json!({
                "logprob": finite(logprobs.logprob),
                "rank": null,
                "decoded_token": text(tokenizer, id),
            })
        });
        Value::Object(object)
    };
    let rest = ids.iter().skip(1).zip(logprobs).map(of_token);
    std::iter::once(Value::Null).chain(rest).collect()
}
