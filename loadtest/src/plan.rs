//! What is to be sent, and when?
//!
//! A [`Schedule`] yields [`Session`]s in the order of their starts. A session is one user: its turns come one after another, each
//! at a time of its own or after the answer before it. A request that stands alone is a session of one turn.
//!
//! A prompt is made of named [`Piece`]s, so that a trace of a hundred million tokens needs no memory and two prompts share
//! exactly the beginning that their traces share: pieces of one name begin with the same tokens.

use std::{sync::Arc, time::Duration};

/// Sessions in the order of their starts. It may be endless; whoever drives it ends it.
pub type Schedule = Box<dyn Iterator<Item = Result<Session, PlanError>> + Send>;

/// Why a schedule cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file cannot be read.
    #[error("cannot read {file}: {error}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A line of a file says nothing that can be sent.
    #[error("{file}, line {line}: {reason}")]
    Line {
        /// The file.
        file: String,
        /// From 1.
        line: u64,
        /// What is wrong with it and what should stand there.
        reason: String,
    },
    /// What was asked for cannot be done.
    #[error("{0}")]
    Impossible(String),
}

/// One user's turns.
#[derive(Clone, Debug)]
pub struct Session {
    /// Intended start after the run's begin. A closed loop ignores it and starts a session when another has ended.
    pub start: Duration,
    /// Who asks.
    pub labels: Labels,
    /// In order, at least one.
    pub turns: Vec<Turn>,
}

/// One request of a session.
#[derive(Clone, Debug)]
pub struct Turn {
    /// When it is to be sent.
    pub begins: Begins,
    /// What is asked.
    pub prompt: Prompt,
    /// Tokens to be generated.
    pub output_tokens: u32,
    /// How the client treats the answer.
    pub reader: Reader,
}

/// When a turn is to be sent: its *intended* start, from which latency counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// So long after the session's start, whatever became of the turns before: an open loop.
    At(Duration),
    /// So long after the end of the turn before: its user thinks, or its tool runs.
    After(Duration),
}

/// What a request asks.
#[derive(Clone, Debug)]
pub enum Prompt {
    /// The whole prompt.
    Whole(Vec<Piece>),
    /// What is said after everything that was said in this session before, the server's answers included.
    Next(Vec<Piece>),
    /// Messages as the chat endpoint takes them: a JSON array.
    Messages(Arc<serde_json::value::RawValue>),
    /// Text as it is.
    Text(Arc<str>),
    /// Token ids as they are.
    TokenIds(Arc<[u32]>),
}

/// The first `tokens` tokens of the endless sequence that `name` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Equal names, equal tokens.
    pub name: u64,
    /// Length in tokens.
    pub tokens: u32,
}

/// How a client treats the answer it asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Reader {
    /// Reads it to the end as fast as it comes.
    #[default]
    Whole,
    /// Closes the stream once so many tokens have come.
    Cancel {
        /// 0 closes it before the first token.
        after_tokens: u32,
    },
    /// Breaks the connection off (TCP reset) once so many tokens have come.
    Disconnect {
        /// 0 breaks it off before the first token.
        after_tokens: u32,
    },
    /// Waits after every read, so that at most so many tokens a second are taken.
    Slow {
        /// Above 0.
        tokens_per_s: f64,
    },
}

/// Who asks; results are told apart by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Labels {
    /// The tenant, whose API key is sent.
    pub tenant: Option<Arc<str>>,
    /// The priority class.
    pub class: Option<Arc<str>>,
}

impl Prompt {
    /// Tokens of a prompt made of pieces; `None` where only the server knows.
    #[must_use]
    pub fn tokens(&self) -> Option<u64> {
        match self {
            Self::Whole(pieces) => Some(pieces.iter().map(|piece| u64::from(piece.tokens)).sum()),
            Self::TokenIds(ids) => Some(ids.len() as u64),
            Self::Next(_) | Self::Messages(_) | Self::Text(_) => None,
        }
    }
}
