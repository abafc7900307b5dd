//! Is what comes an answer, and when did its tokens arrive?
//!
//! [`Answer`] is told every piece with the time of its arrival and judges the whole when the stream has ended: cut, doubled and
//! disordered streams are failures of their own kinds, for each points at a different fault of a server.

use std::{borrow::Cow, sync::Arc, time::Instant};

use serde::Deserialize;

use crate::record::{ErrorKind, Outcome};

/// What is known of an answer so far.
#[derive(Debug, Default)]
pub struct Answer {
    /// When its first token came.
    pub first_token: Option<Instant>,
    /// When its last token came.
    pub last_token: Option<Instant>,
    /// Gaps between arrivals of tokens, microseconds.
    pub gaps_us: Vec<u32>,
    /// Arrivals of tokens.
    pub arrivals: u32,
    /// As the server counted.
    pub prompt_tokens: Option<u32>,
    /// As the server counted.
    pub cached_tokens: Option<u32>,
    /// As the server counted.
    pub completion_tokens: Option<u32>,
    /// `system_fingerprint`.
    pub revision: Option<Arc<str>>,
    /// What the answer says, in the pieces that came, where it is kept.
    pub pieces: Option<Vec<Box<str>>>,
    /// Token ids, where the server tells them and pieces are kept.
    pub token_ids: Vec<u32>,
    finished: bool,
    done: bool,
    /// Whether anything came that looks like an event.
    events_came: bool,
    failure: Option<(ErrorKind, Box<str>)>,
}

/// How an event is read, without copying its text.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(borrow, default)]
    system_fingerprint: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<u32>,
    #[serde(default)]
    completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

impl Message<'_> {
    fn text(&self) -> &str {
        match (&self.content, &self.reasoning_content, self.tool_calls) {
            (Some(text), _, _) if !text.is_empty() => text,
            (_, Some(text), _) if !text.is_empty() => text,
            (_, _, Some(calls)) if calls.get().len() > "null".len() => calls.get(),
            _ => "",
        }
    }
}

impl Answer {
    /// An answer of about `tokens` tokens, whose text is kept if `keep`.
    #[must_use]
    pub fn new(tokens: u32, keep: bool) -> Self {
        Self {
            // Bounded, for the number is the workload's and may be anything.
            gaps_us: Vec::with_capacity(tokens.min(4096) as usize),
            pieces: keep.then(Vec::new),
            ..Self::default()
        }
    }

