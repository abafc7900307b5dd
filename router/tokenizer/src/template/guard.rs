//! Which characters of a rendered prompt came from a message?
//!
//! The template may do anything with a message: trim it, cut it, glue it between `<|` and `|>`. So provenance travels *in* the
//! text. Before rendering, every fragment of a message that could become a part of a special token (its first or last two
//! characters, see [`Guard::marks`]) is replaced, character by character, by private-use characters that appear
//! nowhere else in this request. They are not whitespace and one stands for one, so trimming, slicing and counting do what they did.
//! After rendering they are translated back, and where they stood is guarded: a special token with a
//! guarded character in it is text.
//!
//! A template may look at a message instead of printing it (`'</think>' in content`), and then see the marks. So the
//! conversation is first rendered plainly, and that text is the truth: marked renderings are tried from the strictest to the
//! laxest until one says the same. The laxest exempt, in what the assistant said before, a special token (or a pair of
//! tags) that the template itself names. If none agrees, the strict rendering is taken as it is: never unsafe, at worst not the text that Hugging
//! Face would give.
//!
//! Most messages hold no such fragment. They are rendered once.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::ops::{Range, RangeInclusive};

use aho_corasick::AhoCorasick;
use minijinja::Value;

use super::TemplateError;
use super::value::Input;
use crate::prompt::Prompt;

/// The planes 15 and 16: characters that no standard will ever give a meaning.
const PRIVATE_USE: RangeInclusive<u32> = 0xF_0000..=0x10_FFFF;

/// Exemptions tried for one conversation: each costs a render.
const EXEMPTIONS_MAX: usize = 4;

/// Knows the special tokens, and what could become one.
#[derive(Debug)]
pub(super) struct Guard {
    specials: Vec<String>,
    /// The first two and the last two characters of each.
    fragments: AhoCorasick,
    firsts: HashSet<char>,
    lasts: HashSet<char>,
    longest_bytes: usize,
    /// All their characters.
    alphabet: Vec<char>,
}

/// Private-use characters for the alphabet of the specials, from this one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes(u32);

/// How strictly a message is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level<'a> {
    /// Also texts that are the middle of a special token, which matter only between two halves of it.
    Strict,
    Fragments,
    /// But not where one of these special tokens stands as a whole in a message of the assistant: it said so itself.
    Except(&'a [&'a str]),
}

