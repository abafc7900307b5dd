//! How does HTTP say no?
//!
//! In OpenAI's shape, whatever was wrong: `{"error": {"message", "type", "param", "code"}}`.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use glint_core::{Failure, Kind};
use serde_json::{Value, json};
use tracing::error;

use crate::error::RequestError;

/// What a client hears that has written too slowly, from nginx's practice.
const CLIENT_CLOSED: u16 = 499;

/// Why a request by HTTP is not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("the body has more than {limit_bytes} bytes, which is the most that is taken")]
    BodyTooLarge { limit_bytes: usize },
    #[error("the body did not come within {}s, send it faster", limit_s)]
    BodySlow { limit_s: u64 },
    #[error("the bodies of other requests fill the memory for them, try again in a moment")]
    BodiesFull,
    #[error("the body broke off: {0}")]
    BodyBroken(String),
    #[error(
        "{method} {path} is unknown, see GET /v1/models, POST /v1/chat/completions and POST /v1/completions"
    )]
    NoRoute { method: String, path: String },
    #[error("{path} does not take {method}, use {}", method_of(path))]
    WrongMethod { method: String, path: String },
}

impl Refusal {
    pub(crate) fn no_route(method: &Method, path: &str) -> Self {
        Self::NoRoute { method: method.to_string(), path: path.chars().take(100).collect() }
    }

    pub(crate) fn wrong_method(method: &Method, path: &str) -> Self {
        Self::WrongMethod { method: method.to_string(), path: path.chars().take(100).collect() }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Request(error) => status_of(error.kind()),
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodySlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodiesFull => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyBroken(_) => StatusCode::BAD_REQUEST,
            Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// Returns the code by which programs tell errors of one status apart; OpenAI's where it has one.
    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Request(error) => error.code(),
            Self::BodyTooLarge { .. } => Some("request_too_large"),
            Self::BodySlow { .. } => Some("request_timeout"),
            Self::BodiesFull => Some("overloaded"),
            Self::BodyBroken(_) => Some("malformed_body"),
            Self::NoRoute { .. } => Some("unknown_url"),
            Self::WrongMethod { .. } => Some("method_not_supported"),
        }
    }
}

/// Returns the method that a path takes.
fn method_of(path: &str) -> &'static str {
    if path == "/health" || path.starts_with("/v1/models") { "GET" } else { "POST" }
}

/// Returns the status that tells a client what it can do.
pub(crate) fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        Kind::Cancelled => StatusCode::from_u16(CLIENT_CLOSED).expect("it is below 1000"),
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn kind_name(status: StatusCode) -> &'static str {
    match status.as_u16() {
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// Returns the object that tells a failure, also in the middle of a stream. What is internal goes to the log only.
pub(crate) fn error_object(failure: &RequestError) -> Value {
    let status = status_of(failure.kind());
    let message = if failure.kind() == Kind::Internal {
        error!(error = %failure, "a request failed inside");
        "internal error; the server's log has the cause".to_owned()
    } else {
        failure.to_string()
    };
    object(status, &message, failure.param(), failure.code())
}

fn object(status: StatusCode, message: &str, param: Option<&str>, code: Option<&str>) -> Value {
    let kind = kind_name(status);
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = match &self {
            Self::Request(error) => error_object(error),
            other => object(status, &other.to_string(), None, other.code()),
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status_of_its_own() {
        let mut seen: Vec<u16> = Kind::ALL.iter().map(|kind| status_of(*kind).as_u16()).collect();
        seen.sort_unstable();
        assert_eq!(seen, [400, 404, 429, 499, 500, 503, 504]);
    }

    #[test]
    fn what_is_internal_is_not_told() {
        let object = error_object(&RequestError::Internal("secret".to_owned()));
        assert!(!object.to_string().contains("secret"));
    }
}
