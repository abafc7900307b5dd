//! Why does a client not get its answer?

use glint_core::sampling::TOP_LOGPROBS_MAX;
use glint_core::{Failure, GroupId, Kind, SamplingError};
use glint_proto::KindOf;
use glint_tokenizer::{EncodeError, TemplateError};
use tonic::Status;

/// Why a request has no answer, or why an answer broke off. The same for both front ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// The body is not what the API takes.
    #[error("{0}")]
    Malformed(String),
    /// A parameter must be changed.
    #[error("{message}")]
    Parameter { param: String, message: String },
    /// A parameter that no API of this router has.
    #[error("{message}")]
    UnknownParameter { param: String, message: String },
    /// A parameter that would change the answer and is not supported.
    #[error("{message}")]
    Unsupported { param: String, message: String },
    /// Nobody serves this model.
    #[error("model {name:?} is not served here, GET /v1/models lists the models that are")]
    UnknownModel { name: String },
    /// The model is known, and nobody can answer now.
    #[error("no group can answer for model {name:?} now, try again in a moment")]
    NotReady { name: String },
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt_tokens} tokens, the model's context takes {context_tokens} with the answer: shorten the {param}"
    )]
    TooLong { param: &'static str, prompt_tokens: usize, context_tokens: u32 },
    /// So many requests are being answered already.
    #[error(
        "{requests_max} requests are being answered, this router takes no more: try again in a moment"
    )]
    Busy { requests_max: u32 },
    /// A group said no, or broke.
    #[error("{message}")]
    Group { kind: Kind, message: String },
    /// The client's own deadline.
    #[error("the request's deadline has passed")]
    Deadline,
    /// The drain's grace period is over.
    #[error("the router is stopping, send the request again to another one")]
    Stopping,
    /// A bug. The text is for the log.
    #[error("{0}")]
    Internal(String),
}

/// Characters of a client's own text that an error repeats.
const REPEATED_CHARS_MAX: usize = 60;

/// Returns the beginning of what a client sent, for an error that repeats it.
pub(crate) fn short(sent: &impl std::fmt::Display) -> String {
    let sent = sent.to_string();
    match sent.char_indices().nth(REPEATED_CHARS_MAX) {
        None => sent,
        Some((end, _)) => format!("{}…", &sent[..end]),
    }
}

/// Says of a parameter that takes whole numbers which it takes.
pub(crate) fn out_of_range(
    path: &str,
    got: &impl std::fmt::Display,
    low: u32,
    high: u32,
) -> String {
    format!("{path} is {}, use a whole number from {low} to {high}", short(got))
}

impl RequestError {
    pub(crate) fn parameter(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Parameter { param: param.into(), message: message.into() }
    }

    pub(crate) fn unsupported(param: impl Into<String>, why: &str) -> Self {
        let param = param.into();
        let message = format!("{param} is not supported: {why}");
        Self::Unsupported { param, message }
    }

    /// Returns the parameter that the client must change.
    pub(crate) fn param(&self) -> Option<&str> {
        match self {
            Self::Parameter { param, .. }
            | Self::UnknownParameter { param, .. }
            | Self::Unsupported { param, .. } => Some(param),
            Self::UnknownModel { .. } => Some("model"),
            Self::TooLong { param, .. } => Some(param),
            Self::Malformed(_)
            | Self::NotReady { .. }
            | Self::Busy { .. }
            | Self::Group { .. }
            | Self::Deadline
            | Self::Stopping
            | Self::Internal(_) => None,
        }
    }

    /// Returns the code by which programs tell errors of one status apart.
    pub(crate) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Malformed(_) => Some("malformed_body"),
            Self::Parameter { .. } => Some("invalid_value"),
            Self::UnknownParameter { .. } => Some("unknown_parameter"),
            Self::Unsupported { .. } => Some("unsupported_parameter"),
            Self::UnknownModel { .. } => Some("model_not_found"),
            Self::NotReady { .. } => Some("model_not_ready"),
            Self::TooLong { .. } => Some("context_length_exceeded"),
            Self::Busy { .. } => Some("overloaded"),
            Self::Group { kind: Kind::Exhausted, .. } => Some("overloaded"),
            Self::Group { kind: Kind::Unavailable, .. } => Some("group_lost"),
            Self::Deadline => Some("deadline_exceeded"),
            Self::Stopping => Some("router_stopping"),
            Self::Group { .. } | Self::Internal(_) => None,
        }
    }

    /// What a group's status means for the client.
    pub(crate) fn of_group(group: &GroupId, status: &Status) -> Self {
        let kind = status.kind_of();
        let message = match kind {
            Kind::Unavailable => {
                format!("group {group}, which answered, is lost: {}", status.message())
            }
            Kind::Invalid
            | Kind::NotFound
            | Kind::Exhausted
            | Kind::Deadline
            | Kind::Cancelled
            | Kind::Internal => status.message().to_owned(),
        };
        Self::Group { kind, message }
    }
}

impl Failure for RequestError {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed(_)
            | Self::Parameter { .. }
            | Self::UnknownParameter { .. }
            | Self::Unsupported { .. }
            | Self::TooLong { .. } => Kind::Invalid,
            Self::UnknownModel { .. } => Kind::NotFound,
            Self::NotReady { .. } | Self::Stopping => Kind::Unavailable,
            Self::Busy { .. } => Kind::Exhausted,
            Self::Group { kind, .. } => *kind,
            Self::Deadline => Kind::Deadline,
            Self::Internal(_) => Kind::Internal,
        }
    }
}

impl From<SamplingError> for RequestError {
    fn from(error: SamplingError) -> Self {
        let param = match &error {
            SamplingError::OutOfRange { name, .. }
            | SamplingError::UnknownToken { name, .. }
            | SamplingError::TooManyLogprobs { name, .. } => name,
            SamplingError::NoTokens => "max_tokens",
            SamplingError::MinAboveMax { .. } => "min_tokens",
        };
        let message = match &error {
            SamplingError::OutOfRange { name: "top_p", value, .. } => {
                format!("top_p is {value}, it must be above 0 and at most 1")
            }
            SamplingError::TooManyLogprobs { name, asked } => {
                out_of_range(name, asked, 0, TOP_LOGPROBS_MAX)
            }
            SamplingError::NoTokens => out_of_range("max_tokens", &0, 1, u32::MAX),
            SamplingError::OutOfRange { .. }
            | SamplingError::UnknownToken { .. }
            | SamplingError::MinAboveMax { .. } => error.to_string(),
        };
        Self::parameter(param, message)
    }
}

impl From<TemplateError> for RequestError {
    fn from(error: TemplateError) -> Self {
        Self::parameter("messages", error.to_string())
    }
}

impl From<EncodeError> for RequestError {
    fn from(error: EncodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}