impl Guard {
    /// Returns an error text if the tokens are too many for one automaton.
    pub(super) fn new<'s>(specials: impl Iterator<Item = &'s str>) -> Result<Self, String> {
        let specials: Vec<String> = specials.map(str::to_owned).collect();
        let mut fragments = BTreeSet::new();
        for special in &specials {
            let second = special.char_indices().nth(2).map_or(special.len(), |(at, _)| at);
            let last = special.char_indices().rev().nth(1).map_or(0, |(at, _)| at);
            fragments.insert(&special[..second]);
            fragments.insert(&special[last..]);
        }
        let fragments = AhoCorasick::new(fragments)
            .map_err(|error| format!("the special tokens cannot be searched for: {error}"))?;
        let alphabet: BTreeSet<char> =
            specials.iter().flat_map(|special| special.chars()).collect();
        Ok(Self {
            fragments,
            firsts: specials.iter().filter_map(|special| special.chars().next()).collect(),
            lasts: specials.iter().filter_map(|special| special.chars().next_back()).collect(),
            longest_bytes: specials.iter().map(String::len).max().unwrap_or(0),
            alphabet: alphabet.into_iter().collect(),
            specials,
        })
    }

    /// Picks codes that none of these texts contains.
    pub(super) fn codes<'s>(&self, texts: impl Iterator<Item = &'s str>) -> Option<Codes> {
        let width = u32::try_from(self.alphabet.len().max(1)).ok()?;
        let used: HashSet<u32> = texts
            .flat_map(str::chars)
            .filter(|character| PRIVATE_USE.contains(&u32::from(*character)))
            .map(|character| (u32::from(character) - PRIVATE_USE.start()) / width)
            .collect();
        let windows = (PRIVATE_USE.end() - PRIVATE_USE.start() + 1) / width;
        let free = (0..windows).find(|window| !used.contains(window))?;
        Some(Codes(PRIVATE_USE.start() + free * width))
    }

    /// Finds out what of the plain rendering came from messages, by rendering again as often as necessary.
    pub(super) fn render(
        &self,
        source: &str,
        input: &Input<'_>,
        codes: Codes,
        plain: String,
        run: impl Fn(&Marker<'_>) -> Result<String, TemplateError>,
    ) -> Result<Prompt, TemplateError> {
        let marked = |level| {
            // Where an exemption holds is for the input to say; everywhere else it is as strict as `Fragments`.
            let least = if let Level::Except(_) = level { Level::Fragments } else { level };
            let changes = input.strings().any(|text| !self.marks(text, least).is_empty());
            changes.then(|| {
                run(&Marker { guard: self, codes, level: Some(level), origin: Origin::Client })
            })
        };
        let Some(strict) = marked(Level::Strict) else { return Ok(Prompt::trusted(plain)) };
        let strict = strict.map(|text| self.unmark(&text, codes));
        if let Ok(prompt) = &strict
            && prompt.text() == plain
        {
            return strict;
        }
        let exemptions = self.exemptions(source, input);
        let exempt = exemptions.iter().map(|specials| Level::Except(specials));
        for level in std::iter::once(Level::Fragments).chain(exempt) {
            let prompt = match marked(level) {
                None => Prompt::trusted(plain.clone()),
                Some(Ok(text)) => self.unmark(&text, codes),
                Some(Err(_)) => continue,
            };
            if prompt.text() == plain {
                return Ok(prompt);
            }
        }
        strict
    }

    /// Returns what the template may have looked for in the conversation: a special token that both name, or two of
    /// them that are a pair of tags.
    fn exemptions<'g>(&'g self, source: &str, input: &Input<'_>) -> Vec<Vec<&'g str>> {
        let named_by_both = |special: &&str| {
            source.contains(*special) && input.strings().any(|text| text.contains(*special))
        };
        let named: Vec<&str> =
            self.specials.iter().map(String::as_str).filter(named_by_both).collect();
        let opening = |tag: &str| format!("<{}", tag.strip_prefix("</").unwrap_or(tag));
        let pair = |close: &&'g str| {
            let open = named.iter().find(|open| **open == opening(close))?;
            Some(vec![*open, *close])
        };
        let pairs = named.iter().filter_map(pair);
        pairs.chain(named.iter().map(|special| vec![*special])).take(EXEMPTIONS_MAX).collect()
    }

    /// Returns the bytes of a text that must be marked: sorted, apart, none of them whitespace.
    ///
    /// A special token needs a first and a last character from somewhere. So these are marked: two characters that begin or end
    /// one, anywhere; a single one where the text, trimmed, ends or begins with it, for the template may go on there;
    /// and a text that as a whole is the middle of one.
    fn marks(&self, text: &str, level: Level<'_>) -> Vec<Range<usize>> {
        let mut marks: Vec<Range<usize>> =
            self.fragments.find_overlapping_iter(text).map(|found| found.range()).collect();
        let start = text.len() - text.trim_start().len();
        let trimmed = text.trim();
        let end = start + trimmed.len();
        if let Some(first) = trimmed.chars().next().filter(|first| self.lasts.contains(first)) {
            marks.push(start..start + first.len_utf8());
        }
        if let Some(last) = trimmed.chars().next_back().filter(|last| self.firsts.contains(last)) {
            marks.push(end - last.len_utf8()..end);
        }
        match level {
            Level::Strict => {
                let short = !trimmed.is_empty() && trimmed.len() <= self.longest_bytes;
                if short && self.specials.iter().any(|special| special.contains(trimmed)) {
                    marks.push(start..end);
                }
            }
            Level::Fragments => {}
            Level::Except(specials) => {
                for (at, special) in specials.iter().flat_map(|special| text.match_indices(special))
                {
                    let whole = at..at + special.len();
                    marks.retain(|mark| mark.start < whole.start || whole.end < mark.end);
                }
            }
        }
        marks.sort_unstable_by_key(|mark| mark.start);
        marks.dedup_by(|next, previous| {
            let overlap = next.start <= previous.end;
            if overlap {
                previous.end = previous.end.max(next.end);
            }
            overlap
        });
        marks
    }

    fn mark<'t>(&self, text: &'t str, codes: Codes, level: Level<'_>) -> Cow<'t, str> {
        let marks = self.marks(text, level);
        if marks.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut marked = String::with_capacity(text.len() + 3 * marks.len());
        let mut done = 0;
        for mark in marks {
            marked.push_str(&text[done..mark.start]);
            marked.extend(text[mark.clone()].chars().map(|character| self.code(character, codes)));
            done = mark.end;
        }
        marked.push_str(&text[done..]);
        Cow::Owned(marked)
    }

    fn code(&self, character: char, codes: Codes) -> char {
        match self.alphabet.binary_search(&character) {
            // The whitespace inside a special token stays: a trimmed text is trimmed as before.
            Ok(index) if !character.is_whitespace() => {
                let code =
                    u32::try_from(index).ok().and_then(|index| char::from_u32(codes.0 + index));
                code.unwrap_or(character)
            }
            _ => character,
        }
    }

    fn unmark(&self, marked: &str, codes: Codes) -> Prompt {
        let mut prompt = Prompt::default();
        for character in marked.chars() {
            let index = u32::from(character).checked_sub(codes.0).map(|index| index as usize);
            match index.and_then(|index| self.alphabet.get(index)) {
                Some(original) => prompt.push_guarded(*original),
                None => prompt.push_trusted(character),
            }
        }
        prompt
    }
}

/// Who is said to have written a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Client,
    Assistant,
}

/// Marks what a client wrote.
#[derive(Clone, Copy)]
pub(super) struct Marker<'g> {
    guard: &'g Guard,
    codes: Codes,
    level: Option<Level<'g>>,
    origin: Origin,
}

impl<'g> Marker<'g> {
    /// Marks nothing.
    pub(super) fn none(guard: &'g Guard) -> Self {
        let codes = Codes(*PRIVATE_USE.start());
        Self { guard, codes, level: None, origin: Origin::Client }
    }

    /// The same for text of another origin.
    pub(super) fn of(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    pub(super) fn text(&self, text: &str) -> Value {
        match (self.level, self.origin) {
            (Some(Level::Except(_)), Origin::Client) => self.marked(text, Level::Fragments),
            (Some(level), Origin::Client | Origin::Assistant) => self.marked(text, level),
            (None, _) => Value::from(text),
        }
    }

    /// The role of a message that is none of those that templates know: it is printed between `<|` and `|>`, so the middle
    /// of a special token is all that it would take.
    pub(super) fn role(&self, text: &str) -> Value {
        match self.level {
            Some(_) => self.marked(text, Level::Strict),
            None => Value::from(text),
        }
    }

    /// The name of a field. A template looks for names, so a harmless one must stay as it is.
    pub(super) fn key(&self, name: &str) -> Value {
        match self.level {
            Some(Level::Strict) => self.marked(name, Level::Fragments),
            Some(_) | None => self.text(name),
        }
    }

    fn marked(&self, text: &str, level: Level<'_>) -> Value {
        Value::from(self.guard.mark(text, self.codes, level).as_ref())
    }
}
