//! Has the answer said one of its stop strings?
//!
//! Text arrives in pieces that know nothing of stop strings, so a piece is given out only as far as it cannot be the beginning
//! of one. The answer stops at the first character that completes a stop string; if that completes several, the longest
//! counts. So the result does not depend on how the text was cut into pieces.

/// Whether the stop string itself is part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopText {
    /// The answer ends before it, as OpenAI has it.
    Exclude,
    /// The answer ends with it.
    Include,
}

/// What may be shown now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emitted {
    /// Text that is certain.
    pub text: String,
    /// The stop string that ended the answer, by its place in the list given to [`StopMatcher::new`].
    pub stop: Option<usize>,
}

/// Looks for stop strings in one streamed answer. Keeps less than the longest of them.
#[derive(Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    stop_text: StopText,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// Starts an answer. An empty stop string never matches.
    pub fn new(stops: &[String], stop_text: StopText) -> Self {
        let patterns = stops.iter().map(|stop| Pattern::new(stop)).collect();
        Self { patterns, stop_text, held: String::new(), stopped: false }
    }

    /// Takes more of the answer and returns what may be shown. After a stop, everything is dropped.
    pub fn push(&mut self, text: &str) -> Emitted {
        if self.stopped {
            return Emitted::default();
        }
        let held = self.held.len();
        self.held.push_str(text);
        for (position, byte) in text.bytes().enumerate() {
            let mut longest: Option<(usize, usize)> = None;
            for (index, pattern) in self.patterns.iter_mut().enumerate() {
                let completed = pattern.advance(byte);
                if completed && longest.is_none_or(|(length, _)| pattern.bytes.len() > length) {
                    longest = Some((pattern.bytes.len(), index));
                }
            }
            if let Some((length, index)) = longest {
                return self.stop_at(held + position + 1, length, index);
            }
        }
        let keep = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Emitted { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// Ends the answer and returns what was held back because a stop string might have begun there.
    pub fn flush(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }

    fn stop_at(&mut self, end: usize, length: usize, index: usize) -> Emitted {
        self.stopped = true;
        let mut text = std::mem::take(&mut self.held);
        text.truncate(match self.stop_text {
            StopText::Exclude => end - length,
            StopText::Include => end,
        });
        Emitted { text, stop: Some(index) }
    }
}

/// One stop string, and how much of it the text so far ends with (Knuth, Morris and Pratt).
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length of a prefix: the longest shorter prefix that it ends with.
    borders: Vec<usize>,
    matched: usize,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len() + 1];
        for length in 1..bytes.len() {
            let mut border = borders[length];
            while border > 0 && bytes[border] != bytes[length] {
                border = borders[border];
            }
            borders[length + 1] = border + usize::from(bytes[border] == bytes[length]);
        }
        Self { bytes, borders, matched: 0 }
    }

    /// Returns whether this byte completes the stop string.
    fn advance(&mut self, byte: u8) -> bool {
        if self.bytes.is_empty() {
            return false;
        }
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.borders[self.matched];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        self.matched == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the definition says, by looking at every prefix of the whole text.
    fn oracle(text: &str, stops: &[String], stop_text: StopText) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let bytes = &text.as_bytes()[..end];
            let ending = |stop: &&String| !stop.is_empty() && bytes.ends_with(stop.as_bytes());
            let Some(longest) = stops.iter().filter(ending).map(String::len).max() else {
                continue;
            };
            let ends = |stop: &String| stop.len() == longest && bytes.ends_with(stop.as_bytes());
            let index = stops.iter().position(ends);
            let shown = match stop_text {
                StopText::Exclude => end - longest,
                StopText::Include => end,
            };
            return (text[..shown].to_owned(), index);
        }
        (text.to_owned(), None)
    }

    fn owned(stops: &[&str]) -> Vec<String> {
        stops.iter().map(|stop| (*stop).to_owned()).collect()
    }

    #[test]
    fn a_possible_beginning_is_held_and_given_out_when_it_was_none() {
        let mut matcher = StopMatcher::new(&owned(&["\n\n"]), StopText::Exclude);
        assert_eq!(matcher.push("one\n").text, "one");
        assert_eq!(matcher.push("two\n").text, "\ntwo");
        let end = matcher.push("\nthree");
        assert_eq!(end, Emitted { text: String::new(), stop: Some(0) });
        assert_eq!(matcher.push("four"), Emitted::default());
        assert_eq!(matcher.flush(), "");
    }

    #[test]
    fn what_is_held_at_the_end_is_text() {
        let mut matcher = StopMatcher::new(&owned(&["stop"]), StopText::Exclude);
        assert_eq!(matcher.push("don't sto").text, "don't ");
        assert_eq!(matcher.flush(), "sto");
    }

    #[test]
    fn the_longest_of_several_that_end_together_counts() {
        let mut matcher = StopMatcher::new(&owned(&["b", "ab", ""]), StopText::Exclude);
        assert_eq!(matcher.push("xab"), Emitted { text: "x".to_owned(), stop: Some(1) });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// However the text is cut, a stop string ends it where it would end the whole; nothing shown is taken back, and no more
        /// is held than could become a stop string.
        #[test]
        fn any_cutting_gives_what_the_naive_search_gives(
            pieces in prop::collection::vec("[abé]{0,4}", 0..8),
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            include in any::<bool>(),
        ) {
            let stop_text = if include { StopText::Include } else { StopText::Exclude };
            let (text, index) = oracle(&pieces.concat(), &stops, stop_text);
            let mut matcher = StopMatcher::new(&stops, stop_text);
            let (mut shown, mut stop, mut pushed) = (String::new(), None, String::new());
            for piece in &pieces {
                pushed.push_str(piece);
                let emitted = matcher.push(piece);
                shown.push_str(&emitted.text);
                prop_assert!(stop.is_none() || emitted == Emitted::default());
                stop = stop.or(emitted.stop);
                if stop.is_none() {
                    let held = &pushed[shown.len()..];
                    prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held)));
                }
            }
            shown.push_str(&matcher.flush());
            prop_assert_eq!(shown, text);
            prop_assert_eq!(stop, index);
        }
    }
}
