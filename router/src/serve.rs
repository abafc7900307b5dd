//! How are gRPC requests answered?
//!
//! As HTTP's are: the same request behind another front. Reflection and health are served beside it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_stream::{stream, try_stream};
use futures::StreamExt;
use futures::stream::BoxStream;
use glint_core::Failure;
use glint_proto::v1::inference_response::Event as Said;
use glint_proto::v1::inference_server::{Inference, InferenceServer};
use glint_proto::v1::text_request::Prompt as TextPrompt;
use glint_proto::v1::tokenize_request::Input as TokenizeInput;
use glint_proto::v1::{
    ChatMessage, ChatRequest, ChoiceDelta, DetokenizeRequest, DetokenizeResponse,
    InferenceResponse, InferenceUsage, Logprobs, ModelInfo, ModelsRequest, ModelsResponse,
    Options as WireOptions, TextRequest, TokenizeRequest, TokenizeResponse,
};
use glint_proto::{deadline, status};
use glint_service::Drain;
use glint_tokenizer::Specials;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Extensions, Request, Response, Status};
use tonic_health::ServingStatus;
use tracing::{debug, error};

use crate::answer::{Event, Events, Piece, Total};
use crate::config::RouterConfig;
use crate::connection::Door;
use crate::error::RequestError;
use crate::front::{Admitted, Front, REQUEST_ID, arrival, request_id};
use crate::http::status_of;
use crate::openai::chat::{MESSAGES_MAX, check_count, known_role};
use crate::request::{Ask, Chat, Generation, Input, Options, check_ids};

