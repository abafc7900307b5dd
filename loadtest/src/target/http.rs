//! OpenAI-style HTTP.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use ::http::Uri;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
};

use super::{
    Asked, Client, Endpoint, Reading, Target, TargetError,
    body::{Ask, Body},
    connect::{Connector, Sender},
    message_of, reading,
    sse::Lines,
};
use crate::{
    plan::{Labels, Reader},
    record::{ErrorKind, Outcome},
};

/// Longest answer taken that is not streamed.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest list of models or page of metrics read.
const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest error message read.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A kept connection that ends within that time of a request was being closed already.
const CLOSING_MAX: Duration = Duration::from_millis(20);

pub(super) struct Http {
    connector: Connector,
    path: &'static str,
    host: HeaderValue,
    /// Kept alive, the one used last on top.
    idle: RefCell<Vec<Sender>>,
}

impl Http {
    pub(super) fn new(target: &Target) -> Result<Self, TargetError> {
        let connector = Connector::new(&target.url, target.ca.as_deref())?;
        let authority = target.url.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(authority)
            .map_err(|_| TargetError(format!("{authority} is no host name")))?;
        let path = match target.endpoint {
            Endpoint::Chat => "/v1/chat/completions",
            Endpoint::Completions | Endpoint::Grpc => "/v1/completions",
        };
        Ok(Self { connector, path, host, idle: RefCell::default() })
    }

    pub(super) async fn ask(
        &self,
        client: &Client,
        ask: &Ask,
        labels: &Labels,
        reader: Reader,
        asked: &mut Asked,
    ) {
        let answered = match self.request(client, ask, labels) {
            Ok(request) => self.send(client, request, reader, asked).await,
            Err(error) => Err((ErrorKind::ClientError, error.to_string())),
        };
        let (sender, response) = match answered {
            Ok(answered) => answered,
            Err((kind, message)) => {
                asked.end = Instant::now();
                asked.outcome = Outcome::Failed(kind, message.into());
                return;
            }
        };
        let whole = read(response, reader, asked, client.target.stream).await;
        asked.end = Instant::now();
        if whole && sender.is_ready() && !abrupt(reader) {
            self.idle.borrow_mut().push(sender);
        }
    }

    fn request(
        &self,
        client: &Client,
        ask: &Ask,
        labels: &Labels,
    ) -> Result<Request<Full<Bytes>>, ::http::Error> {
        let body = match &ask.body {
            Body::Http(body) => body.clone(),
            Body::Chat(_) | Body::Generate(_) => unreachable!("made for this endpoint"),
        };
        let mut request = Request::post(self.path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = client.key(labels) {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        if let (Some(header), Some(class)) = (&client.target.class_header, &labels.class) {
            request = request.header(header, &**class);
        }
        request.body(Full::new(body))
    }

    /// Sends on a connection that is free, else on a new one. A kept connection may have been closed by the server just now:
    /// where it was, a new one is tried. A server that ends a connection later has lost a request.
    async fn send(
        &self,
        client: &Client,
        request: Request<Full<Bytes>>,
        reader: Reader,
        asked: &mut Asked,
    ) -> Result<(Sender, Response<Incoming>), (ErrorKind, String)> {
        let kept = if abrupt(reader) { None } else { self.kept() };
        if let Some(mut sender) = kept {
            asked.sent = Instant::now();
            match sender.send_request(request.clone()).await {
                Ok(response) => return Ok((sender, response)),
                Err(error) if was_closing(&error, asked.sent) => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        client.count_connection();
        asked.sent = Instant::now();
        let connected = self.connector.connect(abrupt(reader)).await;
        let mut sender = connected.map_err(|error| (ErrorKind::Connect, error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        Ok((sender, response))
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).find(|sender| sender.is_ready() && !sender.is_closed())
    }
}

/// Fetches a small document on a connection of its own. It must run in a `LocalSet`.
///
/// # Errors
///
/// One sentence: it cannot be reached.
pub(crate) async fn get(
    url: &Uri,
    key: Option<&str>,
    ca: Option<&[u8]>,
) -> Result<Response<Bytes>, String> {
    let connector = Connector::new(url, ca).map_err(|error| error.to_string())?;
    let mut sender = connector.connect(false).await?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::get(path).header(HOST, host);
    if let Some(key) = key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    let request = request.body(Full::default()).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, DOCUMENT_BYTES_MAX).collect().await;
    Ok(Response::from_parts(head, body.map_err(|error| error.to_string())?.to_bytes()))
}

/// The body of a success; else the status and the server's own words.
///
/// # Errors
///
/// The answer is no success.
pub(crate) fn success(response: Response<Bytes>) -> Result<Bytes, String> {
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    Err(format!("{status}: {}", message_of(&String::from_utf8_lossy(response.body()))))
}

fn was_closing(error: &hyper::Error, sent: Instant) -> bool {
    error.is_canceled() || (!error.is_parse() && sent.elapsed() < CLOSING_MAX)
}

/// A connection that ended before an answer, or before what comes could be one.
fn broken(error: &hyper::Error) -> (ErrorKind, String) {
    if error.is_parse() {
        return (ErrorKind::Garbage, format!("what comes is no HTTP: {}", chain(error)));
    }
    (ErrorKind::Reset, format!("the connection ended before an answer: {}", chain(error)))
}

fn abrupt(reader: Reader) -> bool {
    matches!(reader, Reader::Disconnect { .. })
}

/// Reads an answer as `reader` does; whether the body was read to its end.
async fn read(
    response: Response<Incoming>,
    reader: Reader,
    asked: &mut Asked,
    stream: bool,
) -> bool {
    let status = response.status();
    if !status.is_success() {
        let body = Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await;
        let whole = body.is_ok();
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let message = message_of(&String::from_utf8_lossy(&body));
        asked.outcome = Outcome::Failed(kind_of(status), format!("{status}: {message}").into());
        return whole;
    }
    if !stream {
        match Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await {
            Ok(body) => asked.answer.whole(&body.to_bytes()),
            Err(error) => asked.answer.fail(ErrorKind::Cut, error.to_string()),
        }
        asked.outcome = asked.answer.judge();
        return !matches!(asked.outcome, Outcome::Failed(ErrorKind::Cut, _));
    }
    let mut body = response.into_body();
    let mut lines = Lines::default();
    let answer = &mut asked.answer;
    let mut whole = false;
    let mut start = Bytes::new();
    if let Reading::Stop = reading(reader, 0, 0) {
        asked.outcome = Outcome::Left;
        return false;
    }
    loop {
        let before = answer.arrivals;
        match body.frame().await {
            None => {
                answer.ended(&start);
                whole = true;
                break;
            }
            Some(Err(error)) => {
                answer.fail(ErrorKind::Cut, format!("the stream broke off: {}", chain(&error)));
                break;
            }
            Some(Ok(frame)) => {
                let Some(data) = frame.data_ref() else { continue };
                let now = Instant::now();
                if start.is_empty() {
                    start = data.clone();
                }
                if lines.push(data, |payload| answer.event(payload, now)).is_err() {
                    answer.fail(ErrorKind::Garbage, "a line of the stream does not end");
                }
            }
        }
        if answer.has_failed() {
            break;
        }
        match reading(reader, before, answer.arrivals) {
            Reading::On => {}
            Reading::Pause(time) => tokio::time::sleep(time).await,
            Reading::Stop => {
                asked.outcome = Outcome::Left;
                return false;
            }
        }
    }
    asked.outcome = answer.judge();
    whole
}

fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        429 => ErrorKind::Refused,
        500.. => ErrorKind::ServerError,
        _ => ErrorKind::ClientError,
    }
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
