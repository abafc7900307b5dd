//! Which text may be shown, and which tokens made it?

use std::collections::VecDeque;
use std::sync::Arc;

use glint_core::{FinishReason, TokenLogprobs};
use glint_tokenizer::{Specials, StopMatcher, StopText, StreamDecoder};

use super::{Piece, Token};
use crate::request::Generation;

/// One choice's tokens on their way to text.
pub(super) struct Speech {
    choice: u32,
    decoder: StreamDecoder,
    matcher: StopMatcher,
    /// Stop strings count from the first character after so many tokens.
    min_tokens: u32,
    output_tokens: u32,
    /// Bytes of text so far, with what is held back.
    decoded_bytes: usize,
    /// Bytes of text that were shown.
    shown_bytes: usize,
    /// Tokens whose text is not shown yet.
    waiting: VecDeque<Waiting>,
    has_stopped: bool,
    is_silent: bool,
}

struct Waiting {
    token: Token,
    start_byte: usize,
    end_byte: usize,
}

impl Speech {
    pub(super) fn new(generation: &Generation, choice: u32) -> Self {
        let tokenizer = Arc::clone(&generation.text().tokenizer);
        Self {
            choice,
            decoder: StreamDecoder::new(tokenizer, Specials::Skip),
            matcher: StopMatcher::new(&generation.stop, StopText::Exclude),
            min_tokens: generation.sampling_of(choice).min_tokens,
            output_tokens: 0,
            decoded_bytes: 0,
            shown_bytes: 0,
            waiting: VecDeque::new(),
            has_stopped: false,
            is_silent: generation.prompt_only,
        }
    }

    /// Returns whether a stop string has come; tokens after it are not looked at.
    pub(super) fn has_stopped(&self) -> bool {
        self.has_stopped
    }

    /// Returns how many tokens were taken, the one that completed a stop string being the last.
    pub(super) fn output_tokens(&self) -> u32 {
        self.output_tokens
    }

    /// Takes tokens and returns what can be shown now, if there is anything.
    pub(super) fn push(&mut self, tokens: Vec<(u32, Option<TokenLogprobs>)>) -> Option<Piece> {
        if self.is_silent {
            return None;
        }
        let mut piece = self.nothing();
        for (id, logprobs) in tokens {
            if self.has_stopped {
                break;
            }
            self.take(Token { id, logprobs }, &mut piece);
        }
        (!piece.text.is_empty() || self.has_stopped).then_some(piece)
    }

    /// Ends the choice as its group does, and returns what was held back.
    pub(super) fn finish(&mut self, reason: FinishReason) -> (Piece, &'static str) {
        let mut piece = self.nothing();
        let reason = match reason {
            FinishReason::Stop => {
                // The token that ended the answer is no part of what was said.
                let last = self.waiting.back().filter(|last| last.start_byte == last.end_byte);
                if last.is_some() {
                    self.waiting.pop_back();
                }
                "stop"
            }
            FinishReason::Length | FinishReason::Aborted => "length",
        };
        let rest = self.decoder.finish().to_owned();
        self.decoded_bytes += rest.len();
        let emitted = self.matcher.push(&rest);
        self.show(&emitted.text, &mut piece);
        let mut reason = reason;
        if emitted.stop.is_some() {
            reason = "stop";
        } else {
            let held = self.matcher.flush();
            self.show(&held, &mut piece);
        }
        piece.tokens.extend(self.waiting.drain(..).map(|waiting| waiting.token));
        (piece, reason)
    }

    /// Returns a piece without text.
    pub(super) fn nothing(&self) -> Piece {
        Piece { choice: self.choice, text: String::new(), tokens: Vec::new(), end: None }
    }

    fn take(&mut self, token: Token, piece: &mut Piece) {
        let text = self.decoder.push(token.id);
        self.output_tokens += 1;
        let start_byte = self.decoded_bytes;
        self.decoded_bytes += text.len();
        self.waiting.push_back(Waiting { token, start_byte, end_byte: self.decoded_bytes });
        if self.output_tokens <= self.min_tokens {
            let text = text.to_owned();
            return self.show(&text, piece);
        }
        let emitted = self.matcher.push(text);
        self.show(&emitted.text, piece);
        if emitted.stop.is_some() {
            self.has_stopped = true;
            // A token that is shown in part counts; one that is all stop string does not.
            let shown = self.shown_bytes;
            let rest = self.waiting.drain(..).filter(|waiting| waiting.start_byte < shown);
            piece.tokens.extend(rest.map(|waiting| waiting.token));
        }
    }

    fn show(&mut self, text: &str, piece: &mut Piece) {
        piece.text.push_str(text);
        self.shown_bytes += text.len();
        if text.is_empty() {
            return;
        }
        // A token without text of its own waits for the next that has some.
        while let Some(first) = self.waiting.front().filter(|w| w.end_byte <= self.shown_bytes) {
            if first.start_byte == first.end_byte && first.end_byte == self.shown_bytes {
                break;
            }
            piece.tokens.extend(self.waiting.pop_front().map(|waiting| waiting.token));
        }
    }
}