    /// The payload of one `data:` line.
    pub(crate) fn event(&mut self, payload: &[u8], now: Instant) {
        self.events_came = true;
        if payload == b"[DONE]" {
            if std::mem::replace(&mut self.done, true) {
                self.fail(ErrorKind::Duplicated, "[DONE] came twice");
            }
            return;
        }
        if self.done {
            self.fail(ErrorKind::Reordered, "an event came after [DONE]");
        }
        let chunk: Chunk<'_> = match serde_json::from_slice(payload) {
            Ok(chunk) => chunk,
            Err(error) => {
                let start = String::from_utf8_lossy(&payload[..payload.len().min(80)]);
                return self.fail(
                    ErrorKind::Garbage,
                    format!("an event is no chunk of an answer ({error}): {start}"),
                );
            }
        };
        if let Some(error) = chunk.error.filter(|error| error.get() != "null") {
            return self.fail(ErrorKind::StreamError, message_of(error.get()));
        }
        self.note(&chunk);
        for choice in &chunk.choices {
            let text = choice.delta.as_ref().map(Message::text).or(choice.text.as_deref());
            self.piece(text.unwrap_or_default(), now);
            if choice.finish_reason.is_some() {
                self.finish();
            }
        }
    }

    /// A whole answer that was not streamed.
    pub(crate) fn whole(&mut self, body: &[u8]) {
        match serde_json::from_slice::<Chunk<'_>>(body) {
            Ok(Chunk { error: Some(error), .. }) if error.get() != "null" => {
                self.fail(ErrorKind::StreamError, message_of(error.get()));
            }
            Ok(chunk) if chunk.choices.is_empty() => {
                self.fail(ErrorKind::Garbage, "the answer has no choice");
            }
            Ok(chunk) => {
                self.note(&chunk);
                self.done = true;
                for choice in &chunk.choices {
                    let text =
                        choice.message.as_ref().map(Message::text).or(choice.text.as_deref());
                    let text = text.unwrap_or_default();
                    self.arrivals += u32::from(!text.is_empty());
                    if let Some(pieces) = &mut self.pieces {
                        pieces.push(text.into());
                    }
                    self.finished |= choice.finish_reason.is_some();
                }
            }
            Err(error) => self
                .fail(ErrorKind::Garbage, format!("the answer is no JSON of an answer: {error}")),
        }
    }

    fn note(&mut self, chunk: &Chunk<'_>) {
        if let Some(usage) = &chunk.usage {
            let cached = usage.prompt_tokens_details.as_ref().and_then(|of| of.cached_tokens);
            self.usage(usage.prompt_tokens, usage.completion_tokens, cached);
        }
        if let (None, Some(name)) = (&self.revision, &chunk.system_fingerprint) {
            self.revision = Some(Arc::from(&**name));
        }
    }

    /// What the server counted.
    pub(crate) fn usage(
        &mut self,
        prompt: Option<u32>,
        completion: Option<u32>,
        cached: Option<u32>,
    ) {
        self.prompt_tokens = prompt.or(self.prompt_tokens);
        self.completion_tokens = completion.or(self.completion_tokens);
        self.cached_tokens = cached.or(self.cached_tokens);
    }

    /// A piece of text came; an empty one is none.
    pub(crate) fn piece(&mut self, text: &str, now: Instant) {
        if text.is_empty() {
            return;
        }
        if self.finished {
            self.fail(ErrorKind::Reordered, "text came after the answer's end");
        }
        if let Some(last) = self.last_token {
            let gap = now.saturating_duration_since(last).as_micros();
            self.gaps_us.push(u32::try_from(gap).unwrap_or(u32::MAX));
        } else {
            self.first_token = Some(now);
        }
        self.last_token = Some(now);
        self.arrivals += 1;
        if let Some(pieces) = &mut self.pieces {
            pieces.push(text.into());
        }
    }

    /// The server says that the answer is finished.
    pub(crate) fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            self.fail(ErrorKind::Duplicated, "the answer's end came twice");
        }
    }

    /// The server says that nothing comes any more.
    pub(crate) fn done(&mut self) {
        self.done = true;
    }

    /// The first failure is the one that counts.
    pub(crate) fn fail(&mut self, kind: ErrorKind, message: impl Into<Box<str>>) {
        self.failure.get_or_insert_with(|| (kind, message.into()));
    }

    /// The stream has ended; it began with `start`. A stream without events is no stream of an answer.
    pub(crate) fn ended(&mut self, start: &[u8]) {
        if !self.events_came && !start.is_empty() {
            let start = String::from_utf8_lossy(&start[..start.len().min(80)]);
            self.fail(ErrorKind::Garbage, format!("no event came but: {start}"));
        }
    }

    /// Whether reading on is of no use.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Tokens of the answer.
    #[must_use]
    pub fn output_tokens(&self) -> u32 {
        self.completion_tokens.unwrap_or(self.arrivals)
    }

    /// Judges an answer whose stream has ended.
    pub(crate) fn judge(&mut self) -> Outcome {
        if let Some((kind, message)) = self.failure.take() {
            return Outcome::Failed(kind, message);
        }
        let cut = |what: &str| Outcome::Failed(ErrorKind::Cut, what.into());
        match (self.done, self.finished) {
            (false, false) => return cut("the stream ended in the middle of the answer"),
            (false, true) => return cut("the stream ended without [DONE]"),
            (true, false) => return cut("[DONE] came before a finish_reason"),
            (true, true) => {}
        }
        // Tokens may have no text: the bytes of a character that was never finished, or special ones.
        if self.output_tokens() == 0 {
            return Outcome::Failed(ErrorKind::Empty, "the answer has no token".into());
        }
        match self.completion_tokens {
            Some(tokens) if tokens < self.arrivals => Outcome::Failed(
                ErrorKind::Duplicated,
                format!("{} pieces of text came for {tokens} tokens", self.arrivals).into(),
            ),
            _ => Outcome::Done,
        }
    }
}

