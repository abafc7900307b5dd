//! What does `tokenizer_config.json` say?

use serde_json::{Map, Value};

use crate::assets::{LoadError, TOKENIZER_CONFIG};
use crate::special::Added;

/// The names under which `tokenizer_config.json` keeps single special tokens, which templates may print.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// `tokenizer_config.json`, as far as it concerns us. Empty when the model has none.
#[derive(Debug, Default)]
pub(crate) struct TokenizerConfig {
    pub(crate) added: Vec<Added>,
    /// `bos_token` and so on, by name, as text.
    pub(crate) named: Vec<(&'static str, String)>,
    pub(crate) additional: Vec<String>,
    /// Name and source; a lone template is called `default`.
    pub(crate) templates: Vec<(String, String)>,
    pub(crate) tokenizer_class: String,
}

impl TokenizerConfig {
    pub(crate) fn parse(bytes: Option<&[u8]>) -> Result<Self, LoadError> {
        let Some(bytes) = bytes else { return Ok(Self::default()) };
        let config = object(bytes, TOKENIZER_CONFIG)?;
        let text = |key: &str| config.get(key).and_then(token_text);
        let listed = config.get("additional_special_tokens").and_then(Value::as_array);
        Ok(Self {
            added: added_tokens(&config)?,
            named: NAMED_TOKENS.iter().filter_map(|name| Some((*name, text(name)?))).collect(),
            additional: listed.into_iter().flatten().filter_map(token_text).collect(),
            templates: templates(&config)?,
            tokenizer_class: text("tokenizer_class").unwrap_or_default(),
        })
    }

    pub(crate) fn eos(&self) -> Option<&str> {
        self.named.iter().find(|(name, _)| *name == "eos_token").map(|(_, text)| text.as_str())
    }
}

pub(crate) fn object(bytes: &[u8], file: &'static str) -> Result<Map<String, Value>, LoadError> {
    serde_json::from_slice(bytes).map_err(|error| LoadError::invalid(file, error))
}

/// A token is written as its text, or as an object that has it under `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

fn added_tokens(config: &Map<String, Value>) -> Result<Vec<Added>, LoadError> {
    let Some(tokens) = config.get("added_tokens_decoder").and_then(Value::as_object) else {
        return Ok(Vec::new());
    };
    let invalid = |id: &str, what: &str| {
        LoadError::invalid(TOKENIZER_CONFIG, format!("added token {id:?} {what}"))
    };
    let mut added = Vec::with_capacity(tokens.len());
    for (id, token) in tokens {
        let number = id.parse().map_err(|_| invalid(id, "has no number as its id"))?;
        let content = token_text(token).ok_or_else(|| invalid(id, "has no content"))?;
        let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
        added.push(Added {
            id: number,
            content,
            special: flag("special"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
            single_word: flag("single_word"),
        });
    }
    Ok(added)
}

fn templates(config: &Map<String, Value>) -> Result<Vec<(String, String)>, LoadError> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".to_owned(), source.clone())]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|entry| {
                let field = |name: &str| Some(entry.get(name)?.as_str()?.to_owned());
                field("name").zip(field("template")).ok_or_else(|| {
                    let reason = "a chat_template of the list lacks its name or template";
                    LoadError::invalid(TOKENIZER_CONFIG, reason)
                })
            })
            .collect(),
        Some(_) => Err(LoadError::invalid(
            TOKENIZER_CONFIG,
            "chat_template is neither a string nor a list",
        )),
    }
}