const INFERENCE: &str = "glint.v1.Inference";
/// A peer that does not answer a ping has gone without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls of one connection at a time; more wait in the client.
const STREAMS_MAX: u32 = 1024;
/// For the last word of each stream, after the drain's stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Serves gRPC until the drain has ended.
pub(crate) async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    config: &RouterConfig,
    drain: Drain,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(glint_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // The descriptors also have the services of workers and registries, which nobody serves here.
        .with_service_name(INFERENCE)
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .build_v1()
        .expect("the descriptors are those of the code that was generated with them");
    let inference =
        InferenceServer::new(Served { front: Arc::clone(&front), drain: drain.clone() })
            .max_decoding_message_size(config.body_bytes_max as usize);
    // Before a message is read: what is shed costs nothing but its head.
    let admitting = {
        let front = Arc::clone(&front);
        move |mut request: Request<()>| {
            let admitted = front.admit().map_err(|error| {
                front.metrics.request("grpc", status_of(error.kind()).as_u16());
                refused(error)
            })?;
            request.extensions_mut().insert(Arc::new(admitted));
            Ok(request)
        }
    };
    let inference = InterceptedService::new(inference, admitting);
    let door = Door::new(listener, config);
    let incoming = stream! {
        loop {
            yield Ok::<_, std::io::Error>(door.accept().await);
        }
    };
    let draining = drain.clone();
    let mut serving = pin!(
        Server::builder()
            .max_concurrent_streams(Some(STREAMS_MAX))
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .add_service(inference)
            .add_service(health_service)
            .add_service(reflection)
            .serve_with_incoming_shutdown(incoming, async move { draining.draining().await })
    );
    let report = async {
        let mut can_answer = front.groups.can_answer();
        loop {
            let can = *can_answer.borrow_and_update() && !drain.is_draining();
            let status = if can { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in ["", INFERENCE] {
                health.set_service_status(service, status).await;
            }
            tokio::select! {
                changed = can_answer.changed() => if changed.is_err() {
                    std::future::pending::<()>().await;
                },
                () = drain.draining(), if !drain.is_draining() => {}
            }
        }
    };
    tokio::select! {
        served = serving.as_mut() => served,
        () = report => Ok(()),
        () = drain.stopped() => {
            // Streams end themselves now; what a client does not take is left behind.
            tokio::time::timeout(STOP_GRACE, serving).await.unwrap_or(Ok(()))
        }
    }
}

struct Served {
    front: Arc<Front>,
    drain: Drain,
}

type Answer = BoxStream<'static, Result<InferenceResponse, Status>>;

#[tonic::async_trait]
impl Inference for Served {
    type ChatStream = Answer;
    type GenerateStream = Answer;

    async fn chat(&self, request: Request<ChatRequest>) -> Result<Response<Answer>, Status> {
        let (metadata, mut extensions, message) = request.into_parts();
        let admitted = admitted(&mut extensions)?;
        let ChatRequest { model, messages, options } = message;
        let bytes = messages.iter().take(MESSAGES_MAX).map(|message| message.content.len()).sum();
        let ask = move || {
            let inputs = vec![Input::Chat(conversation(messages)?)];
            Ok(Ask { model, inputs, options: self::options(options.unwrap_or_default())? })
        };
        self.answer("grpc_chat", &metadata, admitted, bytes, ask).await
    }

    async fn generate(&self, request: Request<TextRequest>) -> Result<Response<Answer>, Status> {
        let (metadata, mut extensions, message) = request.into_parts();
        let admitted = admitted(&mut extensions)?;
        let TextRequest { model, options, prompt } = message;
        let bytes = match &prompt {
            Some(TextPrompt::Text(text)) => text.len(),
            Some(TextPrompt::TokenIds(tokens)) => size_of_val(&tokens.ids[..]),
            None => 0,
        };
        let ask = move || {
            let input = match prompt {
                Some(TextPrompt::Text(text)) => Input::Text(text),
                Some(TextPrompt::TokenIds(tokens)) => Input::Tokens(tokens.ids),
                None => {
                    let message = "prompt is missing, send text or token_ids";
                    return Err(RequestError::parameter("prompt", message));
                }
            };
            let options = self::options(options.unwrap_or_default())?;
            Ok(Ask { model, inputs: vec![input], options })
        };
        self.answer("grpc_generate", &metadata, admitted, bytes, ask).await
    }

    async fn models(
        &self,
        _request: Request<ModelsRequest>,
    ) -> Result<Response<ModelsResponse>, Status> {
        let names = self.front.groups.names().into_iter();
        let models = names.map(|(name, context_tokens)| ModelInfo { name, context_tokens });
        Ok(Response::new(ModelsResponse { models: models.collect() }))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let (_, _admitted, TokenizeRequest { model, input }) = request.into_parts();
        let groups = Arc::clone(&self.front.groups);
        let clock = arrival(String::new()).clock;
        let work = move || {
            let served = groups.served(&model)?;
            match input {
                Some(TokenizeInput::Text(text)) => Ok(served.text.tokenizer.encode(&text)?),
                Some(TokenizeInput::Messages(list)) => {
                    conversation(list.messages)?.encode(&served.text, clock)
                }
                None => {
                    Err(RequestError::parameter("input", "input is missing, send text or messages"))
                }
            }
        };
        let ids = self.front.read(usize::MAX, work).await.map_err(refused)?;
        Ok(Response::new(TokenizeResponse { ids }))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let (_, _admitted, DetokenizeRequest { model, ids }) = request.into_parts();
        let groups = Arc::clone(&self.front.groups);
        let work = move || {
            let served = groups.served(&model)?;
            check_ids("ids", &ids, served.vocab_size)?;
            Ok(served.text.tokenizer.decode(&ids, Specials::Keep))
        };
        let text = self.front.read(usize::MAX, work).await.map_err(refused)?;
        Ok(Response::new(DetokenizeResponse { text }))
    }
}

/// Takes what the interceptor has put there.
fn admitted(extensions: &mut Extensions) -> Result<Arc<Admitted>, Status> {
    extensions.remove().ok_or_else(|| refused(RequestError::Internal("not admitted".to_owned())))
}

impl Served {
    async fn answer(
        &self,
        endpoint: &'static str,
        metadata: &MetadataMap,
        admitted: Arc<Admitted>,
        text_bytes: usize,
        ask: impl FnOnce() -> Result<Ask, RequestError> + Send + 'static,
    ) -> Result<Response<Answer>, Status> {
        let id = request_id(metadata.get(REQUEST_ID).and_then(|id| id.to_str().ok()));
        let until = deadline::timeout(metadata).map(|timeout| Instant::now() + timeout);
        let started = self.start(&id, admitted, text_bytes, ask, until).await;
        let code = match &started {
            Ok(_) => 200,
            Err(error) => status_of(error.kind()).as_u16(),
        };
        self.front.metrics.request(endpoint, code);
        debug!(request = id, endpoint, code, "request answered");
        let mut response = Response::new(started.map_err(refused)?);
        if let Ok(id) = MetadataValue::try_from(&id) {
            response.metadata_mut().insert(REQUEST_ID, id);
        }
        Ok(response)
    }

    /// Returns the answer once it has begun: a failure before that has a status without a stream.
    async fn start(
        &self,
        id: &str,
        admitted: Arc<Admitted>,
        text_bytes: usize,
        ask: impl FnOnce() -> Result<Ask, RequestError> + Send + 'static,
        until: Option<Instant>,
    ) -> Result<Answer, RequestError> {
        let arrival = arrival(id.to_owned());
        let groups = Arc::clone(&self.front.groups);
        let work = move || ask()?.prepare(&groups, arrival);
        let generation = Arc::new(self.front.read(text_bytes, work).await?);
        let mut events = self.front.answer(&generation);
        let end = End { until, drain: self.drain.clone() };
        let first = end.next(&mut events).await?;
        let events = futures::stream::iter(first.map(Ok)).chain(events).boxed();
        Ok(told(generation, events, end, admitted))
    }
}

/// When an answer ends, whatever is still to come: at the client's deadline, and at the drain's stop.
struct End {
    until: Option<Instant>,
    drain: Drain,
}

impl End {
    async fn next(&self, events: &mut Events) -> Result<Option<Event>, RequestError> {
        let deadline = async {
            match self.until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = events.next() => event.transpose(),
            () = deadline => Err(RequestError::Deadline),
            () = self.drain.stopped() => Err(RequestError::Stopping),
        }
    }
}

/// Turns events into messages.
fn told(
    generation: Arc<Generation>,
    mut events: Events,
    end: End,
    admitted: Arc<Admitted>,
) -> Answer {
    let id = generation.request_id.clone();
    let say = move |event| InferenceResponse { id: id.clone(), event: Some(event) };
    let stream = try_stream! {
        let _admitted = admitted;
        let mut total = Total::default();
        while let Some(event) = end.next(&mut events).await.map_err(refused)? {
            match event {
                Event::Prompt { .. } => {}
                Event::Piece(piece) => {
                    if let Some(end) = &piece.end {
                        total.add(&generation, piece.choice, &end.usage);
                    }
                    yield say(Said::Delta(delta(piece)));
                }
            }
        }
        yield say(Said::Usage(InferenceUsage {
            prompt_tokens: total.prompt_tokens,
            completion_tokens: total.output_tokens,
            cached_tokens: total.cached_tokens,
        }));
    };
    stream.boxed()
}

fn delta(piece: Piece) -> ChoiceDelta {
    let Piece { choice, text, tokens, end } = piece;
    let token_ids = tokens.iter().map(|token| token.id).collect();
    let logprobs = tokens.into_iter().filter_map(|token| token.logprobs.map(Logprobs::from));
    ChoiceDelta {
        index: choice,
        text,
        token_ids,
        logprobs: logprobs.collect(),
        finish_reason: end.map(|end| end.reason.to_owned()).unwrap_or_default(),
    }
}

fn refused(failure: RequestError) -> Status {
    if failure.kind() == glint_core::Kind::Internal {
        error!(error = %failure, "a request failed inside");
    }
    status(&failure)
}

fn conversation(messages: Vec<ChatMessage>) -> Result<Chat, RequestError> {
    if messages.is_empty() {
        let message = "messages is empty, send at least one message";
        return Err(RequestError::parameter("messages", message));
    }
    check_count(messages.len())?;
    let messages = messages.into_iter().enumerate().map(|(at, message)| {
        let ChatMessage { role, content, name } = message;
        let role = known_role(&format!("messages[{at}].role"), role)?;
        let mut message = json!({"role": role, "content": content});
        if !name.is_empty() {
            message["name"] = name.into();
        }
        Ok(message)
    });
    Ok(Chat {
        messages: messages.collect::<Result<Value, RequestError>>()?,
        add_generation_prompt: true,
        template_kwargs: Map::new(),
    })
}

fn options(wire: WireOptions) -> Result<Options, RequestError> {
    if wire.prompt_logprobs.is_some() {
        let why = "gRPC answers have no place for it, use /v1/completions";
        return Err(RequestError::unsupported("prompt_logprobs", why));
    }
    Ok(Options {
        temperature: wire.temperature,
        top_p: wire.top_p,
        top_k: wire.top_k,
        min_p: wire.min_p,
        presence_penalty: wire.presence_penalty,
        frequency_penalty: wire.frequency_penalty,
        repetition_penalty: wire.repetition_penalty,
        logit_bias: wire.logit_bias.into_iter().map(|b| (b.token_id, b.bias)).collect(),
        seed: wire.seed.map(i64::cast_unsigned),
        stop: wire.stop,
        stop_token_ids: wire.stop_token_ids,
        ignore_eos: wire.ignore_eos.unwrap_or(false),
        min_tokens: wire.min_tokens.unwrap_or(0),
        max_tokens: wire.max_tokens,
        n: wire.n,
        logprobs: wire.logprobs,
        prompt_logprobs: None,
        cache_salt: wire.cache_salt,
        prompt_only: false,
    })
}
