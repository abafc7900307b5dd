//! Where in a text are the added tokens?
//!
//! Found as Hugging Face finds them: leftmost, then longest, before anything else looks at the text. What is between
//! two of them is one run of ordinary text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};

use crate::prompt::Prompt;

/// A token that is recognised as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Added {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Whether it is left out of decoded text.
    pub(crate) special: bool,
    pub(crate) lstrip: bool,
    pub(crate) rstrip: bool,
    pub(crate) single_word: bool,
}

impl Added {
    pub(crate) fn special(id: u32, content: &str) -> Self {
        let content = content.to_owned();
        Self { id, content, special: true, lstrip: false, rstrip: false, single_word: false }
    }
}

/// A part of a text: what stands before an added token, and the token, if it does not end the text.
pub(crate) struct Section<'t> {
    pub(crate) ordinary: &'t str,
    pub(crate) token: Option<u32>,
}

/// Finds added tokens.
pub(crate) struct Finder {
    tokens: Vec<Added>,
    automaton: AhoCorasick,
}

impl Finder {
    /// Returns an error text if the tokens are too many for one automaton.
    pub(crate) fn new(tokens: Vec<Added>) -> Result<Self, String> {
        let tokens: Vec<Added> = tokens.into_iter().filter(|t| !t.content.is_empty()).collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|token| &token.content))
            .map_err(|error| format!("the added tokens cannot be searched for: {error}"))?;
        Ok(Self { tokens, automaton })
    }

    pub(crate) fn tokens(&self) -> &[Added] {
        &self.tokens
    }

    /// Cuts a prompt at its added tokens; guarded text holds none.
    pub(crate) fn sections<'t>(&self, prompt: &'t Prompt) -> Vec<Section<'t>> {
        let text = prompt.text();
        let mut sections = Vec::new();
        let (mut done, mut from) = (0, 0);
        while let Some(found) = self.automaton.find(Input::new(text).range(from..)) {
            let longest = (&self.tokens[found.pattern()], found.range());
            let accepted = if self.may(prompt, &longest) {
                Some(longest)
            } else {
                self.shorter(prompt, found.start())
            };
            let Some((token, bytes)) = accepted else {
                let skipped = text[found.start()..].chars().next().map_or(1, char::len_utf8);
                from = found.start() + skipped;
                continue;
            };
            let before = &text[done..bytes.start];
            let before = if token.lstrip { before.trim_end() } else { before };
            sections.push(Section { ordinary: before, token: Some(token.id) });
            let after = &text[bytes.end..];
            let stripped = if token.rstrip { after.len() - after.trim_start().len() } else { 0 };
            done = bytes.end + stripped;
            from = done;
        }
        sections.push(Section { ordinary: &text[done..], token: None });
        sections
    }

    /// Returns the longest token that starts here and may stand here: a longer one can reach into guarded text where a
    /// shorter one does not.
    fn shorter(&self, prompt: &Prompt, start: usize) -> Option<Found<'_>> {
        let text = &prompt.text()[start..];
        let here = self.tokens.iter().filter(|token| text.starts_with(&token.content));
        here.map(|token| (token, start..start + token.content.len()))
            .filter(|found| self.may(prompt, found))
            .max_by_key(|(_, bytes)| bytes.end)
    }

    fn may(&self, prompt: &Prompt, (token, bytes): &Found<'_>) -> bool {
        let within_word = token.single_word && touches_word(prompt.text(), bytes);
        !within_word && !prompt.guards(bytes)
    }
}

/// A token and where it stands.
type Found<'f> = (&'f Added, Range<usize>);

fn touches_word(text: &str, bytes: &Range<usize>) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text[..bytes.start].chars().next_back().is_some_and(word)
        || text[bytes.end..].chars().next().is_some_and(word)
}
