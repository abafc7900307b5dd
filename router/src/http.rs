//! How are HTTP requests answered?
//!
//! A handler reads the body within its bounds, has it read and tokenized, and answers with one object or a stream of events.
//! What surrounds every handler is `stack.rs`; how bytes get here is [`listen`].

mod body;
mod listen;
mod refusal;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};

use crate::error::RequestError;
use crate::front::{Front, arrival};
use crate::groups::Groups;
use crate::openai::{Asked, chat, completions, reply, text};
use crate::request::Arrival;
use crate::stack;
pub(crate) use listen::serve;
pub(crate) use refusal::{Refusal, error_object, status_of};

/// Names a request in logs and answers.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Returns everything that is served by HTTP.
fn routes(front: &Arc<Front>) -> Router {
    // These do work in proportion to what the client sends, so they are admitted one by one.
    let bounded = Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(text_completions))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize));
    let bounded = stack::bounded(bounded, front);
    let free = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/health", get(health));
    let all = bounded.merge(free).fallback(no_route).method_not_allowed_fallback(wrong_method);
    stack::observed(all.with_state(Arc::clone(front)), front)
}

type Reader = fn(&[u8], &Groups, Arrival) -> Result<Asked, RequestError>;

async fn chat_completions(
    State(front): State<Arc<Front>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Refusal> {
    generate(&front, id, request, chat::read).await
}

async fn text_completions(
    State(front): State<Arc<Front>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Refusal> {
    generate(&front, id, request, completions::read).await
}

async fn generate(
    front: &Front,
    RequestId(id): RequestId,
    request: Request,
    reader: Reader,
) -> Result<Response, Refusal> {
    let arrival = arrival(id);
    let body = front.body(request).await?;
    let groups = Arc::clone(&front.groups);
    let asked = front.read(body.len(), move || reader(&body, &groups, arrival)).await?;
    let Asked { generation, mut shape, stream } = asked;
    let events = front.answer(&generation);
    let Some(options) = stream else {
        let object = reply::whole(&generation, events, &mut *shape).await?;
        return Ok(Json(object).into_response());
    };
    let sse = reply::stream(generation, events, shape, options, front.first_byte).await?;
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // nginx would collect tokens otherwise.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(sse)).into_response())
}

async fn tokenize(
    State(front): State<Arc<Front>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, Refusal> {
    let arrival = arrival(id.0);
    let body = front.body(request).await?;
    let groups = Arc::clone(&front.groups);
    let work = move || text::tokenize(&body, &groups, &arrival);
    Ok(Json(front.read(usize::MAX, work).await?).into_response())
}

async fn detokenize(
    State(front): State<Arc<Front>>,
    request: Request,
) -> Result<Response, Refusal> {
    let body = front.body(request).await?;
    let groups = Arc::clone(&front.groups);
    let work = move || text::detokenize(&body, &groups);
    Ok(Json(front.read(usize::MAX, work).await?).into_response())
}

async fn models(State(front): State<Arc<Front>>) -> Result<Response, Refusal> {
    Ok(Json(text::models(&front.groups, None)?).into_response())
}

async fn model(
    State(front): State<Arc<Front>>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    Ok(Json(text::models(&front.groups, Some(&name))?).into_response())
}

async fn health(State(front): State<Arc<Front>>) -> Response {
    if *front.groups.can_answer().borrow() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "no model can answer yet\n").into_response()
}

async fn no_route(request: Request) -> Refusal {
    Refusal::no_route(request.method(), request.uri().path())
}

async fn wrong_method(request: Request) -> Refusal {
    Refusal::wrong_method(request.method(), request.uri().path())
}
