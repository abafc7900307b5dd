//! The gRPC front door.

use std::time::Duration;

use futures::StreamExt;
use glint_proto::v1::inference_client::InferenceClient;
use glint_proto::v1::inference_response::Event;
use glint_proto::v1::text_request::Prompt;
use glint_proto::v1::tokenize_request::Input;
use glint_proto::v1::{
    ChatMessage, ChatRequest, Conversation, DetokenizeRequest, InferenceResponse, ModelsRequest,
    Options, TextRequest, TokenIds, TokenizeRequest,
};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::support::assets::USER;
use crate::support::worker::{Script, TEXT};
use crate::support::{MODEL, Scene, soon};

async fn channel(scene: &Scene) -> Channel {
    Channel::from_shared(scene.grpc.clone()).unwrap().connect().await.unwrap()
}

async fn client(scene: &Scene) -> InferenceClient<Channel> {
    InferenceClient::new(channel(scene).await)
}

fn message(content: &str) -> ChatMessage {
    ChatMessage { role: "user".into(), content: content.into(), ..ChatMessage::default() }
}

fn chat(options: Options) -> ChatRequest {
    ChatRequest { model: MODEL.into(), messages: vec![message("Hi")], options: Some(options) }
}

fn greedy() -> Options {
    Options { temperature: Some(0.0), ..Options::default() }
}

