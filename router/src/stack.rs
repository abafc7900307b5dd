//! What surrounds every request by HTTP?

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use tracing::{Instrument, debug, info_span};

use crate::front::{Admitted, Front, REQUEST_ID, request_id};
use crate::http::{Refusal, RequestId};

/// Outermost: refused requests have a name and are counted, too.
pub(crate) fn observed(routes: Router, front: &Arc<Front>) -> Router {
    routes.layer(from_fn_with_state(Arc::clone(front), observe))
}

/// Ours, not tower's ConcurrencyLimit: that one returns its permit when the response *starts*, and a stream of tokens that
/// has started is all load.
pub(crate) fn bounded(routes: Router<Arc<Front>>, front: &Arc<Front>) -> Router<Arc<Front>> {
    routes.route_layer(from_fn_with_state(Arc::clone(front), admit))
}

async fn observe(State(front): State<Arc<Front>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let id = request_id(given);
    let header = HeaderValue::from_str(&id).expect("it came in a header, or is hexadecimal");
    let endpoint = endpoint(request.uri().path());
    let method = request.method().clone();
    request.extensions_mut().insert(RequestId(id.clone()));
    let arrived = Instant::now();
    let span = info_span!("request", request = id, endpoint);
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, header);
    let status = response.status().as_u16();
    front.metrics.request(endpoint, status);
    let head_ms = arrived.elapsed().as_secs_f64() * 1e3;
    debug!(request = id, %method, endpoint, status, head_ms, "request answered");
    response
}

/// Returns a label: paths that nobody serves must not become a metric each.
fn endpoint(path: &str) -> &'static str {
    match path {
        "/v1/chat/completions" => "chat",
        "/v1/completions" => "completions",
        "/tokenize" => "tokenize",
        "/detokenize" => "detokenize",
        "/health" => "health",
        path if path.starts_with("/v1/models") => "models",
        _ => "other",
    }
}

async fn admit(
    State(front): State<Arc<Front>>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let admitted = front.admit()?;
    let response = next.run(request).await;
    Ok(response.map(|body| Body::new(Guarded { body, _admitted: admitted })))
}

/// A body that holds its request's admission until it has been sent, or dropped.
struct Guarded {
    body: Body,
    _admitted: Admitted,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_taken_or_made() {
        let id = |given: Option<&[u8]>| {
            let given = given.map(|bytes| HeaderValue::from_bytes(bytes).unwrap());
            request_id(given.as_ref().and_then(|id| id.to_str().ok()))
        };
        assert_eq!(id(Some(b"abc-1")), "abc-1");
        for bad in [None, Some(b"".as_slice()), Some(b"\xff"), Some(&[b'x'; 129])] {
            assert_eq!(id(bad).len(), 32, "{bad:?}");
        }
        assert_ne!(id(None), id(None));
    }
}
