//! What became of one request?

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::Labels;

/// What became of one request. All times count from the run's begin.
#[derive(Clone, Debug)]
pub struct Record {
    /// Number of the session in its schedule, from 0.
    pub session: u64,
    /// Number of the turn in its session, from 0.
    pub turn: u32,
    /// Who asked.
    pub labels: Labels,
    /// What the server says it is (`system_fingerprint`), which names the revision.
    pub revision: Option<Arc<str>>,
    /// When the schedule wanted it sent. Latency counts from here.
    pub intended: Duration,
    /// When its first byte was handed to the connection. The difference is the generator's own lateness.
    pub sent: Duration,
    /// When the first token was read.
    pub first_token: Option<Duration>,
    /// When the last token was read.
    pub last_token: Option<Duration>,
    /// When it was over, well or badly.
    pub end: Duration,
    /// As the server counted.
    pub prompt_tokens: Option<u32>,
    /// Prompt tokens found in the prefix cache, as the server counted.
    pub cached_tokens: Option<u32>,
    /// As the server counted; where it does not say, the arrivals.
    pub output_tokens: u32,
    /// Gaps between arrivals that carried tokens, in microseconds. Tokens that arrive together have gaps of 0.
    pub gaps_us: Vec<u32>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer came.
    Done,
    /// The client closed the stream or broke it off, as the workload asked.
    Left,
    /// The run ended before the answer did.
    Unfinished,
    /// It failed.
    Failed(ErrorKind, Box<str>),
}

/// What kind of failure; one row of the report each.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No connection could be made.
    Connect,
    /// The connection broke before an answer began.
    Reset,
    /// Nothing, or not the whole answer, within the time limit.
    Timeout,
    /// HTTP 429, gRPC `RESOURCE_EXHAUSTED`: the server sheds load.
    Refused,
    /// Another HTTP status from 400 to 499: the request is at fault.
    ClientError,
    /// HTTP 500 and above: the server is at fault.
    ServerError,
    /// An error event in the stream.
    StreamError,
    /// The stream ended before its answer was finished.
    Cut,
    /// Something came twice: an answer's end, or a piece of it.
    Duplicated,
    /// Something came out of order: a piece after its answer's end.
    Reordered,
    /// What came is no answer.
    Garbage,
    /// The answer is whole and has no token.
    Empty,
    /// The answer is not the recorded one.
    Different,
}

impl ErrorKind {
    /// As it is written in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::StreamError => "stream_error",
            Self::Cut => "cut",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::Garbage => "garbage",
            Self::Empty => "empty",
            Self::Different => "different",
        }
    }
}

impl Record {
    /// Time to first token, from the intended start.
    #[must_use]
    pub fn ttft(&self) -> Option<Duration> {
        Some(self.first_token?.saturating_sub(self.intended))
    }

    /// End-to-end latency of a whole answer, from the intended start.
    #[must_use]
    pub fn e2e(&self) -> Option<Duration> {
        (self.outcome == Outcome::Done).then(|| self.end.saturating_sub(self.intended))
    }

    /// Time per output token after the first: `(last − first) / (tokens − 1)`.
    #[must_use]
    pub fn tpot(&self) -> Option<Duration> {
        let gaps = self.output_tokens.checked_sub(1).filter(|&gaps| gaps > 0)?;
        Some(self.last_token?.saturating_sub(self.first_token?) / gaps)
    }

    /// How late the generator sent it.
    #[must_use]
    pub fn lateness(&self) -> Duration {
        self.sent.saturating_sub(self.intended)
    }
}
