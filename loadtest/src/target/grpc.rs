//! Glint's gRPC.

use std::{cell::RefCell, rc::Rc, time::Instant};

use ::http::Uri;
use glint_proto::v1::{
    InferenceResponse, inference_client::InferenceClient, inference_response::Event,
};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint as Address},
};

use super::{
    Asked, Client, Reading, Target, TargetError,
    body::{Ask, Body},
    reading,
};
use crate::{
    plan::{Labels, Reader},
    record::{ErrorKind, Outcome},
};

/// Streams on one connection, below what servers commonly allow (100): a stream over a server's limit waits in the client, unseen.
const STREAMS_PER_CONNECTION: usize = 100;

pub(super) struct Grpc {
    address: Address,
    connections: RefCell<Vec<Rc<Channel>>>,
}

impl Grpc {
    pub(super) fn new(target: &Target) -> Result<Self, TargetError> {
        let address = grpc_address(&target.url, target.ca.as_deref())?;
        Ok(Self { address, connections: RefCell::default() })
    }

    /// A connection with room. Each holder keeps an `Rc`, so that the count tells the streams.
    async fn connection(&self, client: &Client) -> Result<Rc<Channel>, String> {
        let with_room =
            |connection: &&Rc<Channel>| Rc::strong_count(connection) <= STREAMS_PER_CONNECTION;
        if let Some(connection) = self.connections.borrow().iter().find(with_room) {
            return Ok(connection.clone());
        }
        client.count_connection();
        let channel = self.address.connect().await.map_err(|error| {
            format!("cannot connect to {}: {}", self.address.uri(), super::http::chain(&error))
        })?;
        let connection = Rc::new(channel);
        self.connections.borrow_mut().push(connection.clone());
        Ok(connection)
    }

    pub(super) async fn ask(
        &self,
        client: &Client,
        ask: &Ask,
        labels: &Labels,
        reader: Reader,
        asked: &mut Asked,
    ) {
        asked.sent = Instant::now();
        let outcome = match self.connection(client).await {
            Err(error) => Outcome::Failed(ErrorKind::Connect, error.into()),
            Ok(connection) => match send(client, &connection, ask, labels).await {
                Err(status) => failed(&status, false),
                Ok(stream) => read(stream, reader, asked).await,
            },
        };
        asked.end = Instant::now();
        asked.outcome = outcome;
    }
}

/// The address that a `grpc://` or `grpcs://` URL names.
///
/// # Errors
///
/// It names none.
pub(crate) fn grpc_address(url: &Uri, ca: Option<&[u8]>) -> Result<Address, TargetError> {
    let secure = url.scheme_str() == Some("grpcs");
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let scheme = if secure { "https" } else { "http" };
    let wrong = |error: tonic::transport::Error| TargetError(format!("{url}: {error}"));
    let address = Address::from_shared(format!("{scheme}://{authority}")).map_err(wrong)?;
    let address = address.tcp_nodelay(true).initial_stream_window_size(1 << 20);
    if !secure {
        return Ok(address);
    }
    let mut tls = ClientTlsConfig::new().with_webpki_roots();
    if let Some(ca) = ca {
        tls = tls.ca_certificate(Certificate::from_pem(ca));
    }
    address.tls_config(tls).map_err(wrong)
}

async fn send(
    client: &Client,
    connection: &Channel,
    ask: &Ask,
    labels: &Labels,
) -> Result<Streaming<InferenceResponse>, Status> {
    let mut inference = InferenceClient::new(connection.clone());
    Ok(match &ask.body {
        Body::Chat(body) => inference.chat(with_headers(client, labels, (**body).clone())?).await?,
        Body::Generate(body) => {
            inference.generate(with_headers(client, labels, (**body).clone())?).await?
        }
        Body::Http(_) => unreachable!("made for this endpoint"),
    }
    .into_inner())
}

fn with_headers<T>(client: &Client, labels: &Labels, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let invalid = |_| Status::invalid_argument("a key or class cannot be sent as a header");
    if let Some(key) = client.key(labels) {
        let value = format!("Bearer {key}").parse().map_err(invalid)?;
        request.metadata_mut().insert("authorization", value);
    }
    if let (Some(header), Some(class)) = (&client.target.class_header, &labels.class) {
        let name = tonic::metadata::MetadataKey::from_bytes(header.as_str().as_bytes())
            .map_err(|_| Status::invalid_argument("the class header is no gRPC metadata key"))?;
        request.metadata_mut().insert(name, class.parse().map_err(invalid)?);
    }
    Ok(request)
}

async fn read(
    mut stream: Streaming<InferenceResponse>,
    reader: Reader,
    asked: &mut Asked,
) -> Outcome {
    let answer = &mut asked.answer;
    loop {
        let before = answer.arrivals;
        match stream.message().await {
            Err(status) => return failed(&status, true),
            Ok(None) => {
                answer.done();
                return answer.judge();
            }
            Ok(Some(message)) => match message.event {
                Some(Event::Delta(delta)) => {
                    answer.piece(&delta.text, Instant::now());
                    if answer.pieces.is_some() {
                        answer.token_ids.extend(&delta.token_ids);
                    }
                    if !delta.finish_reason.is_empty() {
                        answer.finish();
                    }
                }
                Some(Event::Usage(usage)) => answer.usage(
                    Some(usage.prompt_tokens),
                    Some(usage.completion_tokens),
                    Some(usage.cached_tokens),
                ),
                None => answer.fail(ErrorKind::Garbage, "a message without an event"),
            },
        }
        match reading(reader, before, answer.arrivals) {
            Reading::On => {}
            Reading::Pause(time) => tokio::time::sleep(time).await,
            Reading::Stop => return Outcome::Left,
        }
    }
}

fn failed(status: &Status, begun: bool) -> Outcome {
    let kind = match status.code() {
        Code::ResourceExhausted => ErrorKind::Refused,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::InvalidArgument
        | Code::NotFound
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::AlreadyExists => ErrorKind::ClientError,
        _ if begun => ErrorKind::StreamError,
        _ => ErrorKind::ServerError,
    };
    Outcome::Failed(kind, format!("{:?}: {}", status.code(), status.message()).into())
}
