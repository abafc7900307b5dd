//! How do tokens become an answer?
//!
//! Each choice of a request is one sequence. Its tokens are decoded as they come, without ever splitting a character, and shown
//! as far as no stop string can have begun. All choices of a request are one stream of events; the first error ends it,
//! and dropping it aborts every sequence that still runs.

mod speech;

use std::sync::Arc;
use std::time::Instant;

use async_stream::try_stream;
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use glint_core::{TokenLogprobs, Usage};

use crate::error::RequestError;
use crate::groups::{Groups, SequenceEvent};
use crate::metrics::Metrics;
use crate::request::Generation;
use speech::Speech;

/// Something new about one choice.
#[derive(Debug)]
pub(crate) enum Event {
    /// Log-probabilities of its prompt's tokens from position 1 on; comes first, if asked for.
    Prompt { choice: u32, logprobs: Vec<TokenLogprobs> },
    /// More of its text.
    Piece(Piece),
}

/// More of a choice's text.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) choice: u32,
    pub(crate) text: String,
    /// The tokens whose text ended in this piece.
    pub(crate) tokens: Vec<Token>,
    /// Present in the choice's last piece.
    pub(crate) end: Option<End>,
}

/// A token of the answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) logprobs: Option<TokenLogprobs>,
}

/// How a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) reason: &'static str,
    pub(crate) usage: Usage,
}

/// What a whole request cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) prompt_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) output_tokens: u32,
}

impl Total {
    /// Adds a choice. A prompt counts once, however many answers it has.
    pub(crate) fn add(&mut self, generation: &Generation, choice: u32, usage: &Usage) {
        if choice.is_multiple_of(generation.n) {
            self.prompt_tokens += usage.prompt_tokens;
            self.cached_tokens += usage.cached_tokens;
        }
        self.output_tokens += usage.output_tokens;
    }
}

/// A request's events, over all its choices.
pub(crate) type Events = BoxStream<'static, Result<Event, RequestError>>;

/// Starts all choices and returns what becomes of them. Ends after the last choice's end, or with the first error.
pub(crate) fn answer(
    generation: &Arc<Generation>,
    groups: &Arc<Groups>,
    metrics: &Metrics,
) -> Events {
    let choices = (0..generation.choices()).map(|choice| {
        one(Arc::clone(generation), Arc::clone(groups), metrics.clone(), choice).boxed()
    });
    let mut all: SelectAll<_> = choices.collect();
    let (generation, metrics) = (Arc::clone(generation), metrics.clone());
    let events = try_stream! {
        let mut is_first = true;
        while let Some(event) = all.next().await {
            let event = event?;
            if std::mem::take(&mut is_first) {
                metrics.first_token(generation.arrived.elapsed());
            }
            yield event;
        }
    };
    events.boxed()
}

/// The life of one choice.
fn one(
    generation: Arc<Generation>,
    groups: Arc<Groups>,
    metrics: Metrics,
    choice: u32,
) -> impl Stream<Item = Result<Event, RequestError>> + Send {
    try_stream! {
        let mut account = Account { metrics, output_tokens: 0, is_over: false };
        let dispatched = groups.dispatch(&generation, choice).await;
        let mut sequence = dispatched.inspect_err(|_| account.fail())?;
        let prompt_tokens = u32::try_from(generation.prompt_of(choice).ids.len())
            .expect("a prompt is shorter than its context");
        account.metrics.prompt(prompt_tokens, sequence.cached_tokens);
        let mut speech = Speech::new(&generation, choice);
        let mut prompt_logprobs = generation.sampling().prompt_logprobs.map(|_| Vec::new());
        let mut last = None::<Instant>;
        loop {
            let event = sequence.next().await.inspect_err(|_| account.fail())?;
            if let SequenceEvent::PromptLogprobs(more) = event {
                prompt_logprobs.get_or_insert_default().extend(more);
                continue;
            }
            if let Some(logprobs) = prompt_logprobs.take() {
                yield Event::Prompt { choice, logprobs };
            }
            let (piece, end) = match event {
                SequenceEvent::PromptLogprobs(_) => unreachable!("handled above"),
                SequenceEvent::Tokens(tokens) => {
                    let now = Instant::now();
                    if let Some(last) = last.replace(now) {
                        account.metrics.next_tokens(now - last, tokens.len());
                    }
                    let piece = speech.push(tokens);
                    let stopped = speech.has_stopped().then_some("stop");
                    (piece, stopped)
                }
                SequenceEvent::Finished(reason, _usage) => {
                    let (piece, reason) = speech.finish(reason);
                    (Some(piece), Some(reason))
                }
            };
            account.output_tokens = speech.output_tokens();
            let Some(reason) = end else {
                if let Some(piece) = piece {
                    yield Event::Piece(piece);
                }
                continue;
            };
            let usage = Usage {
                prompt_tokens,
                cached_tokens: sequence.cached_tokens,
                output_tokens: speech.output_tokens(),
            };
            account.finish(&usage, &generation);
            // Aborts what runs on after a stop string, before anybody reads the end.
            drop(sequence);
            let mut piece = piece.unwrap_or_else(|| speech.nothing());
            piece.end = Some(End { reason, usage });
            yield Event::Piece(piece);
            break;
        }
    }
}

/// Sees to it that a sequence is counted once, however it ends.
struct Account {
    metrics: Metrics,
    output_tokens: u32,
    is_over: bool,
}

impl Account {
    /// A failure is no abort: nobody wanted it.
    fn fail(&mut self) {
        self.is_over = true;
        self.metrics.failed(self.output_tokens);
    }

    fn finish(&mut self, usage: &Usage, generation: &Generation) {
        self.is_over = true;
        self.metrics.finished(usage, generation.arrived.elapsed());
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.is_over {
            self.metrics.aborted(self.output_tokens);
        }
    }
}
