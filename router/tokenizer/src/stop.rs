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
