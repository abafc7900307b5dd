//! Which part of a rendered conversation may be a special token?

use std::ops::Range;

/// Text to be tokenized, and the places in it where a special token's text is only text.
///
/// Two prompts are equal when they give the same tokens: same text, same guarded places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    /// Byte ranges, sorted and apart. A special token that touches one of them is text.
    guarded: Vec<Range<usize>>,
}

impl Prompt {
    /// Returns a prompt in which every special token's text is that token.
    pub fn trusted(text: impl Into<String>) -> Self {
        Self { text: text.into(), guarded: Vec::new() }
    }

    /// Returns a prompt in which nothing is a special token.
    pub fn untrusted(text: impl Into<String>) -> Self {
        let text = text.into();
        let guarded =
            if text.is_empty() { Vec::new() } else { std::iter::once(0..text.len()).collect() };
        Self { text, guarded }
    }

    /// Returns the plain text, as Hugging Face renders it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether a special token over these bytes would touch text that is not the template's.
    pub(crate) fn guards(&self, bytes: &Range<usize>) -> bool {
        let next = self.guarded.partition_point(|range| range.end <= bytes.start);
        self.guarded.get(next).is_some_and(|range| range.start < bytes.end)
    }

    /// Appends a character that came from the template.
    pub(crate) fn push_trusted(&mut self, character: char) {
        self.text.push(character);
    }

    /// Appends a character that came from a message.
    pub(crate) fn push_guarded(&mut self, character: char) {
        let start = self.text.len();
        self.text.push(character);
        match self.guarded.last_mut() {
            Some(last) if last.end == start => last.end = self.text.len(),
            _ => self.guarded.push(start..self.text.len()),
        }
    }
}