/// The server's own words in an OpenAI-style error, or the beginning of whatever it is.
pub(crate) fn message_of(body: &str) -> Box<str> {
    let value: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let message =
        [&value["error"]["message"], &value["message"], &value["error"], &value["detail"]]
            .into_iter()
            .find_map(serde_json::Value::as_str);
    let text = message.unwrap_or(body).trim();
    text.chars().take(300).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(piece: &str) -> String {
        format!(
            r#"{{"choices":[{{"index":0,"delta":{{"content":"{piece}"}},"finish_reason":null}}]}}"#
        )
    }
    const END: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#;

    fn judged(events: &[&str]) -> (Answer, Outcome) {
        let mut answer = Answer::new(4, true);
        let begin = Instant::now();
        for (n, event) in (0..).zip(events) {
            answer.event(event.as_bytes(), begin + Duration::from_millis(n));
        }
        let outcome = answer.judge();
        (answer, outcome)
    }

    fn kind(events: &[&str]) -> Option<ErrorKind> {
        match judged(events).1 {
            Outcome::Failed(kind, _) => Some(kind),
            Outcome::Done | Outcome::Left | Outcome::Unfinished => None,
        }
    }

    #[test]
    fn a_whole_answer_is_done_and_measured() {
        let (answer, outcome) = judged(&[&text("a"), &text("b"), END, USAGE, "[DONE]"]);
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(answer.gaps_us, [1000]);
        assert_eq!((answer.prompt_tokens, answer.cached_tokens), (Some(7), Some(4)));
        assert_eq!(answer.output_tokens(), 2);
        assert_eq!(answer.pieces.unwrap().concat(), "ab");
    }

    #[test]
    fn every_fault_of_a_stream_has_its_kind() {
        let (a, b) = (&text("a")[..], &text("b")[..]);
        assert_eq!(kind(&[a, b]), Some(ErrorKind::Cut));
        assert_eq!(kind(&[a, END]), Some(ErrorKind::Cut));
        assert_eq!(kind(&[a, "[DONE]"]), Some(ErrorKind::Cut));
        assert_eq!(kind(&[a, END, END, "[DONE]"]), Some(ErrorKind::Duplicated));
        assert_eq!(kind(&[a, END, "[DONE]", "[DONE]"]), Some(ErrorKind::Duplicated));
        assert_eq!(kind(&[a, a, b, END, USAGE, "[DONE]"]), Some(ErrorKind::Duplicated));
        assert_eq!(kind(&[a, END, b, "[DONE]"]), Some(ErrorKind::Reordered));
        assert_eq!(kind(&[a, END, "[DONE]", b]), Some(ErrorKind::Reordered));
        assert_eq!(kind(&[a, "<html>", END, "[DONE]"]), Some(ErrorKind::Garbage));
        assert_eq!(kind(&[END, "[DONE]"]), Some(ErrorKind::Empty));
        assert_eq!(kind(&[a, r#"{"error":{"message":"lost"}}"#]), Some(ErrorKind::StreamError));
    }

    #[test]
    fn tokens_without_text_are_an_answer_and_no_token_at_all_is_none() {
        assert_eq!(judged(&[END, USAGE, "[DONE]"]).1, Outcome::Done);
        let nothing = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":0}}"#;
        assert_eq!(kind(&[END, nothing, "[DONE]"]), Some(ErrorKind::Empty));
    }

    #[test]
    fn the_servers_own_words_are_found() {
        assert_eq!(&*message_of(r#"{"error":{"message":"no such model"}}"#), "no such model");
        assert_eq!(&*message_of(r#"{"detail":"Not Found"}"#), "Not Found");
        assert_eq!(&*message_of("<html>bad gateway"), "<html>bad gateway");
    }
}
