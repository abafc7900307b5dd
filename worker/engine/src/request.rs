//! What is asked of the engine, and what does it answer?

use std::time::Duration;

use glint_core::{
    Failure, FinishReason, Kind, SamplingError, SamplingParams, TokenLogprobs, Usage,
};

/// One sequence of one engine. Never reused; a later sequence has a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// A sequence to be continued.
#[derive(Clone, Debug)]
pub struct EngineRequest {
    /// The prompt; a resumed request adds the output that its client already has.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are prompt. Fewer than all: the rest is output, counts against `max_tokens`, and is not
    /// sent again. If that output is already complete, the sequence finishes at once.
    pub prompt_tokens: u32,
    /// How tokens are drawn and when the sequence ends. Asking for `prompt_logprobs` forgoes the prefix cache, for
    /// what was not computed has no logits; a resumed request gets none, for they were sent before its first token.
    pub sampling: SamplingParams,
    /// Empty: there are no adapters yet.
    pub adapter: String,
    /// Requests share cached blocks only under equal salts.
    pub salt: Vec<u8>,
    /// Whatever the caller wants loads to be summed by, for example the router's connection.
    pub tag: u64,
}

/// What happened to a sequence. In this order: `Started`, `PromptLogprobs`…, `Token`…, then `Finished` or `Failed`,
/// after which its id is not heard of again. Nothing follows an abort.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It left the queue. Comes once, also when it is preempted and restarted.
    Started {
        /// The sequence.
        id: SequenceId,
        /// Tokens of the request whose KV blocks were in the prefix cache.
        cached_tokens: u32,
        /// Time in the queue.
        waited: Duration,
    },
    /// Log-probabilities of consecutive prompt tokens; each position comes once, in order, before the first token.
    PromptLogprobs {
        /// The sequence.
        id: SequenceId,
        /// Position of the first token described, at least 1.
        first_position: u32,
        /// One entry per position.
        tokens: Vec<TokenLogprobs>,
    },
    /// A token was drawn.
    Token {
        /// The sequence.
        id: SequenceId,
        /// The token. An end token is sent too, as the last one.
        token: u32,
        /// Present if asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// It is over.
    Finished {
        /// The sequence.
        id: SequenceId,
        /// Why.
        reason: FinishReason,
        /// What it cost; `output_tokens` are those drawn here, without those that a resumed request brought along.
        usage: Usage,
    },
    /// It is over, alone, and it is our fault: [`Kind::Internal`].
    Failed {
        /// The sequence.
        id: SequenceId,
        /// For the log.
        message: String,
    },
}

/// A request that is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AdmitError {
    /// No tokens: there is nothing to continue.
    #[error("the prompt is empty, send at least one token")]
    EmptyPrompt,
    /// No room for output behind it.
    #[error("prompt has {prompt_tokens} tokens, the model takes {limit_tokens}")]
    PromptTooLong {
        /// Tokens sent.
        prompt_tokens: u32,
        /// The longest prompt that leaves room for one token.
        limit_tokens: u32,
    },
    /// A token id that the model does not have.
    #[error("token id {id} at position {position}, the vocabulary has {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Its place in the tokens sent.
        position: u32,
        /// Ids below this one exist.
        vocab_size: u32,
    },
    /// A resumed request whose prompt is empty or longer than its tokens.
    #[error("{prompt_tokens} of {tokens} tokens are said to be prompt, use 1 to {tokens}")]
    BadResume {
        /// Tokens said to be prompt.
        prompt_tokens: u32,
        /// Tokens sent.
        tokens: u32,
    },
    /// An adapter, of which there are none.
    #[error("adapter {adapter:?} is not loaded, leave it empty")]
    UnknownAdapter {
        /// The name.
        adapter: String,
    },
    /// A sampling parameter that cannot be honoured.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// With all its output, it would not fit even if it were alone.
    #[error(
        "{needed_blocks} KV blocks needed for prompt and max_tokens, the group has {total_blocks}"
    )]
    OutOfBlocks {
        /// For prompt and `max_tokens`, or the whole context.
        needed_blocks: u32,
        /// KV blocks of the group.
        total_blocks: u32,
    },
    /// As many wait as may.
    #[error("{waiting} requests wait, at most {waiting_max} may")]
    QueueFull {
        /// How many wait.
        waiting: u32,
        /// How many may.
        waiting_max: u32,
    },
    /// The group takes no new requests.
    #[error("the group is draining, ask another one")]
    Draining,
}

impl Failure for AdmitError {
    fn kind(&self) -> Kind {
        match self {
            Self::EmptyPrompt
            | Self::PromptTooLong { .. }
            | Self::UnknownToken { .. }
            | Self::BadResume { .. }
            | Self::UnknownAdapter { .. } => Kind::Invalid,
            Self::Sampling(error) => error.kind(),
            Self::OutOfBlocks { .. } | Self::QueueFull { .. } => Kind::Exhausted,
            Self::Draining => Kind::Unavailable,
        }
    }
}
