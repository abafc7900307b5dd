//! How do tokens become text, while they arrive?
//!
//! A token is bytes, and a character may be spread over several tokens. What is incomplete is held back until it is complete or
//! can no longer become a character; the whole is then what `String::from_utf8_lossy` gives for all bytes.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// Whether special tokens appear in decoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// As their names.
    Keep,
    /// Not at all.
    Skip,
}

/// Turns one answer's tokens into text, token by token.
#[derive(Debug)]
pub struct StreamDecoder {
    tokenizer: Arc<Tokenizer>,
    specials: Specials,
    joiner: Utf8Joiner,
    fresh: String,
}

impl StreamDecoder {
    /// Starts an answer.
    pub fn new(tokenizer: Arc<Tokenizer>, specials: Specials) -> Self {
        let joiner = Utf8Joiner::new(tokenizer.leading_spaces());
        Self { tokenizer, specials, joiner, fresh: String::new() }
    }

    /// Takes the next token and returns the text that is certain now and was not before; it may be empty.
    pub fn push(&mut self, id: u32) -> &str {
        self.fresh.clear();
        self.joiner.push(self.tokenizer.visible_bytes(id, self.specials), &mut self.fresh);
        &self.fresh
    }

    /// Ends the answer and returns what was held back: nothing, or U+FFFD for a character that never became complete.
    pub fn finish(&mut self) -> &str {
        self.fresh.clear();
        self.joiner.finish(&mut self.fresh);
        &self.fresh
    }
}

/// Joins byte strings into text.
#[derive(Debug)]
pub(crate) struct Utf8Joiner {
    /// The beginning of a character: at most 3 bytes.
    pending: Vec<u8>,
    /// So many spaces are still to be dropped; 0 once anything else was seen.
    leading_spaces: usize,
}

impl Utf8Joiner {
    pub(crate) fn new(leading_spaces: usize) -> Self {
        Self { pending: Vec::new(), leading_spaces }
    }

    pub(crate) fn push(&mut self, bytes: &[u8], text: &mut String) {
        let bytes = self.without_leading_spaces(bytes);
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        let mut rest = pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => return text.push_str(valid),
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("it is valid up to there"));
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &invalid[length..];
                        }
                        None => {
                            self.pending.extend_from_slice(invalid);
                            return;
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn finish(&mut self, text: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn without_leading_spaces<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let spaces =
            bytes.iter().take(self.leading_spaces).take_while(|byte| **byte == b' ').count();
        let rest = &bytes[spaces..];
        self.leading_spaces = if rest.is_empty() { self.leading_spaces - spaces } else { 0 };
        rest
    }
}
