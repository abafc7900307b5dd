//! Which files describe a tokenizer, and what is wrong with them?

/// The text files of a model, as bytes; whichever the model has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Assets<'a> {
    /// `tokenizer.json`; it wins over `tokenizer_model`.
    pub tokenizer_json: Option<&'a [u8]>,
    /// `tokenizer.model` in tiktoken's form: a line per token, base64 and rank.
    pub tokenizer_model: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `chat_template.jinja`; it wins over the template inside `tokenizer_config`.
    pub chat_template: Option<&'a [u8]>,
    /// `generation_config.json`.
    pub generation_config: Option<&'a [u8]>,
}

impl<'a> Assets<'a> {
    /// Every file that a tokenizer or a chat template may need.
    pub const NAMES: [&'static str; 5] =
        [TOKENIZER_JSON, TOKENIZER_MODEL, TOKENIZER_CONFIG, CHAT_TEMPLATE, GENERATION_CONFIG];

    /// Asks for each of [`Assets::NAMES`] once.
    pub fn by_name(mut get: impl FnMut(&'static str) -> Option<&'a [u8]>) -> Self {
        Self {
            tokenizer_json: get(TOKENIZER_JSON),
            tokenizer_model: get(TOKENIZER_MODEL),
            tokenizer_config: get(TOKENIZER_CONFIG),
            chat_template: get(CHAT_TEMPLATE),
            generation_config: get(GENERATION_CONFIG),
        }
    }
}

/// Why the files give no tokenizer or no chat template.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model has no tokenizer at all.
    #[error("the model has neither tokenizer.json nor tokenizer.model, add one of them")]
    NoTokenizer,
    /// A file is there and cannot be used.
    #[error("{file}: {reason}")]
    Invalid {
        /// The file's name.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl LoadError {
    pub(crate) fn invalid(file: &'static str, reason: impl ToString) -> Self {
        Self::Invalid { file, reason: reason.to_string() }
    }
}

pub(crate) const TOKENIZER_JSON: &str = "tokenizer.json";
pub(crate) const TOKENIZER_MODEL: &str = "tokenizer.model";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";
