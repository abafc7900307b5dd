//! What has happened to a sequence that its caller does not know yet?
//!
//! The engine's thread puts events in and never waits; the caller's stream takes them out. Tokens that lie here are
//! sent as one message, so a caller that is slow for a moment costs fewer messages, not more. One that stays slow
//! loses its sequence.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::Stream;
use glint_engine::Event;
use glint_proto::{status, v1};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;
use v1::generate_response::Event as Wire;

use crate::group::GroupError;

/// Tokens that may lie unread; one more ends the sequence.
const UNREAD_TOKENS_MAX: usize = 4096;

/// The events of one sequence, from the engine's thread to the caller's stream.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    unread: Mutex<Unread>,
    filled: Notify,
    abandoned: AtomicBool,
}

/// In the order in which the wire wants them.
#[derive(Debug, Default)]
struct Unread {
    started: Option<v1::Started>,
    /// As many as the prompt has chunks, at most.
    prompt_logprobs: VecDeque<v1::PromptLogprobs>,
    tokens: v1::Tokens,
    end: Option<Result<v1::Finished, GroupError>>,
}

impl Outbox {
    /// Puts an event in. Returns false if the caller is too slow: the sequence is then over for it.
    pub(crate) fn put(&self, event: Event) -> bool {
        let mut unread = self.unread.lock();
        match event {
            Event::Started { cached_tokens, .. } => {
                unread.started = Some(v1::Started { cached_tokens });
            }
            Event::PromptLogprobs { first_position, tokens, .. } => {
                let tokens = tokens.into_iter().map(Into::into).collect();
                unread.prompt_logprobs.push_back(v1::PromptLogprobs { first_position, tokens });
            }
            Event::Token { token, logprobs, .. } => {
                unread.tokens.ids.push(token);
                unread.tokens.logprobs.extend(logprobs.map(Into::into));
            }
            Event::Finished { reason, usage, .. } => unread.end = Some(Ok((reason, usage).into())),
            Event::Failed { .. } => unread.end = Some(Err(GroupError::Sequence)),
        }
        let unread_tokens = unread.tokens.ids.len();
        let is_slow = unread_tokens > UNREAD_TOKENS_MAX;
        if is_slow {
            unread.end = Some(Err(GroupError::TooSlow { unread_tokens }));
        }
        drop(unread);
        self.filled.notify_one();
        !is_slow
    }

    /// Says that nothing will follow.
    pub(crate) fn fail(&self, error: GroupError) {
        self.unread.lock().end = Some(Err(error));
        self.filled.notify_one();
    }

    /// Returns whether the caller has gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Takes the next message; after the last one, nothing.
    fn take(&self) -> Option<Taken> {
        let mut unread = self.unread.lock();
        let event = if let Some(started) = unread.started.take() {
            Wire::Started(started)
        } else if let Some(described) = unread.prompt_logprobs.pop_front() {
            Wire::PromptLogprobs(described)
        } else if !unread.tokens.ids.is_empty() {
            Wire::Tokens(std::mem::take(&mut unread.tokens))
        } else {
            return Some(match unread.end.take()? {
                Ok(finished) => Taken::Last(Ok(message(Wire::Finished(finished)))),
                Err(error) => Taken::Last(Err(status(&error))),
            });
        };
        Some(Taken::More(message(event)))
    }
}

fn message(event: Wire) -> v1::GenerateResponse {
    v1::GenerateResponse { event: Some(event) }
}

enum Taken {
    More(v1::GenerateResponse),
    Last(Result<v1::GenerateResponse, Status>),
}

/// The caller's end. Dropped, it takes the sequence back.
#[derive(Debug)]
pub(crate) struct Reader(Arc<Outbox>);

impl Reader {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self(outbox)
    }

    /// Returns the stream of messages; it ends with the sequence, or at the deadline.
    pub(crate) fn messages(
        self,
        deadline: Option<Instant>,
    ) -> impl Stream<Item = Result<v1::GenerateResponse, Status>> + Send + 'static {
        futures::stream::unfold(Some(self), move |reader| async move {
            let reader = reader?;
            match reader.next(deadline).await {
                Taken::More(message) => Some((Ok(message), Some(reader))),
                Taken::Last(message) => Some((message, None)),
            }
        })
    }

    async fn next(&self, deadline: Option<Instant>) -> Taken {
        loop {
            if let Some(taken) = self.0.take() {
                return taken;
            }
            let filled = self.0.filled.notified();
            match deadline {
                None => filled.await,
                Some(deadline) => {
                    if tokio::time::timeout_at(deadline, filled).await.is_err() {
                        return Taken::Last(Err(status(&GroupError::Deadline)));
                    }
                }
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::StreamExt;
    use glint_core::{FinishReason, Usage};
    use glint_engine::SequenceId;

    use super::*;

    const ID: SequenceId = SequenceId(0);

    fn token(token: u32) -> Event {
        Event::Token { id: ID, token, logprobs: None }
    }

    #[tokio::test]
    async fn tokens_that_wait_travel_together_and_the_order_holds() {
        let outbox = Arc::new(Outbox::default());
        let reader = Reader::new(Arc::clone(&outbox));
        let usage = Usage::default();
        outbox.put(Event::Started { id: ID, cached_tokens: 3, waited: Duration::ZERO });
        outbox.put(token(5));
        outbox.put(token(6));
        outbox.put(Event::Finished { id: ID, reason: FinishReason::Stop, usage });
        let messages: Vec<_> = reader.messages(None).collect().await;
        let events: Vec<Wire> =
            messages.into_iter().map(|message| message.unwrap().event.unwrap()).collect();
        assert!(matches!(events[0], Wire::Started(v1::Started { cached_tokens: 3 })));
        assert!(matches!(&events[1], Wire::Tokens(tokens) if tokens.ids == [5, 6]));
        assert!(matches!(events[2], Wire::Finished(_)));
        assert_eq!(events.len(), 3);
        assert!(outbox.is_abandoned(), "a stream that has ended holds nothing");
    }

    #[tokio::test]
    async fn a_reader_that_stays_slow_loses_its_sequence() {
        let outbox = Arc::new(Outbox::default());
        let reader = Reader::new(Arc::clone(&outbox));
        assert!((0..UNREAD_TOKENS_MAX as u32).all(|id| outbox.put(token(id))));
        assert!(!outbox.put(token(0)));
        let last = reader.messages(None).collect::<Vec<_>>().await.pop().unwrap();
        assert!(last.unwrap_err().message().starts_with("4097 tokens"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_at_its_deadline() {
        let outbox = Arc::new(Outbox::default());
        let reader = Reader::new(Arc::clone(&outbox));
        let messages: Vec<_> =
            reader.messages(Some(Instant::now() + Duration::from_secs(3))).collect().await;
        assert_eq!(messages[0].as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
        assert!(outbox.is_abandoned());
    }
}