/// Text and reason by choice, and the usage.
async fn told(
    mut stream: Streaming<InferenceResponse>,
) -> Result<(Vec<(String, String)>, (u32, u32)), Status> {
    let mut choices = vec![(String::new(), String::new()); 4];
    while let Some(response) = soon("a message", stream.message()).await? {
        match response.event.unwrap() {
            Event::Delta(delta) => {
                let choice = &mut choices[delta.index as usize];
                choice.0.push_str(&delta.text);
                choice.1.push_str(&delta.finish_reason);
            }
            Event::Usage(usage) => {
                assert!(stream.message().await?.is_none(), "usage comes last");
                return Ok((choices, (usage.prompt_tokens, usage.completion_tokens)));
            }
        }
    }
    panic!("the stream ended without usage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_says_what_it_says_by_http() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    let http = scene.chat_ok(json!({})).await;
    let mut request = Request::new(chat(greedy()));
    request.metadata_mut().insert("x-request-id", "abc-2".parse().unwrap());
    let response = client(&scene).await.chat(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "abc-2");
    let (choices, usage) = told(response.into_inner()).await.unwrap();
    assert_eq!(choices[0], (TEXT.to_owned(), "stop".to_owned()));
    assert_eq!(http["usage"]["prompt_tokens"], usage.0);
    assert_eq!(http["usage"]["completion_tokens"], usage.1);
    let requests = worker.requests();
    assert_eq!(requests[0].prompt_tokens, requests[1].prompt_tokens);
    assert_eq!(requests[1].request_id, "abc-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_token_ids_are_continued_with_all_options() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    let mut client = client(&scene).await;
    let options = Options {
        n: Some(2),
        seed: Some(-2),
        temperature: Some(1.0),
        stop: vec![" is".into()],
        logprobs: Some(1),
        cache_salt: "s".into(),
        ..Options::default()
    };
    let prompt = Some(Prompt::TokenIds(TokenIds { ids: vec![1, 2] }));
    let request = TextRequest { model: MODEL.into(), prompt, options: Some(options) };
    let stream = client.generate(request).await.unwrap().into_inner();
    let (choices, usage) = told(stream).await.unwrap();
    let letter = |seed: u64| char::from(b'a' + (seed % 26) as u8);
    assert_eq!(choices[0].0, format!("{}The sea", letter(u64::MAX - 1)));
    assert_eq!(choices[1].0, format!("{}The sea", letter(u64::MAX)));
    assert_eq!(usage.0, 2);
    assert_eq!(worker.last_request().cache_salt, b"s");

    let prompt = Some(Prompt::Text("hi".into()));
    let request = TextRequest { model: MODEL.into(), prompt, options: Some(greedy()) };
    let mut stream = client.generate(request).await.unwrap().into_inner();
    let first = stream.next().await.unwrap().unwrap().event.unwrap();
    let Event::Delta(delta) = first else { panic!("usage comes last") };
    assert_eq!((delta.text.as_str(), delta.token_ids.as_slice()), ("T", [84].as_slice()));
    drop(stream);
    assert_eq!(worker.last_request().prompt_tokens, [104, 105]);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_tokens_can_be_asked_for() {
    let (scene, _worker) = Scene::with_worker(&[]).await;
    let mut client = client(&scene).await;
    let models = client.models(ModelsRequest {}).await.unwrap().into_inner().models;
    assert_eq!((models[0].name.as_str(), models[0].context_tokens), (MODEL, 2048));
    let tokenize = |input| TokenizeRequest { model: MODEL.into(), input: Some(input) };
    let ids = client.tokenize(tokenize(Input::Text("<|user|>a".into()))).await.unwrap();
    assert_eq!(ids.into_inner().ids, [USER, 97]);
    let messages = Conversation { messages: vec![message("<|user|>")] };
    let ids = client.tokenize(tokenize(Input::Messages(messages))).await.unwrap().into_inner().ids;
    assert_eq!(ids.iter().filter(|id| **id == USER).count(), 1, "text stays text");
    let back = DetokenizeRequest { model: MODEL.into(), ids: vec![USER, 97] };
    assert_eq!(client.detokenize(back).await.unwrap().into_inner().text, "<|user|>a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_has_a_status_and_a_sentence() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    let mut client = client(&scene).await;
    let refused = |status: Result<tonic::Response<_>, Status>| {
        let Err(status) = status else { panic!("it is not refused") };
        (status.code(), status.message().to_owned())
    };
    let hot = Options { temperature: Some(-1.0), ..Options::default() };
    let (code, message) = refused(client.chat(chat(hot)).await);
    assert_eq!(
        (code, message.as_str()),
        (Code::InvalidArgument, "temperature is -1, use 0 to 100")
    );
    let unknown = ChatRequest { model: "lake".into(), ..chat(greedy()) };
    assert_eq!(refused(client.chat(unknown).await).0, Code::NotFound);
    let empty = ChatRequest { messages: Vec::new(), ..chat(greedy()) };
    assert_eq!(refused(client.chat(empty).await).0, Code::InvalidArgument);
    let described = Options { prompt_logprobs: Some(1), ..Options::default() };
    assert!(refused(client.chat(chat(described)).await).1.contains("/v1/completions"));
    worker.script(Script { refuse: Some(Code::ResourceExhausted), ..Script::default() });
    assert_eq!(refused(client.chat(chat(greedy())).await).0, Code::ResourceExhausted);
    worker.script(Script { cut_after: Some(3), ..Script::default() });
    let stream = client.chat(chat(greedy())).await.unwrap().into_inner();
    let lost = told(stream).await.unwrap_err();
    assert_eq!(lost.code(), Code::Unavailable);
    assert!(lost.message().starts_with("group g0, which answered, is lost: "), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_and_a_client_that_leaves_abort_the_sequence() {
    let (scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { wait_before: Some(1), ..Script::default() });
    let mut client = client(&scene).await;
    let mut request = Request::new(chat(greedy()));
    // Long enough for the first token on a busy machine, and only waited for once.
    request.set_timeout(Duration::from_millis(1500));
    let stream = client.chat(request).await.unwrap().into_inner();
    let code = told(stream).await.unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    worker.wait_aborted(1).await;
    let mut stream = client.chat(chat(greedy())).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    worker.wait_aborted(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_groups_and_reflection_lists_the_service() {
    let (scene, mut worker) = Scene::with_worker(&[]).await;
    let mut health = HealthClient::new(channel(&scene).await);
    let request = || HealthCheckRequest { service: "glint.v1.Inference".into() };
    let mut changes = health.watch(request()).await.unwrap().into_inner();
    let serving = async { while changes.message().await.unwrap().unwrap().status != 1 {} };
    soon("serving", serving).await;
    worker.kill();
    let lost = async { while changes.message().await.unwrap().unwrap().status != 2 {} };
    soon("not serving", lost).await;

    let mut reflection = ServerReflectionClient::new(channel(&scene).await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection.server_reflection_info(futures::stream::iter([list])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort_unstable();
    let served =
        ["glint.v1.Inference", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    assert_eq!(names, served, "and none of those that only workers and registries serve");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_still_runs_at_the_stop_ends_with_a_status() {
    let (mut scene, worker) = Scene::with_worker(&[]).await;
    worker.script(Script { wait_before: Some(1), ..Script::default() });
    let mut stream = client(&scene).await.chat(chat(greedy())).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    scene.drain.stop();
    let status = told(stream).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("stopping"), "{status:?}");
    let router = scene.router.take().unwrap();
    soon("the router ends", router).await.unwrap().unwrap();
    worker.wait_aborted(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_gives_its_place_to_the_next() {
    let (scene, _worker) =
        Scene::with_worker(&["--connections-max=1", "--idle-timeout-ms=300"]).await;
    let address = scene.grpc.trim_start_matches("http://");
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let answered = async { client(&scene).await.models(ModelsRequest {}).await };
    assert!(soon("an answer", answered).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_router_refuses_before_it_reads() {
    let (scene, worker) = Scene::with_worker(&["--requests-max=1", "--body-bytes-max=1024"]).await;
    worker.script(Script { wait_before: Some(1), ..Script::default() });
    let mut client = client(&scene).await;
    let _first = client.chat(chat(greedy())).await.unwrap();
    let too_large = ChatRequest { messages: vec![message(&"x".repeat(2048))], ..chat(greedy()) };
    assert_eq!(client.chat(too_large).await.unwrap_err().code(), Code::ResourceExhausted);
    scene.wait_metric("glint_router_requests_total{endpoint=\"grpc\",code=\"429\"} 1").await;
}
