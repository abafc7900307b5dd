//! How does text become tokens?

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::ModelWrapper;

use crate::assets::{Assets, LoadError, TOKENIZER_CONFIG, TOKENIZER_JSON, TOKENIZER_MODEL};
use crate::config::TokenizerConfig;
use crate::generation::GenerationConfig;
use crate::prompt::Prompt;
use crate::ranks;
use crate::special::{Added, Finder};
use crate::stream::{Specials, Utf8Joiner};
use crate::vocabulary::{Spelling, Vocabulary};

/// What ChatGLM2 and ChatGLM3 add after the ids of their SentencePiece model, in this order; the model file does not have them.
const CHATGLM_COMMANDS: [&str; 9] = [
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

/// Text could not be turned into tokens.
#[derive(Debug, thiserror::Error)]
#[error("the tokenizer refused a text of {text_bytes} bytes: {reason}")]
pub struct EncodeError {
    /// How long the text was.
    pub text_bytes: usize,
    /// What the tokenizer said.
    pub reason: String,
}

/// Turns text into token ids and back. Immutable; share it in an `Arc`.
pub struct Tokenizer {
    /// Without added tokens and post-processor: it only ever sees ordinary text.
    ordinary: tokenizers::Tokenizer,
    finder: Finder,
    vocabulary: Vocabulary,
    leading_spaces: usize,
    stop_token_ids: Vec<u32>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("added_tokens", &self.finder.tokens().len())
            .field("stop_token_ids", &self.stop_token_ids)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer of a model from its files.
    pub fn load(assets: &Assets<'_>) -> Result<Self, LoadError> {
        // The `tokenizers` crate trusts its files more than we do: what makes it panic is a broken file, too.
        catch_unwind(AssertUnwindSafe(|| Self::build(assets))).unwrap_or_else(|_| {
            let file =
                if assets.tokenizer_json.is_some() { TOKENIZER_JSON } else { TOKENIZER_MODEL };
            Err(LoadError::invalid(file, "contradicts itself, the tokenizers library panicked"))
        })
    }

    fn build(assets: &Assets<'_>) -> Result<Self, LoadError> {
        let config = TokenizerConfig::parse(assets.tokenizer_config)?;
        let (file, whole) = match (assets.tokenizer_json, assets.tokenizer_model) {
            (Some(json), _) => {
                let whole = tokenizers::Tokenizer::from_bytes(json);
                (TOKENIZER_JSON, whole.map_err(|error| LoadError::invalid(TOKENIZER_JSON, error))?)
            }
            (None, Some(model)) => (TOKENIZER_MODEL, ranks::tokenizer(model)?),
            (None, None) => return Err(LoadError::NoTokenizer),
        };
        let invalid = |reason: String| LoadError::invalid(file, reason);

        let tokens = whole.get_vocab(false);
        let spelling = Spelling::of(whole.get_decoder()).map_err(invalid)?;
        let added = added_tokens(&whole, &tokens, &config, file)?;
        let vocabulary = Vocabulary::new(spelling, &tokens, &added).map_err(invalid)?;
        let finder = Finder::new(added).map_err(invalid)?;
        let leading_spaces = match spelling {
            Spelling::ByteLevel => 0,
            Spelling::SentencePiece { leading_spaces } => leading_spaces,
        };
        let mut tokenizer = Self {
            ordinary: ordinary(&whole),
            finder,
            vocabulary,
            leading_spaces,
            stop_token_ids: GenerationConfig::load(assets)?.eos_token_ids,
        };
        if tokenizer.stop_token_ids.is_empty() {
            let eos = config.eos().and_then(|text| tokenizer.added_token_id(text));
            tokenizer.stop_token_ids.extend(eos);
        }
        Ok(tokenizer)
    }

    /// Returns the tokens of a text that we trust: a special token's text is that token. Adds nothing before or after.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        self.encode_prompt(&Prompt::trusted(text))
    }

    /// Returns the tokens of a text that we do not trust: nothing in it is a special token.
    pub fn encode_ordinary(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let mut ids = Vec::new();
        self.append_ordinary(text, &mut ids)?;
        Ok(ids)
    }

    /// Returns the tokens of a prompt: special tokens where the template wrote them, text everywhere else. Text between
    /// two special tokens is one run, wherever its parts came from.
    pub fn encode_prompt(&self, prompt: &Prompt) -> Result<Vec<u32>, EncodeError> {
        let mut ids = Vec::new();
        for section in self.finder.sections(prompt) {
            self.append_ordinary(section.ordinary, &mut ids)?;
            ids.extend(section.token);
        }
        Ok(ids)
    }

    fn append_ordinary(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        if text.is_empty() {
            return Ok(());
        }
        let refused = |reason| EncodeError { text_bytes: text.len(), reason };
        // A vocabulary that passed `load` may still lack what a text needs; the library then panics in places.
        let encoding = catch_unwind(AssertUnwindSafe(|| self.ordinary.encode_fast(text, false)))
            .map_err(|_| refused("the tokenizers library panicked".to_owned()))?
            .map_err(|error| refused(error.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Returns the text of some tokens. Bytes that are not UTF-8 become U+FFFD, ids that do not exist become nothing.
    pub fn decode(&self, ids: &[u32], specials: Specials) -> String {
        let mut joiner = Utf8Joiner::new(self.leading_spaces);
        let mut text = String::new();
        for id in ids {
            joiner.push(self.visible_bytes(*id, specials), &mut text);
        }
        joiner.finish(&mut text);
        text
    }

    /// Returns the bytes that a token stands for (a special token: its name), or nothing if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// Returns whether decoded text leaves this token out.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary.is_special(id)
    }

    /// Returns one more than the largest token id. The model's padded vocabulary may be larger.
    pub fn vocab_size(&self) -> u32 {
        self.vocabulary.size()
    }

    /// Returns the tokens that end an answer: those of `generation_config.json`, else the `eos_token` of
    /// `tokenizer_config.json`. Empty when the model names none.
    pub fn stop_token_ids(&self) -> &[u32] {
        &self.stop_token_ids
    }

    /// Returns the id of a special (or otherwise added) token by its text.
    pub fn added_token_id(&self, text: &str) -> Option<u32> {
        self.finder.tokens().iter().find(|token| token.content == text).map(|token| token.id)
    }

    /// Returns the texts that are recognised as a whole.
    pub(crate) fn added_texts(&self) -> impl Iterator<Item = &str> {
        self.finder.tokens().iter().map(|token| token.content.as_str())
    }

    pub(crate) fn leading_spaces(&self) -> usize {
        self.leading_spaces
    }

    pub(crate) fn visible_bytes(&self, id: u32, specials: Specials) -> &[u8] {
        match specials {
            Specials::Skip if self.is_special(id) => &[],
            Specials::Skip | Specials::Keep => self.token_bytes(id).unwrap_or_default(),
        }
    }
}

/// Returns a copy that recognises no added token and adds none.
fn ordinary(whole: &tokenizers::Tokenizer) -> tokenizers::Tokenizer {
    let mut model = whole.get_model().clone();
    if let ModelWrapper::BPE(bpe) = &mut model {
        // A training device: with it, a text would have another tokenization every time.
        bpe.dropout = None;
    }
    let mut ordinary = tokenizers::Tokenizer::new(model);
    ordinary
        .with_normalizer(whole.get_normalizer().cloned())
        .with_pre_tokenizer(whole.get_pre_tokenizer().cloned());
    ordinary
}

/// Collects added tokens from the file, then from the config, then from what we know of the family. A text keeps the id it had first.
fn added_tokens(
    whole: &tokenizers::Tokenizer,
    tokens: &HashMap<String, u32>,
    config: &TokenizerConfig,
    file: &'static str,
) -> Result<Vec<Added>, LoadError> {
    let mut added: Vec<Added> = whole
        .get_added_tokens_decoder()
        .into_iter()
        .map(|(id, token)| Added {
            id,
            content: token.content,
            special: token.special,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            single_word: token.single_word,
        })
        .collect();
    added.sort_by_key(|token| token.id);
    for token in &config.added {
        if !added.iter().any(|known| known.content == token.content) {
            added.push(token.clone());
        }
    }
    let first_free = tokens.values().max().map_or(0, |id| id.saturating_add(1));
    let family: &[&str] = if config.tokenizer_class == "ChatGLMTokenizer" {
        &CHATGLM_COMMANDS
    } else if file == TOKENIZER_MODEL && added.is_empty() {
        &ranks::GLM4_SPECIALS
    } else {
        &[]
    };
    for (offset, name) in (0..).zip(family) {
        match added.iter_mut().find(|known| known.content == *name) {
            // THUDM's config says of its commands that they are not special; they are.
            Some(known) => known.special = true,
            None => added.push(Added::special(first_free.saturating_add(offset), name)),
        }
    }
    // A vocabulary may list an added token itself, but under no other name.
    let mut owners: HashMap<u32, &str> =
        tokens.iter().map(|(text, id)| (*id, text.as_str())).collect();
    for token in &added {
        match owners.insert(token.id, &token.content) {
            Some(owner) if owner != token.content => {
                let (id, name) = (token.id, &token.content);
                let reason =
                    format!("added token {name:?} has id {id}, which is that of {owner:?}");
                return Err(LoadError::invalid(TOKENIZER_CONFIG, reason));
            }
            _ => {}
        }
    }
    Ok(added)
}
