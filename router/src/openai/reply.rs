//! How does an answer become one object, or a stream of events?

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};

use super::options;
use crate::answer::{Event, Events, Total};
use crate::error::RequestError;
use crate::http::error_object;
use crate::request::Generation;

/// An event that is larger is sent before others are put beside it.
const FLUSH_BYTES: usize = 16 << 10;

/// The form of an endpoint's answers.
pub(crate) trait Shape: Send + 'static {
    /// Returns the objects of a stream that come first, if there are any.
    fn begin(&mut self) -> Vec<Value>;
    /// Returns the objects of a stream that tell this event.
    fn event(&mut self, event: Event) -> Vec<Value>;
    /// Returns the last object of a stream, without its usage.
    fn last(&mut self) -> Value;
    /// Returns the whole answer, without its usage, of all the events of a request.
    fn whole(&mut self, events: Vec<Event>) -> Value;
}

/// What every object of an answer repeats.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
}

impl Head {
    pub(super) fn new(prefix: &str, object: &'static str, model: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            object,
            created: now.as_secs(),
            model: model.to_owned(),
        }
    }

    /// Returns an object with these choices.
    pub(super) fn with(&self, choices: Vec<Value>) -> Value {
        let Self { id, object, created, model } = self;
        json!({"id": id, "object": object, "created": created, "model": model, "choices": choices})
    }
}

/// Returns the `usage` object.
pub(crate) fn usage(total: &Total) -> Value {
    json!({
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.output_tokens,
        "total_tokens": total.prompt_tokens + total.output_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
    })
}

fn count(total: &mut Total, generation: &Generation, event: &Event) {
    if let Event::Piece(piece) = event
        && let Some(end) = &piece.end
    {
        total.add(generation, piece.choice, &end.usage);
    }
}

/// Waits for all of the answer.
pub(crate) async fn whole(
    generation: &Generation,
    mut events: Events,
    shape: &mut dyn Shape,
) -> Result<Value, RequestError> {
    let (mut all, mut total) = (Vec::new(), Total::default());
    while let Some(event) = events.next().await {
        let event = event?;
        count(&mut total, generation, &event);
        all.push(event);
    }
    let mut object = shape.whole(all);
    object["usage"] = usage(&total);
    Ok(object)
}

/// Waits for the first event or until `first_byte` has passed, and returns the stream's bytes. An error that comes by then has a
/// status of its own; a later one is an event, and no `[DONE]` follows.
pub(crate) async fn stream(
    generation: Arc<Generation>,
    mut events: Events,
    shape: Box<dyn Shape>,
    options: options::Stream,
    first_byte: Duration,
) -> Result<Sse, RequestError> {
    let first = match tokio::time::timeout(first_byte, events.next()).await {
        Ok(Some(Err(error))) => return Err(error),
        Ok(first) => first,
        Err(_elapsed) => None,
    };
    let mut sse = Sse {
        generation,
        events,
        shape,
        include_usage: options.include_usage,
        total: Total::default(),
        buffer: Vec::new(),
        is_over: false,
        silence_max: first_byte,
        silence: Box::pin(tokio::time::sleep(first_byte)),
    };
    for object in sse.shape.begin() {
        sse.write(object);
    }
    match first {
        Some(event) => sse.tell(event),
        None => sse.buffer.extend_from_slice(KEEP_ALIVE),
    }
    Ok(sse)
}

/// A comment: clients ignore it, proxies see that the stream lives.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// A stream of server-sent events, as bytes. Whatever is ready goes out together.
pub(crate) struct Sse {
    generation: Arc<Generation>,
    events: Events,
    shape: Box<dyn Shape>,
    include_usage: bool,
    total: Total,
    buffer: Vec<u8>,
    is_over: bool,
    silence_max: Duration,
    silence: Pin<Box<Sleep>>,
}

impl Sse {
    fn write(&mut self, mut object: Value) {
        if self.include_usage && object.get("usage").is_none() {
            object["usage"] = Value::Null;
        }
        self.buffer.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut self.buffer, &object).expect("a Value is JSON, a Vec takes it");
        self.buffer.extend_from_slice(b"\n\n");
    }

    fn tell(&mut self, event: Result<Event, RequestError>) {
        match event {
            Ok(event) => {
                count(&mut self.total, &self.generation, &event);
                for object in self.shape.event(event) {
                    self.write(object);
                }
            }
            Err(error) => {
                self.include_usage = false;
                self.write(error_object(&error));
                self.is_over = true;
            }
        }
    }

    fn end(&mut self) {
        if self.include_usage {
            let mut last = self.shape.last();
            last["usage"] = usage(&self.total);
            self.write(last);
        }
        self.buffer.extend_from_slice(b"data: [DONE]\n\n");
        self.is_over = true;
    }
}

impl Stream for Sse {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.is_over && this.buffer.len() < FLUSH_BYTES {
            match this.events.poll_next_unpin(context) {
                Poll::Ready(Some(event)) => this.tell(event),
                Poll::Ready(None) => this.end(),
                Poll::Pending => break,
            }
        }
        if this.buffer.is_empty() {
            if this.is_over {
                return Poll::Ready(None);
            }
            if this.silence.poll_unpin(context).is_pending() {
                return Poll::Pending;
            }
            this.buffer.extend_from_slice(KEEP_ALIVE);
        }
        let deadline = Instant::now() + this.silence_max;
        this.silence.as_mut().reset(deadline);
        Poll::Ready(Some(Ok(std::mem::take(&mut this.buffer).into())))
    }
}
