//! What does OpenAI's API look like?
//!
//! [`fields`] reads bodies: every field of a request is known, harmless, or refused by name. [`chat`] and [`completions`] are
//! the two endpoints that generate, [`text`] those that only turn text into tokens and back; [`options`] reads what the first two
//! share, [`logprobs`] writes it. [`reply`] knows how an answer becomes one object or a stream of events.

pub(crate) mod chat;
pub(crate) mod completions;
mod fields;
mod logprobs;
mod options;
pub(crate) mod reply;
pub(crate) mod text;

use std::sync::Arc;

use crate::request::Generation;

/// A request that was read, and the shape that its answer has.
pub(crate) struct Asked {
    pub(crate) generation: Arc<Generation>,
    pub(crate) shape: Box<dyn reply::Shape>,
    /// Nothing: one object.
    pub(crate) stream: Option<options::Stream>,
}
